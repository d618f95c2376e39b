package par

import (
	"runtime/debug"
	"sync/atomic"

	"github.com/pare-dev/pare/internal/fault"
)

// panics carries the first panic of several workers to the one who waits for them. Left alone it would end
// the process from a goroutine on which nobody can recover.
type panics struct{ first atomic.Pointer[fault.Panic] }

// keep recovers from a panic, and is deferred around a worker's work. One that comes from workers of its own
// stays as it is.
func (p *panics) keep() {
	v := recover()
	if v == nil {
		return
	}
	f, ok := v.(*fault.Panic)
	if !ok {
		f = &fault.Panic{Value: v, Stack: debug.Stack()}
	}
	p.first.CompareAndSwap(nil, f)
}

// any reports whether there was one.
func (p *panics) any() bool { return p.first.Load() != nil }

// rethrow panics in the caller, with a *fault.Panic, if a worker did.
func (p *panics) rethrow() {
	if f := p.first.Load(); f != nil {
		p.first.Store(nil)
		panic(f)
	}
}
