package quantize

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/progress"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
)

// floatsSource is a tensor in memory.
type floatsSource struct {
	x    []float32
	cols int
}

func (s floatsSource) ReadRows(ctx context.Context, dst []float32, lo, hi int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	copy(dst, s.x[lo*s.cols:hi*s.cols])
	return nil
}

func (s floatsSource) ReadRaw(_ context.Context, _ ir.Part, dst []byte, lo, hi int) error {
	return storage.MustLookup(storage.F32).Encode(dst, s.x[lo*s.cols:hi*s.cols], nil)
}

// nothing is a source for tests that only plan.
type nothing struct{ ir.Source }

// gguf gives the roles of the names that llama.cpp uses.
var ggufRoles = map[string]ir.Role{
	"attn_norm.weight": ir.RoleAttnNorm, "attn_q.weight": ir.RoleAttnQ, "attn_k.weight": ir.RoleAttnK, "attn_v.weight": ir.RoleAttnV,
	"attn_output.weight": ir.RoleAttnO, "ffn_norm.weight": ir.RoleMLPNorm, "ffn_gate.weight": ir.RoleMLPGate, "ffn_up.weight": ir.RoleMLPUp,
	"ffn_down.weight": ir.RoleMLPDown, "attn_q.bias": ir.RoleAttnQBias, "attn_k.bias": ir.RoleAttnKBias, "attn_v.bias": ir.RoleAttnVBias,
	"attn_q_norm.weight": ir.RoleAttnQNorm, "attn_k_norm.weight": ir.RoleAttnKNorm,
	"token_embd.weight": ir.RoleEmbedding, "output.weight": ir.RoleHead, "output_norm.weight": ir.RoleFinalNorm,
}

// presetCase is one entry of testdata/presets.json.
type presetCase struct {
	Name       string
	Arch       string
	Layers     int
	Heads      int
	KVHeads    int `json:"kv_heads"`
	Hidden     int
	FFN        int
	Tied       bool
	Importance bool
	Experts    int
	Presets    map[string]map[string]string
}

// shape is that of a tensor of which there are several in a mixture, or one beside them.
func (c *presetCase) shape(kind string) []int {
	switch kind {
	case "ffn_gate_inp.weight":
		return []int{c.Experts, c.Hidden}
	case "ffn_gate_inp_shexp.weight":
		return []int{c.Hidden}
	case "ffn_gate_exps.weight", "ffn_up_exps.weight":
		return []int{c.Experts, c.FFN, c.Hidden}
	case "ffn_down_exps.weight":
		return []int{c.Experts, c.Hidden, c.FFN}
	case "ffn_gate_shexp.weight", "ffn_up_shexp.weight":
		return []int{c.FFN, c.Hidden}
	case "ffn_down_shexp.weight":
		return []int{c.Hidden, c.FFN}
	}
	return nil
}

func (c *presetCase) model(t *testing.T, roles bool) (*ir.Model, map[string][]float32) {
	t.Helper()
	m := &ir.Model{Path: c.Name, Arch: c.Arch}
	d := &ir.Decoder{Layers: c.Layers, Hidden: c.Hidden, FFN: c.FFN, Heads: c.Heads, KVHeads: c.KVHeads, HeadDim: c.Hidden / c.Heads, Vocab: 64}
	if roles || c.Layers == 80 {
		m.Decoder = d // where it is not described, presets know a model by its tensors
	}
	imp := map[string][]float32{}
	add := func(name, kind string, block int) {
		shape := d.Shape(ggufRoles[kind])
		if shape == nil {
			shape = c.shape(kind)
		}
		if shape == nil {
			shape = []int{d.HeadDim}
		}
		typ := storage.F16
		if len(shape) == 1 || kind == "ffn_gate_inp.weight" {
			typ = storage.F32
		} else if kind != "token_embd.weight" {
			imp[name] = make([]float32, shape[len(shape)-1])
		}
		x := &ir.Tensor{Name: name, Block: -1, Shape: shape, Type: typ, Data: nothing{}}
		if roles {
			x.Role, x.Block = ggufRoles[kind], block
		}
		if err := m.Add(x); err != nil {
			t.Fatal(err)
		}
	}
	for kind := range c.Presets["q4_k_m"] {
		if kind == "token_embd.weight" || kind == "output.weight" || kind == "output_norm.weight" {
			add(kind, kind, -1)
			continue
		}
		for i := range c.Layers {
			add(fmt.Sprintf("blk.%d.%s", i, kind), kind, i)
		}
	}
	if !c.Importance {
		return m, nil
	}
	return m, imp
}

// Every preset gives every tensor the type that llama.cpp gives it, by role and by name alone.
func TestPresetsAsLlamaCpp(t *testing.T) {
	b, err := os.ReadFile("testdata/presets.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Cases []presetCase }
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, c := range file.Cases {
		for preset, kinds := range c.Presets {
			for _, roles := range []bool{true, false} {
				if roles && c.Experts > 0 {
					continue
				}
				m, imp := c.model(t, roles)
				req, err := ParseRequest(preset)
				if err != nil {
					t.Fatal(err)
				}
				req.Importance = imp
				plan, err := (&RTN{req}).Plan(context.Background(), m)
				if kinds == nil { // llama.cpp refuses
					if preset == "q2_k_s" && !errors.Is(err, fault.ErrMisuse) {
						t.Errorf("%s, %s: %v", c.Name, preset, err)
					}
					continue
				}
				if err != nil {
					t.Errorf("%s, %s: %v", c.Name, preset, err)
					continue
				}
				types := map[string]storage.Type{}
				for _, s := range plan.Steps {
					types[s.Tensor] = s.To
				}
				for kind, runs := range kinds {
					block := 0
					for _, run := range strings.Fields(runs) {
						var n int
						typ, count, _ := strings.Cut(run, "*")
						if _, err := fmt.Sscan(count, &n); err != nil {
							t.Fatal(err)
						}
						for range n {
							name := kind
							if !strings.HasPrefix(kind, "output") && !strings.HasPrefix(kind, "token") {
								name = fmt.Sprintf("blk.%d.%s", block, kind)
							}
							if got := types[name]; string(got) != typ {
								t.Errorf("%s (importance %v, roles %v), %s: %s is %s, llama.cpp makes it %s", c.Name, c.Importance, roles, preset, name, got, typ)
							}
							block++
							checked++
						}
					}
				}
			}
		}
	}
	if checked < 10000 {
		t.Errorf("only %d tensors checked", checked)
	}
}

func testModel(t *testing.T, typ storage.Type) *ir.Model {
	t.Helper()
	rng := rand.New(rand.NewPCG(1, 9))
	m := &ir.Model{Path: "test", Arch: "unknown"}
	for _, e := range []struct {
		name  string
		role  ir.Role
		shape []int
	}{
		{"model.embed_tokens.weight", ir.RoleEmbedding, []int{40, 256}},
		{"model.layers.0.self_attn.v_proj.weight", ir.RoleAttnV, []int{96, 256}},
		{"model.layers.0.mlp.down_proj.weight", ir.RoleMLPDown, []int{256, 512}},
		{"model.layers.0.input_layernorm.weight", ir.RoleAttnNorm, []int{256}},
		{"lm_head.weight", ir.RoleHead, []int{40, 256}},
	} {
		n := e.shape[0]
		if len(e.shape) > 1 {
			n *= e.shape[1]
		}
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(rng.NormFloat64()) * 0.05
		}
		block := 0
		if !strings.HasPrefix(e.name, "model.layers") {
			block = -1
		}
		tensor := &ir.Tensor{Name: e.name, Role: e.role, Block: block, Shape: e.shape, Type: typ, Data: floatsSource{x, e.shape[len(e.shape)-1]}}
		if e.role == ir.RoleAttnV {
			tensor.Aliases = []string{"blk.0.attn_v.weight"}
		}
		if err := m.Add(tensor); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func apply(t *testing.T, m *ir.Model, req Request, threads int) *ir.Result {
	t.Helper()
	p := &RTN{req}
	plan, err := p.Plan(context.Background(), m)
	if err != nil {
		t.Fatal(err)
	}
	res, err := p.Apply(context.Background(), m, plan, ir.Env{Threads: threads, Progress: progress.Discard})
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func raw(t *testing.T, x *ir.Tensor, part ir.Part, lo, hi int) []byte {
	t.Helper()
	n, err := x.PartBytes(part, lo, hi)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, n)
	if err := x.Data.ReadRaw(context.Background(), part, b, lo, hi); err != nil {
		t.Fatal(err)
	}
	return b
}

// Bytes do not depend on how rows are read, nor on threads, and ReadRows decodes the same bytes.
func TestBytesAnyWay(t *testing.T) {
	for _, name := range []string{"q4_k_m", "q8_0", "f16", "int4g128", "int8", "int8-tensor", "int4g32-asym", "int8-tensor-asym"} {
		req, err := ParseRequest(name)
		if err != nil {
			t.Fatal(err)
		}
		one, two := testModel(t, storage.F32), testModel(t, storage.F32)
		apply(t, one, req, 1)
		apply(t, two, req, 2)
		for i, a := range one.Tensors() {
			b := two.Tensors()[i]
			rows, cols := a.Rows(), a.Cols()
			for _, part := range a.Parts() {
				whole := raw(t, a, part, 0, rows)
				if part == ir.PartScales && a.Scheme.Group == storage.GroupTensor || part == ir.PartZeros && a.Scheme.Group == storage.GroupTensor {
					if string(whole) != string(raw(t, b, part, rows-1, rows)) {
						t.Errorf("%s %s: the tensor's %s differ between reads", name, a.Name, part)
					}
					continue
				}
				var pieces []byte
				for lo := 0; lo < rows; lo += 7 {
					pieces = append(pieces, raw(t, b, part, lo, min(rows, lo+7))...)
				}
				if string(pieces) != string(whole) {
					t.Errorf("%s %s: %s read in pieces differ", name, a.Name, part)
				}
			}
			x := make([]float32, rows*cols)
			if err := a.Data.ReadRows(context.Background(), x, 0, rows); err != nil {
				t.Fatal(err)
			}
			want := make([]float32, rows*cols)
			if a.Scheme == nil {
				storage.MustLookup(a.Type).Decode(want, raw(t, a, ir.PartData, 0, rows))
			} else {
				want = dequantizePlanes(t, a)
			}
			for j := range x {
				if x[j] != want[j] {
					t.Fatalf("%s %s: element %d reads %v, its bytes say %v", name, a.Name, j, x[j], want[j])
				}
			}
		}
	}
}

// dequantizePlanes applies scale*(q-zero) to the parts, written here apart from the code under test.
func dequantizePlanes(t *testing.T, a *ir.Tensor) []float32 {
	rows, cols := a.Rows(), a.Cols()
	codes := raw(t, a, ir.PartCodes, 0, rows)
	sb := raw(t, a, ir.PartScales, 0, rows)
	scales := make([]float32, len(sb)/2)
	storage.MustLookup(storage.BF16).Decode(scales, sb)
	var zeros []byte
	if !a.Scheme.Symmetric {
		zeros = raw(t, a, ir.PartZeros, 0, rows)
	}
	out := make([]float32, rows*cols)
	for r := range rows {
		for c := range cols {
			g := 0
			switch {
			case a.Scheme.Group > 0:
				g = r*((cols+a.Scheme.Group-1)/a.Scheme.Group) + c/a.Scheme.Group
			case a.Scheme.Group == storage.GroupChannel:
				g = r
			}
			if zeros == nil {
				out[r*cols+c] = scales[g] * float32(int8(codes[r*cols+c]))
			} else {
				out[r*cols+c] = scales[g] * float32(int(codes[r*cols+c])-int(zeros[g]))
			}
		}
	}
	return out
}

func TestOverrides(t *testing.T) {
	m := testModel(t, storage.BF16)
	req, err := ParseRequest("Q4_K_M")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"*.attn_v.*=q8_0", "lm_head=keep", "*.down_proj.*=int8"} {
		o, err := ParseOverride(s)
		if err != nil {
			t.Fatal(err)
		}
		req.Overrides = append(req.Overrides, o)
	}
	plan, err := (&RTN{req}).Plan(context.Background(), m)
	if err != nil {
		t.Fatal(err)
	}
	want := []storage.Type{storage.Q4K, storage.Q8_0, storage.Planes, storage.F32, storage.BF16}
	for i, s := range plan.Steps {
		if s.To != want[i] || s.Change != (i != 4) {
			t.Errorf("%s: %s (change %v), want %s", s.Tensor, s.To, s.Change, want[i])
		}
	}
}

func TestPlanReportsAllMistakes(t *testing.T) {
	m := testModel(t, storage.BF16)
	req, _ := ParseRequest("q4_k_m")
	req.Overrides = []Override{{Pattern: "*.atn_v.*", Type: storage.Q8_0}, {Pattern: "*.mlp.up*", Keep: true}}
	_, err := (&RTN{req}).Plan(context.Background(), m)
	if !errors.Is(err, fault.ErrMisuse) || !strings.Contains(err.Error(), "atn_v") || !strings.Contains(err.Error(), "mlp.up") {
		t.Errorf("got %v", err)
	}
	req.Overrides = nil
	req.Importance = map[string][]float32{"blk.0.attn_v.weight": make([]float32, 3)}
	if _, err := (&RTN{req}).Plan(context.Background(), m); !errors.Is(err, fault.ErrMisuse) {
		t.Errorf("a wrong importance gave %v", err)
	}
	for _, s := range []string{"q4_k_x", "int9", "int4g1", "", "int4g128-sym"} {
		if _, err := ParseRequest(s); !errors.Is(err, fault.ErrMisuse) {
			t.Errorf("%q gave %v", s, err)
		}
	}
	for _, s := range []string{"q4_k", "=q4_k", "a=", "a[=q4_k", "a=i32"} {
		if _, err := ParseOverride(s); !errors.Is(err, fault.ErrMisuse) {
			t.Errorf("%q gave %v", s, err)
		}
	}
}

func TestNothingChangedIsAnError(t *testing.T) {
	m := testModel(t, storage.BF16)
	req, _ := ParseRequest("int8")
	req.Overrides = []Override{{Pattern: "*", Keep: true}}
	p := &RTN{req}
	plan, err := p.Plan(context.Background(), m)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Apply(context.Background(), m, plan, ir.Env{Progress: progress.Discard}); err == nil {
		t.Error("no error")
	}
}

func TestNotFiniteNamesTheTensor(t *testing.T) {
	m := testModel(t, storage.F32)
	bad := m.Tensors()[2]
	bad.Data.(floatsSource).x[700] = float32(math.NaN())
	for _, name := range []string{"q8_0", "int8-tensor", "int4g128"} {
		c := m.Clone()
		req, _ := ParseRequest(name)
		apply(t, c, req, 1)
		x := c.Tensors()[2]
		part := x.Parts()[0]
		n, _ := x.PartBytes(part, 0, x.Rows())
		err := x.Data.ReadRaw(context.Background(), part, make([]byte, n), 0, x.Rows())
		if !errors.Is(err, fault.ErrNotFinite) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCancel(t *testing.T) {
	m := testModel(t, storage.F32)
	req, _ := ParseRequest("q4_k_m")
	apply(t, m, req, 1)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	x := m.Tensors()[2]
	n, _ := x.PartBytes(ir.PartData, 0, x.Rows())
	if err := x.Data.ReadRaw(ctx, ir.PartData, make([]byte, n), 0, x.Rows()); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestCast(t *testing.T) {
	m := testModel(t, storage.F32)
	c := &Cast{Type: storage.BF16}
	plan, err := c.Plan(context.Background(), m)
	if err != nil {
		t.Fatal(err)
	}
	res, err := c.Apply(context.Background(), m, plan, ir.Env{Progress: progress.Discard})
	if err != nil || res.Changed != 5 {
		t.Fatalf("%v, %v", res, err)
	}
	big := testModel(t, storage.F32)
	big.Tensors()[0].Data.(floatsSource).x[5] = 70000
	c = &Cast{Type: storage.F16}
	plan, _ = c.Plan(context.Background(), big)
	if _, err := c.Apply(context.Background(), big, plan, ir.Env{Progress: progress.Discard}); err != nil {
		t.Fatal(err)
	}
	x := big.Tensors()[0]
	if err := x.Data.ReadRaw(context.Background(), ir.PartData, make([]byte, x.Elems()*2), 0, x.Rows()); !errors.Is(err, fault.ErrNotFinite) {
		t.Errorf("70000 as f16 gave %v", err)
	}
}

// A preset and the type of most of its weights say the same of general.file_type, so that a file keeps
// its number when it is written again.
func TestPresetFileTypes(t *testing.T) {
	byNumber := map[uint32]*Preset{}
	for _, p := range Presets() {
		if other := byNumber[p.FileType]; other != nil {
			t.Errorf("%s and %s have file type %d", p.Name, other.Name, p.FileType)
		}
		byNumber[p.FileType] = p
	}
	for _, i := range storage.All() {
		if !i.Weights() {
			continue
		}
		if p := byNumber[uint32(i.FileType)]; p != nil && p.Base != i.Type {
			t.Errorf("file type %d is preset %s of %s, and type %s", i.FileType, p.Name, p.Base, i.Type)
		}
	}
}
