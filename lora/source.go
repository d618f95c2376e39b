package lora

import (
	"context"
	"fmt"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
)

// chain is the real values of a tensor after some steps.
type chain struct {
	t     *ir.Tensor // the base's handle
	steps []*step
	cache *cache
}

// scratch is the most real values that a derived source holds at once besides its result: 1 MiB.
const scratch = 1 << 18

// read computes rows [lo,hi).
func (c *chain) read(ctx context.Context, dst []float32, lo, hi int) error {
	cols := c.t.Cols()
	first := 0 // nothing before a whole replacement matters
	for i, s := range c.steps {
		if s.saved != nil && s.weight == 1 {
			first = i
		}
	}
	if len(c.steps) == 0 || c.steps[first].saved == nil || c.steps[first].weight != 1 {
		if err := c.t.Data.ReadRows(ctx, dst, lo, hi); err != nil {
			return err
		}
	}
	from := int64(lo) * int64(cols)
	for _, s := range c.steps[first:] {
		if s.saved == nil {
			l, err := c.cache.get(ctx, s)
			if err != nil {
				return err
			}
			l.Apply(dst, from, s.cols)
			continue
		}
		if s.weight == 1 {
			if err := s.saved.t.read(ctx, dst, int(from)); err != nil {
				return err
			}
			continue
		}
		buf := make([]float32, min(len(dst), scratch))
		for at := 0; at < len(dst); at += len(buf) {
			x := buf[:min(len(buf), len(dst)-at)]
			if err := s.saved.t.read(ctx, x, int(from)+at); err != nil {
				return err
			}
			for i, v := range x {
				dst[at+i] += float32(s.weight * (v - dst[at+i]))
			}
		}
	}
	return nil
}

// each hands the values over in row-major order, a band of rows at a time.
func (c *chain) each(ctx context.Context, fn func(from int64, x []float32) error) error {
	cols := c.t.Cols()
	var buf []float32
	for _, b := range ir.Bands(c.t.Rows(), int64(cols)*4, scratch*4) {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := (b.Hi - b.Lo) * cols
		if cap(buf) < n {
			buf = make([]float32, n)
		}
		if err := c.read(ctx, buf[:n], b.Lo, b.Hi); err != nil {
			return err
		}
		if err := fn(int64(b.Lo)*int64(cols), buf[:n]); err != nil {
			return err
		}
	}
	return nil
}

// floats is the chain as a tensor of float32 values.
type floats struct{ *chain }

// ReadRows implements ir.Source.
func (r floats) ReadRows(ctx context.Context, dst []float32, lo, hi int) error {
	if err := ir.CheckRange(r.t.Rows(), lo, hi); err != nil {
		return err
	}
	return r.read(ctx, dst, lo, hi)
}

// ReadRaw implements ir.Source.
func (r floats) ReadRaw(ctx context.Context, _ ir.Part, dst []byte, lo, hi int) error {
	return encodeRows(ctx, r.chain, storage.MustLookup(storage.F32), nil, dst, nil, lo, hi)
}

// merged is the chain in a stored type: the sum is made in float32 and rounded once.
type merged struct {
	*chain
	info       *storage.Info
	importance []float32
}

// ReadRaw implements ir.Source.
func (m *merged) ReadRaw(ctx context.Context, _ ir.Part, dst []byte, lo, hi int) error {
	return encodeRows(ctx, m.chain, m.info, m.importance, dst, nil, lo, hi)
}

// ReadRows implements ir.Source. It gives what a reader of the written bytes would see.
func (m *merged) ReadRows(ctx context.Context, dst []float32, lo, hi int) error {
	return encodeRows(ctx, m.chain, m.info, m.importance, nil, dst, lo, hi)
}

// encodeRows computes rows and encodes them, some at a time, to bytes in raw, or decoded again in
// back when raw is nil.
func encodeRows(ctx context.Context, c *chain, info *storage.Info, importance []float32, raw []byte, back []float32, lo, hi int) error {
	if err := ir.CheckRange(c.t.Rows(), lo, hi); err != nil {
		return err
	}
	cols := c.t.Cols()
	rowBytes, err := info.Type.RowBytes(cols)
	if err != nil {
		return err
	}
	step := max(1, min(hi-lo, scratch/max(cols, 1)))
	x := make([]float32, step*cols)
	var row []byte
	if raw == nil {
		row = make([]byte, rowBytes)
	}
	for at := lo; at < hi; at += step {
		end := min(hi, at+step)
		band := x[:(end-at)*cols]
		if err := c.read(ctx, band, at, end); err != nil {
			return err
		}
		for i := at; i < end; i++ {
			values := band[(i-at)*cols:][:cols]
			out := row
			if raw != nil {
				out = raw[int64(i-lo)*rowBytes:][:rowBytes]
			}
			if err := info.Encode(out, values, importance); err != nil {
				return explain(err, values, i, cols)
			}
			if raw == nil {
				info.Decode(back[(i-lo)*cols:][:cols], out)
			}
		}
	}
	return nil
}

// explain names the element that an encoder refused.
func explain(err error, values []float32, row, cols int) error {
	for j, v := range values {
		if v-v != 0 {
			return fmt.Errorf("element [%d %d] is %v after the merge: %w", row, j, v, fault.ErrNotFinite)
		}
	}
	return fmt.Errorf("row %d of %d columns: %w", row, cols, err)
}
