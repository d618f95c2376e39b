package main

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/pare-dev/pare/targets/pack"
	"github.com/pare-dev/pare/targets/recipe"
	"github.com/pare-dev/pare/targets/report"
	builtin "github.com/pare-dev/pare/testdata/graphs"
)

// demoGraphs are the folders of the networks that the tours on graphs are about.
var demoGraphs = map[string]string{"vision": "mnist", "audio": "silero"}

// demoGraph is the tour on a network of operators: its own recipe, which is written out beside it.
func (a *app) demoGraph(ctx context.Context, name, dir string, force, sampleOnly bool) error {
	dist := filepath.Join(dir, "dist")
	folder := filepath.Join(dir, demoGraphs[name])
	source := filepath.Join(folder, "build.toml")
	if rep := builtBefore(source, dist); rep != nil && !force && !sampleOnly {
		if a.output.value != "table" {
			return a.verdict(rep, dist)
		}
		if !a.quiet {
			a.say("the demo is there: open %s in a browser; --force makes it anew", filepath.Join(dist, "report.html"))
		}
		return exitOf(rep)
	}
	files, err := fs.Sub(builtin.Files, demoGraphs[name])
	if err != nil {
		return err
	}
	if err := writeEmbedded(files, folder, force); err != nil {
		return err
	}
	if sampleOnly {
		if !a.quiet {
			a.say("wrote %s; next: pare build -r %s -o %s", folder, shellLine([]string{source}), shellLine([]string{dist}))
		}
		return nil
	}
	r, err := recipe.Load(source)
	if err != nil {
		return err
	}
	o := a.options()
	o.Out, o.Force = dist, force
	rep, err := a.build(ctx, r, o)
	if err != nil {
		return err
	}
	if err := a.verdict(rep, dist); err != nil {
		return err
	}
	if !a.quiet && a.output.value == "table" {
		a.printf("\nrecipe    %s\nlook      %s in a browser\n", source, filepath.Join(dist, "report.html"))
	}
	return nil
}

// builtBefore is the report of a build that came to its end, nil when there is none or a package of the recipe is gone.
func builtBefore(source, dist string) *report.Report {
	rep, err := report.Read(filepath.Join(dist, "report.json"))
	if err != nil || len(rep.Targets) == 0 {
		return nil
	}
	if _, err := os.Stat(source); err != nil {
		return nil
	}
	for i := range rep.Targets {
		if !pack.IsPackage(filepath.Join(dist, filepath.Base(rep.Targets[i].Package))) {
			return nil
		}
	}
	return rep
}
