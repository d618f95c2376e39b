package runner

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pare-dev/pare/internal/par"
)

// pool is a set of persistent workers for steps of tens of microseconds. A goroutine woken through
// a channel takes about 50 µs to start on another core, which is as long as a whole step of token
// generation, so workers spin for a while before they park.
//
// Items of a run are independent and handed out in turn; which worker takes which item never shows
// in a result. The caller is worker 0. Runs of one pool follow one another, never overlap.
type pool struct {
	threads  int
	current  atomic.Pointer[job]
	sleepers atomic.Int32
	closed   atomic.Bool
	mu       sync.Mutex
	wake     *sync.Cond
	done     sync.WaitGroup
}

// job is one run. It is never reused: a worker that comes late to a finished job finds no item
// left, so nobody has to wait until every worker has looked at it.
type job struct {
	n        int64
	fn       func(worker, item int)
	next     atomic.Int64
	finished atomic.Int64
}

// spinLoads is how often a worker looks for the next job before it parks, and yieldLoads how often
// between two offers of its core to somebody else: a few tens of microseconds in all.
const (
	spinLoads  = 20000
	yieldLoads = 500
)

// newPool starts the workers of a pool; threads 0 means all usable cores.
func newPool(threads int) *pool {
	p := &pool{threads: par.Threads(threads)}
	p.wake = sync.NewCond(&p.mu)
	for w := 1; w < p.threads; w++ {
		p.done.Go(func() { p.serve(w) })
	}
	return p
}

// close ends the workers. No run may be under way.
func (p *pool) close() {
	p.closed.Store(true)
	p.mu.Lock()
	p.wake.Broadcast()
	p.mu.Unlock()
	p.done.Wait()
}

// run calls fn(worker, item) for every item in [0,n) and returns when all calls have returned.
func (p *pool) run(n int, fn func(worker, item int)) {
	if p.threads == 1 || n <= 1 {
		for i := range n {
			fn(0, i)
		}
		return
	}
	j := &job{n: int64(n), fn: fn}
	p.current.Store(j)
	// A worker counts itself a sleeper before it looks at current for the last time, so either it
	// sees this job or it is seen here; the lock waits until it really sleeps.
	if p.sleepers.Load() > 0 {
		p.mu.Lock()
		p.wake.Broadcast()
		p.mu.Unlock()
	}
	j.work(0)
	for spins := 1; j.finished.Load() < j.n; spins++ {
		switch {
		case spins > 10*spinLoads: // the system gave a worker's core to somebody else
			time.Sleep(50 * time.Microsecond)
		case spins%yieldLoads == 0:
			runtime.Gosched()
		}
	}
}

func (j *job) work(worker int) {
	for {
		i := j.next.Add(1) - 1
		if i >= j.n {
			return
		}
		j.fn(worker, int(i))
		j.finished.Add(1)
	}
}

func (p *pool) serve(worker int) {
	var last *job
	spins := 0
	for !p.closed.Load() {
		if j := p.current.Load(); j != last {
			j.work(worker)
			last, spins = j, 0
			continue
		}
		if spins++; spins < spinLoads {
			if spins%yieldLoads == 0 {
				runtime.Gosched()
			}
			continue
		}
		spins = 0
		p.mu.Lock()
		p.sleepers.Add(1)
		for p.current.Load() == last && !p.closed.Load() {
			p.wake.Wait()
		}
		p.sleepers.Add(-1)
		p.mu.Unlock()
	}
}
