package distill

import (
	"math"
	"math/rand/v2"
	"slices"

	"github.com/pare-dev/pare/ir"
)

// LowRank says which matrices get a low-rank change beside them that learns in their place (LoRA, arXiv
// 2106.09685): y = x W^T + (x A^T) B^T Alpha/Rank.
type LowRank struct {
	Rank    int
	Alpha   float64
	RSLoRA  bool      // Alpha/sqrt(Rank) in place of Alpha/Rank (arXiv 2312.03732)
	Targets []ir.Role // matrices of blocks
	Seed    uint64
}

// Scale is what the change is multiplied with.
func (l LowRank) Scale() float64 {
	if l.RSLoRA {
		return l.Alpha / math.Sqrt(float64(l.Rank))
	}
	return l.Alpha / float64(l.Rank)
}

// Pair is the change of one matrix.
type Pair[T number] struct {
	Role  ir.Role
	Block int
	A, B  *Param[T] // [rank,in] and [out,rank]
}

// Attach puts changes beside the matrices and returns them in order of blocks. As in PEFT, A is uniform
// within 1/sqrt(in) of zero and B is zero, so that the model computes what it did.
func (n *Net[T]) Attach(o LowRank) (pairs []Pair[T]) {
	for _, b := range n.blocks {
		for i, l := range b.linears() {
			role := linearRoles[i].weight
			if !slices.Contains(o.Targets, role) {
				continue
			}
			// a stream for each matrix: what is drawn depends neither on the other targets nor on their order
			rng := rand.New(rand.NewPCG(o.Seed, uint64(b.index*len(linearRoles)+i))) //nolint:gosec // not a secret
			bound := 1 / math.Sqrt(float64(l.w.Cols))
			l.a = &Param[T]{Name: l.w.Name + " lora_A", Block: b.index, Rows: o.Rank, Cols: l.w.Cols, W: make([]T, o.Rank*l.w.Cols)}
			l.b = &Param[T]{Name: l.w.Name + " lora_B", Block: b.index, Rows: l.w.Rows, Cols: o.Rank, W: make([]T, l.w.Rows*o.Rank)}
			for j := range l.a.W {
				l.a.W[j] = T((2*rng.Float64() - 1) * bound)
			}
			l.scale = T(o.Scale())
			n.params = append(n.params, l.a, l.b)
			pairs = append(pairs, Pair[T]{role, b.index, l.a, l.b})
		}
	}
	return pairs
}
