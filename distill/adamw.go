package distill

import (
	"context"
	"math"

	"github.com/pare-dev/pare/internal/par"
)

// AdamW is the optimizer (Loshchilov and Hutter, arXiv 1711.05101): m and v are moving averages of the
// gradient and its square, and p -= rate ((m/(1-b1^t)) / (sqrt(v/(1-b2^t)) + eps) + decay p).
type AdamW struct {
	Beta1, Beta2, Eps float64
	Decay             float64 // of matrices; norms and biases have none
	step              int
	state             []moments // as the trained parameters
}

type moments struct{ m, v []float32 }

// adamChunk is the number of weights that one core updates at a time.
const adamChunk = 1 << 15

// norm is the square root of the sum of squares of all gradients, in float64 in the order of parameters.
func norm(ctx context.Context, threads int, params []*Param[float32]) (float64, error) {
	sums := make([]float64, len(params))
	err := par.Range(ctx, threads, len(params), 1, func(_, i, _ int) error {
		sums[i] = dot(params[i].Grad, params[i].Grad)
		return nil
	})
	var s float64
	for _, v := range sums {
		s += v
	}
	return math.Sqrt(s), err
}

// Step moves the parameters by their gradients times scale. A weight whose mask is set stays zero.
func (o *AdamW) Step(ctx context.Context, threads int, params []*Param[float32], masks map[*Param[float32]][]bool, rate, scale float64) error {
	if o.state == nil {
		for _, p := range params {
			o.state = append(o.state, moments{make([]float32, len(p.W)), make([]float32, len(p.W))})
		}
	}
	o.step++
	c1, c2 := 1-math.Pow(o.Beta1, float64(o.step)), 1-math.Pow(o.Beta2, float64(o.step))
	b1, b2, eps := float32(o.Beta1), float32(o.Beta2), float32(o.Eps)
	type piece struct{ p, lo int }
	var pieces []piece
	for i, p := range params {
		for lo := 0; lo < len(p.W); lo += adamChunk {
			pieces = append(pieces, piece{i, lo})
		}
	}
	return par.Range(ctx, threads, len(pieces), 1, func(_, i, _ int) error {
		p, lo := params[pieces[i].p], pieces[i].lo
		hi := min(lo+adamChunk, len(p.W))
		w, g, m, v := p.W[lo:hi], p.Grad[lo:hi], o.state[pieces[i].p].m[lo:hi], o.state[pieces[i].p].v[lo:hi]
		var gone []bool
		if mask := masks[p]; mask != nil {
			gone = mask[lo:hi]
		}
		var decay float32
		if p.Rows > 1 {
			decay = float32(rate * o.Decay)
		}
		r1, r2, s := float32(rate/c1), float32(1/c2), float32(scale)
		for j, gj := range g {
			if gone != nil && gone[j] {
				continue
			}
			gj *= s
			m[j] = float32(b1*m[j]) + float32((1-b1)*gj)
			v[j] = float32(b2*v[j]) + float32((1-b2)*float32(gj*gj))
			w[j] -= float32(r1*m[j])/(float32(math.Sqrt(float64(v[j]*r2)))+eps) + float32(decay*w[j])
		}
		return nil
	})
}
