package report

import (
	"fmt"
	"math"
	"time"

	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/runner/bench"
	"github.com/pare-dev/pare/runner/verify"
	"github.com/pare-dev/pare/targets/npu"
)

// Graph is what became of a graph of operators and how it compares with the original. Nodes that stay float, with the
// reason, are in Target.Skipped.
type Graph struct {
	Integer int `json:"integer"` // nodes on integers; of weight-only and dynamic types, layers that changed
	Float   int `json:"float"`
	// Findings name each node that the target does not run, the rule, and the nearest legal form.
	Findings []npu.Finding `json:"findings,omitempty"`
	// Trades are the layers that stay float for the sake of a gate.
	Trades []Trade `json:"trades,omitempty"`

	Samples int `json:"samples,omitempty"` // that both ran on
	// Calibrated says that these are the samples that ranges were found on.
	Calibrated bool                 `json:"calibrated,omitempty"`
	Outputs    []verify.OutputError `json:"outputs,omitempty"`
	// Values are those inside that have one name in both, on a few samples, in the order in which they are computed.
	Values []verify.OutputError `json:"values,omitempty"`
	// Top1 is the share of rows of scores for which both rank the same class first; Task needs labels.
	Top1  *verify.Neighbours `json:"top1,omitempty"`
	Task  *verify.Task       `json:"task,omitempty"`
	Bench *bench.Graphs      `json:"bench,omitempty"` // the package first
}

// Trade is a layer that stays float for the sake of a gate, and what that bought.
type Trade struct {
	Node  string  `json:"node"`
	Alone float64 `json:"alone_db"` // with only this one in float
	Score float64 `json:"score_db"` // with it and those before it
	Bytes int64   `json:"bytes"`    // that it takes more
}

// Least is the output that is farthest from the original, nil when nothing was compared.
func (g *Graph) Least() *verify.OutputError {
	var least *verify.OutputError
	for i := range g.Outputs {
		if least == nil || g.Outputs[i].SQNR < least.SQNR {
			least = &g.Outputs[i]
		}
	}
	return least
}

// GraphHead names the columns of a Summary of graphs.
var GraphHead = []string{"target", "type", "size", "", "SQNR (dB)", "cosine", "accuracy", "latency", "verdict"}

// Graphs reports whether the source is a graph of operators.
func (r *Report) Graphs() bool { return r.Source.Nodes > 0 }

// accuracyText is the task metric with labels, the agreement of the first class without.
func (g *Graph) accuracyText() string {
	switch {
	case g.Task != nil:
		return fmt.Sprintf("%s → %s", human.Percent(g.Task.Original, 2), human.Percent(g.Task.Package, 2))
	case g.Top1 != nil:
		return human.Percent(g.Top1.Agreement, 1) + " agree"
	}
	return ""
}

// sqnrText is the ratio of signal to error; 200 stands for none.
func sqnrText(db float64) string {
	if db >= 200 {
		return "equal"
	}
	return fmt.Sprintf("%.1f", db)
}

// cosineText keeps the digits that tell it from 1.
func cosineText(c float64) string {
	places := 4
	if c < 1 {
		places = min(max(4, 1-int(math.Floor(math.Log10(1-c)))), 9)
	}
	return fmt.Sprintf("%.*f", places, c)
}

// latencyText is the median of both and the speed of the package.
func (g *Graph) latencyText() string {
	if g.Bench == nil || len(g.Bench.Models) < 2 || g.Bench.Ratio == nil || len(g.Bench.Ratio.Batches) == 0 {
		return ""
	}
	a, b := g.Bench.Models[0].LatencyS.P50, g.Bench.Models[1].LatencyS.P50
	return fmt.Sprintf("%s → %s %.2fx", short(b), short(a), g.Bench.Ratio.Batches[0].Speed)
}

// short spells a time; small networks answer in microseconds.
func short(s float64) string {
	if s < 0.995e-3 {
		return fmt.Sprintf("%.3g µs", s*1e6)
	}
	return human.Duration(time.Duration(s * 1e9))
}

// graphRow is the line of a target in the Summary. foot makes a footnote.
func (t *Target) graphRow(foot func(string) string) []string {
	typ := TypeName(t)
	for _, c := range t.Caveats {
		typ += foot(c)
	}
	row := []string{t.Name, typ, human.Bytes(t.Bytes), fmt.Sprintf("%.2fx", t.Ratio), "", "", "", "", t.VerdictText()}
	g := t.Graph
	if g == nil {
		return row
	}
	if o := g.Least(); o != nil {
		row[4], row[5] = sqnrText(o.SQNR), cosineText(o.Cosine)
		if g.Calibrated {
			row[4] += foot("compared on the samples that it was calibrated on: others may come out worse ([verify] samples)")
		}
	} else if t.NotCompared != "" {
		row[4] = "not compared" + foot(t.NotCompared)
	}
	row[6], row[7] = g.accuracyText(), g.latencyText()
	if row[7] == "" && t.NotTimed != "" {
		row[7] = "not timed" + foot(t.NotTimed)
	}
	for _, n := range t.NotExecuted {
		row[7] += foot(n)
	}
	return row
}

// graphLines are the facts about a graph, for Markdown and HTML.
func (t *Target) graphLines() (lines []string) {
	g := t.Graph
	if g == nil {
		return nil
	}
	if g.Integer+g.Float > 0 {
		lines = append(lines, fmt.Sprintf("%d of %d nodes on integers", g.Integer, g.Integer+g.Float))
	}
	for _, f := range g.Findings {
		lines = append(lines, fmt.Sprintf("%s [%s]", f, f.Rule))
	}
	for _, x := range g.Trades {
		lines = append(lines, fmt.Sprintf("%s stays float: %.1f dB with it alone, %.1f dB with those before it, %s more", x.Node, x.Alone, x.Score, human.Bytes(x.Bytes)))
	}
	if b := g.Bench; b != nil && len(b.Models) >= 2 {
		for i, who := range []string{"package", "original"} {
			m := &b.Models[i]
			lines = append(lines, fmt.Sprintf("%s: one sample in %s (90 %%: %s, 99 %%: %s), load and first output %s, peak memory %s", who,
				short(m.LatencyS.P50), short(m.LatencyS.P90), short(m.LatencyS.P99), short(m.LoadS), human.Bytes(m.PeakRSSBytes)))
		}
		for k := 1; k < min(len(b.Models[0].Batches), len(b.Models[1].Batches)); k++ {
			x, y := &b.Models[0].Batches[k], &b.Models[1].Batches[k]
			how := "together"
			if !x.Together {
				how = "one after the other"
			}
			lines = append(lines, fmt.Sprintf("batches of %d, %s: %.4g samples/s, the original %.4g", x.Batch, how, x.SamplesS.Median, y.SamplesS.Median))
		}
	}
	return lines
}

// outputHead names the columns of outputRows.
var outputHead = []string{"value", "SQNR (dB)", "cosine", "largest error"}

func outputRows(list []verify.OutputError) (rows [][]string) {
	for _, o := range list {
		rows = append(rows, []string{o.Name, sqnrText(o.SQNR), cosineText(o.Cosine), human.Float(o.MaxAbs)})
	}
	return rows
}

func samplesText(g *Graph) string {
	if g.Samples == 1 {
		return "1 sample"
	}
	return fmt.Sprintf("%s samples", human.Thousands(int64(g.Samples)))
}

// graphView is what the page shows of a graph.
type graphView struct {
	Samples         string
	Head            []string
	Outputs, Values [][]string
	Lines           []string
	SQNR, Cosine    string // of the worst output
	Accuracy        string
	AccuracyIs      string
	Latency         string
}

// view prepares a graph for the page, nil for language models.
func (t *Target) view() *graphView {
	g := t.Graph
	if g == nil {
		return nil
	}
	v := &graphView{Samples: samplesText(g), Head: outputHead, Outputs: outputRows(g.Outputs), Values: outputRows(g.Values), Lines: t.graphLines(), Accuracy: g.accuracyText(), Latency: g.latencyText()}
	if o := g.Least(); o != nil {
		v.SQNR, v.Cosine = sqnrText(o.SQNR), cosineText(o.Cosine)
	}
	v.AccuracyIs = "rank the same class first"
	if g.Task != nil {
		v.AccuracyIs = fmt.Sprintf("accuracy on %s labelled rows", human.Thousands(int64(g.Task.N)))
	}
	return v
}
