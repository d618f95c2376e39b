package calib

import (
	"fmt"
	"math"

	"github.com/pare-dev/pare/internal/fault"
)

// Extremes are the smallest and the largest value seen.
type Extremes struct {
	Min, Max float32
	Count    uint64
}

// Add looks at a batch.
func (e *Extremes) Add(x []float32) error {
	if len(x) == 0 {
		return nil
	}
	lo, hi, finite := extremes(x)
	if !finite {
		return fmt.Errorf("calibration values: %w", fault.ErrNotFinite)
	}
	if e.Count == 0 {
		e.Min, e.Max = lo, hi
	}
	e.Min, e.Max = min(e.Min, lo), max(e.Max, hi)
	e.Count += uint64(len(x))
	return nil
}

// extremes are the least and the largest of values, and whether all are finite. Comparisons whose outcome is nearly
// always the same cost little, and four of each do not wait for one another; the exponent of what is not finite, one
// more, is the sign bit.
func extremes(x []float32) (lo, hi float32, finite bool) {
	const exponents, one = 0x7f800000, 0x00800000
	low, high := [4]float32{x[0], x[0], x[0], x[0]}, [4]float32{x[0], x[0], x[0], x[0]}
	var seen [4]uint32
	for ; len(x) >= 4; x = x[4:] {
		a, b, c, d := x[0], x[1], x[2], x[3]
		seen[0] |= math.Float32bits(a)&exponents + one
		seen[1] |= math.Float32bits(b)&exponents + one
		seen[2] |= math.Float32bits(c)&exponents + one
		seen[3] |= math.Float32bits(d)&exponents + one
		if a < low[0] {
			low[0] = a
		}
		if a > high[0] {
			high[0] = a
		}
		if b < low[1] {
			low[1] = b
		}
		if b > high[1] {
			high[1] = b
		}
		if c < low[2] {
			low[2] = c
		}
		if c > high[2] {
			high[2] = c
		}
		if d < low[3] {
			low[3] = d
		}
		if d > high[3] {
			high[3] = d
		}
	}
	for _, v := range x {
		seen[0] |= math.Float32bits(v)&exponents + one
		low[0], high[0] = min(low[0], v), max(high[0], v)
	}
	return min(low[0], low[1], low[2], low[3]), max(high[0], high[1], high[2], high[3]), (seen[0]|seen[1]|seen[2]|seen[3])>>31 == 0
}

// Range is [Min, Max] with zero.
func (e *Extremes) Range() (lo, hi float64) {
	return min(float64(e.Min), 0), max(float64(e.Max), 0)
}

// MovingAverage follows the extremes of each batch: m += Rate * (new - m), from those of the first batch.
// It depends on the order of the batches, so callers keep to that of the calibration set.
type MovingAverage struct {
	Rate     float64 // 0.01 is usual; 0 means that
	Min, Max float64
	batches  int
}

// Add looks at a batch.
func (m *MovingAverage) Add(x []float32) error {
	var e Extremes
	if err := e.Add(x); err != nil || e.Count == 0 {
		return err
	}
	rate := m.Rate
	if rate == 0 {
		rate = 0.01
	}
	if m.batches++; m.batches == 1 {
		m.Min, m.Max = float64(e.Min), float64(e.Max)
		return nil
	}
	m.Min += rate * (float64(e.Min) - m.Min)
	m.Max += rate * (float64(e.Max) - m.Max)
	return nil
}

// Range is [Min, Max] with zero.
func (m *MovingAverage) Range() (lo, hi float64) { return min(m.Min, 0), max(m.Max, 0) }
