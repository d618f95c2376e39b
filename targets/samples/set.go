package samples

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
	"github.com/pare-dev/pare/targets/recipe"
)

// Given is what one input is given: files, folders of files, numbers, zeros, ones, texts. An empty name is that
// of the only input.
type Given struct {
	Input  string
	Values []string
}

// Options of a set.
type Options struct {
	Preprocess recipe.Inputs
	Shapes     map[string][]int // of inputs, where the graph leaves dimensions open
	// Split makes the first axis of arrays count samples also where an input takes the array as it is.
	Split bool
}

// ErrInput is the reason when files and inputs do not go together.
var ErrInput = errors.New("no input for a graph can be made of it")

// input is an input with where its values come from.
type input struct {
	v     *graph.Value
	shape []int // -1 for dimensions that are open; nil when not even the rank is known
	how   recipe.Preprocess
	items []item
	from  []int // index of the first sample of each item, then the number of all
	at    int   // item that is loaded, -1 for none
	load  loaded
}

// item is something that samples are made of: a file, or a number.
type item struct {
	name string
	n    int
	open func() (loaded, error)
}

// loaded is an item whose samples can be read. fill is set, in place of read, for what has no shape of its own.
type loaded struct {
	read func(k int) (*graph.Tensor, error)
	fill func(shape []int) (*graph.Tensor, error)
	io.Closer
}

// Set is a set of samples: an ir.Samples.
type Set struct {
	inputs []*input
	n      int
	fresh  map[int]bool
	states map[string]string
	masks  map[string]string // inputs of ones and zeros, and their inputs of tokens
	masked map[string]*input
	opt    Options
}

// Options are those that the set was opened with.
func (s *Set) Options() Options { return s.opt }

var _ ir.Samples = (*Set)(nil)

// Open finds out what there is for every input. Every mistake is reported.
func Open(inputs []*graph.Value, given []Given, opt Options) (*Set, error) {
	s := &Set{states: map[string]string{}, masks: map[string]string{}, masked: map[string]*input{}, fresh: map[int]bool{}, opt: opt}
	values, errs := assign(inputs, given, opt)
	misnamed := len(errs) > 0
	for _, v := range inputs {
		how := opt.Preprocess[v.Name]
		in := &input{v: v, how: how, at: -1}
		list := values[v]
		switch {
		case how.State != "":
			s.states[v.Name] = how.State
			if list == nil {
				list = []string{"zeros"}
			}
		case (how.Mask != "" || how.Types != "") && list == nil:
			s.masks[v.Name], s.masked[v.Name] = cmp.Or(how.Mask, how.Types), in
			continue
		case list == nil && how.Value != "":
			list = []string{how.Value}
		case list == nil && v.Const != nil:
			continue // has a default
		}
		if v.Kind != graph.KindTensor {
			errs = append(errs, wrong(v, "it is no tensor: pare makes only tensors of files"))
			continue
		}
		if list == nil {
			if !misnamed { // somebody who gave it another name knows what it wants
				errs = append(errs, missing(v))
			}
			continue
		}
		var err error
		if in.shape, err = declared(v, opt.Shapes[v.Name]); err == nil {
			err = in.find(list, opt.Split)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		s.inputs = append(s.inputs, in)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, s.count()
}

// assign sorts what was given by input.
func assign(inputs []*graph.Value, given []Given, opt Options) (map[*graph.Value][]string, []error) {
	var errs []error
	names := make([]string, len(inputs))
	by := map[string]*graph.Value{}
	for i, v := range inputs {
		names[i], by[v.Name] = v.Name, v
	}
	unknown := func(what, name string) {
		hint := "inputs: " + strings.Join(names, ", ")
		if near := human.Nearest(name, names); near != "" {
			hint = fmt.Sprintf("did you mean %q?", near)
		}
		errs = append(errs, &fault.Error{Op: what, Err: fault.As(fault.ErrMisuse, fmt.Errorf("the graph has no input %q", name)), Hint: hint})
	}
	for _, name := range sorted(opt.Preprocess) {
		if by[name] == nil {
			unknown("preprocess", name)
		}
	}
	for _, name := range sorted(opt.Shapes) {
		if by[name] == nil {
			unknown("shape", name)
		}
	}
	out := map[*graph.Value][]string{}
	for _, g := range given {
		v := by[g.Input]
		if g.Input == "" {
			if v = only(inputs, opt); v == nil {
				errs = append(errs, &fault.Error{Op: "input", Err: fault.As(fault.ErrMisuse, fmt.Errorf("the graph has %d inputs: say which one %s is for", len(inputs), strings.Join(g.Values, ", "))), Hint: "write NAME=FILE; inputs: " + strings.Join(names, ", ")})
				continue
			}
		}
		if v == nil {
			unknown("input", g.Input)
			continue
		}
		out[v] = append(out[v], g.Values...)
	}
	return out, errs
}

// only is the input that must be given, when it is only one.
func only(inputs []*graph.Value, opt Options) (one *graph.Value) {
	for _, v := range inputs {
		if p := opt.Preprocess[v.Name]; v.Const != nil || p.State != "" || p.Value != "" || p.Mask != "" || p.Types != "" {
			continue
		}
		if one != nil {
			return nil
		}
		one = v
	}
	return one
}

// declared is the shape of an input with what the caller says of it.
func declared(v *graph.Value, given []int) ([]int, error) {
	if v.Shape == nil {
		return given, nil
	}
	dims := make([]int, len(*v.Shape))
	if given != nil && len(given) != len(dims) {
		return nil, wrong(v, "shape %s has %d dimensions, the input %d", Text(given), len(given), len(dims))
	}
	for i, d := range *v.Shape {
		dims[i] = d.Size
		if given == nil {
			continue
		}
		if d.Size >= 0 && given[i] != d.Size {
			return nil, wrong(v, "shape %s does not fit: the graph says %s", Text(given), v.Shape.Text())
		}
		dims[i] = given[i]
	}
	return dims, nil
}

// count finds the number of samples, and where a new file begins.
func (s *Set) count() error {
	s.n = 1
	var first *input
	for _, in := range s.inputs {
		n := in.from[len(in.items)]
		if n == 0 {
			return errors.Join(wrong(in.v, "there is nothing in %s", in.items[0].name), s.Close())
		}
		if n == 1 {
			continue
		}
		if first != nil && n != s.n {
			return errors.Join(wrong(in.v, "%d samples, %q has %d", n, first.v.Name, s.n), s.Close())
		}
		if first == nil {
			first, s.n = in, n
		}
	}
	s.fresh[0] = true
	if first != nil {
		for _, at := range first.from {
			s.fresh[at] = true
		}
	}
	return nil
}

// Len is the number of samples.
func (s *Set) Len() int { return s.n }

// States says which inputs continue with which outputs.
func (s *Set) States() map[string]string { return s.states }

// Fresh reports whether sample i begins a new file: states begin anew there.
func (s *Set) Fresh(i int) bool { return s.fresh[i] }

// Sample makes sample i.
func (s *Set) Sample(ctx context.Context, i int) (ir.Sample, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	out := ir.Sample{}
	named := map[string]int{} // dimensions by name, of the inputs that have a shape of their own
	var fills []*input
	for _, in := range s.inputs {
		l, k, err := in.item(i)
		if err != nil {
			return nil, err
		}
		if l.fill != nil {
			fills = append(fills, in)
			continue
		}
		t, err := l.read(k)
		if err != nil {
			return nil, in.named(err)
		}
		out[in.v.Name] = t
		for a, d := range dims(in.v) {
			if d.Name != "" && a < len(t.Shape) {
				named[d.Name] = t.Shape[a]
			}
		}
	}
	for _, in := range fills {
		l, _, err := in.item(i)
		if err != nil {
			return nil, err
		}
		t, err := l.fill(in.complete(named))
		if err != nil {
			return nil, in.named(err)
		}
		out[in.v.Name] = t
	}
	for _, name := range sorted(s.masks) {
		t, err := s.mask(name, out[s.masks[name]])
		if err != nil {
			return nil, err
		}
		out[name] = t
	}
	return out, nil
}

// complete is the shape of something that has none of its own: what the graph says, what the other inputs have
// under the same name, and 1.
func (in *input) complete(named map[string]int) []int {
	shape := slices.Clone(in.shape)
	for i, d := range shape {
		if d >= 0 {
			continue
		}
		shape[i] = 1
		if all := dims(in.v); i < len(all) {
			if n, ok := named[all[i].Name]; ok && all[i].Name != "" {
				shape[i] = n
			}
		}
	}
	return shape
}

func dims(v *graph.Value) []graph.Dim {
	if v.Shape == nil {
		return nil
	}
	return *v.Shape
}

// item loads what sample i is made of, and says which of its samples that is.
func (in *input) item(i int) (loaded, int, error) {
	if in.from[len(in.items)] == 1 {
		i = 0
	}
	at, found := slices.BinarySearch(in.from, i)
	if !found {
		at--
	}
	for at+1 < len(in.from) && in.from[at+1] == i { // items without samples
		at++
	}
	if at != in.at {
		if err := in.close(); err != nil {
			return loaded{}, 0, err
		}
		l, err := in.items[at].open()
		if err != nil {
			return loaded{}, 0, in.named(err)
		}
		in.at, in.load = at, l
	}
	return in.load, i - in.from[at], nil
}

func (in *input) close() error {
	in.at = -1
	if c := in.load.Closer; c != nil {
		in.load.Closer = nil
		return c.Close()
	}
	return nil
}

// Close closes what is open.
func (s *Set) Close() error {
	var errs []error
	for _, in := range s.inputs {
		errs = append(errs, in.close())
	}
	return errors.Join(errs...)
}

// named says which input an error is about.
func (in *input) named(err error) error {
	var fe *fault.Error
	if errors.As(err, &fe) {
		return err
	}
	return &fault.Error{Op: "input " + in.v.Name, Err: err}
}

// wrong is a mistake about an input.
func wrong(v *graph.Value, format string, args ...any) error {
	return &fault.Error{Op: "input " + v.Name, Err: fault.As(fault.ErrMisuse, fmt.Errorf(format, args...))}
}

// missing tells what an input wants.
func missing(v *graph.Value) error {
	hint := fmt.Sprintf("--input %s=FILE.npy", v.Name)
	switch r := len(dims(v)); {
	case v.Type == graph.String:
		hint = fmt.Sprintf("--input %s=TEXT", v.Name)
	case v.Shape != nil && r == 0:
		hint = fmt.Sprintf("--input %s=NUMBER", v.Name)
	case r == 4:
		hint = fmt.Sprintf("--input %s=PICTURE.png, or an array .npy", v.Name)
	}
	return &fault.Error{
		Op:   "input " + v.Name,
		Err:  fault.As(fault.ErrMisuse, fmt.Errorf("nothing is given for it: it is %s %s", v.Type, v.Shape.Text())),
		Hint: hint + "; zeros and ones fill it",
	}
}

// Text spells a shape; what is open is "?".
func Text(shape []int) string {
	s := make(graph.Shape, len(shape))
	for i, d := range shape {
		s[i].Size = d
	}
	return s.Text()
}

func sorted[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
