package build

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/quantize"
	"github.com/pare-dev/pare/targets/pack"
	"github.com/pare-dev/pare/targets/recipe"
	"github.com/pare-dev/pare/targets/report"
)

// Plan says what Run would do with the same arguments: the type of every tensor for every target,
// sizes, peak memory, disk and time, and what each target refuses. It reads headers and texts, and
// writes nothing. When a target cannot take the model, the report's verdict is Refused and the target
// lists why; Run builds the others. Mistakes are errors of class fault.ErrMisuse, and a budget
// that cannot be kept is fault.ErrBudget, beside the report.
func Plan(ctx context.Context, in *recipe.Recipe, o Options) (*report.Report, error) {
	if err := Check(in); err != nil {
		return nil, err
	}
	e, err := newEngine(ctx, withTarget(in), o, false)
	if err != nil {
		return nil, err
	}
	defer e.close()
	e.rep.Planned = true
	_, err = e.plan(ctx)
	return e.rep, err
}

// withTarget fills in the target that this machine is one of when none is named.
func withTarget(in *recipe.Recipe) *recipe.Recipe {
	if len(in.Targets) > 0 {
		return in
	}
	r := clone(in)
	r.Targets = []recipe.Target{{Use: DefaultTarget()}}
	return r
}

// plan fills the report with everything that can be known before the work, and finds every reason
// not to start.
func (e *engine) plan(ctx context.Context) ([]*job, error) {
	var m *ir.Model
	var err error
	if e.net == nil {
		if err := e.checkNeeds(); err != nil {
			return nil, err
		}
		if m, err = e.planBase(ctx); err != nil {
			return nil, err
		}
	} else if err := e.planChannels(ctx); err != nil {
		return nil, err
	}
	if strings.HasSuffix(filepath.Clean(e.src.Path), rejectedSuffix) {
		e.note("the source is a package that missed its gates")
	}
	e.rep.Targets = make([]report.Target, len(e.r.Targets))
	jobs := make([]*job, len(e.r.Targets))
	var errs []error
	for i := range jobs {
		if jobs[i], err = e.newJob(i); err != nil {
			errs = append(errs, err)
			continue
		}
		jobs[i].describe(e)
		if e.net != nil {
			errs = append(errs, e.planGraph(ctx, jobs[i]))
		} else {
			errs = append(errs, e.planTarget(ctx, jobs[i], m))
		}
		e.rep.Verdict = report.Worst(e.rep.Verdict, jobs[i].rep.Verdict)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	left := slices.DeleteFunc(slices.Clone(jobs), func(j *job) bool { return j.rep.Verdict == report.Refused })
	if e.net != nil {
		return jobs, e.estimateGraph(left)
	}
	return jobs, e.estimate(m, left)
}

// planBase is the catalogue that targets start from, with types and shapes only.
func (e *engine) planBase(ctx context.Context) (*ir.Model, error) {
	m := e.src
	if len(e.adapters) > 0 {
		p, err := e.mergePass(e.r.Source.Dtype).Plan(ctx, m)
		if err != nil {
			return nil, err
		}
		e.rep.Passes = append(e.rep.Passes, planned("lora.merge", p, e.src))
		m = imagine(m, p)
	}
	for i := range e.r.Passes {
		if e.r.Passes[i].Use == "lora.merge" {
			continue
		}
		pass, err := e.prunePass(i)
		if err != nil {
			return nil, err
		}
		p, err := pass.Plan(ctx, m)
		if err != nil {
			return nil, err
		}
		e.rep.Passes = append(e.rep.Passes, planned(pass.Name(), p, e.src))
		m = imagine(m, p)
	}
	return e.planDistill(ctx, m)
}

func planned(name string, p *ir.Plan, before *ir.Model) report.PassResult {
	out := report.PassResult{Name: name, Notes: p.Notes}
	for _, s := range p.Steps {
		if s.Change {
			out.Changed++
			out.Tensors = append(out.Tensors, tensorLine(s, before.Find(s.Tensor), nil))
		} else if s.Reason != "" {
			out.Skipped = append(out.Skipped, report.Line{Tensor: s.Tensor, Reason: s.Reason})
		}
	}
	return out
}

// imagine is the model as a plan would leave it: names, shapes and types are right, data is still
// that of before.
func imagine(m *ir.Model, p *ir.Plan) *ir.Model {
	out := m.Clone()
	if d := p.Decoder; d != nil && out.Decoder != nil {
		last := make([]int, 0, out.Decoder.Layers)
		for b := d.Layers; b < out.Decoder.Layers; b++ {
			last = append(last, b) // as good as any: blocks have one shape
		}
		if len(last) > 0 && out.DropBlocks(last) != nil {
			return out
		}
		out.Decoder = d
	}
	for _, s := range p.Steps {
		if !s.Change {
			continue
		}
		if t := out.Find(s.Tensor); t != nil && t.Name == s.Tensor {
			c := t.With(s.To, s.Scheme, t.Data)
			if s.Shape != nil {
				c.Shape = s.Shape
			}
			_ = out.Replace(c) // it is there
			continue
		}
		// the only tensor that a pass adds is an output matrix untied from the embedding
		if emb := out.Role(ir.RoleEmbedding, -1); emb != nil && out.Decoder != nil && out.Decoder.TiedHead {
			head := *emb
			head.Name, head.Aliases, head.Role, head.Type, head.Scheme = s.Tensor, nil, ir.RoleHead, s.To, s.Scheme
			if out.Add(&head) == nil {
				out.Decoder.TiedHead = false
			}
		}
	}
	return out
}

// planTarget plans one target and asks its table what it refuses.
func (e *engine) planTarget(ctx context.Context, j *job, m *ir.Model) error {
	if usesImportance(j.t, j.req, e.r) {
		j.req.Importance = placeholder(m)
		if f := e.r.Calibration.Imatrix; f != "" {
			s, err := quantize.ReadStatistics(f)
			if err != nil {
				return err
			}
			j.req.Importance = s.Importance()
		}
	}
	pass := j.pass()
	if typ, ok := j.plain(); ok {
		pass = &quantize.Cast{Type: typ}
	}
	p, err := pass.Plan(ctx, m)
	j.req.Importance = nil
	if err != nil {
		return err
	}
	e.castBack(p, m)
	r := j.rep
	if _, plain := j.plain(); !plain && !slices.ContainsFunc(p.Steps, func(s ir.Step) bool { return s.Change && quantizes(s) }) {
		if j.asIs = has(m, j.req); j.asIs {
			r.Notes = append(r.Notes, "the weights are "+j.t.Quantize+" already: they are stored as they are")
		} else {
			r.Refusals = append(r.Refusals, nothingFits(m, p, j.t.Quantize)...)
		}
	}
	var tensors int64
	for _, s := range p.Steps {
		r.Tensors = append(r.Tensors, tensorLine(s, e.src.Find(s.Tensor), nil))
		tensors += s.Bytes
	}
	if typ := quantized(m); typ != "" && !j.asIs {
		r.Caveats = append(r.Caveats, "the source is "+typ+" already: what that lost is lost, and the comparison cannot see it; start from the float model if you have it")
	}
	r.Notes = append(r.Notes, e.lostZeros(p)...)
	if text := shortfall(m, p, j.req); text != "" && len(r.Refusals) == 0 {
		r.Caveats = append(r.Caveats, text)
	}
	e.cramped(j, m)
	r.Bytes = tensors
	r.Ratio = float64(r.Bytes) / float64(max(e.rep.Source.Bytes, 1))
	r.BitsPerWeight = 8 * float64(r.Bytes) / float64(max(e.rep.Source.Parameters, 1))
	for _, x := range j.box.Legal(m, p) {
		r.Refusals = append(r.Refusals, report.Line{Tensor: x.Tensor, Reason: x.Reason, Hint: x.Hint})
	}
	if len(r.Refusals) == 0 {
		notes, err := formats.Plan(j.box.Format, imagine(m, p), formats.WriteOptions{Force: true})
		if errors.Is(err, fault.ErrRefused) {
			r.Refusals = append(r.Refusals, refusalLines(err)...)
		} else if err != nil {
			return err
		}
		if e.rep.Planned {
			r.Notes = append(r.Notes, notes...)
		}
	}
	if len(r.Refusals) > 0 {
		r.Verdict = report.Refused
	}
	return e.replaceable(j)
}

// replaceable says whether a package may go to its place, and to that of rejected ones.
func (e *engine) replaceable(j *job) error {
	if e.rep.Planned {
		return nil
	}
	if err := pack.Replaceable(e.place(j, true), true); err != nil { // where it goes when a gate fails
		return err
	}
	return pack.Replaceable(e.place(j, false), e.o.Force || e.ours(j))
}

// placeholder stands for an importance matrix that is still to be measured: presets ask only
// whether there is one.
func placeholder(m *ir.Model) map[string][]float32 {
	out := map[string][]float32{}
	for _, t := range m.Tensors() {
		if t.Role.Linear() || t.Role == ir.RoleHead {
			out[t.Name] = make([]float32, t.Cols())
		}
	}
	return out
}

// castBack adds to a plan what floatsBack will do.
func (e *engine) castBack(p *ir.Plan, m *ir.Model) {
	if e.r.Source.Dtype != "keep" {
		return
	}
	for i := range p.Steps {
		s := &p.Steps[i]
		t := m.Find(s.Tensor)
		if s.Change || t == nil {
			continue
		}
		if typ := e.sourceFloat(t); typ != "" {
			s.Change, s.To = true, typ
			if b, err := t.With(typ, nil, nil).Bytes(); err == nil {
				s.Bytes = b
			}
		}
	}
}
