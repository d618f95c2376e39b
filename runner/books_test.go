package runner_test

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/pare-dev/pare/runner"
)

func TestTmpSpeed(t *testing.T) {
	m := openHF(t, "../testdata/books-llama/model")
	ids, _ := tokensOf(t, "../testdata/books-llama/reference.safetensors", "input_ids")
	want, _ := reference(t, "../testdata/books-llama/reference.safetensors", "logits")
	r := load(t, m, runner.Options{})
	got := logitsOf(t, r, ids[:128])
	t.Log(worst(got, want[:len(got)]))
	s := r.NewSession()
	long := append(append([]int32{}, ids...), ids...)
	for range 3 {
		s.Truncate(0)
		t0 := time.Now()
		if err := s.Append(context.Background(), long, runner.WantLast, nil); err != nil {
			t.Fatal(err)
		}
		d := time.Since(t0)
		t1 := time.Now()
		n := 64
		if _, err := s.Generate(context.Background(), ids[:1], runner.Generation{MaxTokens: n}, func(int32) error { return nil }); err != nil {
			t.Fatal(err)
		}
		e := time.Since(t1)
		t.Logf("prefill %.0f tok/s decode %.0f tok/s mem %d", float64(len(long))/d.Seconds(), float64(n)/e.Seconds(), r.MemoryBytes())
	}
	_ = os.Args
}
