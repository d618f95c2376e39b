package qgraph

import (
	"context"
	"errors"
	"math"
	"slices"

	"github.com/pare-dev/pare/internal/calib"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
	"github.com/pare-dev/pare/ir/rewrite"
)

// Static quantizes networks with ranges from calibration. It is made once per network and set of samples,
// and can then build the quantized network several times, with other nodes left float.
type Static struct {
	cfg     Config
	net     ir.Network
	samples ir.Samples
	g       *graph.Graph // float, simplified and equalized
	hist    map[*graph.Value]*calib.Histogram
	sizes   map[*graph.Value]int // elements, of the largest sample
	equal   []Equalized
	changes []rewrite.Change
	codes   map[*graph.Node]*weights // of the latest Build
}

// Report says what quantization did.
type Report struct {
	Integer, Float int // nodes of the network
	Weights        int // layers whose weights became codes
	Kept           []Kept
	Equalized      []Equalized
	Rewrites       []rewrite.Change
	Ranges         []Range
	Layers         []LayerReport
}

// Range is how a value is quantized.
type Range struct {
	Value      string
	Scale      float32
	Zero       int
	Min, Max   float32 // seen
	Clipped    float64 // share of [Min, Max] beyond the codes
	SharedWith string  // the value that leads the group, or empty
}

// LayerReport is the error of a layer's output, on what it really reads: signal to noise ratios in dB, with
// codes rounded to nearest and as they were chosen; zeros where it was not measured, as for layers too wide
// to choose codes for.
type LayerReport struct {
	Node            string
	Nearest, Chosen float64
}

// Prepare makes a network ready to be quantized: constants folded, batch normalization and biases in their
// layers, the operator set new enough. It works on a clone.
func Prepare(ctx context.Context, g *graph.Graph, net ir.Network, opset int) (*graph.Graph, []rewrite.Change, error) {
	c, _ := g.Clone()
	rewrite.Freeze(c)
	if err := net.Infer(ctx, c); err != nil {
		return nil, nil, err
	}
	changes, err := rewrite.Simplify(ctx, c, rewrite.Options{Evaluate: net.Evaluate})
	if err != nil {
		return nil, nil, err
	}
	if err := rewrite.Upgrade(c, opset); err != nil {
		return nil, nil, err
	}
	if err := net.Infer(ctx, c); err != nil {
		return nil, nil, err
	}
	// What is known now may fold more: shapes that the inputs decide.
	more, err := rewrite.Simplify(ctx, c, rewrite.Options{Evaluate: net.Evaluate})
	if err != nil {
		return nil, nil, err
	}
	return c, append(changes, more...), net.Infer(ctx, c)
}

// New prepares a network and calibrates it.
func New(ctx context.Context, g *graph.Graph, net ir.Network, samples ir.Samples, cfg Config) (*Static, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	if samples == nil || samples.Len() == 0 {
		return nil, &fault.Error{Op: "quantize.static", Err: fault.As(fault.ErrMisuse, ErrNoSamples), Hint: "give inputs like those that the network will see, 100 or more"}
	}
	s := &Static{cfg: cfg, net: net, samples: samples}
	var err error
	if s.g, s.changes, err = Prepare(ctx, g, net, cfg.opset()); err != nil {
		return nil, err
	}
	if err := cfg.Keep.check(g, s.g); err != nil {
		return nil, err
	}
	p := place(s.g, cfg, nil)
	if err := p.check(); err != nil {
		return nil, &fault.Error{Op: "quantize.static", Err: fault.As(fault.ErrMisuse, err)}
	}
	return s, s.calibrate(ctx, p)
}

// Nodes are the nodes of the prepared network that run on integers, in order: what mixed precision chooses
// from.
func (s *Static) Nodes() []*graph.Node {
	p := place(s.g, s.cfg, nil)
	return slices.DeleteFunc(slices.Clone(s.g.Nodes), func(n *graph.Node) bool { return p.form[n] == formFloat })
}

// Graph is the prepared network in float, with which quantized ones are compared.
func (s *Static) Graph() *graph.Graph { return s.g }

// Build makes the quantized network, with the given nodes of Nodes left float.
func (s *Static) Build(ctx context.Context, float map[*graph.Node]bool) (*graph.Graph, *Report, error) {
	p := place(s.g, s.cfg, float)
	scales := s.scales(p)
	codes := map[*graph.Node]*weights{}
	for _, n := range s.g.Nodes {
		if p.form[n] == formLinear {
			codes[n] = newWeights(p.layers[n], s.cfg, scales[p.head(n.In[0])].Scale)
		}
	}
	r := &Report{Weights: len(codes), Kept: p.kept, Equalized: s.equal, Rewrites: s.changes}
	r.Integer, r.Float = p.describe()
	if !s.cfg.NoRounding || !s.cfg.NoBias {
		var err error
		if r.Layers, err = s.round(ctx, p, scales, codes); err != nil {
			return nil, nil, err
		}
	}
	s.codes = codes
	b := build(p, scales, codes)
	if err := b.g.Check(); err != nil {
		return nil, nil, &fault.Error{Op: "quantize.static", Err: err}
	}
	for _, v := range p.coded {
		h := p.head(v)
		a, seen := scales[h], s.hist[v]
		lo, hi := s.cfg.activationGrid().Span(a)
		one := Range{Value: v.Name, Scale: a.Scale, Zero: a.Zero, Min: seen.Min, Max: seen.Max}
		if width := float64(seen.Max) - float64(seen.Min); width > 0 {
			one.Clipped = (max(lo-float64(seen.Min), 0) + max(float64(seen.Max)-hi, 0)) / width
		}
		if h != v {
			one.SharedWith = h.Name
		}
		r.Ranges = append(r.Ranges, one)
	}
	return b.g, r, nil
}

// sketch makes the quantized network with the codes of the latest Build, which chose them with other nodes in float:
// good enough to rank nodes by, and quick.
func (s *Static) sketch(float map[*graph.Node]bool) (*graph.Graph, error) {
	p := place(s.g, s.cfg, float)
	codes := map[*graph.Node]*weights{}
	for n, q := range s.codes {
		if p.form[n] == formLinear {
			codes[n] = q
		}
	}
	g := build(p, s.scales(p), codes).g
	if err := g.Check(); err != nil {
		return nil, &fault.Error{Op: "quantize.static", Err: err}
	}
	return g, nil
}

// scales of the groups of a placement, from the histograms of their members.
func (s *Static) scales(p *placement) map[*graph.Value]calib.Affine {
	hist := map[*graph.Value]*calib.Histogram{}
	for _, v := range p.coded {
		h := p.head(v)
		if hist[h] == nil {
			hist[h] = calib.NewHistogram()
		}
		hist[h].Merge(s.hist[v])
	}
	return ranges(p, hist)
}

// ErrNotFiniteOutput is the reason when a network gives NaN or infinities.
var ErrNotFiniteOutput = errors.New("the network's output is not finite")

// SNR is the ratio of the energy of a to that of its difference from b, in dB.
func SNR(a, b []float32) float64 {
	var signal, noise float64
	for i, v := range a {
		d := float64(v) - float64(b[i])
		signal += float64(float64(v) * float64(v))
		noise += float64(d * d)
	}
	return ratio(signal, noise)
}

// ratio in dB; 200 stands for no noise at all.
func ratio(signal, noise float64) float64 {
	switch {
	case noise == 0:
		return 200
	case signal == 0:
		return -200
	}
	return min(10*math.Log10(signal/noise), 200)
}
