package prune_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/pare-dev/pare/formats/safetensors"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/prune"
)

// memory is a tensor in memory, in any plain type.
type memory struct {
	info *storage.Info
	cols int
	b    []byte
}

func (m *memory) ReadRows(_ context.Context, dst []float32, lo, _ int) error {
	m.info.Decode(dst, m.b[lo*m.cols*m.info.BlockBytes:])
	return nil
}

func (m *memory) ReadRaw(_ context.Context, _ ir.Part, dst []byte, lo, hi int) error {
	w := m.cols * m.info.BlockBytes
	copy(dst, m.b[lo*w:hi*w])
	return nil
}

func newTensor(t testing.TB, name string, role ir.Role, block int, shape []int, typ storage.Type, x []float32) *ir.Tensor {
	t.Helper()
	info := storage.MustLookup(typ)
	b := make([]byte, len(x)*info.BlockBytes)
	for i, v := range x { // NaN, too
		switch typ {
		case storage.F32:
			binary.LittleEndian.PutUint32(b[4*i:], math.Float32bits(v))
		case storage.BF16:
			binary.LittleEndian.PutUint16(b[2*i:], storage.F32ToBF16(v))
		default:
			t.Fatal(typ)
		}
	}
	return &ir.Tensor{Name: name, Role: role, Block: block, Shape: shape, Type: typ, Data: &memory{info, shape[len(shape)-1], b}}
}

func newModel(t testing.TB, tensors ...*ir.Tensor) *ir.Model {
	t.Helper()
	m := &ir.Model{Path: "test"}
	for _, x := range tensors {
		if err := m.Add(x); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func matrix(t testing.TB, rows, cols int, x ...float32) *ir.Tensor {
	return newTensor(t, "layers.0.w.weight", ir.RoleMLPUp, 0, []int{rows, cols}, storage.F32, x)
}

// run plans and applies a pass and checks that the plan, the promise and the result agree.
func run(t *testing.T, m *ir.Model, p interface {
	ir.Pass
	Expect(m *ir.Model) ([]prune.Expectation, error)
}, env ir.Env,
) *ir.Result {
	t.Helper()
	plan, err := p.Plan(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	want, err := p.Expect(m)
	if err != nil {
		t.Fatal(err)
	}
	res, err := p.Apply(t.Context(), m, plan, env)
	if err != nil {
		t.Fatal(err)
	}
	changed := 0
	for _, s := range plan.Steps {
		if s.Change {
			changed++
		}
	}
	if changed != res.Changed || changed != len(want) {
		t.Errorf("planned %d, changed %d, promised %d", changed, res.Changed, len(want))
	}
	found, err := prune.Verify(t.Context(), m, want)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		if !f.Holds {
			t.Errorf("%+v", f)
		}
	}
	return res
}

func read(t *testing.T, m *ir.Model, name string) []float32 {
	t.Helper()
	x, err := ir.ReadAll(t.Context(), m.Find(name))
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// The worked examples: Wanda's W=[1,-2,3,-4], norms [4,1,2,.5], half -> [1,0,3,0], and small
// matrices by hand.
func TestByHand(t *testing.T) {
	magnitude := func(o prune.Options) ir.Pass { return &prune.Magnitude{Options: o} }
	for _, c := range []struct {
		name       string
		rows, cols int
		in, want   []float32
		pass       ir.Pass
	}{
		{
			"wanda", 1, 4,
			[]float32{1, -2, 3, -4},
			[]float32{1, 0, 3, 0},
			&prune.Wanda{Options: prune.Options{Sparsity: 0.5}, Importance: map[string][]float32{"layers.0.w.weight": {16, 1, 4, 0.25}}},
		},
		{"layer", 2, 3, []float32{1, -6, 2, 5, -3, 4}, []float32{0, -6, 0, 5, 0, 4}, magnitude(prune.Options{Sparsity: 0.5})},
		{"row", 2, 3, []float32{1, -6, 2, 5, -3, 4}, []float32{0, -6, 2, 5, 0, 4}, magnitude(prune.Options{Sparsity: 0.5, Scope: prune.ScopeRow})},
		{"2:4", 1, 8, []float32{1, 2, 3, 4, 8, 7, 6, 5}, []float32{0, 0, 3, 4, 8, 7, 0, 0}, magnitude(prune.Options{Pattern: "2:4"})},
		{"1:4", 1, 4, []float32{1, -9, 3, 4}, []float32{0, -9, 0, 0}, magnitude(prune.Options{Pattern: "1:4", Sparsity: 0.75})},
		{"ties go to the lower index", 2, 2, []float32{1, -1, 1, 1}, []float32{0, 0, 0, 1}, magnitude(prune.Options{Sparsity: 0.75})},
		{"ties in groups", 1, 4, []float32{2, 2, 2, 2}, []float32{0, 0, 2, 2}, magnitude(prune.Options{Pattern: "2:4"})},
		{"negative zero counts as zero", 1, 4, []float32{1, float32(math.Copysign(0, -1)), 2, 3}, []float32{0, 0, 2, 3}, magnitude(prune.Options{Sparsity: 0.5})},
		{"rounded down", 1, 5, []float32{1, 2, 3, 4, 5}, []float32{0, 0, 3, 4, 5}, magnitude(prune.Options{Sparsity: 0.5})},
	} {
		m := newModel(t, matrix(t, c.rows, c.cols, c.in...))
		plan, err := c.pass.Plan(t.Context(), m)
		if err != nil {
			t.Fatal(c.name, err)
		}
		if _, err := c.pass.Apply(t.Context(), m, plan, ir.Env{}); err != nil {
			t.Fatal(c.name, err)
		}
		if got := read(t, m, "layers.0.w.weight"); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

// Random matrices, one with many ties, against torch.
func TestTorchReference(t *testing.T) {
	b, err := os.ReadFile("testdata/reference.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	f, err := safetensors.Parse(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	ref := map[string][]float32{}
	for _, x := range f.Tensors {
		v := make([]float32, x.Size/4)
		storage.MustLookup(storage.F32).Decode(v, b[x.Offset:])
		ref[x.Name] = v
	}
	checked := 0
	for name, want := range ref {
		set, rest, _ := strings.Cut(name, ".")
		kind, rule, _ := strings.Cut(rest, ".")
		var o prune.Options
		switch scope, p, ok := strings.Cut(rule, "-"); {
		case kind == "global":
			o = prune.Options{Scope: prune.ScopeGlobal, Sparsity: 0.4}
		case kind != "magnitude" && kind != "wanda":
			continue
		case ok:
			o.Scope = prune.Scope(scope)
			if _, err := fmt.Sscan(p, &o.Sparsity); err != nil {
				t.Fatal(err)
			}
		default:
			o.Pattern = rule
		}
		m := newModel(t, matrix(t, 13, 24, ref[set+".weight"]...))
		if kind == "global" {
			m = newModel(t, matrix(t, 13, 24, ref[set+".weight"]...),
				newTensor(t, "layers.0.other.weight", ir.RoleMLPDown, 0, []int{7, 9}, storage.F32, ref[set+".other"]))
		}
		for threads := 1; threads <= 2; threads++ {
			c := m.Clone()
			if kind == "wanda" {
				run(t, c, &prune.Wanda{Options: o, Importance: map[string][]float32{"layers.0.w.weight": ref[set+".mean"]}}, ir.Env{Threads: threads})
			} else {
				run(t, c, &prune.Magnitude{Options: o}, ir.Env{Threads: threads})
			}
			at := "layers.0.w.weight"
			if rule == "other" {
				at = "layers.0.other.weight"
			}
			if got := read(t, c, at); !slices.Equal(got, want) {
				t.Errorf("%s, %d threads: differs from torch", name, threads)
			}
		}
		checked++
	}
	if checked != 2*(2*7+2) {
		t.Errorf("%d comparisons", checked)
	}
}

// Weights that stay keep their bytes, in any band, and the raw and the real view agree.
func TestBytesStay(t *testing.T) {
	const rows, cols = 9, 16
	x := make([]float32, rows*cols)
	for i := range x {
		x[i] = float32(math.Sin(float64(i*i))) * 3
	}
	for _, o := range []prune.Options{{Sparsity: 0.6}, {Sparsity: 0.6, Scope: prune.ScopeRow}, {Pattern: "2:4"}, {Sparsity: 0.25, Scope: prune.ScopeGlobal}} {
		before := newTensor(t, "layers.0.w.weight", ir.RoleAttnQ, 0, []int{rows, cols}, storage.BF16, x)
		m := newModel(t, before)
		run(t, m, &prune.Magnitude{Options: o}, ir.Env{})
		after := m.Find(before.Name)
		if after.Type != storage.BF16 {
			t.Fatal(after.Type)
		}
		now := read(t, m, before.Name)
		old := before.Data.(*memory).b
		for lo := range rows {
			for hi := lo + 1; hi <= rows; hi++ {
				b := make([]byte, (hi-lo)*cols*2)
				if err := after.Data.ReadRaw(t.Context(), ir.PartData, b, lo, hi); err != nil {
					t.Fatal(err)
				}
				for i := range (hi - lo) * cols {
					at := lo*cols + i
					got, was := b[2*i:2*i+2], old[2*at:2*at+2]
					if now[at] == 0 && (got[0] != 0 || got[1] != 0) || now[at] != 0 && !bytes.Equal(got, was) {
						t.Fatalf("%+v: element %d: bytes %x, before %x, value %v", o, at, got, was, now[at])
					}
				}
			}
		}
	}
}

// Exactly the asked number of zeros, also when most weights are equal.
func TestExactCounts(t *testing.T) {
	const rows, cols = 50, 64
	x := make([]float32, rows*cols)
	for i := range x {
		x[i] = float32(1 + i%3)
	}
	for _, p := range []float64{0.1, 0.33, 0.5, 0.77, 0.999} {
		for _, scope := range []prune.Scope{prune.ScopeLayer, prune.ScopeRow, prune.ScopeGlobal} {
			m := newModel(t, matrix(t, rows, cols, x...), newTensor(t, "layers.1.w.weight", ir.RoleMLPUp, 1, []int{cols, rows}, storage.F32, x))
			run(t, m, &prune.Magnitude{Options: prune.Options{Sparsity: p, Scope: scope}}, ir.Env{})
			zeros := 0
			for _, n := range []string{"layers.0.w.weight", "layers.1.w.weight"} {
				for _, v := range read(t, m, n) {
					if v == 0 {
						zeros++
					}
				}
			}
			want := int(2 * rows * cols * p)
			switch scope {
			case prune.ScopeLayer:
				want = 2 * int(rows*cols*p)
			case prune.ScopeRow:
				want = rows*int(cols*p) + cols*int(rows*p)
			}
			if zeros != want {
				t.Errorf("%s %v: %d zeros, want %d", scope, p, zeros, want)
			}
		}
	}
}

func TestChoice(t *testing.T) {
	x := []float32{1, 2, 3, 4}
	mk := func(name string, role ir.Role, block int) *ir.Tensor {
		return newTensor(t, name, role, block, []int{2, 2}, storage.F32, x)
	}
	m := newModel(t, mk("embed.weight", ir.RoleEmbedding, -1), mk("layers.0.q.weight", ir.RoleAttnQ, 0), mk("layers.0.down.weight", ir.RoleMLPDown, 0),
		mk("layers.1.q.weight", ir.RoleAttnQ, 1), mk("h.0.c_fc.weight", ir.RoleUnknown, -1), mk("wpe.weight", ir.RoleUnknown, -1),
		newTensor(t, "norm.weight", ir.RoleFinalNorm, -1, []int{4}, storage.F32, x), mk("lm_head.weight", ir.RoleHead, -1))
	changed := func(o prune.Options) string {
		plan, err := (&prune.Magnitude{Options: o}).Plan(t.Context(), m)
		if err != nil {
			return err.Error()
		}
		var names []string
		for _, s := range plan.Steps {
			if s.Change {
				names = append(names, strings.TrimSuffix(s.Tensor, ".weight"))
			} else if s.Reason == "" {
				t.Errorf("%s is kept without a reason", s.Tensor)
			}
		}
		return strings.Join(names, " ")
	}
	for _, c := range []struct {
		o    prune.Options
		want string
	}{
		{prune.Options{Sparsity: 0.5}, "layers.0.q layers.0.down layers.1.q h.0.c_fc"},
		{prune.Options{Sparsity: 0.5, Only: []string{"*.q.*"}}, "layers.0.q layers.1.q"},
		{prune.Options{Sparsity: 0.5, Only: []string{"lm_head"}}, "lm_head"},
		{prune.Options{Sparsity: 0.5, Skip: []string{"layers.0.*", "h.*"}}, "layers.1.q"},
		{prune.Options{Sparsity: 0.5, Schedule: []prune.Share{{"layers.0.*", 0}, {"layers.*", 0.25}}}, "layers.1.q h.0.c_fc"},
		{prune.Options{Schedule: []prune.Share{{"*.down", 0.5}}}, "layers.0.down"},
	} {
		if got := changed(c.o); got != c.want {
			t.Errorf("%+v: %s, want %s", c.o, got, c.want)
		}
	}
}

// Rows and groups run along the last dimension, which may be that of the outputs where nobody said
// otherwise: that is told, save to those who named the matrix, and where it makes no difference.
func TestUnknownLayoutIsTold(t *testing.T) {
	for _, c := range []struct {
		o     prune.Options
		names []string
	}{
		{prune.Options{Pattern: "2:4"}, []string{"h.0.c_fc.weight"}},
		{prune.Options{Sparsity: 0.5, Scope: prune.ScopeRow}, []string{"h.0.c_fc.weight"}},
		{prune.Options{Sparsity: 0.5}, nil}, // magnitude: of the whole matrix
		{prune.Options{Pattern: "2:4", Only: []string{"h.*"}}, nil},
		{prune.Options{Pattern: "2:4", Skip: []string{"h.*"}}, nil},
	} {
		x := []float32{1, 2, 3, 4, 5, 6, 7, 8}
		m := newModel(t, newTensor(t, "layers.0.q.weight", ir.RoleAttnQ, 0, []int{2, 4}, storage.F32, x),
			newTensor(t, "h.0.c_fc.weight", ir.RoleUnknown, -1, []int{2, 4}, storage.F32, x))
		res := run(t, m, &prune.Magnitude{Options: c.o}, ir.Env{Threads: 1})
		if len(res.Notes) != len(c.names) {
			t.Errorf("%+v: notes %q", c.o, res.Notes)
		}
		for i, name := range c.names {
			if !strings.Contains(res.Notes[i], name) || !strings.Contains(res.Notes[i], ": 1,") {
				t.Errorf("%+v: notes %q do not name %s", c.o, res.Notes, name)
			}
		}
	}
}

func TestRefusals(t *testing.T) {
	x := []float32{1, 2, 3, 4, 5, 6}
	good := func() *ir.Model { return newModel(t, matrix(t, 2, 3, x...)) }
	quantized := newModel(t, &ir.Tensor{Name: "layers.0.w.weight", Role: ir.RoleMLPUp, Shape: []int{1, 32}, Type: "q8_0", Data: &memory{}})
	for _, c := range []struct {
		name   string
		m      *ir.Model
		pass   ir.Pass
		reason error
		says   string
	}{
		{"sparsity 1", good(), &prune.Magnitude{Options: prune.Options{Sparsity: 1}}, fault.ErrMisuse, "[0,1)"},
		{"NaN", good(), &prune.Magnitude{Options: prune.Options{Sparsity: math.NaN()}}, fault.ErrMisuse, "[0,1)"},
		{"nothing asked", good(), &prune.Magnitude{}, fault.ErrMisuse, "nothing to prune"},
		{"pattern", good(), &prune.Magnitude{Options: prune.Options{Pattern: "4:2"}}, fault.ErrMisuse, "4:2"},
		{"pattern and sparsity", good(), &prune.Magnitude{Options: prune.Options{Pattern: "2:4", Sparsity: 0.3}}, fault.ErrMisuse, "0.3"},
		{"columns", good(), &prune.Magnitude{Options: prune.Options{Pattern: "2:4"}}, nil, "3 columns"},
		{"scope", good(), &prune.Magnitude{Options: prune.Options{Sparsity: 0.5, Scope: "block"}}, fault.ErrMisuse, "block"},
		{"bad glob", good(), &prune.Magnitude{Options: prune.Options{Sparsity: 0.5, Only: []string{"["}}}, fault.ErrMisuse, "["},
		{"pattern matches nothing", good(), &prune.Magnitude{Options: prune.Options{Sparsity: 0.5, Only: []string{"x.*"}}}, fault.ErrMisuse, "nothing to prune"},
		{"schedule matches nothing", good(), &prune.Magnitude{Options: prune.Options{Sparsity: 0.5, Schedule: []prune.Share{{"x.*", 0.1}}}}, fault.ErrMisuse, "x.*"},
		{"schedule with global", good(), &prune.Magnitude{Options: prune.Options{Sparsity: 0.5, Scope: prune.ScopeGlobal, Schedule: []prune.Share{{"*", 0.1}}}}, fault.ErrMisuse, "global"},
		{"already quantized", quantized, &prune.Magnitude{Options: prune.Options{Sparsity: 0.5}}, nil, "q8_0"},
		{"wanda global", good(), &prune.Wanda{Options: prune.Options{Sparsity: 0.5, Scope: prune.ScopeGlobal}}, fault.ErrMisuse, "global"},
		{"wanda cannot run", good(), &prune.Wanda{Options: prune.Options{Sparsity: 0.5}}, nil, "cannot be run"},
		{"importance missing", good(), &prune.Wanda{Options: prune.Options{Sparsity: 0.5}, Importance: map[string][]float32{"x": x}}, nil, "no entry"},
		{"importance too long", good(), &prune.Wanda{Options: prune.Options{Sparsity: 0.5}, Importance: map[string][]float32{"layers.0.w.weight": x}}, nil, "6 inputs"},
		{"importance negative", good(), &prune.Wanda{Options: prune.Options{Sparsity: 0.5}, Importance: map[string][]float32{"layers.0.w.weight": {1, -1, 1}}}, nil, "-1"},
	} {
		_, err := c.pass.Plan(t.Context(), c.m)
		if err == nil || c.reason != nil && !errors.Is(err, c.reason) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v, want %v saying %q", c.name, err, c.reason, c.says)
		}
	}
	x[4] = float32(math.NaN())
	for _, scope := range []prune.Scope{prune.ScopeLayer, prune.ScopeGlobal, prune.ScopeRow} {
		m := newModel(t, matrix(t, 2, 3, x...))
		p := &prune.Magnitude{Options: prune.Options{Sparsity: 0.5, Scope: scope}}
		_, err := p.Apply(t.Context(), m, nil, ir.Env{})
		if err == nil {
			_, err = ir.ReadAll(t.Context(), m.Find("layers.0.w.weight"))
		}
		if !errors.Is(err, fault.ErrNotFinite) || !strings.Contains(err.Error(), "row 1") || !strings.Contains(err.Error(), "element 1") {
			t.Errorf("NaN, scope %s: %v", scope, err)
		}
	}
}

// A model that does not hold the promise is found out, whatever is wrong.
func TestVerifyFinds(t *testing.T) {
	want := []prune.Expectation{{Tensor: "layers.0.w.weight", Zeros: 4, N: 2, M: 4}}
	for _, c := range []struct {
		x     []float32
		holds bool
	}{
		{[]float32{0, 0, 1, 2, 3, 0, 0, 4}, true},
		{[]float32{0, 0, 0, 2, 3, 5, 0, 4}, false}, // four zeros, but three weights in a group
		{[]float32{0, 0, 1, 2, 3, 1e-30, 0, 4}, false},
	} {
		found, err := prune.Verify(t.Context(), newModel(t, matrix(t, 1, 8, c.x...)), want)
		if err != nil || len(found) != 1 || found[0].Holds != c.holds || found[0].Holds == (found[0].Reason != "") {
			t.Errorf("%v: %+v, %v", c.x, found, err)
		}
	}
	found, err := prune.Verify(t.Context(), newModel(t, matrix(t, 1, 8, make([]float32, 8)...)), []prune.Expectation{{Tensor: "gone"}})
	if err != nil || found[0].Holds {
		t.Errorf("a missing tensor: %+v, %v", found, err)
	}
}

// Which types hold a zero: by the block layouts, those without a minimum.
func TestGain(t *testing.T) {
	for typ, holds := range map[storage.Type]bool{
		storage.F32: true, storage.BF16: true, "q8_0": true, "q4_0": true, "q5_0": true, "q3_k": true, "q6_k": true,
		"q4_1": false, "q5_1": false, "q2_k": false, "q4_k": false, "q5_k": false,
	} {
		if e := prune.Gain(typ, nil); e.HoldsZero != holds || e.Ratio != 1 || e.Text == "" {
			t.Errorf("%s: %+v, want holds %v", typ, e, holds)
		}
	}
}
