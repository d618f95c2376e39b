package runner

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// Every item of every run is done exactly once and before run returns, with workers that spin, that
// have parked, and that come late to a run which is already over.
func TestPool(t *testing.T) {
	old := runtime.GOMAXPROCS(4)
	defer runtime.GOMAXPROCS(old)
	for _, threads := range []int{1, 2, 4} {
		p := newPool(threads)
		if p.threads != threads {
			t.Fatalf("%d workers, want %d", p.threads, threads)
		}
		for round := range 300 {
			n := round % 17
			hits := make([]int, n) // plain numbers: the race detector checks the hand-over
			var most atomic.Int64
			p.run(n, func(worker, item int) {
				hits[item]++
				if w := int64(worker); w > most.Load() {
					most.Store(w)
				}
			})
			for i, h := range hits {
				if h != 1 {
					t.Fatalf("%d threads, round %d: item %d of %d ran %d times", threads, round, i, n, h)
				}
			}
			if most.Load() >= int64(threads) {
				t.Fatalf("worker %d of %d", most.Load(), threads)
			}
			if round%100 == 50 {
				time.Sleep(5 * time.Millisecond) // long enough for the workers to park
			}
		}
		p.close()
	}
}

// A pool whose workers are used at all: with two workers and two items that wait for one another,
// run would never return otherwise.
func TestPoolIsParallel(t *testing.T) {
	old := runtime.GOMAXPROCS(2)
	defer runtime.GOMAXPROCS(old)
	p := newPool(2)
	defer p.close()
	for range 20 {
		var met atomic.Int32
		p.run(2, func(int, int) {
			met.Add(1)
			for met.Load() < 2 {
				runtime.Gosched()
			}
		})
	}
}

func BenchmarkPoolEmpty(b *testing.B) {
	p := newPool(0)
	defer p.close()
	for b.Loop() {
		p.run(p.threads, func(int, int) {})
	}
}
