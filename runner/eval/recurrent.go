package eval

import (
	"math"
	"slices"

	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	register(Op{Name: "LSTM", Inputs: 3, Narrow: true, Plan: func(c *Call) (Step, error) { return planRecurrent(c, lstmKind) }})
	register(Op{Name: "GRU", Inputs: 3, Narrow: true, Plan: func(c *Call) (Step, error) { return planRecurrent(c, gruKind) }})
	register(Op{Domain: ownDomain, Name: "CodedLSTM", Inputs: 3, Plan: func(c *Call) (Step, error) {
		kind := lstmKind
		kind.coded = true
		return planRecurrent(c, kind)
	}})
	register(Op{Name: "RNN", Inputs: 3, Narrow: true, Plan: func(c *Call) (Step, error) { return planRecurrent(c, rnnKind) }})
}

// cellKind is what distinguishes recurrent layers.
type cellKind struct {
	gates int
	acts  []string // by default
	cell  bool     // there is a second state
	coded bool     // the state becomes codes of 8 bits before each product
}

var (
	lstmKind = cellKind{gates: 4, acts: []string{"Sigmoid", "Tanh", "Tanh"}, cell: true}
	gruKind  = cellKind{gates: 3, acts: []string{"Sigmoid", "Tanh"}}
	rnnKind  = cellKind{gates: 1, acts: []string{"Tanh"}}
)

// recurrent is the sizes and attributes of a recurrent layer.
type recurrent struct {
	cellKind
	seq, batch, in, hidden, dirs int

	backward    []bool // by direction
	acts        [][]gateFunc
	clip        float64 // 0 without
	batchFirst  bool
	couple      bool // the forget gate of an LSTM is what the input gate leaves
	resetsAfter bool // the reset gate of a GRU comes after the product
}

// Inputs of a recurrent layer.
const (
	inX = iota
	inW
	inR
	inB
	inLens
	inH
	inC
	inP
)

func planRecurrent(c *Call, kind cellKind) (Step, error) {
	r := &recurrent{cellKind: kind, clip: float64(c.Node.Float("clip", 0)), batchFirst: c.Node.Int("layout", 0) != 0}
	r.couple, r.resetsAfter = c.Node.Int("input_forget", 0) != 0, c.Node.Int("linear_before_reset", 0) != 0
	switch d := c.Node.Str("direction", "forward"); d {
	case "forward":
		r.backward = []bool{false}
	case "reverse":
		r.backward = []bool{true}
	case "bidirectional":
		r.backward = []bool{false, true}
	default:
		return Step{}, c.Fault("direction %q", d)
	}
	r.dirs = len(r.backward)
	x, w, rec := c.Shape(inX), c.Shape(inW), c.Shape(inR)
	if len(x) != 3 || len(w) != 3 || len(rec) != 3 {
		return Step{}, c.Fault("input %v, weights %v and %v", x, w, rec)
	}
	if r.seq, r.batch, r.in = x[0], x[1], x[2]; r.batchFirst {
		r.seq, r.batch = x[1], x[0]
	}
	r.hidden = c.Node.Int("hidden_size", rec[2])
	rows := kind.gates * r.hidden
	if r.hidden < 1 || r.hidden != rec[2] || !slices.Equal(w, []int{r.dirs, rows, r.in}) || !slices.Equal(rec, []int{r.dirs, rows, r.hidden}) {
		return Step{}, c.Fault("input %v, weights %v and %v, %d hidden, %d directions", x, w, rec, r.hidden, r.dirs)
	}
	state := []int{r.dirs, r.batch, r.hidden}
	out := []int{r.seq, r.dirs, r.batch, r.hidden}
	if r.batchFirst {
		state, out = []int{r.batch, r.dirs, r.hidden}, []int{r.batch, r.seq, r.dirs, r.hidden}
	}
	for i, want := range map[int][]int{inB: {r.dirs, 2 * rows}, inLens: {r.batch}, inH: state, inC: state, inP: {r.dirs, 3 * r.hidden}} {
		typ := c.Type(0)
		if i == inLens {
			typ = graph.Int32
		}
		if c.Has(i) && (!slices.Equal(c.Shape(i), want) || c.Type(i) != typ) {
			return Step{}, c.Fault("input %d is %s %v, not %s %v", i, c.Type(i), c.Shape(i), typ, want)
		}
	}
	if c.Type(inW) != c.Type(0) || c.Type(inR) != c.Type(0) {
		return Step{}, c.Fault("types %s, %s and %s", c.Type(0), c.Type(inW), c.Type(inR))
	}
	if err := r.activations(c); err != nil {
		return Step{}, err
	}
	s := Step{Out: []Spec{Out(c.Type(0), out...), Out(c.Type(0), state...)}}
	if kind.cell {
		s.Out = append(s.Out, Out(c.Type(0), state...))
	}
	n := 0
	for _, size := range r.scratch() {
		n += round(c.Type(0).Bytes(size))
	}
	s.Scratch = n
	switch c.Type(0) {
	case graph.Float32:
		s.Run = runRecurrent[float32](r)
	case graph.Float64:
		s.Run = runRecurrent[float64](r)
	default:
		return Step{}, c.Fault("elements of type %s", c.Type(0))
	}
	return s, nil
}

// scratch is the elements of what a run computes on the way: products of inputs, a gate, products of the state,
// the states.
func (r *recurrent) scratch() [5]int {
	rows := r.gates * r.hidden
	return [5]int{r.seq * r.batch * rows, r.hidden, r.batch * rows, r.batch * r.hidden, r.batch * r.hidden}
}

// activations reads the functions of each direction; those that have parameters take them from lists, in order.
func (r *recurrent) activations(c *Call) error {
	names := c.Node.Attrs["activations"].Strings
	if len(names) == 0 {
		for range r.dirs {
			names = append(names, r.cellKind.acts...)
		}
	}
	per := len(r.cellKind.acts)
	if len(names) != r.dirs*per {
		return c.Fault("%d activations, %d for each of %d directions are needed", len(names), per, r.dirs)
	}
	alphas, betas := c.Node.Attrs["activation_alpha"].Floats, c.Node.Attrs["activation_beta"].Floats
	next := func(list *[]float32, def float64) float64 {
		if len(*list) == 0 {
			return def
		}
		v := (*list)[0]
		*list = (*list)[1:]
		return float64(v)
	}
	for d := range r.dirs {
		var list []gateFunc
		for _, name := range names[d*per : (d+1)*per] {
			known, ok := activationsByName[name]
			if !ok {
				return c.Fault("activation %q", name)
			}
			a, b := known.alpha, known.beta
			if known.params > 0 {
				a = next(&alphas, a)
			}
			if known.params > 1 {
				b = next(&betas, b)
			}
			list = append(list, known.make(a, b))
		}
		r.acts = append(r.acts, list)
	}
	return nil
}

// gateFunc is a function of a gate.
type gateFunc func(x float64) float64

// activationsByName are the functions that recurrent layers may have, with their parameters' defaults.
var activationsByName = map[string]struct {
	params      int
	alpha, beta float64
	make        func(a, b float64) gateFunc
}{
	"Relu":            {0, 0, 0, func(_, _ float64) gateFunc { return func(x float64) float64 { return max(x, 0) } }},
	"Tanh":            {0, 0, 0, func(_, _ float64) gateFunc { return math.Tanh }},
	"Sigmoid":         {0, 0, 0, func(_, _ float64) gateFunc { return sigmoid }},
	"Softsign":        {0, 0, 0, func(_, _ float64) gateFunc { return softsign }},
	"Softplus":        {0, 0, 0, func(_, _ float64) gateFunc { return softplus }},
	"Elu":             {1, 1, 0, func(a, _ float64) gateFunc { return elu(a) }},
	"LeakyRelu":       {1, 0.01, 0, func(a, _ float64) gateFunc { return leaky(a) }},
	"ThresholdedRelu": {1, 1, 0, func(a, _ float64) gateFunc { return above(a) }},
	"Affine":          {2, 1, 0, func(a, b float64) gateFunc { return func(x float64) float64 { return float64(a*x) + b } }},
	"ScaledTanh":      {2, 1, 1, func(a, b float64) gateFunc { return func(x float64) float64 { return a * math.Tanh(b*x) } }},
	"HardSigmoid": {2, 0.2, 0.5, func(a, b float64) gateFunc {
		return func(x float64) float64 { return max(0, min(1, float64(a*x)+b)) }
	}},
}

// layer is one direction of a recurrent layer that is running.
type layer[T float] struct {
	*recurrent
	acts          []gateFunc
	weights, r    []T // of this direction
	bias, peep    []T // nil without
	products      []T // inputs times weights, plus biases
	reset, states []T // of one step: a gate, the state times its weights
	h, c          []T
}

func runRecurrent[T float](r *recurrent) func(*Worker, []*graph.Tensor, []*graph.Tensor) error {
	rows := r.gates * r.hidden
	return func(w *Worker, in, out []*graph.Tensor) error {
		get := func(i int) []T {
			if i < len(in) && in[i] != nil {
				return elems[T](in[i])
			}
			return nil
		}
		put := func(i int) []T {
			if i < len(out) && out[i] != nil {
				return elems[T](out[i])
			}
			return nil
		}
		var lens []int32
		if inLens < len(in) && in[inLens] != nil {
			lens = elems[int32](in[inLens])
		}
		y, lastH, lastC := put(0), put(1), put(2)
		clear(y)
		var parts [5][]T
		rest := w.Scratch
		for i, n := range r.scratch() {
			size := in[0].Type.Bytes(n)
			parts[i] = elems[T](&graph.Tensor{Type: in[0].Type, Data: rest[:size]})
			rest = rest[round(size):]
		}
		for d := range r.dirs {
			l := &layer[T]{
				recurrent: r, acts: r.acts[d], products: parts[0], reset: parts[1], states: parts[2], h: parts[3], c: parts[4],
				weights: get(inW)[d*rows*r.in:][:rows*r.in], r: get(inR)[d*rows*r.hidden:][:rows*r.hidden],
			}
			if b := get(inB); b != nil {
				l.bias = b[d*2*rows:][:2*rows]
			}
			if p := get(inP); p != nil {
				l.peep = p[d*3*r.hidden:][:3*r.hidden]
			}
			loadState(r, l.h, get(inH), d)
			loadState(r, l.c, get(inC), d)
			if err := l.run(w, elems[T](in[0]), y, lens, d); err != nil {
				return err
			}
			saveState(r, lastH, l.h, d)
			saveState(r, lastC, l.c, d)
		}
		return nil
	}
}

// stateAt is where the state of a direction and an element of the batch lies.
func (r *recurrent) stateAt(d, b int) int {
	if r.batchFirst {
		return (b*r.dirs + d) * r.hidden
	}
	return (d*r.batch + b) * r.hidden
}

// loadState reads the first state of a direction, zero when there is none.
func loadState[T float](r *recurrent, dst, src []T, d int) {
	if src == nil {
		clear(dst)
		return
	}
	for b := range r.batch {
		copy(dst[b*r.hidden:(b+1)*r.hidden], src[r.stateAt(d, b):])
	}
}

// saveState writes the last state of a direction, if anybody wants it.
func saveState[T float](r *recurrent, dst, src []T, d int) {
	for b := range r.batch {
		if dst != nil {
			copy(dst[r.stateAt(d, b):], src[b*r.hidden:(b+1)*r.hidden])
		}
	}
}

// run goes through the sequences of a batch, a step at a time. A sequence that is shorter than others stops
// when it ends: its state stays, its outputs are zero. Backward, each begins at its own end.
func (l *layer[T]) run(w *Worker, x, y []T, lens []int32, d int) error {
	rows := l.gates * l.hidden
	if err := multiplyFloat(w, kernels.NT, l.products, x, l.weights, l.seq*l.batch, rows, l.in); err != nil {
		return err
	}
	l.addBiases(rows)
	for t := range l.seq {
		state := l.h
		if f, ok := any(l.h).([]float32); ok && l.coded {
			state = any(coded(f)).([]T)
		}
		if err := multiplyFloat(w, kernels.NT, l.states, state, l.r, l.batch, rows, l.hidden); err != nil {
			return err
		}
		for b := range l.batch {
			n := l.seq
			if lens != nil {
				n = min(max(int(lens[b]), 0), l.seq)
			}
			if t >= n {
				continue
			}
			at := t
			if l.backward[d] {
				at = n - 1 - t
			}
			row, place := at*l.batch+b, ((at*l.dirs+d)*l.batch+b)*l.hidden
			if l.batchFirst {
				row, place = b*l.seq+at, ((b*l.seq+at)*l.dirs+d)*l.hidden
			}
			h, c := l.h[b*l.hidden:(b+1)*l.hidden], l.c[b*l.hidden:(b+1)*l.hidden]
			gates, products := l.states[b*rows:(b+1)*rows], l.products[row*rows:(row+1)*rows]
			switch l.gates {
			case 4:
				l.lstm(gates, products, h, c)
			case 3:
				if err := l.gru(w, gates, products, h, l.reset); err != nil {
					return err
				}
			default:
				for k := range h {
					h[k] = T(l.acts[0](l.clipped(products[k] + gates[k])))
				}
			}
			if y != nil {
				copy(y[place:place+l.hidden], h)
			}
		}
	}
	return nil
}

// coded is what numbers are after DynamicQuantizeLinear.
func coded(x []float32) []float32 {
	scale, zero := dynamicRange(x)
	y := make([]float32, len(x))
	for i, v := range x {
		y[i] = (float32(codeOf(v/scale, zero, 0, 255)) - zero) * scale
	}
	return y
}

// addBiases adds the biases of inputs and of the state to the products. That of the last gate of a GRU which
// resets after the product is added there.
func (l *layer[T]) addBiases(rows int) {
	if l.bias == nil {
		return
	}
	both := rows
	if l.gates == 3 && l.resetsAfter {
		both = 2 * l.hidden
	}
	for r := range l.seq * l.batch {
		row := l.products[r*rows : (r+1)*rows]
		for k := range row {
			row[k] += l.bias[k]
			if k < both {
				row[k] += l.bias[rows+k]
			}
		}
	}
}

// clipped is a number on its way into an activation.
func (l *layer[T]) clipped(v T) float64 {
	if l.clip > 0 {
		return max(-l.clip, min(l.clip, float64(v)))
	}
	return float64(v)
}

// lstm makes the next states of an LSTM: gates for input, output, forgetting, and the new content.
func (l *layer[T]) lstm(s, x, h, c []T) {
	n := l.hidden
	var pi, po, pf []T
	if l.peep != nil {
		pi, po, pf = l.peep[:n], l.peep[n:2*n], l.peep[2*n:]
	}
	for k := range h {
		i, o, f, g := x[k]+s[k], x[n+k]+s[n+k], x[2*n+k]+s[2*n+k], x[3*n+k]+s[3*n+k]
		if pi != nil {
			i += T(pi[k] * c[k])
			f += T(pf[k] * c[k])
		}
		gate := l.acts[0](l.clipped(i))
		keep := 1 - gate
		if !l.couple {
			keep = l.acts[0](l.clipped(f))
		}
		next := T(float64(keep*float64(c[k])) + float64(gate*l.acts[1](l.clipped(g))))
		if po != nil {
			o += T(po[k] * next)
		}
		c[k] = next
		h[k] = T(l.acts[0](l.clipped(o)) * l.acts[2](float64(next)))
	}
}

// gru makes the next state of a GRU: gates for keeping and resetting, and the new content.
func (l *layer[T]) gru(w *Worker, s, x, h, reset []T) error {
	n := l.hidden
	for k := range h {
		reset[k] = T(l.acts[0](l.clipped(x[n+k] + s[n+k])))
	}
	content := s[2*n : 3*n] // the state times its weights
	switch {
	case !l.resetsAfter:
		for k := range h {
			reset[k] *= h[k]
		}
		if err := multiplyFloat(w, kernels.NT, content, reset, l.r[2*n*n:], 1, n, n); err != nil {
			return err
		}
	case l.bias != nil:
		for k := range h {
			content[k] = reset[k] * (content[k] + l.bias[5*n+k])
		}
	default:
		for k := range h {
			content[k] *= reset[k]
		}
	}
	for k := range h {
		keep := l.acts[0](l.clipped(x[k] + s[k]))
		next := l.acts[1](l.clipped(x[2*n+k] + content[k]))
		h[k] = T(float64((1-keep)*next) + float64(keep*float64(h[k])))
	}
	return nil
}
