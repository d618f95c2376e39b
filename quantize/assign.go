package quantize

import (
	"errors"
	"fmt"
	"sort"
	"strconv"
	"strings"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
)

// assign decides the type of every tensor of the model. All mistakes are reported together.
func (r Request) assign(m *ir.Model, op string) (*ir.Plan, error) {
	if (r.Preset == nil) == (r.Scheme == nil) {
		return nil, &fault.Error{Op: op, Err: fault.As(fault.ErrMisuse, errNothing)}
	}
	if r.Scheme != nil {
		if _, err := NewUniform(*r.Scheme, r.Clip); err != nil {
			return nil, &fault.Error{Op: op, Err: err}
		}
	}
	facts := newFacts(m)
	plan := &ir.Plan{}
	var errs []error
	used := make([]bool, len(r.Overrides))
	sites := facts.sites(m, r.Importance != nil)
	for _, t := range m.Tensors() {
		s := ir.Step{Tensor: t.Name, From: t.Type, To: t.Type, Scheme: t.Scheme}
		if err := r.step(&s, t, sites[t], used); err != nil {
			errs = append(errs, &fault.Error{File: m.Path, Tensor: t.Name, Op: op, Err: err.err, Hint: err.hint})
			continue
		}
		s.Change = s.To != s.From
		if s.To == storage.Planes {
			s.Change = s.From != storage.Planes || *s.Scheme != *t.Scheme
		}
		b, err := t.With(s.To, s.Scheme, nil).Bytes()
		if err != nil {
			errs = append(errs, &fault.Error{File: m.Path, Tensor: t.Name, Op: op, Err: err})
			continue
		}
		s.Bytes = b
		plan.Steps = append(plan.Steps, s)
	}
	for i, o := range r.Overrides {
		if !used[i] {
			errs = append(errs, unmatched(m, op, o.Pattern))
		}
	}
	return plan, errors.Join(errs...)
}

type hinted struct {
	err  error
	hint string
}

// step fills To, Scheme and Reason for one tensor.
func (r Request) step(s *ir.Step, t *ir.Tensor, at *site, used []bool) *hinted {
	for i, o := range r.Overrides {
		if !t.Match(o.Pattern) {
			continue
		}
		used[i] = true
		s.Reason = "asked for by " + o.Pattern
		if o.Keep {
			return nil
		}
		return r.override(s, t, o)
	}
	why, vector := unfit(t)
	if r.Preset != nil && vector && floats(t.Type) {
		s.To, s.Scheme = storage.F32, nil
		if t.Type != storage.F32 {
			s.Reason = why
		}
		return nil
	}
	if why != "" {
		s.Reason = "kept: " + why
		return nil
	}
	if r.Scheme != nil {
		return r.uniform(s, t)
	}
	cols := t.Cols()
	s.To, s.Reason = r.Preset.choose(at, cols)
	s.Scheme = nil
	if s.To == r.Preset.needsImportance && at.kind != kindEmbedding && at.kind != kindHead && !r.hasImportance(t) {
		return &hinted{fmt.Errorf("%w for %s", errNeedsImportance, r.Preset.Name), "make one with pare calibrate, or choose q2_k"}
	}
	return nil
}

var errNeedsImportance = fault.As(fault.ErrMisuse, errors.New("an importance matrix is needed"))

func (r Request) hasImportance(t *ir.Tensor) bool { return importanceOf(r.Importance, t) != nil }

func (r Request) override(s *ir.Step, t *ir.Tensor, o Override) *hinted {
	if o.Scheme != nil {
		s.To, s.Scheme = storage.Planes, o.Scheme
		return nil
	}
	info, ok := storage.Lookup(o.Type)
	if !ok || info.Encode == nil {
		return &hinted{fault.As(fault.ErrMisuse, fmt.Errorf("pare does not write type %q", o.Type)), ""}
	}
	if t.Cols()%info.BlockElems != 0 {
		to, _ := fit(o.Type, "", t.Cols())
		return &hinted{
			fault.As(fault.ErrMisuse, fmt.Errorf("%w: %d columns, %s blocks hold %d", storage.ErrNotBlock, t.Cols(), o.Type, info.BlockElems)),
			fmt.Sprintf("write %q=%s instead", o.Pattern, to),
		}
	}
	s.To, s.Scheme = o.Type, nil
	return nil
}

// uniform gives the scheme to the weights of transformer blocks; embedding and head stay as they
// are, and in models of unknown architecture everything that looks like a linear layer gets it.
func (r Request) uniform(s *ir.Step, t *ir.Tensor) *hinted {
	switch k := kindOf(t); {
	case t.Role.Linear():
	case k == kindEmbedding || k == kindHead:
		s.Reason = "kept: embedding and head stay as they are in uniform schemes"
		return nil
	case t.Role != ir.RoleUnknown:
		s.Reason = "kept: not a linear layer"
		return nil
	}
	if g := r.Scheme.Group; g > 0 && t.Cols()%g != 0 {
		// A short last group is legal arithmetic but no runtime reads it.
		s.Reason = fmt.Sprintf("kept: %d columns are not a multiple of group size %d", t.Cols(), g)
		return nil
	}
	s.To, s.Scheme = storage.Planes, r.Scheme
	return nil
}

// unfit says why a tensor is not quantized by a preset: empty when it is. vector reports that it has
// one row only; runtimes want those as f32.
func unfit(t *ir.Tensor) (why string, vector bool) {
	info, ok := storage.Lookup(t.Type)
	if !ok || t.Type != storage.Planes && info.Decode == nil {
		return fmt.Sprintf("values of type %s cannot be read", t.Type), false
	}
	if t.Type != storage.Planes && !info.Float && info.BlockElems == 1 {
		return "integers are not weights", false
	}
	if t.Rows() == 1 {
		return "one row only", true
	}
	names := append([]string{t.Name}, t.Aliases...)
	if t.Role == ir.RoleUnknown {
		weight := false
		for _, n := range names {
			weight = weight || strings.HasSuffix(n, "weight")
		}
		if !weight {
			return "its name does not end in \"weight\"", false
		}
	}
	for _, n := range names {
		for _, f := range sensitive {
			if strings.Contains(n, f) {
				return "small and sensitive: " + strings.Trim(f, "."), false
			}
		}
	}
	return "", false
}

// sensitive are parts of names of matrices that llama.cpp does not quantize either: norms, routers,
// position tables, convolutions of state-space models and the like (tensor_allows_quantization).
var sensitive = []string{
	"_norm.weight", "ffn_gate_inp.weight", "ffn_gate_tid2eid.weight", "altup", "laurel", "per_layer_model_proj",
	"position_embd", "token_types", "position_embeddings", "token_type_embeddings", ".wpe.", "ssm_conv1d", "shortconv.conv.weight",
	"indexer.k_proj.weight", "indexer.q_proj.weight", "time_mix_first.weight", "time_mix_w0.weight", "time_mix_w1.weight",
	"time_mix_w2.weight", "time_mix_v0.weight", "time_mix_v1.weight", "time_mix_v2.weight", "time_mix_a0.weight",
	"time_mix_a1.weight", "time_mix_a2.weight", "time_mix_g1.weight", "time_mix_g2.weight", "time_mix_decay_w1.weight",
	"time_mix_decay_w2.weight", "time_mix_lerp_fused.weight", "attn_rel_b.weight", ".rel_pos", ".patch_embd", ".patch_merger",
}

func floats(t storage.Type) bool {
	info, ok := storage.Lookup(t)
	return ok && info.Float
}

// facts of a model that presets look at.
type facts struct {
	layers, gqa int
	tied        bool
	seventy     bool
	experts     int
}

func newFacts(m *ir.Model) facts {
	f := facts{gqa: 1, tied: true}
	var q, k int // rows: what is known of the heads of an architecture that nobody described
	for _, t := range m.Tensors() {
		switch kindOf(t) {
		case kindHead:
			f.tied = false
		case kindQ:
			q = max(q, t.Rows())
		case kindK:
			k = max(k, t.Rows())
		}
		f.layers = max(f.layers, blockOf(t)+1)
		f.experts = max(f.experts, experts(t))
	}
	if k > 0 {
		f.gqa = q / k
	}
	if d := m.Decoder; d != nil {
		f.layers = d.Layers
		f.gqa = d.Heads / max(d.KVHeads, 1)
		// llama.cpp knows these models by their depth
		f.seventy = d.Layers == 80 && d.Heads != d.KVHeads
	}
	return f
}

// blockOf is the block of a tensor, -1 outside the blocks. Where nobody described the architecture it
// is the first number in the name: "blk.3.attn_v.weight", "model.layers.3.mlp.experts.0.up_proj.weight".
func blockOf(t *ir.Tensor) int {
	if t.Block >= 0 || t.Role != ir.RoleUnknown {
		return t.Block
	}
	for part := range strings.SplitSeq(t.Name, ".") {
		if n, err := strconv.Atoi(part); err == nil {
			return n
		}
	}
	return -1
}

// experts is the number of experts that a tensor shows: the height of a stack of them, or its own
// number and those before it where each expert has tensors of its own.
func experts(t *ir.Tensor) int {
	if strings.Contains(t.Name, "_exps.") && len(t.Shape) == 3 {
		return t.Shape[0]
	}
	_, after, _ := strings.Cut(t.Name, ".experts.")
	number, _, _ := strings.Cut(after, ".")
	if n, err := strconv.Atoi(number); err == nil && n >= 0 {
		return n + 1
	}
	return 0
}

// sites places every tensor: the index of a tensor among those of its kind, in block order.
func (f facts) sites(m *ir.Model, importance bool) map[*ir.Tensor]*site {
	ts := append([]*ir.Tensor(nil), m.Tensors()...)
	sort.SliceStable(ts, func(a, b int) bool { return blockOf(ts[a]) < blockOf(ts[b]) })
	count := map[kind]int{}
	sites := make(map[*ir.Tensor]*site, len(ts))
	for _, t := range ts {
		k := kindOf(t)
		if k == kindEmbedding && f.tied {
			k = kindHead
		}
		sites[t] = &site{
			kind: k, index: count[k], layers: f.layers, gqa: f.gqa, importance: importance,
			seventy: f.seventy, experts: f.experts, blockNumber: blockOf(t),
		}
		count[k]++
	}
	return sites
}

// kindOf goes by the role, and by the names of the usual containers when there is none.
func kindOf(t *ir.Tensor) kind {
	switch t.Role {
	case ir.RoleEmbedding:
		return kindEmbedding
	case ir.RoleHead:
		return kindHead
	case ir.RoleAttnQ:
		return kindQ
	case ir.RoleAttnK:
		return kindK
	case ir.RoleAttnV:
		return kindV
	case ir.RoleAttnO:
		return kindO
	case ir.RoleMLPGate:
		return kindGate
	case ir.RoleMLPUp:
		return kindUp
	case ir.RoleMLPDown:
		return kindDown
	case ir.RoleUnknown:
		for _, n := range append([]string{t.Name}, t.Aliases...) {
			for _, e := range kindNames {
				if n == e.suffix || e.kind != kindHead && strings.HasSuffix(n, e.suffix) {
					return e.kind
				}
			}
		}
	}
	return kindOther
}

var kindNames = []struct {
	suffix string
	kind   kind
}{
	{"token_embd.weight", kindEmbedding},
	{"embed_tokens.weight", kindEmbedding},
	{"wte.weight", kindEmbedding},
	{"word_embeddings.weight", kindEmbedding},
	{"attn_output.weight", kindO},
	{"o_proj.weight", kindO},
	{"out_proj.weight", kindO},
	{"lm_head.weight", kindHead},
	{"output.weight", kindHead},
	{"attn_q.weight", kindQ},
	{"q_proj.weight", kindQ},
	{"attn_k.weight", kindK},
	{"k_proj.weight", kindK},
	{"attn_v.weight", kindV},
	{"v_proj.weight", kindV},
	{"attn_qkv.weight", kindV},
	{"qkv_proj.weight", kindV},
	{"attn_kv_b.weight", kindV},
	{"ffn_gate.weight", kindGate},
	{"ffn_gate_exps.weight", kindGate},
	{"gate_proj.weight", kindGate},
	{"ffn_up.weight", kindUp},
	{"ffn_up_exps.weight", kindUp},
	{"up_proj.weight", kindUp},
	{"ffn_down.weight", kindDown},
	{"ffn_down_exps.weight", kindDown},
	{"ffn_down_shexp.weight", kindDown},
	{"down_proj.weight", kindDown},
}

// importanceOf looks a tensor up by its name and aliases.
func importanceOf(importance map[string][]float32, t *ir.Tensor) []float32 {
	if importance == nil {
		return nil
	}
	if v, ok := importance[t.Name]; ok {
		return v
	}
	for _, a := range t.Aliases {
		if v, ok := importance[a]; ok {
			return v
		}
	}
	return nil
}

// unmatched is the error for a pattern that selects nothing, with the nearest name there is.
func unmatched(m *ir.Model, op, pattern string) error {
	var names []string
	for _, t := range m.Tensors() {
		names = append(names, t.Name)
		names = append(names, t.Aliases...)
	}
	hint := "pare inspect --tensors lists the names"
	if len(names) > 0 {
		hint = fmt.Sprintf("names are like %q; pare inspect --tensors lists them", names[len(names)/2])
	}
	if near := human.Nearest(pattern, names); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	return &fault.Error{File: m.Path, Op: op, Err: fault.As(fault.ErrMisuse, fmt.Errorf("pattern %q matches no tensor", pattern)), Hint: hint}
}
