package distill

import (
	"math"

	"github.com/pare-dev/pare/ir"
)

// angles are cosines and sines [positions, HeadDim/2] of the rotations of a decoder.
type angles[T number] struct {
	half     int
	cos, sin []T
}

func newAngles[T number](d *ir.Decoder, positions int) angles[T] {
	speeds := d.RopeSpeeds()
	a := angles[T]{len(speeds), make([]T, positions*len(speeds)), make([]T, positions*len(speeds))}
	for p := range positions {
		for i, v := range speeds {
			s, c := math.Sincos(float64(float32(p) * v)) // the product in float32, as runtimes have it
			a.cos[p*a.half+i], a.sin[p*a.half+i] = T(c), T(s)
		}
	}
	return a
}

// rotate turns the heads of a row at a position: element i with element i+half. back turns the other
// way, which is the gradient.
func (a *angles[T]) rotate(x []T, position int, back bool) {
	cos, sin := a.cos[position*a.half:][:a.half], a.sin[position*a.half:][:a.half]
	for h := 0; h < len(x); h += 2 * a.half {
		lo, hi := x[h:][:a.half], x[h+a.half:][:a.half]
		for i, c := range cos {
			s := sin[i]
			if back {
				s = -s
			}
			u, v := lo[i], hi[i]
			lo[i] = T(u*c) - T(v*s)
			hi[i] = T(v*c) + T(u*s)
		}
	}
}
