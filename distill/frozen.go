package distill

import (
	"context"
	"fmt"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/par"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
)

// frozen is a matrix that does not learn: it stays as it is stored, block types included, and is decoded
// anew for every product. A product reads each weight for hundreds of tokens, so that costs little, and
// saves most of the memory that float32 would take.
type frozen struct {
	raw   []byte // nil: rows come from src, whose type has several parts
	row   int    // bytes of one
	cols  int
	code  func(dst []float32, src []byte)
	src   ir.Source
	bytes int64
}

// rows decodes rows [lo,hi).
func (f *frozen) rows(ctx context.Context, dst []float32, lo, hi int) error {
	if f.raw == nil {
		return f.src.ReadRows(ctx, dst, lo, hi)
	}
	f.code(dst, f.raw[lo*f.row:hi*f.row])
	return nil
}

// frozenBytes is the memory that a matrix takes when it does not learn, 0 when it is held as float32: as
// such it is stored, or it has one row, or only float32 is trained in.
func frozenBytes(t *ir.Tensor) int64 {
	if len(t.Shape) < 2 || t.Type == storage.F32 {
		return 0
	}
	n, err := t.Bytes()
	if err != nil {
		return 0
	}
	return n
}

// freeze keeps a matrix as it is stored.
func freeze(ctx context.Context, t *ir.Tensor, k *kernels.Set) (*frozen, error) {
	f := &frozen{cols: t.Cols(), src: t.Data, bytes: frozenBytes(t)}
	if t.Scheme == nil {
		info, ok := storage.Lookup(t.Type)
		if !ok || info.Decode == nil {
			return nil, fmt.Errorf("stored type %s cannot be computed with", t.Type)
		}
		row, err := t.Type.RowBytes(t.Cols())
		if err != nil {
			return nil, err
		}
		f.row, f.raw = int(row), make([]byte, f.bytes)
		if f.code = k.DecodeRow(string(t.Type)); f.code == nil {
			f.code = info.Decode
		}
		if err := t.Data.ReadRaw(ctx, ir.PartData, f.raw, 0, t.Rows()); err != nil {
			return nil, err
		}
	}
	band := max(1, (1<<16)/f.cols)
	x := make([]float32, band*f.cols)
	for lo := 0; lo < t.Rows(); lo += band {
		hi := min(lo+band, t.Rows())
		part := x[:(hi-lo)*f.cols]
		if err := f.rows(ctx, part, lo, hi); err != nil {
			return nil, err
		}
		if err := finite(part, lo*f.cols); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// finite refuses what is no number; from is the place of the first.
func finite(x []float32, from int) error {
	for i, v := range x {
		if v-v != 0 {
			return fmt.Errorf("element %d is %v: %w", from+i, v, fault.ErrNotFinite)
		}
	}
	return nil
}

// weight is the matrix of a parameter for a product. A frozen one is valid until the next call.
func (n *Net[T]) weight(ctx context.Context, p *Param[T]) (kernels.Dense[T], error) {
	if p.frozen == nil {
		return p.matrix(), nil
	}
	x, _ := reals(need(&n.decoded, p.Rows*p.Cols)) // only float32 networks freeze
	err := par.Range(ctx, n.threads, p.Rows, max(1, (1<<15)/p.Cols), func(_, lo, hi int) error {
		return p.frozen.rows(ctx, x[lo*p.Cols:hi*p.Cols], lo, hi)
	})
	return kernels.View(n.decoded, p.Rows, p.Cols), err
}

// lookUp copies one row of the embedding.
func (n *Net[T]) lookUp(ctx context.Context, dst []T, id int) error {
	p := n.embedding
	if p.frozen == nil {
		copy(dst, p.matrix().Row(id))
		return nil
	}
	x, _ := reals(dst)
	return p.frozen.rows(ctx, x, id, id+1)
}
