package ir

import (
	"context"
	"io"
	"iter"
	"math"
	"sync"

	"github.com/pare-dev/pare/internal/par"
	"github.com/pare-dev/pare/internal/progress"
	"github.com/pare-dev/pare/internal/storage"
)

// Chunk is a stretch of output that one buffer holds: usually a band of rows of one tensor.
type Chunk struct {
	Tensor string // for errors
	Size   int    // bytes
	// Fill produces the bytes. It is called on any goroutine, many at a time.
	Fill func(ctx context.Context, dst []byte) error
}

// StreamOptions bound what Stream uses.
type StreamOptions struct {
	Threads  int           // 0: all cores
	Memory   int64         // bytes of chunk buffers held at once, 0: DefaultStreamMemory
	Progress progress.Sink // counts the bytes written; nil: silent
}

// DefaultStreamMemory is used when no budget is given.
const DefaultStreamMemory = 64 << 20

// Stream fills chunks on several goroutines and writes them in order. Chunks are taken from the
// sequence only as buffers become free, so memory is bounded by the budget (one chunk at least)
// however long the sequence is. The first error in chunk order, or the context's, ends the stream
// after every Fill has returned.
func Stream(ctx context.Context, w io.Writer, seq iter.Seq[Chunk], o StreamOptions) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if o.Memory <= 0 {
		o.Memory = DefaultStreamMemory
	}
	if o.Progress == nil {
		o.Progress = progress.Discard
	}
	threads := par.Threads(o.Threads)
	budget := newBudget(ctx, o.Memory)
	work := make(chan *flight)
	order := make(chan *flight, 2*threads) // bounds how far filling runs ahead

	var wg sync.WaitGroup
	for range threads {
		wg.Go(func() {
			for f := range work {
				f.err = f.chunk.Fill(ctx, f.buf)
				close(f.done)
			}
		})
	}
	wg.Go(func() {
		defer close(order)
		defer close(work)
		for c := range seq {
			if !budget.take(int64(c.Size)) {
				return
			}
			f := &flight{chunk: c, buf: budget.buffer(c.Size), done: make(chan struct{})}
			select {
			case order <- f:
			case <-ctx.Done():
				return
			}
			work <- f // a worker always comes: Fill returns, and the channel is closed only here
		}
	})
	var first error
	for f := range order {
		<-f.done
		if first == nil {
			first = o.flush(w, f)
			if err := ctx.Err(); first == nil && err != nil {
				first = context.Cause(ctx)
			}
			if first != nil {
				cancel(first)
			}
		}
		budget.give(f.buf, int64(f.chunk.Size))
	}
	wg.Wait()
	if first == nil && ctx.Err() != nil {
		first = context.Cause(ctx)
	}
	return first
}

func (o StreamOptions) flush(w io.Writer, f *flight) error {
	if f.err != nil {
		return Wrap(&Tensor{Name: f.chunk.Tensor}, "write", f.err)
	}
	n, err := w.Write(f.buf)
	o.Progress.Add(int64(n))
	return err
}

// flight is a chunk on its way.
type flight struct {
	chunk Chunk
	buf   []byte
	err   error
	done  chan struct{}
}

// budget counts bytes in flight and keeps buffers for reuse.
type budget struct {
	mu    sync.Mutex
	free  *sync.Cond
	ctx   context.Context //nolint:containedctx // lives as long as one call of Stream
	left  int64
	total int64
	bufs  [][]byte
	held  int64 // bytes of bufs
}

func newBudget(ctx context.Context, total int64) *budget {
	b := &budget{ctx: ctx, left: total, total: total}
	b.free = sync.NewCond(&b.mu)
	context.AfterFunc(ctx, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.free.Broadcast()
	})
	return b
}

// take waits until n bytes are free, or nothing is in flight; false when the context ends.
func (b *budget) take(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.left < n && b.left < b.total && b.ctx.Err() == nil {
		b.free.Wait()
	}
	b.left -= n
	return b.ctx.Err() == nil
}

// buffer reuses a returned buffer that is large enough and not wastefully so. Those of other sizes stay
// as long as all together fit: small tensors come between large ones.
func (b *budget) buffer(n int) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, buf := range b.bufs {
		if cap(buf) >= n && cap(buf) <= 2*n {
			b.bufs = append(b.bufs[:i], b.bufs[i+1:]...)
			b.held -= int64(cap(buf))
			return buf[:n]
		}
	}
	for len(b.bufs) > 0 && b.held > b.left { // left is what is not in flight, this buffer included
		b.held -= int64(cap(b.bufs[0]))
		b.bufs[0] = nil
		b.bufs = b.bufs[1:]
	}
	return make([]byte, n)
}

func (b *budget) give(buf []byte, n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left += n
	if b.held+int64(cap(buf)) <= b.total {
		b.bufs, b.held = append(b.bufs, buf), b.held+int64(cap(buf))
	}
	b.free.Signal()
}

// Chunks splits one part of a tensor into bands whose real values take at most memory bytes at
// four bytes each (one row at least). Every band but the last has the same number of rows.
func Chunks(t *Tensor, part Part, memory int64) iter.Seq[Chunk] {
	if t.Scheme != nil && t.Scheme.Group == storage.GroupTensor && part != PartCodes {
		memory = math.MaxInt64 // one scale for all rows: one chunk
	}
	return func(yield func(Chunk) bool) {
		for _, b := range Bands(t.Rows(), int64(t.Cols())*4, memory) {
			n, err := t.PartBytes(part, b.Lo, b.Hi)
			c := Chunk{Tensor: t.Name, Size: int(n), Fill: func(ctx context.Context, dst []byte) error {
				if err != nil {
					return err
				}
				return t.Data.ReadRaw(ctx, part, dst, b.Lo, b.Hi)
			}}
			if !yield(c) {
				return
			}
		}
	}
}

// BandMemory is the size of bands, in bytes of real values, that keeps Stream and the derived
// sources behind it (which hold a few times a band on each thread) within a budget.
func (o StreamOptions) BandMemory() int64 {
	m := o.Memory
	if m <= 0 {
		m = DefaultStreamMemory
	}
	return max(64<<10, min(4<<20, m/int64(8*par.Threads(o.Threads))))
}
