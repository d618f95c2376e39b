package ir

import (
	"context"
	"fmt"

	"github.com/pare-dev/pare/internal/fault"
)

// Band is a range of rows of one tensor.
type Band struct{ Lo, Hi int }

// Bands splits rows into ranges whose rows take at most budget bytes at rowBytes each; every range
// but the last starts at a multiple of the same count, so the split depends on nothing else.
func Bands(rows int, rowBytes, budget int64) []Band {
	step := rows // empty rows take nothing
	if rowBytes > 0 {
		step = int(max(1, min(int64(rows), budget/rowBytes)))
	}
	bands := make([]Band, 0, (rows+step-1)/max(step, 1))
	for lo := 0; lo < rows; lo += step {
		bands = append(bands, Band{lo, min(rows, lo+step)})
	}
	return bands
}

// EachBand decodes the tensor a band of rows at a time, never holding more than budget bytes of
// real values (one row at least), and calls fn in row order. x is reused between calls.
func EachBand(ctx context.Context, t *Tensor, budget int64, fn func(b Band, x []float32) error) error {
	cols := t.Cols()
	var buf []float32
	for _, b := range Bands(t.Rows(), int64(cols)*4, budget) {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := (b.Hi - b.Lo) * cols
		if cap(buf) < n {
			buf = make([]float32, n)
		}
		x := buf[:n]
		if err := t.Data.ReadRows(ctx, x, b.Lo, b.Hi); err != nil {
			return Wrap(t, "read", err)
		}
		if err := fn(b, x); err != nil {
			return err
		}
	}
	return nil
}

// ReadAll decodes a whole tensor; for those known to be small (norms, one block's matrices).
func ReadAll(ctx context.Context, t *Tensor) ([]float32, error) {
	x := make([]float32, t.Elems())
	if err := t.Data.ReadRows(ctx, x, 0, t.Rows()); err != nil {
		return nil, Wrap(t, "read", err)
	}
	return x, nil
}

// Wrap names the tensor in an error, unless it already carries a name.
func Wrap(t *Tensor, op string, err error) error {
	if err == nil {
		return nil
	}
	if fe, ok := err.(*fault.Error); ok && fe.Tensor != "" { //nolint:errorlint // only the outermost counts
		return err
	}
	return &fault.Error{Tensor: t.Name, Op: op, Err: err}
}

// CheckRange is the bounds check that every Source starts with.
func CheckRange(rows, lo, hi int) error {
	if lo < 0 || hi < lo || hi > rows {
		return fmt.Errorf("rows [%d,%d) of %d", lo, hi, rows)
	}
	return nil
}
