package build

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/proc"
	"github.com/pare-dev/pare/runner/verify"
	"github.com/pare-dev/pare/targets/pack"
	"github.com/pare-dev/pare/targets/recipe"
	"github.com/pare-dev/pare/targets/report"
)

// Run carries out a recipe: one verified package for every target in Options.Out, and a report whose
// verdict is the worst of all targets. A package that fails a gate lies in <name>.rejected, which is
// no error: the verdict says so, and so it does of targets that refuse the model, which are left out.
// Mistakes, refusals and budgets that cannot be kept are found before
// anything is written (see Plan). A run that was interrupted leaves its finished stages in the work folder;
// the same call goes on from them and comes to the same bytes.
func Run(ctx context.Context, in *recipe.Recipe, o Options) (rep *report.Report, err error) {
	start := time.Now()
	if o.Out == "" {
		return nil, misuse("build", "say where the packages go: -o DIR", "no output folder")
	}
	if err := Check(in); err != nil {
		return nil, err
	}
	e, err := newEngine(ctx, withTarget(in), o, false)
	if err != nil {
		return nil, err
	}
	defer e.close()
	defer proc.LimitMemory(o.MaxMemory, 0)()
	if err := e.checkOut(); err != nil {
		return nil, err
	}
	if err := e.needsSamples(); err != nil {
		return nil, err
	}
	jobs, err := e.plan(ctx)
	refused := func(j *job) bool { return j.rep.Verdict == report.Refused }
	if err != nil || !slices.ContainsFunc(jobs, func(j *job) bool { return !refused(j) }) {
		return e.rep, err
	}
	e.rep.Passes = nil // the plan's; what follows says what was done
	if e.w, err = openWork(e.workDir()); err != nil {
		return e.rep, err
	}
	done := false
	defer func() {
		remove := done && !e.o.KeepWork
		err = errors.Join(err, e.w.close(remove))
	}()
	if err := e.timed("digest", "", func() (bool, error) { return false, e.digests(ctx) }); err != nil {
		return e.rep, err
	}
	if err := e.prepare(ctx); err != nil {
		return e.rep, e.inSourceFile(err)
	}
	if n := e.remembers(jobs); n > 0 {
		e.original = &verify.Recording{Most: n, Blocks: true}
	}
	for _, j := range jobs {
		if !refused(j) {
			j.key = e.jobKey(j)
			if err := e.target(ctx, j); err != nil {
				return e.rep, e.inSourceFile(err)
			}
		}
		if o.OnTarget != nil {
			o.OnTarget(j.rep)
		}
	}
	verdicts := make([]report.Verdict, len(jobs))
	for i, j := range jobs {
		verdicts[i] = j.rep.Verdict
	}
	e.rep.Verdict = report.Worst(verdicts...)
	e.rep.Seconds = time.Since(start).Seconds()
	e.rep.PeakMemoryBytes = proc.PeakMemory()
	done = true
	return e.rep, nil
}

// checkOut refuses an output folder that is one of the inputs, or whose report is not pare's.
func (e *engine) checkOut() error {
	out, err := filepath.Abs(e.o.Out)
	if err != nil {
		return &fault.Error{File: e.o.Out, Op: "build", Err: err}
	}
	inputs := []string{e.r.Source.Model}
	for _, a := range e.r.Source.Adapters {
		inputs = append(inputs, a.Path)
	}
	for _, in := range inputs {
		if in, err := filepath.Abs(in); err == nil && in == out {
			return &fault.Error{File: e.o.Out, Op: "build", Err: fault.As(fault.ErrMisuse, errors.New("packages cannot go into the folder of an input")), Hint: "choose another -o"}
		}
	}
	_, err = report.Read(filepath.Join(out, "report.json"))
	for _, name := range report.FileNames {
		if exists(filepath.Join(out, name)) && err != nil {
			return &fault.Error{File: filepath.Join(e.o.Out, name), Op: "build", Err: fault.As(fault.ErrMisuse, errors.New("this is not a report of pare's and is not overwritten")), Hint: "move it away, or choose another -o"}
		}
	}
	return nil
}

// jobKey is the digest of everything that a target's package depends on.
func (e *engine) jobKey(j *job) string {
	if j.net != nil {
		return e.graphKey(j)
	}
	parts := []any{e.key, *j.t, e.anonymous(j), j.rounded}
	if j.isa {
		parts = append(parts, e.o.ISA, e.calibKey())
	}
	return key(parts...)
}

// published is the record that a target's package is in place. It is written just before the package
// moves there, so that a run that is killed between the two knows the package as its own.
type published struct {
	Key         string // of the package and of how it was compared
	Place       string // absolute
	Fingerprint string // see fingerprint
	Target      report.Target
	Stages      []report.Stage
}

// absolute is a path that means the same from any folder.
func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// fingerprint names what lies at a place: the digest of a folder's manifest, or of an archive.
func fingerprint(ctx context.Context, place string) (string, error) {
	if st, err := os.Stat(place); err != nil {
		return "", err
	} else if st.IsDir() {
		place = filepath.Join(place, pack.ManifestName)
	}
	return pack.SourceDigest(ctx, place, nil)
}

// record is the stage that keeps the published record of a target.
func (e *engine) record(j *job) (*stage, error) { return e.w.stage("target", j.t.Name) }

// ours reports whether the package at a target's place was put there by a run over the same work
// folder that did not come to its end; replacing it then needs no --force.
func (e *engine) ours(j *job) bool {
	var p published
	s := &stage{filepath.Join(e.workDir(), stagePrefix+"target-"+j.t.Name)}
	if !s.load(&p) {
		return false
	}
	at, err := fingerprint(context.Background(), e.place(j, false))
	return err == nil && at == p.Fingerprint
}

// target does one target, or finds that an earlier run has done it.
func (e *engine) target(ctx context.Context, j *job) error {
	s, err := e.record(j)
	if err != nil {
		return err
	}
	checkKey := ""
	if e.check != nil {
		checkKey = key(e.check.SHA256, len(e.check.ids))
	}
	if e.net != nil {
		checkKey = e.checkKey()
	}
	full := key(j.key, e.r.Verify, e.r.Bench, e.r.Gate, checkKey, e.o.ISA, e.o.Publish)
	var p published
	if s.load(&p) && p.Key == full && (p.Place == absolute(e.place(j, false)) || p.Place == absolute(e.place(j, true))) {
		if at, err := fingerprint(ctx, p.Place); err == nil && at == p.Fingerprint {
			*j.rep = p.Target
			for i := range p.Stages {
				p.Stages[i].Reused = true
			}
			e.rep.Stages = append(e.rep.Stages, p.Stages...)
			return nil
		}
	}
	before := len(e.rep.Stages)
	return e.build(ctx, j, func(place, print string) error {
		return s.finish(published{Key: full, Place: absolute(place), Fingerprint: print, Target: *j.rep, Stages: e.rep.Stages[before:]})
	})
}
