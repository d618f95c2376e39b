package formats

import (
	"context"
	"errors"
	"sync"

	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
)

// RoPE turns pairs of elements of a head. Hugging Face pairs element i with element i+half; GGUF
// files of architecture llama pair neighbours, and store the rows of q and k (and the elements of
// their biases) in an order that makes up for it: within each head of 2*half rows,
//
//	GGUF row 2*i+j  holds  Hugging Face row j*half+i        i < half, j < 2
//
// (llama.cpp's convert_hf_to_gguf.py, LlamaModel.permute). Quantization works row by row, so the
// rows of encoded types move as they are.

// rotated shows the rows of a tensor in the other order.
type rotated struct {
	t    *ir.Tensor // the tensor as it lies
	half int
	in   bool // the tensor lies in GGUF order and is shown in Hugging Face order; else the reverse
}

// errOrder is the reason when the rows of a tensor cannot be rearranged.
var errOrder = errors.New("rows are not whole heads")

// rotate returns t with the rows of its heads rearranged. Rearranging back gives the first handle's data.
func rotate(t *ir.Tensor, headDim int, in bool) (*ir.Tensor, error) {
	if r, ok := t.Data.(*rotated); ok && r.in != in && r.half == headDim/2 {
		return t.With(t.Type, t.Scheme, r.t.Data), nil
	}
	n := t.Rows()
	if len(t.Shape) == 1 {
		n = t.Cols()
	}
	if headDim < 2 || headDim%2 != 0 || n%headDim != 0 {
		return nil, ir.Wrap(t, "rope order", errOrder)
	}
	if len(t.Shape) == 1 {
		if info, ok := storage.Lookup(t.Type); t.Scheme != nil || !ok || info.BlockElems != 1 {
			return nil, ir.Wrap(t, "rope order", errors.New("a vector of blocks cannot be rearranged"))
		}
	}
	return t.With(t.Type, t.Scheme, &rotated{t: t, half: headDim / 2, in: in}), nil
}

// from is the row as it lies of row r as it is shown.
func (s *rotated) from(r int) int {
	head, i := r/(2*s.half), r%(2*s.half)
	if s.in { // shown j*half+i lies at 2*i+j
		return head*2*s.half + 2*(i%s.half) + i/s.half
	}
	return head*2*s.half + (i%2)*s.half + i/2
}

// ReadRows implements ir.Source.
func (s *rotated) ReadRows(ctx context.Context, dst []float32, lo, hi int) error {
	if len(s.t.Shape) == 1 {
		all := make([]float32, s.t.Cols())
		if err := s.t.Data.ReadRows(ctx, all, 0, 1); err != nil || lo == hi {
			return err
		}
		for i := range dst {
			dst[i] = all[s.from(i)]
		}
		return nil
	}
	return gather(s, &realHeads, dst, s.t.Cols(), lo, hi, func(buf []float32, a, b int) error { return s.t.Data.ReadRows(ctx, buf, a, b) })
}

// ReadRaw implements ir.Source.
func (s *rotated) ReadRaw(ctx context.Context, part ir.Part, dst []byte, lo, hi int) error {
	if len(s.t.Shape) == 1 {
		n := len(dst) / max(s.t.Cols(), 1)
		all := make([]byte, len(dst))
		if err := s.t.Data.ReadRaw(ctx, part, all, 0, 1); err != nil || lo == hi {
			return err
		}
		for i := range s.t.Cols() {
			copy(dst[i*n:(i+1)*n], all[s.from(i)*n:])
		}
		return nil
	}
	if s.t.Scheme != nil && s.t.Scheme.Group == storage.GroupTensor && part != ir.PartCodes {
		return s.t.Data.ReadRaw(ctx, part, dst, lo, hi) // one scale for all rows
	}
	row, err := s.t.PartBytes(part, 0, 1)
	if err != nil {
		return err
	}
	return gather(s, &rawHeads, dst, int(row), lo, hi, func(buf []byte, a, b int) error { return s.t.Data.ReadRaw(ctx, part, buf, a, b) })
}

// gather reads the heads that rows [lo,hi) belong to, one after the other, and picks the rows. Of a head
// that is not wanted whole it reads the rows one by one.
func gather[T any](s *rotated, pool *sync.Pool, dst []T, row, lo, hi int, read func(buf []T, a, b int) error) error {
	if err := ir.CheckRange(s.t.Rows(), lo, hi); err != nil {
		return err
	}
	size := 2 * s.half
	buf := takeHead[T](pool, size*row)
	defer pool.Put(buf)
	for first := lo / size * size; first < hi; first += size {
		whole := first >= lo && first+size <= hi
		if whole {
			if err := read((*buf), first, first+size); err != nil {
				return err
			}
		}
		for r := max(lo, first); r < min(hi, first+size); r++ {
			out, from := dst[(r-lo)*row:(r-lo+1)*row], s.from(r)
			if whole {
				copy(out, (*buf)[(from-first)*row:])
			} else if err := read(out, from, from+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// Buffers for the rows of a head: of numbers, and of bytes.
var realHeads, rawHeads sync.Pool

// takeHead gives a buffer of n elements from a pool of *[]T.
func takeHead[T any](pool *sync.Pool, n int) *[]T {
	if b, ok := pool.Get().(*[]T); ok && cap(*b) >= n {
		*b = (*b)[:n]
		return b
	}
	b := make([]T, n)
	return &b
}
