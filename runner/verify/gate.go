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

// Check is one limit. Bound is the 95 % bound that decided: the upper one of a value that must
// stay below the limit when it passes, the lower one when it fails.
type Check struct {
	Name    string  `json:"name"`
	Limit   float64 `json:"limit"`
	Value   float64 `json:"value"`
	Bound   float64 `json:"bound"`
	Verdict Verdict `json:"verdict"`
}

// Limits are gates by name; see GateNames.
type Limits map[string]float64

// GateNames are the limits that exist, with what they mean.
var GateNames = map[string]string{
	"kl_mean":             "largest mean KL divergence, nats per token",
	"kl_p99":              "largest 99th percentile of the KL divergence, nats",
	"top1":                "smallest agreement of the most likely token, 0..1",
	"perplexity_increase": "largest growth of the perplexity, a fraction (0.04) or 4%",
	"size_ratio":          "largest size against the original, a fraction",
	"decode_speedup":      "smallest decode speed against the original, a ratio",
	"prefill_speedup":     "smallest prefill speed against the original, a ratio",
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
		if math.IsNaN(v) || v < 0 || name == "top1" && v > 1 {
			return &fault.Error{Op: "gate", Err: fault.As(fault.ErrMisuse, fmt.Errorf("%s = %v is out of range: %s", name, v, GateNames[name]))}
		}
	}
	return nil
}

// interval is a measured value with its one-sided 95 % bounds.
type interval struct{ value, lower, upper float64 }

// Evaluate applies the accuracy and size limits to a result. extra holds intervals measured
// elsewhere by gate name, such as decode_speedup; limits without a measurement are inconclusive.
//
// A limit of the kind "at most" passes when the upper bound is within it, fails when the lower
// bound is beyond it, and is inconclusive between.
func Evaluate(r *Result, l Limits, extra map[string][3]float64) Gate {
	have := map[string]interval{}
	if r != nil {
		grow := func(x float64) float64 { return math.Expm1(x) }
		have["kl_mean"] = interval{r.KL.Mean, r.KL.Lower95, r.KL.Upper95}
		have["kl_p99"] = interval{r.KL.P99, r.KL.P99, r.KL.P99}
		have["top1"] = interval{r.Top1.Agreement, r.Top1.Lower95, r.Top1.Upper95}
		have["perplexity_increase"] = interval{grow(r.Perplexity.LogRatio), grow(r.Perplexity.Lower95), grow(r.Perplexity.Upper95)}
		if r.Bytes.Original > 0 {
			s := float64(r.Bytes.Package) / float64(r.Bytes.Original)
			have["size_ratio"] = interval{s, s, s}
		}
	}
	for name, v := range extra {
		have[name] = interval{v[0], v[1], v[2]}
	}
	names := make([]string, 0, len(l))
	for n := range l {
		names = append(names, n)
	}
	sort.Strings(names)
	g := Gate{Verdict: None, Checks: []Check{}}
	for _, n := range names {
		c := Check{Name: n, Limit: l[n], Verdict: Inconclusive}
		if m, ok := have[n]; ok {
			c = judge(n, l[n], m)
		}
		g.Checks = append(g.Checks, c)
		g.Verdict = worse(g.Verdict, c.Verdict)
	}
	return g
}

// judge applies one limit to one interval.
func judge(name string, limit float64, m interval) Check {
	good, bad := m.upper, m.lower
	within := func(x float64) bool { return x <= limit }
	if atLeast(name) {
		good, bad = m.lower, m.upper
		within = func(x float64) bool { return x >= limit }
	}
	c := Check{Name: name, Limit: limit, Value: m.value, Bound: good, Verdict: Inconclusive}
	switch {
	case within(good):
		c.Verdict = Pass
	case !within(bad):
		c.Verdict, c.Bound = Fail, bad
	}
	return c
}

// atLeast says that a gate wants a large value.
func atLeast(name string) bool { return name == "top1" || strings.HasSuffix(name, "_speedup") }

func worse(a, b Verdict) Verdict {
	order := []Verdict{None, Pass, Inconclusive, Fail}
	if slices.Index(order, b) > slices.Index(order, a) {
		return b
	}
	return a
}
