package samples

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/npy"
	"github.com/pare-dev/pare/ir/graph"
	"github.com/pare-dev/pare/runner/eval"
)

// array makes samples of an array. It is one sample when the input takes it as it is, dimensions of 1 at the
// front aside; otherwise its first axis counts samples.
func (in *input) array(path string, split bool) (item, error) {
	a, err := npy.Open(path)
	if err != nil {
		return item{}, err
	}
	shape := slices.Clone(a.Shape)
	if err := a.Close(); err != nil {
		return item{}, err
	}
	whole, fits := in.take(shape)
	if fits && split && len(shape) > 0 && len(shape) == len(in.shape) && (in.shape[0] < 0 || in.shape[0] == 1) {
		fits = false // rows are samples
	}
	if fits {
		return item{name: path, n: 1, open: func() (loaded, error) {
			return openArray(path, func(a *npy.File, _ int) (*graph.Tensor, error) {
				b, err := a.All()
				if err != nil {
					return nil, err
				}
				return in.of(b, a.Elem, whole)
			})
		}}, nil
	}
	if len(shape) > 0 {
		if one, ok := in.take(shape[1:]); ok {
			return item{name: path, n: shape[0], open: func() (loaded, error) {
				return openArray(path, func(a *npy.File, k int) (*graph.Tensor, error) {
					b, err := a.Rows(k, k+1)
					if err != nil {
						return nil, err
					}
					return in.of(b, a.Elem, one)
				})
			}}, nil
		}
	}
	return item{}, &fault.Error{
		File: path, Op: "input " + in.v.Name,
		Err:  fault.As(fault.ErrMisuse, fmt.Errorf("an array of shape %s, the input is %s", Text(shape), Text(in.shape))),
		Hint: fmt.Sprintf("give an array of that shape, or one of several samples along a first axis: Nx%s", Text(in.shape)),
	}
}

func openArray(path string, read func(a *npy.File, k int) (*graph.Tensor, error)) (loaded, error) {
	a, err := npy.Open(path)
	if err != nil {
		return loaded{}, err
	}
	return loaded{Closer: a, read: func(k int) (*graph.Tensor, error) { return read(a, k) }}, nil
}

// take is the shape in which the input takes an array: the same but for dimensions of 1 at the front.
func (in *input) take(shape []int) ([]int, bool) {
	if in.shape == nil {
		return shape, true
	}
	want := in.shape
	lead := len(want) - len(shape)
	for len(shape) > len(want) && shape[0] == 1 {
		shape, lead = shape[1:], lead+1
	}
	if lead < 0 {
		return nil, false
	}
	out := slices.Clone(want)
	for i := range want {
		switch {
		case i < lead:
			if want[i] > 1 || want[i] == 0 {
				return nil, false
			}
			out[i] = 1
		case want[i] < 0:
			out[i] = shape[i-lead]
		case want[i] != shape[i-lead]:
			return nil, false
		}
	}
	return out, true
}

// types are the element types of arrays.
var types = map[npy.Elem]graph.DType{
	{Kind: 'b', Size: 1}: graph.Bool,
	{Kind: 'i', Size: 1}: graph.Int8, {Kind: 'i', Size: 2}: graph.Int16, {Kind: 'i', Size: 4}: graph.Int32, {Kind: 'i', Size: 8}: graph.Int64,
	{Kind: 'u', Size: 1}: graph.Uint8, {Kind: 'u', Size: 2}: graph.Uint16, {Kind: 'u', Size: 4}: graph.Uint32, {Kind: 'u', Size: 8}: graph.Uint64,
	{Kind: 'f', Size: 2}: graph.Float16, {Kind: 'f', Size: 4}: graph.Float32, {Kind: 'f', Size: 8}: graph.Float64,
	{Kind: 'c', Size: 8}: graph.Complex64, {Kind: 'c', Size: 16}: graph.Complex128,
}

// of makes a tensor of the input's type.
func (in *input) of(raw []byte, elem npy.Elem, shape []int) (*graph.Tensor, error) {
	t := graph.New(types[elem], shape...)
	copy(t.Data, raw)
	if in.v.Type == graph.Undefined {
		return t, nil
	}
	return cast(t, in.v.Type)
}

// ErrType is the reason when values would not survive the change to the input's type.
var ErrType = errors.New("the type does not fit")

// cast gives a tensor another type: wider ones, floats of fewer bits, and integers that are in range.
func cast(t *graph.Tensor, to graph.DType) (*graph.Tensor, error) {
	if t.Type == to || to == graph.Undefined {
		return t, nil
	}
	whole := func(d graph.DType) bool { return d.Integer() || d == graph.Bool }
	lossy := fault.As(fault.ErrMisuse, fmt.Errorf("%w: %s where %s is wanted", ErrType, t.Type, to))
	switch {
	case t.Type == graph.String || to == graph.String || t.Type == graph.Complex64 || t.Type == graph.Complex128:
		return nil, lossy
	case whole(to) && !whole(t.Type):
		return nil, lossy
	case whole(t.Type) && whole(to) && t.Type != graph.Bool:
		lo, hi := extent(to)
		list, err := t.Ints()
		if err != nil {
			return nil, lossy
		}
		for _, x := range list {
			if x < lo || x > hi {
				return nil, fault.As(fault.ErrMisuse, fmt.Errorf("%w: %d is no %s", ErrType, x, to))
			}
		}
	}
	n := &graph.Node{Op: "Cast", Attrs: map[string]graph.Attr{"to": {Kind: graph.AttrInt, Int: int64(to)}}, Out: []*graph.Value{{Name: "y"}}}
	out, err := (&eval.Network{}).Evaluate(n, map[string]int{"": 19}, []*graph.Tensor{t})
	if err != nil {
		return nil, err
	}
	return out[0], nil
}

// extent is the smallest and largest value of an integer type, as far as int64 has them.
func extent(d graph.DType) (lo, hi int64) {
	if d == graph.Bool {
		return 0, 1
	}
	bits := d.Bits()
	switch d {
	case graph.Uint8, graph.Uint16, graph.Uint32:
		return 0, 1<<bits - 1
	case graph.Uint64:
		return 0, math.MaxInt64
	}
	return -1 << (bits - 1), 1<<(bits-1) - 1
}

// Reals are the elements of a tensor as float64: what statistics are made of. Texts and complex numbers have none.
func Reals(t *graph.Tensor) ([]float64, error) {
	if t.Type != graph.Float32 {
		x, err := cast(t, graph.Float64)
		if err != nil {
			return nil, err
		}
		return graph.Of[float64](x), nil
	}
	out := make([]float64, t.Elems())
	for i, v := range graph.Of[float32](t) {
		out[i] = float64(v)
	}
	return out, nil
}

// Stored is a tensor as NumPy can have it: floats of less than 32 bits that it does not know become float32,
// integers of less than 8 bits become bytes.
func Stored(t *graph.Tensor) (*graph.Tensor, npy.Elem, error) {
	for elem, typ := range types {
		if typ == t.Type {
			return t, elem, nil
		}
	}
	to, elem := graph.Float32, npy.Elem{Kind: 'f', Size: 4}
	switch t.Type {
	case graph.Uint4, graph.Uint2:
		to, elem = graph.Uint8, npy.Elem{Kind: 'u', Size: 1}
	case graph.Int4, graph.Int2:
		to, elem = graph.Int8, npy.Elem{Kind: 'i', Size: 1}
	case graph.String:
		return nil, elem, fmt.Errorf("%w: texts", ErrType)
	}
	x, err := cast(t, to)
	return x, elem, err
}
