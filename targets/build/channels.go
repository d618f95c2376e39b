package build

import (
	"context"

	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/internal/progress"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/prune/channels"
	"github.com/pare-dev/pare/runner/eval"
	"github.com/pare-dev/pare/targets/recipe"
	"github.com/pare-dev/pare/targets/report"
)

// channelsConfig is the pruning of a graph that a line of the recipe asks for.
func channelsConfig(p *recipe.Pass) (channels.Config, error) {
	cfg := channels.Config{
		Score: p.Score, Multiple: p.Multiple, Floor: float64(p.Floor), Only: p.Only, Skip: p.Skip,
		NoRefit: p.Refit != nil && !*p.Refit,
	}
	if p.Sparsity != nil || p.Pattern != "" || p.Scope != "" || len(p.Schedule) > 0 || p.FFN != 0 || p.KVHeads != 0 || p.Hidden != 0 || p.Blocks != 0 {
		return cfg, misuse(channels.Pass, "leave them out", "sparsity, pattern, scope, schedule, ffn, kv_heads, hidden and blocks say nothing about channels of graphs")
	}
	budgets := 0
	set := func(said bool, m channels.Measure, keep float64) {
		if said {
			cfg.Budget = channels.Budget{Measure: m, Keep: keep}
			budgets++
		}
	}
	if p.FLOPs != nil {
		set(true, channels.FLOPs, float64(*p.FLOPs))
	}
	if p.Ratio != nil {
		set(true, channels.Ratio, 1-float64(*p.Ratio))
	}
	set(p.Parameters != 0, channels.Parameters, float64(p.Parameters))
	set(p.Bytes != 0, channels.Bytes, float64(p.Bytes))
	if budgets != 1 {
		return cfg, misuse(channels.Pass, `say flops = "50%"`, "one of flops, ratio, parameters and bytes says how much goes")
	}
	return cfg, cfg.Check()
}

// resolveChannels spells out what a pass leaves unsaid.
func resolveChannels(r *recipe.Recipe) {
	for i := range r.Passes {
		p := &r.Passes[i]
		if p.Use != channels.Pass {
			continue
		}
		if p.Score == "" {
			p.Score = channels.Magnitude
			if len(r.Calibration.Samples) > 0 {
				p.Score = channels.ByFit
			}
		}
		if p.Multiple == 0 {
			p.Multiple = channels.DefaultMultiple
		}
		if p.Floor == 0 {
			p.Floor = channels.DefaultFloor
		}
	}
}

// channelsPass is a line of the recipe on its way: what package channels is given.
type channelsPass struct {
	cfg  channels.Config
	net  *eval.Network
	list ir.Samples // nil without
}

// channelsPass prepares a line of the recipe. Without learn no sample is run: only their shapes count.
func (e *engine) channelsPass(ctx context.Context, i int, learn bool) (p channelsPass, err error) {
	if p.cfg, err = channelsConfig(&e.r.Passes[i]); err != nil {
		return p, err
	}
	n := e.net
	if n.notRun != "" {
		return p, misuse(channels.Pass, "leave the pass out", "%s, so its channels are not followed", n.notRun)
	}
	if runs := p.cfg.Score == channels.ByFit || p.cfg.Score == channels.Activation; runs && n.calib == nil {
		return p, misuse(channels.Pass, "add --calibration FILE ([calibration] samples), or take score = \"magnitude\"", "score %s needs samples", p.cfg.Score)
	} else if runs && !learn {
		p.cfg.Score = channels.Magnitude
	}
	if learn && n.calib != nil {
		original, err := e.networkOf(n.g)
		if err != nil {
			return p, err
		}
		if p.list, err = original.Given(ctx, n.calib); err != nil {
			return p, err
		}
	}
	like := p.list
	if like == nil {
		like = e.like()
	}
	if p.net, err = e.passNetwork(ctx, like); err != nil {
		return p, err
	}
	p.cfg.Shapes = p.net.Shapes
	p.cfg.Threads, p.cfg.ISA, p.cfg.Memory, p.cfg.Progress = e.o.Threads, e.o.ISA, e.passMemory(), e.meter
	return p, nil
}

// planChannels says what the passes take out of a graph, and gives targets one with the shapes that are left. A plan
// chooses as build does. Build itself, which will learn from the samples and start once more, wants the size
// alone at this point: the budget sets it, whatever channels are chosen by.
func (e *engine) planChannels(ctx context.Context) error {
	for i := range e.r.Passes {
		p, err := e.channelsPass(ctx, i, e.rep.Planned)
		if err != nil {
			return err
		}
		g, rep, err := channels.Plan(ctx, e.net.base, p.net, p.list, p.cfg)
		if err != nil {
			return inModel(e.src.Path, err)
		}
		e.net.base = g
		if e.rep.Planned { // build says what it did, and nothing when no target takes the graph
			e.rep.Passes = append(e.rep.Passes, channelsResult(rep, nil))
		}
	}
	return nil
}

// prunedFile is the file that a stage keeps a graph in.
const prunedFile = "pruned.onnx"

// pruneChannels applies one line of the recipe to what targets start from. It goes on from the file that it wrote, so
// that a later run, which finds the file, comes to the same bytes.
func (e *engine) pruneChannels(ctx context.Context, i int) (reused bool, err error) {
	parts := []any{e.key, e.r.Passes[i]}
	if e.learnsChannels() {
		parts = append(parts, e.o.ISA)
	}
	e.key = key(parts...)
	s, err := e.w.stage("prune", e.key)
	if err != nil {
		return false, err
	}
	file := s.path(prunedFile)
	var rec report.PassResult
	if reused = s.load(&rec) && exists(file); !reused {
		if rec, err = e.cutChannels(ctx, i, file); err != nil {
			return false, err
		}
		if err := s.finish(rec); err != nil {
			return false, err
		}
	}
	kept, err := formats.Open(ctx, file)
	if err != nil {
		return false, err
	}
	e.closers = append(e.closers, func() { _ = kept.Close() })
	e.net.base, e.net.parameters = kept.Graph, kept.Parameters()
	e.rep.Passes = append(e.rep.Passes, rec)
	return reused, nil
}

// cutChannels prunes and writes what came out to a file.
func (e *engine) cutChannels(ctx context.Context, i int, file string) (rec report.PassResult, err error) {
	p, err := e.channelsPass(ctx, i, true)
	if err != nil {
		return rec, err
	}
	said := &remarks{Sink: p.cfg.Progress}
	p.cfg.Progress = said
	g, rep, err := channels.Prune(ctx, e.net.base, p.net, p.list, p.cfg)
	if err != nil {
		return rec, inModel(e.src.Path, err)
	}
	m := e.src.Clone()
	m.Graph = g
	o := formats.WriteOptions{Threads: e.o.Threads, Memory: e.streamMemory(), Progress: e.meter, Force: true}
	return channelsResult(rep, said.lines), formats.Write(ctx, graphContainer, m, file, o)
}

// learnsChannels says that what is pruned depends on samples, and so on a run of the graph.
func (e *engine) learnsChannels() bool { return len(e.r.Passes) > 0 && e.net.calib != nil }

// remarks is a sink that remembers what is said about layers.
type remarks struct {
	progress.Sink
	lines []string
}

// Note passes a remark on and keeps it.
func (r *remarks) Note(name, text string) {
	r.lines = append(r.lines, name+": "+text)
	r.Sink.Note(name, text)
}

// channelsResult is what the report says about a pruning: groups that became smaller, and those that did not.
func channelsResult(rep *channels.Report, notes []string) report.PassResult {
	out := report.PassResult{Name: channels.Pass, Notes: notes, Channels: rep}
	for _, g := range rep.Groups {
		if g.Kept < g.Channels {
			out.Changed++
			continue
		}
		why := g.Reason
		if why == "" {
			why = "the budget is met without"
		}
		out.Skipped = append(out.Skipped, report.Line{Tensor: g.Layers, Reason: why})
	}
	return out
}
