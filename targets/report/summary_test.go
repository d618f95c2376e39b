package report

import (
	"reflect"
	"strings"
	"testing"

	"github.com/pare-dev/pare/runner/verify"
)

// What a cell says and what its footnote says never contradict each other: a target that was not
// timed has no footnote that speaks of timing, and every empty promise has its reason.
func TestFootnotes(t *testing.T) {
	const here = "figures are of this x86-64 CPU; on arm64 nothing was run"
	kl, top1 := &verify.KL{Mean: 0.01}, &verify.Top1{Agreement: 0.9}
	bench := &Bench{Ratio: &BenchRatio{Decode: 1.9}}
	for _, tc := range []struct {
		name         string
		target       Target
		kl, decode   string
		foots        string // joined by |
		neverMention string
	}{
		{"measured elsewhere", Target{KL: kl, Top1: top1, Bench: bench, NotExecuted: []string{here}}, "0.01", "1.9x here ¹", here, "not timed"},
		{"measured here", Target{KL: kl, Top1: top1, Bench: bench}, "0.01", "1.9x", "", "here"},
		{
			"within the noise",
			Target{KL: kl, Bench: &Bench{Ratio: &BenchRatio{Decode: 1.04, DecodeLower95: 0.94, DecodeUpper95: 1.09}}},
			"0.01", "0.9–1.1x ¹", "no difference in speed was measured: the 95 % interval holds 1.0", "here",
		},
		{"faster", Target{KL: kl, Bench: &Bench{Ratio: &BenchRatio{Decode: 1.04, DecodeLower95: 1.01, DecodeUpper95: 1.09}}}, "0.01", "1.0x", "", "–"},
		{"not timed", Target{KL: kl, Top1: top1, NotTimed: "not timed: timing is off"}, "0.01", "not timed ¹", "not timed: timing is off", "here"},
		{"not timed, other CPU", Target{KL: kl, Top1: top1, NotTimed: "not timed: timing is off", NotExecuted: []string{here}}, "0.01", "not timed ¹ ²", "not timed: timing is off|" + here, "where it was not timed"},
		{"nothing run", Target{NotCompared: "no tokenizer", NotTimed: "not timed: off", NotExecuted: []string{here}}, "not compared ¹", "not timed ²", "no tokenizer|not timed: off", here},
		{"timed only", Target{NotCompared: "off", Bench: bench, NotExecuted: []string{here}}, "not compared ¹", "1.9x here ²", "off|" + here, "not timed"},
	} {
		tc.target.Name, tc.target.Verdict = "arm64", None
		r := Report{Targets: []Target{tc.target}}
		s := r.Summarize()
		row := s.Rows[0]
		if row[4] != tc.kl || row[7] != tc.decode || strings.Join(s.Foots, "|") != tc.foots {
			t.Errorf("%s: KL %q, decode %q, footnotes %q; want %q, %q, %q", tc.name, row[4], row[7], s.Foots, tc.kl, tc.decode, tc.foots)
		}
		if strings.Contains(strings.Join(s.Foots, "|")+tc.decode, tc.neverMention) {
			t.Errorf("%s: says %q: %q %q", tc.name, tc.neverMention, tc.decode, s.Foots)
		}
	}
}

// Two targets share a footnote that says the same of both.
func TestFootnotesAreShared(t *testing.T) {
	r := Report{Targets: []Target{{NotTimed: "off"}, {NotTimed: "off"}, {NotTimed: "large"}}}
	s := r.Summarize()
	if s.Rows[0][7] != s.Rows[1][7] || s.Rows[2][7] != "not timed ²" || len(s.Foots) != 2 {
		t.Errorf("%q %q", s.Rows, s.Foots)
	}
}

// Figures that belong together have the same number of decimals.
func TestFigures(t *testing.T) {
	for _, tc := range []struct {
		mean, se float64
		want     string
	}{
		{0.0411, 0.00102, "0.0411 ± 0.0020"},
		{0.018, 0.000242, "0.01800 ± 0.00047"},
		{2.5, 0.1, "2.50 ± 0.20"},
		{150, 20, "150 ± 39"},
		{9.5e-10, 1.7e-11, "9.5e-10 ± 3.3e-11"},
		{0.0411, 0, "0.0411"},
	} {
		x := Target{KL: &verify.KL{Mean: tc.mean, SE: verify.Bound(tc.se)}}
		if got := x.KLText(); got != tc.want {
			t.Errorf("KL %v, SE %v: %q, want %q", tc.mean, tc.se, got, tc.want)
		}
	}
	for _, tc := range []struct {
		a, b float64
		want string
	}{{55.3, 56, "55.3 → 56.0"}, {41, 41.5, "41.0 → 41.5"}, {99.8, 101.25, "99.8 → 101.2"}, {7, 7, "7 → 7"}, {2e7, 3, "2.0e+07 → 3"}} {
		x := Target{Perplexity: &verify.Perplexity{Original: tc.a, Package: tc.b}}
		if got := x.PerplexityPair(); got != tc.want {
			t.Errorf("%v, %v: %q, want %q", tc.a, tc.b, got, tc.want)
		}
	}
}

func TestCheckText(t *testing.T) {
	for _, tc := range []struct {
		check verify.Check
		want  string
	}{
		{verify.Check{Name: "kl_mean", Limit: 0.05, Value: 0.0079, Bound: 0.0084, Level: 0.95, Verdict: Pass}, "kl_mean 0.0079 ≤ 0.05 (95 % bound 0.0084)"},
		{verify.Check{Name: "kl_mean", Limit: 0.05, Value: 0.06, Bound: 0.055, Level: 0.9875, Verdict: Fail}, "kl_mean 0.06 > 0.05 (98.8 % bound 0.055)"},
		{verify.Check{Name: "top1", Limit: 0.9, Value: 0.85, Bound: 0.89, Level: 0.95, Verdict: Fail}, "top1 0.85 < 0.9 (95 % bound 0.89)"},
		{verify.Check{Name: "size_ratio", Limit: 0.5, Value: 0.31, Bound: 0.31, Level: 1, Verdict: Pass}, "size_ratio 0.31 ≤ 0.5"},
		{verify.Check{Name: "decode_speedup", Limit: 1.5, Verdict: Inconclusive, Note: "not measured"}, "decode_speedup was not measured, limit 1.5"},
		{verify.Check{Name: "decode_speedup", Limit: 1, Value: 1.01, Bound: 1.01, Level: 0.95, Verdict: Inconclusive, Note: "too close"}, "decode_speedup 1.01 ? 1: too close"},
	} {
		if got := CheckText(tc.check); got != tc.want {
			t.Errorf("got %q, want %q", got, tc.want)
		}
	}
}

func TestModelName(t *testing.T) {
	for path, want := range map[string]string{
		"books-llama":                          "books-llama",
		"pare-demo/books-llama/model":          "books-llama",
		"a/b/qwen3-8b/model.safetensors":       "qwen3-8b",
		"models/llama-2-tiny-random.gguf":      "llama-2-tiny-random",
		"big/model-00001-of-00003.safetensors": "big",
		"big-q8_0-00001-of-00002.gguf":         "big-q8_0",
		"../gemma":                             "gemma",
		"model":                                "model",
		"hub/models--Qwen--Qwen3-8B/snapshots/0123456789abcdef0123456789abcdef01234567": "Qwen/Qwen3-8B",
	} {
		if got := modelName(path); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	t.Chdir(t.TempDir())
	if got := modelName("."); got == "." || strings.ContainsAny(got, `/\`) {
		t.Errorf("the present folder is called %q", got)
	}
}

// A tensor that a pass skipped, and that planning has a reason for, is one line; tensors that differ
// in their block only are one name.
func TestReasons(t *testing.T) {
	x := Target{
		Tensors: []Tensor{
			{Name: "blk.0.attn_norm.weight", To: "f32", Reason: "one row only"},
			{Name: "blk.0.attn_q.weight", To: "q4_0"},
			{Name: "blk.1.attn_norm.weight", To: "f32", Reason: "one row only"},
			{Name: "output_norm.weight", To: "f32", Reason: "one row only"},
			{Name: "output.weight", To: "q6_k", Reason: "the preset keeps the output matrix higher"},
			{Name: "blk.0.ffn_up.weight", To: "f16", Reason: "rows of 8"},
		},
		Skipped: []Line{{Tensor: "blk.0.ffn_up.weight", Reason: "rows of 8"}, {Tensor: "rope.weight", Reason: "already f32"}},
		Passes: []PassResult{
			{Name: "prune.wanda", Skipped: []Line{{Tensor: "output.weight", Reason: "not a layer that is pruned"}}},
			{Name: "quantize.rtn", Skipped: []Line{{Tensor: "blk.0.ffn_up.weight", Reason: "rows of 8"}, {Tensor: "rope.weight", Reason: "already f32"}}},
		},
	}
	want := []string{
		"`blk.*.attn_norm.weight` (2), `output_norm.weight`: f32: one row only",
		"`output.weight`: q6_k: the preset keeps the output matrix higher",
		"`blk.0.ffn_up.weight`: f16: rows of 8",
		"`rope.weight`: already f32",
		"`output.weight`: not pruned: not a layer that is pruned",
	}
	if got := x.reasonLines(); !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	many := Reason{Tensors: []string{"a", "b", "c", "d", "e", "f.0", "f.1"}}
	if got := many.Names(func(s string) string { return s }); got != "a, b, c, d and 3 more" {
		t.Error(got)
	}
}
