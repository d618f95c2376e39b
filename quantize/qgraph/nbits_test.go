package qgraph

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir/graph"
)

// decodeNBits is MatMulNBits' own description of its weights: [N, blocks, block*bits/8] with the lower
// element in the lower bits, a scale per block, zero points packed likewise per output.
func decodeNBits(t *testing.T, n *graph.Node) (w []float32, outs, cols int) {
	t.Helper()
	bytes := func(v *graph.Value) []byte {
		b := make([]byte, v.Const.Type.Bytes(v.Const.Elems()))
		half := len(b) / 2 // two calls, as a writer with a small buffer makes
		if err := errors.Join(v.Const.Fill(context.Background(), b[:half], 0), v.Const.Fill(context.Background(), b[half:], int64(half))); err != nil {
			t.Fatal(err)
		}
		return b
	}
	outs, cols = n.Int("N", 0), n.Int("K", 0)
	bits, block := n.Int("bits", 0), n.Int("block_size", 0)
	blocks := (cols + block - 1) / block
	codes, scales := bytes(n.In[1]), bytes(n.In[2])
	if !slices.Equal(n.In[1].Const.Shape, []int{outs, blocks, block * bits / 8}) || len(scales) != 4*outs*blocks {
		t.Fatalf("shapes %v, %v", n.In[1].Const.Shape, n.In[2].Const.Shape)
	}
	var zeros []byte
	if v := n.Input(3); v != nil {
		zeros = bytes(v)
	}
	get := func(b []byte, i int) int {
		if bits == 8 {
			return int(b[i])
		}
		return int(b[i/2] >> (4 * (i % 2)) & 15)
	}
	s := graph.Of[float32](&graph.Tensor{Type: graph.Float32, Data: scales})
	for o := range outs {
		for c := range cols {
			k := o*blocks + c/block
			z := 1 << (bits - 1)
			if zeros != nil {
				z = get(zeros[o*((blocks*bits+7)/8):], c/block)
			}
			w = append(w, float32(get(codes[k*block*bits/8:], c%block)-z)*s[k])
		}
	}
	return w, outs, cols
}

// Errors on normal weights are at most those known of such blocks without a search for the scale, and codes
// lie where the operator expects them.
func TestWeightOnly(t *testing.T) {
	for _, c := range []struct {
		w    WeightOnly
		line string
		most float64 // of mean squared error over variance
	}{
		{WeightOnly{}, "y = MatMul x W[512,96]", 9.5e-3},
		{WeightOnly{Block: 128, Accuracy: 4}, "y = MatMul x W[512,96]", 1.36e-2},
		{WeightOnly{Block: 128, Asymmetric: true}, "y = Gemm x W[96,512] B[96] | transB=1", 1.0e-2},
		{WeightOnly{Bits: 8, Block: 128}, "y = Gemm x W[512,96] B[96]", 4.2e-5},
		{WeightOnly{Bits: 8, Block: 32, Asymmetric: true}, "y = MatMul x W[500,96]", 4.2e-5},
		{WeightOnly{Block: 64, Asymmetric: true}, "y = MatMul x W[500,97]", 1.0e-2},
	} {
		cols := 512
		if strings.Contains(c.line, "500") {
			cols = 500
		}
		g := network(t, map[string][]int{"x": {2, cols}}, "y", c.line)
		q, r, err := c.w.Apply(context.Background(), g)
		if err != nil {
			t.Fatal(err)
		}
		n := q.Nodes[0]
		if n.Op != "MatMulNBits" || n.Domain != "com.microsoft" || q.Opset["com.microsoft"] != 1 || g.Nodes[0].Domain != "" || r.Changed != 1 {
			t.Fatalf("%s became %v", c.line, n)
		}
		if want := len(g.Nodes) + len(g.Nodes[0].In) - 2; len(q.Nodes) != want {
			t.Errorf("%s: %d nodes", c.line, len(q.Nodes))
		}
		got, outs, cols := decodeNBits(t, n)
		l := newLayer(g.Nodes[0])
		if outs != l.outs || cols != l.cols {
			t.Fatalf("%s: %d outputs of %d", c.line, outs, cols)
		}
		var noise, energy float64
		row := make([]float32, cols)
		for o := range outs {
			l.row(row, o)
			for i, v := range row {
				d := float64(v - got[o*cols+i])
				noise, energy = noise+d*d, energy+float64(v)*float64(v)
			}
		}
		t.Logf("%s, %+v: %.3g", c.line, c.w, noise/energy)
		if noise/energy > c.most {
			t.Errorf("%s, %+v: error %v, want at most %v", c.line, c.w, noise/energy, c.most)
		}
	}
	g := network(t, map[string][]int{"x": {2, 8}}, "y", "y = MatMul x W[8,8]")
	if _, _, err := (WeightOnly{}).Apply(context.Background(), g); !errors.Is(err, fault.ErrMisuse) {
		t.Errorf("nothing to change: %v", err)
	}
	for _, w := range []WeightOnly{{Bits: 3}, {Block: 48}, {Block: 8}, {Accuracy: 9}} {
		if _, _, err := w.Apply(context.Background(), g); !errors.Is(err, ErrConfig) {
			t.Errorf("%+v: %v", w, err)
		}
	}
}

// Blocks by hand: exact where codes can be, zeros, short blocks, and what is not finite.
func TestEncodeBlock(t *testing.T) {
	q := make([]int, 16)
	x := make([]float32, 16)
	for i := range x {
		x[i] = float32(i-8) / 4
	}
	s, z, err := encodeBlock(q, x, 4, false)
	if err != nil || s != 0.25 || z != 8 {
		t.Errorf("scale %v, zero %d, %v", s, z, err)
	}
	for i, c := range q {
		if c != i {
			t.Errorf("code %d at %d", c, i)
		}
	}
	if s, _, _ := encodeBlock(q, make([]float32, 16), 4, true); s != 0 || q[3] != 8 {
		t.Errorf("zeros: scale %v, codes %v", s, q)
	}
	if s, z, _ := encodeBlock(q, []float32{3, 1}, 8, true); math.Abs(float64(s)*float64(q[0]-z)-3) > 1e-2 || q[2] != z {
		t.Errorf("a short block: %v %d %v", s, z, q)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for range 1000 {
		for i := range x {
			x[i] = float32(rng.NormFloat64() * math.Exp2(float64(rng.IntN(60)-30)))
		}
		for _, asym := range []bool{false, true} {
			s, z, err := encodeBlock(q, x, 4, asym)
			if err != nil || s-s != 0 || z < 0 || z > 15 || slices.Min(q) < 0 || slices.Max(q) > 15 {
				t.Fatalf("%v: %v %d %v %v", x, s, z, q, err)
			}
		}
	}
	if _, _, err := encodeBlock(q, []float32{float32(math.Inf(1))}, 4, false); !errors.Is(err, fault.ErrNotFinite) {
		t.Errorf("infinity: %v", err)
	}
}
