package report

import (
	"fmt"
	"math"
	"strings"

	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/runner/verify"
)

// Summary is the verdict table: one row for every target, in words. The terminal, the Markdown
// and the HTML form show the same cells.
type Summary struct {
	Head  []string // "target", "type", "size", ...; numbers are aligned to the right by their unit
	Rows  [][]string
	Foots []string // what the small numbers in the cells refer to, in order
}

// SummaryHead names the columns of a Summary.
var SummaryHead = []string{"target", "type", "size", "", "KL (nats)", "top-1", "perplexity", "decode", "verdict"}

var superscripts = []rune("⁰¹²³⁴⁵⁶⁷⁸⁹")

// Summarize makes the verdict table.
func (r *Report) Summarize() Summary {
	s := Summary{Head: SummaryHead}
	if r.Graphs() {
		s.Head = GraphHead
	}
	foot := func(text string) string {
		at := -1
		for i, f := range s.Foots {
			if f == text {
				at = i
			}
		}
		if at < 0 {
			at = len(s.Foots)
			s.Foots = append(s.Foots, text)
		}
		return " " + superscript(at+1)
	}
	for i := range r.Targets {
		t := &r.Targets[i]
		if t.Verdict == Refused {
			s.Rows = append(s.Rows, []string{t.Name, TypeName(t), "", "", "", "", "", "", t.VerdictText()})
			continue
		}
		if r.Graphs() {
			s.Rows = append(s.Rows, t.graphRow(foot))
			continue
		}
		typ := TypeName(t)
		for _, c := range t.Caveats {
			typ += foot(c)
		}
		kl := t.KLText()
		if t.KL == nil && t.NotCompared != "" {
			kl = "not compared" + foot(t.NotCompared)
		}
		// Where the figures come from stands at the last of them; nothing was executed without them.
		decode := ""
		switch {
		case t.Bench != nil && t.Bench.Ratio != nil:
			b := t.Bench.Ratio
			same := b.DecodeLower95 > 0 && b.DecodeLower95 <= 1 && b.DecodeUpper95 >= 1
			decode = fmt.Sprintf("%.1fx", b.Decode)
			if same {
				decode = fmt.Sprintf("%.1f–%.1fx", b.DecodeLower95, b.DecodeUpper95)
			}
			if len(t.NotExecuted) > 0 {
				decode += " here"
			}
			if same {
				decode += foot("no difference in speed was measured: the 95 % interval holds 1.0")
			}
		case t.NotTimed != "":
			decode = "not timed" + foot(t.NotTimed)
		}
		if t.Bench != nil || t.KL != nil {
			for _, n := range t.NotExecuted {
				decode += foot(n)
			}
		}
		s.Rows = append(s.Rows, []string{
			t.Name, typ, human.Bytes(t.Bytes), fmt.Sprintf("%.2fx", t.Ratio),
			kl, t.Top1Text(), t.PerplexityText(), strings.TrimSpace(decode), t.VerdictText(),
		})
	}
	return s
}

// TypeName is the type as people write it: presets and block types in capitals, as their own
// documentation does, schemes as they are.
func TypeName(t *Target) string {
	name := t.Type
	if _, isBlock := strings.CutPrefix(name, "q"); isBlock {
		name = strings.ToUpper(name)
	}
	if t.Method != "" && t.Method != "rtn" {
		name += " " + t.Method
	}
	return name
}

// KLText is "0.0411 ± 0.0020": the mean and half of its 95 % interval, to two digits of the latter.
func (t *Target) KLText() string {
	if t.KL == nil {
		return ""
	}
	half := 1.96 * float64(t.KL.SE)
	if !(half > 0) { // zero, or unknown
		return human.Float(t.KL.Mean)
	}
	const most = 7 // decimals; what is smaller reads better with an exponent
	if places := 1 - int(math.Floor(math.Log10(half))); places <= most {
		return fmt.Sprintf("%.*f ± %.*f", max(places, 0), t.KL.Mean, max(places, 0), half)
	}
	return human.Float(t.KL.Mean) + " ± " + human.Float(half)
}

// pair spells two figures of one kind with the same number of decimals.
func pair(a, b float64) (string, string) {
	x, y := human.Float(a), human.Float(b)
	if strings.Contains(x+y, "e") {
		return x, y
	}
	places := max(decimals(x), decimals(y))
	return fmt.Sprintf("%.*f", places, a), fmt.Sprintf("%.*f", places, b)
}

// decimals counts the digits after the point.
func decimals(s string) int {
	_, after, _ := strings.Cut(s, ".")
	return len(after)
}

// Top1Text is the share of tokens on which both models rank the same token first.
func (t *Target) Top1Text() string {
	if t.Top1 == nil {
		return ""
	}
	return human.Percent(t.Top1.Agreement, 1)
}

// PerplexityText is "61.4 → 63.0 +2.6 %".
func (t *Target) PerplexityText() string {
	if t.Perplexity == nil {
		return ""
	}
	return t.PerplexityPair() + " " + t.PerplexityChange()
}

// PerplexityPair is "61.4 → 63.0".
func (t *Target) PerplexityPair() string {
	original, made := pair(t.Perplexity.Original, t.Perplexity.Package)
	return original + " → " + made
}

// PerplexityChange is "+2.6 %".
func (t *Target) PerplexityChange() string {
	if t.Perplexity == nil {
		return ""
	}
	return fmt.Sprintf("%+.1f %%", 100*math.Expm1(t.Perplexity.LogRatio))
}

// VerdictText is the verdict with the reason when it is not a plain pass.
func (t *Target) VerdictText() string {
	text := t.VerdictWord()
	if why := t.VerdictReason(); why != "" {
		text += "  " + why
	}
	return text
}

// VerdictWord is the verdict in a word or two; what a person must act on is in capitals.
func (t *Target) VerdictWord() string {
	switch t.Verdict {
	case None:
		return "no gate"
	case Pass:
		return "pass"
	}
	return strings.ToUpper(string(t.Verdict))
}

// VerdictReason is why it is not a plain pass.
func (t *Target) VerdictReason() string {
	if t.Verdict == Refused && len(t.Refusals) > 0 {
		text := t.Refusals[0].Reason
		if n := len(t.Refusals) - 1; n > 0 {
			text += fmt.Sprintf(" (and %d more)", n)
		}
		return text
	}
	if t.Verdict == Fail || t.Verdict == Inconclusive {
		for _, c := range t.Gate.Checks {
			if c.Verdict == t.Verdict {
				return CheckText(c)
			}
		}
	}
	return ""
}

// CheckText says how a limit was met or missed: "kl_mean 0.412 > 0.1 (95 % bound 0.395)".
func CheckText(c verify.Check) string {
	sign := map[bool]map[verify.Verdict]string{
		false: {verify.Pass: "≤", verify.Fail: ">", verify.Inconclusive: "?"},
		true:  {verify.Pass: "≥", verify.Fail: "<", verify.Inconclusive: "?"},
	}[verify.AtLeast(c.Name)][c.Verdict]
	if c.Level == 0 { // nothing was weighed
		return fmt.Sprintf("%s was not measured, limit %s", c.Name, human.Float(c.Limit))
	}
	text := fmt.Sprintf("%s %s %s %s", c.Name, human.Float(c.Value), sign, human.Float(c.Limit))
	if c.Bound != c.Value {
		// more than 95 % where several limits, or several looks at the data, share the risk
		level := strings.TrimSuffix(human.Percent(c.Level, 1), " %")
		text += fmt.Sprintf(" (%s %% bound %s)", strings.TrimSuffix(level, ".0"), human.Float(c.Bound))
	}
	if c.Note != "" {
		text += ": " + c.Note
	}
	return text
}

// Headline is one sentence about the whole.
func (r *Report) Headline() string {
	count := map[Verdict]int{}
	for i := range r.Targets {
		count[r.Targets[i].Verdict]++
	}
	n := len(r.Targets)
	switch {
	case n == 0:
		return "nothing was built"
	case count[Pass] == n:
		return fmt.Sprintf("%s within every limit", packages(n))
	case count[None] == n:
		return fmt.Sprintf("%s built; no limits were set", packages(n))
	}
	var parts []string
	for _, p := range []struct {
		v    Verdict
		text string
	}{
		{Fail, "failed a gate"}, {Inconclusive, "could not be decided"}, {Refused, "refused by the target"}, {Pass, "within every limit"}, {None, "without limits"},
	} {
		if c := count[p.v]; c > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", c, p.text))
		}
	}
	return fmt.Sprintf("of %s: %s", packages(n), strings.Join(parts, ", "))
}

func packages(n int) string {
	if n == 1 {
		return "1 package"
	}
	return fmt.Sprintf("%d packages", n)
}

// Title names the source in one line: "books-llama · llama · 6.82 M parameters · bf16 · 13.0 MiB".
func (r *Report) Title() string {
	s := r.Source
	parts := []string{modelName(s.Path)}
	if r.Graphs() {
		parts = append(parts, fmt.Sprintf("graph of %d nodes", s.Nodes))
	} else if s.Architecture != "" {
		parts = append(parts, s.Architecture)
	}
	return strings.Join(append(parts, human.Count(s.Parameters)+" parameters", s.Type, human.Bytes(s.Bytes)), " · ")
}

// Only is the report about one target: what travels inside its package.
func (r *Report) Only(name string) *Report {
	one := *r
	one.Targets = nil
	for _, t := range r.Targets {
		if t.Name == name {
			one.Targets = append(one.Targets, t)
			one.Verdict = t.Verdict
		}
	}
	one.Stages = nil
	for _, s := range r.Stages {
		if s.Target == "" || s.Target == name {
			one.Stages = append(one.Stages, s)
		}
	}
	return &one
}

// Sparsity is the share of zeros in all tensors that a pruning pass changed.
func (p *PassResult) Sparsity() float64 {
	var zeros, all float64
	for _, t := range p.Tensors {
		n := 1.0
		for _, d := range t.Shape {
			n *= float64(d)
		}
		if s, ok := t.Figures["sparsity"]; ok {
			zeros, all = zeros+s*n, all+n
		}
	}
	return zeros / max(all, 1)
}

// LossLines name the tensors that lost most, with the flag that buys each back and its price.
func (t *Target) LossLines() []string {
	var lines []string
	for _, l := range t.Losses {
		text := fmt.Sprintf("%s  %s nats", l.Tensor, human.Float(l.KL))
		if l.Keep != "" {
			text += fmt.Sprintf("   --keep %q   +%s", l.Keep, human.Bytes(l.Price))
		}
		lines = append(lines, text)
	}
	return lines
}

// Coverage says in words how much of the model's tokens a text shows, "" when that is not known.
func (t *Text) Coverage() string {
	if t == nil || t.Vocabulary == 0 {
		return ""
	}
	s := human.Percent(t.Vocabulary, 0) + " of the vocabulary"
	if t.Knows != nil {
		s += ", " + human.Percent(*t.Knows, 1) + " of the compared tokens"
	}
	if t.Documents > 0 {
		s += fmt.Sprintf(", from %s pieces", human.Thousands(int64(t.Documents)))
	}
	return s
}
