package channels

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/pare-dev/pare/internal/cpu"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/progress"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
	"github.com/pare-dev/pare/ir/rewrite"
)

// Pass is the name of the pass in recipes and reports.
const Pass = "prune.channels"

// What Multiple and Floor are unless said.
const (
	DefaultMultiple = 8
	DefaultFloor    = 0.125
)

// Config says what is pruned.
type Config struct {
	Budget Budget
	// Score judges channels; empty is ByFit with samples, Magnitude without.
	Score string
	// Multiple is what numbers of channels are rounded to, for the kernels' sake; 0 is 8. Groups with less than eight
	// times as many take halves of it.
	Multiple int
	// Floor is the share of a group that stays at least; 0 is an eighth.
	Floor float64
	// Only and Skip are patterns of layers: of their names, operators or outputs; * crosses slashes. Each has to
	// select one.
	Only, Skip []string
	// NoRefit leaves the weights that stay as they are.
	NoRefit bool
	// Shapes are those of inputs that the graph leaves open, by name; without them, open dimensions count as 1, or
	// as the samples have them.
	Shapes map[string][]int

	Threads  int
	ISA      cpu.Level
	Memory   int64 // bytes that activations may take, 0: a gigabyte
	Progress progress.Sink
}

// Group is a set of channels that the same layers make.
type Group struct {
	Layers   string `json:"layers"`
	Channels int    `json:"channels"`
	Kept     int    `json:"kept"`
	Pinned   int    `json:"pinned"` // channels that could not go
	Reason   string `json:"reason,omitempty"`
}

// Output is how well an output is that of the original, over the samples.
type Output struct {
	Name string  `json:"name"`
	SQNR float64 `json:"sqnr_db"`

	noise float64 // energy of the error, as a share of the output's
}

// Report says what went.
type Report struct {
	Score   string   `json:"score"`
	Before  Size     `json:"before"`
	After   Size     `json:"after"`
	Groups  []Group  `json:"groups"`
	Fits    []Fit    `json:"fits,omitempty"`
	Outputs []Output `json:"outputs,omitempty"`
	Samples int      `json:"samples"` // that were used
}

// Check reports what does not go together.
func (c *Config) Check() error {
	bad := func(hint, format string, args ...any) error {
		return &fault.Error{Op: "prune.channels", Err: fault.As(fault.ErrMisuse, fmt.Errorf(format, args...)), Hint: hint}
	}
	switch b := c.Budget; {
	case !(b.Keep > 0) || b.Keep >= 1 && b.Measure != Bytes && b.Measure != Parameters:
		return bad("a budget is a share that stays, between 0 and 1", "%g is no share", b.Keep)
	case c.Score != "" && !slices.Contains(Scores(), c.Score):
		return bad(fmt.Sprintf("choose one of %v", Scores()), "channels cannot be judged by %q", c.Score)
	case c.Multiple < 0 || c.Multiple > 4096:
		return bad("8 or 16 suit most kernels, 1 rounds nothing", "channels cannot be rounded to multiples of %d", c.Multiple)
	case !(c.Floor >= 0) || c.Floor >= 1:
		return bad("the floor is a share, such as 0.125", "%g is no share", c.Floor)
	}
	for _, list := range [][]string{c.Only, c.Skip} {
		for _, p := range list {
			if err := ir.CheckPattern(p); err != nil {
				return err
			}
		}
	}
	return nil
}

// pruning is under way.
type pruning struct {
	cfg      Config
	net      ir.Network
	g        *graph.Graph // being cut
	original *graph.Graph // simplified, as g was
	t        *tracer
	keep     *keeper
	samples  []ir.Sample
	kern     *kernels.Set
	threads  int
	rows     int // positions that a fit looks at
	sink     progress.Sink
	groups   []*group
	report   Report
}

// Plan says what Prune would remove, with a graph of the shapes that are left: its layers are not fitted. Samples may
// be nil.
func Plan(ctx context.Context, g *graph.Graph, net ir.Network, samples ir.Samples, cfg Config) (*graph.Graph, *Report, error) {
	p, gone, err := plan(ctx, g, net, samples, cfg)
	if err != nil {
		return nil, nil, err
	}
	p.keep = p.t.apply(gone)
	return p.finish(ctx)
}

// Prune makes a smaller graph. With samples it is fitted to what the original makes of them. The graph that is given
// stays as it is.
func Prune(ctx context.Context, g *graph.Graph, net ir.Network, samples ir.Samples, cfg Config) (*graph.Graph, *Report, error) {
	p, gone, err := plan(ctx, g, net, samples, cfg)
	if err != nil {
		return nil, nil, err
	}
	// Nodes are cut in place: what the fit compares with is a copy from before.
	p.original, _ = p.g.Clone()
	p.keep = p.t.apply(gone)
	switch {
	case p.samples == nil:
	case cfg.NoRefit:
		err = p.compare(ctx, newStage(p.net, p.original, p.samples), newStage(p.net, p.g, p.samples))
	default:
		p.report.Fits, err = p.refit(ctx)
	}
	if err != nil {
		return nil, nil, err
	}
	return p.finish(ctx)
}

// finish hands out what was made.
func (p *pruning) finish(ctx context.Context) (*graph.Graph, *Report, error) {
	p.keep.rename(p.g)
	if err := p.g.Check(); err != nil {
		return nil, nil, &fault.Error{Op: "prune.channels", Err: err}
	}
	return p.g, &p.report, p.net.Infer(ctx, p.g)
}

// plan chooses what goes.
func plan(ctx context.Context, g *graph.Graph, net ir.Network, samples ir.Samples, cfg Config) (*pruning, map[int]bool, error) {
	if err := cfg.Check(); err != nil {
		return nil, nil, err
	}
	p := &pruning{cfg: cfg, net: net, kern: kernels.For(cfg.ISA), threads: cfg.Threads, rows: fitRows, sink: cfg.Progress}
	if p.sink == nil {
		p.sink = progress.Discard
	}
	gains, err := p.prepare(ctx, g)
	if err != nil {
		return nil, nil, err
	}
	shapes, err := p.load(ctx, samples)
	if err != nil {
		return nil, nil, err
	}
	p.t = trace(p.g, cfg.Only, cfg.Skip)
	if err := errors.Join(p.t.selected(cfg.Only), p.t.selected(cfg.Skip)); err != nil {
		return nil, nil, err
	}
	p.groups = p.t.grouped()
	s, err := newScale(p.t, shapes)
	if err != nil {
		return nil, nil, err
	}
	if err := p.score(ctx, gains); err != nil {
		return nil, nil, err
	}
	multiple, floor := cfg.Multiple, cfg.Floor
	if multiple == 0 {
		multiple = DefaultMultiple
	}
	if floor == 0 {
		floor = DefaultFloor
	}
	p.t.spare(p.groups)
	for _, g := range p.groups {
		g.steps(multiple, floor)
		g.reach(&p.t.u, p.t.layers)
	}
	if p.samples != nil && cfg.Budget.Measure != Ratio {
		if err := p.trials(ctx, shapes); err != nil {
			return nil, nil, err
		}
	}
	p.report.Before = s.size()
	counts, err := choose(ctx, p.groups, s, cfg.Budget)
	if err != nil {
		return nil, nil, p.explain(err)
	}
	p.report.After = s.size()
	gone, removed := map[int]bool{}, 0
	for i, g := range p.groups {
		for _, u := range g.order[:counts[i]] {
			gone[u] = true
		}
		removed += counts[i]
		p.report.Groups = append(p.report.Groups, Group{g.name(), len(g.units), len(g.units) - counts[i], len(g.units) - len(g.free), g.why})
	}
	if removed == 0 {
		return nil, nil, p.explain(&fault.Error{Op: "prune.channels", Err: fault.As(fault.ErrMisuse, errors.New("no channel goes"))})
	}
	return p, gone, nil
}

// explain adds to an error why groups stay.
func (p *pruning) explain(err error) error {
	var f *fault.Error
	if !errors.As(err, &f) || f.Hint != "" && len(p.groups) > 0 && slices.ContainsFunc(p.groups, func(g *group) bool { return len(g.free) > 0 }) {
		return err
	}
	f.Hint = "the graph has no layer with weights that could be cut"
	for _, g := range p.groups {
		if g.why != "" {
			f.Hint = fmt.Sprintf("the channels of %s stay: %s", g.name(), g.why)
			break
		}
	}
	return f
}

// prepare simplifies a copy of the graph, and remembers the gains of batch normalization by the layers that take
// them in.
func (p *pruning) prepare(ctx context.Context, g *graph.Graph) (map[*graph.Value][]float64, error) {
	p.g, _ = g.Clone()
	rewrite.Freeze(p.g)
	if err := p.net.Infer(ctx, p.g); err != nil {
		return nil, err
	}
	gains := map[*graph.Value][]float64{}
	for _, n := range p.g.Nodes {
		if n.Op != "BatchNormalization" || n.Domain != "" || n.Output(0) == nil {
			continue
		}
		if v := n.Input(1); v != nil && v.Const != nil && v.Const.Type == graph.Float32 && v.Const.Data != nil {
			for _, e := range graph.Of[float32](v.Const) {
				gains[n.Out[0]] = append(gains[n.Out[0]], float64(e)*float64(e))
			}
		}
	}
	// Twice: what is known of the shapes after the first time may fold more.
	for range 2 {
		if _, err := rewrite.Simplify(ctx, p.g, rewrite.Options{Evaluate: p.net.Evaluate}); err != nil {
			return nil, err
		}
		if err := p.net.Infer(ctx, p.g); err != nil {
			return nil, err
		}
	}
	return gains, nil
}

// shapes are those of all values at the shapes that the inputs are given.
func (p *pruning) shapes(ctx context.Context) (map[string][]int, error) {
	c, _ := p.g.Clone()
	for _, v := range c.Inputs {
		if _, ok := v.Shape.Known(); ok || v.Kind != graph.KindTensor {
			continue
		}
		dims := p.cfg.Shapes[v.Name]
		if len(p.samples) > 0 && p.samples[0][v.Name] != nil {
			dims = p.samples[0][v.Name].Shape
		}
		if dims == nil && v.Shape != nil {
			for _, d := range *v.Shape {
				if d.Size < 0 {
					d.Size = 1
				}
				dims = append(dims, d.Size)
			}
		}
		if dims == nil {
			continue
		}
		if err := rewrite.Fix(c, v.Name, dims); err != nil {
			return nil, err
		}
	}
	if err := p.net.Infer(ctx, c); err != nil {
		return nil, err
	}
	out := map[string][]int{}
	for _, n := range c.Nodes {
		for _, list := range [][]*graph.Value{n.In, n.Out} {
			for _, v := range list {
				if v == nil {
					continue
				}
				if s, ok := v.Shape.Known(); ok {
					out[v.Name] = s
				}
			}
		}
	}
	return out, nil
}

// load takes samples into memory, as many as it may hold beside what flows between layers, and gives the shapes of
// all values when the first of them is what comes in.
func (p *pruning) load(ctx context.Context, samples ir.Samples) (map[string][]int, error) {
	all := 0
	if samples != nil {
		all = samples.Len()
	}
	if all == 0 {
		return p.shapes(ctx)
	}
	widest, err := p.take(ctx, samples, 0)
	if err != nil {
		return nil, err
	}
	shapes, err := p.shapes(ctx)
	if err != nil {
		return nil, err
	}
	for _, n := range p.g.Nodes {
		for _, v := range n.Out {
			if s := shapes[nameOf(v)]; s != nil {
				widest = max(widest, 4*int64(graph.Elems(s)))
			}
		}
	}
	// about four values of each of the two networks
	n := int(min(int64(all), max(p.memory()/(8*max(widest, 1)), 2), mostSamples))
	for i := 1; i < n; i++ {
		if _, err := p.take(ctx, samples, i*all/n); err != nil {
			return nil, err
		}
	}
	p.report.Samples = n
	return shapes, nil
}

// take copies a sample, and says how many bytes it has.
func (p *pruning) take(ctx context.Context, samples ir.Samples, i int) (bytes int64, err error) {
	s, err := samples.Sample(ctx, i)
	if err != nil {
		return 0, err
	}
	own := ir.Sample{}
	for name, t := range s {
		c := graph.New(t.Type, t.Shape...)
		copy(c.Data, t.Data)
		copy(c.Strings, t.Strings)
		own[name] = c
		bytes += int64(len(c.Data))
	}
	p.samples = append(p.samples, own)
	return bytes, nil
}

// mostSamples are looked at, however many there are.
const mostSamples = 1024

// memory is what may be held at a time.
func (p *pruning) memory() int64 {
	if p.cfg.Memory > 0 {
		return p.cfg.Memory
	}
	return 1 << 30
}

// score orders the units of every group.
func (p *pruning) score(ctx context.Context, gains map[*graph.Value][]float64) error {
	score := p.cfg.Score
	if score == "" {
		if score = Magnitude; p.samples != nil {
			score = ByFit
		}
	}
	p.report.Score = score
	if score == L1 || score == Magnitude || score == Gain {
		of := map[*layer][]float64{}
		for _, l := range p.t.layers {
			if e := gains[l.n.Out[0]]; len(e) == len(l.out) {
				of[l] = e
			}
		}
		for _, g := range p.groups {
			p.t.bySize(g, score, of)
		}
		return nil
	}
	if p.samples == nil {
		return &fault.Error{Op: "prune.channels", Err: fault.As(fault.ErrMisuse, fmt.Errorf("%s needs samples", score)), Hint: "give inputs like those that the network will see, 100 or more; magnitude needs none"}
	}
	seen, err := p.observe(ctx, score == ByFit)
	if err != nil {
		return err
	}
	p.sink.Stage("score", int64(len(p.groups)), "groups")
	for _, g := range p.groups {
		mine := map[int]bool{}
		for _, u := range g.units {
			mine[u] = true
		}
		var readers []*reader
		for _, l := range p.t.layers {
			if l.own || !slices.ContainsFunc(l.in, func(id int) bool { return mine[p.t.u.root(id)] }) || len(g.free) == 0 {
				continue
			}
			m := seen[l.n.In[0]]
			r, err := newReader(ctx, p.kern, l, &p.t.u, m.cov, m.full)
			if err != nil {
				return err
			}
			readers = append(readers, r)
		}
		if err := g.byLoss(ctx, readers); err != nil {
			return err
		}
		p.sink.Add(1)
	}
	return nil
}
