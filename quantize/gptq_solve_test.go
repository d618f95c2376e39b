package quantize

import (
	"bytes"
	"context"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/obs"
	"github.com/pare-dev/pare/internal/storage"
)

// integers is a stored type whose grid is -8..7 with scale 1, so that expected codes can be worked
// out by hand.
var integers = &storage.Info{
	Type: "integers", BlockElems: 1, BlockBytes: 1,
	Encode: func(dst []byte, src, _ []float32) error {
		for i, v := range src {
			dst[i] = byte(int8(min(max(math.RoundToEven(float64(v)), -8), 7)))
		}
		return nil
	},
	Decode: func(dst []float32, src []byte) {
		for i, b := range src {
			dst[i] = float32(int8(b))
		}
	},
	Grid: func(g *storage.Grid, row []byte) {
		g.Sub, g.Lo, g.Hi = len(row), -8, 7
		g.Scale = append(g.Scale, 1)
	},
	SetCodes: func(row []byte, codes []int8) {
		for i, c := range codes {
			row[i] = byte(c)
		}
	},
}

func factored(h []float64, cols int, damping float64, threads int, k *kernels.Set) (gptqProblem, error) {
	p, err := obs.New(context.Background(), h, cols, obs.Options{ByEnergy: true, Damping: damping, Threads: threads}, k)
	return gptqProblem{p}, err
}

// The worked example of the method: H = [[2,1],[1,2]], w = [.6,.6]. Rounding to nearest gives
// [1,1] and costs 0.96; GPTQ rounds the first up, lowers the second to 0.4 and ends at [1,0], 0.56.
func TestGPTQByHand(t *testing.T) {
	for _, k := range kernels.All() {
		p, err := factored([]float64{2, 1, 1, 2}, 2, 0, 1, k)
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range []float64{.81650, -.40825, 0, .70711} {
			if got := float64(p.Upper.Data[i]); math.Abs(got-want) > 1e-5 {
				t.Errorf("%s: U[%d] = %v, want %v", k.Level(), i, got, want)
			}
		}
		dst := make([]byte, 2)
		loss, plain, err := p.solve(context.Background(), dst, []float32{.6, .6}, 1, integers, nil, 1)
		if err != nil || !bytes.Equal(dst, []byte{1, 0}) {
			t.Errorf("%s: codes %v, err %v, want [1 0]", k.Level(), dst, err)
		}
		if math.Abs(loss-.56) > 1e-6 || math.Abs(plain-.96) > 1e-6 {
			t.Errorf("%s: losses %v and %v, want 0.56 and 0.96", k.Level(), loss, plain)
		}
	}
}

// moments is X^T X of correlated inputs, and the inputs.
func moments(rng *rand.Rand, tokens, cols int) ([]float64, []float64) {
	x := make([]float64, tokens*cols)
	for r := range tokens {
		common := rng.NormFloat64()
		for c := range cols {
			x[r*cols+c] = rng.NormFloat64()*(0.3+float64(c%7)) + common*2
		}
	}
	h := make([]float64, cols*cols)
	for r := range tokens {
		for i := range cols {
			for j := range cols {
				h[i*cols+j] += x[r*cols+i] * x[r*cols+j]
			}
		}
	}
	return h, x
}

// Across several blocks of columns and with dead inputs: the reported loss is the true d H d^T of
// the codes that were written, it is far below rounding's, and the codes are the same at any number
// of threads.
func TestGPTQLossIsTrue(t *testing.T) {
	const cols, rows, tokens = 320, 33, 900
	rng := rand.New(rand.NewPCG(4, 2))
	h, _ := moments(rng, tokens, cols)
	for i := range cols { // input 5 is never active
		h[5*cols+i], h[i*cols+5] = 0, 0
	}
	w := make([]float32, rows*cols)
	for i := range w {
		w[i] = float32(rng.NormFloat64() * 2)
	}
	for _, k := range kernels.All() {
		var first []byte
		for _, threads := range []int{1, 2} {
			p, err := factored(append([]float64(nil), h...), cols, 0.01, threads, k)
			if err != nil || p.Damping != 0.01 {
				t.Fatal(p, err)
			}
			dst := make([]byte, rows*cols)
			loss, plain, err := p.solve(context.Background(), dst, append([]float32(nil), w...), rows, integers, nil, threads)
			if err != nil {
				t.Fatal(err)
			}
			if first == nil {
				first = dst
			} else if !bytes.Equal(first, dst) {
				t.Errorf("%s: codes differ between 1 and %d threads", k.Level(), threads)
			}
			var mean float64
			for i := range cols {
				mean += h[i*cols+i] / cols
			}
			mean += 1.0 / cols // the dead input counts as 1
			trueLoss := func(code func(r, c int) float64) (sum float64) {
				for r := 0; r < rows; r += gptqBatch {
					d := make([]float64, cols)
					for c := range cols {
						d[c] = float64(w[r*cols+c]) - code(r, c)
					}
					for i := range cols {
						for j := range cols {
							v := h[i*cols+j]
							if i == j {
								if i == 5 {
									v = 1
								}
								v += 0.01 * mean
							}
							sum += d[i] * v * d[j]
						}
					}
				}
				return sum
			}
			want := trueLoss(func(r, c int) float64 { return float64(int8(dst[r*cols+c])) })
			wantPlain := trueLoss(func(r, c int) float64 { return min(max(math.RoundToEven(float64(w[r*cols+c])), -8), 7) })
			if math.Abs(loss-want) > 2e-3*want || math.Abs(plain-wantPlain) > 2e-3*wantPlain {
				t.Errorf("%s: reported losses %v, %v; true ones %v, %v", k.Level(), loss, plain, want, wantPlain)
			}
			if loss > 0.65*plain {
				t.Errorf("%s: loss %v, rounding's %v: no gain", k.Level(), loss, plain)
			}
		}
	}
}

// With H = I there is nothing to repair: GPTQ is rounding to nearest, for every block type.
func TestGPTQOfUncorrelatedInputsIsRounding(t *testing.T) {
	const cols, rows = 512, 3
	h := make([]float64, cols*cols)
	for i := range cols {
		h[i*cols+i] = 1
	}
	rng := rand.New(rand.NewPCG(7, 7))
	w := make([]float32, rows*cols)
	for i := range w {
		w[i] = float32(rng.NormFloat64())
	}
	for _, info := range storage.All() {
		if info.Grid == nil {
			continue
		}
		rowBytes, err := info.Type.RowBytes(cols)
		if err != nil {
			t.Fatal(err)
		}
		p, err := factored(append([]float64(nil), h...), cols, 0, 1, kernels.For("portable"))
		if err != nil {
			t.Fatal(err)
		}
		dst := make([]byte, rows*int(rowBytes))
		loss, plain, err := p.solve(context.Background(), dst, append([]float32(nil), w...), rows, info, nil, 1)
		if err != nil {
			t.Fatal(err)
		}
		// the search keeps its codes where a scale came out zero and the legacy types round half
		// up with an unrounded scale, so single codes may be better here than the search's
		if loss > plain*(1+1e-6) || loss < plain*0.93 {
			t.Errorf("%s: loss %v, the search's own %v", info.Type, loss, plain)
		}
	}
}

// A second-moment matrix of too few tokens is singular: damping rises until it can be factored.
func TestGPTQRaisesDamping(t *testing.T) {
	h := []float64{1, 1 + 1e-9, 1 + 1e-9, 1}
	if p, err := factored(h, 2, 1e-12, 1, kernels.For("portable")); err != nil || p.Damping <= 1e-12 || p.Damping > 1 {
		t.Errorf("%v, err %v", p, err)
	}
	if _, err := factored([]float64{math.NaN()}, 1, 0.01, 1, kernels.For("portable")); err == nil {
		t.Error("NaN moments accepted")
	}
}

// What was pruned stays pruned: zeros come out as zeros in every type that can hold one, and the
// weights that stay take up the error of rounding them.
func TestGPTQKeepsZeros(t *testing.T) {
	const cols, rows = 256, 3
	rng := rand.New(rand.NewPCG(4, 4))
	h, _ := moments(rng, 400, cols)
	w := make([]float32, rows*cols)
	for i := range w {
		if i%2 == 1 {
			w[i] = float32(rng.NormFloat64())
		}
	}
	for _, typ := range []storage.Type{"q8_0", "q4_0", "q5_0", "q3_k", "q6_k"} {
		info := storage.MustLookup(typ)
		rowBytes, err := typ.RowBytes(cols)
		if err != nil {
			t.Fatal(err)
		}
		p, err := factored(append([]float64(nil), h...), cols, 0.01, 1, kernels.For("portable"))
		if err != nil {
			t.Fatal(err)
		}
		dst := make([]byte, rows*int(rowBytes))
		if _, _, err := p.solve(context.Background(), dst, append([]float32(nil), w...), rows, info, nil, 1); err != nil {
			t.Fatal(err)
		}
		back := make([]float32, rows*cols)
		info.Decode(back, dst)
		kept := 0
		for i, v := range back {
			if w[i] == 0 && v != 0 {
				t.Fatalf("%s: pruned weight %d came back as %v", typ, i, v)
			}
			if v != 0 {
				kept++
			}
		}
		if kept < rows*cols/3 {
			t.Errorf("%s: only %d weights left", typ, kept)
		}
	}
}
