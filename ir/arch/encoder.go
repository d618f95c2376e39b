package arch

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/pare-dev/pare/ir"
)

// kindEncoder is the kind of descriptions whose tensors make an ir.Encoder.
const kindEncoder = "encoder"

// Encodes reports whether the architecture is a text encoder: EncoderFromHF and EncoderFromGGUF read it.
func (a *Arch) Encodes() bool { return a.Kind == kindEncoder }

// EncoderFromHF reads the config.json of an encoder; notes are as those of FromHF. What sentence models
// say about embeddings is in other files: see Sentence.
func (a *Arch) EncoderFromHF(config []byte) (e *ir.Encoder, notes []string, err error) {
	c, err := parseConfig(config)
	if err != nil {
		return nil, nil, err
	}
	r := &reader{a: a, c: c, used: map[string]bool{}}
	e = &ir.Encoder{
		Layers: r.count("layers", 0), Hidden: r.count("hidden", 0), FFN: r.count("ffn", 0), Heads: r.count("heads", 0),
		Vocab: r.count("vocab", 0), Context: r.count("context", 0), Pooler: a.HF.Names[ir.RolePooler] != "",
		NormEps: float32(a.HF.Defaults["norm_eps"]), Activation: ir.GELU,
	}
	if a.HF.Keys["types"] != "" {
		e.Types = r.count("types", 0)
	}
	if key := a.HF.Keys["norm_eps"]; key != "" {
		if eps, ok := r.number(c, key); ok {
			e.NormEps = float32(eps)
		}
	}
	key := a.HF.Keys["activation"]
	r.used[key] = true
	if name, _ := c[key].(string); name != "" {
		act, known := a.HF.Activations[name]
		if !known {
			r.fail("%w: %q is %q", ErrUnsupported, key, name)
		}
		e.Activation = ir.Activation(act)
	}
	if a.HF.Padded {
		pad, ok := r.number(c, "pad_token_id")
		if !ok {
			pad = a.HF.Defaults["pad_token_id"]
		}
		if pad < 0 || pad != math.Trunc(pad) || int(pad)+1 >= e.Context {
			r.fail("%w: \"pad_token_id\" is %v", ErrBadValue, pad)
			pad = 0
		}
		e.PositionBase = int(pad) + 1
		e.Context -= e.PositionBase
	}
	r.allowed()
	if err := checkEncoder(e); err != nil {
		r.fail("%w", err)
	}
	if err := errors.Join(r.errs...); err != nil {
		return nil, nil, err
	}
	return e, r.notes(), nil
}

// checkEncoder refuses values that no model computes with.
func checkEncoder(e *ir.Encoder) error {
	switch {
	case e.Heads < 1 || e.Hidden%e.Heads != 0:
		return fmt.Errorf("%w: %d heads do not share a width of %d evenly", ErrBadValue, e.Heads, e.Hidden)
	case !(e.NormEps >= 0 && e.NormEps < 1):
		return fmt.Errorf("%w: norm epsilon %v", ErrBadValue, e.NormEps)
	case e.Layers > 1<<16:
		return fmt.Errorf("%w: %d layers", ErrBadValue, e.Layers)
	}
	return nil
}

// Sentence is what the files of a sentence model say, by their names below its folder; a missing one is nil.
type Sentence struct {
	Modules []byte // modules.json: the steps, such as transformer, pooling, normalize
	Pooling []byte // config.json of the pooling step
	Limits  []byte // sentence_bert_config.json
}

// ErrSentence is the reason when the files of a sentence model ask for what is not computed here.
var ErrSentence = errors.New("the files of the sentence model")

// PoolingFolder is the folder of the pooling step of a modules.json, "" when there is none.
func PoolingFolder(modules []byte) string {
	var steps []sentenceStep
	if json.Unmarshal(modules, &steps) != nil {
		return ""
	}
	for _, s := range steps {
		if s.kind() == "Pooling" {
			return s.Path
		}
	}
	return ""
}

type sentenceStep struct {
	Path string `json:"path"`
	Type string `json:"type"`
}

// kind is the class without its module.
func (s sentenceStep) kind() string {
	return s.Type[1+strings.LastIndexByte(s.Type, '.'):]
}

// poolingModes are the keys of the pooling step that are computed here.
var poolingModes = map[string]ir.Pooling{
	"pooling_mode_cls_token": ir.PoolCLS, "pooling_mode_mean_tokens": ir.PoolMean, "pooling_mode_max_tokens": ir.PoolMax,
}

// Apply fills in how e makes embeddings.
func (s Sentence) Apply(e *ir.Encoder) error {
	if s.Modules == nil {
		return nil
	}
	var steps []sentenceStep
	if err := json.Unmarshal(s.Modules, &steps); err != nil {
		return fmt.Errorf("%w: modules.json: %w", ErrSentence, err)
	}
	for i, step := range steps {
		switch kind := step.kind(); {
		case i == 0 && kind == "Transformer":
		case kind == "Pooling" && e.Pooling == "":
			if err := s.pooling(e); err != nil {
				return err
			}
		case kind == "Normalize" && e.Pooling != "":
			e.Normalize = true
		default:
			return fmt.Errorf("%w: step %q: %w", ErrSentence, step.Type, ErrUnsupported)
		}
	}
	if s.Limits != nil {
		var limits struct {
			Max *int `json:"max_seq_length"`
		}
		if err := json.Unmarshal(s.Limits, &limits); err != nil {
			return fmt.Errorf("%w: sentence_bert_config.json: %w", ErrSentence, err)
		}
		if limits.Max != nil && (*limits.Max < 1 || *limits.Max > maxCount) {
			return fmt.Errorf("%w: max_seq_length is %d: %w", ErrSentence, *limits.Max, ErrBadValue)
		}
		if limits.Max != nil {
			e.MaxTokens = *limits.Max
		}
	}
	return nil
}

func (s Sentence) pooling(e *ir.Encoder) error {
	var c map[string]any
	if err := json.Unmarshal(s.Pooling, &c); err != nil {
		return fmt.Errorf("%w: the pooling step: %w", ErrSentence, err)
	}
	for _, key := range sortedKeys(c) {
		on, isFlag := c[key].(bool)
		mode, known := poolingModes[key]
		switch {
		case key == "pooling_mode": // newer files name it
			name, _ := c[key].(string)
			if e.Pooling = ir.Pooling(name); !slices.Contains([]ir.Pooling{ir.PoolMean, ir.PoolCLS, ir.PoolMax}, e.Pooling) {
				return fmt.Errorf("%w: pooling by %v: %w", ErrSentence, c[key], ErrUnsupported)
			}
		case !isFlag || !on || key == "include_prompt":
		case known && e.Pooling == "":
			e.Pooling = mode
		case known || strings.HasPrefix(key, "pooling_mode"):
			return fmt.Errorf("%w: pooling by %s: %w", ErrSentence, key, ErrUnsupported)
		}
	}
	if e.Pooling == "" {
		return fmt.Errorf("%w: a pooling step that names no way: %w", ErrSentence, ErrUnsupported)
	}
	return nil
}

// EncoderFromGGUF reads the metadata of a GGUF file of an encoder; notes are as those of FromGGUF.
func (a *Arch) EncoderFromGGUF(src Source) (e *ir.Encoder, notes []string, err error) {
	r := &ggufReader{src: src, a: a}
	e = &ir.Encoder{
		Layers: r.count("layers", 0), Hidden: r.count("hidden", 0), FFN: r.count("ffn", 0), Heads: r.count("heads", 0), Context: r.count("context", 0),
		Activation: ir.GELU, // llama.cpp takes the approximation by tanh, whatever the model was trained with
	}
	eps, ok := r.number(a.GGUF.Keys["norm_eps"])
	if !ok {
		r.fail("%w: %s.%s", ErrMissing, a.GGUF.Arch, a.GGUF.Keys["norm_eps"])
	}
	e.NormEps = float32(eps)
	if shape, ok := src.Shape(a.GGUFName(ir.RoleEmbedding, -1)); ok && len(shape) == 2 {
		e.Vocab = shape[0]
	} else {
		r.fail("%w: tensor %s", ErrMissing, a.GGUFName(ir.RoleEmbedding, -1))
	}
	if shape, ok := src.Shape(a.GGUFName(ir.RoleTokenType, -1)); ok && len(shape) == 2 {
		e.Types = shape[0]
	}
	if shape, ok := src.Shape(a.GGUFName(ir.RolePosition, -1)); ok && len(shape) == 2 && shape[0] > 0 {
		e.Context = shape[0] // files of RoBERTa state a context of two more
	}
	if v, ok := src.Value(a.GGUF.Arch + ".attention.causal"); ok && v != false {
		r.fail("%w: attention.causal is %v", ErrUnsupported, v)
	}
	if v, ok := r.number("pooling_type"); ok {
		pooling, known := ggufPooling[v]
		if !known {
			r.fail("%w: pooling_type is %v", ErrUnsupported, v)
		}
		e.Pooling = pooling
		e.Normalize = pooling != "" // by llama.cpp's programs, unless they are told otherwise
	}
	if err := checkEncoder(e); err != nil && len(r.errs) == 0 {
		r.fail("%w", err)
	}
	if len(r.errs) > 0 {
		return nil, nil, fmt.Errorf("GGUF metadata: %w", r.errs[0])
	}
	return e, r.notes, nil
}

// ggufPooling is enum llama_pooling_type, as far as it is computed here.
var ggufPooling = map[float64]ir.Pooling{0: "", 1: ir.PoolMean, 2: ir.PoolCLS}

// EncoderGGUFKeys is GGUFKeys for an encoder.
func (a *Arch) EncoderGGUFKeys(e *ir.Encoder) (kv []KV, notes []string, err error) {
	add := func(key string, v any) { kv = append(kv, KV{a.GGUF.Arch + "." + key, v}) }
	field := func(name string, v int) { add(a.GGUF.Keys[name], uint32(v)) } //nolint:gosec // at most maxCount
	field("layers", e.Layers)
	field("context", e.Context)
	field("hidden", e.Hidden)
	field("ffn", e.FFN)
	field("heads", e.Heads)
	add(a.GGUF.Keys["norm_eps"], e.NormEps)
	add("attention.causal", false)
	switch e.Pooling {
	case "":
	case ir.PoolMean:
		add("pooling_type", uint32(1))
	case ir.PoolCLS:
		add("pooling_type", uint32(2))
	default:
		return nil, nil, fmt.Errorf("%w: llama.cpp has no pooling by %s", ErrUnsupported, e.Pooling)
	}
	if e.Pooling != "" && !e.Normalize {
		notes = append(notes, "the original does not normalize embeddings; llama.cpp's programs do unless told otherwise (--embd-normalize -1)")
	}
	if e.MaxTokens > 0 && e.MaxTokens < e.Context {
		notes = append(notes, fmt.Sprintf("the original cuts texts at %d tokens; llama.cpp takes %d", e.MaxTokens, e.Context))
	}
	switch e.Activation {
	case ir.GELU:
		notes = append(notes, "llama.cpp computes GELU by its approximation: embeddings differ in the fourth digit")
	case ir.GELUTanh:
	default:
		return nil, nil, fmt.Errorf("%w: llama.cpp computes %s models with GELU, not %s", ErrUnsupported, a.GGUF.Arch, e.Activation)
	}
	if e.Types > 0 {
		kv = append(kv, KV{"tokenizer.ggml.token_type_count", uint32(e.Types)}) //nolint:gosec // at most maxCount
	}
	return kv, notes, nil
}

// EncoderConfig makes a config.json for an encoder that did not come from one; extra keys are added as
// they are.
func (a *Arch) EncoderConfig(e *ir.Encoder, extra map[string]any) ([]byte, error) {
	if e.PositionBase > 0 && !a.HF.Padded || a.HF.Padded && e.PositionBase == 0 || e.Types > 0 && a.HF.Keys["types"] == "" {
		return nil, fmt.Errorf("%w: config.json of %s cannot say where positions begin or that there are types", ErrUnsupported, a.Name)
	}
	c := map[string]any{"architectures": []string{a.HF.Class}, "model_type": a.HF.ModelType}
	for field, v := range map[string]int{
		"layers": e.Layers, "hidden": e.Hidden, "ffn": e.FFN, "heads": e.Heads, "vocab": e.Vocab, "context": e.Context + e.PositionBase, "types": e.Types,
	} {
		if key := a.HF.Keys[field]; key != "" {
			c[key] = v
		}
	}
	if key := a.HF.Keys["norm_eps"]; key != "" {
		c[key] = json.Number(strconv.FormatFloat(float64(e.NormEps), 'g', -1, 32))
	}
	c[a.HF.Keys["activation"]] = map[ir.Activation]string{ir.GELU: "gelu", ir.GELUTanh: "gelu_new", ir.ReLU: "relu"}[e.Activation]
	maps.Copy(c, extra)
	b, err := json.MarshalIndent(c, "", "  ")
	return append(b, '\n'), err
}

// SentenceOf makes the files of a sentence model for an encoder that pools.
func SentenceOf(e *ir.Encoder) (files map[string][]byte, err error) {
	const module = "sentence_transformers.models."
	type step struct {
		Index int    `json:"idx"`
		Name  string `json:"name"`
		Path  string `json:"path"`
		Type  string `json:"type"`
	}
	steps := []step{{0, "0", "", module + "Transformer"}, {1, "1", "1_Pooling", module + "Pooling"}}
	if e.Normalize {
		steps = append(steps, step{2, "2", "2_Normalize", module + "Normalize"})
	}
	pooling := map[string]any{"word_embedding_dimension": e.Hidden}
	for key, mode := range poolingModes {
		pooling[key] = mode == e.Pooling
	}
	files = map[string][]byte{}
	for name, v := range map[string]any{
		"modules.json": steps, "1_Pooling/config.json": pooling,
		"sentence_bert_config.json": map[string]any{"max_seq_length": e.Longest(), "do_lower_case": false},
	} {
		b, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			return nil, err
		}
		files[name] = append(b, '\n')
	}
	return files, nil
}
