package eval

import (
	"slices"

	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	for _, op := range []string{
		"Relu", "Clip", "LeakyRelu", "Elu", "Selu", "Celu", "Sigmoid", "HardSigmoid", "HardSwish", "Mish", "Tanh", "Softplus", "Softsign",
		"ThresholdedRelu", "Gelu", "Swish", "Erf", "Exp", "Log", "Sqrt", "Neg", "Abs", "Reciprocal", "Floor", "Ceil", "Round", "Sign", "Dropout",
	} {
		layouts[op] = keepLayout
	}
	for _, op := range []string{"Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "PRelu", "Sum", "Mean"} {
		layouts[op] = sameLayout
	}
	layouts["MaxPool"] = layoutPool
	layouts["AveragePool"] = layoutPool
	layouts["GlobalAveragePool"] = layoutGlobal
	layouts["GlobalMaxPool"] = layoutGlobal
	layouts["Concat"] = layoutConcat
	layouts["Transpose"] = layoutTranspose
	joins["Transpose"] = joinTranspose
	for _, op := range []string{"Squeeze", "Unsqueeze", "Reshape", "Slice", "Identity"} {
		layouts[op] = layoutView
	}
	layouts["Resize"] = layoutResize
	layouts["Upsample"] = layoutResize
}

// keepLayout serves what works number by number on its first input; others are single numbers.
func keepLayout(f *fast, s *step) bool {
	for _, slot := range s.in[1:] {
		if slot >= 0 && graph.Elems(f.p.specs[slot].Shape) != 1 {
			return false
		}
	}
	if len(s.out) != 1 || !slices.Equal(s.Out[0].Shape, f.p.specs[s.in[0]].Shape) {
		return false
	}
	f.mark(s.out[0])
	return true
}

// layoutView notices what leaves every number where it is.
func layoutView(f *fast, s *step) bool {
	in, _ := f.geometry(s.in[0])
	out, ok := f.geometry(s.out[0])
	if !ok || len(s.out) != 1 || in.n != out.n || in.c != out.c || in.pixels() != out.pixels() {
		return false
	}
	for _, slot := range s.in[1:] {
		if slot >= 0 && f.p.specs[slot].Later {
			return false
		}
	}
	if s.node.Op == "Slice" { // one that turns an axis round has the same shape
		for _, slot := range s.in[1:] {
			if slot < 0 || f.p.specs[slot].Known == nil {
				return false
			}
		}
		if len(s.in) > 4 {
			steps, err := f.p.specs[s.in[4]].Known.Ints()
			if err != nil || slices.ContainsFunc(steps, func(n int64) bool { return n != 1 }) {
				return false
			}
		}
	}
	s.Run, s.Alias, s.Scratch = nil, true, 0
	f.mark(s.out[0])
	return true
}

// channelRows serves an image and a constant that has a number for each channel.
func channelRows(f *fast, s *step) bool {
	if len(s.in) != 2 || s.in[0] < 0 || s.in[1] < 0 {
		return false
	}
	x, row := 0, 1
	if f.constant(s.in[row]) == nil {
		x, row = 1, 0
	}
	g, ok := f.geometry(s.in[x])
	set := s.node.prog.worker.Kernels
	op := map[string]func(dst, x, y []float32){"Add": set.AddTo, "Mul": set.MulTo}[s.node.Op]
	if row == 1 && op == nil {
		op = map[string]func(dst, x, y []float32){"Sub": set.SubTo, "Div": set.DivTo}[s.node.Op]
	}
	shape, whole := f.p.specs[s.in[row]].Shape, f.p.specs[s.in[x]].Shape
	if !ok || op == nil || g.c == 1 || f.constant(s.in[row]) == nil || !f.pixels[s.in[x]] || !slices.Equal(whole, s.Out[0].Shape) ||
		graph.Elems(shape) != g.c || !ofChannels(shape, whole, g.c) {
		return false
	}
	s.Run = func(w *Worker, in, out []*graph.Tensor) error {
		p, q, dst := elems[float32](in[x]), elems[float32](in[row]), elems[float32](out[0])
		w.Range(g.n*g.pixels(), 2*g.c, func(lo, hi int) {
			for at := lo * g.c; at < hi*g.c; at += g.c {
				op(dst[at:at+g.c], p[at:at+g.c], q)
			}
		})
		return nil
	}
	s.InPlace = []int{x}
	f.mark(s.out[0])
	return true
}

// sameLayout serves what works number by number on images of one shape, and on single numbers.
func sameLayout(f *fast, s *step) bool {
	if channelRows(f, s) {
		return true
	}
	for _, slot := range s.in {
		if slot < 0 || f.p.specs[slot].Type != graph.Float32 || f.p.specs[slot].Later {
			return false
		}
		if shape := f.p.specs[slot].Shape; !slices.Equal(shape, s.Out[0].Shape) && (graph.Elems(shape) != 1 || len(shape) > len(s.Out[0].Shape)) {
			return false
		}
	}
	s.in = slices.Clone(s.in)
	for k, slot := range s.in {
		if slices.Equal(f.p.specs[slot].Shape, s.Out[0].Shape) {
			s.in[k] = f.pixel(slot)
		}
	}
	f.mark(s.out[0])
	return true
}

// wholePool is the window of a pool all of whose windows lie within the image.
func wholePool(f *fast, s *step) (k kernels.Kernel, out geometry, ok bool) {
	in, _ := f.geometry(s.in[0])
	out, ok = f.geometry(s.out[0])
	if !ok || len(s.out) != 1 || out.n*out.pixels()*out.c == 0 {
		return k, out, false
	}
	call := &Call{Node: s.node.Node, in: []Spec{f.p.specs[s.in[0]]}, node: s.node}
	w, _, err := pooled(call)
	if err != nil || w.padded {
		return k, out, false
	}
	k = kernels.Kernel{H: w.kernel[1], W: w.kernel[2], StrideH: w.stride[1], StrideW: w.stride[2], DilationH: w.dilation[1], DilationW: w.dilation[2]}
	h, wide := k.Span(out.h, out.w)
	return k, out, h <= in.h && wide <= in.w
}

// layoutPool serves pools whose windows all lie within the image.
func layoutPool(f *fast, s *step) bool {
	in, _ := f.geometry(s.in[0])
	k, out, ok := wholePool(f, s)
	if !ok {
		return false
	}
	mean := s.node.Op == "AveragePool"
	codes := s.Out[0].Type != graph.Float32
	if codes && (mean || s.Out[0].Type != graph.Uint8) {
		return false
	}
	s.Run = func(w *Worker, ins, outs []*graph.Tensor) error {
		w.Range(out.n*out.h, k.H*k.W*out.w*out.c/8, func(lo, hi int) {
			for lo < hi { // rows of one image at a time
				n, row := lo/out.h, lo%out.h
				rows := min(hi-lo, out.h-row)
				if codes {
					dst, src := poolPart(outs[0].Data, ins[0].Data, n, row, rows, k, out, in)
					w.Kernels.MaxCodes(k, dst, src)
				} else if dst, src := poolPart(elems[float32](outs[0]), elems[float32](ins[0]), n, row, rows, k, out, in); mean {
					w.Kernels.MeanPool(k, dst, src, 1/float32(k.H*k.W))
				} else {
					w.Kernels.MaxPool(k, dst, src)
				}
				lo += rows
			}
		})
		return nil
	}
	f.mark(s.out[0])
	return true
}

// poolPart is some rows of image n, and what they are made of.
func poolPart[T any](y, x []T, n, row, rows int, k kernels.Kernel, out, in geometry) (dst, src kernels.Pixels[T]) {
	src = kernels.NewImage(x[n*in.pixels()*in.c:], in.h, in.w, in.c).At(row*k.StrideH, 0, in.h-row*k.StrideH, in.w)
	return kernels.NewImage(y[n*out.pixels()*out.c:], out.h, out.w, out.c).At(row, 0, rows, out.w), src
}

func layoutGlobal(f *fast, s *step) bool {
	in, ok := f.geometry(s.in[0])
	if !ok || in.n*in.pixels()*in.c == 0 || s.Out[0].Type != graph.Float32 {
		return false
	}
	mean := s.node.Op == "GlobalAveragePool"
	s.Run = func(w *Worker, ins, outs []*graph.Tensor) error {
		x, y := elems[float32](ins[0]), elems[float32](outs[0])
		w.Range(in.n*((in.c+63)/64), in.pixels()*8, func(lo, hi int) {
			parts := (in.c + 63) / 64
			for ; lo < hi; lo++ {
				n, from := lo/parts, lo%parts*64
				to := min(in.c, from+64)
				src := kernels.NewImage(x[n*in.pixels()*in.c:], in.h, in.w, in.c).Channels(from, to)
				dst := kernels.NewImage(y[n*in.c:], 1, 1, in.c).Channels(from, to)
				if mean {
					w.Kernels.MeanPool(kernels.Plain(in.h, in.w), dst, src, 1/float32(in.pixels()))
				} else {
					w.Kernels.MaxPool(kernels.Plain(in.h, in.w), dst, src)
				}
			}
		})
		return nil
	}
	return true
}

// layoutConcat puts the channels of images side by side.
func layoutConcat(f *fast, s *step) bool {
	out, ok := f.geometry(s.out[0])
	rank := len(s.Out[0].Shape)
	if axis := s.node.Int("axis", 0); !ok || axis != 1 && axis+rank != 1 || out.same() {
		return false
	}
	channels := make([]int, len(s.in))
	for k, slot := range s.in {
		g, ok := f.geometry(slot)
		if !ok {
			return false
		}
		channels[k] = g.c
	}
	s.in = slices.Clone(s.in)
	for k, slot := range s.in {
		s.in[k] = f.pixel(slot)
	}
	s.Run = func(w *Worker, ins, outs []*graph.Tensor) error {
		size := outs[0].Type.Bytes(1)
		y, pixel, at := outs[0].Data, size*out.c, 0
		for k, t := range ins {
			c := size * channels[k]
			for i := range out.n * out.pixels() {
				copy(y[i*pixel+at:][:c], t.Data[i*c:])
			}
			at += c
		}
		return nil
	}
	f.mark(s.out[0])
	return true
}

// layoutTranspose notices when an image as pixels already is its transpose.
func layoutTranspose(f *fast, s *step) bool {
	perm := s.node.Ints("perm")
	rank := len(s.Out[0].Shape)
	if len(perm) != rank || perm[0] != 0 || perm[rank-1] != 1 {
		return false
	}
	for i := 1; i < rank-1; i++ {
		if perm[i] != i+1 {
			return false
		}
	}
	s.Run, s.Alias = nil, true
	return true
}

// joinTranspose makes an alias of a transposition after which channels lie together: the image is there already.
func joinTranspose(f *fast, i int, s *step) (*step, int) {
	in := f.p.specs[s.in[0]]
	perm, err := axesOf(s.node.Ints("perm"), len(in.Shape))
	out, ok := f.geometry(s.out[0])
	if err != nil || !ok || len(perm) != len(in.Shape) || s.Run == nil || out.same() {
		return nil, 0
	}
	// the order of the input's dimensions in memory once channels are last, those of one element aside
	order := slices.Concat(perm[:1], perm[2:], perm[1:2])
	last := -1
	for _, d := range order {
		if in.Shape[d] == 1 {
			continue
		}
		if d < last {
			return nil, 0
		}
		last = d
	}
	t := again(s, nil)
	t.Alias, t.Scratch, t.fast = true, 0, pixelView{}
	return t, i
}

// pixelView is a view of numbers as an image whose channels lie together.
type pixelView struct{}

func (pixelView) place(f *fast, s *step) {
	s.in = slices.Clone(s.in)
	s.in[0] = f.planes(s.in[0])
	f.mark(s.out[0])
}

// layoutResize repeats pixels a whole number of times.
func layoutResize(f *fast, s *step) bool {
	in, ok := f.geometry(s.in[0])
	out, ok2 := f.geometry(s.out[0])
	if !ok || !ok2 || s.node.Str("mode", "nearest") != "nearest" || in.n != out.n || in.c != out.c || in.n*in.pixels()*in.c == 0 {
		return false
	}
	if s.node.Op == "Resize" {
		// of places that are an integer times larger, these read the same pixel
		mode, near := s.node.Str("coordinate_transformation_mode", "half_pixel"), s.node.Str("nearest_mode", "round_prefer_floor")
		if mode != "asymmetric" || near != "floor" || len(s.node.Ints("axes")) != 0 {
			return false
		}
	}
	dy, dx := out.h/in.h, out.w/in.w
	if dy*in.h != out.h || dx*in.w != out.w || dy < 1 || dx < 1 {
		return false
	}
	for _, k := range s.in[1:] { // sizes and scales were read when the node was planned
		if k >= 0 && f.p.specs[k].Known == nil {
			return false
		}
	}
	s.Run = func(w *Worker, ins, outs []*graph.Tensor) error {
		x, y, size := ins[0].Data, outs[0].Data, ins[0].Type.Bytes(1)*in.c // of a pixel
		w.Range(in.n*in.h, dy*out.w*in.c/4, func(lo, hi int) {
			for r := lo; r < hi; r++ {
				src, row := x[r*in.w*size:(r+1)*in.w*size], y[r*dy*out.w*size:(r+1)*dy*out.w*size]
				for px := range out.w {
					copy(row[px*size:(px+1)*size], src[px/dx*size:])
				}
				for i := 1; i < dy; i++ {
					copy(row[i*out.w*size:(i+1)*out.w*size], row[:out.w*size])
				}
			}
		})
		return nil
	}
	f.mark(s.out[0])
	return true
}
