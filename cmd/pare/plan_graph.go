package main

import (
	"fmt"
	"io"
	"time"

	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/targets/report"
)

// showGraphPlan shows the plan of a graph.
func (a *app) showGraphPlan(rep *report.Report) error {
	t := &table{head: []string{"target", "what", "name", "from", "to", ">bytes", "reason"}}
	var lines []any
	for _, p := range rep.Passes {
		if p.Channels == nil {
			continue
		}
		for _, g := range p.Channels.Groups {
			t.add("", "channels", g.Layers, fmt.Sprint(g.Channels), fmt.Sprint(g.Kept), "", g.Reason)
		}
	}
	for i := range rep.Targets {
		x := &rep.Targets[i]
		lines = append(lines, x)
		for _, w := range x.Tensors {
			t.both([]string{x.Name, "weight", w.Name, w.From, w.To, human.Bytes(w.Bytes), w.Reason},
				[]string{x.Name, "weight", w.Name, w.From, w.To, fmt.Sprint(w.Bytes), w.Reason})
		}
		for _, l := range x.Skipped {
			t.add(x.Name, "node", l.Tensor, "", "float", "", l.Reason)
		}
		for _, l := range x.Refusals {
			t.add(x.Name, "refused", l.Tensor, "", "", "", l.Reason)
		}
		if x.Graph != nil {
			for _, f := range x.Graph.Findings {
				t.add(x.Name, "finding", f.Node, "", f.Rule, "", f.Reason)
			}
		}
	}
	if err := a.show(result{object: rep, lines: lines, table: t, text: func(w io.Writer) { a.graphPlanText(w, rep) }}); err != nil {
		return err
	}
	if rep.Verdict == report.Refused {
		return codeOnly(exitRefused)
	}
	return nil
}

// graphPlanText is the plan as a person reads it: what becomes integers, what stays float and why, what each target
// does not run.
func (a *app) graphPlanText(w io.Writer, rep *report.Report) {
	sourceText(w, rep)
	for i := range rep.Targets {
		t := &rep.Targets[i]
		g := t.Graph
		if g == nil || t.Verdict == report.Refused && len(g.Findings) == 0 {
			refusalText(w, t)
			continue
		}
		fmt.Fprintf(w, "\n%s  %s: %d of %d nodes on integers · %s %s → %s  %s\n", t.Name, report.TypeName(t), g.Integer, g.Integer+g.Float,
			human.Bytes(rep.Source.Bytes), rep.Source.Type, human.Bytes(t.Bytes), times(t.Ratio))
		reasonsText(w, t, a.verbose)
		for _, c := range t.Caveats {
			fmt.Fprintf(w, "  %s\n", c)
		}
		findingsText(w, g, a.verbose)
		for _, n := range t.NotExecuted {
			fmt.Fprintf(w, "  not executed: %s\n", n)
		}
	}
	line := "peak memory " + human.Bytes(rep.PeakMemoryBytes)
	if a.maxMemory > 0 {
		line += " of " + human.Bytes(int64(a.maxMemory))
	}
	line += " · disk " + human.Bytes(rep.DiskBytes)
	if rep.EstimateS > 0 {
		line += " · about " + human.Duration(time.Duration(rep.EstimateS*float64(time.Second)))
	}
	fmt.Fprintf(w, "\n%s\n", line)
	if rep.Verdict == report.Refused {
		fmt.Fprintln(w, "nothing written; a target refuses the model, and build leaves it out")
		return
	}
	fmt.Fprintln(w, "nothing written; run the same line with build")
}

// findingsText lists what a target does not run.
func findingsText(w io.Writer, g *report.Graph, all bool) {
	if len(g.Findings) == 0 {
		fmt.Fprintln(w, "  runs all of it")
		return
	}
	fmt.Fprintf(w, "  does not run all of it: %s\n", plural(len(g.Findings), "finding"))
	const most = 12
	for i, f := range g.Findings {
		if i == most && !all {
			fmt.Fprintf(w, "  and %s (-v shows all)\n", plural(len(g.Findings)-most, "more finding"))
			break
		}
		fmt.Fprintf(w, "  %s  [%s]\n", f, f.Rule)
	}
}
