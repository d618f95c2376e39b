package distill

import (
	"encoding/json"
	"math"
	"os"
	"testing"

	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/internal/cpu"
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/ir"
)

const books = "../testdata/books-llama/model"

func open(t testing.TB, path string) *ir.Model {
	t.Helper()
	m, err := formats.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

func loadBooks(t testing.TB, positions int) *Net[float32] {
	t.Helper()
	n, err := Load[float32](t.Context(), open(t, books), kernels.For(cpu.Best()), 2, positions, nil)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// counted are sequences that reference.py makes too.
func counted(seqs, length int) [][]int32 {
	out := make([][]int32, seqs)
	for i := range out {
		for j := range length {
			out[i] = append(out[i], int32((i*length+j)*37%4000+5))
		}
	}
	return out
}

// One batch of a trained model has the loss and the gradients that PyTorch computes (testdata/reference.py).
func TestTorch(t *testing.T) {
	b, err := os.ReadFile("testdata/torch.json")
	if err != nil {
		t.Fatal(err)
	}
	var want map[string]struct {
		Loss  float64
		Norms map[string]float64
	}
	if err := json.Unmarshal(b, &want); err != nil || len(want) != 3 {
		t.Fatal(err, len(want))
	}
	seqs := counted(3, 64)
	student, teacher := loadBooks(t, 64), loadBooks(t, 64)
	clear(teacher.blocks[len(teacher.blocks)-1].down.w.W)
	for _, p := range student.Params() {
		p.Grad = make([]float32, len(p.W))
	}
	for name, w := range want {
		l, by := Loss{Kind: Kind(name), Temperature: 2}, teacher
		if name == "cross_entropy" {
			l, by = Loss{}, nil
		}
		student.ZeroGrad()
		x, err := student.Forward(t.Context(), seqs, true)
		if err != nil {
			t.Fatal(err)
		}
		var tx kernels.Matrix
		if by != nil {
			if tx, err = by.Forward(t.Context(), seqs, false); err != nil {
				t.Fatal(err)
			}
		}
		dx := kernels.View(make([]float32, x.Rows*x.Cols), x.Rows, x.Cols)
		sum, err := student.Score(t.Context(), l, Plain(seqs), x, dx, by, tx, 1)
		if err != nil {
			t.Fatal(err)
		}
		if err := student.Backward(t.Context(), seqs, dx, nil); err != nil {
			t.Fatal(err)
		}
		got := 4 * sum.Divergence
		if by == nil {
			got = sum.CrossEntropy
		}
		if math.Abs(got-w.Loss) > 1e-4*w.Loss {
			t.Errorf("%s: loss %v, PyTorch has %v", name, got, w.Loss)
		}
		if len(w.Norms) != len(student.Params()) {
			t.Fatalf("%d gradients, %d parameters", len(w.Norms), len(student.Params()))
		}
		for _, p := range student.Params() {
			if norm := math.Sqrt(dot(p.Grad, p.Grad)); math.Abs(norm-w.Norms[p.Name]) > 1e-4*w.Norms[p.Name] {
				t.Errorf("%s: the gradient of %s is %v long, PyTorch's %v", name, p.Name, norm, w.Norms[p.Name])
			}
		}
	}
}
