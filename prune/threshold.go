package prune

import (
	"context"
	"fmt"
	"math"

	"github.com/pare-dev/pare/internal/par"
	"github.com/pare-dev/pare/ir"
)

// bandBytes is how much of a matrix, as real values, one worker holds.
const bandBytes = 1 << 20

// pool is a set of matrices whose weights compete.
type pool struct {
	tensors []*ir.Tensor
	scorers []scorer
}

// thresholds finds the rules that drop exactly k weights of the pool: the k lowest, and of equal
// ones the first in the order of tensors and positions. It reads the weights two times, and a third
// time as far as the last tie, and holds a histogram of 65 536 counts whatever their number.
func (p *pool) thresholds(ctx context.Context, threads int, k int64) ([]byThreshold, error) {
	rules := make([]byThreshold, len(p.tensors))
	if k == 0 {
		return rules, nil // key 0, cut 0: nothing goes
	}
	high, err := p.histogram(ctx, threads, func(key uint32) (int, bool) { return int(key >> 16), true })
	if err != nil {
		return nil, err
	}
	top, left := locate(high, k)
	low, err := p.histogram(ctx, threads, func(key uint32) (int, bool) { return int(key & 0xffff), int(key>>16) == top })
	if err != nil {
		return nil, err
	}
	bottom, left := locate(low, left)
	key := uint32(top)<<16 | uint32(bottom) //nolint:gosec // two halves of a key
	for i := range rules {
		rules[i] = byThreshold{key, math.MaxInt64}
	}
	if left == low[bottom] {
		return rules, nil // every tie goes
	}
	for i := range rules {
		if rules[i].cut, left, err = p.cut(ctx, i, key, left); err != nil {
			return nil, err
		}
	}
	return rules, nil
}

// locate finds the bin that holds the k-th lowest and how many of that bin are among the k.
func locate(bins []int64, k int64) (bin int, left int64) {
	for bin, left = range bins {
		if k <= left {
			return bin, k
		}
		k -= left
	}
	panic(fmt.Sprintf("prune: %d more weights than were counted", k))
}

// histogram counts the weights of the pool by bin. Counts are integers, so the order of the
// workers does not show.
func (p *pool) histogram(ctx context.Context, threads int, bin func(key uint32) (int, bool)) ([]int64, error) {
	parts := make([][]int64, par.Threads(threads))
	err := par.Range(ctx, threads, len(p.tensors), 1, func(worker, i, _ int) error {
		if parts[worker] == nil {
			parts[worker] = make([]int64, 1<<16)
		}
		bins := parts[worker]
		return p.each(ctx, i, func(_ int64, keys []uint32) bool {
			for _, k := range keys {
				if b, ok := bin(k); ok {
					bins[b]++
				}
			}
			return true
		})
	})
	sum := make([]int64, 1<<16)
	for _, bins := range parts {
		for b, n := range bins {
			sum[b] += n
		}
	}
	return sum, err
}

// cut is the position after the left-th weight of tensor i that has the key, or the end, and how
// many are still to be found.
func (p *pool) cut(ctx context.Context, i int, key uint32, left int64) (cut, rest int64, err error) {
	if left == 0 {
		return 0, 0, nil
	}
	cut = math.MaxInt64
	err = p.each(ctx, i, func(from int64, keys []uint32) bool {
		for j, k := range keys {
			if k == key {
				if left--; left == 0 {
					cut = from + int64(j) + 1
					return false
				}
			}
		}
		return true
	})
	return cut, left, err
}

// each hands over the keys of a matrix row by row until fn returns false.
func (p *pool) each(ctx context.Context, i int, fn func(from int64, keys []uint32) bool) error {
	t := p.tensors[i]
	cols := t.Cols()
	keys := make([]uint32, cols)
	stop := false
	return ir.EachBand(ctx, t, bandBytes, func(b ir.Band, x []float32) error {
		for r := b.Lo; r < b.Hi && !stop; r++ {
			if err := p.scorers[i].keys(keys, x[(r-b.Lo)*cols:][:cols]); err != nil {
				return ir.Wrap(t, "prune", fmt.Errorf("row %d: %w", r, err))
			}
			stop = !fn(int64(r)*int64(cols), keys)
		}
		return nil
	})
}
