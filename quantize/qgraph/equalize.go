package qgraph

import (
	"math"
	"slices"

	"github.com/pare-dev/pare/ir/graph"
)

// Equalized is an activation whose channels were brought to like ranges.
type Equalized struct {
	Value string
	// Strength is the exponent a of s = max|x|^a / max|w|^(1-a): 1 makes the channels equal, smaller ones
	// share what is gained with the weights.
	Strength float64
	Gain     float64 // predicted, in dB of the error of the layers that read it
}

// pair is an activation between layers: factors may move from what makes it to what reads it.
type pair struct {
	maker   *graph.Node
	value   *graph.Value // what the readers read
	readers []*layer
	axis    int  // of the channels; -1 is the last
	insert  bool // others read the value, too, or its maker cannot be scaled: factors become a node of their own
	seen    *record
}

// strengths that are tried; 0.5 is that of SmoothQuant's paper and of cross-layer equalization.
var strengths = []float64{0.25, 0.5, 0.75, 1}

// pairs are the activations whose channels may be evened out.
func (p *placement) pairs() (list []*pair) {
	for _, n := range p.g.Nodes {
		q := p.pairOf(n)
		if q == nil {
			q = p.before(n)
		}
		if q != nil {
			list = append(list, q)
		}
	}
	return list
}

// equalize divides channel c of activations by s_c, in the layer that makes them, and multiplies the weights
// that read it by s_c: the network computes the same, and one scale then fits all channels. For each
// activation the strength is that with the least predicted error.
//
//	error of an output = step^2/12 * sum(w^2) + sum over columns of stepw^2/12 * E[x^2]
//
// It is cross-layer equalization (Nagel et al. 2019) with the ranges of real activations, and SmoothQuant
// (Xiao et al. 2022) where a LayerNormalization makes them. Weights of the graph are replaced in place.
func equalize(p *placement, pairs []*pair) (done []Equalized) {
	for _, q := range pairs {
		if q.seen.count == 0 {
			continue // no sample had an element
		}
		// Weights may have changed as those of the reader of the pair before.
		for i, r := range q.readers {
			q.readers[i] = newLayer(r.n)
		}
		if e, s := q.choose(p.cfg); s != nil {
			if q.insert {
				q.put(p.g, s)
			} else {
				q.apply(s)
			}
			e.Value = q.value.Name
			q.rename(p.x)
			done = append(done, e)
		}
	}
	return done
}

// pairOf is the activation behind a node whose outputs can be scaled per channel, when layers alone read it.
func (p *placement) pairOf(n *graph.Node) *pair {
	q := &pair{maker: n, axis: 1}
	var channels int
	switch {
	case p.form[n] == formLinear:
		channels = p.layers[n].outs
		if isOp(n, "Gemm", "MatMul") {
			q.axis = -1
		}
	case isOp(n, "LayerNormalization"):
		g := n.Input(1)
		if g == nil || g.Const == nil || g.Const.Type != graph.Float32 || len(g.Const.Shape) != 1 || len(n.Out) > 1 {
			return nil
		}
		if b := n.Input(2); b != nil && (b.Const == nil || b.Const.Type != graph.Float32 || b.Const.Elems() != g.Const.Elems()) {
			return nil
		}
		channels, q.axis = g.Const.Elems(), -1
	default:
		return nil
	}
	v := n.Out[0]
	for {
		if p.x.Output[v] {
			return nil
		}
		next := p.x.Only(v)
		homogeneous := isOp(next, "Relu", "LeakyRelu", "Identity") ||
			q.axis == 1 && isOp(next, "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool") && next.Output(1) == nil ||
			isOp(next, "PRelu") && next.In[0] == v && next.In[1].Const != nil
		if !homogeneous {
			break
		}
		v = next.Out[0]
	}
	for _, r := range p.x.Readers[v] {
		l := p.layers[r]
		if p.form[r] != formLinear || r.In[0] != v || l.inputs() != channels || isOp(r, "Gemm", "MatMul") != (q.axis == -1) {
			return nil
		}
		q.readers = append(q.readers, l)
	}
	if len(q.readers) == 0 {
		return nil
	}
	q.value = v
	return q
}

// choose finds the factors of least predicted error, nil where none gains a tenth of a dB.
func (q *pair) choose(cfg Config) (Equalized, []float64) {
	peaks := q.seen.peaks()
	weight := make([]float64, len(peaks))
	for _, r := range q.readers {
		row := make([]float32, r.cols)
		for o := range r.outs {
			r.row(row, o)
			for c, w := range row {
				in := r.input(o, c)
				weight[in] = max(weight[in], math.Abs(float64(w)))
			}
		}
	}
	ones := make([]float64, len(peaks))
	for i := range ones {
		ones[i] = 1
	}
	plain := q.loss(cfg, ones)
	best, gain := Equalized{}, 0.1
	if q.insert {
		gain = 1 // or it is not worth a node
	}
	var factors []float64
	for _, a := range strengths {
		s := factorsOf(peaks, weight, a)
		if g := 10 * math.Log10(plain/q.loss(cfg, s)); g > gain {
			best, gain, factors = Equalized{Strength: a, Gain: g}, g, s
		}
	}
	return best, factors
}

// reach bounds the factors around their geometric mean: a channel that calibration saw asleep may wake up.
const reach = 16

// factorsOf are s = peak^a / weight^(1-a), with a geometric mean of one.
func factorsOf(peaks []float32, weight []float64, a float64) []float64 {
	s := make([]float64, len(peaks))
	var sum, n float64
	for i, p := range peaks {
		if p > 0 && weight[i] > 0 {
			s[i] = a*math.Log(float64(p)) - (1-a)*math.Log(weight[i])
			sum += s[i]
			n++
		}
	}
	for i, p := range peaks {
		if p > 0 && weight[i] > 0 {
			s[i] = math.Exp(min(max(s[i]-sum/n, -math.Log(reach)), math.Log(reach)))
		} else {
			s[i] = 1
		}
	}
	return s
}

// loss is the predicted squared error of the readers when channel c is divided by s[c].
func (q *pair) loss(cfg Config, s []float64) float64 {
	grid, wgrid := cfg.activationGrid(), cfg.weightGrid()
	var lo, hi float64
	for c := range s {
		lo, hi = min(lo, float64(q.seen.lo[c])/s[c]), max(hi, float64(q.seen.hi[c])/s[c])
	}
	step := float64(grid.Affine(lo, hi).Scale)
	var total float64
	for _, r := range q.readers {
		row := make([]float32, r.cols)
		for o := range r.outs {
			r.row(row, o)
			var squares, peak, energy float64
			for c, w := range row {
				in := r.input(o, c)
				v := float64(w) * s[in]
				squares += float64(v * v)
				peak = max(peak, math.Abs(v))
				energy += q.seen.squares[in] / q.seen.count / float64(s[in]*s[in])
			}
			wstep := peak / float64(wgrid.Max-wgrid.Min) * 2
			total += (float64(step*step)*squares + float64(wstep*wstep)*energy) / 12
		}
	}
	return max(total, 1e-300)
}

// before is an activation whose readers are scaled, but not its maker: one that a residual connection reads beside
// products, as in BERT, or one that a function made which does not take factors through, as GELU.
func (p *placement) before(n *graph.Node) *pair {
	if p.cfg.Everything || !isOp(n, "LayerNormalization", "Gelu", "Mul", "Add") {
		return nil // an integer processor would round the value twice
	}
	q := &pair{maker: n, value: n.Out[0], axis: -1, insert: true}
	for _, r := range p.x.Readers[q.value] {
		l := p.layers[r]
		if p.form[r] != formLinear || !isOp(r, "Gemm", "MatMul") || r.In[0] != q.value || l == nil {
			continue
		}
		if len(q.readers) > 0 && q.readers[0].cols != l.cols {
			return nil
		}
		q.readers = append(q.readers, l)
	}
	if len(q.readers) == 0 || q.value.Type != graph.Float32 {
		return nil
	}
	return q
}

// put multiplies the value by 1/s in a node before its readers, and their weights by s.
func (q *pair) put(g *graph.Graph, s []float64) {
	inverse := make([]float32, len(s))
	for i, v := range s {
		inverse[i] = float32(1 / v)
	}
	name := q.value.Name + "_smooth"
	factors := &graph.Value{Name: name + "_factors", Type: graph.Float32, Shape: graph.Fixed(len(s)), Const: graph.From(graph.Float32, inverse, len(s))}
	out := &graph.Value{Name: name, Type: graph.Float32, Shape: q.value.Shape}
	n := &graph.Node{Name: name, Op: "Mul", In: []*graph.Value{q.value, factors}, Out: []*graph.Value{out}}
	g.Nodes = slices.Insert(g.Nodes, slices.Index(g.Nodes, q.maker)+1, n)
	q.scaleReaders(s)
	for _, r := range q.readers {
		r.n.In[0] = out
	}
}

// rename gives the values between maker and readers another name: they are not what was known by the old one, and
// nobody shall compare them with it.
func (q *pair) rename(x *graph.Index) {
	for v := q.maker.Out[0]; ; v = x.Only(v).Out[0] {
		v.Name += "_evened"
		if v == q.value {
			return
		}
	}
}

// apply moves the factors.
func (q *pair) apply(s []float64) {
	divide := func(v *graph.Value, channel func(i int) int) *graph.Value {
		src, out := graph.Of[float32](v.Const), graph.New(graph.Float32, v.Const.Shape...)
		for i, dst := 0, graph.Of[float32](out); i < len(dst); i++ {
			dst[i] = float32(float64(src[i]) / s[channel(i)])
		}
		w := *v
		w.Const = out
		return &w
	}
	own := func(i int) int { return i }
	if n := q.maker; n.Op == "LayerNormalization" {
		n.In[1] = divide(n.In[1], own)
		if n.Input(2) != nil {
			n.In[2] = divide(n.In[2], own)
		}
	} else {
		l := newLayer(n)
		of := make([]int, l.w.Elems())
		for o := range l.outs {
			l.each(o, func(_, at int) { of[at] = o })
		}
		n.In[1] = divide(n.In[1], func(i int) int { return of[i] })
		if b := n.Input(2); b != nil {
			all := *b
			all.Const = graph.From(graph.Float32, append([]float32(nil), l.bias...), l.outs)
			all.Shape = graph.Fixed(l.outs)
			n.In[2] = divide(&all, own)
		}
	}
	q.scaleReaders(s)
}

// scaleReaders multiplies the weights of the readers by the factors.
func (q *pair) scaleReaders(s []float64) {
	for _, r := range q.readers {
		v := *r.n.In[1]
		out := graph.New(graph.Float32, r.w.Shape...)
		src, dst := graph.Of[float32](r.w), graph.Of[float32](out)
		for o := range r.outs {
			r.each(o, func(col, at int) { dst[at] = float32(float64(src[at]) * s[r.input(o, col)]) })
		}
		v.Const = out
		r.n.In[1] = &v
	}
}
