package prune

import (
	"context"
	"errors"

	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
)

var errPart = errors.New("floats have one part")

// picked shows some rows and columns of a tensor of floats, byte by byte as they are.
type picked struct {
	t          *ir.Tensor
	info       *storage.Info
	rows, cols []int // nil: all
}

// pick makes the handle of some rows and columns; nil picks all. Of a vector the elements are columns.
func pick(t *ir.Tensor, rows, cols []int) *ir.Tensor {
	if rows == nil && cols == nil {
		return t
	}
	c := t.With(t.Type, nil, &picked{t, storage.MustLookup(t.Type), rows, cols})
	c.Shape = append([]int(nil), t.Shape...)
	if rows != nil {
		c.Shape[0] = len(rows)
	}
	if cols != nil {
		c.Shape[len(c.Shape)-1] = len(cols)
	}
	return c
}

func (p *picked) count() int {
	if p.rows != nil {
		return len(p.rows)
	}
	return p.t.Rows()
}

// ReadRaw implements ir.Source.
func (p *picked) ReadRaw(ctx context.Context, part ir.Part, dst []byte, lo, hi int) error {
	if err := ir.CheckRange(p.count(), lo, hi); err != nil {
		return err
	}
	if part != ir.PartData {
		return errPart
	}
	one := p.info.BlockBytes
	row := make([]byte, p.t.Cols()*one)
	for i := lo; i < hi; i++ {
		at := i
		if p.rows != nil {
			at = p.rows[i]
		}
		if err := p.t.Data.ReadRaw(ctx, part, row, at, at+1); err != nil {
			return err
		}
		if p.cols == nil {
			dst = dst[copy(dst, row):]
			continue
		}
		for _, c := range p.cols {
			dst = dst[copy(dst, row[c*one:(c+1)*one]):]
		}
	}
	return nil
}

// ReadRows implements ir.Source.
func (p *picked) ReadRows(ctx context.Context, dst []float32, lo, hi int) error {
	return decoded(ctx, p, p.info, dst, lo, hi)
}

// decoded reads rows of a source by its bytes.
func decoded(ctx context.Context, s ir.Source, info *storage.Info, dst []float32, lo, hi int) error {
	raw := make([]byte, len(dst)*info.BlockBytes)
	if err := s.ReadRaw(ctx, ir.PartData, raw, lo, hi); err != nil {
		return err
	}
	info.Decode(dst, raw)
	return nil
}

// scattered shows a tensor that lost columns with zeros in their places: what a model of the old
// dimensions computes with it is what the smaller one will.
type scattered struct {
	t    *ir.Tensor // [rows, len(cols)]
	info *storage.Info
	cols []int
	wide int
}

func scatter(t *ir.Tensor, cols []int, wide int) *ir.Tensor {
	c := t.With(t.Type, nil, &scattered{t, storage.MustLookup(t.Type), cols, wide})
	c.Shape = []int{t.Rows(), wide}
	return c
}

// ReadRaw implements ir.Source. All bytes of a zero are zero in every floating-point type.
func (s *scattered) ReadRaw(ctx context.Context, part ir.Part, dst []byte, lo, hi int) error {
	if err := ir.CheckRange(s.t.Rows(), lo, hi); err != nil {
		return err
	}
	if part != ir.PartData {
		return errPart
	}
	one, n := s.info.BlockBytes, len(s.cols)
	narrow := make([]byte, (hi-lo)*n*one)
	if err := s.t.Data.ReadRaw(ctx, part, narrow, lo, hi); err != nil {
		return err
	}
	clear(dst)
	for i := range hi - lo {
		for j, c := range s.cols {
			copy(dst[(i*s.wide+c)*one:], narrow[(i*n+j)*one:(i*n+j+1)*one])
		}
	}
	return nil
}

// ReadRows implements ir.Source.
func (s *scattered) ReadRows(ctx context.Context, dst []float32, lo, hi int) error {
	return decoded(ctx, s, s.info, dst, lo, hi)
}

// encoded is a small tensor in memory, such as a bias, in its stored type.
type encoded struct {
	info *storage.Info
	cols int
	b    []byte
}

// vector puts other values into a tensor of one row.
func vector(t *ir.Tensor, x []float32) (*ir.Tensor, error) {
	info := storage.MustLookup(t.Type)
	e := &encoded{info, len(x), make([]byte, len(x)*info.BlockBytes)}
	if err := info.Encode(e.b, x, nil); err != nil {
		return nil, err
	}
	c := t.With(t.Type, nil, e)
	c.Shape = []int{len(x)}
	return c, nil
}

// ReadRaw implements ir.Source.
func (e *encoded) ReadRaw(ctx context.Context, part ir.Part, dst []byte, lo, hi int) error {
	if part != ir.PartData {
		return errPart
	}
	row := e.cols * e.info.BlockBytes
	copy(dst, e.b[lo*row:hi*row])
	return ctx.Err()
}

// ReadRows implements ir.Source.
func (e *encoded) ReadRows(ctx context.Context, dst []float32, lo, hi int) error {
	return decoded(ctx, e, e.info, dst, lo, hi)
}
