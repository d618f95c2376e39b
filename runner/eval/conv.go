package eval

import (
	"slices"

	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	register(Op{Name: "Conv", Inputs: 2, Narrow: true, Plan: planConv})
	register(Op{Name: "ConvTranspose", Inputs: 2, Narrow: true, Plan: planConvTranspose})
}

// convolution is the sizes of a Conv.
type convolution struct {
	*window
	n, channels, maps, groups int
}

// newConvolution verifies shapes and attributes of a Conv and what is like it. weights is the input with them.
func newConvolution(c *Call, weights int) (*convolution, error) {
	x, w := c.Shape(0), c.Shape(weights)
	if len(x) < 3 || len(w) != len(x) {
		return nil, c.Fault("input %v, weights %v", x, w)
	}
	if k := c.Node.Ints("kernel_shape"); len(k) > 0 && !slices.Equal(k, w[2:]) {
		return nil, c.Fault("kernel_shape %v, weights %v", k, w)
	}
	k := &convolution{n: x[0], channels: x[1], maps: w[0], groups: c.Node.Int("group", 1)}
	if k.groups < 1 || k.maps%k.groups != 0 || w[1]*k.groups != k.channels {
		return nil, c.Fault("input %v, weights %v, %d groups", x, w, k.groups)
	}
	var err error
	k.window, err = newWindow(c, x[2:], w[2:])
	return k, err
}

func planConv(c *Call) (Step, error) {
	k, err := newConvolution(c, 1)
	if err != nil {
		return Step{}, err
	}
	if c.Type(1) != c.Type(0) || c.Has(2) && (c.Type(2) != c.Type(0) || c.Elems(2) != k.maps) {
		return Step{}, c.Fault("types %s and %s, bias %s %v", c.Type(0), c.Type(1), c.Type(2), c.Shape(2))
	}
	s := Step{Out: []Spec{Out(c.Type(0), k.shape(k.n, k.maps)...)}}
	if !k.point() {
		s.Scratch = c.Type(0).Bytes(k.channels / k.groups * k.size * k.outs)
	}
	switch c.Type(0) {
	case graph.Float32:
		s.Run = runConv[float32](k)
	case graph.Float64:
		s.Run = runConv[float64](k)
	default:
		return Step{}, c.Fault("elements of type %s", c.Type(0))
	}
	return s, nil
}

// runConv unfolds the input and multiplies it with the weights, group by group.
func runConv[T float](k *convolution) func(*Worker, []*graph.Tensor, []*graph.Tensor) error {
	depth, maps := k.channels/k.groups, k.maps/k.groups // of a group
	return func(w *Worker, in, out []*graph.Tensor) error {
		x, weights, y := elems[T](in[0]), elems[T](in[1]), elems[T](out[0])
		if len(y) == 0 {
			return nil
		}
		var bias []T
		if len(in) > 2 && in[2] != nil {
			bias = elems[T](in[2])
		}
		col := elems[T](&graph.Tensor{Type: in[0].Type, Data: w.Scratch})
		for n := range k.n {
			for g := range k.groups {
				src := x[(n*k.groups+g)*depth*k.ins:][:depth*k.ins]
				if !k.point() {
					unfoldAll(w, k.window, col, src, depth)
					src = col[:depth*k.size*k.outs]
				}
				dst := y[(n*k.groups+g)*maps*k.outs:][:maps*k.outs]
				a := weights[g*maps*depth*k.size:][:maps*depth*k.size]
				if err := multiplyFloat(w, kernels.NN, dst, a, src, maps, k.outs, depth*k.size); err != nil {
					return err
				}
				if bias != nil {
					addBias(dst, bias[g*maps:(g+1)*maps], k.outs)
				}
			}
		}
		return nil
	}
}

// unfoldAll unfolds channels on all threads. Like most loops here it makes no closure, which would be allocated,
// when one thread is enough.
func unfoldAll[T float](w *Worker, k *window, col, x []T, channels int) {
	if w.Threads == 1 || channels*k.size*k.outs < 2*piece {
		unfoldChannels(k, col, x, 0, channels)
		return
	}
	w.Range(channels, k.size*k.outs, func(lo, hi int) { unfoldChannels(k, col, x, lo, hi) })
}

func unfoldChannels[T float](w *window, col, x []T, lo, hi int) {
	for ch := lo; ch < hi; ch++ {
		unfold(w, col[ch*w.size*w.outs:(ch+1)*w.size*w.outs], x[ch*w.ins:(ch+1)*w.ins])
	}
}

// addBias adds a number to each of the planes of n elements.
func addBias[T float](y, bias []T, n int) {
	for i, b := range bias {
		row := y[i*n : (i+1)*n]
		for j := range row {
			row[j] += b
		}
	}
}

// planConvTranspose is the gradient of a convolution: its window slides over the output.
func planConvTranspose(c *Call) (Step, error) {
	x, w := c.Shape(0), c.Shape(1)
	if len(x) < 3 || len(x) > 2+maxSpace || len(w) != len(x) || c.Type(1) != c.Type(0) {
		return Step{}, c.Fault("input %s %v, weights %s %v", c.Type(0), x, c.Type(1), w)
	}
	groups := c.Node.Int("group", 1)
	if groups < 1 || x[1]%groups != 0 || w[0] != x[1] {
		return Step{}, c.Fault("input %v, weights %v, %d groups", x, w, groups)
	}
	win, err := transposedWindow(c, x[2:], w[2:])
	if err != nil {
		return Step{}, err
	}
	k := &convolution{window: win, n: x[0], channels: x[1], maps: w[1] * groups, groups: groups}
	if c.Has(2) && (c.Type(2) != c.Type(0) || c.Elems(2) != k.maps) {
		return Step{}, c.Fault("bias %s %v of %d channels", c.Type(2), c.Shape(2), k.maps)
	}
	shape := slices.Concat([]int{k.n, k.maps}, win.in[maxSpace-win.rank:])
	depth, maps := k.channels/groups, k.maps/groups
	s := Step{Out: []Spec{Out(c.Type(0), shape...)}}
	s.Scratch = round(c.Type(0).Bytes(maps*k.size*k.outs)) + c.Type(0).Bytes(maps*k.size*depth)
	switch c.Type(0) {
	case graph.Float32:
		s.Run = runTransposed[float32](k)
	case graph.Float64:
		s.Run = runTransposed[float64](k)
	default:
		return Step{}, c.Fault("elements of type %s", c.Type(0))
	}
	return s, nil
}

// transposedWindow is the window of the convolution of which a ConvTranspose is the transpose: its input is
// the node's output.
func transposedWindow(c *Call, space, kernel []int) (*window, error) {
	n, rank := c.Node, len(space)
	w := &window{rank: rank}
	list := func(name string, def, want int) ([]int, error) {
		v := n.Ints(name)
		if len(v) == 0 {
			v = slices.Repeat([]int{def}, want)
		}
		if len(v) != want || slices.Min(v) < 0 || slices.Max(v) > 1<<30 {
			return nil, c.Fault("%s %v of %d dimensions", name, v, rank)
		}
		return v, nil
	}
	strides, err := list("strides", 1, rank)
	if err != nil {
		return nil, err
	}
	dilations, err := list("dilations", 1, rank)
	if err != nil {
		return nil, err
	}
	pads, err := list("pads", 0, 2*rank)
	if err != nil {
		return nil, err
	}
	extra, err := list("output_padding", 0, rank)
	if err != nil {
		return nil, err
	}
	if k := n.Ints("kernel_shape"); len(k) > 0 && !slices.Equal(k, kernel) {
		return nil, c.Fault("kernel_shape %v, weights %v", k, c.Shape(1))
	}
	want := n.Ints("output_shape")
	if len(want) > rank {
		want = want[len(want)-rank:]
	}
	if len(want) != 0 && len(want) != rank {
		return nil, c.Fault("output_shape %v of %d dimensions", want, rank)
	}
	auto := n.Str("auto_pad", "NOTSET")
	for i := range maxSpace {
		w.in[i], w.out[i], w.kernel[i], w.stride[i], w.dilation[i] = 1, 1, 1, 1, 1
		k := i - (maxSpace - rank)
		if k < 0 {
			continue
		}
		w.out[i], w.kernel[i], w.stride[i], w.dilation[i] = space[k], kernel[k], strides[k], dilations[k]
		if strides[k] < 1 || dilations[k] < 1 || kernel[k] < 1 || space[k] < 1 {
			return nil, c.Fault("input %v, kernel %v, strides %v, dilations %v", space, kernel, strides, dilations)
		}
		full := strides[k]*(space[k]-1) + extra[k] + (kernel[k]-1)*dilations[k] + 1
		var size int
		switch {
		case len(want) > 0:
			size = want[k]
		case auto == "SAME_UPPER" || auto == "SAME_LOWER":
			size = space[k] * strides[k]
		case auto == "VALID":
			size = full
		default:
			w.before[i], w.after[i] = pads[k], pads[rank+k]
			size = full - pads[k] - pads[rank+k]
		}
		if len(want) > 0 || auto == "SAME_UPPER" || auto == "SAME_LOWER" {
			pad := max(0, full-size)
			w.before[i], w.after[i] = pad/2, pad-pad/2
			if auto != "SAME_UPPER" {
				w.before[i], w.after[i] = pad-pad/2, pad/2
			}
		}
		if size < 0 {
			return nil, c.Fault("pads %v of an output of %d", pads, full)
		}
		w.in[i] = size
	}
	w.size, w.ins, w.outs = graph.Elems(w.kernel[:]), graph.Elems(w.in[:]), graph.Elems(w.out[:])
	return w, graph.CheckShape(w.in[:])
}

func runTransposed[T float](k *convolution) func(*Worker, []*graph.Tensor, []*graph.Tensor) error {
	depth, maps := k.channels/k.groups, k.maps/k.groups
	rows := maps * k.size
	return func(w *Worker, in, out []*graph.Tensor) error {
		x, weights, y := elems[T](in[0]), elems[T](in[1]), elems[T](out[0])
		clear(y)
		scratch := func(at, n int) []T {
			return elems[T](&graph.Tensor{Type: in[0].Type, Data: w.Scratch[at:]})[:n]
		}
		col := scratch(0, rows*k.outs)
		turned := scratch(round(in[0].Type.Bytes(rows*k.outs)), rows*depth)
		for g := range k.groups {
			for d := range depth {
				for r := range rows {
					turned[r*depth+d] = weights[(g*depth+d)*rows+r]
				}
			}
			for n := range k.n {
				src := x[(n*k.channels+g*depth)*k.outs:][:depth*k.outs]
				if err := multiplyFloat(w, kernels.NN, col, turned, src, rows, k.outs, depth); err != nil {
					return err
				}
				for m := range maps {
					plane := y[(n*k.maps+g*maps+m)*k.ins:][:k.ins]
					foldBack(k.window, plane, col[m*k.size*k.outs:(m+1)*k.size*k.outs])
				}
			}
		}
		if len(in) > 2 && in[2] != nil {
			for n := range k.n {
				addBias(y[n*k.maps*k.ins:(n+1)*k.maps*k.ins], elems[T](in[2]), k.ins)
			}
		}
		return nil
	}
}
