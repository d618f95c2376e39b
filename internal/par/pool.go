package par

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pare-dev/pare/internal/cpu"
)

// Pool is a set of persistent workers for steps of tens of microseconds, where Range serves those of
// milliseconds. A goroutine woken through a channel takes about 50 µs to start on another core, which is as
// long as a whole step of token generation, so workers spin for a while before they park.
//
//	pool := par.NewPool(0)
//	defer pool.Close()
//	pool.Run(len(items), func(worker, i int) { ... })
//
// Items of a run are independent. Each worker begins with its own share of adjacent items, which it
// therefore finds in the same places of memory from run to run, and then helps the others: where
// the system has taken a core away, its items are done by somebody else. Which worker takes which
// item never shows in a result. The caller is worker 0. Runs allocate nothing.
//
// One pool is enough for all that a process computes in turns, and better than several, whose spinning
// workers take the cores from each other. Runs from different goroutines wait for one another; an item must
// not begin a run of the same pool.
//
// What panics in an item, whichever worker has it, panics in the caller when all items are done: nobody
// then uses what the caller is about to give back.
type Pool struct {
	threads  int
	shares   []share
	failed   panics // of the run under way
	sleepers atomic.Int32
	closed   atomic.Bool
	mu       sync.Mutex
	wake     *sync.Cond
	done     sync.WaitGroup
	// What is written in every run lies on lines of its own, or each write would wait until those who poll
	// the others have given the line back.
	_        line
	running  sync.Mutex             // held during a run
	epoch    uint32                 // number of the run
	n        int                    // of the run under way, as fn: read by those who hold one of its items
	fn       func(worker, item int) //
	_        line
	finished atomic.Int64 // items of the run that are done
	_        line
}

// line keeps neighbours off each other's cache line, and off the pair that is fetched at once.
type line [120]byte

// share is the items of a run that nobody has taken yet, of those that one worker begins with: the
// number of the run, the next item and the end in one word. Its worker polls it for a new number. A worker
// that comes late, when the run is over and the next one is being prepared, sees another number and takes
// nothing.
type share struct {
	word atomic.Uint64
	_    line
}

// begun is the number of the run that the share belongs to.
func (s *share) begun() uint32 { return uint32(s.word.Load() >> (2 * itemBits)) }

const (
	itemBits = 16 // of an item's index within its share
	itemMask = 1<<itemBits - 1
)

func wordOf(epoch uint32, next, end int) uint64 {
	return uint64(epoch)<<(2*itemBits) | uint64(next)<<itemBits | uint64(end)
}

// Spinning ends after these times: a worker without a run parks, a caller whose workers do not come
// back has lost a core to somebody else. In between the core is offered to others now and then.
const (
	spinTime = 100 * time.Microsecond
	waitTime = time.Millisecond
	napTime  = 50 * time.Microsecond
	looks    = 16 // between two looks at the clock
	yields   = 32 // looks at the clock between two offers
)

// NewPool starts the workers of a pool; threads 0 means all usable cores. Close ends them.
func NewPool(threads int) *Pool {
	p := &Pool{threads: Threads(threads)}
	p.shares = make([]share, p.threads)
	p.wake = sync.NewCond(&p.mu)
	for w := 1; w < p.threads; w++ {
		p.done.Go(func() { p.serve(w) })
	}
	return p
}

// Threads is the number of workers, the caller among them: worker numbers are below it.
func (p *Pool) Threads() int { return p.threads }

// Close ends the workers. No run may be under way, nor follow.
func (p *Pool) Close() {
	p.closed.Store(true)
	p.mu.Lock()
	p.wake.Broadcast()
	p.mu.Unlock()
	p.done.Wait()
}

// Run calls fn(worker, item) for every item in [0,n) and returns when all calls have returned.
func (p *Pool) Run(n int, fn func(worker, item int)) {
	if p.threads == 1 || n <= 1 {
		for i := range n {
			fn(0, i)
		}
		return
	}
	p.running.Lock()
	defer p.running.Unlock()
	// an item's index within its share has itemBits
	most := p.threads * itemMask
	p.shared(min(n, most), fn)
	for at := most; at < n; at += most {
		p.shared(min(n-at, most), func(worker, item int) { fn(worker, at+item) })
	}
}

// shared is a run of no more items than the words of shares can count.
func (p *Pool) shared(n int, fn func(worker, item int)) {
	p.n, p.fn = n, fn
	p.finished.Store(0)
	p.epoch++
	for w := range p.shares { // which begins the run
		p.shares[w].word.Store(wordOf(p.epoch, 0, p.bound(n, w+1)-p.bound(n, w)))
	}
	// A worker counts itself a sleeper before it looks at the number for the last time, so either it
	// sees this run or it is seen here; the lock waits until it really sleeps.
	if p.sleepers.Load() > 0 {
		p.mu.Lock()
		p.wake.Broadcast()
		p.mu.Unlock()
	}
	p.work(0, p.epoch)
	var s spin
	for p.finished.Load() < int64(n) {
		if s.longer(waitTime) {
			time.Sleep(napTime)
		}
	}
	p.fn = nil
	p.failed.rethrow()
}

// bound is the first of n items in the share of worker w.
func (p *Pool) bound(n, w int) int { return n * w / p.threads }

// take takes the next item of a share in a run, counted within the share.
func (s *share) take(epoch uint32) (int, bool) {
	for {
		word := s.word.Load()
		next, end := int(word>>itemBits&itemMask), int(word&itemMask)
		if uint32(word>>(2*itemBits)) != epoch || next == end {
			return 0, false
		}
		if s.word.CompareAndSwap(word, word+1<<itemBits) {
			return next, true
		}
	}
}

// work takes items of a run as long as there are any: the worker's own, then those of the others.
func (p *Pool) work(worker int, epoch uint32) {
	taken := int64(0)
	for i := range p.threads {
		owner := (worker + i) % p.threads
		s := &p.shares[owner]
		item, ok := s.take(epoch)
		if !ok {
			continue
		}
		first := p.bound(p.n, owner) // who holds an item keeps the run from ending: n and fn stay
		for ; ok; item, ok = s.take(epoch) {
			p.do(worker, first+item)
			taken++
		}
	}
	if taken > 0 {
		p.finished.Add(taken)
	}
}

// do does one item, and keeps the first panic for the caller.
func (p *Pool) do(worker, item int) {
	defer p.failed.keep()
	p.fn(worker, item)
}

// serve is the life of a worker.
func (p *Pool) serve(worker int) {
	own, last := &p.shares[worker], uint32(0)
	var s spin
	for !p.closed.Load() {
		if epoch := own.begun(); epoch != last {
			p.work(worker, epoch)
			last, s = epoch, spin{}
			continue
		}
		if !s.longer(spinTime) {
			continue
		}
		s = spin{}
		p.mu.Lock()
		p.sleepers.Add(1)
		for own.begun() == last && !p.closed.Load() {
			p.wake.Wait()
		}
		p.sleepers.Add(-1)
		p.mu.Unlock()
	}
}

// spin waits politely and knows for how long it has done so.
type spin struct {
	turns int
	since time.Time
}

// longer passes some nanoseconds and reports whether the waiting has taken longer than a time. It
// looks at the clock now and then only, and offers the core to other goroutines less often still.
func (s *spin) longer(than time.Duration) bool {
	cpu.Pause()
	s.turns++
	if s.turns%looks != 0 {
		return false
	}
	if s.turns%(looks*yields) == 0 {
		runtime.Gosched()
	}
	if s.since.IsZero() {
		s.since = time.Now()
		return false
	}
	return time.Since(s.since) > than
}
