package main

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/runner"
)

// engine runs one model on one text: pare's runner in this process, or llama.cpp behind its probe.
type engine interface {
	load(path string, context int) error
	// at brings the text to n tokens, by forgetting or by reading.
	at(n int) error
	// decode reads n more tokens, one at a time, and gives the seconds of each.
	decode(n int) ([]float64, error)
	// prefill forgets everything, reads n tokens together and gives the seconds.
	prefill(n int) (float64, error)
	close()
}

// token is what stands at position i of every text; probe/llama.c has the same rule.
func token(vocab, i int) int32 {
	if vocab > 300 {
		return int32((7919*i+13)%(vocab-259) + 259)
	}
	return int32(i % vocab)
}

// cacheType is that of cached keys and values: what pare run and pare bench take, and llama.cpp as well.
const (
	cacheType  = storage.F16
	cacheBytes = 2 // of one number
)

// ours is pare's runner as its users get it.
type ours struct {
	ctx     context.Context
	threads int
	model   *ir.Model
	r       *runner.Runner
	s       *runner.Session
}

func (e *ours) load(path string, context int) (err error) {
	e.close()
	e.model, e.r, err = openRunner(e.ctx, path, runner.Options{Threads: e.threads, Context: context, KV: cacheType})
	if err == nil {
		e.s = e.r.NewSession()
	}
	return err
}

// openRunner opens a model and loads it.
func openRunner(ctx context.Context, path string, opt runner.Options) (*ir.Model, *runner.Runner, error) {
	m, err := formats.Open(ctx, path)
	if err != nil {
		return nil, nil, err
	}
	r, err := runner.Load(ctx, m, opt)
	if err != nil {
		return nil, nil, errors.Join(err, m.Close())
	}
	debug.FreeOSMemory() // what loading left is not collected while something is measured
	return m, r, nil
}

func (e *ours) close() {
	if e.r != nil {
		e.s.Close()
		e.r.Close()
		_ = e.model.Close() // read only
		e.r, e.s, e.model = nil, nil, nil
		debug.FreeOSMemory()
	}
}

func (e *ours) read(n int) (float64, error) {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = token(e.r.Vocab(), e.s.Pos()+i)
	}
	start := time.Now()
	err := e.s.Append(e.ctx, ids, runner.WantLast, func(int, []float32) error { return nil })
	return time.Since(start).Seconds(), err
}

func (e *ours) at(n int) error {
	e.s.Truncate(n)
	if n <= e.s.Pos() {
		return nil
	}
	_, err := e.read(n - e.s.Pos())
	return err
}

func (e *ours) decode(n int) ([]float64, error) {
	seconds := make([]float64, n)
	for i := range seconds {
		var err error
		if seconds[i], err = e.read(1); err != nil {
			return nil, err
		}
	}
	return seconds, nil
}

func (e *ours) prefill(n int) (float64, error) {
	e.s.Truncate(0)
	return e.read(n)
}

// theirs is llama.cpp.
type theirs struct{ *client }

func (e theirs) load(path string, context int) error {
	_, err := e.number("load 0 %d 1 %s", context, path)
	return err
}

func (e theirs) at(n int) error {
	_, err := e.number("at %d", n)
	return err
}

func (e theirs) decode(n int) ([]float64, error) { return e.numbers(n, "decode %d", n) }

func (e theirs) prefill(n int) (float64, error) { return e.number("prefill %d", n) }

// startLlama starts the probe of llama.cpp and says which of its CPU libraries it took.
func (b *bench) startLlama() (*client, string, error) {
	if b.tools.Llama.Why != "" {
		return nil, "", fmt.Errorf("llama.cpp is not there: %s", b.tools.Llama.Why)
	}
	c, err := start(b.ctx, nil, b.tools.Llama.Probe, b.tools.Llama.Library, "serve", fmt.Sprint(b.threads))
	if err != nil {
		return nil, "", err
	}
	variant, err := c.answer()
	return c, variant, err
}
