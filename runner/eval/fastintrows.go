package eval

import (
	"slices"

	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/ir/graph"
)

// rowwise is what happens to the floats of a product while they are near: biases, functions, factors, and the codes
// that they become for the product after it.
type rowwise struct {
	then []func(k *kernels.Set, row []float32, from int) // the row begins at column from
	last *kernels.Affine                                 // of the codes, nil where floats leave
}

// follow takes steps behind a product of out columns, which makes floats, into it; with codes, those that the floats
// become as well.
func (u *integers) follow(p *product, r *rowwise, out int, codes bool) {
	if p.codes != nil {
		return
	}
	shape := u.p.specs[p.out].Shape
	for {
		i, s := u.only(p.out)
		if s == nil || s.node.Domain != "" || len(s.out) == 0 || s.out[0] < 0 || !slices.Equal(u.p.specs[s.out[0]].Shape, shape) {
			return
		}
		if a, ok := u.quantizer(s); ok && codes && s.in[0] == p.out {
			p.steps, p.out, r.last = append(p.steps, i), s.out[0], &a
			return
		}
		if !u.rowStep(s, p, r, out) {
			return
		}
		p.steps, p.out = append(p.steps, i), s.out[0]
	}
}

// rowStep takes in a step that works number by number, with constants for the columns.
func (u *integers) rowStep(s *step, p *product, r *rowwise, out int) bool {
	if u.p.specs[s.out[0]].Type != graph.Float32 {
		return false
	}
	if act := curveOf(s.node); act != nil {
		r.then = append(r.then, func(k *kernels.Set, row []float32, _ int) { act(k, row) })
		return true
	}
	o := other(s, p.out)
	if o < 0 {
		return false
	}
	f := &fast{p: u.p}
	v := f.rowOf(o, out)
	switch {
	case v == nil:
		return false
	case s.node.Op == "Add" && p.shift == nil && p.bias == nil && len(r.then) == 0:
		p.shift = v
	case s.node.Op == "Add":
		r.then = append(r.then, func(k *kernels.Set, row []float32, from int) { k.AddTo(row, row, v[from:from+len(row)]) })
	case s.node.Op == "Mul":
		r.then = append(r.then, func(k *kernels.Set, row []float32, from int) { k.MulTo(row, row, v[from:from+len(row)]) })
	default:
		return false
	}
	return true
}
