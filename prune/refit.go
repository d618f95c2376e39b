package prune

import (
	"github.com/pare-dev/pare/internal/kernels"
)

// refitSteps is how often all kept weights of a row are improved together. The loss falls by some tenths
// in the first ten steps and hardly after twenty.
const refitSteps = 20

func (o *Options) steps() int {
	if o.NoRefit {
		return 0
	}
	return refitSteps
}

// refit changes the weights of w that are not gone so that d h d^T falls, d = original - w, row by row:
// conjugate gradients on the masked problem, with the diagonal as preconditioner (as ALPS does, arXiv
// 2406.07831, section 3.3). w, original are [n,cols], h is [cols,cols] and positive definite. A row
// ends no worse than it began.
func refit(k *kernels.Set, w, original, h kernels.Matrix, gone []bool, steps int) {
	n, cols := w.Rows, w.Cols
	if steps == 0 {
		return
	}
	d := make([]float32, n*cols) // original - w
	for i := range n {
		o, x := original.Row(i), w.Row(i)
		for j := range o {
			d[i*cols+j] = o[j] - x[j]
		}
	}
	grad := kernels.View(make([]float32, n*cols), n, cols) // d h: what is left of the gradient
	k.GemmNN(grad, kernels.View(d, n, cols), h, false)
	p := kernels.View(make([]float32, n*cols), n, cols) // search directions
	hp := kernels.View(make([]float32, n*cols), n, cols)
	rz := make([]float64, n)
	// descend makes the next direction of a row from the preconditioned gradient.
	descend := func(i int) {
		g, dir, out := grad.Row(i), p.Row(i), gone[i*cols:][:cols]
		var now float64
		for j, v := range g {
			if !out[j] {
				now += float64(float64(v) * float64(v/h.Row(j)[j]))
			}
		}
		var beta float32
		if rz[i] > 0 {
			beta = float32(now / rz[i])
		}
		rz[i] = now
		for j, v := range g {
			if !out[j] {
				dir[j] = v/h.Row(j)[j] + float32(beta*dir[j])
			}
		}
	}
	for range steps {
		for i := range n {
			descend(i)
		}
		k.GemmNN(hp, p, h, false)
		for i := range n {
			dir, q := p.Row(i), hp.Row(i)
			var curve float64
			for j, v := range dir {
				curve += float64(float64(v) * float64(q[j]))
			}
			if !(curve > 0) || !(rz[i] > 0) {
				continue // it stands at the minimum
			}
			alpha := float32(rz[i] / curve)
			k.Axpy(w.Row(i), alpha, dir)
			k.Axpy(grad.Row(i), -alpha, q)
		}
	}
	// single precision may have gone wrong where h is nearly singular
	for i := range n {
		o, x := original.Row(i), w.Row(i)
		for j := range o {
			hp.Row(i)[j] = o[j] - x[j]
		}
	}
	k.GemmNN(grad, hp, h, false)
	start := kernels.View(d, n, cols)
	k.GemmNN(p, start, h, false)
	for i := range n {
		before, after := inner(start.Row(i), p.Row(i)), inner(hp.Row(i), grad.Row(i))
		if !(after <= before) {
			o, x, s := original.Row(i), w.Row(i), start.Row(i)
			for j := range o {
				x[j] = 0
				if !gone[i*cols+j] {
					x[j] = o[j] - s[j]
				}
			}
		}
	}
}

func inner(a, b []float32) (s float64) {
	for i, v := range a {
		s += float64(float64(v) * float64(b[i]))
	}
	return s
}
