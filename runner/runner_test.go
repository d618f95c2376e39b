package runner_test

import (
	"context"
	"errors"
	"math"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pare-dev/pare/internal/cpu"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/par"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/runner"
)

func load(t testing.TB, m *ir.Model, opt runner.Options) *runner.Runner {
	t.Helper()
	r, err := runner.Load(context.Background(), m, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// logitsOf gives a row of logits for every token of a text.
func logitsOf(t testing.TB, r *runner.Runner, tokens []int32) []float32 {
	t.Helper()
	out := make([]float32, 0, len(tokens)*r.Vocab())
	err := r.NewSession().Append(context.Background(), tokens, runner.WantAll, func(pos int, row []float32) error {
		if pos != len(out)/r.Vocab() {
			t.Errorf("logits of position %d after %d rows", pos, len(out)/r.Vocab())
		}
		out = append(out, row...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// spread is the standard deviation of a set of logits.
func spread(x []float32) float64 {
	var s, ss float64
	for _, v := range x {
		s += float64(v)
		ss += float64(v) * float64(v)
	}
	n := float64(len(x))
	return math.Sqrt(ss/n - s/n*s/n)
}

// worst is the largest difference of two sets of logits, as a fraction of the spread of want. NaN
// counts as infinite.
func worst(got, want []float32) float64 {
	if len(got) != len(want) {
		return math.Inf(1)
	}
	var most float64
	for i, w := range want {
		d := math.Abs(float64(got[i]) - float64(w))
		if !(d <= most) {
			most = d
			if math.IsNaN(d) {
				return math.Inf(1)
			}
		}
	}
	return most / spread(want)
}

func argmax(x []float32) int32 {
	best := 0
	for i, v := range x {
		if v > x[best] {
			best = i
		}
	}
	return int32(best)
}

const architectures = "../testdata/architectures"

func TestReferenceLogits(t *testing.T) {
	for _, name := range []string{"llama", "mistral", "qwen2", "qwen3"} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(architectures, name)
			r := load(t, open(t, dir), runner.Options{})
			ref := filepath.Join(dir, "reference.safetensors")
			ids, shape := tokensOf(t, ref, "input_ids")
			want, _ := reference(t, ref, "logits")
			n := shape[1]
			for row := range shape[0] {
				size := n * r.Vocab()
				got := logitsOf(t, r, ids[row*n:(row+1)*n])
				w := worst(got, want[row*size:(row+1)*size])
				t.Logf("row %d: largest difference %.2g of the spread", row, w)
				if !(w <= 2e-4) {
					t.Errorf("row %d: largest difference %g of the spread, at most 2e-4", row, w)
				}
			}
		})
	}
}

// greedy continues a text by the most likely token; the prompt goes in by pieces of the given
// sizes, and then token by token.
func greedy(t testing.TB, r *runner.Runner, prompt []int32, n int, pieces ...int) []int32 {
	t.Helper()
	s := r.NewSession()
	defer s.Close()
	var id int32
	next := func(tokens []int32) {
		t.Helper()
		err := s.Append(context.Background(), tokens, runner.WantLast, func(_ int, row []float32) error {
			id = argmax(row)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range pieces {
		next(prompt[:p])
		prompt = prompt[p:]
	}
	next(prompt)
	var out []int32
	for range n {
		out = append(out, id)
		next([]int32{id})
	}
	return out
}

// The expected tokens are those of transformers; the smallest lead of a winner is given in the
// data's README and is far above rounding.
func TestReferenceGreedy(t *testing.T) {
	for _, name := range []string{"llama", "mistral", "qwen2", "qwen3"} {
		dir := filepath.Join(architectures, name)
		ref := filepath.Join(dir, "reference.safetensors")
		ids, _ := tokensOf(t, ref, "input_ids")
		want, _ := tokensOf(t, ref, "greedy")
		m := open(t, dir)
		for _, opt := range []runner.Options{{}, {Batch: 3}, {Threads: 1, ISA: cpu.Portable}, {KV: storage.F16}} {
			r := load(t, m, opt)
			for _, pieces := range [][]int{nil, {1, 1, 4}, {5}} {
				if got := greedy(t, r, ids[:8], len(want), pieces...); !slices.Equal(got, want) {
					t.Errorf("%s, %+v, prompt in %v: %v, want %v", name, opt, pieces, got, want)
				}
			}
		}
	}
}

// The same bytes come out at any number of threads, and for any batches of two tokens or more.
func TestSameBytes(t *testing.T) {
	old := runtime.GOMAXPROCS(3) // more workers than this machine may have cores
	defer runtime.GOMAXPROCS(old)
	for _, name := range []string{"llama", "mistral", "qwen3"} {
		dir := filepath.Join(architectures, name)
		ids, _ := tokensOf(t, filepath.Join(dir, "reference.safetensors"), "input_ids")
		ids = ids[:48]
		for _, isa := range cpu.Available() {
			m := open(t, dir)
			want := logitsOf(t, load(t, m, runner.Options{Threads: 1, ISA: isa}), ids)
			for _, opt := range []runner.Options{{Threads: 2}, {Threads: 3}, {Threads: 2, Batch: 16}, {Threads: 1, Batch: 2}, {Threads: 3, Batch: 46}} {
				opt.ISA = isa
				if got := logitsOf(t, load(t, m, opt), ids); !slices.Equal(got, want) {
					t.Errorf("%s: %+v differs from one thread and one batch by %g of the spread", name, opt, worst(got, want))
				}
			}
			// one token at a time takes other kernels where weights are not float32
			if w := worst(logitsOf(t, load(t, m, runner.Options{Batch: 1, ISA: isa}), ids), want); !(w <= 5e-5) {
				t.Errorf("%s on %s: one token at a time differs by %g of the spread", name, isa, w)
			}
		}
	}
}

// Two models compute the same on workers that they share, at the same time from two goroutines, and those of
// one go on when the other is closed.
func TestSharedPool(t *testing.T) {
	old := runtime.GOMAXPROCS(2)
	defer runtime.GOMAXPROCS(old)
	pool := par.NewPool(2)
	defer pool.Close()
	var side sync.WaitGroup
	for _, name := range []string{"llama", "qwen3"} {
		dir := filepath.Join(architectures, name)
		ids, _ := tokensOf(t, filepath.Join(dir, "reference.safetensors"), "input_ids")
		m := open(t, dir)
		want := logitsOf(t, load(t, m, runner.Options{Threads: 1}), ids)
		r := load(t, m, runner.Options{Pool: pool})
		if r.Threads() != 2 {
			t.Errorf("%d workers, want the pool's", r.Threads())
		}
		side.Go(func() {
			if got := logitsOf(t, r, ids); !slices.Equal(got, want) {
				t.Errorf("%s: beside another model on the same workers differs by %g of the spread", name, worst(got, want))
			}
			r.Close()
		})
	}
	side.Wait()
	var met atomic.Int32
	late := time.Now().Add(10 * time.Second)
	pool.Run(2, func(int, int) {
		met.Add(1)
		for met.Load() < 2 && time.Now().Before(late) { // the caller alone would wait for itself
			runtime.Gosched()
		}
		if met.Load() < 2 {
			t.Error("the pool is closed with a model that it serves")
		}
	})
}

func TestISALevelsAgree(t *testing.T) {
	dir := filepath.Join(architectures, "llama")
	ids, _ := tokensOf(t, filepath.Join(dir, "reference.safetensors"), "input_ids")
	m := open(t, dir)
	want := logitsOf(t, load(t, m, runner.Options{ISA: cpu.Portable}), ids[:48])
	for _, isa := range cpu.Available()[1:] {
		if w := worst(logitsOf(t, load(t, m, runner.Options{ISA: isa}), ids[:48]), want); !(w <= 2e-4) {
			t.Errorf("%s differs from portable by %g of the spread", isa, w)
		}
	}
}

// Half precision in the cache costs about 2^-11 of a key or value.
func TestHalfCache(t *testing.T) {
	dir := filepath.Join(architectures, "qwen3")
	ref := filepath.Join(dir, "reference.safetensors")
	ids, _ := tokensOf(t, ref, "input_ids")
	want, _ := reference(t, ref, "logits")
	r := load(t, open(t, dir), runner.Options{KV: storage.F16})
	got := logitsOf(t, r, ids[:48])
	w := worst(got, want[:len(got)])
	if !(w <= 1e-2) {
		t.Errorf("differs by %g of the spread", w)
	}
	if w < 1e-5 {
		t.Errorf("differs by %g of the spread: is the cache half precision at all?", w)
	}
}

func TestSessions(t *testing.T) {
	dir := filepath.Join(architectures, "mistral")
	ids, _ := tokensOf(t, filepath.Join(dir, "reference.safetensors"), "input_ids")
	r := load(t, open(t, dir), runner.Options{})
	ctx := context.Background()
	a, b := r.NewSession(), r.NewSession()
	want := logitsOf(t, r, ids[:20])
	row := func(s *runner.Session, tokens []int32) (last []float32) {
		t.Helper()
		calls := 0
		err := s.Append(ctx, tokens, runner.WantLast, func(pos int, x []float32) error {
			calls++
			if pos != s.Pos()-1 {
				t.Errorf("row of position %d in a session of %d", pos, s.Pos())
			}
			last = slices.Clone(x)
			return nil
		})
		if err != nil || calls != 1 {
			t.Fatalf("%d rows, %v", calls, err)
		}
		return last
	}
	v := r.Vocab()
	// two texts take turns
	row(a, ids[:10])
	row(b, ids[30:40])
	// a single row of logits takes other kernels than many, so it differs within rounding
	first := row(a, ids[10:20])
	if w := worst(first, want[19*v:20*v]); !(w <= 1e-5) {
		t.Errorf("a session is disturbed by another: %g of the spread", w)
	}
	// forget and say something else, then say the same again
	a.Truncate(10)
	if a.Pos() != 10 {
		t.Errorf("%d tokens after Truncate(10)", a.Pos())
	}
	row(a, ids[40:45])
	a.Truncate(10)
	a.Truncate(99)
	if got := row(a, ids[10:20]); !slices.Equal(got, first) {
		t.Errorf("a truncated session remembers: %g of the spread", worst(got, first))
	}
	// no rows wanted
	b.Close()
	if b.Pos() != 0 {
		t.Errorf("%d tokens after Close", b.Pos())
	}
	if err := b.Append(ctx, ids[:5], runner.WantNone, func(int, []float32) error {
		t.Error("a row that nobody wanted")
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// OnBlock sees the residual stream: the last one, normalised, is what the head multiplies.
func TestOnBlock(t *testing.T) {
	dir := filepath.Join(architectures, "qwen2")
	ids, _ := tokensOf(t, filepath.Join(dir, "reference.safetensors"), "input_ids")
	m := open(t, dir)
	r := load(t, m, runner.Options{Batch: 7})
	s := r.NewSession()
	d := m.Decoder
	seen := make([]int, d.Layers)
	last := 0
	s.OnBlock = func(block int, hidden []float32, rows, cols int) {
		if cols != d.Hidden || len(hidden) != rows*cols {
			t.Errorf("block %d: %d numbers for %d x %d", block, len(hidden), rows, cols)
		}
		seen[block] += rows
		last = block
	}
	if err := s.Append(context.Background(), ids[:20], runner.WantNone, nil); err != nil {
		t.Fatal(err)
	}
	for b, n := range seen {
		if n != 20 {
			t.Errorf("block %d was seen for %d tokens of 20", b, n)
		}
	}
	if last != d.Layers-1 {
		t.Errorf("the last block seen is %d", last)
	}
}

func TestRefusals(t *testing.T) {
	dir := filepath.Join(architectures, "llama")
	ctx := context.Background()
	m := open(t, dir)
	r := load(t, m, runner.Options{Context: 16})
	s := r.NewSession()
	if err := s.Append(ctx, make([]int32, 17), runner.WantNone, nil); !errors.Is(err, runner.ErrContext) {
		t.Errorf("17 tokens in a context of 16: %v", err)
	}
	if err := s.Append(ctx, make([]int32, 16), runner.WantNone, nil); err != nil {
		t.Errorf("16 tokens in a context of 16: %v", err)
	}
	if err := s.Append(ctx, []int32{1}, runner.WantNone, nil); !errors.Is(err, runner.ErrContext) {
		t.Errorf("a token more: %v", err)
	}
	s.Truncate(8)
	for _, id := range []int32{-1, int32(r.Vocab())} {
		if err := s.Append(ctx, []int32{1, id}, runner.WantNone, nil); !errors.Is(err, runner.ErrToken) || s.Pos() != 8 {
			t.Errorf("token %d: %v, %d tokens held", id, err, s.Pos())
		}
	}
	stop := errors.New("enough")
	if err := s.Append(ctx, []int32{1, 2}, runner.WantAll, func(int, []float32) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("the receiver's error became %v", err)
	}
	over, cancel := context.WithCancel(ctx)
	cancel()
	s.Truncate(0)
	if err := s.Append(over, []int32{1}, runner.WantNone, nil); !errors.Is(err, context.Canceled) || s.Pos() != 0 {
		t.Errorf("after cancellation: %v, %d tokens held", err, s.Pos())
	}
	if _, err := runner.Load(ctx, m, runner.Options{Memory: 100 << 10}); !errors.Is(err, fault.ErrBudget) {
		t.Errorf("100 KiB: %v, want the budget's refusal", err)
	}
	if _, err := runner.Load(ctx, m, runner.Options{KV: storage.BF16}); !errors.Is(err, fault.ErrMisuse) {
		t.Errorf("a bf16 cache: %v, want misuse", err)
	}
	unknown := m.Clone()
	unknown.Decoder = nil
	if _, err := runner.Load(ctx, unknown, runner.Options{}); !errors.Is(err, ir.ErrNoArchitecture) {
		t.Errorf("no architecture: %v", err)
	}
	missing := m.Clone()
	for _, x := range missing.Tensors() {
		if x.Role == ir.RoleAttnK && x.Block == 1 {
			y := *x
			y.Role = ir.RoleUnknown
			if err := missing.Replace(&y); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := runner.Load(ctx, missing, runner.Options{}); !errors.Is(err, ir.ErrMissing) {
		t.Errorf("a block without keys: %v", err)
	}
}

// What the runner says it holds follows the cache, and a cache that would not fit is refused.
func TestMemory(t *testing.T) {
	m := open(t, filepath.Join(architectures, "llama"))
	r := load(t, m, runner.Options{Batch: 16, Threads: 1})
	s := r.NewSession()
	ctx := context.Background()
	if err := s.Append(ctx, make([]int32, 100), runner.WantLast, nil); err != nil {
		t.Fatal(err)
	}
	one := r.MemoryBytes()
	if err := s.Append(ctx, make([]int32, 100), runner.WantLast, nil); err != nil {
		t.Fatal(err)
	}
	// a second page of 128 positions in 2 layers: 2 key heads of 32 numbers, keys and values
	if grown := r.MemoryBytes() - one; grown < 2*128*2*32*2*4 || grown > 3*128*2*32*2*4 {
		t.Errorf("a second page took %d bytes", grown)
	}
	s.Close()
	if left := r.MemoryBytes(); left >= one {
		t.Errorf("%d bytes before, %d after giving the cache back", one, left)
	}
	if r.MappedBytes() == 0 && runtime.GOOS == "linux" {
		t.Error("no weight is used in place")
	}
	tight := load(t, m, runner.Options{Batch: 16, Threads: 1, Context: 4096, Memory: 3 << 20})
	s = tight.NewSession()
	err := s.Append(ctx, make([]int32, 4000), runner.WantLast, nil)
	if !errors.Is(err, fault.ErrBudget) {
		t.Errorf("32 pages of 128 KiB in 3 MiB: %v", err)
	}
	if s.Pos() == 0 || s.Pos()%16 != 0 {
		t.Errorf("%d tokens held after the refusal, want those of the finished batches", s.Pos())
	}
	if held := tight.MemoryBytes(); held > 3<<20 {
		t.Errorf("%d bytes held in a budget of 3 MiB", held)
	}
}

// With the least memory that Demand names, where pages are given back after every block, the logits
// are the same bits; with less, the model is refused before it runs.
func TestLeastMemory(t *testing.T) {
	for _, name := range []string{"llama", "qwen2"} {
		dir := filepath.Join(architectures, name)
		m := open(t, dir)
		ids, _ := tokensOf(t, filepath.Join(dir, "reference.safetensors"), "input_ids")
		opt := runner.Options{Threads: 2, Context: 64, Tokens: 48}
		least, err := runner.Demand(m, opt)
		if err != nil {
			t.Fatal(err)
		}
		want := logitsOf(t, load(t, m, opt), ids[:48])
		opt.Memory = least
		if got := logitsOf(t, load(t, m, opt), ids[:48]); !slices.Equal(got, want) {
			t.Errorf("%s: other logits in %d bytes", name, least)
		}
		opt.Memory = least - 1
		if _, err := runner.Load(context.Background(), m, opt); !errors.Is(err, fault.ErrBudget) {
			t.Errorf("%s: loaded in less than the least: %v", name, err)
		}
	}
}

// A token costs nearly no allocations, however many blocks there are: what is left belongs to the call.
func TestTokenAllocations(t *testing.T) {
	m := open(t, filepath.Join(architectures, "llama"))
	for _, m := range []*ir.Model{m, quantized(t, m, storage.Q8_0)} {
		r := load(t, m, runner.Options{Threads: 1})
		s := r.NewSession()
		ctx := context.Background()
		token := []int32{1}
		got := testing.AllocsPerRun(60, func() { // pages of the cache, and room for the text, come seldom
			if err := s.Append(ctx, token, runner.WantLast, nil); err != nil {
				t.Error(err)
			}
		})
		if got > 3 {
			t.Errorf("%g allocations a token", got)
		}
	}
}

// What a runner holds may be asked while it computes (the race detector sees to it).
func TestAskedMeanwhile(t *testing.T) {
	m := open(t, filepath.Join(architectures, "llama"))
	opt := runner.Options{Threads: 1, Context: 512, Tokens: 1, Batch: 16}
	least, err := runner.Demand(m, opt)
	if err != nil {
		t.Fatal(err)
	}
	opt.Memory = least + 512<<10
	r := load(t, m, opt)
	done := make(chan error)
	go func() { done <- r.NewSession().Append(context.Background(), make([]int32, 300), runner.WantNone, nil) }()
	for {
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
			return
		default:
			if r.Spare() > opt.Memory || r.MappedBytes() < 0 || r.MemoryBytes() > opt.Memory {
				t.Error("more than the budget")
			}
			runtime.Gosched()
		}
	}
}
