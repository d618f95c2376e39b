package runner_test

import (
	"context"
	"testing"

	"github.com/pare-dev/pare/ir"
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

// A walk of 65 536 calibration tokens that asks for every stage, as GPTQ does.
func BenchmarkWalk(b *testing.B) {
	m := open(b, "../testdata/books-llama/model")
	ids, _ := tokensOf(b, "../testdata/books-llama/reference.safetensors", "input_ids")
	var seqs [][]int32
	for range 128 {
		seqs = append(seqs, append(append([]int32{}, ids...), ids...))
	}
	ctx := context.Background()
	for b.Loop() {
		w, err := runner.NewExecutor(runner.Options{}).Start(ctx, m, seqs)
		if err != nil {
			b.Fatal(err)
		}
		for range m.Decoder.Layers {
			for _, s := range ir.Stages {
				if err := w.Inputs(ctx, s, func([]float32, int, int) error { return nil }); err != nil {
					b.Fatal(err)
				}
			}
			if err := w.Next(ctx); err != nil {
				b.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(65536*float64(b.N)/b.Elapsed().Seconds(), "tok/s")
}
