package prune

import (
	"context"
	"fmt"

	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
)

// masked is a tensor with some weights zero. The type is the base's; weights that stay keep their
// bytes, because all bytes of a zero are zero in every floating-point type.
type masked struct {
	t      *ir.Tensor // the base's handle
	info   *storage.Info
	scorer scorer
	rule   rule
}

func newMasked(t *ir.Tensor, s scorer, r rule) *ir.Tensor {
	return t.With(t.Type, nil, &masked{t, storage.MustLookup(t.Type), s, r})
}

// ReadRows implements ir.Source.
func (m *masked) ReadRows(ctx context.Context, dst []float32, lo, hi int) error {
	if err := m.t.Data.ReadRows(ctx, dst, lo, hi); err != nil {
		return err
	}
	return m.mask(dst, lo, hi, func(i int) { dst[i] = 0 })
}

// ReadRaw implements ir.Source.
func (m *masked) ReadRaw(ctx context.Context, part ir.Part, dst []byte, lo, hi int) error {
	if err := m.t.Data.ReadRaw(ctx, part, dst, lo, hi); err != nil {
		return err
	}
	cols, width := m.t.Cols(), m.info.BlockBytes
	row := make([]float32, cols)
	for i := lo; i < hi; i++ {
		b := dst[(i-lo)*cols*width:][:cols*width]
		m.info.Decode(row, b)
		if err := m.mask(row, i, i+1, func(j int) { clear(b[j*width : (j+1)*width]) }); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// mask calls set for every weight of rows [lo,hi) that goes, by its position in w.
func (m *masked) mask(w []float32, lo, hi int, set func(i int)) error {
	cols := m.t.Cols()
	keys, scratch := make([]uint32, cols), make([]uint64, cols)
	for r := lo; r < hi; r++ {
		at := (r - lo) * cols
		if err := m.scorer.keys(keys, w[at:at+cols]); err != nil {
			return fmt.Errorf("row %d: %w", r, err)
		}
		m.rule.drop(keys, int64(r)*int64(cols), scratch, func(col int) { set(at + col) })
	}
	return nil
}
