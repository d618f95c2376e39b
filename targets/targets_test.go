package targets

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/quantize"
)

// Every table speaks of things that exist: formats that can be written, types, presets.
func TestTablesAreSound(t *testing.T) {
	if got := strings.Join(Names(), " "); got != "arm64 gpu-vllm npu-amd npu-intel npu-qnn npu-rknn x86-64-v3 x86-64-v4" {
		t.Errorf("targets %s", got)
	}
	for _, x := range All() {
		if x.Doc == "" || x.ISA == "" || x.Zeros == "" || x.Calibrated != "gptq" && x.Calibrated != "rtn" {
			t.Errorf("%s: incomplete", x.Name)
		}
		for _, q := range append([]Option{{x.Quantize, "default"}}, x.Options...) {
			r, err := quantize.ParseRequest(q.Quantize)
			if err != nil || q.Why == "" {
				t.Errorf("%s: option %q: %v", x.Name, q.Quantize, err)
			}
			if len(x.Containers) == 0 {
				if x.Graph == nil || x.Graph.Rules == nil || x.NotExecuted == "" {
					t.Errorf("%s: takes nothing, or says not what was never executed", x.Name)
				}
				continue
			}
			c := x.Containers[0]
			fits := r.Preset != nil && slices.Contains(c.Types, r.Preset.Base)
			for _, s := range c.Schemes {
				fits = fits || r.Scheme != nil && s.Bits == r.Scheme.Bits && slices.Contains(s.Groups, r.Scheme.Group)
			}
			if !fits {
				t.Errorf("%s offers %s, which its container refuses", x.Name, q.Quantize)
			}
		}
		if g := x.Graph; g != nil && (g.Static.Check() != nil || len(g.Runtimes) == 0 || g.Quantize == "") {
			t.Errorf("%s: networks: %+v", x.Name, g)
		}
		for _, c := range x.Containers {
			if f, ok := formats.Lookup(c.Format); !ok || f.Write == nil {
				t.Errorf("%s: nothing writes %q", x.Name, c.Format)
			}
			if len(c.Runtimes) == 0 {
				t.Errorf("%s: no runtime opens %s", x.Name, c.Format)
			}
			for _, typ := range c.Types {
				info, ok := storage.Lookup(typ)
				if !ok || info.Decode == nil || c.Format == "gguf" && info.GGML < 0 {
					t.Errorf("%s: type %q in %s", x.Name, typ, c.Format)
				}
			}
		}
	}
}

// GGUF targets take every type that llama.cpp computes with, in the order that suggestions walk: a
// type that registers itself needs no line here. Presets of such types are accepted.
func TestGGUFTypes(t *testing.T) {
	const want = "f32 f16 bf16 q8_0 q6_k q5_1 q5_0 q5_k q4_1 q4_0 q4_k iq4_nl iq4_xs mxfp4 q3_k q2_k"
	types := gguf().Types
	for _, i := range storage.All() {
		if slices.Contains(types, i.Type) != i.Weights() {
			t.Errorf("%s: llama.cpp computes with it: %v", i.Type, i.Weights())
		}
	}
	var known []string // others may have come since
	for i, typ := range types {
		if strings.Contains(" "+want+" ", " "+string(typ)+" ") {
			known = append(known, string(typ))
		}
		if i > 0 && storage.MustLookup(typ).Bits() > storage.MustLookup(types[i-1]).Bits() {
			t.Errorf("%s stands behind %s", typ, types[i-1])
		}
	}
	if got := strings.Join(known, " "); got != want {
		t.Errorf("types %s\nwant  %s", got, want)
	}
	for _, p := range quantize.Presets() {
		if !slices.Contains(types, p.Base) {
			t.Errorf("preset %s cannot be packaged for llama.cpp", p.Name)
		}
	}
}

func TestLookup(t *testing.T) {
	if x, err := Lookup("arm64"); err != nil || x.Name != "arm64" {
		t.Errorf("%v, %v", x, err)
	}
	_, err := Lookup("amr64")
	if !errors.Is(err, fault.ErrMisuse) || err.Error() != `unknown target "amr64"; did you mean arm64?   (pare targets lists all 8)` {
		t.Errorf("%v", err)
	}
	_, err = Lookup("toaster")
	if !strings.Contains(err.Error(), "choose arm64, gpu-vllm") {
		t.Errorf("%v", err)
	}
	x, _ := Lookup("arm64")
	if _, err := x.Container("onnx"); !errors.Is(err, fault.ErrMisuse) {
		t.Errorf("container: %v", err)
	}
}

// step plans one tensor of a model.
func step(m *ir.Model, p *ir.Plan, name string, role ir.Role, to storage.Type, s *storage.Scheme, shape ...int) {
	t := &ir.Tensor{Name: name, Role: role, Shape: shape, Type: storage.BF16}
	if role == ir.RoleFinalNorm || role == ir.RoleUnknown {
		t.Block = -1
	}
	if err := m.Add(t); err != nil {
		panic(err)
	}
	p.Steps = append(p.Steps, ir.Step{Tensor: name, Change: true, To: to, Scheme: s})
}

func TestLegalGGUF(t *testing.T) {
	m, p := &ir.Model{}, &ir.Plan{}
	step(m, p, "fits", ir.RoleAttnQ, storage.Q4K, nil, 64, 256)
	step(m, p, "row", ir.RoleAttnK, storage.Q4K, nil, 64, 100*2)
	step(m, p, "norm", ir.RoleFinalNorm, storage.BF16, nil, 256)
	step(m, p, "f8", ir.RoleAttnV, storage.F8E4M3, nil, 64, 256)
	step(m, p, "planes", ir.RoleAttnO, storage.Planes, &storage.Scheme{Bits: 4, Symmetric: true, Group: 128, Scale: storage.BF16}, 64, 256)
	step(m, p, strings.Repeat("long", 16), ir.RoleUnknown, storage.F32, nil, 4, 4)
	c, err := all["arm64"].Container("")
	if err != nil {
		t.Fatal(err)
	}
	want := []Refusal{
		{"row", "row length is not a multiple of the block: 200 columns, q4_k blocks hold 256", storage.F16, `--keep "row=f16"`},
		{"norm", "vectors must be f32 in gguf, not bf16", storage.F32, `--keep "norm=f32"`},
		{"f8", "gguf cannot hold f8_e4m3", storage.Q8_0, `--keep "f8=q8_0"`},
		{"planes", "gguf holds block types, not int4 g128 sym", storage.Q4K, `--keep "planes=q4_k"`},
		{strings.Repeat("long", 16), "the name has more than 63 bytes", "", ""},
	}
	got := c.Legal(m, p)
	if len(got) != len(want) {
		t.Fatalf("%d refusals: %+v", len(got), got)
	}
	for i := range want {
		g := got[i]
		if i == 2 || i == 3 { // types of equal size may stand for each other
			want[i].Nearest, want[i].Hint = g.Nearest, g.Hint
			if storage.MustLookup(g.Nearest).Bits() < []float64{8, 4}[i-2] {
				t.Errorf("%s: nearest is %s", g.Tensor, g.Nearest)
			}
		}
		if g != want[i] {
			t.Errorf("got  %+v\nwant %+v", g, want[i])
		}
	}
}

func TestLegalGPU(t *testing.T) {
	scheme := func(bits, group int, symmetric bool) *storage.Scheme {
		return &storage.Scheme{Bits: bits, Group: group, Symmetric: symmetric, Scale: storage.BF16}
	}
	c, err := all["gpu-vllm"].Container("")
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		to     storage.Type
		s      *storage.Scheme
		shape  []int
		refuse string
	}{
		{storage.Planes, scheme(4, 128, true), []int{128, 256}, ""},
		{storage.Planes, scheme(8, storage.GroupChannel, true), []int{64, 128}, ""},
		{storage.BF16, nil, []int{3, 5}, ""},
		{storage.Planes, scheme(4, 48, true), []int{64, 384}, "int4 in groups of 128, 64, 32, rows"},
		{storage.Planes, scheme(4, 128, false), []int{64, 256}, "symmetric 4-bit codes only"},
		{storage.Planes, scheme(3, 128, true), []int{64, 256}, "do not read 3-bit codes"},
		{storage.Planes, scheme(4, 128, true), []int{64, 320}, "320 columns are not a multiple of 128"},
		{storage.Planes, scheme(4, 128, true), []int{60, 256}, "60 rows are not a multiple of 64"},
		{storage.Planes, scheme(4, 128, true), []int{2, 64, 256}, "3 dimensions"},
		{storage.Q4K, nil, []int{64, 256}, "compressed-tensors cannot hold q4_k"},
	} {
		m, p := &ir.Model{}, &ir.Plan{}
		step(m, p, "x", ir.RoleAttnO, x.to, x.s, x.shape...)
		got := c.Legal(m, p)
		if x.refuse == "" && len(got) == 0 {
			continue
		}
		if x.refuse == "" || len(got) != 1 || !strings.Contains(got[0].Reason, x.refuse) || got[0].Nearest != storage.BF16 && got[0].Nearest != storage.F16 {
			t.Errorf("%v %v %v: %+v, want %q", x.to, x.s, x.shape, got, x.refuse)
		}
	}
	// what vLLM fuses needs one scheme
	m, p := &ir.Model{Decoder: &ir.Decoder{Layers: 1}}, &ir.Plan{}
	step(m, p, "q", ir.RoleAttnQ, storage.Planes, scheme(4, 128, true), 64, 128)
	step(m, p, "k", ir.RoleAttnK, storage.Planes, scheme(8, 0, true), 64, 128)
	step(m, p, "v", ir.RoleAttnV, storage.BF16, nil, 64, 128)
	step(m, p, "o", ir.RoleAttnO, storage.BF16, nil, 64, 128)
	if got := c.Legal(m, p); len(got) != 2 || got[0].Tensor != "k" || got[1].Tensor != "v" || !strings.Contains(got[0].Reason, `fuses it with "q"`) {
		t.Errorf("fused layers: %+v", got)
	}
}
