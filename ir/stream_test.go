package ir

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pare-dev/pare/internal/storage"
)

// numbered makes n chunks of varying sizes whose bytes say where they belong, and counts the bytes
// that are held at once.
func numbered(n int, held, most *atomic.Int64) (iter.Seq[Chunk], []byte) {
	r := rand.New(rand.NewPCG(1, 2))
	sizes := make([]int, n)
	var want []byte
	for i := range sizes {
		sizes[i] = r.IntN(5000)
		want = append(want, bytes.Repeat([]byte{byte(i)}, sizes[i])...)
	}
	return func(yield func(Chunk) bool) {
		for i, size := range sizes {
			c := Chunk{Tensor: "t", Size: size, Fill: func(_ context.Context, dst []byte) error {
				now := held.Add(int64(size))
				for m := most.Load(); now > m && !most.CompareAndSwap(m, now); m = most.Load() {
				}
				if i%7 == 0 {
					time.Sleep(time.Millisecond) // let others overtake
				}
				for j := range dst {
					dst[j] = byte(i)
				}
				return nil
			}}
			if !yield(c) {
				return
			}
		}
	}, want
}

// counting writes and takes written bytes off the count of those held.
type counting struct {
	bytes.Buffer
	held *atomic.Int64
}

func (c *counting) Write(p []byte) (int, error) {
	c.held.Add(-int64(len(p)))
	return c.Buffer.Write(p)
}

func TestStreamKeepsOrderAndBudget(t *testing.T) {
	for _, threads := range []int{1, 2, 8} {
		for _, memory := range []int64{1, 20_000, 1 << 20} {
			var held, most atomic.Int64
			seq, want := numbered(300, &held, &most)
			out := &counting{held: &held}
			if err := Stream(context.Background(), out, seq, StreamOptions{Threads: threads, Memory: memory}); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(out.Bytes(), want) {
				t.Errorf("%d threads, %d bytes: wrong order", threads, memory)
			}
			if limit := max(memory, 5000); most.Load() > limit {
				t.Errorf("%d threads: %d bytes held, the budget is %d", threads, most.Load(), limit)
			}
		}
	}
}

var errBroken = errors.New("broken")

type broken struct{ after int }

func (b *broken) Write(p []byte) (int, error) {
	if b.after -= len(p); b.after < 0 {
		return 0, errBroken
	}
	return len(p), nil
}

func TestStreamErrors(t *testing.T) {
	before := runtime.NumGoroutine()
	var held, most atomic.Int64
	seq, _ := numbered(300, &held, &most)
	if err := Stream(context.Background(), &broken{100_000}, seq, StreamOptions{Threads: 2, Memory: 10_000}); !errors.Is(err, errBroken) {
		t.Errorf("writer: %v", err)
	}
	failing := func(yield func(Chunk) bool) {
		for c := range seq {
			fill := c.Fill
			c.Fill = func(ctx context.Context, dst []byte) error {
				if held.Load() > 100_000 { // some chunk far in
					return errBroken
				}
				return fill(ctx, dst)
			}
			if !yield(c) {
				return
			}
		}
	}
	held.Store(0)
	if err := Stream(context.Background(), &broken{1 << 30}, failing, StreamOptions{Threads: 2, Memory: 10_000}); !errors.Is(err, errBroken) {
		t.Errorf("source: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	endless := func(yield func(Chunk) bool) {
		for n := 0; ; n++ {
			if n == 100 {
				cancel()
			}
			if !yield(Chunk{Size: 10, Fill: func(context.Context, []byte) error { return nil }}) {
				return
			}
		}
	}
	if err := Stream(ctx, &broken{1 << 30}, endless, StreamOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	for range 100 {
		if runtime.NumGoroutine() <= before {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if n := runtime.NumGoroutine(); n > before {
		t.Errorf("%d goroutines are left over", n-before)
	}
}

// TestChunksCoverTheTensor, each row once and in order.
func TestChunksCoverTheTensor(t *testing.T) {
	x := &Tensor{Name: "x", Shape: []int{7, 3, 10}, Type: storage.F32}
	total := 0
	for c := range Chunks(x, PartData, 100) { // two rows at a time
		if c.Size > 80 {
			t.Errorf("a chunk of %d bytes", c.Size)
		}
		total += c.Size
	}
	if total != 7*3*10*4 {
		t.Errorf("%d bytes", total)
	}
	p := &Tensor{Name: "p", Shape: []int{50, 10}, Type: storage.Planes, Scheme: &storage.Scheme{Bits: 8, Symmetric: true, Group: storage.GroupTensor, Scale: storage.F32}}
	n := 0
	for c := range Chunks(p, PartScales, 1) {
		if n++; c.Size != 4 {
			t.Errorf("the one scale of a tensor takes %d bytes", c.Size)
		}
	}
	if n != 1 {
		t.Errorf("%d chunks of scales", n)
	}
}
