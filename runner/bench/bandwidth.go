package bench

import (
	"sync"
	"time"

	"github.com/pare-dev/pare/internal/cpu"
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/par"
)

// bandwidthBytes is how much memory the measurement of bandwidth reads unless told: far more than the
// caches of common processors. Where the memory budget gives less than bandwidthLeast, it is not measured: the
// caches would answer.
const (
	bandwidthBytes = 256 << 20
	bandwidthLeast = 64 << 20
)

// reader measures how fast threads together read memory. Token generation cannot be faster than the
// weights divided by this figure, and it drifts by tens of per cent on shared machines, so it is
// taken again beside every figure that it explains.
type reader struct {
	k    *kernels.Set
	part [][]float32 // one a thread
}

// newReader takes size bytes (0: bandwidthBytes), but at most half of memory, a budget in bytes (0:
// no limit), and is nil when that is too little.
func newReader(level cpu.Level, threads int, memory, size int64) *reader {
	if size <= 0 {
		size = bandwidthBytes
	}
	if memory > 0 {
		size = min(size, memory/2)
	}
	if size < bandwidthLeast {
		return nil
	}
	threads = par.Threads(threads)
	r := &reader{k: kernels.For(level), part: make([][]float32, threads)}
	for i := range r.part {
		p := make([]float32, int(size/4)/threads)
		for j := range p { // pages that were never written are all one page of zeros
			p[j] = float32(j & 1023)
		}
		r.part[i] = p
	}
	return r
}

// read reads all memory once and gives bytes per second. Each thread notes its own time: one that
// is woken late does not make the others look slow or fast.
func (r *reader) read() float64 {
	var wg sync.WaitGroup
	rate := make([]float64, len(r.part))
	for i, p := range r.part {
		wg.Go(func() {
			const step = 1 << 16
			start := time.Now()
			for at := 0; at < len(p); at += step {
				r.k.Max(p[at:min(len(p), at+step)])
			}
			rate[i] = float64(len(p)*4) / time.Since(start).Seconds()
		})
	}
	wg.Wait()
	sum := 0.0
	for _, v := range rate {
		sum += v
	}
	return sum
}
