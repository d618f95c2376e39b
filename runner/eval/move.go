package eval

import (
	"slices"

	"github.com/pare-dev/pare/ir/graph"
)

// copy moves the elements of src, whose operand is 1, to the places of operand 0 in dst. The offsets say
// where the first elements lie.
func (k *walk) copy(w *Worker, dst, src *graph.Tensor, to, from int) {
	switch t := dst.Type; {
	case t == graph.String:
		move(w, k, dst.Strings, src.Strings, to, from)
	case t.Bits() == 8:
		move(w, k, dst.Data, src.Data, to, from)
	case t.Bits() == 16:
		move(w, k, elems[uint16](dst), elems[uint16](src), to, from)
	case t.Bits() == 32:
		move(w, k, elems[uint32](dst), elems[uint32](src), to, from)
	case t.Bits() == 64:
		move(w, k, elems[uint64](dst), elems[uint64](src), to, from)
	default:
		move(w, k, elems[complex128](dst), elems[complex128](src), to, from)
	}
}

func move[T any](w *Worker, k *walk, dst, src []T, to, from int) {
	rows := k.rows()
	if rows == 0 || k.n == 0 {
		return
	}
	if w.Threads == 1 || rows*k.n < 2*piece || rows < 2 {
		moveRows(k, 0, rows, dst, src, to, from)
		return
	}
	w.Range(rows, k.n, func(lo, hi int) { moveRows(k, lo, hi, dst, src, to, from) })
}

func moveRows[T any](k *walk, lo, hi int, dst, src []T, to, from int) {
	at := k.at(lo)
	for range hi - lo {
		d, s := to+at.off[0], from+at.off[1]
		switch {
		case k.inner[0] == 1 && k.inner[1] == 1:
			copy(dst[d:d+k.n], src[s:s+k.n])
		case k.inner[0] == 1 && k.inner[1] == 0:
			v := src[s]
			row := dst[d : d+k.n]
			for i := range row {
				row[i] = v
			}
		case k.inner[0] == 1:
			row, step := dst[d:d+k.n], k.inner[1]
			for i := range row {
				row[i] = src[s]
				s += step
			}
		default:
			for range k.n {
				dst[d] = src[s]
				d += k.inner[0]
				s += k.inner[1]
			}
		}
		at.next()
	}
}

// planView makes output 0 of the elements of input 0 that strides and an offset pick.
func planView(c *Call, shape, from []int, offset int) (Step, error) {
	if err := graph.CheckShape(shape); err != nil {
		return Step{}, c.Fault("%w", err)
	}
	k, err := newWalk(shape, strides(shape), from)
	if err != nil {
		return Step{}, c.Fault("%w", err)
	}
	return Step{Out: []Spec{Out(c.Type(0), shape...)}, Run: func(w *Worker, in, out []*graph.Tensor) error {
		if len(shape) == 0 || graph.Elems(shape) > 0 {
			k.copy(w, out[0], in[0], 0, offset)
		}
		return nil
	}}, nil
}

func init() {
	register(Op{Name: "Transpose", Unpack: true, Plan: planTranspose})
	register(Op{Name: "Expand", Inputs: 2, Unpack: true, Plan: planExpand})
	register(Op{Name: "Tile", Inputs: 2, Unpack: true, Plan: planTile})
	register(Op{Name: "Slice", Unpack: true, Plan: planSlice})
	register(Op{Name: "Concat", Unpack: true, Plan: planConcat})
	register(Op{Name: "Split", Unpack: true, Plan: planSplit})
	register(Op{Name: "DepthToSpace", Unpack: true, Plan: planDepthToSpace})
	register(Op{Name: "SpaceToDepth", Unpack: true, Plan: planSpaceToDepth})
	register(Op{Name: "ReverseSequence", Inputs: 2, Plan: planReverseSequence})
}

func planTranspose(c *Call) (Step, error) {
	in := c.Shape(0)
	perm := c.Node.Ints("perm")
	if !c.Node.Has("perm") {
		for i := len(in) - 1; i >= 0; i-- {
			perm = append(perm, i)
		}
	}
	perm, err := axesOf(perm, len(in))
	if err != nil || len(perm) != len(in) {
		return Step{}, c.Fault("perm %v of %d dimensions", c.Node.Ints("perm"), len(in))
	}
	own := strides(in)
	shape, from := make([]int, len(in)), make([]int, len(in))
	var order []int // of the dimensions that are longer than one
	for i, p := range perm {
		shape[i], from[i] = in[p], own[p]
		if in[p] != 1 {
			order = append(order, p)
		}
	}
	if slices.IsSorted(order) { // elements stay where they are
		return Step{Out: []Spec{Out(c.Type(0), shape...)}, Alias: true}, nil
	}
	return planView(c, shape, from, 0)
}

func planExpand(c *Call) (Step, error) {
	want, err := c.Ints(1)
	if err != nil {
		return Step{}, err
	}
	if err := graph.CheckShape(want); err != nil {
		return Step{}, c.Fault("%w", err)
	}
	shape, err := broadcast(c.Shape(0), want)
	if err != nil {
		return Step{}, c.Fault("%w", err)
	}
	if slices.Equal(shape, c.Shape(0)) {
		return Step{Out: []Spec{Out(c.Type(0), shape...)}, Alias: true}, nil
	}
	return planView(c, shape, stretched(c.Shape(0), shape), 0)
}

// planTile repeats: each dimension becomes two, how often and how long.
func planTile(c *Call) (Step, error) {
	repeats, err := c.Ints(1)
	if err != nil {
		return Step{}, err
	}
	in := c.Shape(0)
	if c.Version < 6 && c.N() == 3 { // a number of tiles and an axis
		axis, err := c.Ints(2)
		if err != nil {
			return Step{}, err
		}
		tiles := repeats
		repeats = slices.Repeat([]int{1}, len(in))
		if len(axis) != 1 || len(tiles) != 1 || axis[0] < 0 || axis[0] >= len(in) {
			return Step{}, c.Fault("axis %v", axis)
		}
		repeats[axis[0]] = tiles[0]
	}
	if len(repeats) != len(in) {
		return Step{}, c.Fault("%d repeats of %d dimensions", len(repeats), len(in))
	}
	if err := graph.CheckShape(repeats); err != nil {
		return Step{}, c.Fault("repeats %v", repeats)
	}
	var pairs, from, shape []int
	own := strides(in)
	for i, r := range repeats {
		pairs, from = append(pairs, r, in[i]), append(from, 0, own[i])
		shape = append(shape, r*in[i])
	}
	if err := graph.CheckShape(pairs); err != nil {
		return Step{}, c.Fault("%w", err)
	}
	s, err := planView(c, pairs, from, 0)
	s.Out = []Spec{Out(c.Type(0), shape...)}
	return s, err
}

// planSlice reads starts, ends, axes and steps from inputs, or from attributes before version 10.
func planSlice(c *Call) (Step, error) {
	in := c.Shape(0)
	var list [4][]int
	var err error
	if c.Version < 10 {
		list[0], list[1], list[2] = c.Node.Ints("starts"), c.Node.Ints("ends"), c.Node.Ints("axes")
	} else {
		for i := range list {
			if !c.Has(i + 1) {
				continue
			}
			if list[i], err = c.Ints(i + 1); err != nil {
				return Step{}, err
			}
		}
	}
	starts, ends, axes, steps := list[0], list[1], list[2], list[3]
	if axes == nil {
		for i := range starts {
			axes = append(axes, i)
		}
	}
	if steps == nil {
		steps = slices.Repeat([]int{1}, len(starts))
	}
	if axes, err = axesOf(axes, len(in)); err != nil {
		return Step{}, c.Fault("%w", err)
	}
	if len(ends) != len(starts) || len(axes) != len(starts) || len(steps) != len(starts) {
		return Step{}, c.Fault("%d starts, %d ends, %d axes, %d steps", len(starts), len(ends), len(axes), len(steps))
	}
	shape, from := slices.Clone(in), strides(in)
	offset := 0
	for i, a := range axes {
		lo, n, ok := cut(in[a], starts[i], ends[i], steps[i])
		if !ok {
			return Step{}, c.Fault("a step of 0")
		}
		shape[a] = n
		offset += lo * from[a]
		from[a] *= steps[i]
	}
	if slices.Equal(shape, in) && slices.Equal(from, strides(in)) {
		return Step{Out: []Spec{Out(c.Type(0), shape...)}, Alias: true}, nil
	}
	return planView(c, shape, from, offset)
}

// cut is the first index and the number of indices of a slice of d elements; bounds beyond the ends are
// moved there.
func cut(d, start, end, step int) (lo, n int, ok bool) {
	if step == 0 {
		return 0, 0, false
	}
	if start < 0 {
		start = max(start, -d-1) + d
	}
	if end < 0 {
		end = max(end, -d-1) + d
	}
	if step > 0 {
		start, end = min(max(start, 0), d), min(max(end, 0), d)
		if end > start {
			n = (end-start-1)/step + 1
		}
		return start, n, true
	}
	start, end = min(max(start, -1), d-1), min(max(end, -1), d-1)
	if start > end {
		n = int(uint(start-end-1)/uint(-step)) + 1
	}
	return max(start, 0), n, true
}

func planConcat(c *Call) (Step, error) {
	first := -1
	var shape []int
	axis := 0
	walks, offsets := make([]*walk, c.N()), make([]int, c.N())
	for i := range c.N() {
		in := c.Shape(i)
		if first < 0 {
			first = i
			var err error
			if axis, err = axisOf(c.Node.Int("axis", 1), len(in)); err != nil || len(in) == 0 {
				return Step{}, c.Fault("axis %d of shape %v", c.Node.Int("axis", 1), in)
			}
			shape = slices.Clone(in)
			continue
		}
		if len(in) != len(shape) || c.Type(i) != c.Type(first) {
			return Step{}, c.Fault("input %d is %s %v, input 0 is %s %v", i, c.Type(i), in, c.Type(first), c.Shape(first))
		}
		for d := range in {
			if d != axis && in[d] != shape[d] {
				return Step{}, c.Fault("input %d is %v, input 0 is %v", i, in, c.Shape(first))
			}
		}
		shape[axis] += in[axis]
	}
	to := strides(shape)
	at := 0
	for i := range walks {
		var err error
		if walks[i], err = newWalk(c.Shape(i), to, strides(c.Shape(i))); err != nil {
			return Step{}, c.Fault("%w", err)
		}
		offsets[i] = at * to[axis]
		at += c.Shape(i)[axis]
	}
	return Step{Out: []Spec{Out(c.Type(0), shape...)}, Run: func(w *Worker, in, out []*graph.Tensor) error {
		for i, t := range in {
			if t.Elems() > 0 {
				walks[i].copy(w, out[0], t, offsets[i], 0)
			}
		}
		return nil
	}}, nil
}

func planSplit(c *Call) (Step, error) {
	in := c.Shape(0)
	axis, err := axisOf(c.Node.Int("axis", 0), len(in))
	if err != nil || len(in) == 0 {
		return Step{}, c.Fault("axis %d of shape %v", c.Node.Int("axis", 0), in)
	}
	sizes, err := c.IntsOr(1, "split")
	if err != nil {
		return Step{}, err
	}
	n := len(c.Node.Out)
	if sizes == nil { // equal parts, the last one perhaps smaller
		parts := c.Node.Int("num_outputs", n)
		if parts != n || parts < 1 {
			return Step{}, c.Fault("%d parts, %d outputs", parts, n)
		}
		each := (in[axis] + parts - 1) / parts
		for left, i := in[axis], 0; i < parts; i++ {
			sizes = append(sizes, min(each, left))
			left -= min(each, left)
		}
	}
	total := 0
	for _, s := range sizes {
		if s < 0 || s > in[axis]-total {
			return Step{}, c.Fault("parts %v of %d", sizes, in[axis])
		}
		total += s
	}
	if total != in[axis] || len(sizes) < n {
		return Step{}, c.Fault("parts %v of %d, %d outputs", sizes, in[axis], n)
	}
	from := strides(in)
	s := Step{}
	walks, offsets := make([]*walk, n), make([]int, n)
	at := 0
	for i := range n {
		shape := slices.Clone(in)
		shape[axis] = sizes[i]
		s.Out = append(s.Out, Out(c.Type(0), shape...))
		if walks[i], err = newWalk(shape, strides(shape), from); err != nil {
			return Step{}, c.Fault("%w", err)
		}
		offsets[i] = at * from[axis]
		at += sizes[i]
	}
	s.Run = func(w *Worker, in, out []*graph.Tensor) error {
		for i, t := range out {
			if t != nil && t.Elems() > 0 {
				walks[i].copy(w, t, in[0], 0, offsets[i])
			}
		}
		return nil
	}
	return s, nil
}

// planDepthToSpace moves blocks of channels to places: a transposition of six dimensions.
func planDepthToSpace(c *Call) (Step, error) {
	in, b := c.Shape(0), c.Node.Int("blocksize", 0)
	if len(in) != 4 || b < 1 || b > 1<<15 || in[1]%(b*b) != 0 {
		return Step{}, c.Fault("blocks of %d of shape %v", b, in)
	}
	n, ch, h, w := in[0], in[1]/(b*b), in[2], in[3]
	six := []int{n, b, b, ch, h, w}
	perm := []int{0, 3, 4, 1, 5, 2}
	if c.Node.Str("mode", "DCR") == "CRD" {
		six, perm = []int{n, ch, b, b, h, w}, []int{0, 1, 4, 2, 5, 3}
	}
	return planBlocks(c, six, perm, []int{n, ch, h * b, w * b})
}

func planSpaceToDepth(c *Call) (Step, error) {
	in, b := c.Shape(0), c.Node.Int("blocksize", 0)
	if len(in) != 4 || b < 1 || b > 1<<15 || in[2]%b != 0 || in[3]%b != 0 {
		return Step{}, c.Fault("blocks of %d of shape %v", b, in)
	}
	n, ch, h, w := in[0], in[1], in[2]/b, in[3]/b
	return planBlocks(c, []int{n, ch, h, b, w, b}, []int{0, 3, 5, 1, 2, 4}, []int{n, ch * b * b, h, w})
}

// planBlocks sees input 0 as an array of other dimensions, transposes it, and calls the result shape.
func planBlocks(c *Call, dims, perm, shape []int) (Step, error) {
	own := strides(dims)
	to, from := make([]int, len(dims)), make([]int, len(dims))
	for i, p := range perm {
		to[i], from[i] = dims[p], own[p]
	}
	s, err := planView(c, to, from, 0)
	s.Out = []Spec{Out(c.Type(0), shape...)}
	return s, err
}

// planReverseSequence reverses the beginning of each sequence of a batch.
func planReverseSequence(c *Call) (Step, error) {
	in := c.Shape(0)
	batch, time := c.Node.Int("batch_axis", 1), c.Node.Int("time_axis", 0)
	if len(in) < 2 || batch == time || min(batch, time) != 0 || max(batch, time) != 1 || len(c.Shape(1)) != 1 || c.Shape(1)[0] != in[batch] {
		return Step{}, c.Fault("axes %d and %d of shape %v, %v lengths", batch, time, in, c.Shape(1))
	}
	own := strides(in)
	inner := graph.Elems(in[2:])
	return Step{Out: []Spec{Out(c.Type(0), in...)}, Run: func(_ *Worker, ts, out []*graph.Tensor) error {
		lens, err := ts[1].Ints()
		if err != nil {
			return err
		}
		for b, l := range lens {
			if l < 0 || l > int64(in[time]) {
				return c.Fault("a sequence of %d, there are %d", l, in[time])
			}
			for t := range in[time] {
				s := t
				if t < int(l) {
					s = int(l) - 1 - t
				}
				copyElems(out[0], b*own[batch]+t*own[time], ts[0], b*own[batch]+s*own[time], inner)
			}
		}
		return nil
	}}, nil
}

// copyElems copies n adjacent elements.
func copyElems(dst *graph.Tensor, to int, src *graph.Tensor, from, n int) {
	if dst.Type == graph.String {
		copy(dst.Strings[to:to+n], src.Strings[from:from+n])
		return
	}
	bits := dst.Type.Bits()
	if bits < 8 {
		for i := range n {
			putBits(dst.Data, to+i, bits, getBits(src.Data, from+i, bits))
		}
		return
	}
	size := bits / 8
	copy(dst.Data[to*size:(to+n)*size], src.Data[from*size:(from+n)*size])
}
