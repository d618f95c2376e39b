package main

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"

	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/lora"
	"github.com/pare-dev/pare/targets/pack"
	"github.com/pare-dev/pare/targets/report"
)

// origin opens what a package was made from: the first of two arguments, or what the report inside
// the package names, with the adapters merged. It returns what that is called, too.
func (a *app) origin(ctx context.Context, args []string) (*ir.Model, string, error) {
	if len(args) == 2 {
		m, err := a.openModel(ctx, args[0])
		return m, args[0], err
	}
	pkg := args[0]
	needed := func(err error) error {
		return &fault.Error{File: pkg, Err: fault.As(fault.ErrMisuse, err), Hint: "name the original: pare explain ORIGINAL " + shellLine([]string{pkg})}
	}
	rep, err := report.Read(filepath.Join(pkg, "report.json"))
	if err != nil {
		return nil, "", needed(errors.New("nothing here says what it was made from"))
	}
	if err := unchanged(ctx, rep.Source.Path, rep.Source.Digest); err != nil {
		return nil, "", needed(err)
	}
	m, err := formats.Open(ctx, rep.Source.Path)
	if err != nil || len(rep.Adapters) == 0 {
		return m, rep.Source.Path, err
	}
	if err := a.mergeInto(ctx, m, rep); err != nil {
		return nil, "", errors.Join(needed(err), m.Close())
	}
	return m, rep.Source.Path + " with its adapters", nil
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
