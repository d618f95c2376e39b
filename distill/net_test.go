package distill

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
)

type floats struct {
	x    []float32
	cols int
}

func (f floats) ReadRows(_ context.Context, dst []float32, lo, _ int) error {
	copy(dst, f.x[lo*f.cols:])
	return nil
}

func (f floats) ReadRaw(context.Context, ir.Part, []byte, int, int) error { panic("not asked for") }

// tiny makes a decoder with random weights.
func tiny(t *testing.T, d ir.Decoder, seed uint64) *ir.Model {
	t.Helper()
	m := &ir.Model{Path: "tiny", Decoder: &d}
	rng := rand.New(rand.NewPCG(seed, 5))
	put := func(r ir.Role, at int) {
		shape := d.Shape(r)
		if shape == nil {
			return
		}
		size := 1
		for _, s := range shape {
			size *= s
		}
		x := make([]float32, size)
		for i := range x {
			x[i] = float32(rng.NormFloat64() * 0.4)
			if len(shape) == 1 {
				x[i] += 0.7
			}
		}
		if err := m.Add(&ir.Tensor{Name: fmt.Sprintf("%s.%d", r, at), Role: r, Block: at, Shape: shape, Type: storage.F32, Data: floats{x, shape[len(shape)-1]}}); err != nil {
			t.Fatal(err)
		}
	}
	put(ir.RoleEmbedding, -1)
	put(ir.RoleFinalNorm, -1)
	if !d.TiedHead {
		put(ir.RoleHead, -1)
	}
	for i := range d.Layers {
		for _, r := range append([]ir.Role{ir.RoleAttnNorm, ir.RoleMLPNorm, ir.RoleAttnQ, ir.RoleAttnK, ir.RoleAttnV, ir.RoleAttnO, ir.RoleMLPGate, ir.RoleMLPUp, ir.RoleMLPDown, ir.RoleAttnQNorm, ir.RoleAttnKNorm}, d.Biases...) {
			put(r, i)
		}
	}
	return m
}

var shapes = map[string]ir.Decoder{
	"llama":   {Layers: 2, Hidden: 12, FFN: 20, Heads: 4, KVHeads: 2, HeadDim: 4, Vocab: 17, Context: 64, NormEps: 1e-5, RopeTheta: 100},
	"mistral": {Layers: 1, Hidden: 8, FFN: 12, Heads: 2, KVHeads: 1, HeadDim: 6, Vocab: 11, Context: 200, NormEps: 1e-5, RopeTheta: 100, Window: 5},
	"qwen2":   {Layers: 1, Hidden: 8, FFN: 12, Heads: 2, KVHeads: 2, HeadDim: 4, Vocab: 11, Context: 64, NormEps: 1e-6, RopeTheta: 100, TiedHead: true, Biases: []ir.Role{ir.RoleAttnQBias, ir.RoleAttnKBias, ir.RoleAttnVBias}},
	"qwen3":   {Layers: 2, Hidden: 8, FFN: 12, Heads: 4, KVHeads: 2, HeadDim: 4, Vocab: 11, Context: 64, NormEps: 1e-6, RopeTheta: 100, QKNorm: true},
}

func random(seqs, length, vocab int) [][]int32 {
	rng := rand.New(rand.NewPCG(11, 3))
	s := make([][]int32, seqs)
	for i := range s {
		s[i] = make([]int32, length)
		for j := range s[i] {
			s[i][j] = int32(rng.IntN(vocab))
		}
	}
	return s
}

func load(t *testing.T, m *ir.Model, k *kernels.Set) *Net[float64] {
	t.Helper()
	n, err := Load[float64](t.Context(), m, k, 2, m.Decoder.Context, nil)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// cost is the loss of a batch, and its gradients where there is room.
func cost(t *testing.T, n, teacher *Net[float64], l Loss, seqs [][]int32, keep, back bool) float64 {
	t.Helper()
	x, err := n.Forward(t.Context(), seqs, keep)
	if err != nil {
		t.Fatal(err)
	}
	var tx, dx kernels.Dense[float64]
	if teacher != nil {
		if tx, err = teacher.Forward(t.Context(), seqs, false); err != nil {
			t.Fatal(err)
		}
	}
	if back {
		dx = kernels.View(make([]float64, x.Rows*x.Cols), x.Rows, x.Cols)
	}
	sum, err := n.Score(t.Context(), l, Plain(seqs), x, dx, teacher, tx, 1)
	if err != nil {
		t.Fatal(err)
	}
	if back {
		if err := n.Backward(t.Context(), seqs, dx, nil); err != nil {
			t.Fatal(err)
		}
	}
	tau := l.Temperature
	if tau == 0 {
		tau = 1
	}
	if teacher == nil {
		return sum.CrossEntropy
	}
	// the last token of a sequence has no text to weigh: all of its cost is the divergence
	ends := 0.0
	if l.CrossEntropy > 0 {
		for i := range seqs {
			last := len(seqs[i]) - 1
			part, err := n.Score(t.Context(), Loss{Kind: l.Kind, Temperature: l.Temperature}, Plain([][]int32{seqs[i][last:]}), x.Slice(i*len(seqs[i])+last, i*len(seqs[i])+last+1, 0, x.Cols), kernels.Dense[float64]{}, teacher, tx.Slice(i*len(seqs[i])+last, i*len(seqs[i])+last+1, 0, tx.Cols), 1)
			if err != nil {
				t.Fatal(err)
			}
			ends += part.Divergence
		}
	}
	return tau*tau*((1-l.CrossEntropy)*(sum.Divergence-ends)+ends) + l.CrossEntropy*sum.CrossEntropy
}

// Every parameter's gradient against central differences in float64, for every shape of decoder and every
// loss, with what blocks remember and with what they compute again.
func TestGradients(t *testing.T) {
	for name, d := range shapes {
		for _, l := range []Loss{{}, {Kind: Reverse, Temperature: 2}, {Kind: Jensen, Temperature: 1.5}, {Temperature: 2, CrossEntropy: 0.3}} {
			m := tiny(t, d, 1)
			n, teacher := load(t, m, kernels.For("portable")), load(t, tiny(t, d, 2), kernels.For("portable"))
			length := 9
			if d.Window > 0 {
				length = 70 // more than a band
			}
			seqs := random(2, length, d.Vocab)
			low := lowRank(n, 3)
			for _, p := range n.Params() {
				p.Grad = make([]float64, len(p.W))
			}
			cost(t, n, teacher, l, seqs, name != "llama", true)
			rng := rand.New(rand.NewPCG(2, 2))
			for _, p := range n.Params() {
				for range 6 {
					i := rng.IntN(len(p.W))
					const h = 1e-5
					w := p.W[i]
					p.W[i] = w + h
					up := cost(t, n, teacher, l, seqs, false, false)
					p.W[i] = w - h
					down := cost(t, n, teacher, l, seqs, false, false)
					p.W[i] = w
					want := (up - down) / (2 * h)
					if math.Abs(p.Grad[i]-want) > 1e-6*math.Max(1, math.Abs(want)) {
						t.Errorf("%s %+v: %s[%d]: %v, differences give %v", name, l, p.Name, i, p.Grad[i], want)
					}
				}
			}
			if low != 7*d.Layers {
				t.Errorf("%s: %d low-rank pairs", name, low)
			}
		}
	}
}

// lowRank puts a random change beside every matrix.
func lowRank(n *Net[float64], rank int) (count int) {
	rng := rand.New(rand.NewPCG(6, 6))
	for _, b := range n.blocks {
		for i, l := range b.linears() {
			l.scale = 0.5
			for _, p := range []struct {
				dst        **Param[float64]
				rows, cols int
			}{{&l.a, rank, l.w.Cols}, {&l.b, l.w.Rows, rank}} {
				w := make([]float64, p.rows*p.cols)
				for j := range w {
					w[j] = rng.NormFloat64() * 0.3
				}
				*p.dst = &Param[float64]{Name: fmt.Sprint(b.index, " low ", i), Rows: p.rows, Cols: p.cols, W: w}
				n.params = append(n.params, *p.dst)
			}
			count++
		}
	}
	return count
}
