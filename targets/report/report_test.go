package report

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/pare-dev/pare/runner/verify"
	"github.com/pare-dev/pare/targets/recipe"
)

// example is a report with everything in it: a pass, a failed gate and a refusal, and names that
// try to break out of the page.
func example() *Report {
	hist := verify.Histogram{}
	for e := -6.0; e <= 1; e += 0.25 {
		hist.Edges = append(hist.Edges, pow10(e))
	}
	for i := range len(hist.Edges) - 1 {
		hist.Counts = append(hist.Counts, 40-(i-14)*(i-14)/6)
	}
	for i, c := range hist.Counts {
		hist.Counts[i] = max(c, 0)
	}
	bench := &Bench{
		Models: []BenchModel{
			{Path: "dist/arm64", LoadS: 0.01, PrefillTokS: Spread{Median: 2300, P10: 2200, P90: 2400}, DecodeTokS: Spread{Median: 410, P10: 400, P90: 420}, TTFTS: 0.05, TokenS: Percentiles{P50: 0.0024, P90: 0.0027, P99: 0.0041}},
			{Path: "books-llama", LoadS: 0.02, PrefillTokS: Spread{Median: 2100, P10: 2000, P90: 2200}, DecodeTokS: Spread{Median: 215, P10: 210, P90: 220}, TTFTS: 0.06, TokenS: Percentiles{P50: 0.0046, P90: 0.0049, P99: 0.0062}},
		},
		Ratio: &BenchRatio{Prefill: 1.1, Decode: 1.9, DecodeLower95: 1.85, DecodeUpper95: 1.96, Load: 0.5, RSS: 0.4},
	}
	layers := []verify.Layer{{Block: 0, SQNR: 28, Cosine: 0.9992}, {Block: 1, SQNR: 26, Cosine: 0.9987}, {Block: 2, SQNR: 23.5, Cosine: 0.997}}
	return &Report{
		Schema: Schema, Tool: "pare 0.1.0", Verdict: Refused,
		Source:   Source{Path: "models/books-llama", Format: "hf", Architecture: "llama", Parameters: 6819072, Bytes: 13638144, Type: "bf16", Tensors: 57, Digest: "sha256:aa"},
		Adapters: []Adapter{{Path: "adapter-shakespeare", Weight: 1, Kind: "LoRA r=8", Matrices: 42}},
		Merge:    &Merge{Tokens: 256, MaxAbsDiff: 1.9e-5, Spread: 3.1, Verdict: Pass},
		Passes:   []PassResult{{Name: "prune.magnitude", Changed: 42, Skipped: []Line{{Tensor: "model.norm.weight", Reason: "one row"}}, Notes: []string{"zeros save no bytes in dense types"}}},
		Targets: []Target{
			{
				Name: "arm64", Target: "arm64", Package: "dist/arm64", Container: "gguf", Type: "q4_0", Method: "gptq", Bytes: 4299161, Ratio: 0.315, Verdict: Pass,
				BitsPerWeight: 5.04, SameBytes: "isa avx512", Digest: "sha256:bb", NotExecuted: []string{"no arm64 CPU here: timed on this x86-64 CPU"},
				Against: "the source model", Text: &Text{Name: "test.txt", SHA256: "cc", Tokens: 8192},
				Protocol:   &verify.Protocol{Name: "llama.cpp", TextSHA256: "cc", Context: 512, Chunks: 16, TokensScored: 4080, ISA: "avx512"},
				Perplexity: &verify.Perplexity{Original: 39.4651, Package: 39.9, LogRatio: 0.011, LogRatioSE: 0.002},
				KL:         &verify.KL{Mean: 0.0079, SE: 0.0003, Upper95: 0.0084, Lower95: 0.0074, Median: 0.004, P90: 0.02, P99: 0.07, Max: 0.6, Histogram: hist},
				Top1:       &verify.Top1{Agreement: 0.937, Lower95: 0.93, Upper95: 0.944}, Layers: layers, Bench: bench,
				Sample: &verify.Text{
					Prompt: "It was a dark", Tokens: 48, Context: 1024, Divergence: 7,
					Original: verify.TextFigure{Sample: " night, and the wind was blowing hard.", Repetition: .05, Entropy: 3.2},
					Package:  verify.TextFigure{Sample: " night, and the moon was blowing hard.", Repetition: .06, Entropy: 3.1},
				},
				Tensors: []Tensor{
					{Name: "blk.0.attn_q.weight", Shape: []int{256, 256}, From: "bf16", To: "q4_0", Bytes: 36864, Figures: map[string]float64{"rmse": 0.0021}},
					{Name: "<script>alert(1)</script>", Shape: []int{256}, From: "bf16", To: "f32", Bytes: 1024, Reason: "one row"},
				},
				Gate: verify.Gate{Verdict: Pass, Checks: []verify.Check{{Name: "kl_mean", Limit: 0.05, Value: 0.0079, Bound: 0.0084, Level: 0.95, Verdict: Pass}}},
			},
			{
				Name: "tiny", Target: "x86-64-v4", Package: "dist/tiny.rejected", Container: "gguf", Type: "q2_k", Method: "rtn", Bytes: 3078272, Ratio: 0.226, Verdict: Fail,
				Perplexity: &verify.Perplexity{Original: 39.4651, Package: 45, LogRatio: 0.13, LogRatioSE: 0.01},
				KL:         &verify.KL{Mean: 0.1345, SE: 0.004, Upper95: 0.141, Lower95: 0.128, Median: 0.08, P90: 0.3, P99: 0.9, Max: 3, Histogram: hist},
				Top1:       &verify.Top1{Agreement: 0.743}, Layers: layers,
				Gate: verify.Gate{Verdict: Fail, Checks: []verify.Check{
					{Name: "kl_mean", Limit: 0.05, Value: 0.1345, Bound: 0.128, Level: 0.95, Verdict: Fail},
					{Name: "decode_speedup", Limit: 1.5, Verdict: Inconclusive, Note: "not measured"},
				}},
			},
			{Name: "gpu-vllm", Target: "gpu-vllm", Type: "int4 g128", Verdict: Refused, Refusals: []Line{{Tensor: "model.layers.0.mlp.down_proj.weight", Reason: "100 columns do not divide into groups of 128", Hint: "choose group 20"}}},
		},
		Stages:  []Stage{{Name: "merge", Seconds: 0.2, Amount: 13638144, Unit: "bytes", PeakMemoryBytes: 60 << 20}, {Name: "quantize", Target: "arm64", Seconds: 3.1, PeakMemoryBytes: 96 << 20, Reused: true}},
		Machine: Machine{CPU: "Example CPU", OS: "linux", Arch: "amd64", ISA: "avx512", Threads: 2},
		Recipe:  &recipe.Recipe{Source: recipe.Source{Model: "models/books-llama"}, Targets: []recipe.Target{{Use: "arm64", Quantize: "q4_0"}}},
		Seconds: 9.8, PeakMemoryBytes: 96 << 20, Reproduce: "pare build models/books-llama -t arm64",
	}
}

func pow10(e float64) float64 {
	v := 1.0
	for ; e >= 1; e-- {
		v *= 10
	}
	for ; e < 0; e++ {
		v /= 10
	}
	return v * (1 + e*1.24 + e*e*2) // close enough to 10^e for edges of a picture
}

func TestSummary(t *testing.T) {
	s := example().Summarize()
	want := [][]string{
		{"arm64", "Q4_0 gptq", "4.10 MiB", "0.32x", "0.00790 ± 0.00059", "93.7 %", "39.5 → 39.9 +1.1 %", "1.9x here ¹", "pass"},
		{"tiny", "Q2_K", "2.94 MiB", "0.23x", "0.1345 ± 0.0078", "74.3 %", "39.5 → 45.0 +13.9 %", "", "FAIL  kl_mean 0.135 > 0.05 (95 % bound 0.128)"},
		{"gpu-vllm", "int4 g128", "", "", "", "", "", "", "REFUSED  100 columns do not divide into groups of 128"},
	}
	if !reflect.DeepEqual(s.Rows, want) {
		t.Errorf("got  %q\nwant %q", s.Rows, want)
	}
	if len(s.Foots) != 1 {
		t.Errorf("footnotes %q", s.Foots)
	}
	if h := example().Headline(); h != "of 3 packages: 1 failed a gate, 1 refused by the target, 1 within every limit" {
		t.Error(h)
	}
}

// The page is one file that asks nothing of the network, and names from a model stay text.
func TestHTML(t *testing.T) {
	page, err := example().HTML()
	if err != nil {
		t.Fatal(err)
	}
	s := string(page)
	if strings.Contains(s, "<script>alert") {
		t.Error("a tensor's name became markup")
	}
	for _, bad := range []string{"<link", "src=", "@import", "url(", "ZgotmplZ"} {
		if strings.Contains(s, bad) {
			t.Errorf("page contains %q", bad)
		}
	}
	if at := regexp.MustCompile(`https?://`).FindString(strings.ReplaceAll(s, "http://www.w3.org/", "")); at != "" {
		t.Error("page points to the network")
	}
	last := -1
	for _, part := range []string{"within every limit", "Size against divergence", "Error after each block", "Divergence per token", "Time per token", "What both write", "every tensor", "Skipped, kept", "Where it comes from", "How to get the same"} {
		at := strings.Index(s, part)
		if at < 0 {
			t.Errorf("no %q in the page", part)
		} else if at < last {
			t.Errorf("%q comes too early", part)
		}
		last = max(at, last)
	}
	for _, part := range []string{"<mark>wind</mark>", "<mark>moon</mark>"} {
		if !strings.Contains(strings.ReplaceAll(s, "<mark> ", "<mark>"), part) {
			t.Errorf("no %s", part)
		}
	}
	charts := regexp.MustCompile(`(?s)<svg .*?</svg>`).FindAllString(s, -1)
	if len(charts) != 6 { // scatter; layers, KL, latency of one target; layers, KL of the other
		t.Errorf("%d charts, want 6", len(charts))
	}
	for i, c := range charts {
		d := xml.NewDecoder(strings.NewReader(c))
		for {
			if _, err := d.Token(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("chart %d: %v", i, err)
			}
		}
		if left := regexp.MustCompile(`#[0-9A-F]{2}0000`).FindString(c); left != "" {
			t.Errorf("chart %d keeps the fixed colour %s", i, left)
		}
		if !strings.Contains(c, "var(--ink)") {
			t.Errorf("chart %d has no text in the page's colour", i)
		}
	}
	if dir := os.Getenv("PARE_KEEP_PAGES"); dir != "" { // to look at it in a browser
		if err := os.WriteFile(filepath.Join(dir, "example.html"), page, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// Every row of every table has as many cells as its head, or renderers drop the rest.
func TestMarkdown(t *testing.T) {
	width := 0
	for line := range strings.SplitSeq(string(example().Markdown()), "\n") {
		if !strings.HasPrefix(line, "|") {
			width = 0
			continue
		}
		n := strings.Count(strings.ReplaceAll(line, `\|`, ""), "|")
		if width == 0 {
			width = n
		}
		if n != width {
			t.Errorf("row has %d bars, its head %d: %s", n, width, line)
		}
	}
}

func TestJUnit(t *testing.T) {
	b, err := example().JUnit()
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Failures int `xml:"failures,attr"`
		Errors   int `xml:"errors,attr"`
		Tests    int `xml:"tests,attr"`
		Suites   []struct {
			Name  string `xml:"name,attr"`
			Cases []struct {
				Name    string `xml:"name,attr"`
				Failure *struct {
					Message string `xml:"message,attr"`
				} `xml:"failure"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	// arm64: takes, merge, runs, kl; tiny: takes, merge, runs, kl (fails), speed (error); gpu: takes (fails)
	if got.Tests != 10 || got.Failures != 2 || got.Errors != 1 || len(got.Suites) != 3 {
		t.Errorf("%d tests, %d failures, %d errors, %d suites", got.Tests, got.Failures, got.Errors, len(got.Suites))
	}
	if c := got.Suites[1].Cases[3]; c.Name != "kl_mean" || c.Failure == nil || !strings.Contains(c.Failure.Message, "0.135 > 0.05") {
		t.Errorf("%+v", c)
	}
}

func TestWriteAndReadBack(t *testing.T) {
	dir := t.TempDir()
	r := example()
	if err := r.Write(dir); err != nil {
		t.Fatal(err)
	}
	got, err := Read(filepath.Join(dir, "report.json"))
	if err != nil {
		t.Fatal(err)
	}
	a, _ := json.Marshal(r)
	b, _ := json.Marshal(got)
	if !bytes.Equal(a, b) {
		t.Error("the record changed on its way through the file")
	}
	entries, _ := os.ReadDir(dir)
	if len(entries) != 4 {
		t.Errorf("%d files", len(entries))
	}
	one := r.Only("tiny")
	if len(one.Targets) != 1 || one.Verdict != Fail || len(one.Stages) != 1 || len(r.Targets) != 3 {
		t.Errorf("Only(tiny): %d targets, %s, %d stages", len(one.Targets), one.Verdict, len(one.Stages))
	}
}
