package lower

import (
	"context"
	"fmt"
	"sync"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
)

// weight is a constant whose elements are those of a handle's rows, in float32.
func weight(t *ir.Tensor, lo int) *graph.Tensor {
	rows, cols := t.Rows(), t.Cols()
	shape := append([]int{rows - lo}, cols)
	if len(t.Shape) == 1 {
		shape = []int{cols}
	}
	r := reader{t: t, lo: lo, cols: cols}
	return &graph.Tensor{Type: graph.Float32, Shape: shape, Fill: r.fill}
}

// reader gives any bytes of rows of a handle.
type reader struct {
	t        *ir.Tensor
	lo, cols int
}

func (r reader) fill(ctx context.Context, dst []byte, off int64) error {
	row := 4 * int64(r.cols)
	first, last := off/row, (off+int64(len(dst))+row-1)/row
	t := graph.New(graph.Float32, int(last-first), r.cols)
	if err := r.t.Data.ReadRows(ctx, graph.Of[float32](t), r.lo+int(first), r.lo+int(last)); err != nil {
		return ir.Wrap(r.t, "onnx", err)
	}
	copy(dst, t.Data[off-first*row:])
	return nil
}

// turned is a matrix [out,in] as products with rows on the left want it, [in,out].
func turned(t *ir.Tensor) *graph.Tensor {
	r := &turner{t: t}
	return &graph.Tensor{Type: graph.Float32, Shape: []int{t.Cols(), t.Rows()}, Fill: r.fill}
}

// turner keeps a transposed matrix from the first piece that is asked for to the last.
type turner struct {
	t    *ir.Tensor
	mu   sync.Mutex
	made *graph.Tensor
}

func (r *turner) fill(ctx context.Context, dst []byte, off int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.made == nil {
		if err := r.make(ctx); err != nil {
			return ir.Wrap(r.t, "onnx", err)
		}
	}
	copy(dst, r.made.Data[off:])
	if off+int64(len(dst)) == int64(len(r.made.Data)) {
		r.made = nil
	}
	return nil
}

// make reads and transposes, some rows at a time.
func (r *turner) make(ctx context.Context) error {
	const band = 64
	rows, cols := r.t.Rows(), r.t.Cols()
	out := graph.New(graph.Float32, cols, rows)
	y, x := graph.Of[float32](out), make([]float32, min(band, rows)*cols)
	for lo := 0; lo < rows; lo += band {
		hi := min(lo+band, rows)
		if err := r.t.Data.ReadRows(ctx, x[:(hi-lo)*cols], lo, hi); err != nil {
			return err
		}
		for c := range cols {
			to := y[c*rows+lo : c*rows+hi]
			for i := range to {
				to[i] = x[i*cols+c]
			}
		}
	}
	r.made = out
	return nil
}

// Load reads the weights of a graph into memory. limit bounds their bytes; 0 is no bound.
func Load(ctx context.Context, g *graph.Graph, limit int64) error {
	var total int64
	for _, v := range g.Constants() {
		if v.Const.Fill != nil {
			total += int64(v.Const.Type.Bytes(v.Const.Elems()))
		}
	}
	if limit > 0 && total > limit {
		return &fault.Error{
			Op: "onnx", Err: fault.As(fault.ErrBudget, fmt.Errorf("the weights take %d bytes in float32, %d are allowed", total, limit)),
			Hint: "raise --max-memory",
		}
	}
	for _, v := range g.Constants() {
		if v.Const.Fill == nil {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		t := graph.New(v.Const.Type, v.Const.Shape...)
		if err := v.Const.Fill(ctx, t.Data, 0); err != nil {
			return err
		}
		v.Const = t
	}
	return nil
}
