package eval

import (
	"context"

	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/par"
)

// Worker is what a step runs with.
type Worker struct {
	Kernels *kernels.Set
	Threads int
	// Scratch is what the step asked for; its content is whatever was there.
	Scratch []byte

	ctx  context.Context
	pool *par.Pool
}

// Do calls fn(worker, item) for every item in [0,n) on the program's threads. worker is below Threads. What
// an item computes must not depend on the worker.
func (w *Worker) Do(n int, fn func(worker, item int)) {
	switch {
	case w.Threads <= 1 || n <= 1:
		for i := range n {
			fn(0, i)
		}
	case w.pool != nil:
		w.pool.Run(n, fn)
	default:
		// the pieces are not the caller's to cancel: a context that ends is seen between steps
		_ = par.Range(context.Background(), w.Threads, n, 1, func(worker, lo, hi int) error {
			for i := lo; i < hi; i++ {
				fn(worker, i)
			}
			return nil
		})
	}
}

// piece is about the arithmetic operations below which a step is not worth another thread: a barrier costs
// some microseconds.
const piece = 1 << 15

// Alone reports whether Range would call its function once. Who asks first need not make the function, which
// would be allocated.
func (w *Worker) Alone(n, cost int) bool {
	return w.Threads <= 1 || n < 2*max(1, piece/max(cost, 1))
}

// Range cuts [0,n) into pieces, each of which costs at least what a barrier is worth, and calls fn for them
// on the program's threads; cost is the operations of one index.
func (w *Worker) Range(n, cost int, fn func(lo, hi int)) {
	if w.Alone(n, cost) {
		fn(0, n)
		return
	}
	grain := max(1, piece/max(cost, 1))
	pieces := min(4*w.Threads, n/grain)
	w.Do(pieces, func(_, i int) { fn(n*i/pieces, n*(i+1)/pieces) })
}

// transpose sets dst to the transpose of src, which has so many rows and columns.
func (w *Worker) transpose(dst, src []float32, rows, cols int) {
	d, s := kernels.View(dst, cols, rows), kernels.View(src, rows, cols)
	if rows*cols < 2*piece || w.Threads == 1 {
		w.Kernels.Transpose(d, s)
		return
	}
	w.Range(rows, cols, func(lo, hi int) { w.Kernels.Transpose(d.Slice(0, cols, lo, hi), s.Slice(lo, hi, 0, cols)) })
}
