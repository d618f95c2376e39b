package bench_test

import (
	"context"
	"encoding/json"
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/runner"
	"github.com/pare-dev/pare/runner/bench"
)

func subject(path string) bench.Subject {
	return bench.Subject{Path: path, Open: func(ctx context.Context) (*ir.Model, error) { return formats.Open(ctx, path) }}
}

func TestRun(t *testing.T) {
	a, b := subject("../../testdata/architectures/llama"), subject("../../testdata/architectures/llama")
	b.Peak = func(context.Context) (int64, error) { return 123 << 20, nil }
	res, err := bench.Run(context.Background(), bench.Options{Prompt: 100, Generate: 8, Rounds: 6, Tokens: []int32{5, 6, 7}}, a, b)
	if err != nil {
		t.Fatal(err)
	}
	if res.Rounds != 6 || len(res.Models) != 2 || res.Ratio == nil {
		t.Fatalf("%d rounds, %d models, ratio %v", res.Rounds, len(res.Models), res.Ratio)
	}
	for _, m := range res.Models {
		p := m.TokenS
		if !(m.LoadS > 0 && m.FirstLoadS > 0 && m.TTFTS > 0 && p.P50 > 0 && p.P50 <= p.P90 && p.P90 <= p.P99) {
			t.Errorf("times %+v", m)
		}
		// a token is one of Generate in a round: the rate and the time say the same
		if rate := m.DecodeTokS.Median * p.P50; rate < 0.2 || rate > 5 {
			t.Errorf("%v tokens a second at %v seconds each", m.DecodeTokS.Median, p.P50)
		}
		if want := 100 / m.PrefillTokS.Median; m.TTFTS < 0.5*want || m.TTFTS > 2*want {
			t.Errorf("first token after %v s, prefill alone takes %v s", m.TTFTS, want)
		}
		if m.Bytes < 1_700_000 || m.Bytes > 1_800_000 {
			t.Errorf("%d bytes of weights, the file has 1 757 864", m.Bytes)
		}
	}
	if res.Models[1].PeakRSSBytes != 123<<20 || res.Models[1].PeakRSSFrom != "child" {
		t.Errorf("memory %d from %s", res.Models[1].PeakRSSBytes, res.Models[1].PeakRSSFrom)
	}
	if runtime.GOOS == "linux" && res.Models[0].PeakRSSBytes < 1<<20 {
		t.Errorf("memory %d", res.Models[0].PeakRSSBytes)
	}
	if r := res.Ratio; !(r.DecodeLower95 <= r.Decode && r.Decode <= r.DecodeUpper95 && r.Decode > 0.1 && r.Decode < 10) {
		t.Errorf("a model against itself: %+v", r)
	}
	if res.Machine.ReadGBps <= 0 || res.Machine.Threads < 1 || res.Machine.ISA == "" || res.Machine.CPU == "" {
		t.Errorf("machine %+v", res.Machine)
	}
	j, err := json.Marshal(res)
	if err != nil {
		t.Fatal(err)
	}
	for _, field := range []string{`"schema":1`, `"machine":{"cpu":`, `"read_gb_s":`, `"load_s":`, `"prefill_tok_s":{"median":`, `"decode_tok_s":`, `"ttft_s":`, `"token_s":{"p50":`, `"peak_rss_bytes":`, `"ratio":{"prefill":`} {
		if !strings.Contains(string(j), field) {
			t.Errorf("no %s in %s", field, j)
		}
	}
}

func TestRunRefusals(t *testing.T) {
	ctx := context.Background()
	if _, err := bench.Run(ctx, bench.Options{}); !errors.Is(err, fault.ErrMisuse) {
		t.Errorf("no model: %v", err)
	}
	if _, err := bench.Run(ctx, bench.Options{Prompt: 200, Generate: 100}, subject("../../testdata/architectures/llama")); !errors.Is(err, runner.ErrContext) {
		t.Errorf("300 tokens in a context of 256: %v", err)
	}
	if _, err := bench.Run(ctx, bench.Options{}, subject("../../testdata/nothing")); err == nil {
		t.Error("a model that is not there was measured")
	}
	over, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := bench.Run(over, bench.Options{Prompt: 10, Generate: 2}, subject("../../testdata/architectures/llama")); !errors.Is(err, context.Canceled) {
		t.Errorf("after cancellation: %v", err)
	}
}
