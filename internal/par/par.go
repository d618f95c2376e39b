// Package par runs loops on several cores. The split never changes a result: callers give it work
// whose items are independent, so the same bytes come out at any number of threads.
package par

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
)

// Threads returns n, or the number of usable cores when n is not positive. More threads than
// usable cores only cost time, so the answer never exceeds them.
func Threads(n int) int {
	most := runtime.GOMAXPROCS(0)
	if n <= 0 || n > most {
		return most
	}
	return n
}

// Range calls fn for consecutive pieces of [0,n), each at most grain long and starting at a
// multiple of grain, on at most threads goroutines. worker is below threads, for scratch space.
// The first error, or the context's, stops the rest and is returned. So does a panic, which the caller gets
// when all goroutines have ended.
func Range(ctx context.Context, threads, n, grain int, fn func(worker, lo, hi int) error) error {
	if n <= 0 {
		return ctx.Err()
	}
	grain = max(grain, 1)
	pieces := (n + grain - 1) / grain
	threads = min(Threads(threads), pieces)
	if threads == 1 {
		for p := range pieces {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := fn(0, p*grain, min(n, (p+1)*grain)); err != nil {
				return err
			}
		}
		return nil
	}
	var (
		next  atomic.Int64
		stop  atomic.Bool
		once  sync.Once
		first error
		wg    sync.WaitGroup
		bad   panics
	)
	for w := range threads {
		wg.Go(func() {
			defer bad.keep()
			for !stop.Load() && !bad.any() {
				p := int(next.Add(1)) - 1
				if p >= pieces {
					return
				}
				err := ctx.Err()
				if err == nil {
					err = fn(w, p*grain, min(n, (p+1)*grain))
				}
				if err != nil {
					once.Do(func() { first = err })
					stop.Store(true)
					return
				}
			}
		})
	}
	wg.Wait()
	bad.rethrow()
	return first
}
