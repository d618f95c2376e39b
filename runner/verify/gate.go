package verify

import (
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"

	"github.com/pare-dev/pare/internal/fault"
)

// Verdict of a gate. A gate that cannot tell says so; it does not guess.
type Verdict string

// Verdicts, from best to worst.
const (
	None         Verdict = "none" // nothing was asked
	Pass         Verdict = "pass"
	Inconclusive Verdict = "inconclusive"
	Fail         Verdict = "fail"
)

// Gate is the outcome of all checks: the worst verdict of any.
type Gate struct {
	Verdict Verdict `json:"verdict"`
	Checks  []Check `json:"checks"`
}

// Check is one limit. Bound is the one-sided bound, at confidence Level, that decided: the upper one
// of a value that must stay below the limit when it passes, the lower one when it fails. Level is
// 0.95, or more where several limits or several looks at the data share the risk of being wrong.
type Check struct {
	Name    string  `json:"name"`
	Limit   float64 `json:"limit"`
	Value   float64 `json:"value"`
	Bound   float64 `json:"bound"`
	Level   float64 `json:"level"`
	Verdict Verdict `json:"verdict"`
	Note    string  `json:"note,omitempty"` // why it is inconclusive, where the bound does not say it
}

// Limits are gates by name; see GateNames.
type Limits map[string]float64

// GateNames are the limits that exist, with what they mean.
var GateNames = map[string]string{
	"kl_mean":             "largest mean KL divergence, nats per token",
	"kl_p99":              "largest 99th percentile of the KL divergence, nats",
	"top1":                "smallest agreement of the most likely token, 0..1",
	"perplexity_increase": "largest growth of the perplexity, a fraction (0.04) or 4%",
	"cosine_mean":         "smallest mean cosine between embeddings of a text encoder, 0..1",
	"retrieval":           "smallest share of texts that find the same nearest other text, 0..1",
	"sqnr_db":             "smallest ratio of signal to error of any output of a graph, dB",
	"sqnr_all_db":         "smallest ratio of signal to error of all outputs of a graph together, dB",
	"cosine":              "smallest cosine between any output of a graph and the original's, 0..1",
	"accuracy_drop":       "largest loss of accuracy of a graph on labelled samples, a fraction",
	"f1_drop":             "largest loss of F1 of a graph on labelled samples, a fraction",
	"auc_drop":            "largest loss of the area under the curve of a graph on labelled samples of two classes, a fraction",
	"size_ratio":          "largest size against the original, a fraction",
	"decode_speedup":      "smallest decode speed against the original, a ratio",
	"prefill_speedup":     "smallest prefill speed against the original, a ratio",
	"latency_speedup":     "smallest speed of a graph, one sample at a time, against the original, a ratio",
}

// CheckLimits reports unknown names and values that no model could meet.
func CheckLimits(l Limits) error {
	known := make([]string, 0, len(GateNames))
	for k := range GateNames {
		known = append(known, k)
	}
	slices.Sort(known)
	for name, v := range l {
		if _, ok := GateNames[name]; !ok {
			return &fault.Error{Op: "gate", Err: fault.As(fault.ErrMisuse, fmt.Errorf("no gate is called %q", name)), Hint: "choose " + strings.Join(known, ", ")}
		}
		if math.IsNaN(v) || v < 0 || v > 1 && slices.Contains([]string{"top1", "cosine", "cosine_mean", "retrieval"}, name) {
			return &fault.Error{Op: "gate", Err: fault.As(fault.ErrMisuse, fmt.Errorf("%s = %v is out of range: %s", name, v, GateNames[name]))}
		}
	}
	return nil
}

// Evaluate applies limits to what was measured, by gate name; a limit on something that was not
// measured is inconclusive.
//
// A limit of the kind "at most" passes when the upper bound is within it, fails when the lower bound
// is beyond it, and is inconclusive between. The risk of letting a package beyond its limits through,
// or of refusing one within them, is 5 % for each, as well as the bounds keep what they promise (see
// risk), and it does not grow with the number of limits: to pass, all must hold, so each may use the
// whole 5 %; to fail, one is enough, so those that fail share it, by the method of Holm.
func Evaluate(l Limits, have map[string]Evidence) Gate {
	names := make([]string, 0, len(l))
	for n := range l {
		names = append(names, n)
	}
	sort.Strings(names)
	g := Gate{Verdict: None, Checks: make([]Check, len(names))}
	var open []*trial // those that did not pass, to be failed or left open
	unsure := 0       // limits on figures that have an error
	for i, n := range names {
		g.Checks[i] = Check{Name: n, Limit: l[n], Verdict: Inconclusive, Note: "not measured"}
		m, ok := have[n]
		if !ok || m.Units > 0 {
			unsure++
		}
		if ok {
			t := newTrial(&g.Checks[i], m)
			if t.c.Verdict == Inconclusive {
				open = append(open, t)
			}
		}
	}
	sort.SliceStable(open, func(i, j int) bool { return open[i].fail < open[j].fail })
	for i, t := range open {
		if !t.failsAt(unsure - i) {
			break // Holm: the first that does not fail ends it
		}
	}
	for _, c := range g.Checks {
		g.Verdict = worse(g.Verdict, c.Verdict)
	}
	return g
}

// trial is a limit against its evidence.
type trial struct {
	c    *Check
	m    Evidence
	risk float64 // of a wrong verdict, for one look at the data
	fail float64 // how likely data at least as bad are when the limit holds, in units of risk
}

// newTrial passes a check, or leaves it inconclusive with the bound that spoke against it.
func newTrial(c *Check, m Evidence) *trial {
	c.Value, c.Bound, c.Level, c.Note = m.Value, m.Value, 1, ""
	t := &trial{c: c, m: m, risk: risk / float64(max(1, m.Looks))}
	least := AtLeast(c.Name)
	within := func(x float64) bool { return x <= c.Limit }
	if least {
		within = func(x float64) bool { return x >= c.Limit }
	}
	if m.Units == 0 { // exact
		c.Verdict = Fail
		if within(m.Value) {
			c.Verdict = Pass
		}
		return t
	}
	beyond, inside := m.shares(within)
	t.fail = inside / t.risk
	if len(m.Resamples) > 0 {
		c.Level, c.Bound = 1-t.risk, m.bound(t.risk, least)
	}
	switch {
	case m.Noise > 0 && max(m.Value, c.Limit) < (1+m.Noise)*min(m.Value, c.Limit):
		t.fail = math.Inf(1)
		c.Note = fmt.Sprintf("equal models differ by %.2g here: closer to the limit than that says nothing", m.Noise)
	case beyond <= t.risk:
		c.Verdict = Pass
	case m.agree() > t.risk:
		c.Note = fmt.Sprintf("too few samples to tell: %d", m.Units)
	}
	return t
}

// failsAt fails a check when its evidence is strong enough for the risk divided by share.
func (t *trial) failsAt(share int) bool {
	if t.fail*float64(share) > 1 {
		return false
	}
	r := t.risk / float64(share)
	t.c.Verdict, t.c.Level, t.c.Bound = Fail, 1-r, t.m.bound(r, !AtLeast(t.c.Name))
	return true
}

// limitsAccuracy says that a limit is on a figure that more text makes surer.
func limitsAccuracy(l Limits) bool {
	for _, name := range []string{"kl_mean", "kl_p99", "top1", "perplexity_increase"} {
		if _, ok := l[name]; ok {
			return true
		}
	}
	return false
}

// AtLeast says that a gate wants a large value.
func AtLeast(name string) bool {
	return slices.Contains([]string{"top1", "sqnr_db", "sqnr_all_db", "cosine", "cosine_mean", "retrieval"}, name) || strings.HasSuffix(name, "_speedup")
}

func worse(a, b Verdict) Verdict {
	order := []Verdict{None, Pass, Inconclusive, Fail}
	if slices.Index(order, b) > slices.Index(order, a) {
		return b
	}
	return a
}
