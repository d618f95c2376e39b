package report

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/pare-dev/pare/internal/human"
)

// Markdown is the report for a pull request or a terminal: the verdict table first, then what
// explains it.
func (r *Report) Markdown() []byte {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("# %s", r.Title())
	if len(r.Adapters) > 0 {
		line("")
	}
	for _, a := range r.Adapters {
		line("+ adapter %s · %s · %d matrices", filepath.Base(a.Path), a.Kind, a.Matrices)
	}
	if m := r.Merge; m != nil {
		line("")
		line("Merge differs from base + adapter by at most %s in the logits, whose spread is %s: %s.", human.Float(m.MaxAbsDiff), human.Float(m.Spread), m.Verdict)
	}
	line("")
	line("**%s**: %s", r.Verdict, r.Headline())
	line("")
	s := r.Summarize()
	mdTable(&b, s.Head, s.Rows, numeric)
	for i, f := range s.Foots {
		line("")
		line("%s %s", superscript(i+1), f)
	}
	for i := range r.Targets {
		r.Targets[i].markdown(&b, line)
	}
	if len(r.Passes) > 0 {
		line("\n## Before the targets\n")
		for _, p := range r.Passes {
			line("- %s", p.Text())
			for _, n := range append(p.ChannelLines(), p.Notes...) {
				line("  - %s", n)
			}
		}
	}
	if r.Distill != nil {
		line("- trained on %s: %s", r.Distill.Source.Name, r.Distill.Text())
	}
	if len(r.Problems)+len(r.Notes) > 0 {
		line("\n## Notes\n")
		for _, p := range r.Problems {
			line("- %s", remark(p))
		}
		for _, n := range r.Notes {
			line("- %s", n)
		}
	}
	if len(r.Stages) > 0 {
		line("\n## Time and memory\n")
		var rows [][]string
		for _, s := range r.Stages {
			name := s.Name
			if s.Reused {
				name += " (kept from an earlier run)"
			}
			rows = append(rows, []string{name, s.Target, seconds(s.Seconds), amount(s), human.Bytes(s.PeakMemoryBytes)})
		}
		mdTable(&b, []string{"stage", "target", "time", "amount", "peak memory by then"}, rows, func(c int) bool { return c >= 2 })
	}
	line("\n## Where it comes from\n")
	for _, f := range r.provenance() {
		if f.Code {
			line("- %s: `%s`", f.Name, f.Text)
		} else {
			line("- %s: %s", f.Name, f.Text)
		}
	}
	if r.Reproduce != "" {
		line("\n## How to get the same\n\n    %s", r.Reproduce)
	}
	return []byte(b.String())
}

// markdown writes the part of one target.
func (t *Target) markdown(b *strings.Builder, line func(string, ...any)) {
	line("\n## %s: %s", t.Name, t.Verdict)
	for _, l := range t.Refusals {
		line("\n- %s", remark(l))
	}
	if len(t.Gate.Checks) > 0 {
		line("")
		for _, c := range t.Gate.Checks {
			line("- %s: %s", c.Verdict, CheckText(c))
		}
	}
	for _, l := range t.LossLines() {
		line("\n- %s", l)
	}
	if t.KL != nil {
		line("\nKL per token, nats: mean %s, median %s, 90 %% %s, 99 %% %s, largest %s.",
			human.Float(t.KL.Mean), human.Float(t.KL.Median), human.Float(t.KL.P90), human.Float(t.KL.P99), human.Float(t.KL.Max))
	}
	if v := t.Bench; v != nil && len(v.Models) >= 2 {
		p, o := v.Models[0], v.Models[1]
		bounds := ""
		if v.Ratio.DecodeUpper95 > 0 {
			bounds = fmt.Sprintf(", 95 %% between %.2f and %.2f", v.Ratio.DecodeLower95, v.Ratio.DecodeUpper95)
		}
		line("\nTokens per second, original → package: prefill %s → %s, decode %s → %s (%.2fx%s).",
			human.Float(o.PrefillTokS.Median), human.Float(p.PrefillTokS.Median), human.Float(o.DecodeTokS.Median), human.Float(p.DecodeTokS.Median),
			v.Ratio.Decode, bounds)
	}
	if len(t.Layers) > 0 {
		line("\nError after each block (signal to error, dB; more is better):\n")
		var rows [][]string
		for _, l := range t.Layers {
			rows = append(rows, []string{fmt.Sprint(l.Block), human.Float(l.SQNR), fmt.Sprintf("%.5f", l.Cosine)})
		}
		mdTable(b, []string{"block", "dB", "cosine"}, rows, func(int) bool { return true })
	}
	if s := cutSample(t.Sample); s != nil {
		line("\nOriginal: …%s**%s**%s\n\nPackage: …%s**%s**%s",
			mdText(s.Common), mdText(strings.TrimSpace(s.MarkA)), mdText(s.RestA), mdText(s.Common), mdText(strings.TrimSpace(s.MarkB)), mdText(s.RestB))
	}
	if g := t.Graph; g != nil && len(g.Outputs) > 0 {
		line("\nEach output beside the original's, over %s:\n", samplesText(g))
		mdTable(b, outputHead, outputRows(g.Outputs), func(c int) bool { return c > 0 })
	}
	for _, list := range [][]string{t.zeroLines(), t.graphLines(), t.reasonLines(), t.did(), t.Notes} {
		if len(list) > 0 {
			line("")
		}
		for _, l := range list {
			line("- %s", l)
		}
	}
	if len(t.Tensors) > 0 {
		line("\n<details><summary>What was done to every tensor (%d)</summary>\n", len(t.Tensors))
		figures := figureNames(t)
		var rows [][]string
		for _, x := range t.Tensors {
			row := []string{"`" + x.Name + "`", x.From, x.To, human.Bytes(x.Bytes)}
			for _, f := range figures {
				cell := ""
				if v, ok := x.Figures[f]; ok {
					cell = human.Float(v)
				}
				row = append(row, cell)
			}
			rows = append(rows, append(row, x.Reason))
		}
		head := append(append([]string{"tensor", "from", "to", "bytes"}, figures...), "reason")
		mdTable(b, head, rows, func(c int) bool { return c >= 3 && c < len(head)-1 })
		line("\n</details>")
	}
}

// zeroLines says what the written file holds of the pruning.
func (t *Target) zeroLines() (lines []string) {
	z := t.Zeros
	if z == nil {
		return nil
	}
	lines = append(append(lines, "zeros in the file: "+z.Text()), z.Gain...)
	const most = 8
	for i, l := range z.Broken {
		if i == most {
			lines = append(lines, fmt.Sprintf("and %d more are not as pruned", len(z.Broken)-most))
			break
		}
		lines = append(lines, remark(l))
	}
	return lines
}

// reasonLines says what was skipped, kept or fell back.
func (t *Target) reasonLines() (lines []string) {
	for _, r := range t.Reasons() {
		names := r.Names(func(s string) string { return "`" + s + "`" })
		if names != "" {
			names += ": "
		}
		lines = append(lines, names+r.Why())
	}
	return lines
}

func remark(l Line) string {
	text := l.Reason
	if l.Tensor != "" {
		text = "`" + l.Tensor + "`: " + text
	}
	if l.Hint != "" {
		text += "; " + l.Hint
	}
	return text
}

// mdText keeps the words of a sample from being read as Markdown.
func mdText(s string) string {
	return strings.NewReplacer("\n", " ", "*", `\*`, "_", `\_`, "`", "\\`", "<", "&lt;", "#", `\#`).Replace(s)
}

func mdTable(b *strings.Builder, head []string, rows [][]string, right func(column int) bool) {
	write := func(cells []string) {
		for _, c := range cells {
			b.WriteString("| " + strings.ReplaceAll(strings.ReplaceAll(c, "|", `\|`), "\n", " ") + " ")
		}
		b.WriteString("|\n")
	}
	write(head)
	for i := range head {
		if right(i) {
			b.WriteString("|---:")
		} else {
			b.WriteString("|---")
		}
	}
	b.WriteString("|\n")
	for _, r := range rows {
		write(r)
	}
}
