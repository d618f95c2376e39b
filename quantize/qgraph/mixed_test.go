package qgraph

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir/graph"
	"github.com/pare-dev/pare/runner/eval"
)

// The search leaves the layer float that spoils the result, and only that one.
func TestMix(t *testing.T) {
	ctx := context.Background()
	g := network(t, map[string][]int{"x": {4, 8}}, "z", "a = Gemm x W[8,8]", "b = Gemm a W[8,8]", "c = Gemm b W[8,8]", "z = Gemm c W[8,4]")
	// One weight that dwarfs the others of its tensor: nothing else of it has a code.
	w := graph.Of[float32](g.Nodes[1].In[1].Const)
	for i := range w {
		w[i] *= 0.01
	}
	w[0] = 0.02
	graph.Of[float32](g.Nodes[1].In[1].Const)[9] = 30
	s, err := New(ctx, g, &eval.Network{}, samplesOf(g, 8), Config{PerTensor: true, NoEqualize: true, NoRounding: true})
	if err != nil {
		t.Fatal(err)
	}
	full, err := s.Mix(ctx, s.Fidelity(8), -100)
	if err != nil || len(full.Float) != 0 {
		t.Fatalf("a target that is met already: %v %v", full, err)
	}
	want := full.Full + 1
	m, err := s.Mix(ctx, s.Fidelity(8), want)
	if err != nil {
		t.Fatal(err)
	}
	if m.Reached < want || len(m.Float) == 0 || m.Considered != 7 {
		t.Errorf("%+v", m)
	}
	// The fewest: no subset of the chosen ones will do.
	for n := range m.Float {
		fewer := map[*graph.Node]bool{}
		for k := range m.Float {
			fewer[k] = k != n
		}
		delete(fewer, n)
		q, _, err := s.Build(ctx, fewer)
		if err != nil {
			t.Fatal(err)
		}
		if v, err := s.Fidelity(8)(ctx, q); err != nil || v >= want {
			t.Errorf("without %s float the score is %v, enough: %v", n.Name, v, err)
		}
	}
	if _, err := s.Mix(ctx, s.Fidelity(8), 500); !errors.Is(err, fault.ErrGate) {
		t.Errorf("out of reach: %v", err)
	}
}

// Dynamic quantization writes the chain that runtimes fuse; by its operators' definitions the result is the
// float one but for the rounding of codes.
func TestDynamic(t *testing.T) {
	ctx := context.Background()
	g := network(t, map[string][]int{"x": {2, 64}}, "z y", "y = Gemm x W[32,64] B[32] | transB=1", "z = MatMul x W[64,32]", "s = MatMul y W[32,2]")
	for _, d := range []Dynamic{{}, {Unsigned: true}, {SevenBits: true}} {
		q, r, err := d.Apply(ctx, g)
		if err != nil {
			t.Fatal(err)
		}
		var ops []string
		for _, n := range q.Nodes {
			ops = append(ops, n.Op)
		}
		want := []string{"DynamicQuantizeLinear", "MatMulInteger", "Cast", "Mul", "Mul", "Add", "MatMulInteger", "Cast", "Mul", "Mul", "MatMul"}
		if !slices.Equal(ops, want) || r.Changed != 2 || len(r.Kept) != 1 {
			t.Errorf("%+v: operators %v, kept %v", d, ops, r.Kept)
		}
		// By hand: codes times scales, against the float weights.
		for _, n := range q.Nodes {
			if n.Op != "MatMulInteger" {
				continue
			}
			codes, zero := n.In[1].Const, n.In[3].Const
			if !slices.Equal(codes.Shape, []int{64, 32}) || len(zero.Shape) != 0 {
				t.Fatalf("codes %v, zero %v", codes.Shape, zero.Shape)
			}
			c, err := codes.Ints()
			if err != nil {
				t.Fatal(err)
			}
			z, err := zero.Ints()
			if err != nil {
				t.Fatal(err)
			}
			l := newLayer(g.Nodes[0])
			if n.In[1].Name[0] == 'z' {
				l = newLayer(g.Nodes[1])
			}
			var scales []float32
			for _, m := range q.Nodes {
				if m.Op == "Mul" && m.In[1].Const != nil && m.In[1].Name[0] == n.In[1].Name[0] {
					scales = graph.Of[float32](m.In[1].Const)
				}
			}
			row := make([]float32, l.cols)
			for o := range l.outs {
				l.row(row, o)
				for k, v := range row {
					got := float32(c[k*32+o]-z[0]) * scales[o]
					if diff := got - v; diff > scales[o]*0.501 || diff < -scales[o]*0.501 {
						t.Fatalf("%+v: weight %v decodes to %v", d, v, got)
					}
				}
			}
		}
	}
	old, _ := g.Clone()
	old.Opset[""] = 10
	if _, _, err := (Dynamic{}).Apply(ctx, old); !errors.Is(err, fault.ErrMisuse) {
		t.Errorf("operator set 10: %v", err)
	}
}

// By hand: a value of two channels that a product of two outputs reads with weights (3, 1) and (4, 0), whose squares
// add up to 25 and 1; one that something else reads, too, has no influence that is known.
func TestInfluence(t *testing.T) {
	g := network(t, map[string][]int{"x": {4, 2}}, "z", "a = Gemm x W[2,2]", "z = Gemm a W[2,2]")
	copy(graph.Of[float32](g.Nodes[1].In[1].Const), []float32{3, 4, 1, 0}) // [in, out]
	p := place(g, Config{}, nil)
	if got := p.influence(g.Nodes[0].Out[0]); !slices.Equal(got, []uint64{1923, 77}) {
		t.Errorf("%v, want 25 to 1, 1000 in the mean", got)
	}
	both := network(t, map[string][]int{"x": {4, 2}}, "z y", "a = Gemm x W[2,2]", "z = Gemm a W[2,2]", "y = Add a a")
	p = place(both, Config{}, nil)
	if got := p.influence(both.Nodes[0].Out[0]); got != nil {
		t.Errorf("%v for a value that is added, too", got)
	}
}
