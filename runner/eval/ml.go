package eval

import (
	"slices"

	"github.com/pare-dev/pare/ir/graph"
)

// mlDomain is the domain of classical machine learning.
const mlDomain = "ai.onnx.ml"

func init() {
	register(Op{Domain: mlDomain, Name: "LabelEncoder", Plan: planLabelEncoder})
	register(Op{Domain: mlDomain, Name: "ArrayFeatureExtractor", Inputs: 2, Plan: planFeatures})
	register(Op{Domain: mlDomain, Name: "Binarizer", Plan: planBinarizer})
}

// planBinarizer sets what is above a threshold to 1 and the rest to 0.
func planBinarizer(c *Call) (Step, error) {
	if !c.Type(0).Float() && !c.Type(0).Integer() {
		return Step{}, c.Fault("elements of type %s", c.Type(0))
	}
	threshold := float64(c.Node.Float("threshold", 0))
	return Step{Out: []Spec{Out(c.Type(0), c.Shape(0)...)}, Run: func(_ *Worker, in, out []*graph.Tensor) error {
		x := numbers(in[0])
		for i, v := range x {
			x[i] = 0
			if v > threshold {
				x[i] = 1
			}
		}
		recode(out[0], graph.From(graph.Float64, x, len(x)))
		return nil
	}}, nil
}

// planFeatures picks columns of the last dimension.
func planFeatures(c *Call) (Step, error) {
	in, n := c.Shape(0), c.Elems(1)
	if len(in) == 0 || c.Type(1) != graph.Int64 {
		return Step{}, c.Fault("shape %v, indices %s", in, c.Type(1))
	}
	width, rows := in[len(in)-1], graph.Elems(in[:len(in)-1])
	shape := append(slices.Clone(in[:len(in)-1]), n)
	if len(in) == 1 {
		shape = []int{1, n}
	}
	if err := graph.CheckShape(shape); err != nil {
		return Step{}, c.Fault("%w", err)
	}
	return Step{Out: []Spec{Out(c.Type(0), shape...)}, Run: func(_ *Worker, ts, out []*graph.Tensor) error {
		for i, k := range elems[int64](ts[1]) {
			if k < 0 || k >= int64(width) {
				return indexError(k, width)
			}
			for r := range rows {
				copyElems(out[0], r*n+i, ts[0], r*width+int(k), 1)
			}
		}
		return nil
	}}, nil
}

// labels are a list of keys or values: an attribute of strings, integers or floats, or a tensor.
func labels(c *Call, kind string) (*graph.Tensor, error) {
	attrs := c.Node.Attrs
	switch {
	case c.Node.Has(kind + "_strings"):
		list := attrs[kind+"_strings"].Strings
		return &graph.Tensor{Type: graph.String, Shape: []int{len(list)}, Strings: list}, nil
	case c.Node.Has(kind + "_int64s"):
		list := attrs[kind+"_int64s"].Ints
		return graph.From(graph.Int64, list, len(list)), nil
	case c.Node.Has(kind + "_floats"):
		list := attrs[kind+"_floats"].Floats
		return graph.From(graph.Float32, list, len(list)), nil
	case attrs[kind+"_tensor"].Tensor != nil:
		return attrs[kind+"_tensor"].Tensor, nil
	}
	return nil, c.Fault("no %s", kind)
}

// planLabelEncoder replaces keys by values, and what is no key by a default.
func planLabelEncoder(c *Call) (Step, error) {
	keys, err := labels(c, "keys")
	if err != nil {
		return Step{}, err
	}
	values, err := labels(c, "values")
	if err != nil {
		return Step{}, err
	}
	if keys.Type != c.Type(0) || keys.Elems() != values.Elems() {
		return Step{}, c.Fault("%d keys of type %s, %d values, labels of type %s", keys.Elems(), keys.Type, values.Elems(), c.Type(0))
	}
	def := graph.New(values.Type, 1)
	switch t := c.Node.Attrs["default_tensor"].Tensor; {
	case t != nil && t.Type == values.Type && t.Elems() == 1:
		copyElems(def, 0, t, 0, 1)
	case values.Type == graph.String:
		def.Strings[0] = c.Node.Str("default_string", "_Unused")
	case values.Type == graph.Int64:
		elems[int64](def)[0] = int64(c.Node.Int("default_int64", -1))
	case values.Type == graph.Float32:
		elems[float32](def)[0] = c.Node.Float("default_float", 0)
	}
	find, err := Once(c, "keys", func() (func(t *graph.Tensor, i int) (int, bool), error) {
		switch keys.Type {
		case graph.String:
			return finder[string](keys), nil
		case graph.Int64:
			return finder[int64](keys), nil
		case graph.Int32:
			return finder[int32](keys), nil
		case graph.Int16:
			return finder[int16](keys), nil
		case graph.Float32:
			return finder[float32](keys), nil
		case graph.Float64:
			return finder[float64](keys), nil
		}
		return nil, c.Fault("keys of type %s", keys.Type)
	})
	if err != nil {
		return Step{}, err
	}
	return Step{Out: []Spec{Out(values.Type, c.Shape(0)...)}, Run: func(_ *Worker, in, out []*graph.Tensor) error {
		for i := range in[0].Elems() {
			if k, ok := find(in[0], i); ok {
				copyElems(out[0], i, values, k, 1)
			} else {
				copyElems(out[0], i, def, 0, 1)
			}
		}
		return nil
	}}, nil
}

// finder tells which key an element is. NaN is a key like others, though it equals nothing.
func finder[T comparable](keys *graph.Tensor) func(t *graph.Tensor, i int) (int, bool) {
	at, nan := map[T]int{}, -1
	for i, k := range elems[T](keys) {
		if _, ok := at[k]; k == k && !ok {
			at[k] = i
		} else if k != k && nan < 0 {
			nan = i
		}
	}
	return func(t *graph.Tensor, i int) (int, bool) {
		k := elems[T](t)[i]
		if k != k {
			return nan, nan >= 0
		}
		v, ok := at[k]
		return v, ok
	}
}
