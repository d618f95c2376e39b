package formats

import (
	"context"
	"encoding/binary"
	"math"

	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
)

// widened gives a tensor of any type as float32.
type widened struct{ t *ir.Tensor }

// widen returns t as f32.
func widen(t *ir.Tensor) *ir.Tensor {
	if t.Type == storage.F32 {
		return t
	}
	return t.With(storage.F32, nil, widened{t})
}

// ReadRows implements ir.Source.
func (s widened) ReadRows(ctx context.Context, dst []float32, lo, hi int) error {
	return s.t.Data.ReadRows(ctx, dst, lo, hi)
}

// ReadRaw implements ir.Source. The bits of the values are kept, whatever they are.
func (s widened) ReadRaw(ctx context.Context, _ ir.Part, dst []byte, lo, hi int) error {
	x := make([]float32, len(dst)/4)
	if err := s.t.Data.ReadRows(ctx, x, lo, hi); err != nil {
		return err
	}
	for i, v := range x {
		binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(v))
	}
	return nil
}

// vector is a small float32 tensor in memory.
type vector []float32

// newVector makes the handle of a vector that pare itself computes.
func newVector(name string, x []float32) *ir.Tensor {
	return &ir.Tensor{Name: name, Block: -1, Shape: []int{len(x)}, Type: storage.F32, Data: vector(x)}
}

// ReadRows implements ir.Source.
func (v vector) ReadRows(_ context.Context, dst []float32, lo, hi int) error {
	if hi > lo {
		copy(dst, v)
	}
	return ir.CheckRange(1, lo, hi)
}

// ReadRaw implements ir.Source.
func (v vector) ReadRaw(_ context.Context, _ ir.Part, dst []byte, lo, hi int) error {
	if hi > lo {
		for i, x := range v {
			binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(x))
		}
	}
	return ir.CheckRange(1, lo, hi)
}
