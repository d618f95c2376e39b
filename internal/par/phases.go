package par

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
)

// Phases calls fn for the items 0 to count(p)-1 of every phase p in turn, on at most threads
// goroutines. All items of a phase are done before any of the next begins; the goroutines stay
// between phases and meet by spinning, which costs far less than starting them again. The first
// error, or the context's, stops the rest and is returned. So does a panic, which the caller gets when all
// goroutines have ended.
func Phases(ctx context.Context, threads, phases int, count func(phase int) int, fn func(worker, phase, item int) error) error {
	most := 0
	for p := range phases {
		most = max(most, count(p))
	}
	threads = min(Threads(threads), most)
	if threads <= 1 {
		for p := range phases {
			for i := range count(p) {
				if err := ctx.Err(); err != nil {
					return err
				}
				if err := fn(0, p, i); err != nil {
					return err
				}
			}
		}
		return ctx.Err()
	}
	var (
		next  = make([]atomic.Int64, phases) // items that were taken
		done  = make([]atomic.Int64, phases) // items that are finished
		stop  atomic.Bool
		once  sync.Once
		first error
		wg    sync.WaitGroup
		bad   panics
	)
	do := func(worker, p, i int) error {
		defer bad.keep()
		return fn(worker, p, i)
	}
	work := func(worker int) {
		for p := range phases {
			n := int64(count(p))
			for i := next[p].Add(1) - 1; i < n; i = next[p].Add(1) - 1 {
				err := ctx.Err()
				if err == nil && !stop.Load() {
					err = do(worker, p, int(i))
				}
				if err != nil {
					once.Do(func() { first = err })
				}
				if err != nil || bad.any() {
					stop.Store(true)
				}
				done[p].Add(1)
			}
			// whoever took an item runs, so this ends
			for done[p].Load() < n {
				runtime.Gosched()
			}
			if stop.Load() {
				return
			}
		}
	}
	for w := 1; w < threads; w++ {
		wg.Go(func() { work(w) })
	}
	work(0)
	wg.Wait()
	bad.rethrow()
	return first
}
