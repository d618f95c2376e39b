package lora

import (
	"context"
	"fmt"
	"math"

	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
)

// sampleElems bounds the elements of a tensor that the figures look at. Larger tensors are sampled
// in bands spread evenly over the rows.
const sampleElems = 1 << 21

// measure compares a weight before the merge, the merged real values and the stored values.
func measure(ctx context.Context, c *chain, after *ir.Tensor) (map[string]float64, error) {
	rows, cols := c.t.Rows(), c.t.Cols()
	bands := sampleBands(rows, cols)
	var w, v, e []float32
	var sumW, sumD, sumErr, sumEff, dot float64
	var moved, stuck, seen int64
	for _, b := range bands {
		n := (b.Hi - b.Lo) * cols
		if cap(w) < n {
			w, v, e = make([]float32, n), make([]float32, n), make([]float32, n)
		}
		w, v, e = w[:n], v[:n], e[:n]
		if err := c.t.Data.ReadRows(ctx, w, b.Lo, b.Hi); err != nil {
			return nil, err
		}
		if err := c.read(ctx, v, b.Lo, b.Hi); err != nil {
			return nil, err
		}
		if after.Type == storage.F32 {
			copy(e, v)
		} else if err := after.Data.ReadRows(ctx, e, b.Lo, b.Hi); err != nil {
			return nil, err
		}
		for i, x := range w {
			d, eff, lost := float64(v[i])-float64(x), float64(e[i])-float64(x), float64(e[i])-float64(v[i])
			sumW += float64(x) * float64(x)
			sumD += d * d
			sumEff += eff * eff
			sumErr += lost * lost
			dot += d * eff
			if d != 0 {
				moved++
				if eff == 0 {
					stuck++
				}
			}
		}
		seen += int64(n)
	}
	f := map[string]float64{"delta": ratio(math.Sqrt(sumD), math.Sqrt(sumW)), "unchanged": ratio(float64(stuck), float64(moved))}
	if info, ok := storage.Lookup(after.Type); ok && !info.Float {
		f["signal_lost"] = ratio(math.Sqrt(sumErr), math.Sqrt(sumD))
		f["cosine"] = ratio(dot, math.Sqrt(sumD)*math.Sqrt(sumEff))
	}
	if total := int64(rows) * int64(cols); seen < total {
		f["sampled"] = float64(seen) / float64(total)
	}
	return f, nil
}

// ratio is a/b, and 0 when nothing was there to compare.
func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

// sampleBands picks the rows to look at: all of a small tensor, 64 evenly spaced bands of a large one.
func sampleBands(rows, cols int) []ir.Band {
	if int64(rows)*int64(cols) <= sampleElems {
		return ir.Bands(rows, int64(cols)*4, scratch*4)
	}
	n := max(1, min(64, sampleElems/cols, rows))
	each := max(1, min(rows/n, sampleElems/n/cols))
	bands := make([]ir.Band, n)
	for i := range bands {
		lo := int(int64(i) * int64(rows-each) / int64(max(n-1, 1)))
		bands[i] = ir.Band{Lo: lo, Hi: lo + each}
	}
	return bands
}

// summarise turns the figures into the lines that a person has to see.
func summarise(figures map[string]map[string]float64, handles []*ir.Tensor) []string {
	var notes []string
	drowned, worst, worstAt := 0, 0.0, ""
	stuck := map[storage.Type][]float64{}
	var types []storage.Type
	for _, h := range handles {
		if h == nil {
			continue
		}
		f := figures[h.Name]
		if s := f["signal_lost"]; s > 1 {
			drowned++
			if s > worst {
				worst, worstAt = s, h.Name
			}
		}
		if h.Type != storage.F32 && h.Type != storage.F64 {
			if stuck[h.Type] == nil {
				types = append(types, h.Type)
			}
			stuck[h.Type] = append(stuck[h.Type], f["unchanged"])
		}
	}
	if drowned > 0 {
		notes = append(notes, fmt.Sprintf("in %d tensors the change is smaller than the error of encoding them again (worst %.1fx: %s): "+
			"merge into the float original, or choose a type with more bits", drowned, worst, worstAt))
	}
	for _, t := range types {
		most, sum := 0.0, 0.0
		for _, v := range stuck[t] {
			sum += v
			most = max(most, v)
		}
		if mean := sum / float64(len(stuck[t])); mean >= 0.001 {
			notes = append(notes, fmt.Sprintf("%s cannot hold the whole change: %.1f %% of the changed elements keep their stored value (at most %.1f %% in a tensor)", t, 100*mean, 100*most))
		}
	}
	return notes
}
