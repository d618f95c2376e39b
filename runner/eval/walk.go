package eval

import (
	"fmt"

	"github.com/pare-dev/pare/ir/graph"
)

// maxRank bounds the dimensions of what operators walk through.
const maxRank = 16

// broadcast is the shape to which shapes are stretched, aligned at their ends.
func broadcast(shapes ...[]int) ([]int, error) {
	rank := 0
	for _, s := range shapes {
		rank = max(rank, len(s))
	}
	out := make([]int, rank)
	for i := range out {
		out[i] = 1
	}
	for _, s := range shapes {
		for i, d := range s {
			switch o := &out[rank-len(s)+i]; {
			case d == *o || d == 1:
			case *o == 1:
				*o = d
			default:
				return nil, fmt.Errorf("shapes %v do not broadcast", shapes)
			}
		}
	}
	return out, graph.CheckShape(out)
}

// strides of a dense shape, in elements.
func strides(shape []int) []int {
	s := make([]int, len(shape))
	step := 1
	for i := len(shape) - 1; i >= 0; i-- {
		s[i] = step
		step *= shape[i]
	}
	return s
}

// stretched are the strides of a shape that is broadcast to out: 0 where it is stretched.
func stretched(shape, out []int) []int {
	s, own := make([]int, len(out)), strides(shape)
	for i, d := range shape {
		if d != 1 {
			s[len(out)-len(shape)+i] = own[i]
		}
	}
	return s
}

// maxOperands bounds the tensors that a walk goes through at once.
const maxOperands = 4

// walk goes through an array and operands that are laid over it with strides, row by row. Dimensions that
// can be passed as one are merged, so that rows are as long as possible.
type walk struct {
	dims  []int // without the row's
	n     int   // elements of a row
	steps [maxOperands][]int
	inner [maxOperands]int // strides within a row
}

// newWalk merges what can be merged of shape. Each operand has one stride per dimension.
func newWalk(shape []int, operands ...[]int) (*walk, error) {
	if len(operands) > maxOperands {
		return nil, fmt.Errorf("%d operands", len(operands))
	}
	var dims []int
	var steps [maxOperands][]int
	for i := len(shape) - 1; i >= 0; i-- {
		if shape[i] == 1 {
			continue
		}
		merge := len(dims) > 0
		for k, s := range operands {
			merge = merge && s[i] == steps[k][len(dims)-1]*dims[len(dims)-1]
		}
		if merge {
			dims[len(dims)-1] *= shape[i]
			continue
		}
		dims = append(dims, shape[i])
		for k, s := range operands {
			steps[k] = append(steps[k], s[i])
		}
	}
	w := &walk{n: 1}
	if len(dims) > 0 {
		w.n = dims[0]
		for k := range operands {
			w.inner[k] = steps[k][0]
		}
	}
	for i := len(dims) - 1; i >= 1; i-- {
		w.dims = append(w.dims, dims[i])
		for k := range operands {
			w.steps[k] = append(w.steps[k], steps[k][i])
		}
	}
	if len(w.dims) > maxRank {
		return nil, fmt.Errorf("more than %d dimensions that do not merge", maxRank)
	}
	return w, nil
}

// rows is the number of rows.
func (w *walk) rows() int { return graph.Elems(w.dims) }

// cursor is a place of a walk: where the operands' rows begin.
type cursor struct {
	w   *walk
	idx [maxRank]int
	off [maxOperands]int
}

// at is the cursor at a row.
func (w *walk) at(row int) cursor {
	c := cursor{w: w}
	for i := len(w.dims) - 1; i >= 0 && row > 0; i-- {
		c.idx[i] = row % w.dims[i]
		row /= w.dims[i]
		for k := range c.off {
			if w.steps[k] != nil {
				c.off[k] += c.idx[i] * w.steps[k][i]
			}
		}
	}
	return c
}

// next moves to the row that follows.
func (c *cursor) next() {
	w := c.w
	for i := len(w.dims) - 1; i >= 0; i-- {
		c.idx[i]++
		for k := range c.off {
			if w.steps[k] != nil {
				c.off[k] += w.steps[k][i]
			}
		}
		if c.idx[i] < w.dims[i] {
			return
		}
		for k := range c.off {
			if w.steps[k] != nil {
				c.off[k] -= w.dims[i] * w.steps[k][i]
			}
		}
		c.idx[i] = 0
	}
}

// axisOf is an axis that may count from the end.
func axisOf(axis, rank int) (int, error) {
	if axis < -rank || axis >= max(rank, 1) {
		return 0, fmt.Errorf("axis %d of %d dimensions", axis, rank)
	}
	if axis < 0 {
		axis += rank
	}
	return axis, nil
}

// axesOf are distinct axes that may count from the end.
func axesOf(axes []int, rank int) ([]int, error) {
	out := make([]int, len(axes))
	seen := make([]bool, rank+1)
	for i, a := range axes {
		a, err := axisOf(a, rank)
		if err != nil {
			return nil, err
		}
		if seen[a] {
			return nil, fmt.Errorf("axis %d twice", a)
		}
		seen[a] = true
		out[i] = a
	}
	return out, nil
}
