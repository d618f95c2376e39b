package qgraph

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/pare-dev/pare/internal/calib"
	"github.com/pare-dev/pare/internal/cpu"
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/num"
	"github.com/pare-dev/pare/ir/graph"
	"github.com/pare-dev/pare/runner/eval"
)

// Moments give the error that computing all outputs gives; the codes that are chosen lose no more than those
// rounded to nearest, and on correlated inputs much less, if not the least of all codes next to the weights.
func TestFit(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	const k, n = 6, 200
	var nearest, chosen, least float64
	for range 40 {
		m := newMoments(k, true)
		kern := kernels.For(cpu.Portable)
		var f, q [n][k]float32
		z := make([]float32, 2*k*n)
		for i := range n {
			common := rng.NormFloat64()
			for j := range k {
				f[i][j] = float32(common + 0.3*rng.NormFloat64() + 1)
				q[i][j] = f[i][j] + float32(0.01*rng.NormFloat64())
			}
			for j := range k {
				z[j*n+i], z[(k+j)*n+i] = f[i][j], q[i][j]
			}
		}
		if err := m.add(context.Background(), kern, 1, z, n); err != nil {
			t.Fatal(err)
		}
		m.finish()
		w, codes := make([]float32, k), make([]int32, k)
		grid := calib.Int4Sym
		for j := range w {
			w[j] = float32(rng.NormFloat64())
		}
		a, _ := bestScale(grid, w)
		for j, v := range w {
			codes[j] = int32(grid.Quantize(a, v))
		}
		m.centre()
		direct := func(codes []int32) float64 {
			bias := m.drift(w, codes, a)
			var sum float64
			for i := range n {
				d := -bias
				for j := range k {
					d += float64(w[j])*float64(f[i][j]) - float64(a.Dequantize(int(codes[j])))*float64(q[i][j])
				}
				sum += d * d
			}
			return sum
		}
		judge, err := newJudge(context.Background(), kern, 1, m, w, 1)
		if err != nil {
			t.Fatal(err)
		}
		loss := func(codes []int32) float64 {
			e, err := judge.errors(context.Background(), []row{{w, codes, grid, a}})
			if err != nil {
				t.Fatal(err)
			}
			return e[0]
		}
		if want, got := direct(codes), loss(codes); math.Abs(got-want) > 5e-3*want {
			t.Fatalf("error by moments %v, by outputs %v", got, want)
		}
		nearest += loss(codes)
		fit, err := newFitter(context.Background(), kern, m)
		if err != nil {
			t.Fatal(err)
		}
		before := loss(codes)
		best := before
		for mask := range 1 << k { // every choice of the codes around the weights
			try := make([]int32, k)
			for j, v := range w {
				x := math.Floor(float64(v) / float64(a.Scale))
				try[j] = int32(min(max(x+float64(mask>>j&1), float64(grid.Min)), float64(grid.Max)))
			}
			best = min(best, loss(try))
		}
		if err := fit.choose(context.Background(), kern, 1, []row{{w, codes, grid, a}}, judge); err != nil {
			t.Fatal(err)
		}
		for j, v := range w {
			if d := math.Abs(float64(codes[j]) - float64(v)/float64(a.Scale)); d > 1 && math.Abs(float64(v)) < 7*float64(a.Scale) {
				t.Fatalf("code %d for %v steps", codes[j], float64(v)/float64(a.Scale))
			}
		}
		chosen, least = chosen+loss(codes), least+best
	}
	t.Logf("errors: nearest %.3g, chosen %.3g, least %.3g", nearest, chosen, least)
	if chosen > 0.35*nearest || chosen < least {
		t.Errorf("errors: nearest %v, chosen %v, least %v", nearest, chosen, least)
	}
}

// Codes are chosen by the kernels that were asked for: a level that does not run here is not replaced by one
// that does, and the factor of the fit has the bits of its level.
func TestLevel(t *testing.T) {
	for _, level := range cpu.Available() {
		rng := rand.New(rand.NewPCG(3, 4))
		const k = 150 // several blocks
		m := newMoments(k, true)
		z := make([]float32, 2*k*2*k)
		for i := range z[:2*k*k] {
			z[i] = float32(rng.NormFloat64())
		}
		copy(z[2*k*k:], z) // the quantized network reads the same
		if err := m.add(context.Background(), kernels.For(level), 1, z, 2*k); err != nil {
			t.Fatal(err)
		}
		m.finish()
		f, err := newFitter(context.Background(), kernels.For(level), m)
		if err != nil {
			t.Fatal(err)
		}
		want := append([]float64(nil), f.h...)
		if err := num.CholeskyLower(context.Background(), kernels.For(level), 1, want, k); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(f.lower, want) {
			t.Errorf("%s: the factor is of another level", level)
		}
	}
	// amd64 and arm64 lack each other's
	foreign := slices.DeleteFunc(cpu.Levels(), func(l cpu.Level) bool { return slices.Contains(cpu.Available(), l) })
	g := network(t, map[string][]int{"x": {1, 4, 8, 8}}, "z", "z = Conv x W[8,4,3,3] B[8]")
	defer func() {
		if recover() == nil {
			t.Errorf("codes are chosen without %s", foreign[0])
		}
	}()
	if s, err := New(context.Background(), g, &eval.Network{}, samplesOf(g, 16), Config{ISA: foreign[0]}); err == nil {
		_, _, _ = s.Build(context.Background(), nil)
	}
}

// The means of every layer's output are those of the float network once biases are corrected.
func TestBias(t *testing.T) {
	g := network(t, map[string][]int{"x": {1, 4, 8, 8}}, "z", "y = Conv x W[8,4,3,3] B[8]", "r = Relu y", "z = Conv r W[4,8,3,3] B[4]")
	samples := samplesOf(g, 16)
	drift := func(cfg Config) float64 {
		s, err := New(context.Background(), g, &eval.Network{}, samples, cfg)
		if err != nil {
			t.Fatal(err)
		}
		q, _, err := s.Build(context.Background(), nil)
		if err != nil {
			t.Fatal(err)
		}
		sum := make([]float64, 4)
		for _, x := range samples {
			a, b := one(t, g, x), one(t, q, x)
			for i, v := range graph.Of[float32](a) {
				sum[i/16] += float64(v) - float64(graph.Of[float32](b)[i])
			}
		}
		var total float64
		for _, v := range sum {
			total += math.Abs(v) / float64(16*len(samples))
		}
		return total
	}
	plain := drift(Config{Weights: graph.Int4, NoBias: true, NoRounding: true, NoEqualize: true})
	corrected := drift(Config{Weights: graph.Int4, NoRounding: true, NoEqualize: true})
	t.Logf("mean error %.4g, corrected %.4g", plain, corrected)
	if corrected > 0.1*plain {
		t.Errorf("mean error %v, corrected %v", plain, corrected)
	}
}

func one(t testing.TB, g *graph.Graph, x map[string]*graph.Tensor) *graph.Tensor {
	t.Helper()
	run, err := (&eval.Network{}).Open(context.Background(), g, g.Outputs)
	if err != nil {
		t.Fatal(err)
	}
	out, err := run.Run(context.Background(), x)
	if err != nil {
		t.Fatal(err)
	}
	return out[0]
}

// Equalization leaves the float network as it is and brings channels of very different ranges together, in a node
// of its own where the maker of a value cannot be scaled because a sum reads it, too.
func TestEqualize(t *testing.T) {
	for name, c := range map[string]struct {
		in    []int
		lines []string
		per   int // weights of the first node that make a channel
		nodes int // of the float network in the end
	}{
		"between layers": {[]int{1, 4, 8, 8}, []string{"y = Conv x W[8,4,1,1] B[8]", "r = Relu y", "d = Conv r W[8,1,3,3] | group=8", "z = Conv d W[4,8,1,1]"}, 4, 4},
		"beside a sum":   {[]int{1, 9, 8}, []string{"y = Mul x W[8]", "p = MatMul y W[8,8]", "q = MatMul y W[8,8]", "s = Add p q", "z = Add s y"}, 1, 6},
	} {
		g := network(t, map[string][]int{"x": c.in}, "z", c.lines...)
		w := graph.Of[float32](g.Nodes[0].In[1].Const)
		for i := range w {
			w[i] *= float32(math.Exp2(float64(i/c.per - 4))) // channel c is 2^c times as large
		}
		samples := samplesOf(g, 8)
		want := one(t, g, samples[0])
		snr := map[bool]float64{}
		for _, no := range []bool{true, false} {
			s, err := New(context.Background(), g, &eval.Network{}, samples, Config{NoEqualize: no, NoRounding: true})
			if err != nil {
				t.Fatal(err)
			}
			if got := snrOf(want, one(t, s.Graph(), samples[0])); got < 100 {
				t.Errorf("%s: the float network changed: %v dB", name, got)
			}
			q, r, err := s.Build(context.Background(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if (len(r.Equalized) == 0) != no || !no && len(s.Graph().Nodes) != c.nodes {
				t.Errorf("%s: equalized %v, %d nodes", name, r.Equalized, len(s.Graph().Nodes))
			}
			snr[no] = snrOf(want, one(t, q, samples[0]))
		}
		t.Logf("%s: %.1f dB, equalized %.1f dB", name, snr[true], snr[false])
		if snr[false] < snr[true]+2 {
			t.Errorf("%s: %v dB, equalized %v dB", name, snr[true], snr[false])
		}
	}
}

// Codes of weights by hand; a bias that would not fit int32 raises the scale of its channel.
func TestWeights(t *testing.T) {
	w := &graph.Value{Name: "w", Const: graph.From(graph.Float32, []float32{127, -3, 0.5, 1e-9, -2e-9, 0}, 2, 3)}
	b := &graph.Value{Name: "b", Const: graph.From(graph.Float32, []float32{8, 1000}, 2)}
	n := &graph.Node{Op: "Gemm", In: []*graph.Value{{Name: "x"}, w, b}, Out: []*graph.Value{{}}, Attrs: map[string]graph.Attr{"transB": {Kind: graph.AttrInt, Int: 1}}}
	q := newWeights(newLayer(n), Config{}, 0.5)
	if q.each[0].Scale != 1 || q.codes[0] != 127 || q.codes[1] != -3 || q.codes[2] != 0 {
		t.Errorf("codes %v at %v", q.codes, q.each)
	}
	codes, scales := q.biasCodes(0.5)
	if codes[0] != 16 || scales[0].Scale != 0.5 {
		t.Errorf("bias %d at %v", codes[0], scales[0].Scale)
	}
	if got := float64(codes[1]) * float64(scales[1].Scale); math.Abs(got-1000) > 1e-3 || codes[1] > maxBias {
		t.Errorf("the bias of 1000 is %d codes of %v", codes[1], scales[1].Scale)
	}
	if got := pack(graph.Int4, []int32{1, -2, 7, -8, 3}, []int{5}).Data; got[0] != 0xe1 || got[1] != 0x87 || got[2] != 3 {
		t.Errorf("nibbles %x", got)
	}
}
