package qgraph

import (
	"math"

	"github.com/pare-dev/pare/ir/graph"
)

// patches gives what the outputs of a layer read: rows of one element per column, for one group of the layer.
type patches struct {
	l                        *layer
	in, out                  []int // spatial sizes
	kernel, stride, dil, pad []int // pad is that at the beginning
	positions                int   // outputs per channel, over the batch
	batch                    int
	x                        []float32
}

// open looks at an input of the layer. It says no where it does not know how the layer reads it.
func (l *layer) open(t *graph.Tensor) (*patches, bool) {
	p := &patches{l: l, x: graph.Of[float32](t)}
	if l.op == "Gemm" || l.op == "MatMul" {
		if len(t.Shape) == 0 || t.Shape[len(t.Shape)-1] != l.cols {
			return nil, false
		}
		p.positions = len(p.x) / l.cols
		return p, p.positions > 0
	}
	dims := len(l.w.Shape) - 2
	if len(t.Shape) != dims+2 || t.Shape[1] != l.inputs() || t.Elems() == 0 {
		return nil, false
	}
	n := l.n
	p.batch, p.in, p.kernel = t.Shape[0], t.Shape[2:], l.w.Shape[2:]
	list := func(name string, def int) []int {
		if v := n.Ints(name); len(v) == dims {
			return v
		}
		v := make([]int, dims)
		for i := range v {
			v[i] = def
		}
		return v
	}
	p.stride, p.dil = list("strides", 1), list("dilations", 1)
	p.pad, p.out = make([]int, dims), make([]int, dims)
	p.positions = p.batch
	end := make([]int, dims)
	if v := n.Ints("pads"); len(v) == 2*dims {
		copy(p.pad, v)
		copy(end, v[dims:])
	}
	auto := n.Str("auto_pad", "NOTSET")
	for i := range dims {
		reach := (p.kernel[i]-1)*p.dil[i] + 1
		switch {
		case p.stride[i] < 1 || p.dil[i] < 1:
			return nil, false
		case l.op == "ConvTranspose":
			if auto != "NOTSET" || n.Has("output_shape") {
				return nil, false
			}
			p.out[i] = p.stride[i]*(p.in[i]-1) + list("output_padding", 0)[i] + reach - p.pad[i] - end[i]
		case auto == "SAME_UPPER" || auto == "SAME_LOWER":
			p.out[i] = (p.in[i] + p.stride[i] - 1) / p.stride[i]
			total := max((p.out[i]-1)*p.stride[i]+reach-p.in[i], 0)
			if p.pad[i] = total / 2; auto == "SAME_LOWER" {
				p.pad[i] = total - total/2
			}
		default:
			if auto == "VALID" {
				p.pad[i], end[i] = 0, 0
			}
			p.out[i] = (p.in[i]+p.pad[i]+end[i]-reach)/p.stride[i] + 1
		}
		if p.out[i] <= 0 {
			return nil, false
		}
		p.positions *= p.out[i]
	}
	return p, true
}

// pick is the i-th of n positions, spread evenly; shift in [0, 1) moves all of them.
func (p *patches) pick(i, n int, shift float64) int {
	return min(int(math.Floor((float64(i)+shift)*float64(p.positions)/float64(n))), p.positions-1)
}

// places is where in a tensor the elements lie that outputs at some positions read: at[tap*n+i] is that of the first
// channel, -1 in the padding, and a channel lies step elements behind the one before.
type places struct {
	at   []int
	n    int
	step int
}

// places looks up positions, which count outputs over the batch.
func (p *patches) places(positions []int) *places {
	n, l := len(positions), p.l
	if p.in == nil {
		s := &places{at: make([]int, n), n: n, step: 1}
		for i, at := range positions {
			s.at[i] = at * l.cols
		}
		return s
	}
	taps, dims, size := l.kernel(), len(p.in), graph.Elems(p.in)
	s := &places{at: make([]int, taps*n), n: n, step: size}
	out, tap := make([]int, dims), make([]int, dims)
	for i, position := range positions {
		for d := dims - 1; d >= 0; d-- {
			out[d] = position % p.out[d]
			position /= p.out[d]
		}
		image := position * l.inputs() * size
		clear(tap)
		for k := range taps {
			s.at[k*n+i] = p.offset(out, tap)
			if s.at[k*n+i] >= 0 {
				s.at[k*n+i] += image
			}
			for d := dims - 1; d >= 0; d-- {
				if tap[d]++; tap[d] < p.kernel[d] {
					break
				}
				tap[d] = 0
			}
		}
	}
	return s
}

// offset is the place in a channel that an output reads by a tap of the kernel, -1 outside.
func (p *patches) offset(out, tap []int) int {
	offset := 0
	for i, size := range p.in {
		var c int
		if p.l.op == "ConvTranspose" {
			c = out[i] + p.pad[i] - tap[i]*p.dil[i]
			if c%p.stride[i] != 0 {
				return -1
			}
			c /= p.stride[i]
		} else {
			c = out[i]*p.stride[i] - p.pad[i] + tap[i]*p.dil[i]
		}
		if c < 0 || c >= size {
			return -1
		}
		offset = offset*size + c
	}
	return offset
}

// columns copies what the positions read of channels [lo, hi) of x: a row of all positions for every tap of a channel.
func (s *places) columns(dst, x []float32, lo, hi int) {
	for c := lo; c < hi; c++ {
		plane := x[c*s.step:]
		for i, at := range s.at {
			v := float32(0)
			if at >= 0 {
				v = plane[at]
			}
			dst[i] = v
		}
		dst = dst[len(s.at):]
	}
}
