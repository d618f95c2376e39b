package build

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/internal/cpu"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/proc"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/prune"
	"github.com/pare-dev/pare/quantize"
	"github.com/pare-dev/pare/targets"
	"github.com/pare-dev/pare/targets/pack"
	"github.com/pare-dev/pare/targets/recipe"
	"github.com/pare-dev/pare/targets/report"
)

// job is one target on its way.
type job struct {
	t     *recipe.Target
	table *targets.Target
	box   *targets.Container
	req   quantize.Request
	rep   *report.Target
	// key is the digest of everything that the package depends on.
	key string
	// isa says that activations entered the bytes.
	isa bool
	// rounded are the numbers of inputs of layers that --max-memory keeps GPTQ from: they change bytes.
	rounded []int
	// asIs says that the weights have the type already.
	asIs bool
	// net is what a target makes of a graph, nil of language models.
	net *graphJob
}

func (e *engine) newJob(i int) (*job, error) {
	j := &job{t: &e.r.Targets[i], rep: &e.rep.Targets[i]}
	var err error
	if j.table, err = targets.Lookup(j.t.Use); err != nil {
		return nil, err
	}
	if e.net != nil {
		err := j.openGraph()
		j.isa = j.isa || e.learnsChannels()
		return j, err
	}
	if j.box, err = j.table.Container(j.t.Container); err != nil {
		return nil, err
	}
	if j.req, err = request(j.t, j.table); err != nil {
		return nil, err
	}
	measured := usesImportance(j.t, j.req, e.r) && e.r.Calibration.Imatrix == ""
	j.isa = prunesByActivations(e.r) || runs(j.t) || measured
	return j, nil
}

// describe fills what the table says.
func (j *job) describe(e *engine) {
	r := j.rep
	r.Name, r.Target, r.Container, r.Type, r.Method = j.t.Name, j.t.Use, j.t.Container, j.t.Quantize, j.t.Method
	r.SameBytes = e.sameBytes(j.isa)
	r.Against = e.against
	r.Verdict = report.None
	runtimes, notes := j.offers()
	for _, rt := range runtimes {
		r.Runtimes = append(r.Runtimes, rt.Name)
	}
	never := j.table.NotExecuted
	if j.net != nil && j.table.Graph != nil {
		never = j.table.Graph.NotExecuted
	}
	if never != "" {
		r.NotExecuted = append(r.NotExecuted, never)
	}
	if j.table.Arch != runtime.GOARCH && j.table.Arch != "" {
		r.NotExecuted = append(r.NotExecuted, fmt.Sprintf("figures are of this %s CPU; on %s, which the package is for, nothing was run", archName(runtime.GOARCH), archName(j.table.Arch)))
	} else if j.table.Level != "" && !slices.Contains(cpu.Available(), j.table.Level) {
		r.NotExecuted = append(r.NotExecuted, fmt.Sprintf("this CPU lacks %s: figures are of its %s kernels", j.table.ISA, cpu.Best()))
	}
	if zeroes(e.r) {
		r.Notes = append(r.Notes, "zeros gain "+j.table.Zeros)
	}
	r.Notes = append(r.Notes, notes...)
}

// offers are the runtimes that open what is made, and what the target's table has to say.
func (j *job) offers() ([]targets.Runtime, []string) {
	switch {
	case j.net == nil:
	case j.table.Graph == nil: // the target takes no graphs
		return nil, nil
	default:
		return j.table.Graph.Runtimes, j.table.Graph.Notes
	}
	return j.box.Runtimes, j.table.Notes
}

func archName(goarch string) string {
	if goarch == "amd64" {
		return "x86-64"
	}
	return goarch
}

func prunes(r *recipe.Recipe) bool {
	return slices.ContainsFunc(r.Passes, func(p recipe.Pass) bool { return p.Use != "lora.merge" })
}

// zeroes says that a pass sets single weights to zero.
func zeroes(r *recipe.Recipe) bool {
	return slices.ContainsFunc(r.Passes, func(p recipe.Pass) bool {
		m := prune.Lookup(p.Use)
		return m != nil && !m.Structured
	})
}

// sameBytes says where the same bytes come out again.
func (e *engine) sameBytes(activations bool) string {
	if !activations || e.o.ISA == cpu.Portable {
		return "any machine"
	}
	return "isa " + string(e.o.ISA)
}

// pass makes the quantization pass of the target.
func (j *job) pass() ir.Pass {
	base := &quantize.RTN{Request: j.req}
	m, err := quantize.LookupMethod(j.t.Method)
	if err != nil { // Check lets no other through
		return base
	}
	return m.New(base)
}

// plain reports whether the request is a floating-point type for everything, where rounding is a
// cast and a model that has the type already is not an error.
func (j *job) plain() (storage.Type, bool) {
	if j.req.Preset == nil || len(j.req.Overrides) > 0 {
		return "", false
	}
	info := storage.MustLookup(j.req.Preset.Base)
	return info.Type, info.Float
}

// quantize turns the base model into what the target stores. m is a clone that the target owns.
func (e *engine) quantize(ctx context.Context, j *job, m *ir.Model, s *stage) (results []report.PassResult, err error) {
	if j.asIs {
		return nil, nil
	}
	if usesImportance(j.t, j.req, e.r) {
		if j.req.Importance, err = e.importance(ctx); err != nil {
			return nil, err
		}
	}
	var pass ir.Pass = j.pass()
	if typ, ok := j.plain(); ok {
		pass = &quantize.Cast{Type: typ}
	}
	before := m.Clone()
	res, plan, err := e.apply(ctx, pass, m, e.env(s))
	if err != nil {
		return nil, err
	}
	results = append(results, passResult(pass.Name(), plan, res, e.src))
	if names := e.floatsBack(m, before); len(names) > 0 {
		for typ, only := range names {
			if _, _, err := e.apply(ctx, &quantize.Cast{Type: typ, Only: only}, m, e.env(s)); err != nil {
				return nil, err
			}
		}
	}
	return results, nil
}

// floatsBack lists, by type, the tensors that are f32 only because the merge computed them so: those
// that quantization left alone and that the source has in a smaller float.
func (e *engine) floatsBack(m, before *ir.Model) map[storage.Type][]string {
	if e.r.Source.Dtype != "keep" {
		return nil
	}
	back := map[storage.Type][]string{}
	for _, t := range m.Tensors() {
		if typ := e.sourceFloat(t); typ != "" && before.Find(t.Name) == t {
			back[typ] = append(back[typ], t.Name)
		}
	}
	return back
}

// sourceFloat is the smaller float type that a f32 tensor has in the source, or "".
func (e *engine) sourceFloat(t *ir.Tensor) storage.Type {
	src := e.src.Find(t.Name)
	if src == nil && t.Role == ir.RoleHead { // untied by the merge
		src = e.src.Role(ir.RoleEmbedding, -1)
	}
	if t.Type == storage.F32 && src != nil && (src.Type == storage.BF16 || src.Type == storage.F16) {
		return src.Type
	}
	return ""
}

// packaged is the record of a finished package in the work folder.
type packaged struct {
	Digest  string
	Bytes   int64
	Passes  []report.PassResult
	Notes   []string
	Graph   *report.Graph   `json:",omitempty"` // what became of a graph
	Tensors []report.Tensor `json:",omitempty"` // of it

	Decoder *ir.Decoder `json:",omitempty"` // of a pass that changed dimensions
	Dropped []int       `json:",omitempty"` // blocks that it took out
}

// make writes the package into the stage's folder, or finds it there.
func (e *engine) make(ctx context.Context, j *job, s *stage) (rec packaged, reused bool, err error) {
	if s.load(&rec) && exists(filepath.Join(s.path("package"), pack.ManifestName)) {
		return rec, true, nil
	}
	rec = packaged{}
	var m *ir.Model
	if e.net != nil {
		if m, err = e.quantizeGraph(ctx, j, &rec); err != nil {
			return rec, false, err
		}
	} else {
		m = e.base.Clone()
		if rec.Passes, err = e.quantize(ctx, j, m, s); err != nil {
			return rec, false, err
		}
	}
	dir := s.path("package")
	if err := os.RemoveAll(dir); err != nil { // of a run that was killed while writing
		return rec, false, &fault.Error{File: dir, Op: "package", Err: err}
	}
	man := e.manifest(j, m)
	o := formats.WriteOptions{Threads: e.o.Threads, Memory: e.streamMemory(), Progress: e.meter, Force: true}
	if j.req.Preset != nil {
		o.FileType = &j.req.Preset.FileType
	}
	notes, err := formats.Plan(j.t.Container, m, o)
	if err != nil {
		return rec, false, err
	}
	rec.Notes = append(rec.Notes, notes...)
	e.meter.Stage("write "+j.t.Name, m.Bytes(), "bytes")
	out := dir
	if man.Model != "." {
		if err := os.MkdirAll(filepath.Join(dir, "assets"), 0o755); err != nil {
			return rec, false, &fault.Error{File: dir, Op: "package", Err: err}
		}
		out = filepath.Join(dir, man.Model)
	}
	if err := formats.Write(ctx, j.t.Container, m, out, o); err != nil {
		return rec, false, err
	}
	if man.Model != "." {
		for _, name := range slices.Sorted(maps.Keys(m.Assets)) {
			file := filepath.Join(dir, "assets", filepath.FromSlash(name))
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				return rec, false, &fault.Error{File: dir, Op: "package", Err: err}
			}
			if err := pack.WriteFile(file, m.Assets[name]); err != nil {
				return rec, false, err
			}
		}
	}
	if rec.Bytes, err = modelBytes(dir); err != nil {
		return rec, false, err
	}
	man.ModelBytes, man.Requires.MemoryBytes = rec.Bytes, rec.Bytes
	if err := pack.Seal(ctx, dir, man, nil); err != nil {
		return rec, false, err
	}
	if rec.Digest, err = man.Digest(); err != nil {
		return rec, false, err
	}
	return rec, false, s.finish(rec)
}

// manifest says what the package is, in terms of content only.
func (e *engine) manifest(j *job, m *ir.Model) *pack.Manifest {
	man := &pack.Manifest{
		Tool: e.o.Tool, Name: j.t.Name, Target: j.t.Use, Container: j.t.Container, Model: ".",
		Architecture: m.Arch, Parameters: m.Parameters(), Quantize: j.t.Quantize, Method: j.t.Method, SameBytes: j.rep.SameBytes,
		Source:   pack.Origin{Digest: e.origins.Model, Format: e.src.Format},
		Recipe:   e.anonymous(j),
		Requires: pack.Requires{Arch: j.table.Arch, ISA: j.table.ISA},
	}
	if f, ok := formats.Lookup(j.t.Container); ok && f.Ext != "" {
		man.Model = "model" + f.Ext
	}
	for i, a := range e.r.Source.Adapters {
		man.Adapters = append(man.Adapters, pack.Origin{Digest: e.origins.Adapters[i], Weight: a.Weight})
	}
	if e.calib != nil {
		man.Texts = append(man.Texts, pack.Origin{Digest: "sha256:" + e.calib.SHA256, Tokens: e.calib.Tokens})
	}
	if e.net != nil {
		e.graphManifest(man)
	}
	runtimes, _ := j.offers()
	for _, r := range runtimes {
		man.Requires.Runtimes = append(man.Requires.Runtimes, r.Name)
	}
	return man
}

// anonymous is the part of the resolved recipe that the package's bytes come from, with digests in
// place of paths, so that a copy of the inputs elsewhere gives the same package. How it was
// compared and timed is the report's.
func (e *engine) anonymous(j *job) *recipe.Recipe {
	r := clone(e.r)
	r.Source.Model = e.origins.Model
	for i := range r.Source.Adapters {
		r.Source.Adapters[i].Path = e.origins.Adapters[i]
	}
	r.Calibration.Text = slices.Clone(e.origins.Texts)
	r.Calibration.Imatrix = e.origins.Imatrix
	if e.net != nil {
		r.Calibration.Samples = slices.Clone(e.origins.Samples)
		r.Preprocess = e.packedInputs()
	}
	r.Targets = []recipe.Target{*j.t}
	r.Verify, r.Bench, r.Gate = recipe.Verify{}, recipe.Bench{}, nil
	return r
}

// modelBytes is the size of the files that the target's runtime loads.
func modelBytes(dir string) (total int64, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	for _, d := range entries {
		if !d.Type().IsRegular() || !slices.Contains([]string{".gguf", ".safetensors", ".onnx", ".data"}, filepath.Ext(d.Name())) {
			continue
		}
		st, err := d.Info()
		if err != nil {
			return 0, err
		}
		total += st.Size()
	}
	if total == 0 {
		return 0, fmt.Errorf("no model file in %s", dir)
	}
	return total, nil
}

// build makes, compares, judges and publishes one target. record is told the place and fingerprint
// just before the package moves there.
func (e *engine) build(ctx context.Context, j *job, record func(place, fingerprint string) error) error {
	s, err := e.w.stage("package", j.key)
	if err != nil {
		return err
	}
	var rec packaged
	err = e.timed("quantize", j.t.Name, func() (reused bool, err error) {
		rec, reused, err = e.make(ctx, j, s)
		return reused, err
	})
	if err != nil {
		return err
	}
	r := j.rep
	r.Bytes, r.Digest, r.Passes = rec.Bytes, rec.Digest, rec.Passes
	if rec.Graph != nil {
		r.Graph, r.Tensors = rec.Graph, rec.Tensors
	}
	r.Notes = append(r.Notes, rec.Notes...)
	r.Ratio = float64(r.Bytes) / float64(max(e.rep.Source.Bytes, 1))
	r.BitsPerWeight = 8 * float64(r.Bytes) / float64(max(e.rep.Source.Parameters, 1))
	for i := range r.Passes {
		e.merge1(r, &r.Passes[i])
	}
	m, _, err := pack.Open(ctx, s.path("package"), nil)
	if err != nil {
		return err
	}
	if e.net != nil {
		err = e.compareGraphs(ctx, j, m, rec.Digest)
	} else if err = e.compare(ctx, j, m, rec.Digest); err == nil {
		err = e.blame(ctx, j, m)
	}
	if err = errors.Join(err, m.Close()); err != nil {
		return err
	}
	return e.publish(ctx, j, s, record)
}

// merge1 puts the figures of a pass into the target's list of tensors, which planning made.
func (e *engine) merge1(r *report.Target, p *report.PassResult) {
	at := map[string]int{}
	for i := range r.Tensors {
		at[r.Tensors[i].Name] = i
	}
	for _, t := range p.Tensors {
		i, ok := at[t.Name]
		if !ok {
			r.Tensors = append(r.Tensors, t)
			continue
		}
		r.Tensors[i].To, r.Tensors[i].Bytes = t.To, t.Bytes
		for k, v := range t.Figures {
			if r.Tensors[i].Figures == nil {
				r.Tensors[i].Figures = map[string]float64{}
			}
			r.Tensors[i].Figures[k] = v
		}
	}
	p.Tensors = nil // once is enough
	r.Skipped = append(r.Skipped, p.Skipped...)
}

// rejectedSuffix marks packages that missed a gate.
const rejectedSuffix = ".rejected"

// place is where the target's package goes.
func (e *engine) place(j *job, rejected bool) string {
	name := j.t.Name
	if j.t.Archive {
		name += pack.Ext
	}
	if rejected {
		name = j.t.Name + rejectedSuffix
	}
	return filepath.Join(e.o.Out, name)
}

// publish moves the finished package to its place: its own, or that of rejected ones.
func (e *engine) publish(ctx context.Context, j *job, s *stage, record func(place, fingerprint string) error) error {
	rejected := !passes(j.rep.Verdict) && !e.o.Publish
	to := e.place(j, rejected)
	j.rep.Package = to
	from := s.path("package")
	if err := e.ownReport(j, from); err != nil {
		return err
	}
	if j.t.Archive && !rejected {
		from = s.path(j.t.Name + pack.Ext)
		if err := pack.Archive(ctx, s.path("package"), from, nil); err != nil {
			return err
		}
	}
	print, err := fingerprint(ctx, from)
	if err != nil {
		return err
	}
	force := e.o.Force || rejected || e.ours(j) // a rejected package is nobody's work
	if err := record(to, print); err != nil {
		return err
	}
	return pack.Publish(ctx, from, to, force)
}

// ownReport puts the report of this one target into its package, beside what the manifest lists.
func (e *engine) ownReport(j *job, dir string) error {
	own := *e.rep
	own.Targets, own.Verdict, own.PeakMemoryBytes = []report.Target{*j.rep}, j.rep.Verdict, proc.PeakMemory()
	own.Stages = nil
	for _, s := range e.rep.Stages {
		if s.Target == "" || s.Target == j.t.Name {
			own.Stages = append(own.Stages, s)
			own.Seconds += s.Seconds
		}
	}
	files, err := own.Files()
	if err != nil {
		return err
	}
	for _, name := range sortedKeys(files) {
		if err := pack.WriteFile(filepath.Join(dir, name), files[name]); err != nil {
			return err
		}
	}
	return nil
}

// passes says whether a verdict lets a package be published.
func passes(v report.Verdict) bool {
	return v == report.Pass || v == report.None
}
