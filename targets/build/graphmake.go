package build

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
	"github.com/pare-dev/pare/ir/rewrite"
	"github.com/pare-dev/pare/quantize/qgraph"
	"github.com/pare-dev/pare/runner/eval"
	"github.com/pare-dev/pare/runner/verify"
	"github.com/pare-dev/pare/targets/report"
	"github.com/pare-dev/pare/targets/samples"
)

// graphJob is what a target makes of a graph.
type graphJob struct {
	req qgraph.Request
	cfg qgraph.Config // of static quantization
}

// openGraph reads what the target asks for.
func (j *job) openGraph() error {
	j.net = &graphJob{}
	if j.table.Graph == nil {
		return nil // refused, and said so
	}
	var err error
	if j.net.req, err = qgraph.ParseRequest(j.t.Quantize); err != nil {
		return err
	}
	j.net.cfg, err = staticConfig(j.t, j.table.Graph, j.net.req)
	j.isa = j.net.req.Kind == qgraph.KindStatic
	return err
}

// changed is what a quantization made of a graph.
type changed struct {
	g      *graph.Graph
	graph  report.Graph
	pass   report.PassResult
	layers map[string]map[string]float64 // figures by the name of a weight
}

// change makes the graph of a target. list are the samples to learn from; without them, as a plan has none, ranges
// are made up and only the form of the result counts.
func (e *engine) change(ctx context.Context, j *job, list ir.Samples, sketch bool) (*changed, error) {
	net, err := e.passNetwork(ctx, list)
	if err != nil {
		return nil, err
	}
	c := &changed{layers: map[string]map[string]float64{}}
	weights := func(rep *qgraph.WeightReport) {
		c.graph.Integer = rep.Changed
		c.keep(rep.Kept)
	}
	switch q := j.net.req; q.Kind {
	case qgraph.KindFloat:
		c.pass.Name = "fold"
		if len(e.r.Source.Shapes) == 0 && len(e.r.Passes) == 0 && j.table.Graph.Rules == nil {
			c.pass.Name, c.g = "copy", e.src.Graph
			break
		}
		var folded []rewrite.Change
		if c.g, folded, err = qgraph.Prepare(ctx, e.net.base, net, 0); err == nil {
			c.rewrites(folded)
		}
	case qgraph.KindBlocks:
		c.pass.Name = "quantize.weights"
		var rep *qgraph.WeightReport
		if c.g, rep, err = (qgraph.WeightOnly{Bits: q.Bits, Block: q.Block, Keep: j.net.cfg.Keep, Memory: e.memory() / 2}).Apply(ctx, e.net.base); err == nil {
			weights(rep)
		}
	case qgraph.KindDynamic:
		c.pass.Name = "quantize.dynamic"
		var folded []rewrite.Change
		var g *graph.Graph
		if g, folded, err = qgraph.Prepare(ctx, e.net.base, net, 11); err != nil {
			break
		}
		c.rewrites(folded)
		d := qgraph.Dynamic{Unsigned: q.Unsigned || j.table.Graph.Saturates && j.t.Weights != "int8", Keep: j.net.cfg.Keep}
		d.SevenBits = j.table.Graph.Saturates && !d.Unsigned
		var rep *qgraph.WeightReport
		if c.g, rep, err = d.Apply(ctx, g); err == nil {
			weights(rep)
		}
	default:
		c.pass.Name = "quantize.static"
		err = e.static(ctx, j, net, list, sketch, c)
	}
	if err != nil {
		return nil, err
	}
	c.pass.Changed = c.graph.Integer
	c.graph.Float = nodeCount(c.g) - c.graph.Integer
	if j.net.req.Kind != qgraph.KindFloat && c.graph.Integer == 0 {
		return nil, &fault.Error{Op: c.pass.Name, Err: fault.As(fault.ErrMisuse, fmt.Errorf("nothing became %s%s", j.t.Quantize, c.why())), Hint: "quantize = \"f32\" packages the graph as it is"}
	}
	return c, nil
}

// nodeCount is how many nodes compute: those that only change the form of numbers are left out.
func nodeCount(g *graph.Graph) (n int) {
	for _, x := range g.Nodes {
		if !slices.Contains([]string{"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}, x.Op) {
			n++
		}
	}
	return n
}

func (c *changed) keep(kept []qgraph.Kept) {
	for _, k := range kept {
		if slices.ContainsFunc(c.graph.Trades, func(t report.Trade) bool { return t.Node == k.Node }) {
			k.Reason = "for the sake of the gate"
		}
		c.pass.Skipped = append(c.pass.Skipped, report.Line{Tensor: k.Node, Reason: k.Reason})
	}
}

// why is the first reason why a node stayed float.
func (c *changed) why() string {
	if len(c.pass.Skipped) == 0 {
		return ": no node has weights that it applies to"
	}
	return ": " + c.pass.Skipped[0].Tensor + ": " + c.pass.Skipped[0].Reason
}

func (c *changed) rewrites(list []rewrite.Change) {
	for _, r := range list {
		c.pass.Notes = append(c.pass.Notes, fmt.Sprintf("%s: %s", r.Rule, plural(r.Count, "place", "places")))
	}
}

// static is the quantization with ranges from samples.
func (e *engine) static(ctx context.Context, j *job, net *eval.Network, list ir.Samples, sketch bool, c *changed) error {
	var rep *qgraph.Report
	var err error
	if sketch {
		c.g, rep, err = qgraph.Sketch(ctx, e.net.base, net, j.net.cfg)
	} else {
		e.meter.Stage("calibrate "+j.t.Name, 0, "samples")
		cfg := j.net.cfg
		cfg.ISA = e.o.ISA
		var s *qgraph.Static
		if s, err = qgraph.New(ctx, e.net.base, net, list, cfg); err != nil {
			return err
		}
		var float map[*graph.Node]bool
		if j.t.Mix {
			if float, err = e.mix(ctx, j, s, c); err != nil {
				return err
			}
		}
		c.g, rep, err = s.Build(ctx, float)
		if err == nil {
			c.figures(s.Graph(), rep)
		}
	}
	if err != nil {
		return err
	}
	c.graph.Integer = rep.Integer
	c.keep(rep.Kept)
	c.rewrites(rep.Rewrites)
	if n := len(rep.Equalized); n > 0 {
		c.pass.Notes = append(c.pass.Notes, fmt.Sprintf("channels of %s were evened out, factors moved into the weights", plural(n, "activation", "activations")))
	}
	clipped := 0
	for _, r := range rep.Ranges {
		if r.Clipped > 0.01 {
			clipped++
		}
	}
	if clipped > 0 && !sketch {
		c.pass.Notes = append(c.pass.Notes, fmt.Sprintf("%s more than 1 %% of what the samples reach, where that costs least", plural(clipped, "activation is cut by", "activations are cut by")))
	}
	return nil
}

// figures are the errors of layers, by the weights that they have.
func (c *changed) figures(g *graph.Graph, rep *qgraph.Report) {
	at := map[string]string{}
	for _, n := range g.Nodes {
		if v := n.Input(1); v != nil && v.Const != nil {
			at[n.Label()] = v.Name
		}
	}
	for _, l := range rep.Layers {
		if name := at[l.Node]; name != "" && (l.Nearest != 0 || l.Chosen != 0) {
			c.layers[name] = map[string]float64{"nearest_db": finite(l.Nearest), "chosen_db": finite(l.Chosen)}
		}
	}
}

// mixSamples bounds the samples that a search for mixed precision scores with: it runs them for every layer.
const mixSamples = 64

// mix finds few nodes, none of them superfluous, which, left float, bring the calibration samples to the gate. The search looks at some
// of them; when all of them come out worse, it aims higher by what is missing.
func (e *engine) mix(ctx context.Context, j *job, s *qgraph.Static, c *changed) (map[*graph.Node]bool, error) {
	target := float64(e.r.Gate["sqnr_db"])
	e.meter.Stage("mix "+j.t.Name, 0, "layers")
	var m *qgraph.Mix
	var reached float64
	aim := target
	const tries = 4
	for range tries {
		var err error
		m, err = s.Mix(ctx, e.score(s, mixSamples), aim)
		if err != nil && !errors.Is(err, qgraph.ErrGate) {
			return nil, err
		}
		g, _, failed := s.Build(ctx, m.Float)
		if failed != nil {
			return nil, failed
		}
		if reached, failed = e.score(s, 0)(ctx, g); failed != nil {
			return nil, failed
		}
		if err != nil || reached >= target {
			break // what is out of reach is said by the gate
		}
		aim += target - reached + 0.1
	}
	c.pass.Notes = append(c.pass.Notes, fmt.Sprintf("sqnr_db with everything on integers: %.1f dB; with %s of %d in float: %.1f dB", m.Full, plural(len(m.Float), "layer", "layers"), max(m.Considered, len(m.Float)), reached))
	for _, t := range m.Trades {
		c.graph.Trades = append(c.graph.Trades, report.Trade{Node: t.Node, Alone: finite(t.Alone), Score: finite(t.Score), Bytes: 3 * int64(t.Weights)})
	}
	return m.Float, nil
}

// score is the gate's own figure on the first calibration samples, or on all for 0: the least ratio of signal to error
// of any output. What passes took counts, too: the signal is then that of the source.
func (e *engine) score(s *qgraph.Static, most int) qgraph.Score {
	return func(ctx context.Context, g *graph.Graph) (float64, error) {
		original := s.Graph()
		if len(e.r.Passes) > 0 {
			original = e.net.g
		}
		a, err := eval.Compile(original, e.evalOptions(2))
		if err != nil {
			return 0, err
		}
		b, err := eval.Compile(g, e.evalOptions(2))
		if err != nil {
			return 0, err
		}
		x := samples.Comparison{Result: &verify.Graphs{}, Most: most}
		if err := x.Run(ctx, &samples.Network{Path: e.src.Path, Program: a}, &samples.Network{Path: e.src.Path, Program: b}, e.net.calib); err != nil {
			return 0, err
		}
		x.Result.Judge(nil, verify.Bytes{})
		least := math.Inf(1)
		for _, o := range x.Result.Outputs {
			least = min(least, o.SQNR)
		}
		return least, nil
	}
}

// quantizeGraph makes the model that is written.
func (e *engine) quantizeGraph(ctx context.Context, j *job, rec *packaged) (*ir.Model, error) {
	var list ir.Samples
	if e.net.calib != nil && j.net.req.Kind == qgraph.KindStatic {
		n, err := e.networkOf(e.net.base)
		if err != nil {
			return nil, err
		}
		if list, err = n.Given(ctx, e.net.calib); err != nil {
			return nil, err
		}
	}
	c, err := e.change(ctx, j, list, false)
	if err != nil {
		return nil, err
	}
	m := e.src.Clone()
	if c.pass.Name != "copy" { // what nobody has changed is written as it was read
		m.Graph = c.g
	}
	if m.Assets, err = e.inputAssets(); err != nil {
		return nil, err
	}
	rec.Passes, rec.Graph, rec.Tensors = []report.PassResult{c.pass}, &c.graph, e.graphTensors(c)
	return m, nil
}

// networkOf is a graph that came of the source, ready to run.
func (e *engine) networkOf(g *graph.Graph) (*samples.Network, error) {
	p, err := eval.Compile(g, e.evalOptions(2))
	if err != nil {
		return nil, inModel(e.src.Path, err)
	}
	return &samples.Network{Path: e.src.Path, Program: p}, nil
}

// graphTensors says what became of every weight of the source.
func (e *engine) graphTensors(c *changed) []report.Tensor {
	made, base := map[string]*graph.Tensor{}, map[string]*graph.Tensor{}
	for _, v := range c.g.Constants() {
		made[v.Name] = v.Const
	}
	for _, v := range e.net.base.Constants() {
		base[v.Name] = v.Const
	}
	bytes := func(names ...string) (n int64) {
		for _, name := range names {
			if t := made[name]; t != nil {
				n += int64(t.Type.Bytes(t.Elems()))
			}
		}
		return n
	}
	var list []report.Tensor
	for _, t := range e.src.Tensors() {
		line := report.Tensor{Name: t.Name, Shape: t.Shape, From: typeName(t.Type, t.Scheme), Figures: c.layers[t.Name]}
		if b := base[t.Name]; b != nil {
			line.Shape = b.Shape
		}
		codes, same := made[t.Name+"_q"], made[t.Name]
		switch {
		case codes != nil:
			line.To, line.Bytes = codes.Type.String(), bytes(t.Name+"_q", t.Name+"_scale", t.Name+"_zero")
			if b := blockBits(codes, line.Shape); b > 0 {
				line.To = fmt.Sprintf("int%d in blocks", b)
			}
		case same != nil:
			line.To, line.Bytes = same.Type.String(), bytes(t.Name)
		default:
			line.To, line.Reason = "gone", "folded into other weights, or not needed"
		}
		list = append(list, line)
	}
	return list
}

// blockBits is the number of bits of codes in blocks, 0 for one code an element.
func blockBits(codes *graph.Tensor, shape []int) int {
	if len(codes.Shape) != 3 || len(shape) != 2 {
		return 0
	}
	if codes.Elems() < graph.Elems(shape) {
		return 4
	}
	return 8
}
