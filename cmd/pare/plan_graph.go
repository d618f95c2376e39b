package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
	"github.com/pare-dev/pare/ir/rewrite"
	"github.com/pare-dev/pare/runner/eval"
	"github.com/pare-dev/pare/targets"
	"github.com/pare-dev/pare/targets/build"
	"github.com/pare-dev/pare/targets/npu"
)

// graphPlan says whether targets run all of a network of operators.
type graphPlan struct {
	Schema  int           `json:"schema"`
	Model   string        `json:"model"`
	Opset   int           `json:"opset"`
	Nodes   int           `json:"nodes"`
	Targets []graphTarget `json:"targets"`
}

// graphTarget is the verdict of one target.
type graphTarget struct {
	Target  string `json:"target"`
	Verdict string `json:"verdict"` // legal; fallback: some of it runs on the CPU instead; refused: none of it
	// Findings name each node that the target does not run, the rule, and the nearest legal form.
	Findings    []npu.Finding `json:"findings"`
	NotExecuted string        `json:"not_executed"`
}

// graphFlags are what plan takes for networks.
type graphFlags struct {
	shapes []string
	failOn string
}

// planGraph is plan for a network in an ONNX file. done is false when the model is none.
func (a *app) planGraph(ctx context.Context, args, names []string, fl graphFlags) (done bool, err error) {
	if fl.failOn != "" && fl.failOn != "fallback" {
		return true, misuse("--fail-on fallback", "--fail-on %q", fl.failOn)
	}
	if len(args) == 0 {
		return false, nil
	}
	m, err := formats.Open(ctx, args[0])
	if err != nil {
		if strings.HasSuffix(args[0], ".onnx") {
			return true, err
		}
		return false, nil // the plan of language models says it better
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	if m.Graph == nil {
		if len(fl.shapes) > 0 || fl.failOn != "" {
			return true, misuse("leave them out", "--shape and --fail-on are for networks in ONNX files")
		}
		return false, nil
	}
	p, err := judgeGraph(ctx, m, names, fl.shapes)
	if err != nil {
		return true, err
	}
	a.stopProgress()
	t := &table{head: []string{"target", "verdict", "node", "rule", "reason", "nearest"}}
	worst := "legal"
	var lines []any
	for i := range p.Targets {
		x := &p.Targets[i]
		lines = append(lines, x)
		if x.Verdict != "legal" && worst != "refused" {
			worst = x.Verdict
		}
		if len(x.Findings) == 0 {
			t.add(x.Target, x.Verdict, "", "", "", "")
		}
		for _, f := range x.Findings {
			t.add(x.Target, x.Verdict, f.Node, f.Rule, f.Reason, f.Nearest)
		}
	}
	if err := a.show(result{object: p, lines: lines, table: t, text: func(w io.Writer) { p.text(w, a.verbose) }}); err != nil {
		return true, err
	}
	if worst == "refused" || worst == "fallback" && fl.failOn == "fallback" {
		return true, codeOnly(exitRefused)
	}
	return true, nil
}

// judgeGraph holds a network, with the shapes that it was given, against each target's rules.
func judgeGraph(ctx context.Context, m *ir.Model, names, shapes []string) (*graphPlan, error) {
	g, _ := m.Graph.Clone()
	rewrite.Freeze(g)
	given, err := shapesOf(shapes, g.Inputs)
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if err := rewrite.Fix(g, name, given[name]); err != nil {
			return nil, err
		}
	}
	// Where inputs are open, the dimensions that inference tries may not go together: the file's own are judged.
	open := slices.ContainsFunc(g.Inputs, func(v *graph.Value) bool { _, known := v.Shape.Known(); return !known })
	if err := (&eval.Network{Options: eval.Options{Threads: 1}}).Infer(ctx, g); err != nil && !open && !errors.Is(err, eval.ErrOperator) {
		return nil, err
	}
	p := &graphPlan{Schema: 1, Model: m.Path, Opset: g.Opset[""], Nodes: len(g.Nodes), Targets: []graphTarget{}}
	if len(names) == 0 {
		names = []string{build.DefaultTarget()}
	}
	for _, name := range names {
		t, err := targets.Lookup(name)
		if err != nil {
			return nil, err
		}
		x := graphTarget{Target: name, Verdict: "legal", Findings: []npu.Finding{}, NotExecuted: t.NotExecuted}
		if t.Graph == nil {
			x.Verdict = "refused"
			x.Findings = append(x.Findings, npu.Finding{Node: "the network", Rule: npu.RuleOperator, Reason: "the target takes language models only"})
		} else if f := t.Graph.Legal(g); len(f) > 0 {
			x.Verdict, x.Findings = "fallback", f
		}
		p.Targets = append(p.Targets, x)
	}
	return p, nil
}

// text is the verdict as a person reads it.
func (p *graphPlan) text(w io.Writer, all bool) {
	fmt.Fprintf(w, "%s: %s of operator set %d, as it stands in the file\n", p.Model, plural(p.Nodes, "node"), p.Opset)
	for _, t := range p.Targets {
		switch t.Verdict {
		case "legal":
			fmt.Fprintf(w, "\n%s  runs all of it\n", t.Target)
		case "fallback":
			fmt.Fprintf(w, "\n%s  does not run all of it: %s\n", t.Target, plural(len(t.Findings), "finding"))
		default:
			fmt.Fprintf(w, "\n%s  refuses it\n", t.Target)
		}
		const most = 12
		for i, f := range t.Findings {
			if i == most && !all {
				fmt.Fprintf(w, "  and %s (-v shows all)\n", plural(len(t.Findings)-most, "more finding"))
				break
			}
			fmt.Fprintf(w, "  %s  [%s]\n", f, f.Rule)
		}
		if t.NotExecuted != "" {
			fmt.Fprintf(w, "  not executed: %s\n", t.NotExecuted)
		}
	}
}
