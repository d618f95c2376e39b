package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/lora"
	"github.com/pare-dev/pare/targets/pack"
	"github.com/pare-dev/pare/targets/report"
)

// recorded is what a report says about one package.
type recorded struct {
	*report.Report
	target *report.Target
}

// recordOf finds the report of a package: inside a folder, beside an archive, which holds none for
// archives have the same bytes each time. What lies beside counts when it speaks of these bytes.
// It is false when there is no report.
func recordOf(pkg string) (recorded, bool) {
	if st, err := os.Stat(pkg); err != nil {
		return recorded{}, false
	} else if st.IsDir() {
		rep, err := report.Read(filepath.Join(pkg, "report.json"))
		if err != nil || len(rep.Targets) != 1 { // more are the report of a folder of packages
			return recorded{}, false
		}
		return recorded{rep, &rep.Targets[0]}, true
	}
	if !pack.IsPackage(pkg) {
		return recorded{}, false
	}
	man, err := pack.ReadArchiveManifest(pkg)
	if err != nil {
		return recorded{}, false // opening it says what is wrong
	}
	digest, err := man.Digest()
	if err != nil {
		return recorded{}, false
	}
	rep, err := report.Read(filepath.Join(filepath.Dir(pkg), "report.json"))
	if err != nil {
		return recorded{}, false
	}
	for i := range rep.Targets {
		if rep.Targets[i].Digest == digest {
			return recorded{rep, &rep.Targets[i]}, true
		}
	}
	return recorded{}, false
}

// context is the length of the chunks that the package was compared on, or 0.
func (r recorded) context() int {
	if r.target == nil || r.target.Protocol == nil {
		return 0
	}
	return r.target.Protocol.Context
}

// origin opens what a package was made from: the first of two arguments, or what the package's report
// names, with the adapters merged. It returns what that is called, too.
func (a *app) origin(ctx context.Context, args []string, rec recorded) (*ir.Model, string, error) {
	pkg := args[len(args)-1]
	if len(args) == 2 {
		m, err := a.openModel(ctx, args[0])
		if err == nil && rec.Report != nil && len(rec.Adapters) > 0 && unchanged(ctx, args[0], rec.Source.Digest) == nil {
			a.progressSink().Note("", "adapters were merged into "+pkg+" and not into "+args[0]+": what they changed counts as lost; name the merged model, or the package alone")
			a.stopProgress() // shown now, not after the work
		}
		return m, args[0], err
	}
	needed := func(err error) error {
		hint := "name the original: pare explain ORIGINAL " + shellLine([]string{pkg})
		switch {
		case rec.Report == nil:
		case len(rec.Adapters) > 0:
			hint = "call it in the folder that pare build was called in; or make the merged model (pare lora merge) and name that, for adapters were merged: pare explain MERGED " + shellLine([]string{pkg})
		default:
			hint = "call it in the folder that pare build was called in, or " + hint
		}
		return &fault.Error{File: pkg, Err: fault.As(fault.ErrMisuse, err), Hint: hint}
	}
	if rec.Report == nil {
		return nil, "", needed(errors.New("nothing here says what it was made from"))
	}
	if err := unchanged(ctx, rec.Source.Path, rec.Source.Digest); err != nil {
		return nil, "", needed(err)
	}
	m, err := a.openModel(ctx, rec.Source.Path)
	if err != nil || len(rec.Adapters) == 0 {
		return m, rec.Source.Path, err
	}
	if err := a.mergeInto(ctx, m, rec.Report); err != nil {
		return nil, "", errors.Join(needed(err), m.Close())
	}
	return m, rec.Source.Path + " with its adapters", nil
}

// unchanged says what is wrong with an input of an earlier run, nil when it is there as it was.
func unchanged(ctx context.Context, path, digest string) error {
	now, err := pack.SourceDigest(ctx, path, nil)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return misusef("it was made from %s, which is not there", path)
	case err != nil:
		return err
	case now != digest:
		return misusef("it was made from %s, which has changed since", path)
	}
	return nil
}

// mergeInto merges the adapters of an earlier run in float32. They stay open as long as the model.
func (a *app) mergeInto(ctx context.Context, m *ir.Model, rep *report.Report) error {
	var adapters []lora.Weighted
	for _, r := range rep.Adapters {
		if err := unchanged(ctx, r.Path, r.Digest); err != nil {
			return err
		}
		ad, err := lora.Open(ctx, r.Path)
		if err != nil {
			return err
		}
		m.Owns(ad)
		adapters = append(adapters, lora.Weighted{Adapter: ad, Weight: float32(r.Weight)})
	}
	pass := lora.New(adapters, lora.Options{Type: storage.F32, AllowPartial: rep.Recipe != nil && rep.Recipe.Source.AllowBaseMismatch})
	plan, err := pass.Plan(ctx, m)
	if err != nil {
		return err
	}
	_, err = pass.Apply(ctx, m, plan, ir.Env{Threads: a.threads, Memory: int64(a.maxMemory), ISA: a.level, Progress: a.progressSink()})
	return err
}
