package par

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
)

// Phases calls fn for the items 0 to count(p)-1 of every phase p in turn, on at most threads
// goroutines. All items of a phase are done before any of the next begins; the goroutines stay
// between phases and meet by spinning, which costs far less than starting them again, and for a while
// after the last, for calls that follow soon. The first
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
	together(threads, work)
	bad.rethrow()
	return first
}

// crew is the pool of all Phases, made when the first of them begins.
var crew struct {
	sync.Mutex // held while it works
	pool       *Pool
}

// together calls work for every worker below threads and returns when all calls have. One whose call comes
// late may find everything done. Where the crew works for somebody else, perhaps for the one who calls from an
// item of theirs, goroutines do it.
func together(threads int, work func(worker int)) {
	if !crew.TryLock() {
		var wg sync.WaitGroup
		for w := 1; w < threads; w++ {
			wg.Go(func() { work(w) })
		}
		work(0)
		wg.Wait()
		return
	}
	defer crew.Unlock()
	if crew.pool == nil || crew.pool.Threads() < threads {
		if crew.pool != nil {
			crew.pool.Close()
		}
		crew.pool = NewPool(0)
	}
	crew.pool.Run(threads, func(_, item int) { work(item) })
}
