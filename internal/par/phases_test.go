package par

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

// Every item runs once, and none before the phase in front of it is finished.
func TestPhases(t *testing.T) {
	counts := []int{7, 0, 1, 40, 3}
	for _, threads := range []int{1, 2, 5} {
		var left [5]atomic.Int64
		for p, n := range counts {
			left[p].Store(int64(n))
		}
		var seen [5][40]atomic.Int64
		err := Phases(t.Context(), threads, len(counts), func(p int) int { return counts[p] }, func(_, p, i int) error {
			for q := range p {
				if left[q].Load() != 0 {
					t.Errorf("item %d of phase %d runs while phase %d has %d left", i, p, q, left[q].Load())
				}
			}
			seen[p][i].Add(1)
			left[p].Add(-1)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for p, n := range counts {
			for i := range n {
				if got := seen[p][i].Load(); got != 1 {
					t.Errorf("item %d of phase %d ran %d times", i, p, got)
				}
			}
		}
	}
}

func TestPhasesStop(t *testing.T) {
	boom := errors.New("boom")
	for _, threads := range []int{1, 2} {
		var late atomic.Bool
		err := Phases(t.Context(), threads, 2, func(int) int { return 100 }, func(_, p, i int) error {
			if p == 1 {
				late.Store(true)
			}
			if i == 3 {
				return boom
			}
			return nil
		})
		if !errors.Is(err, boom) || late.Load() {
			t.Errorf("%d threads: error %v, next phase begun: %v", threads, err, late.Load())
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := Phases(ctx, threads, 2, func(int) int { return 5 }, func(_, _, _ int) error { return nil }); !errors.Is(err, context.Canceled) {
			t.Errorf("%d threads: error %v, want cancelled", threads, err)
		}
	}
}

// Phases within an item of Phases, and from several goroutines at once, get their work done.
func TestPhasesWithin(t *testing.T) {
	old := runtime.GOMAXPROCS(4)
	defer runtime.GOMAXPROCS(old)
	var callers sync.WaitGroup
	for range 3 {
		callers.Go(func() {
			for range 20 {
				var sum atomic.Int64
				three := func(int) int { return 3 }
				err := Phases(t.Context(), 2, 2, three, func(_, _, i int) error {
					return Phases(t.Context(), 4, 2, three, func(_, p, j int) error {
						sum.Add(int64(100*i + 10*p + j))
						return nil
					})
				})
				// twice, the three outer numbers six times, the two middle and the three inner ones nine and six times
				if want := int64(2 * (300*6 + 10*9 + 3*6)); err != nil || sum.Load() != want {
					t.Errorf("%v, a sum of %d, want %d", err, sum.Load(), want)
				}
			}
		})
	}
	callers.Wait()
}
