package lora

import (
	"context"
	"fmt"
	"math"
	"sync"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir"
)

// step is one operation of a target, ready to be applied to rows.
type step struct {
	op
	rows, cols int       // of the weight as a matrix
	dora       []float32 // m / |W + scale B A|, one per output; nil without DoRA
}

// factors loads the low-rank change of a step: the weight of the adapter, alpha and the DoRA
// factors folded in. With an adapter weight w the change is w times what the adapter does alone,
// W' = W + w (adapter(W) - W).
func (s *step) factors(ctx context.Context) (*ir.LowRank, error) {
	m, w := s.module, s.weight
	blend := func(x []float32) []float32 {
		for i, v := range x {
			if w != 1 {
				x[i] = (1 - w) + float32(w*v)
			}
		}
		return x
	}
	if m.ia3 != nil {
		l, err := m.ia3.all(ctx)
		if err != nil {
			return nil, err
		}
		if s.forBias || m.perInput() != s.flip {
			col := make([]float32, s.cols) // a convolution has several columns for an input
			for i := range col {
				col[i] = l[i/(s.cols/len(l))]
			}
			return &ir.LowRank{Col: blend(col)}, nil
		}
		return &ir.LowRank{Row: blend(l)}, nil
	}
	scale := float32(float64(w) * m.scale)
	if s.forBias {
		b, err := m.bias.all(ctx)
		return &ir.LowRank{Rank: 1, A: b, B: []float32{scale}}, err
	}
	a, err := m.a.all(ctx)
	if err != nil {
		return nil, err
	}
	b, err := m.b.all(ctx)
	if err != nil {
		return nil, err
	}
	out := &ir.LowRank{Rank: m.rank, A: a, B: b}
	if s.flip { // W is [in,out]: (B A)^T = A^T B^T
		out.A, out.B = transpose(b, s.cols, m.rank), transpose(a, m.rank, s.rows)
	}
	for i := range out.B {
		out.B[i] *= scale
	}
	if s.dora == nil {
		return out, nil
	}
	own := append([]float32(nil), s.dora...)
	if s.flip {
		for i := range out.A {
			out.A[i] *= own[i%s.cols]
		}
		out.Col = blend(own)
	} else {
		for i := range out.B {
			out.B[i] *= own[i/m.rank]
		}
		out.Row = blend(own)
	}
	return out, nil
}

// transpose returns the [cols,rows] form of x [rows,cols].
func transpose(x []float32, rows, cols int) []float32 {
	y := make([]float32, len(x))
	for i := range rows {
		for j := range cols {
			y[j*rows+i] = x[i*cols+j]
		}
	}
	return y
}

// measureDoRA fills in the factors of a DoRA step: magnitude over the norm of W + scale B A along
// the input, where W is what src gives before the step. It reads the weight once, in bands.
func (s *step) measureDoRA(ctx context.Context, name string, src *chain) error {
	m := s.module
	mag, err := m.magnitude.all(ctx)
	if err != nil {
		return err
	}
	plain := *s
	plain.weight = 1
	change, err := plain.factors(ctx)
	if err != nil {
		return err
	}
	sums := make([]float64, len(mag))
	err = src.each(ctx, func(from int64, x []float32) error {
		change.Apply(x, from, s.cols)
		for i, v := range x {
			at := from + int64(i)
			unit := at / int64(s.cols)
			if s.flip {
				unit = at % int64(s.cols)
			}
			sums[unit] += float64(v) * float64(v)
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.dora = mag
	for i, sum := range sums {
		f := float32(float64(mag[i]) / math.Sqrt(sum))
		if f-f != 0 {
			return &fault.Error{Tensor: name, Err: fmt.Errorf("output %d of the adapted weight has norm %v, which DoRA divides by: %w", i, math.Sqrt(sum), fault.ErrNotFinite)}
		}
		s.dora[i] = f
	}
	return nil
}

// cache keeps the factors that were used last, up to a number of bytes, so that the bands of one
// tensor share them and a model with many large adapters does not hold them all.
type cache struct {
	mu     sync.Mutex
	budget int64
	used   int64
	order  []*step // least recently used first
	held   map[*step]*entry
}

type entry struct {
	once sync.Once
	l    *ir.LowRank
	err  error
	size int64
}

func (c *cache) get(ctx context.Context, s *step) (*ir.LowRank, error) {
	c.mu.Lock()
	if c.held == nil {
		c.held = map[*step]*entry{}
	}
	e := c.held[s]
	if e == nil {
		e = &entry{size: s.size()}
		c.held[s] = e
		c.used += e.size
	} else {
		for i, o := range c.order {
			if o == s {
				c.order = append(c.order[:i], c.order[i+1:]...)
				break
			}
		}
	}
	c.order = append(c.order, s)
	for c.used > c.budget && len(c.order) > 1 {
		c.drop(c.order[0])
	}
	c.mu.Unlock()
	e.once.Do(func() { e.l, e.err = s.factors(ctx) })
	if e.err != nil { // a cancelled read must not stick
		c.mu.Lock()
		if c.held[s] == e {
			c.drop(s)
		}
		c.mu.Unlock()
	}
	return e.l, e.err
}

// drop forgets the factors of a step; readers that hold them keep them alive.
func (c *cache) drop(s *step) {
	c.used -= c.held[s].size
	delete(c.held, s)
	for i, o := range c.order {
		if o == s {
			c.order = append(c.order[:i], c.order[i+1:]...)
			return
		}
	}
}

// size is what the factors of a step take in memory.
func (s *step) size() int64 {
	n := int64(len(s.dora))
	for _, t := range []*tensor{s.module.a, s.module.b, s.module.bias, s.module.ia3} {
		if t != nil {
			n += int64(t.elems())
		}
	}
	return 4 * n
}
