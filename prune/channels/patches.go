package channels

import (
	"github.com/pare-dev/pare/ir/graph"
)

// patches gives what the outputs of a layer read, position by position.
type patches struct {
	l                        *layer
	in, out                  []int // spatial sizes
	kernel, stride, dil, pad []int // pad is that at the beginning
	channels, outs           int
	positions                int
	x, y                     []float32
}

// open looks at an input of a layer and at the output of the layer that it stands for. It says no where it does not
// know how they belong together.
func (l *layer) open(x, y *graph.Tensor) (*patches, bool) {
	p := &patches{l: l, x: graph.Of[float32](x), y: graph.Of[float32](y)}
	w := l.n.In[1].Const.Shape
	if x.Type != graph.Float32 || y.Type != graph.Float32 || len(x.Shape) == 0 || len(y.Shape) == 0 || len(p.x) == 0 || len(p.y) == 0 {
		return nil, false
	}
	if len(w) == 2 {
		p.channels, p.outs = x.Shape[len(x.Shape)-1], y.Shape[len(y.Shape)-1]
		p.positions = len(p.x) / p.channels
		return p, p.channels == w[l.inAxis] && len(p.y) == p.positions*p.outs
	}
	dims := len(w) - 2
	if len(x.Shape) != dims+2 || len(y.Shape) != dims+2 || dims > 3 || x.Shape[0] != y.Shape[0] {
		return nil, false
	}
	n := l.n
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
	p.channels, p.outs, p.in, p.out, p.kernel = x.Shape[1], y.Shape[1], x.Shape[2:], y.Shape[2:], w[2:]
	p.stride, p.dil, p.pad = list("strides", 1), list("dilations", 1), make([]int, dims)
	if v := n.Ints("pads"); len(v) == 2*dims {
		copy(p.pad, v)
	}
	auto := n.Str("auto_pad", "NOTSET")
	if n.Op == "ConvTranspose" && (auto != "NOTSET" || n.Has("output_shape")) {
		return nil, false
	}
	for i := range dims {
		if p.stride[i] < 1 || p.dil[i] < 1 {
			return nil, false
		}
		switch auto {
		case "SAME_UPPER", "SAME_LOWER":
			total := max((p.out[i]-1)*p.stride[i]+(p.kernel[i]-1)*p.dil[i]+1-p.in[i], 0)
			if p.pad[i] = total / 2; auto == "SAME_LOWER" {
				p.pad[i] = total - total/2
			}
		case "VALID":
			p.pad[i] = 0
		}
	}
	p.positions = x.Shape[0] * graph.Elems(p.out)
	return p, true
}

// inputs copies what the outputs of a group read at a position: input channel, then place in the kernel.
func (p *patches) inputs(dst []float32, group, position int) {
	per := p.channels / p.l.groups
	if p.in == nil {
		copy(dst, p.x[position*p.channels:][:p.channels])
		return
	}
	var at, tap [3]int
	for i := len(p.out) - 1; i >= 0; i-- {
		at[i] = position % p.out[i]
		position /= p.out[i]
	}
	size, taps := graph.Elems(p.in), graph.Elems(p.kernel)
	first := (position*p.channels + group*per) * size
	for k := range taps {
		offset, inside, rest := 0, true, k
		for i := len(p.kernel) - 1; i >= 0; i-- {
			tap[i] = rest % p.kernel[i]
			rest /= p.kernel[i]
		}
		for i := range p.in {
			var c int
			if p.l.n.Op == "ConvTranspose" {
				c = at[i] + p.pad[i] - tap[i]*p.dil[i]
				inside = inside && c%p.stride[i] == 0
				c /= p.stride[i]
			} else {
				c = at[i]*p.stride[i] - p.pad[i] + tap[i]*p.dil[i]
			}
			inside = inside && c >= 0 && c < p.in[i]
			offset = offset*p.in[i] + c
		}
		for c := range per {
			v := float32(0)
			if inside {
				v = p.x[first+c*size+offset]
			}
			dst[c*taps+k] = v
		}
	}
}

// outputs copies some of the outputs at a position.
func (p *patches) outputs(dst []float32, which []int, position int) {
	size := 1
	if p.in != nil {
		size = graph.Elems(p.out)
	}
	y := p.y[position/size*p.outs*size+position%size:]
	for i, o := range which {
		dst[i] = y[o*size]
	}
}
