package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/targets/build"
	"github.com/pare-dev/pare/targets/report"
)

func (a *app) planCmd() *cobra.Command {
	var fl recipeFlags
	var out string
	c := &cobra.Command{
		Use:   "plan [MODEL]",
		Short: "Say what build would do: sizes, types, memory, disk, time, what a target refuses",
		Long: `Say what build would do with the same arguments: the type and size of every tensor, peak memory,
disk, an estimate of the time, and what each target does not take. Nothing is written.

For a network in an ONNX file: what becomes integers and what stays float and why, whether a target, such as a neural
processor, runs all of what would be written, and if not, each node with the rule that it breaks and the nearest form
that is legal.`,
		Example: `  pare plan books-llama/model -t x86-64-v3 --quantize q4_k_m --max-memory 2GiB`,
		Args:    atMost(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			fl.typed = typed(cmd)
			r, err := fl.recipe(a, args)
			if err != nil {
				return err
			}
			o := a.options()
			o.Out = out
			rep, err := build.Plan(cmd.Context(), r, o)
			if err != nil {
				return err
			}
			a.stopProgress()
			noGates(rep)
			if rep.Graphs() {
				return a.showGraphPlan(rep)
			}
			var lines []any
			for i := range rep.Targets {
				lines = append(lines, &rep.Targets[i])
			}
			if err := a.show(result{object: rep, lines: lines, table: planTable(rep), text: func(w io.Writer) { a.planText(w, rep) }}); err != nil {
				return err
			}
			if rep.Verdict == report.Refused {
				return codeOnly(exitRefused)
			}
			return nil
		},
	}
	fl.register(c)
	c.Flags().StringVarP(&out, "out", "o", "dist", "`FOLDER` that build would write to")
	return c
}

// planTable lists every tensor of every target.
func planTable(rep *report.Report) *table {
	t := &table{head: []string{"target", "tensor", "from", "to", ">bytes", "reason"}}
	for _, tg := range rep.Targets {
		for _, x := range tg.Tensors {
			row := []string{tg.Name, x.Name, x.From, x.To, human.Bytes(x.Bytes), x.Reason}
			exact := []string{tg.Name, x.Name, x.From, x.To, fmt.Sprint(x.Bytes), x.Reason}
			t.both(row, exact)
		}
	}
	return t
}

// planText is the plan as a person reads it: one line a target, then what is unusual.
func (a *app) planText(w io.Writer, rep *report.Report) {
	sourceText(w, rep)
	for i := range rep.Targets {
		t := &rep.Targets[i]
		fmt.Fprintf(w, "\n%s  %s: %d tensors · %s %s → %s (%.2f bits per weight)\n", t.Name, report.TypeName(t), len(t.Tensors),
			human.Bytes(rep.Source.Bytes), rep.Source.Type, human.Bytes(t.Bytes), t.BitsPerWeight)
		counts := map[string]int{}
		for _, x := range t.Tensors {
			counts[x.To]++
		}
		var parts []string
		for _, typ := range sortedNames(counts) {
			parts = append(parts, fmt.Sprintf("%s %d", typ, counts[typ]))
		}
		if len(parts) > 0 {
			fmt.Fprintf(w, "  %s\n", strings.Join(parts, "  "))
		}
		reasonsText(w, t, a.verbose)
		refusalText(w, t)
	}
	peak := rep.PlannedMemoryBytes
	if peak == 0 {
		peak = rep.PeakMemoryBytes
	}
	line := "peak memory " + human.Bytes(peak)
	if a.maxMemory > 0 {
		line += " of " + human.Bytes(int64(a.maxMemory))
	}
	line += " · disk " + human.Bytes(rep.DiskBytes)
	if rep.WorkBytes > 0 {
		line += " + " + human.Bytes(rep.WorkBytes) + " work"
	}
	if rep.EstimateS > 0 {
		line += fmt.Sprintf(" · about %s with %s", human.Duration(time.Duration(rep.EstimateS*float64(time.Second))), plural(rep.Machine.Threads, "thread"))
	}
	fmt.Fprintf(w, "\n%s\n", line)
	if rep.Verdict == report.Refused {
		fmt.Fprintln(w, "nothing written; a target refuses the model, and build leaves it out")
		return
	}
	fmt.Fprintln(w, "nothing written; run the same line with build")
}

// reasonsText says why tensors get another type than was asked for, each reason once.
func reasonsText(w io.Writer, t *report.Target, all bool) {
	reasons := t.Reasons()
	const most = 6
	for i, r := range reasons {
		if i == most && !all {
			fmt.Fprintf(w, "  and %s (-v shows all)\n", plural(len(reasons)-most, "more reason"))
			break
		}
		fmt.Fprintf(w, "  %s  %s\n", r.Names(func(name string) string { return name }), r.Why())
	}
}
