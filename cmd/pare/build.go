package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/prune"
	"github.com/pare-dev/pare/targets/build"
	"github.com/pare-dev/pare/targets/recipe"
	"github.com/pare-dev/pare/targets/report"
)

func (a *app) buildCmd() *cobra.Command {
	var fl recipeFlags
	var out string
	var force, publish, keepWork bool
	c := &cobra.Command{
		Use:   "build [MODEL]",
		Short: "Do the whole job: merge, prune, quantize, package for every target, verify, report",
		Long: `Do the whole job: merge adapters, prune, quantize, write a package for every target, read each back
from disk, compare it with the original, and say whether it is good enough. Without a recipe the
defaults come from the target. A run that is interrupted goes on where it stopped when the same line
is typed again.

A graph (ONNX) goes the same way: --calibration names samples, packages hold model.onnx.`,
		Example: `  pare build books-llama/model --adapter books-llama/adapter-shakespeare -t arm64 -t x86-64-v4 --calibration books-llama/text/calibration.txt --gate kl_mean=0.05 -o dist
  pare build graphs/mnist/mnist-8.onnx -t x86-64-v3 -t npu-qnn --calibration graphs/mnist/images-idx3-ubyte.gz --labels graphs/mnist/labels-idx1-ubyte.gz -o digits`,
		Args: atMost(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := needOut(out); err != nil {
				return err
			}
			fl.typed = typed(cmd)
			r, err := fl.recipe(a, args)
			if err != nil {
				return err
			}
			o := a.options()
			o.Out, o.Force, o.Publish, o.KeepWork = out, force, publish, keepWork
			rep, err := a.build(cmd.Context(), r, o)
			if err != nil {
				return err
			}
			return a.verdict(rep, out)
		},
	}
	fl.register(c)
	f := c.Flags()
	f.StringVarP(&out, "out", "o", "", "`FOLDER` for the packages and the report")
	f.BoolVar(&force, "force", false, "replace packages that exist")
	f.BoolVar(&publish, "publish", false, "put packages in place even when a gate says no")
	f.BoolVar(&keepWork, "keep-work", false, "keep the work folder after success")
	return c
}

// build runs the engine and writes the report beside the packages.
func (a *app) build(ctx context.Context, r *recipe.Recipe, o build.Options) (*report.Report, error) {
	work := o.Work
	if work == "" {
		work = filepath.Join(o.Out, ".work")
	}
	if err := ordinary(o.Out); err != nil {
		return nil, err
	}
	a.keep(work)
	rep, err := build.Run(ctx, r, o)
	if err != nil {
		return nil, err
	}
	a.stopProgress()
	noGates(rep)
	rep.Reproduce = "pare " + shellLine(a.args)
	if err := os.MkdirAll(o.Out, 0o755); err != nil {
		return nil, err
	}
	return rep, rep.Write(o.Out)
}

// verdict shows the outcome of a build and turns it into an exit code.
func (a *app) verdict(rep *report.Report, out string) error {
	s := rep.Summarize()
	t := summaryTable(s)
	var lines []any
	for i := range rep.Targets {
		lines = append(lines, &rep.Targets[i])
	}
	if err := a.show(result{object: rep, lines: lines, table: t, text: func(w io.Writer) { a.buildText(w, rep, s, t, out) }}); err != nil {
		return err
	}
	return exitOf(rep)
}

// exitOf is the exit code of a verdict, as the error that carries it.
func exitOf(rep *report.Report) error {
	switch rep.Verdict {
	case report.Fail, report.Inconclusive:
		return codeOnly(exitGate)
	case report.Refused:
		return codeOnly(exitRefused)
	}
	return nil
}

// summaryTable is the verdict table.
func summaryTable(s report.Summary) *table {
	t := &table{rows: s.Rows}
	for i, h := range s.Head {
		if i >= 2 && i <= 5 {
			h = ">" + h
		}
		t.head = append(t.head, h)
	}
	return t
}

// buildText is what a person sees at the end: what went in, the verdict table, what to do next.
func (a *app) buildText(w io.Writer, rep *report.Report, s report.Summary, t *table, out string) {
	sourceText(w, rep)
	fmt.Fprintln(w)
	_ = t.text(w) // a closed stdout is found by the next write
	if len(s.Foots) > 0 {
		fmt.Fprintln(w)
	}
	for i, f := range s.Foots {
		fmt.Fprintf(w, "%s %s\n", superscript(i+1), f)
	}
	for i := range rep.Targets {
		zerosText(w, &rep.Targets[i])
	}
	for i := range rep.Targets {
		refusalText(w, &rep.Targets[i])
	}
	for i := range rep.Targets {
		if lines := rep.Targets[i].LossLines(); len(lines) > 0 {
			fmt.Fprintf(w, "\n%s lost most in\n", rep.Targets[i].Name)
			for _, l := range lines {
				fmt.Fprintf(w, "  %s\n", l)
			}
		}
	}
	fmt.Fprintln(w)
	made := 0
	for i := range rep.Targets {
		if tg := &rep.Targets[i]; tg.Verdict == report.Fail || tg.Verdict == report.Inconclusive {
			fmt.Fprintf(w, "%s was not published: %s · pare explain %s\n", tg.Name, tg.Package, shellLine([]string{tg.Package}))
		} else if tg.Verdict != report.Refused {
			made++
		}
	}
	if made == 0 && rep.Verdict == report.Refused {
		fmt.Fprintf(w, "nothing was built · report %s\n", filepath.Join(out, "report.html"))
		return
	}
	fmt.Fprintf(w, "%s%c  %s · report %s · %s · peak memory %s\n", filepath.Clean(out), filepath.Separator, plural(made, "package"),
		filepath.Join(out, "report.html"), human.Duration(time.Duration(rep.Seconds*float64(time.Second))), human.Bytes(rep.PeakMemoryBytes))
	if rep.Seconds > 60 && rep.EstimateS > 0 {
		fmt.Fprintf(w, "estimated %s\n", human.Duration(time.Duration(rep.EstimateS*float64(time.Second))))
	}
}

// sourceText says what went in.
func sourceText(w io.Writer, rep *report.Report) {
	fmt.Fprintf(w, "source    %s\n", rep.Title())
	for _, ad := range rep.Adapters {
		parts := []string{filepath.Base(filepath.Clean(ad.Path))}
		if ad.Kind != "" {
			parts = append(parts, ad.Kind)
		}
		parts = append(parts, fmt.Sprintf("%d matrices", ad.Matrices))
		if ad.Weight != 1 {
			parts = append(parts, fmt.Sprintf("weight %g", ad.Weight))
		}
		fmt.Fprintf(w, "adapter   %s\n", strings.Join(parts, " · "))
	}
	if m := rep.Merge; m != nil {
		if m.Verdict == report.None {
			for _, n := range m.Notes {
				fmt.Fprintf(w, "merge     %s\n", n)
			}
		} else {
			fmt.Fprintf(w, "merge     differs from base+adapter by at most %s in the logits (spread %s)   %s\n", human.Float(m.MaxAbsDiff), human.Float(m.Spread), m.Verdict)
		}
	}
	for i := range rep.Passes {
		p := &rep.Passes[i]
		if p.Channels != nil {
			channelsText(w, p)
			continue
		}
		m := prune.Lookup(p.Name)
		if name, ok := strings.CutPrefix(p.Name, prune.Prefix); ok && m != nil && m.Structured && len(p.Notes) > 0 {
			fmt.Fprintf(w, "prune     %s: %s\n", name, p.Notes[0])
			for _, n := range p.Notes[1:] {
				fmt.Fprintf(w, "note      %s\n", n)
			}
			continue
		} else if ok {
			fmt.Fprintf(w, "prune     %s: %d matrices, %s of their weights are zero\n", name, p.Changed, human.Percent(p.Sparsity(), 1))
		}
		for _, n := range p.Notes {
			fmt.Fprintf(w, "note      %s\n", n)
		}
	}
	learnedText(w, rep)
}

// channelsText says what went of a graph.
func channelsText(w io.Writer, p *report.PassResult) {
	fmt.Fprintf(w, "prune     channels: %s\n", report.ChannelsText(p.Channels))
	const most = 12
	lines := append(p.ChannelLines(), p.Notes...)
	for _, l := range lines[:min(len(lines), most)] {
		fmt.Fprintf(w, "          %s\n", l)
	}
	if n := len(lines) - most; n > 0 {
		fmt.Fprintf(w, "          and %s (--output json has all)\n", plural(n, "more line"))
	}
}

// learnedText says what a training came to.
func learnedText(w io.Writer, rep *report.Report) {
	if d := rep.Distill; d != nil {
		fmt.Fprintf(w, "distill   %s\n", d.Text())
	}
}

// zerosText says what became of pruned weights in the file.
func zerosText(w io.Writer, t *report.Target) {
	if z := t.Zeros; z != nil {
		fmt.Fprintf(w, "zeros     %s: %s\n", t.Name, z.Text())
		for _, g := range z.Gain {
			fmt.Fprintf(w, "          %s\n", g)
		}
	}
}

// refusalText lists what a target does not take.
func refusalText(w io.Writer, t *report.Target) {
	if len(t.Refusals) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s does not take:\n", t.Name)
	errs := make([]error, len(t.Refusals))
	for i, l := range t.Refusals {
		errs[i] = &fault.Error{Tensor: l.Tensor, Err: errors.New(l.Reason), Hint: l.Hint}
	}
	for _, g := range kinds(errs) {
		l, _ := g.first.(*fault.Error) //nolint:errorlint // made above
		line := l.Err.Error()
		if l.Tensor != "" {
			line = l.Tensor + ": " + line
		}
		if g.more > 0 {
			line += fmt.Sprintf(" (and %d more like it)", g.more)
			l.Hint = strings.ReplaceAll(l.Hint, l.Tensor, "NAME")
		}
		if l.Hint != "" {
			line += "; " + l.Hint
		}
		fmt.Fprintf(w, "  %s\n", line)
	}
}

func superscript(n int) string {
	digits := []rune("⁰¹²³⁴⁵⁶⁷⁸⁹")
	var b strings.Builder
	for _, c := range fmt.Sprint(n) {
		b.WriteRune(digits[c-'0'])
	}
	return b.String()
}
