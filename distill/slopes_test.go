package distill

import (
	"math"
	"testing"

	"github.com/pare-dev/pare/internal/cpu"
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/ir"
)

// The slope of a column is what central differences of the loss in float64 give when the column is scaled.
func TestSlopes(t *testing.T) {
	m := open(t, "../testdata/architectures/qwen3")
	seqs := counted(2, 20)
	for _, s := range seqs {
		for j := range s {
			s[j] %= 280
		}
	}
	k := kernels.For(cpu.Best())
	loss := func(role ir.Role, block, col int, by float64, s []int32) float64 {
		n, err := Load[float64](t.Context(), m, k, 1, len(s), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range n.params {
			if p.Role == role && p.Block == block {
				for r := range p.Rows {
					p.W[r*p.Cols+col] *= by
				}
			}
		}
		x, err := n.Forward(t.Context(), [][]int32{s}, false)
		if err != nil {
			t.Fatal(err)
		}
		sum, err := n.Score(t.Context(), Loss{}, Plain([][]int32{s}), x, kernels.Dense[float64]{}, nil, kernels.Dense[float64]{}, 1)
		if err != nil {
			t.Fatal(err)
		}
		return sum.CrossEntropy / float64(sum.Next)
	}
	got := map[ir.Role][][]float64{}
	roles := []ir.Role{ir.RoleAttnO, ir.RoleMLPDown}
	err := Learner{K: k, Threads: 2}.Slopes(t.Context(), m, seqs, roles, func(x *ir.Tensor, columns []float64) error {
		if x.Block == 1 {
			got[x.Role] = append(got[x.Role], append([]float64(nil), columns...))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, role := range roles {
		for i, s := range seqs {
			for _, col := range []int{0, 17, 63} {
				const h = 1e-5
				want := (loss(role, 1, col, 1+h, s) - loss(role, 1, col, 1-h, s)) / (2 * h)
				if d := math.Abs(got[role][i][col] - want); d > 2e-6+2e-4*math.Abs(want) {
					t.Errorf("%s, sequence %d, column %d: %v, want %v", role, i, col, got[role][i][col], want)
				}
			}
		}
	}
	if err := (Learner{K: k, Memory: 1000}).Slopes(t.Context(), m, seqs, roles, nil); err == nil {
		t.Error("a kilobyte was enough")
	}
}
