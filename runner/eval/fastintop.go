package eval

import (
	"math"
	"slices"

	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	rules["QLinearConv"] = (*integers).qlinearConv
	rules["QLinearMatMul"] = (*integers).qlinearMatMul
	rules["MatMulInteger"] = (*integers).matMulInteger
	rules["ConvInteger"] = (*integers).convInteger
	for _, op := range []string{"QLinearConv", "QLinearMatMul", "MatMulInteger", "ConvInteger"} {
		integerOps[op] = true
	}
}

// qlinear reads what QLinearConv and QLinearMatMul have in common: activations, constant weights and the codes of
// the result, with their parameters, from so many inputs.
func (u *integers) qlinear(s *step, p *product, axis, n int) bool {
	if len(s.in) < 8 || len(s.out) != 1 {
		return false
	}
	x, ok := u.affine(u.p.specs[s.in[0]].Type, s.in[1], s.in[2])
	y, ok2 := u.affine(s.Out[0].Type, s.in[6], s.in[7])
	f, ok3 := u.weights(s.in[3], s.in[4], s.in[5], axis, n)
	if !ok || !ok2 || !ok3 {
		return false
	}
	p.f = f
	p.tail = tail{lo: float32(math.Inf(-1)), hi: float32(math.Inf(1)), codes: &y, out: s.out[0]}
	if bias := s.input(8); bias >= 0 && u.p.specs[bias].Type != graph.Undefined {
		if !u.p.specs[bias].Const {
			return false
		}
		p.bias = elems[int32](u.p.specs[bias].Known)
	}
	p.x = codeSlot{-1, x}
	return true
}

func (u *integers) qlinearConv(_ int, s *step) bool {
	c := &codeConv{}
	if w := u.p.specs[s.in[3]].Shape; !u.qlinear(s, &c.product, 0, w[0]) || !c.plan(u, s, s.in[0], s.in[3]) {
		return false
	}
	c.x.slot = u.unsigned(s.in[0])
	u.emit(&c.product, s.node, c)
	return true
}

func (u *integers) qlinearMatMul(_ int, s *step) bool {
	d := &codeDense{}
	if !d.shapes(u, s, s.in[0], s.in[3]) || !u.qlinear(s, &d.product, 1, d.out) || !d.pack(s.node, 1) {
		return false
	}
	d.x.slot = u.unsigned(s.in[0])
	u.emit(&d.product, s.node, d)
	return true
}

// shapes reads those of rows and of a matrix.
func (d *codeDense) shapes(u *integers, s *step, x, weights int) bool {
	w, rows := u.p.specs[weights].Shape, u.p.specs[x].Shape
	if len(w) != 2 || len(rows) == 0 || rows[len(rows)-1] != w[0] || graph.Elems(w) == 0 || graph.Elems(s.Out[0].Shape) == 0 {
		return false
	}
	d.in, d.out = w[0], w[1]
	d.rows = graph.Elems(rows) / d.in
	return true
}

// sums takes what stands behind the integer products of DynamicQuantizeLinear into their step: the sums are made
// floats, times a scale that the run knows and constant ones of the channels, plus a constant. The shape of constants
// ends with so many dimensions of 1 behind the channels. A step of its inputs is appended where the last part stood.
func (u *integers) sums(s *step, p *product, weights, n, behind int, pack func() placer) bool {
	zero := s.input(2)
	if u.p.specs[s.in[0]].Type != graph.Uint8 || zero >= 0 && graph.Elems(u.p.specs[zero].Shape) != 1 {
		return false
	}
	cast, t := u.only(s.out[0])
	if t == nil || t.node.Op != "Cast" || t.Out[0].Type != graph.Float32 {
		return false
	}
	times, t := u.only(t.out[0])
	if t == nil || t.node.Op != "Mul" || t.in[0] == t.in[1] || !slices.Equal(t.Out[0].Shape, s.Out[0].Shape) {
		return false
	}
	scale, w, ok := u.scales(t.in[0]+t.in[1]-u.p.steps[cast].out[0], n, behind)
	codes, ok2 := u.centred(weights, s.input(3))
	if !ok || !ok2 {
		return false
	}
	p.f, p.x = factors{codes: codes, scale: w}, codeSlot{s.in[0], kernels.Affine{Scale: 1}}
	p.tail = tail{out: t.out[0], steps: []int{cast, times}}
	if plus, b := u.only(t.out[0]); b != nil && b.node.Op == "Add" && b.in[0] != b.in[1] && slices.Equal(b.Out[0].Shape, s.Out[0].Shape) {
		if v := u.channels(b.in[0]+b.in[1]-t.out[0], n, behind); len(v) == n {
			p.shift = v
			p.tail.out, p.steps = b.out[0], append(p.steps, plus)
		}
	}
	how := pack()
	if how == nil {
		return false
	}
	u.take(p.steps)
	// the product of scales may stand behind this node: it is ready where the sums are scaled
	last := slices.Max(p.steps)
	u.later[last] = append(u.later[last], func() {
		u.add(s.node, []int{s.in[0], zero, scale}, []int{p.tail.out}, how, Step{})
	})
	return true
}

func (u *integers) matMulInteger(_ int, s *step) bool {
	d := &codeDense{dynamic: true}
	return d.shapes(u, s, s.in[0], s.in[1]) && u.sums(s, &d.product, s.in[1], d.out, 0, func() placer {
		u.follow(&d.product, &d.rowwise, d.out, false)
		if !d.pack(s.node, 1) {
			return nil
		}
		return d
	})
}

func (u *integers) convInteger(_ int, s *step) bool {
	c := &codeConv{dynamic: true}
	w := u.p.specs[s.in[1]].Shape
	if s.node.Int("group", 1) != 1 { // few channels at a time are not worth it
		return false
	}
	return u.sums(s, &c.product, s.in[1], w[0], len(w)-2, func() placer {
		if !c.plan(u, s, s.in[0], s.in[1]) {
			return nil
		}
		return c
	})
}

// channels are the numbers of a constant that has one, or n that stand so many dimensions before its end.
func (u *integers) channels(slot, n, behind int) []float32 {
	s := u.p.specs[slot]
	if !s.Const || s.Type != graph.Float32 {
		return nil
	}
	elems := elems[float32](s.Known)
	if at := len(s.Shape) - 1 - behind; len(elems) == 1 || len(elems) == n && at >= 0 && s.Shape[at] == n {
		return elems
	}
	return nil
}

// centred are constant codes, less their zero point, where it is that of the middle.
func (u *integers) centred(slot, zero int) ([]int8, bool) {
	s := u.p.specs[slot]
	if !s.Const || s.Type != graph.Int8 && s.Type != graph.Uint8 {
		return nil, false
	}
	centre := byte(0)
	if s.Type == graph.Uint8 {
		centre = kernels.Signed
	}
	if zero < 0 || u.p.specs[zero].Type == graph.Undefined {
		if centre != 0 {
			return nil, false
		}
	} else if z := u.p.specs[zero]; !z.Const || slices.ContainsFunc(z.Known.Data, func(b byte) bool { return b != centre }) {
		return nil, false
	}
	codes := make([]int8, len(s.Known.Data))
	for i, b := range s.Known.Data {
		codes[i] = int8(b ^ centre)
	}
	return codes, true
}

// scales takes a factor of n channels apart: one number that a run knows, and constants.
func (u *integers) scales(slot, n, behind int) (scale int, w []float32, ok bool) {
	if i, made := u.maker[slot]; made && u.p.steps[i].node.Op == "Mul" && len(u.p.steps[i].in) == 2 {
		for k, c := range u.p.steps[i].in {
			other := u.p.steps[i].in[1-k]
			o := u.p.specs[other]
			w := u.channels(c, n, behind)
			if w == nil || o.Known != nil || graph.Elems(o.Shape) != 1 || o.Type != graph.Float32 {
				continue
			}
			if len(w) == 1 {
				w = slices.Repeat(w, n)
			}
			return other, w, true
		}
	}
	if s := u.p.specs[slot]; graph.Elems(s.Shape) == 1 && s.Type == graph.Float32 && s.Known == nil {
		return slot, slices.Repeat([]float32{1}, n), true
	}
	return 0, nil, false
}
