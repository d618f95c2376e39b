package build

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/internal/proc"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/quantize"
	"github.com/pare-dev/pare/targets/pack"
	"github.com/pare-dev/pare/targets/recipe"
	"github.com/pare-dev/pare/targets/report"
)

// Plan says what Run would do with the same arguments: the type of every tensor for every target,
// sizes, peak memory, disk and time, and what each target refuses. It reads headers and texts, and
// writes nothing. When a target cannot take the model, the report's verdict is Refused and the target
// lists why; Run would not start then. Mistakes are errors of class fault.ErrMisuse, and a budget
// that cannot be kept is fault.ErrBudget, beside the report.
func Plan(ctx context.Context, in *recipe.Recipe, o Options) (*report.Report, error) {
	if err := Check(in); err != nil {
		return nil, err
	}
	e, err := newEngine(ctx, withTarget(in), o)
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
	if err := e.checkNeeds(); err != nil {
		return nil, err
	}
	m, err := e.planBase(ctx)
	if err != nil {
		return nil, err
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
		errs = append(errs, e.planTarget(ctx, jobs[i], m))
		e.rep.Verdict = report.Worst(e.rep.Verdict, jobs[i].rep.Verdict)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return jobs, e.estimate(m, jobs)
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
	return m, nil
}

func planned(name string, p *ir.Plan, before *ir.Model) report.PassResult {
	out := report.PassResult{Name: name}
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
	for _, s := range p.Steps {
		if !s.Change {
			continue
		}
		if t := out.Find(s.Tensor); t != nil && t.Name == s.Tensor {
			_ = out.Replace(t.With(s.To, s.Scheme, t.Data)) // it is there
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
	r.Notes = append(r.Notes, e.lostZeros(p)...)
	if text := shortfall(m, p, j.req); text != "" && len(r.Refusals) == 0 {
		r.Caveats = append(r.Caveats, text)
	}
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
	if e.rep.Planned {
		return nil
	}
	return pack.Free(e.place(j, false), e.o.Force || e.ours(j))
}

// quantizes says that a step makes a weight smaller than floats are.
func quantizes(s ir.Step) bool {
	info, ok := storage.Lookup(s.To)
	return s.Scheme != nil || ok && !info.Float
}

// has reports whether a model holds weights of the requested type already.
func has(m *ir.Model, req quantize.Request) bool {
	return slices.ContainsFunc(m.Tensors(), func(t *ir.Tensor) bool {
		if req.Scheme != nil {
			return t.Scheme != nil && *t.Scheme == *req.Scheme
		}
		return t.Type == req.Preset.Base
	})
}

func plural(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

// shortfall says it when most weights of blocks cannot have the requested type and get a larger one,
// which the type's name hides: rows of 64 are no q2_k. It is empty when the mean size is about what
// the type promises; preset mixes, which give some tensors more bits on purpose, stay below the limit.
func shortfall(m *ir.Model, p *ir.Plan, req quantize.Request) string {
	promised := 0.0
	if req.Scheme != nil {
		promised = float64(req.Scheme.Bits)
	} else {
		promised = storage.MustLookup(req.Preset.Base).Bits()
	}
	var bits, elems float64
	count := map[string]int{}
	matrices := 0
	for _, s := range p.Steps {
		t := m.Find(s.Tensor)
		if t == nil || !t.Role.Linear() && (t.Role != ir.RoleUnknown || t.Rows() == 1) {
			continue
		}
		matrices++
		bits, elems = bits+8*float64(s.Bytes), elems+float64(t.Elems())
		if s.Reason != "" {
			count[string(s.To)+", "+strings.TrimPrefix(s.Reason, "kept: ")]++
		}
	}
	const most = 1.35 // the ratio of q2_k's mix is 1.2
	if elems == 0 || bits/elems <= most*promised {
		return ""
	}
	text := fmt.Sprintf("%.1f bits per weight, where the type's name promises %.1f", bits/elems, promised)
	if reasons := sortedKeys(count); len(reasons) > 0 {
		why := slices.MaxFunc(reasons, func(a, b string) int { return count[a] - count[b] })
		text += fmt.Sprintf(": %d of %d matrices are %s", count[why], matrices, why)
	}
	return text
}

// nothingFits is the refusal of a type that no weight of the model can have, with the reasons that
// the plan gives, the most frequent first.
func nothingFits(m *ir.Model, p *ir.Plan, typ string) []report.Line {
	count := map[string]int{}
	for _, s := range p.Steps {
		if t := m.Find(s.Tensor); t != nil && s.Reason != "" && (t.Role.Linear() || t.Role == ir.RoleUnknown && t.Rows() > 1) {
			count[strings.TrimPrefix(s.Reason, "kept: ")]++
		}
	}
	reasons := sortedKeys(count)
	slices.SortStableFunc(reasons, func(a, b string) int { return count[b] - count[a] })
	if len(reasons) == 0 {
		return []report.Line{{Reason: fmt.Sprintf("the model has no weights that %s could store", typ)}}
	}
	lines := make([]report.Line, len(reasons))
	for i, why := range reasons {
		lines[i].Reason = fmt.Sprintf("%s fits no weight: %s (%s)", typ, why, plural(count[why], "matrix", "matrices"))
	}
	return lines[:min(len(lines), 3)]
}

// refusalLines spreads joined errors over lines.
func refusalLines(err error) []report.Line {
	if many, ok := err.(interface{ Unwrap() []error }); ok { //nolint:errorlint // a join, not what it joins
		var out []report.Line
		for _, one := range many.Unwrap() {
			out = append(out, refusalLines(one)...)
		}
		return out
	}
	var fe *fault.Error
	if !errors.As(err, &fe) {
		return []report.Line{{Reason: err.Error()}}
	}
	return []report.Line{{Tensor: fe.Tensor, Reason: fe.Err.Error(), Hint: fe.Hint}}
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

// estimate fills in memory, disk and time, and refuses what cannot be kept.
func (e *engine) estimate(m *ir.Model, jobs []*job) error {
	memory, least := e.estimateMemory(m, jobs)
	rep := e.rep
	rep.PlannedMemoryBytes = memory
	if rep.Planned {
		rep.PeakMemoryBytes = memory
	}
	var assets int64 // travel beside the weights, and the tokenizer once more in a GGUF
	for _, b := range m.Assets {
		assets += 2 * int64(len(b))
	}
	for _, j := range jobs {
		n := j.rep.Bytes
		rep.DiskBytes += n + assets
		if j.t.Method == "gptq" {
			rep.WorkBytes += n // spilled codes, beside the package that copies them
		}
		if j.t.Archive {
			rep.WorkBytes += n
		}
	}
	if e.spillsReference() {
		rep.WorkBytes += mergedHeap(e)
	}
	rep.EstimateS = e.estimateTime(m, jobs)
	var errs []error
	if most := e.o.MaxMemory; most > 0 && least > most {
		errs = append(errs, &fault.Error{
			Op: "plan", Err: fault.As(fault.ErrBudget, fmt.Errorf("the work takes at least %s of memory, --max-memory is %s", human.Bytes(least), human.Bytes(most))),
			Hint: "raise --max-memory, use fewer threads, or leave out what runs the model ([verify] off = true)",
		})
	}
	need, limit := rep.DiskBytes+rep.WorkBytes, e.o.MaxDisk
	if limit == 0 {
		limit = proc.FreeDisk(existing(e.workDir()))
	}
	if limit > 0 && need > limit {
		errs = append(errs, &fault.Error{
			File: e.o.Out, Op: "plan", Err: fault.As(fault.ErrBudget, fmt.Errorf("packages and work folder take %s of disk, %s are free", human.Bytes(need), human.Bytes(limit))),
			Hint: "free some, or choose another -o or --work",
		})
	}
	return errors.Join(errs...)
}

// existing is the nearest folder above a path that exists.
func existing(path string) string {
	for p := path; ; p = filepath.Dir(p) {
		if exists(p) || p == filepath.Dir(p) {
			return p
		}
	}
}

// Rates of one core, measured on a 2.5 GHz x86 server; an estimate is right within a factor of two.
const (
	bytesPerSecond   = 600e6 // decode and copy
	weightsPerSecond = 12e6  // scale search of a block type
	flopsPerSecond   = 25e9
)

// estimateTime is in seconds.
func (e *engine) estimateTime(m *ir.Model, jobs []*job) float64 {
	cores := float64(e.o.Threads)
	weights := float64(m.Parameters())
	s := float64(e.rep.Source.Bytes) / bytesPerSecond // digests
	for _, j := range jobs {
		s += float64(e.rep.Source.Bytes) / bytesPerSecond / cores
		if _, plain := j.plain(); !plain {
			s += weights / weightsPerSecond / cores
		}
		s += 2 * weights * 4 / bytesPerSecond / cores // comparing weights
		if j.t.Method == "gptq" {
			s += e.gptqFlops(m) / flopsPerSecond / cores
		}
		if e.check != nil && !e.r.Verify.Off {
			s += 2 * 2 * weights * float64(e.r.Verify.Chunks*e.r.Verify.Context) / flopsPerSecond / cores
		}
		if e.src.Decoder != nil && !e.r.Bench.Off {
			b := e.r.Bench
			s += 2 * 2 * weights * float64((b.Repeat+1)*(b.Prompt+2*b.Generate)) / flopsPerSecond / cores
		}
	}
	return s
}

// gptqFlops is T in^2 + 4/3 in^3 + out in^2 for every linear layer, and two runs of the model.
func (e *engine) gptqFlops(m *ir.Model) (f float64) {
	var n float64
	if e.calib != nil {
		n = float64(e.calib.Tokens)
	}
	for _, t := range m.Tensors() {
		if t.Role.Linear() {
			in, out := float64(t.Cols()), float64(t.Rows())
			f += n*in*in + 4*in*in*in/3 + out*in*in
		}
	}
	return f + 2*2*n*float64(m.Parameters())
}

// estimateMemory is the expected peak, and the least that the work can be done in. Without a limit
// the collector lets about half as much garbage again pile up; with one it collects earlier, and
// buffers shrink to fit.
func (e *engine) estimateMemory(m *ir.Model, jobs []*job) (peak, least int64) {
	threads := int64(e.o.Threads)
	var row, block, widest int64 // bytes of the widest row and the largest block in f32; columns of the widest layer
	blocks := map[int]int64{}
	for _, t := range m.Tensors() {
		row = max(row, int64(t.Cols())*4)
		if t.Block >= 0 {
			blocks[t.Block] += t.Elems() * 4
			block = max(block, blocks[t.Block])
		}
		if t.Role.Linear() {
			widest = max(widest, int64(t.Cols()))
		}
	}
	stream := e.streamMemory()
	if stream == 0 {
		stream = ir.DefaultStreamMemory
	}
	least = overhead + 4*threads*row
	heap := min(stream, e.rep.Source.Bytes) + 4*threads*row
	if e.check != nil && e.src.Decoder != nil {
		act := e.activations()
		least = max(least, overhead+2*act)
		ref := mergedHeap(e)
		if e.spillsReference() {
			ref = 0
		}
		heap = max(heap, 2*act+ref)
	}
	if e.src.Decoder != nil && (needsRun(e.r) || measures(e.r, jobs)) {
		act := e.activations()
		least = max(least, overhead+act+block)
		heap = max(heap, act+block+20*widest*widest+e.states())
	}
	if e.src.Decoder != nil && !e.r.Bench.Off {
		heap = max(heap, e.activations()+benchMemory)
	}
	if most := e.o.MaxMemory; most > 0 {
		return max(least, min(overhead+heap, most)), least
	}
	return overhead + heap*3/2, least
}

// benchMemory is what the measurement of memory bandwidth reads, where there is no limit.
const benchMemory = 256 << 20

// states is the hidden states of the calibration tokens that a walk keeps: the residual stream before
// and within a block, and the inputs of its second and fourth stage.
func (e *engine) states() int64 {
	if e.calib == nil {
		return 0
	}
	d := e.src.Decoder
	n := int64(e.calib.Tokens) * int64(2*d.Hidden+d.QDim()+d.FFN) * 4
	if mem := e.passMemory(); mem > 0 {
		n = min(n, mem/2) // the rest is spilled
	}
	return n
}

// measures says that a target has its importance matrix measured.
func measures(r *recipe.Recipe, jobs []*job) bool {
	for _, j := range jobs {
		if r.Calibration.Imatrix == "" && usesImportance(j.t, j.req, r) {
			return true
		}
	}
	return false
}

// activations is what one runner takes beside its weights, about: buffers of the smallest batch it
// would choose, logits, and the cache of one context.
func (e *engine) activations() int64 {
	d := e.src.Decoder
	const batch = 64
	buffers := int64(batch) * int64(2*d.Hidden+2*d.QDim()+3*d.FFN) * 4
	cache := int64(d.Layers) * 2 * int64(d.KVDim()) * int64(max(e.r.Verify.Context, 128)) * 4
	return buffers + cache + int64(min(16, batch))*int64(d.Vocab)*4 + 8<<20
}

// heapFor is the memory that merged weights may take: a quarter of --max-memory, or half of the
// machine's memory when no limit was asked.
func (e *engine) heapFor() int64 {
	if m := e.memory(); m > 0 {
		return m / 4
	}
	if m := proc.TotalMemory(); m > 0 {
		return m / 2
	}
	return 8 << 30
}

// spillsReference says that the reference's merged weights are kept in a file, for they would take
// too much memory.
func (e *engine) spillsReference() bool {
	return !e.single && len(e.adapters) > 0 && e.check != nil && mergedHeap(e) > e.heapFor()
}

// mergedHeap is what the merged weights of the reference take in f32, 0 without adapters.
func mergedHeap(e *engine) (n int64) {
	if len(e.adapters) == 0 {
		return 0
	}
	p, err := e.mergePass("f32").Plan(context.Background(), e.src)
	if err != nil {
		return 0 // what is wrong is said where the merge is planned
	}
	for _, s := range p.Steps {
		if t := e.src.Find(s.Tensor); s.Change && t != nil {
			n += 4 * t.Elems()
		}
	}
	return n
}
