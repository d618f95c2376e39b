package lora

import (
	"fmt"
	"slices"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir"
)

// matrix is the shape of a weight with all dimensions but the first in one, as PEFT treats
// convolutions.
func matrix(t *ir.Tensor) (rows, cols int) {
	if len(t.Shape) == 0 || t.Shape[0] == 0 {
		return 1, int(t.Elems())
	}
	return t.Shape[0], int(t.Elems()) / t.Shape[0]
}

func sameShape(a *tensor, t *ir.Tensor) error {
	if !slices.Equal(a.shape, t.Shape) {
		return fmt.Errorf("%w: %v in the adapter, %v in the base (%s)", ErrShape, a.shape, t.Shape, t.Name)
	}
	return nil
}

// fit checks the factors of a module against its weight and finds out how the weight is stored. A
// linear layer is [out,in]; Conv1D of GPT-2 is [in,out], which the shapes tell unless the weight
// is square: then fan_in_fan_out of the configuration decides, except for GGUF, which always
// stores [out,in].
func (r *resolver) fit(o *op, t *ir.Tensor) error {
	m := o.module
	rows, cols := matrix(t)
	fail := func(x *tensor, format string, args ...any) error {
		return &fault.Error{File: o.a.File, Tensor: x.name, Op: passName, Err: fmt.Errorf("%w: "+format, append([]any{ErrShape}, args...)...), Hint: r.baseHint(o.a)}
	}
	if m.ia3 != nil {
		n, perInput := m.ia3.elems(), m.perInput()
		in, out := cols, rows
		if len(t.Shape) > 2 { // a convolution [out,in,kernel...]: a factor for every input plane
			in = t.Shape[1]
		}
		fits := func() bool { return perInput && n == in || !perInput && n == out }
		if len(t.Shape) == 2 && (!fits() || rows == cols && o.a.Config.FanInOut && r.m.Format != "gguf") {
			o.flip = true
			in, out = rows, cols
		}
		if !fits() {
			return fail(m.ia3, "%v scales %d values, %s is %v", m.ia3.shape, n, t.Name, t.Shape)
		}
		return nil
	}
	_, in := m.a.flat()
	out, _ := m.b.flat()
	if m.embedding {
		o.flip = true
		if in != rows {
			return fail(m.a, "%v, but %s has %d rows in the base", m.a.shape, t.Name, rows)
		}
		if out != cols {
			return fail(m.b, "%v, but %s has %d columns in the base", m.b.shape, t.Name, cols)
		}
		return r.fitMagnitude(o, out)
	}
	straight := out == rows && in == cols
	flipped := out == cols && in == rows && len(t.Shape) == 2
	o.flip = flipped && (!straight || o.a.Config.FanInOut && r.m.Format != "gguf")
	if straight || flipped {
		return r.fitMagnitude(o, out)
	}
	wantIn, wantOut := cols, rows
	if o.a.Config.FanInOut && len(t.Shape) == 2 {
		wantIn, wantOut = rows, cols
	}
	if in != wantIn {
		return fail(m.a, "%v, but the base has %d input columns there, expected [%d %d] (%s is %v)", m.a.shape, wantIn, m.rank, wantIn, t.Name, t.Shape)
	}
	return fail(m.b, "%v, but the base has %d outputs there, expected [%d %d] (%s is %v)", m.b.shape, wantOut, wantOut, m.rank, t.Name, t.Shape)
}

func (r *resolver) fitMagnitude(o *op, out int) error {
	if x := o.module.magnitude; x != nil && x.elems() != out {
		return &fault.Error{File: o.a.File, Tensor: x.name, Op: passName, Err: fmt.Errorf("%w: %v magnitudes for %d outputs", ErrShape, x.shape, out), Hint: r.baseHint(o.a)}
	}
	return nil
}

// fitBias checks what is added to, or scales, the bias of a module.
func (r *resolver) fitBias(o op, b *ir.Tensor) error {
	x := o.module.bias
	if x == nil {
		x = o.module.ia3
	}
	if int64(x.elems()) != b.Elems() {
		return fmt.Errorf("%w: %v for the bias %s of %v", ErrShape, x.shape, b.Name, b.Shape)
	}
	return nil
}

// perInput reports whether ia3_l scales inputs (feed-forward layers, [1,in]) or outputs ([out,1]).
func (m *module) perInput() bool {
	s := m.ia3.shape
	return len(s) >= 2 && s[0] == 1 && s[1] != 1
}
