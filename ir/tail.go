package ir

import "context"

// From shows the rows of a tensor from one on, under the same name.
func (t *Tensor) From(row int) *Tensor {
	c := t.With(t.Type, t.Scheme, &tail{t: t, from: row})
	c.Shape = []int{t.Rows() - row, t.Cols()}
	return c
}

// tail is the source of From.
type tail struct {
	t    *Tensor
	from int
}

// ReadRows implements Source.
func (s *tail) ReadRows(ctx context.Context, dst []float32, lo, hi int) error {
	if err := CheckRange(s.t.Rows()-s.from, lo, hi); err != nil {
		return err
	}
	return s.t.Data.ReadRows(ctx, dst, s.from+lo, s.from+hi)
}

// ReadRaw implements Source.
func (s *tail) ReadRaw(ctx context.Context, part Part, dst []byte, lo, hi int) error {
	if err := CheckRange(s.t.Rows()-s.from, lo, hi); err != nil {
		return err
	}
	return s.t.Data.ReadRaw(ctx, part, dst, s.from+lo, s.from+hi)
}
