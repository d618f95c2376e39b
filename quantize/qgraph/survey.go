package qgraph

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/pare-dev/pare/internal/calib"
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
)

// record is what calibration saw of the channels of a value.
type record struct {
	axis    int // of the channels: 1 of images, -1 of rows, 0 where all elements are one channel
	lo, hi  []float32
	squares []float64
	count   float64 // elements of a channel
}

// shape is how many channels a tensor has, and how many elements of a channel lie together where it is an image of planes.
func (r *record) shape(t *graph.Tensor, pixels bool) (channels, inner int) {
	switch {
	case r.axis == 1 && len(t.Shape) > 1 && pixels:
		return t.Shape[1], 1
	case r.axis == 1 && len(t.Shape) > 1:
		return t.Shape[1], graph.Elems(t.Shape[2:])
	case r.axis == -1 && len(t.Shape) > 0:
		return t.Shape[len(t.Shape)-1], 1
	}
	return 1, 1
}

// look adds a sample, and gives the extremes of its channels.
func (r *record) look(kern *kernels.Set, t *graph.Tensor, pixels bool) (lo, hi []float32, err error) {
	x := graph.Of[float32](t)
	channels, inner := r.shape(t, pixels)
	if r.lo == nil {
		r.lo, r.hi, r.squares = make([]float32, channels), make([]float32, channels), make([]float64, channels)
	}
	if channels != len(r.lo) {
		return nil, nil, fmt.Errorf("%d channels, there were %d before", channels, len(r.lo))
	}
	lo, hi = make([]float32, channels), make([]float32, channels)
	for c := range channels {
		lo[c], hi[c] = float32(math.Inf(1)), float32(math.Inf(-1))
	}
	if err := r.spread(kern, lo, hi, x, inner); err != nil {
		return nil, nil, err
	}
	for c := range channels {
		r.lo[c], r.hi[c] = min(r.lo[c], lo[c]), max(r.hi[c], hi[c])
	}
	r.count += float64(len(x) / channels)
	return lo, hi, nil
}

// spread finds the extremes of the channels of a sample, and adds their squares.
func (r *record) spread(kern *kernels.Set, lows, highs, x []float32, inner int) error {
	channels := len(r.lo)
	const rows = 2048 // whose squares are summed in single precision
	// columns of fewer than a vector are taken several rows at a time, side by side
	side := 1
	if inner > 1 || channels < 16 {
		side = (16 + channels - 1) / channels
		if inner > 1 {
			side = 16
		}
	}
	all := make([]float32, 3*channels*side)
	reduce := func(x []float32, first, channels int) { // channels are those of x from first on
		step := channels * side
		for len(x) > 0 {
			if len(x) < step {
				step = channels // the rest, row by row
			}
			part := x[:min(rows*step, len(x)/step*step)]
			lo, hi, sq := all[:step], all[step:2*step], all[2*step:3*step]
			for i := range lo {
				lo[i], hi[i], sq[i] = float32(math.Inf(1)), float32(math.Inf(-1)), 0
			}
			kern.Spread(lo, hi, sq, part)
			for i := range lo {
				c := first + i%channels
				lows[c], highs[c] = min(lows[c], lo[i]), max(highs[c], hi[i])
				r.squares[c] += float64(sq[i])
			}
			x = x[len(part):]
		}
	}
	if inner == 1 {
		reduce(x, 0, channels)
	} else {
		for at := 0; at < len(x); at += inner {
			reduce(x[at:at+inner], at/inner%channels, 1)
		}
	}
	for c, s := range r.squares {
		if !finite(s) || !finite(float64(lows[c])) || !finite(float64(highs[c])) {
			var e calib.Extremes // squares may overflow where values do not
			return e.Add(x)
		}
	}
	return nil
}

func finite(v float64) bool { return v-v == 0 }

// peaks are the largest magnitudes of the channels.
func (r *record) peaks() []float32 {
	out := make([]float32, len(r.lo))
	for c := range out {
		out[c] = max(-r.lo[c], r.hi[c], 0)
	}
	return out
}

// counter makes the histogram of a value.
type counter struct {
	record
	weights []uint64 // of channels, nil where all are alike
	hist    *calib.Histogram
	average calib.MovingAverage
	largest int // elements of a sample
	rows    []float32
}

// counted is how many elements of a tensor are counted of a sample, when errors are to be small in the mean; of larger
// ones positions are picked, and the extremes of every channel besides, so that what is rare and far away is known of.
const counted = 1 << 15

// add counts a sample; shift moves the positions that are picked.
func (k *counter) add(ctx context.Context, kern *kernels.Set, t *graph.Tensor, pixels bool, method calib.Method, shift float64) error {
	x := graph.Of[float32](t)
	if len(x) == 0 {
		return nil
	}
	k.largest = max(k.largest, len(x))
	if method == calib.Percentile || method == calib.Entropy { // which look for what is rare
		return k.hist.Add(x)
	}
	lo, hi, err := k.look(kern, t, pixels)
	if err != nil {
		return err
	}
	e := calib.Extremes{Min: slices.Min(lo), Max: slices.Max(hi), Count: uint64(len(x))}
	if method == calib.Average {
		return k.average.Add([]float32{e.Min, e.Max})
	}
	k.hist.Cover(e)
	if method != calib.MSE {
		return nil
	}
	channels, inner := k.shape(t, pixels)
	weights := k.weights
	if len(weights) != channels {
		weights = slices.Repeat([]uint64{even}, channels)
	}
	positions := len(x) / channels
	n := min((counted+channels-1)/channels, positions)
	if n == positions && inner == 1 {
		return k.hist.CountRows(ctx, x, weights)
	}
	k.rows = k.rows[:0]
	for i := range n {
		at := min(int((float64(i)+shift)*float64(positions)/float64(n)), positions-1)
		if n == positions {
			at = i
		}
		if inner == 1 {
			k.rows = append(k.rows, x[at*channels:(at+1)*channels]...)
			continue
		}
		first := at/inner*channels*inner + at%inner
		for c := range channels {
			k.rows = append(k.rows, x[first+c*inner])
		}
	}
	if n == positions {
		return k.hist.CountRows(ctx, k.rows, weights)
	}
	each := make([]uint64, channels)
	for c, w := range weights {
		each[c] = w * uint64((positions+n/2)/n)
	}
	return errors.Join(k.hist.CountRows(ctx, k.rows, each), k.hist.CountRows(ctx, lo, weights), k.hist.CountRows(ctx, hi, weights))
}

// calibrate evens out channels, and makes the histograms of the values that need ranges.
func (s *Static) calibrate(ctx context.Context, p *placement) error {
	kern := kernels.For(s.cfg.ISA)
	if pairs := p.pairs(); !s.cfg.NoEqualize && len(pairs) > 0 {
		want := make([]*graph.Value, len(pairs))
		for i, q := range pairs {
			want[i], q.seen = q.value, &record{axis: q.axis}
		}
		few := part{s.samples, min(s.samples.Len(), evenSamples)}
		err := watch(ctx, s.net, p.g, few, want, func(_, i int, t *graph.Tensor, pixels bool) error {
			if _, _, err := pairs[i].seen.look(kern, t, pixels); err != nil {
				return overflows(want[i], err)
			}
			return nil
		})
		if err != nil {
			return err
		}
		s.equal = equalize(p, pairs)
		p = place(s.g, s.cfg, nil)
	}
	want := watched(p)
	list := make([]counter, len(want))
	for i, v := range want {
		list[i].hist, list[i].axis = calib.NewHistogram(), p.axis(v)
		if s.cfg.method() == calib.MSE {
			list[i].weights = p.influence(v)
		}
	}
	err := watch(ctx, s.net, p.g, s.samples, want, func(sample, i int, t *graph.Tensor, pixels bool) error {
		_, shift := math.Modf(float64(sample) * golden)
		if err := list[i].add(ctx, kern, t, pixels, s.cfg.method(), shift); err != nil {
			return overflows(want[i], err)
		}
		return nil
	})
	s.hist, s.sizes = map[*graph.Value]*calib.Histogram{}, map[*graph.Value]int{}
	for i, v := range want {
		k := &list[i]
		if s.cfg.method() == calib.Average {
			k.hist.Cover(calib.Extremes{Min: float32(k.average.Min), Max: float32(k.average.Max), Count: uint64(k.largest)})
		}
		s.hist[v], s.sizes[v] = k.hist, k.largest
	}
	return err
}

// evenSamples is how many samples say which channels are large and which small.
const evenSamples = 16

// golden moves the positions that are picked from sample to sample, so that they fall on all of them alike.
const golden = 0.6180339887498949

// part is some samples from all over a set.
type part struct {
	ir.Samples
	n int
}

func (p part) Len() int { return p.n }

func (p part) Sample(ctx context.Context, i int) (ir.Sample, error) {
	return p.Samples.Sample(ctx, i*p.Samples.Len()/p.n)
}

// axis is where the layers that read a value see its channels, 0 where none does.
func (p *placement) axis(v *graph.Value) int {
	for _, n := range p.x.Readers[v] {
		if p.form[n] == formLinear && n.In[0] == v {
			if isOp(n, "Gemm", "MatMul") {
				return -1
			}
			return 1
		}
	}
	return 0
}
