package runner_test

import (
	"context"
	"testing"

	"github.com/pare-dev/pare/runner"
)

func BenchmarkPrefill(b *testing.B) {
	m := open(b, "../testdata/books-llama/model")
	ids, _ := tokensOf(b, "../testdata/books-llama/reference.safetensors", "input_ids")
	r := load(b, m, runner.Options{})
	s := r.NewSession()
	long := append(append([]int32{}, ids...), ids...)
	for b.Loop() {
		s.Truncate(0)
		if err := s.Append(context.Background(), long, runner.WantLast, nil); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(long))*float64(b.N)/b.Elapsed().Seconds(), "tok/s")
}

func BenchmarkDecode(b *testing.B) {
	m := open(b, "../testdata/books-llama/model")
	ids, _ := tokensOf(b, "../testdata/books-llama/reference.safetensors", "input_ids")
	r := load(b, m, runner.Options{})
	s := r.NewSession()
	i := 0
	for b.Loop() {
		if s.Pos() == 1024 {
			s.Truncate(0)
		}
		i = (i + 1) % len(ids)
		if err := s.Append(context.Background(), ids[i:i+1], runner.WantLast, nil); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tok/s")
}
