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

// row copies what the outputs of a group read at a position.
func (p *patches) row(dst []float32, group, position int) {
	l := p.l
	if p.in == nil {
		copy(dst, p.x[position*l.cols:(position+1)*l.cols])
		return
	}
	var at [8]int // of the output
	dims := len(p.in)
	for i := dims - 1; i >= 0; i-- {
		at[i] = position % p.out[i]
		position /= p.out[i]
	}
	size := graph.Elems(p.in)
	channels := l.inputs() / l.groups
	taps := l.kernel()
	for k := range taps {
		offset, inside, rest := 0, true, k
		var tap [8]int
		for i := dims - 1; i >= 0; i-- {
			tap[i] = rest % p.kernel[i]
			rest /= p.kernel[i]
		}
		for i := range dims {
			var c int
			if l.op == "ConvTranspose" {
				c = at[i] + p.pad[i] - tap[i]*p.dil[i]
				inside = inside && c%p.stride[i] == 0
				c /= p.stride[i]
			} else {
				c = at[i]*p.stride[i] - p.pad[i] + tap[i]*p.dil[i]
			}
			if c < 0 || c >= p.in[i] {
				inside = false
			}
			offset = offset*p.in[i] + c
		}
		for c := range channels {
			v := float32(0)
			if inside {
				v = p.x[((position*l.inputs())+group*channels+c)*size+offset]
			}
			dst[c*taps+k] = v
		}
	}
}
