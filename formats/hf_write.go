package formats

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/pare-dev/pare/formats/safetensors"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/arch"
)

// part is one tensor of a safetensors file: a plane of a handle as it is, or packed.
type part struct {
	info   safetensors.Tensor
	chunks func(band int64) iter.Seq[ir.Chunk]
}

func newPart(name, dtype string, shape []int, chunks func(band int64) iter.Seq[ir.Chunk]) part {
	return part{safetensors.Tensor{Name: name, DType: dtype, Shape: shape}, chunks}
}

// plain is the part of a tensor that is stored as it lies.
func plain(m *ir.Model, t *ir.Tensor) (part, error) {
	dtype, ok := safetensors.DType(t.Type)
	if !ok {
		hint := "quantize to a compressed-tensors scheme, write GGUF, or cast to bf16"
		if t.Type == storage.Planes {
			hint = "write compressed-tensors"
		}
		return part{}, &fault.Error{File: m.Path, Tensor: t.Name, Op: "safetensors", Err: fault.As(fault.ErrRefused, fmt.Errorf("%w: there is no dtype for %s", ErrInexact, t.Type)), Hint: hint}
	}
	return newPart(t.Name, dtype, t.Shape, func(band int64) iter.Seq[ir.Chunk] { return ir.Chunks(t, ir.PartData, band) }), nil
}

func infos(parts []part) []safetensors.Tensor {
	list := make([]safetensors.Tensor, len(parts))
	for i, p := range parts {
		list[i] = p.info
	}
	return list
}

// writeParts writes one safetensors file.
func writeParts(ctx context.Context, path string, parts []part, metadata map[string]string, o WriteOptions) error {
	return writeFile(path, func(out io.Writer) error {
		w, err := safetensors.NewWriter(out, infos(parts), metadata)
		if err != nil {
			return err
		}
		so := ir.StreamOptions{Threads: o.Threads, Memory: o.Memory, Progress: o.sink()}
		band := so.BandMemory()
		err = ir.Stream(ctx, w, func(yield func(ir.Chunk) bool) {
			for _, p := range parts {
				for c := range p.chunks(band) {
					if !yield(c) {
						return
					}
				}
			}
		}, so)
		if err != nil {
			return err
		}
		return w.Close()
	})
}

func laySafetensors(m *ir.Model) ([]part, error) {
	var parts []part
	var errs []error
	for _, t := range m.Tensors() {
		p, err := plain(m, t)
		parts, errs = append(parts, p), append(errs, err)
	}
	return parts, errors.Join(errs...)
}

func planSafetensors(m *ir.Model, _ WriteOptions) ([]string, error) {
	_, err := laySafetensors(m)
	return nil, err
}

// writeSafetensors writes all tensors under their own names, and nothing else.
func writeSafetensors(ctx context.Context, m *ir.Model, path string, o WriteOptions) error {
	parts, err := laySafetensors(m)
	if err != nil {
		return err
	}
	return writeParts(ctx, path, parts, fileMetadata(m), o)
}

// fileMetadata is the __metadata__ of a safetensors source, or what transformers asks for.
func fileMetadata(m *ir.Model) map[string]string {
	meta := map[string]string{}
	if m.Format != "gguf" {
		for k, v := range m.Meta {
			if s, ok := v.(string); ok {
				meta[k] = s
			}
		}
	}
	if meta["format"] == "" {
		meta["format"] = "pt"
	}
	return meta
}

// folder is a Hugging Face folder that is ready to be written.
type folder struct {
	assets map[string][]byte
	parts  []part
	notes  []string
}

func planHF(m *ir.Model, o WriteOptions) ([]string, error) {
	f, err := layHF(m, o)
	if err != nil {
		return nil, err
	}
	return f.notes, nil
}

func writeHF(ctx context.Context, m *ir.Model, path string, o WriteOptions) error {
	f, err := layHF(m, o)
	if err != nil {
		return err
	}
	return f.write(ctx, path, fileMetadata(m), o)
}

// layHF decides names, configuration and side files.
func layHF(m *ir.Model, _ WriteOptions) (*folder, error) {
	f := &folder{assets: map[string][]byte{}}
	handles, err := f.handles(m)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, t := range handles {
		p, err := plain(m, t)
		f.parts, errs = append(f.parts, p), append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return f, f.sideFiles(m, handles, nil)
}

// handles lists the tensors under their Hugging Face names.
func (f *folder) handles(m *ir.Model) ([]*ir.Tensor, error) {
	a := arch.ByName(m.Arch)
	if !m.Known() {
		a = nil // roles are those of the source, and so are the names
	}
	if a == nil && m.Format == "gguf" {
		return nil, &fault.Error{File: m.Path, Op: "hf", Err: fault.As(fault.ErrRefused, fmt.Errorf("%w: the Hugging Face names of %q are not known", ErrInexact, m.Arch)), Hint: "write GGUF or safetensors instead"}
	}
	var list []*ir.Tensor
	for _, t := range m.Tensors() {
		if t.Role == ir.RoleUnknown {
			if m.Format == "gguf" {
				if t.Name != ropeFactors {
					f.notes = append(f.notes, fmt.Sprintf("%s has no name in a Hugging Face folder and is left out", t.Name))
				}
				continue
			}
			list = append(list, t)
			continue
		}
		c := *t
		if a != nil {
			c.Name = a.HFName(t.Role, t.Block)
		}
		list = append(list, &c)
	}
	return list, nil
}

// sideFiles fills the assets: those of the source where there are any, else generated ones.
// quantization is the value for quantization_config, nil for none.
func (f *folder) sideFiles(m *ir.Model, handles []*ir.Tensor, quantization any) error {
	for _, name := range slices.Sorted(maps.Keys(m.Assets)) {
		f.assets[name] = m.Assets[name]
	}
	refuse := func(err error) error {
		return &fault.Error{File: m.Path, Op: "hf", Err: fault.As(fault.ErrRefused, err)}
	}
	dtype := majority(handles)
	config, ok := m.Assets["config.json"]
	switch {
	case ok:
		updated, err := updateConfig(m, config, dtype, quantization)
		if err != nil {
			return &fault.Error{File: m.Path, Op: "config.json", Err: err}
		}
		f.assets["config.json"] = updated
	case m.Decoder != nil:
		made, notes, err := arch.ByName(m.Arch).Config(m.Decoder, extraConfig(m, dtype, quantization))
		if err != nil {
			return refuse(err)
		}
		f.assets["config.json"] = made
		f.notes = append(f.notes, notes...)
	case m.Encoder != nil:
		if err := f.encoderFiles(m, dtype, quantization); err != nil {
			return refuse(err)
		}
	default:
		f.notes = append(f.notes, "there is no config.json: the architecture of the source is not known")
	}
	if m.Tokenizer == nil || m.Assets["tokenizer.json"] != nil || m.Assets["tokenizer.model"] != nil || m.Assets["vocab.txt"] != nil {
		return nil
	}
	tok, tokConfig, err := m.Tokenizer.TokenizerJSON()
	if err != nil {
		return refuse(err)
	}
	f.assets["tokenizer.json"], f.assets["tokenizer_config.json"] = tok, tokConfig
	if f.assets["generation_config.json"] == nil && m.Decoder != nil {
		f.assets["generation_config.json"] = generationConfig(m)
	}
	return nil
}

// torchTypes are the names that config.json has for stored types.
var torchTypes = map[storage.Type]string{storage.F64: "float64", storage.F32: "float32", storage.F16: "float16", storage.BF16: "bfloat16"}

// majority is the float type that most weights are stored in, as config.json names it; "" when
// there is none. Planes count as the type of their scales.
func majority(handles []*ir.Tensor) string {
	count := map[string]int64{}
	for _, t := range handles {
		typ := t.Type
		if t.Scheme != nil {
			typ = t.Scheme.Scale
		}
		if name := torchTypes[typ]; name != "" {
			count[name] += t.Elems()
		}
	}
	most := ""
	for _, name := range slices.Sorted(maps.Keys(count)) {
		if most == "" || count[name] > count[most] {
			most = name
		}
	}
	return most
}

// extraConfig are the keys of a generated config.json that say nothing about the mathematics.
func extraConfig(m *ir.Model, dtype string, quantization any) map[string]any {
	extra := map[string]any{"use_cache": true}
	if dtype != "" {
		extra["torch_dtype"] = dtype // understood by transformers 4 and 5
	}
	if s := m.Tokenizer; s != nil {
		extra["bos_token_id"], extra["eos_token_id"] = id(s.BOS), id(s.EOS)
	}
	if quantization != nil {
		extra["quantization_config"] = quantization
	}
	return extra
}

// id is a token id for JSON: null when there is none.
func id(n int) any {
	if n < 0 {
		return nil
	}
	return n
}

func generationConfig(m *ir.Model) []byte {
	s := m.Tokenizer
	var eos any = id(s.EOS)
	if len(s.EOG) > 0 && s.EOS >= 0 {
		eos = append([]int{s.EOS}, s.EOG...)
	}
	c := map[string]any{"bos_token_id": id(s.BOS), "eos_token_id": eos}
	if s.PAD >= 0 {
		c["pad_token_id"] = s.PAD
	}
	b, _ := json.MarshalIndent(c, "", "  ") // numbers and nil always marshal
	return append(b, '\n')
}

// updateConfig changes what passes have changed in the configuration of the source, and leaves
// every other byte's meaning and order alone.
func updateConfig(m *ir.Model, config []byte, dtype string, quantization any) ([]byte, error) {
	o, err := parseOrdered(config)
	if err != nil {
		return nil, err
	}
	changed := false
	set := func(key string, v any) error {
		b, err := json.Marshal(v)
		if err == nil && !bytes.Equal(o.get(key), b) {
			o.set(key, b)
			changed = true
		}
		return err
	}
	if d := m.Decoder; d != nil && o.truth("tie_word_embeddings") != d.TiedHead {
		err = errors.Join(err, set("tie_word_embeddings", d.TiedHead))
	}
	if d := m.Decoder; d != nil {
		resized := arch.Resized(config, d)
		for _, key := range slices.Sorted(maps.Keys(resized)) {
			err = errors.Join(err, set(key, resized[key]))
		}
	}
	for _, key := range []string{"dtype", "torch_dtype"} {
		if o.get(key) != nil && dtype != "" {
			err = errors.Join(err, set(key, dtype))
		}
	}
	switch {
	case quantization != nil:
		err = errors.Join(err, set("quantization_config", quantization))
	case o.get("quantization_config") != nil && m.Format == "compressed-tensors":
		o.drop("quantization_config") // the weights have been decompressed or converted
		changed = true
	}
	if err != nil || !changed {
		return config, err
	}
	return o.encode()
}

const defaultShard = 5_000_000_000

// write fills the folder.
func (f *folder) write(ctx context.Context, path string, metadata map[string]string, o WriteOptions) error {
	shards, err := shardParts(f.parts, o.ShardBytes)
	if err != nil {
		return err
	}
	return writeFolder(path, func(dir string) error {
		for _, name := range slices.Sorted(maps.Keys(f.assets)) {
			if sub := filepath.Dir(filepath.FromSlash(name)); sub != "." { // of a step of a sentence model
				if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil { //nolint:gosec // as the folder itself
					return err
				}
			}
			if err := writeFile(filepath.Join(dir, filepath.FromSlash(name)), func(w io.Writer) error { _, err := w.Write(f.assets[name]); return err }); err != nil {
				return err
			}
		}
		if len(shards) == 1 {
			return writeParts(ctx, filepath.Join(dir, oneName), shards[0], metadata, o)
		}
		where := map[string]string{}
		var total int64
		for i, parts := range shards {
			name := fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, len(shards))
			if err := writeParts(ctx, filepath.Join(dir, name), parts, metadata, o); err != nil {
				return err
			}
			for _, p := range parts {
				where[p.info.Name] = name
				total += p.info.Size
			}
		}
		index, err := json.MarshalIndent(map[string]any{"metadata": map[string]any{"total_size": total}, "weight_map": where}, "", "  ")
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, indexName), append(index, '\n'), 0o644) //nolint:gosec // as the other files
	})
}

// shardParts cuts the list where a file would grow beyond most bytes.
func shardParts(parts []part, most int64) ([][]part, error) {
	if most <= 0 {
		most = defaultShard
	}
	var shards [][]part
	var size int64
	for _, p := range parts {
		n, err := safetensors.Size(p.info.DType, p.info.Shape)
		if err != nil {
			return nil, fmt.Errorf("tensor %q: %w", p.info.Name, err)
		}
		p.info.Size = n
		if len(shards) == 0 || size+n > most && size > 0 {
			shards, size = append(shards, nil), 0
		}
		shards[len(shards)-1] = append(shards[len(shards)-1], p)
		size += n
	}
	if len(shards) == 0 {
		shards = [][]part{nil}
	}
	return shards, nil
}
