package par

import (
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pare-dev/pare/internal/fault"
)

// Every item of every run is done exactly once and before run returns, with workers that spin, that
// have parked, and that come late to a run which is already over.
func TestPool(t *testing.T) {
	old := runtime.GOMAXPROCS(4)
	defer runtime.GOMAXPROCS(old)
	for _, threads := range []int{1, 2, 4} {
		p := NewPool(threads)
		if p.Threads() != threads {
			t.Fatalf("%d workers, want %d", p.Threads(), threads)
		}
		for round := range 300 {
			n := round % 17
			hits := make([]int, n) // plain numbers: the race detector checks the hand-over
			var most atomic.Int64
			p.Run(n, func(worker, item int) {
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
		p.Close()
	}
}

// A pool whose workers are used at all: with two workers and two items that wait for one another,
// run would never return otherwise.
func TestPoolIsParallel(t *testing.T) {
	old := runtime.GOMAXPROCS(2)
	defer runtime.GOMAXPROCS(old)
	p := NewPool(2)
	defer p.Close()
	for range 20 {
		var met atomic.Int32
		p.Run(2, func(int, int) {
			met.Add(1)
			for met.Load() < 2 {
				runtime.Gosched()
			}
		})
	}
}

// A panic in an item, on the caller or on a worker, reaches the caller when all other items are done, with
// the place it came from; the pool goes on working.
func TestPoolPanics(t *testing.T) {
	old := runtime.GOMAXPROCS(2)
	defer runtime.GOMAXPROCS(old)
	p := NewPool(2)
	defer p.Close()
	for bad := range 2 { // worker 0 is the caller
		var met, done atomic.Int32
		caught := func() (v any) {
			defer func() { v = recover() }()
			p.Run(2, func(worker, _ int) {
				met.Add(1)
				for met.Load() < 2 { // both workers have an item
					runtime.Gosched()
				}
				if worker == bad {
					brokenItem()
				}
				time.Sleep(5 * time.Millisecond)
				done.Add(1)
			})
			return nil
		}()
		f, ok := caught.(*fault.Panic)
		if !ok || f.Value != "broken item" || !strings.Contains(string(f.Stack), "brokenItem") {
			t.Errorf("worker %d: the caller got %v", bad, caught)
		}
		if done.Load() != 1 {
			t.Errorf("worker %d: the caller went on before the other item was done", bad)
		}
		var sum atomic.Int32
		p.Run(8, func(_, item int) { sum.Add(int32(item)) })
		if sum.Load() != 28 {
			t.Errorf("after a panic the items add up to %d", sum.Load())
		}
	}
}

// Runs from several goroutines take turns: none of their items is lost or done beside those of another run.
func TestPoolTakesTurns(t *testing.T) {
	old := runtime.GOMAXPROCS(4)
	defer runtime.GOMAXPROCS(old)
	p := NewPool(4)
	defer p.Close()
	var users sync.WaitGroup
	var under atomic.Int32 // the user whose run is under way
	for user := range int32(3) {
		users.Go(func() {
			for range 200 {
				var sum atomic.Int32
				p.Run(9, func(_, item int) {
					under.Store(user)
					sum.Add(int32(item))
					if under.Load() != user {
						t.Error("two runs are under way")
					}
				})
				if sum.Load() != 36 {
					t.Errorf("the items add up to %d", sum.Load())
				}
			}
		})
	}
	users.Wait()
}

func brokenItem() { panic("broken item") }

func BenchmarkPoolEmpty(b *testing.B) {
	p := NewPool(0)
	defer p.Close()
	for b.Loop() {
		p.Run(p.Threads(), func(int, int) {})
	}
}
