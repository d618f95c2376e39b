package eval

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	register(Op{Name: "Einsum", Narrow: true, Plan: planEinsum})
}

// summation is an equation of Einsum: which dimensions of the inputs are one, by label.
type summation struct {
	terms [][]rune
	out   []rune
	size  map[rune]int
}

// dots are the labels of the dimensions that "..." stands for, the last one first.
const dots = '\U0010F000'

// parseEinsum reads an equation for inputs of these shapes.
func parseEinsum(equation string, shapes [][]int) (*summation, error) {
	left, right, explicit := strings.Cut(strings.ReplaceAll(equation, " ", ""), "->")
	terms := strings.Split(left, ",")
	if len(terms) != len(shapes) {
		return nil, fmt.Errorf("equation %q, %d inputs", equation, len(shapes))
	}
	s := &summation{size: map[rune]int{}}
	most := 0 // dimensions behind dots
	count := map[rune]int{}
	for i, term := range terms {
		extra := len(shapes[i]) - (len(term) - 3*strings.Count(term, "..."))
		most = max(most, extra)
		labels, err := labelsOf(term, extra)
		if err != nil || len(labels) != len(shapes[i]) {
			return nil, fmt.Errorf("equation %q, term %q for shape %v", equation, term, shapes[i])
		}
		for d, l := range labels {
			count[l]++
			n := shapes[i][d]
			switch old, ok := s.size[l]; {
			case !ok, old == 1:
				s.size[l] = n
			case n != old && n != 1:
				return nil, fmt.Errorf("equation %q, shapes %v", equation, shapes)
			}
		}
		s.terms = append(s.terms, labels)
	}
	if explicit {
		var err error
		if s.out, err = labelsOf(right, most); err != nil {
			return nil, err
		}
	} else {
		for i := most; i > 0; i-- {
			s.out = append(s.out, dots+rune(i-1))
		}
		var once []rune
		for l, n := range count {
			if n == 1 && l < dots {
				once = append(once, l)
			}
		}
		slices.Sort(once)
		s.out = append(s.out, once...)
	}
	for i, l := range s.out {
		if _, ok := s.size[l]; !ok || slices.Contains(s.out[:i], l) {
			return nil, fmt.Errorf("equation %q, output %q", equation, right)
		}
	}
	return s, nil
}

// labelsOf are the labels of a term whose dots stand for some dimensions.
func labelsOf(term string, extra int) ([]rune, error) {
	before, after, ok := strings.Cut(term, "...")
	labels := []rune(before)
	if ok {
		for i := extra; i > 0; i-- {
			labels = append(labels, dots+rune(i-1))
		}
		labels = append(labels, []rune(after)...)
	}
	for _, l := range labels {
		if l < dots && (l < 'A' || l > 'z' || l > 'Z' && l < 'a') {
			return nil, fmt.Errorf("label %q", l)
		}
	}
	return labels, nil
}

// shape is that of an array with labels.
func (s *summation) shape(labels []rune) []int {
	shape := make([]int, len(labels))
	for i, l := range labels {
		shape[i] = s.size[l]
	}
	return shape
}

func planEinsum(c *Call) (Step, error) {
	shapes := make([][]int, c.N())
	for i := range shapes {
		if shapes[i] = c.Shape(i); c.Type(i) != c.Type(0) {
			return Step{}, c.Fault("types %s and %s", c.Type(0), c.Type(i))
		}
	}
	s, err := parseEinsum(c.Node.Str("equation", ""), shapes)
	if err != nil {
		return Step{}, c.Fault("%w", err)
	}
	st := Step{Out: []Spec{Out(c.Type(0), s.shape(s.out)...)}}
	switch c.Type(0) {
	case graph.Float32:
		st.Run = runEinsum(s, floatReducer[float32](reduceSum))
	case graph.Float64:
		st.Run = runEinsum(s, floatReducer[float64](reduceSum))
	case graph.Int8:
		st.Run = runEinsum(s, intReducer[int8](reduceSum))
	case graph.Int16:
		st.Run = runEinsum(s, intReducer[int16](reduceSum))
	case graph.Int32:
		st.Run = runEinsum(s, intReducer[int32](reduceSum))
	case graph.Int64:
		st.Run = runEinsum(s, intReducer[int64](reduceSum))
	case graph.Uint8:
		st.Run = runEinsum(s, intReducer[uint8](reduceSum))
	case graph.Uint16:
		st.Run = runEinsum(s, intReducer[uint16](reduceSum))
	case graph.Uint32:
		st.Run = runEinsum(s, intReducer[uint32](reduceSum))
	case graph.Uint64:
		st.Run = runEinsum(s, intReducer[uint64](reduceSum))
	default:
		return Step{}, c.Fault("elements of type %s", c.Type(0))
	}
	return st, nil
}

// labelled is an array whose dimensions have labels; a label may come twice, for a diagonal.
type labelled[T number] struct {
	labels []rune
	shape  []int // its own, 1 where it is stretched
	data   []T
}

func runEinsum[T, A number](s *summation, sum reducer[T, A]) func(*Worker, []*graph.Tensor, []*graph.Tensor) error {
	return func(w *Worker, in, out []*graph.Tensor) error {
		now := labelled[T]{s.terms[0], in[0].Shape, elems[T](in[0])}
		for i := 1; i < len(in); i++ {
			later := slices.Clone(s.out)
			for _, t := range s.terms[i+1:] {
				later = append(later, t...)
			}
			next, err := contract(w, s, now, labelled[T]{s.terms[i], in[i].Shape, elems[T](in[i])}, later, sum)
			if err != nil {
				return err
			}
			now = next
		}
		done, err := arrange(s, now, s.out, sum)
		copy(elems[T](out[0]), done)
		return err
	}
}

// contract multiplies two arrays and sums over the labels that nobody needs later. It is a batch of matrix
// products once the dimensions are in order.
func contract[T, A number](w *Worker, s *summation, a, b labelled[T], later []rune, sum reducer[T, A]) (labelled[T], error) {
	var batch, rows, cols, inner []rune
	put := func(list *[]rune, l rune) {
		if !slices.Contains(*list, l) {
			*list = append(*list, l)
		}
	}
	for _, l := range a.labels {
		both, kept := slices.Contains(b.labels, l), slices.Contains(later, l)
		switch {
		case both && kept:
			put(&batch, l)
		case both:
			put(&inner, l)
		case kept:
			put(&rows, l)
		}
	}
	for _, l := range b.labels {
		if !slices.Contains(a.labels, l) && slices.Contains(later, l) {
			put(&cols, l)
		}
	}
	left, err := arrange(s, a, slices.Concat(batch, rows, inner), sum)
	if err != nil {
		return a, err
	}
	right, err := arrange(s, b, slices.Concat(batch, inner, cols), sum)
	if err != nil {
		return a, err
	}
	m, n, k := graph.Elems(s.shape(rows)), graph.Elems(s.shape(cols)), graph.Elems(s.shape(inner))
	labels := slices.Concat(batch, rows, cols)
	shape := s.shape(labels)
	if err := graph.CheckShape(shape); err != nil {
		return a, err
	}
	out := make([]T, graph.Elems(shape))
	for i := range graph.Elems(s.shape(batch)) {
		if err := multiply(w, kernels.NN, out[i*m*n:(i+1)*m*n], left[i*m*k:(i+1)*m*k], right[i*k*n:(i+1)*k*n], m, n, k); err != nil {
			return a, err
		}
	}
	return labelled[T]{labels, shape, out}, nil
}

// arrange is an array with its dimensions in the order of labels, summed over the others.
func arrange[T, A number](s *summation, a labelled[T], labels []rune, sum reducer[T, A]) ([]T, error) {
	shape := s.shape(labels)
	if slices.Equal(a.labels, labels) && slices.Equal(a.shape, shape) {
		return a.data, nil
	}
	step := map[rune]int{}
	for d, st := range strides(a.shape) {
		if a.shape[d] != 1 {
			step[a.labels[d]] += st
		}
	}
	var gone []rune
	for _, l := range a.labels {
		if !slices.Contains(labels, l) && !slices.Contains(gone, l) {
			gone = append(gone, l)
		}
	}
	steps := func(labels []rune) []int {
		out := make([]int, len(labels))
		for i, l := range labels {
			out[i] = step[l]
		}
		return out
	}
	if err := graph.CheckShape(shape); err != nil {
		return nil, err
	}
	r := &reduction{n: graph.Elems(s.shape(gone)), outs: graph.Elems(shape)}
	var err error
	if r.kept, err = newWalk(shape, steps(labels)); err != nil {
		return nil, err
	}
	if r.gone, err = newWalk(s.shape(gone), steps(gone)); err != nil {
		return nil, err
	}
	out := make([]T, r.outs)
	if r.outs > 0 {
		fold(r, sum, out, a.data, 0, r.kept.rows())
	}
	return out, nil
}
