package eval

import (
	"fmt"
	"slices"

	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	register(Op{Name: "Gather", Inputs: 2, Unpack: true, Plan: planGather})
	register(Op{Name: "GatherElements", Inputs: 2, Unpack: true, Plan: planGatherElements})
	register(Op{Name: "GatherND", Inputs: 2, Unpack: true, Plan: planGatherND})
	register(Op{Name: "Compress", Inputs: 2, Plan: planCompress})
	for _, name := range []string{"Scatter", "ScatterElements"} {
		register(Op{Name: name, Inputs: 3, Narrow: true, Plan: planScatterElements})
	}
	register(Op{Name: "ScatterND", Inputs: 3, Narrow: true, Plan: planScatterND})
}

// indexError is a place that an array does not have.
func indexError(i int64, d int) error { return fmt.Errorf("index %d of %d", i, d) }

// indices reads indices, which may count from the end, into dst.
func indices(dst []int64, t *graph.Tensor, d int) error {
	read := func(i int, v int64) error {
		if v < int64(-d) || v >= int64(d) {
			return indexError(v, d)
		}
		if v < 0 {
			v += int64(d)
		}
		dst[i] = v
		return nil
	}
	switch t.Type {
	case graph.Int64:
		for i, v := range elems[int64](t) {
			if err := read(i, v); err != nil {
				return err
			}
		}
	case graph.Int32:
		for i, v := range elems[int32](t) {
			if err := read(i, int64(v)); err != nil {
				return err
			}
		}
	default:
		return fmt.Errorf("indices of type %s", t.Type)
	}
	return nil
}

func planGather(c *Call) (Step, error) {
	in := c.Shape(0)
	axis, err := axisOf(c.Node.Int("axis", 0), len(in))
	if err != nil || len(in) == 0 {
		return Step{}, c.Fault("axis %d of shape %v", c.Node.Int("axis", 0), in)
	}
	shape := slices.Concat(in[:axis], c.Shape(1), in[axis+1:])
	outer, d, inner := graph.Elems(in[:axis]), in[axis], graph.Elems(in[axis+1:])
	n := c.Elems(1)
	return Step{Out: []Spec{Out(c.Type(0), shape...)}, Scratch: 8 * n, Run: func(w *Worker, in, out []*graph.Tensor) error {
		at := graph.Of[int64](&graph.Tensor{Type: graph.Int64, Data: w.Scratch[:8*n]})
		if err := indices(at, in[1], d); err != nil {
			return err
		}
		for o := range outer {
			for i, k := range at {
				copyElems(out[0], (o*n+i)*inner, in[0], (o*d+int(k))*inner, inner)
			}
		}
		return nil
	}}, nil
}

// planGatherElements takes one element for each index, along one axis.
func planGatherElements(c *Call) (Step, error) {
	in, idx := c.Shape(0), c.Shape(1)
	axis, err := alongAxis(c, in, idx)
	if err != nil {
		return Step{}, err
	}
	n := c.Elems(1)
	return Step{Out: []Spec{Out(c.Type(0), idx...)}, Scratch: 8 * n, Run: func(w *Worker, ts, out []*graph.Tensor) error {
		at := graph.Of[int64](&graph.Tensor{Type: graph.Int64, Data: w.Scratch[:8*n]})
		if err := indices(at, ts[1], in[axis]); err != nil {
			return err
		}
		eachPlace(idx, strides(in), axis, at, func(i, place int) { copyElems(out[0], i, ts[0], place, 1) })
		return nil
	}}, nil
}

// alongAxis verifies that indices fit data in every dimension but the axis.
func alongAxis(c *Call, data, idx []int) (int, error) {
	axis, err := axisOf(c.Node.Int("axis", 0), len(data))
	if err != nil || len(idx) != len(data) || len(data) == 0 {
		return 0, c.Fault("axis %d, data %v, indices %v", c.Node.Int("axis", 0), data, idx)
	}
	for i := range data {
		if i != axis && idx[i] > data[i] {
			return 0, c.Fault("data %v, indices %v", data, idx)
		}
	}
	return axis, nil
}

// eachPlace calls fn with the number of every index of an array of indices, and with the place in the data
// that it names along the axis.
func eachPlace(idx, data []int, axis int, at []int64, fn func(i, place int)) {
	pos := make([]int, len(idx))
	for i, k := range at {
		place := int(k) * data[axis]
		for d, p := range pos {
			if d != axis {
				place += p * data[d]
			}
		}
		fn(i, place)
		for d := len(pos) - 1; d >= 0; d-- {
			if pos[d]++; pos[d] < idx[d] {
				break
			}
			pos[d] = 0
		}
	}
}

func planGatherND(c *Call) (Step, error) {
	in, idx := c.Shape(0), c.Shape(1)
	batch := c.Node.Int("batch_dims", 0)
	if len(idx) == 0 || batch < 0 || batch >= len(idx) || batch > len(in) || !slices.Equal(in[:batch], idx[:batch]) {
		return Step{}, c.Fault("data %v, indices %v, %d batch dimensions", in, idx, batch)
	}
	k := idx[len(idx)-1] // indices that make a place
	if k > len(in)-batch {
		return Step{}, c.Fault("%d indices into %v", k, in[batch:])
	}
	inner := in[batch+k:]
	shape := slices.Concat(idx[:len(idx)-1], inner)
	n, batches := graph.Elems(inner), graph.Elems(in[:batch])
	places := graph.Elems(idx[batch : len(idx)-1])
	own := strides(in)
	return Step{Out: []Spec{Out(c.Type(0), shape...)}, Run: func(_ *Worker, ts, out []*graph.Tensor) error {
		list, err := ts[1].Ints()
		if err != nil {
			return err
		}
		for b := range batches {
			for p := range places {
				row := b*places + p
				place, err := placeOf(list[row*k:(row+1)*k], in[batch:], own[batch:])
				if err != nil {
					return err
				}
				copyElems(out[0], row*n, ts[0], b*graph.Elems(in[batch:])+place, n)
			}
		}
		return nil
	}}, nil
}

// placeOf is where indices point in an array.
func placeOf(idx []int64, shape, own []int) (int, error) {
	place := 0
	for d, v := range idx {
		if v < int64(-shape[d]) || v >= int64(shape[d]) {
			return 0, indexError(v, shape[d])
		}
		if v < 0 {
			v += int64(shape[d])
		}
		place += int(v) * own[d]
	}
	return place, nil
}

func planCompress(c *Call) (Step, error) {
	cond, err := c.Need(1)
	if err != nil {
		return Step{}, err
	}
	if cond.Type != graph.Bool {
		return Step{}, c.Fault("a condition of type %s", cond.Type)
	}
	in := c.Shape(0)
	view, axis := in, 0
	if c.Node.Has("axis") {
		if axis, err = axisOf(c.Node.Int("axis", 0), len(in)); err != nil {
			return Step{}, c.Fault("%w", err)
		}
	} else {
		view = []int{graph.Elems(in)}
	}
	var keep []int
	for i, b := range cond.Data {
		if b != 0 && i < view[axis] {
			keep = append(keep, i)
		}
	}
	shape := slices.Clone(view)
	shape[axis] = len(keep)
	outer, d, inner := graph.Elems(view[:axis]), view[axis], graph.Elems(view[axis+1:])
	return Step{Out: []Spec{Out(c.Type(0), shape...)}, Run: func(_ *Worker, in, out []*graph.Tensor) error {
		for o := range outer {
			for i, k := range keep {
				copyElems(out[0], (o*len(keep)+i)*inner, in[0], (o*d+int(k))*inner, inner)
			}
		}
		return nil
	}}, nil
}

// updates applies elements of one tensor to places of another.
type updates func(dst *graph.Tensor, to int, src *graph.Tensor, from, n int)

// updatesOf is the way in which a Scatter puts elements where others lie.
func updatesOf(c *Call) (updates, error) {
	switch name := c.Node.Str("reduction", "none"); name {
	case "none":
		return copyElems, nil
	case "add", "mul", "max", "min":
		op := map[string]arithOp{"add": opAdd, "mul": opMul, "max": opMax, "min": opMin}[name]
		switch c.Type(0) {
		case graph.Float32:
			return merge(arithFloat[float32](op)), nil
		case graph.Float64:
			return merge(arithFloat[float64](op)), nil
		case graph.Int8:
			return merge(arithInt[int8](op)), nil
		case graph.Int16:
			return merge(arithInt[int16](op)), nil
		case graph.Int32:
			return merge(arithInt[int32](op)), nil
		case graph.Int64:
			return merge(arithInt[int64](op)), nil
		case graph.Uint8:
			return merge(arithInt[uint8](op)), nil
		case graph.Uint16:
			return merge(arithInt[uint16](op)), nil
		case graph.Uint32:
			return merge(arithInt[uint32](op)), nil
		case graph.Uint64:
			return merge(arithInt[uint64](op)), nil
		}
		return nil, c.Fault("reduction %s of elements of type %s", name, c.Type(0))
	default:
		return nil, c.Fault("reduction %q", name)
	}
}

func merge[T number](row rowFn[T, T]) updates {
	return func(dst *graph.Tensor, to int, src *graph.Tensor, from, n int) {
		d := elems[T](dst)[to : to+n]
		if n > 0 {
			row(d, d, elems[T](src)[from:from+n])
		}
	}
}

func planScatterElements(c *Call) (Step, error) {
	in, idx := c.Shape(0), c.Shape(1)
	axis, err := alongAxis(c, in, idx)
	if err != nil {
		return Step{}, err
	}
	if !slices.Equal(idx, c.Shape(2)) || c.Type(2) != c.Type(0) {
		return Step{}, c.Fault("indices %v, updates %s %v", idx, c.Type(2), c.Shape(2))
	}
	put, err := updatesOf(c)
	if err != nil {
		return Step{}, err
	}
	n := c.Elems(1)
	return Step{Out: []Spec{Out(c.Type(0), in...)}, InPlace: []int{0}, Scratch: 8 * n, Run: func(w *Worker, ts, out []*graph.Tensor) error {
		at := graph.Of[int64](&graph.Tensor{Type: graph.Int64, Data: w.Scratch[:8*n]})
		if err := indices(at, ts[1], in[axis]); err != nil {
			return err
		}
		copyElems(out[0], 0, ts[0], 0, ts[0].Elems())
		eachPlace(idx, strides(in), axis, at, func(i, place int) { put(out[0], place, ts[2], i, 1) })
		return nil
	}}, nil
}

func planScatterND(c *Call) (Step, error) {
	in, idx := c.Shape(0), c.Shape(1)
	if len(idx) == 0 || idx[len(idx)-1] > len(in) {
		return Step{}, c.Fault("data %v, indices %v", in, idx)
	}
	k := idx[len(idx)-1]
	if !slices.Equal(slices.Concat(idx[:len(idx)-1], in[k:]), c.Shape(2)) || c.Type(2) != c.Type(0) {
		return Step{}, c.Fault("data %v, indices %v, updates %s %v", in, idx, c.Type(2), c.Shape(2))
	}
	put, err := updatesOf(c)
	if err != nil {
		return Step{}, err
	}
	n, places := graph.Elems(in[k:]), graph.Elems(idx[:len(idx)-1])
	own := strides(in)
	return Step{Out: []Spec{Out(c.Type(0), in...)}, InPlace: []int{0}, Run: func(_ *Worker, ts, out []*graph.Tensor) error {
		list, err := ts[1].Ints()
		if err != nil {
			return err
		}
		copyElems(out[0], 0, ts[0], 0, ts[0].Elems())
		for p := range places {
			place, err := placeOf(list[p*k:(p+1)*k], in, own)
			if err != nil {
				return err
			}
			put(out[0], place, ts[2], p*n, n)
		}
		return nil
	}}, nil
}
