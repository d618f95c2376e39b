package eval

import (
	"slices"

	"github.com/pare-dev/pare/ir/graph"
)

// window is a kernel that slides over up to three dimensions of space; networks of fewer dimensions have
// leading ones of size one.
type window struct {
	in, out           [3]int
	kernel            [3]int
	stride, dilation  [3]int
	before, after     [3]int
	rank              int // dimensions that the node has
	size, ins, outs   int // elements of kernel, input and output
	padded, unstrided bool
}

// maxSpace is the most dimensions of space.
const maxSpace = 3

// newWindow reads the attributes of a convolution or a pool. Pools round sizes up where they are told to.
func newWindow(c *Call, space, kernel []int) (*window, error) {
	n, rank := c.Node, len(space)
	if rank < 1 || rank > maxSpace || len(kernel) != rank {
		return nil, c.Fault("%d dimensions of space, a kernel of %d", rank, len(kernel))
	}
	w := &window{rank: rank}
	strides, dilations, pads := n.Ints("strides"), n.Ints("dilations"), n.Ints("pads")
	if len(pads) == 0 {
		pads = make([]int, 2*rank)
	}
	if len(strides) != 0 && len(strides) != rank || len(dilations) != 0 && len(dilations) != rank || len(pads) != 2*rank {
		return nil, c.Fault("strides %v, dilations %v, pads %v of %d dimensions", strides, dilations, pads, rank)
	}
	auto, ceil := n.Str("auto_pad", "NOTSET"), n.Int("ceil_mode", 0) != 0
	for i := range maxSpace {
		w.in[i], w.out[i], w.kernel[i], w.stride[i], w.dilation[i] = 1, 1, 1, 1, 1
		k := i - (maxSpace - rank)
		if k < 0 {
			continue
		}
		w.in[i], w.kernel[i] = space[k], kernel[k]
		if len(strides) > 0 {
			w.stride[i] = strides[k]
		}
		if len(dilations) > 0 {
			w.dilation[i] = dilations[k]
		}
		if w.stride[i] < 1 || w.dilation[i] < 1 || w.kernel[i] < 1 || pads[k] < 0 || pads[rank+k] < 0 ||
			w.stride[i] > graph.MaxElems>>20 || w.dilation[i] > graph.MaxElems>>40 || w.kernel[i] > 1<<20 {
			return nil, c.Fault("kernel %v, strides %v, dilations %v, pads %v", kernel, strides, dilations, pads)
		}
		reach := (w.kernel[i]-1)*w.dilation[i] + 1
		switch auto {
		case "SAME_UPPER", "SAME_LOWER":
			w.out[i] = (w.in[i] + w.stride[i] - 1) / w.stride[i]
			pad := max(0, (w.out[i]-1)*w.stride[i]+reach-w.in[i])
			w.before[i], w.after[i] = pad/2, pad-pad/2
			if auto == "SAME_LOWER" {
				w.before[i], w.after[i] = w.after[i], w.before[i]
			}
			continue
		case "VALID":
		case "NOTSET", "":
			w.before[i], w.after[i] = pads[k], pads[rank+k]
		default:
			return nil, c.Fault("auto_pad %q", auto)
		}
		room := w.in[i] + w.before[i] + w.after[i] - reach
		if room < 0 {
			return nil, c.Fault("a window of %d over %d elements", reach, w.in[i]+w.before[i]+w.after[i])
		}
		w.out[i] = room/w.stride[i] + 1
		if ceil && room%w.stride[i] != 0 && w.out[i]*w.stride[i] < w.in[i]+w.before[i] {
			w.out[i]++ // a last window that begins before the pad at the end
		}
	}
	w.size, w.ins, w.outs = graph.Elems(w.kernel[:]), graph.Elems(w.in[:]), graph.Elems(w.out[:])
	w.padded = w.before != [3]int{} || w.after != [3]int{}
	w.unstrided = w.stride == [3]int{1, 1, 1}
	if err := graph.CheckShape(w.out[:]); err != nil {
		return nil, c.Fault("%w", err)
	}
	return w, c.Fits(w.outs)
}

// shape is that of the output.
func (w *window) shape(n, channels int) []int {
	return slices.Concat([]int{n, channels}, w.out[maxSpace-w.rank:])
}

// point reports whether every output element reads the input element at its own place.
func (w *window) point() bool { return w.size == 1 && w.unstrided && !w.padded }

// taps calls fn for every element of the input under the window at an output place, with the index of the
// kernel's element.
func (w *window) taps(place [3]int, fn func(tap, at int)) {
	tap := 0
	for a := range w.kernel[0] {
		z := place[0]*w.stride[0] - w.before[0] + a*w.dilation[0]
		for b := range w.kernel[1] {
			y := place[1]*w.stride[1] - w.before[1] + b*w.dilation[1]
			if z < 0 || z >= w.in[0] || y < 0 || y >= w.in[1] {
				tap += w.kernel[2]
				continue
			}
			row := (z*w.in[1] + y) * w.in[2]
			for d := range w.kernel[2] {
				x := place[2]*w.stride[2] - w.before[2] + d*w.dilation[2]
				if x >= 0 && x < w.in[2] {
					fn(tap, row+x)
				}
				tap++
			}
		}
	}
}

// places calls fn for every output place in order.
func (w *window) places(fn func(i int, place [3]int)) {
	i := 0
	for z := range w.out[0] {
		for y := range w.out[1] {
			for x := range w.out[2] {
				fn(i, [3]int{z, y, x})
				i++
			}
		}
	}
}

// rowSpan is the range of output places along the last dimension whose tap d lies inside the input.
func (w *window) rowSpan(d int) (lo, hi int) {
	shift := d*w.dilation[2] - w.before[2] // of the tap, from place*stride
	if shift < 0 {
		lo = (-shift + w.stride[2] - 1) / w.stride[2]
	}
	if last := w.in[2] - 1 - shift; last >= 0 {
		hi = last/w.stride[2] + 1
	}
	hi = min(hi, w.out[2])
	return min(lo, hi), hi
}

// unfold writes, for every tap of the kernel, the row of the input elements that it meets: col [size,outs] of
// one channel.
func unfold[T number](w *window, col, x []T) {
	tap := 0
	for a := range w.kernel[0] {
		for b := range w.kernel[1] {
			for d := range w.kernel[2] {
				lo, hi := w.rowSpan(d)
				dst := col[tap*w.outs : (tap+1)*w.outs]
				w.rows(a, b, d, func(at, from int, inside bool) {
					row := dst[at : at+w.out[2]]
					if !inside {
						clear(row)
						return
					}
					clear(row[:lo])
					clear(row[hi:])
					if w.stride[2] == 1 {
						copy(row[lo:hi], x[from+lo:])
						return
					}
					for i := lo; i < hi; i++ {
						row[i] = x[from+i*w.stride[2]]
					}
				})
				tap++
			}
		}
	}
}

// foldBack adds rows of taps to the elements of the input that they meet: the transpose of unfold.
func foldBack[T number](w *window, x, col []T) {
	tap := 0
	for a := range w.kernel[0] {
		for b := range w.kernel[1] {
			for d := range w.kernel[2] {
				lo, hi := w.rowSpan(d)
				src := col[tap*w.outs : (tap+1)*w.outs]
				w.rows(a, b, d, func(at, from int, inside bool) {
					for i := lo; inside && i < hi; i++ {
						x[from+i*w.stride[2]] += src[at+i]
					}
				})
				tap++
			}
		}
	}
}

// rows calls fn for every row of output places: where it begins, where the row of input elements that tap
// (a,b,d) meets would begin, and whether there is one.
func (w *window) rows(a, b, d int, fn func(at, from int, inside bool)) {
	at := 0
	for oz := range w.out[0] {
		z := oz*w.stride[0] - w.before[0] + a*w.dilation[0]
		for oy := range w.out[1] {
			y := oy*w.stride[1] - w.before[1] + b*w.dilation[1]
			inside := z >= 0 && z < w.in[0] && y >= 0 && y < w.in[1]
			fn(at, (z*w.in[1]+y)*w.in[2]-w.before[2]+d*w.dilation[2], inside)
			at += w.out[2]
		}
	}
}
