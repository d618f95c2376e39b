package runner_test

import (
	"context"
	"math"
	"path/filepath"
	"testing"

	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/runner"
)

func load(t testing.TB, m *ir.Model, opt runner.Options) *runner.Runner {
	t.Helper()
	r, err := runner.Load(context.Background(), m, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// logitsOf gives a row of logits for every token of a text.
func logitsOf(t testing.TB, r *runner.Runner, tokens []int32) []float32 {
	t.Helper()
	out := make([]float32, 0, len(tokens)*r.Vocab())
	err := r.NewSession().Append(context.Background(), tokens, runner.WantAll, func(pos int, row []float32) error {
		if pos != len(out)/r.Vocab() {
			t.Errorf("logits of position %d after %d rows", pos, len(out)/r.Vocab())
		}
		out = append(out, row...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// spread is the standard deviation of a set of logits.
func spread(x []float32) float64 {
	var s, ss float64
	for _, v := range x {
		s += float64(v)
		ss += float64(v) * float64(v)
	}
	n := float64(len(x))
	return math.Sqrt(ss/n - s/n*s/n)
}

// worst is the largest difference of two sets of logits, as a fraction of the spread of want. NaN
// counts as infinite.
func worst(got, want []float32) float64 {
	if len(got) != len(want) {
		return math.Inf(1)
	}
	var most float64
	for i, w := range want {
		d := math.Abs(float64(got[i]) - float64(w))
		if !(d <= most) {
			most = d
			if math.IsNaN(d) {
				return math.Inf(1)
			}
		}
	}
	return most / spread(want)
}

func argmax(x []float32) int32 {
	best := 0
	for i, v := range x {
		if v > x[best] {
			best = i
		}
	}
	return int32(best)
}

const architectures = "../testdata/architectures"

func TestReferenceLogits(t *testing.T) {
	for _, name := range []string{"llama", "mistral", "qwen2", "qwen3"} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(architectures, name)
			r := load(t, open(t, dir), runner.Options{})
			ref := filepath.Join(dir, "reference.safetensors")
			ids, shape := tokensOf(t, ref, "input_ids")
			want, _ := reference(t, ref, "logits")
			n := shape[1]
			for row := range shape[0] {
				size := n * r.Vocab()
				got := logitsOf(t, r, ids[row*n:(row+1)*n])
				w := worst(got, want[row*size:(row+1)*size])
				t.Logf("row %d: largest difference %.2g of the spread", row, w)
				if !(w <= 2e-4) {
					t.Errorf("row %d: largest difference %g of the spread, at most 2e-4", row, w)
				}
			}
		})
	}
}
