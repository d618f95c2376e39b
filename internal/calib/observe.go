package calib

import (
	"fmt"

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
	lo, hi := x[0], x[0]
	var sum float32 // NaN and infinities stay in it, through v*0
	for _, v := range x {
		lo, hi = min(lo, v), max(hi, v)
		sum += v * 0
	}
	if sum != 0 {
		return fmt.Errorf("calibration values: %w", fault.ErrNotFinite)
	}
	if e.Count == 0 {
		e.Min, e.Max = lo, hi
	}
	e.Min, e.Max = min(e.Min, lo), max(e.Max, hi)
	e.Count += uint64(len(x))
	return nil
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

// Channels are the extremes of each channel of an array [outer, channels, inner]: activations [N,C,H,W]
// have inner = H*W, rows [T,C] have inner = 1.
type Channels struct{ Each []Extremes }

// Add looks at a batch of outer * channels * inner values.
func (c *Channels) Add(x []float32, channels, inner int) error {
	if c.Each == nil {
		c.Each = make([]Extremes, channels)
	}
	if channels != len(c.Each) || inner <= 0 || channels*inner == 0 || len(x)%(channels*inner) != 0 {
		return fmt.Errorf("%d values are no whole number of %d channels of %d; there were %d before", len(x), channels, inner, len(c.Each))
	}
	for i := 0; i < len(x); i += inner {
		if err := c.Each[i/inner%channels].Add(x[i : i+inner]); err != nil {
			return err
		}
	}
	return nil
}

// MaxAbs is the largest magnitude of each channel.
func (c *Channels) MaxAbs() []float32 {
	out := make([]float32, len(c.Each))
	for i, e := range c.Each {
		out[i] = max(-e.Min, e.Max, 0)
	}
	return out
}
