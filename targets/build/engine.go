package build

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/pare-dev/pare/distill"
	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/internal/corpus"
	"github.com/pare-dev/pare/internal/cpu"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/par"
	"github.com/pare-dev/pare/internal/proc"
	"github.com/pare-dev/pare/internal/progress"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/internal/tokenizer"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/lora"
	"github.com/pare-dev/pare/prune"
	"github.com/pare-dev/pare/runner/verify"
	"github.com/pare-dev/pare/targets/pack"
	"github.com/pare-dev/pare/targets/recipe"
	"github.com/pare-dev/pare/targets/report"
)

// engine is the state of one run. Models flow through it as catalogues of handles:
//
//	src    as it was read
//	ref    src with adapters merged in f32: what "original" means in every comparison
//	base   ref pruned: what each target starts from, as a clone of its own
type engine struct {
	r   *recipe.Recipe // resolved
	o   Options
	rep *report.Report
	w   *work
	tok *tokenizer.Tokenizer

	pool *par.Pool // of all models that run

	src, ref, base *ir.Model
	against        string // what ref is, in words
	notRun         string // why the model cannot be run, or no text be given to it
	adapters       []lora.Weighted
	calib, check   *tokens             // nil when there are none
	proof          *tokens             // what a merge is proved on
	promised       []prune.Expectation // what pruning promised of base
	original       *verify.Recording   // of ref on check, for the packages after the first; nil: each runs it
	single         bool                // one file is written, not packages
	keepsTypes     bool                // merged weights take the types that the source has
	net            *network            // of a source that is a graph, else nil
	learning       distill.Footprint   // of [distill], once it is planned

	key     string   // digest of everything that base depends on
	refKey  string   // of everything that ref depends on
	origins origins  // digests of the inputs
	meter   *meter   // progress, counted
	closers []func() // in reverse order
}

// origins are the inputs by content.
type origins struct {
	Model    string
	Adapters []string
	Texts    []string
	Imatrix  string
	Samples  []string // as the recipe spells them, digests in place of files
	Check    []string // likewise, of what is compared on
	Assets   []string // files that preprocessing names, in order
}

// newEngine opens source and adapters and resolves the recipe. It writes nothing. A single step works on
// the weights of a graph as on those of any model; only packages are made of its operators.
func newEngine(ctx context.Context, in *recipe.Recipe, o Options, single bool) (e *engine, err error) {
	if o.Progress == nil {
		o.Progress = progress.Discard
	}
	if o.ISA == "" {
		o.ISA = cpu.Best()
	}
	o.Threads = par.Threads(o.Threads)
	if o.Tool == "" {
		o.Tool = "pare"
	}
	e = &engine{o: o, single: single, meter: &meter{Sink: o.Progress}, rep: &report.Report{Schema: report.Schema, Tool: o.Tool, Targets: []report.Target{}}}
	defer func() {
		if err != nil {
			e.close()
		}
	}()
	e.pool = par.NewPool(o.Threads)
	e.closers = append(e.closers, e.pool.Close)
	if e.src, err = formats.Open(ctx, in.Source.Model); err != nil {
		return e, insidePackage(in.Source.Model, err)
	}
	e.closers = append(e.closers, func() { _ = e.src.Close() })
	if isGraph(e.src) && !single {
		if e.r, err = resolveGraph(in); err == nil {
			err = e.openGraph(ctx)
		}
		if err == nil {
			e.describe()
		}
		return e, err
	}
	if err = graphKeys(in); err != nil {
		return e, err
	}
	if e.r, err = resolve(in, e.src); err != nil {
		return e, err
	}
	var errs []error
	for _, a := range e.r.Source.Adapters {
		ad, err := lora.Open(ctx, a.Path)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		e.closers = append(e.closers, func() { _ = ad.Close() })
		e.adapters = append(e.adapters, lora.Weighted{Adapter: ad, Weight: float32(a.Weight)})
	}
	if err = errors.Join(errs...); err != nil {
		return e, err
	}
	e.describe()
	return e, e.texts(ctx)
}

// insidePackage says where the model lies when the source is a package: what is made of it is made of that file.
func insidePackage(path string, err error) error {
	man, bad := pack.ReadManifest(path)
	if bad != nil || man.Model == "." {
		return err
	}
	return &fault.Error{File: path, Err: fault.As(fault.ErrMisuse, errors.New("this is a package")), Hint: "name the model in it: " + man.ModelPath(path)}
}

func (e *engine) close() {
	for i := len(e.closers) - 1; i >= 0; i-- {
		e.closers[i]()
	}
	e.closers = nil
}

// describe fills the parts of the report that need no work.
func (e *engine) describe() {
	m, rep := e.src, e.rep
	rep.Recipe = e.r
	rep.Source = report.Source{
		Path: m.Path, Format: m.Format, Architecture: m.Arch, Parameters: m.Parameters(), Bytes: m.FileBytes,
		Type: mainType(m), Tensors: len(m.Tensors()),
	}
	if e.net != nil {
		rep.Source.Architecture = "graph"
		rep.Source.Nodes, rep.Source.Opset = len(m.Graph.Nodes), m.Graph.Opset[""]
	}
	for i, a := range e.adapters {
		rep.Adapters = append(rep.Adapters, report.Adapter{
			Path: e.r.Source.Adapters[i].Path, Weight: e.r.Source.Adapters[i].Weight, Kind: a.Adapter.Method(), Matrices: a.Adapter.Modules(),
		})
	}
	for _, p := range m.Problems {
		rep.Problems = append(rep.Problems, report.Line{Tensor: p.Tensor, Reason: p.Reason})
	}
	rep.Machine = report.Machine{CPU: proc.CPUName(), OS: runtime.GOOS, Arch: runtime.GOARCH, ISA: string(e.o.ISA), Threads: e.o.Threads}
	e.against = "the source model"
	if len(e.adapters) > 0 {
		e.against = "the source with the adapters merged in f32"
	}
}

// mainType is the type that most elements have.
func mainType(m *ir.Model) string {
	count := map[string]int64{}
	best := ""
	for _, t := range m.Tensors() {
		name := string(t.Type)
		if t.Scheme != nil {
			name = t.Scheme.String()
		}
		count[name] += t.Elems()
		if best == "" || count[name] > count[best] || count[name] == count[best] && name < best {
			best = name
		}
	}
	return best
}

func (e *engine) note(text string) {
	e.rep.Notes = append(e.rep.Notes, text)
	e.o.Progress.Note("", text)
}

// digests names every input by its content.
func (e *engine) digests(ctx context.Context) error {
	if e.net != nil {
		return e.graphDigests(ctx)
	}
	files := []string{e.r.Source.Model}
	for _, a := range e.r.Source.Adapters {
		files = append(files, a.Path)
	}
	files = append(files, corpus.Paths(e.r.Calibration.Text)...)
	if e.r.Calibration.Imatrix != "" {
		files = append(files, e.r.Calibration.Imatrix)
	}
	var total int64
	for _, f := range files {
		n, err := pack.InputBytes(f)
		if err != nil {
			return &fault.Error{File: f, Op: "digest", Err: err}
		}
		total += n
	}
	e.meter.Stage("digest", total, "bytes")
	sums := make([]string, len(files))
	for i, f := range files {
		var err error
		if sums[i], err = pack.SourceDigest(ctx, f, e.meter.Add); err != nil {
			return err
		}
	}
	o := &e.origins
	n := len(e.adapters)
	o.Model, o.Adapters, o.Texts = sums[0], sums[1:1+n], sums[1+n:1+n+len(e.r.Calibration.Text)]
	if e.r.Calibration.Imatrix != "" {
		o.Imatrix = sums[len(sums)-1]
	}
	e.rep.Source.Digest = o.Model
	for i := range e.rep.Adapters {
		e.rep.Adapters[i].Digest = o.Adapters[i]
	}
	return nil
}

// timed runs one stage and records what it cost. amount is taken from the progress that the stage
// reported.
func (e *engine) timed(name, target string, fn func() (reused bool, err error)) error {
	start := time.Now()
	e.meter.reset()
	reused, err := fn()
	if err != nil {
		return err
	}
	amount, unit := e.meter.sum()
	s := report.Stage{
		Name: name, Target: target, Seconds: time.Since(start).Seconds(), Amount: amount, Unit: unit,
		PeakMemoryBytes: proc.PeakMemory(), Reused: reused,
	}
	e.rep.Stages = append(e.rep.Stages, s)
	if e.o.OnStage != nil {
		e.o.OnStage(s)
	}
	return nil
}

// meter passes progress on and counts it.
type meter struct {
	progress.Sink
	mu         sync.Mutex
	now, most  int64 // of the present part, and of the longest before it
	unit, what string
}

// Stage begins a part of a stage.
func (m *meter) Stage(name string, total int64, unit string) {
	m.mu.Lock()
	m.settle()
	m.now, m.unit = 0, unit
	m.mu.Unlock()
	m.Sink.Stage(name, total, unit)
}

// Add counts.
func (m *meter) Add(n int64) {
	m.mu.Lock()
	m.now += n
	m.mu.Unlock()
	m.Sink.Add(n)
}

func (m *meter) settle() {
	if m.now > m.most {
		m.most, m.what = m.now, m.unit
	}
}

func (m *meter) reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now, m.most, m.unit, m.what = 0, 0, "", ""
}

// sum is what the longest part since reset counted.
func (m *meter) sum() (int64, string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.settle()
	return m.most, m.what
}

// env is what passes work with.
func (e *engine) env(s *stage) ir.Env {
	env := ir.Env{Threads: e.o.Threads, Memory: e.passMemory(), Seed: e.r.Calibration.Seed, ISA: e.o.ISA, Progress: e.meter}
	if s != nil {
		env.Work = s.dir
	}
	return env
}

// workDir is where finished stages are kept.
func (e *engine) workDir() string {
	if e.o.Work != "" {
		return e.o.Work
	}
	return filepath.Join(e.o.Out, ".work")
}

// finite keeps infinities out of JSON, which has none.
func finite(x float64) float64 {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return 0
	}
	return x
}

// exists reports whether something lies at a path.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// typeName spells a stored type or scheme for the report.
func typeName(t storage.Type, s *storage.Scheme) string {
	if s != nil {
		return s.String()
	}
	return string(t)
}

// misuse is an error of that class.
func misuse(op, hint, format string, a ...any) error {
	return &fault.Error{Op: op, Err: fault.As(fault.ErrMisuse, fmt.Errorf(format, a...)), Hint: hint}
}

// inSourceFile names the source when a weight of it is no number: what notices is the writer of a
// package, whose file is not to blame.
func (e *engine) inSourceFile(err error) error {
	var fe *fault.Error
	if !errors.Is(err, fault.ErrNotFinite) || !errors.As(err, &fe) || e.src.Find(fe.Tensor) == nil || len(e.adapters) > 0 {
		return err
	}
	c := *fe
	c.File = e.src.Path
	// what lies beyond the range of a type is a number in bf16; what is none fails in every type
	if c.Hint == "" && !strings.Contains(fe.Err.Error(), "beyond") {
		c.Hint = "pare inspect lists every such tensor; no type stores it: get the file anew, or from an earlier checkpoint"
	} else if c.Hint == "" {
		c.Hint = "pare inspect lists every such tensor; --keep \"" + c.Tensor + "=bf16\" stores it as bf16, if it is meant to be so large"
	}
	return &c
}
