package rewrite

import (
	"errors"
	"fmt"
	"slices"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/ir/graph"
)

// Fix gives an input a shape. A dimension that has a name gets its number wherever the name is used; other open
// dimensions of values in between stay open, until shapes are inferred.
func Fix(g *graph.Graph, input string, dims []int) error {
	v, err := find(g, input)
	if err != nil {
		return err
	}
	bad := func(err error) error {
		return &fault.Error{Tensor: input, Op: "shape", Err: fault.As(fault.ErrMisuse, err)}
	}
	if err := graph.CheckShape(dims); err != nil {
		return bad(err)
	}
	if v.Shape != nil && len(*v.Shape) != len(dims) {
		return bad(fmt.Errorf("%d dimensions were given, the model has %d: %s", len(dims), len(*v.Shape), v.Shape.Text()))
	}
	named := map[string]int{}
	if v.Shape != nil {
		for i, d := range *v.Shape {
			if d.Size >= 0 && d.Size != dims[i] {
				return bad(fmt.Errorf("dimension %d is %d in the model, not %d", i, d.Size, dims[i]))
			}
			if old, twice := named[d.Name]; d.Name != "" && twice && old != dims[i] {
				return bad(fmt.Errorf("%s is %d and %d", d.Name, old, dims[i]))
			}
			if d.Name != "" {
				named[d.Name] = dims[i]
			}
		}
	}
	v.Shape = graph.Fixed(dims...)
	each(g, func(v *graph.Value) {
		if v.Shape == nil {
			return
		}
		s := slices.Clone(*v.Shape)
		for i, d := range s {
			if n, ok := named[d.Name]; ok && d.Size < 0 && d.Name != "" {
				s[i] = graph.Dim{Size: n}
			}
		}
		v.Shape = &s
	})
	return nil
}

// Bind makes an input of the graph a constant: the caller gives it no more. A sample rate or a flag decides
// which branch of a network runs, and the other goes away.
func Bind(g *graph.Graph, input string, t *graph.Tensor) error {
	v, err := find(g, input)
	if err != nil {
		return err
	}
	if v.Type != graph.Undefined && v.Type != t.Type {
		return &fault.Error{Tensor: input, Op: "bind", Err: fault.As(fault.ErrMisuse, fmt.Errorf("the input is %s, the value %s", v.Type, t.Type))}
	}
	if v.Shape != nil && len(*v.Shape) != len(t.Shape) {
		return &fault.Error{Tensor: input, Op: "bind", Err: fault.As(fault.ErrMisuse, fmt.Errorf("the input has %d dimensions, the value %d", len(*v.Shape), len(t.Shape)))}
	}
	if slices.Contains(g.Outputs, v) {
		return &fault.Error{Tensor: input, Op: "bind", Err: fault.As(fault.ErrMisuse, errors.New("the input is an output, too"))}
	}
	g.Inputs = slices.DeleteFunc(slices.Clone(g.Inputs), func(i *graph.Value) bool { return i == v })
	v.Const, v.Shape = t, graph.Fixed(t.Shape...)
	return nil
}

func find(g *graph.Graph, input string) (*graph.Value, error) {
	var names []string
	for _, v := range g.Inputs {
		if v.Name == input {
			return v, nil
		}
		names = append(names, v.Name)
	}
	hint := fmt.Sprintf("inputs are %v", names)
	if near := human.Nearest(input, names); near != "" {
		hint = "did you mean " + near + "?"
	}
	return nil, &fault.Error{Tensor: input, Op: "input", Err: fault.As(fault.ErrMisuse, errors.New("no input is called that")), Hint: hint}
}

// each visits every value of a graph and the graphs in it, each as often as it is used.
func each(g *graph.Graph, fn func(v *graph.Value)) {
	visit := func(list []*graph.Value) {
		for _, v := range list {
			if v != nil {
				fn(v)
			}
		}
	}
	visit(g.Inputs)
	for _, n := range g.Nodes {
		visit(n.In)
		visit(n.Out)
		for _, sub := range n.Graphs() {
			each(sub, fn)
		}
	}
	visit(g.Outputs)
}

// Freeze makes constants of inputs that have a default: nobody may replace them any more. Files of old
// versions list every weight as an input.
func Freeze(g *graph.Graph) (frozen int) {
	keep := g.Inputs[:0:0]
	for _, v := range g.Inputs {
		if v.Const == nil || slices.Contains(g.Outputs, v) {
			keep = append(keep, v)
		}
	}
	frozen = len(g.Inputs) - len(keep)
	g.Inputs = keep
	return frozen
}
