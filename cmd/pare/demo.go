package main

import (
	"context"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pare-dev/pare/targets/pack"
	"github.com/pare-dev/pare/targets/recipe"
	"github.com/pare-dev/pare/targets/report"
)

// demoNames are the tours, the one without a name first.
var demoNames = []string{"text", "vision", "audio"}

func (a *app) demoCmd() *cobra.Command {
	var out string
	var force, sampleOnly bool
	var tokens, chunks int
	c := &cobra.Command{
		Use:   "demo [text|vision|audio]",
		Short: "The whole tour on a built-in model, about a minute",
		Long: `The whole tour on a model that travels inside this binary: a small language model trained on old
novels, and a LoRA adapter that makes it write like Shakespeare. The demo merges the adapter, prunes
a copy, quantizes to 8 and 4 bits for three targets, compares every package with the original, and
writes a report. --sample-only writes the model, the adapter and the texts, and stops: the examples
of every --help work on them.

The same for graphs: vision makes packages of integers of a network that reads digits, for a processor and for a
neural one, and counts how many of 1,000 are still right; audio those of a network that hears speech.`,
		Example: `  pare demo
  pare demo vision
  pare demo audio
  pare demo --sample-only -o .`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 || len(args) == 1 && !slices.Contains(demoNames, args[0]) {
				return misuse("choose "+strings.Join(demoNames, ", "), "there is no demo %q", strings.Join(args, " "))
			}
			return nil
		},
		ValidArgs: demoNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 && args[0] != "text" {
				for _, name := range []string{"tokens", "chunks"} {
					if typed(cmd)(name) {
						return flagFault(name, misusef("a graph reads no text"))
					}
				}
				if !cmd.Flags().Changed("out") {
					out = "pare-demo-" + args[0]
				}
				return a.demoGraph(cmd.Context(), args[0], out, force, sampleOnly)
			}
			if sampleOnly {
				if err := writeSample(filepath.Join(out, "books-llama"), force); err != nil {
					return err
				}
				if !a.quiet {
					a.say("wrote %s; next: pare inspect %s", filepath.Join(out, "books-llama"), shellLine([]string{filepath.Join(out, "books-llama", "model")}))
				}
				return nil
			}
			return a.demo(cmd.Context(), out, force, tokens, chunks)
		},
	}
	f := c.Flags()
	f.StringVarP(&out, "out", "o", "pare-demo", "`FOLDER` to write to")
	f.BoolVar(&force, "force", false, "replace what an earlier demo wrote")
	intFrom(f, &tokens, "tokens", "", 1, 32768, "tokens of calibration text to use")
	intFrom(f, &chunks, "chunks", "", 1, 12, "chunks of 512 tokens to compare")
	f.BoolVar(&sampleOnly, "sample-only", false, "write only the model, the adapter and the texts")
	return c
}

// The demo's recipe. The dense packages are made for three targets; the pruned ones show what
// zeros cost, and that dense runtimes gain nothing from them.
func demoRecipe(dir string, tokens, chunks int, targets []recipe.Target, passes ...recipe.Pass) *recipe.Recipe {
	sample := filepath.Join(dir, "books-llama")
	return &recipe.Recipe{
		Source: recipe.Source{
			Model:    filepath.Join(sample, "model"),
			Adapters: []recipe.Adapter{{Path: filepath.Join(sample, "adapter-shakespeare"), Weight: 1}},
		},
		Calibration: recipe.Calibration{Text: []string{filepath.Join(sample, "text", "calibration.txt")}, Tokens: tokens, Seed: 7},
		Passes:      passes,
		Targets:     targets,
		Verify:      recipe.Verify{Text: []string{filepath.Join(sample, "text", "shakespeare-test.txt")}, Chunks: chunks, MaxChunks: max(2*chunks, 16)},
		Bench:       recipe.Bench{Prompt: 128, Generate: 32, Repeat: 3},
		Gate:        recipe.Gate{"kl_mean": 0.05, "top1": 0.85},
	}
}

// demoPackages are what the demo makes, in its folder dist.
var demoPackages = []string{"arm64", "x86-64-v3", "x86-64-v4", prunedName}

// prunedName is the package with zeros.
const prunedName = "x86-64-v3-pruned"

// demoReport is the report of a demo that came to its end in a folder, nil when there is none or a
// package of it is gone.
func demoReport(dist string) *report.Report {
	rep, err := report.Read(filepath.Join(dist, "report.json"))
	if err != nil || len(rep.Targets) != len(demoPackages) {
		return nil
	}
	for i, name := range demoPackages {
		place := filepath.Join(dist, filepath.Base(rep.Targets[i].Package)) // the folder may have been moved
		if rep.Targets[i].Name != name || !pack.IsPackage(place) {
			return nil
		}
	}
	return rep
}

func (a *app) demo(ctx context.Context, dir string, force bool, tokens, chunks int) error {
	dist := filepath.Join(dir, "dist")
	if rep := demoReport(dist); rep != nil && !force {
		if a.output.value != "table" {
			return a.verdict(rep, dist)
		}
		if !a.quiet {
			a.say("the demo is there: open %s in a browser; --force makes it anew", filepath.Join(dist, "report.html"))
		}
		return exitOf(rep)
	}
	if err := writeSample(filepath.Join(dir, "books-llama"), force); err != nil {
		return err
	}
	dense := demoRecipe(dir, tokens, chunks, []recipe.Target{
		{Use: "arm64", Quantize: "q4_0"},
		{Use: "x86-64-v3", Quantize: "q8_0"},
		{Use: "x86-64-v4", Quantize: "q4_k_m"},
	})
	share := recipe.Ratio(0.3)
	pruned := demoRecipe(dir, tokens, chunks, []recipe.Target{{Use: "x86-64-v3", Name: prunedName, Quantize: "q8_0"}},
		recipe.Pass{Use: "prune.wanda", Sparsity: &share})
	pruned.Bench.Off = true // dense kernels take as long for zeros as for other numbers

	o := a.options()
	o.Out, o.Force = dist, force
	rep, err := a.build(ctx, dense, o)
	if err != nil {
		return err
	}
	more, err := a.build(ctx, pruned, o)
	if err != nil {
		return err
	}
	for i := range more.Targets {
		more.Targets[i].NotTimed = "not timed: these kernels take as long for a zero as for any other weight"
	}
	rep = together(rep, more)
	rep.Reproduce = "pare " + shellLine(a.args)
	if err := rep.Write(o.Out); err != nil {
		return err
	}
	if err := a.verdict(rep, o.Out); err != nil {
		return err
	}
	if !a.quiet && a.output.value == "table" {
		model := filepath.Join(o.Out, "x86-64-v4")
		a.printf("\ntry       pare run %s -p \"KING HENRY:\" -n 64\nlook      %s in a browser\n", shellLine([]string{model}), filepath.Join(o.Out, "report.html"))
	}
	return nil
}

// together joins the reports of two builds from one source. What only one of them did before its
// targets stands with its targets.
func together(first, second *report.Report) *report.Report {
	r := *first
	r.Targets = append([]report.Target(nil), first.Targets...)
	for _, t := range second.Targets {
		t.Passes = append(append([]report.PassResult(nil), onlyIn(second.Passes, first.Passes)...), t.Passes...)
		r.Targets = append(r.Targets, t)
	}
	r.Stages = append([]report.Stage(nil), first.Stages...)
	for _, s := range second.Stages {
		if s.Target == "" && len(second.Targets) > 0 {
			s.Target = second.Targets[0].Name
		}
		r.Stages = append(r.Stages, s)
	}
	r.Seconds += second.Seconds
	r.PeakMemoryBytes = max(first.PeakMemoryBytes, second.PeakMemoryBytes)
	verdicts := make([]report.Verdict, len(r.Targets))
	for i := range r.Targets {
		verdicts[i] = r.Targets[i].Verdict
	}
	r.Verdict = report.Worst(verdicts...)
	r.Recipe = nil // two recipes; each package holds its own
	r.Notes = append(append([]string(nil), first.Notes...), "two builds in one report: each package holds its own recipe")
	return &r
}

// onlyIn lists the passes that other does not have.
func onlyIn(passes, other []report.PassResult) (out []report.PassResult) {
	for _, p := range passes {
		found := false
		for _, q := range other {
			found = found || p.Name == q.Name
		}
		if !found {
			out = append(out, p)
		}
	}
	return out
}
