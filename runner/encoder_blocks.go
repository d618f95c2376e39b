package runner

import (
	"context"
	"math"

	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/ir"
)

// compute makes x.step.x the last hidden states of texts that have so many tokens together.
func (x *Encoder) compute(ctx context.Context, texts []Text, tokens int) error {
	x.place(texts, tokens)
	d, e, s := x.d, x.e, &x.step
	matrix := func(buf *[]float32, cols int) kernels.Matrix {
		return kernels.View(need(buf, tokens*cols), tokens, cols)
	}
	s.x = matrix(&x.buf.x, d.Hidden)
	s.q, s.k, s.v = matrix(&x.buf.q, d.Hidden), matrix(&x.buf.k, d.Hidden), matrix(&x.buf.v, d.Hidden)
	up := matrix(&x.buf.up, d.FFN)
	s.norm = x.norm
	e.pool.Run(items(tokens), x.embedRows)
	act := activation(e.k, d.Activation)
	for _, b := range x.blocks {
		if err := ctx.Err(); err != nil {
			return err
		}
		e.multiply(s.x, product{w: b.q, dst: s.q}, product{w: b.k, dst: s.k}, product{w: b.v, dst: s.v})
		e.pool.Run(len(texts)*d.Heads, x.attendHead)
		// the attention's result lies where the queries were
		e.multiply(s.q, product{w: b.o, dst: s.x, add: true})
		s.norm = b.attnNorm
		e.pool.Run(items(tokens), x.normRows)
		e.multiply(s.x, product{w: b.up, dst: up, act: act})
		e.multiply(up, product{w: b.down, dst: s.x, add: true})
		s.norm = b.mlpNorm
		e.pool.Run(items(tokens), x.normRows)
	}
	return nil
}

// items is how many items row-wise steps of so many tokens have.
func items(tokens int) int { return (tokens + rowGrain - 1) / rowGrain }

// activation is the function of an MLP, on a row.
func activation(k *kernels.Set, a ir.Activation) func(dst, x []float32) {
	switch a {
	case ir.GELUTanh:
		return k.GELUTanh
	case ir.ReLU:
		return func(dst, x []float32) { k.Clip(dst, x, 0, math.MaxFloat32) }
	}
	return k.GELU
}

// place lays the texts out in rows, one after the other.
func (x *Encoder) place(texts []Text, tokens int) {
	s := &x.step
	s.texts, s.starts, s.rows = texts, s.starts[:0], s.rows[:0]
	at := 0
	for i, t := range texts {
		s.starts = append(s.starts, at)
		at += len(t.IDs)
		for range t.IDs {
			s.rows = append(s.rows, i)
		}
	}
	s.starts = append(s.starts, tokens)
}

// embedRows makes rows the normalised sum of the embeddings of token, position and type.
func (x *Encoder) embedRows(worker, item int) {
	s := &x.step
	other := need(&x.e.work[worker].tile, x.d.Hidden)
	for r := item * rowGrain; r < min(s.x.Rows, (item+1)*rowGrain); r++ {
		row, text := s.x.Row(r), s.texts[s.rows[r]]
		i := r - s.starts[s.rows[r]]
		x.tables[0].lookup(row, int(text.IDs[i]))
		if x.tables[2] != nil {
			typ := 0
			if text.Types != nil {
				typ = int(text.Types[i])
			}
			x.tables[2].lookup(other, typ)
			x.e.k.Add(row, other)
		}
		x.tables[1].lookup(other, x.d.PositionBase+i)
		x.e.k.Add(row, other)
		x.e.k.LayerNorm(row, row, s.norm.gain, s.norm.bias, x.d.NormEps)
	}
}

// normRows normalises rows of the hidden states.
func (x *Encoder) normRows(_, item int) {
	s := &x.step
	for r := item * rowGrain; r < min(s.x.Rows, (item+1)*rowGrain); r++ {
		row := s.x.Row(r)
		x.e.k.LayerNorm(row, row, s.norm.gain, s.norm.bias, x.d.NormEps)
	}
}

// attendNumbers is what a worker needs for a head of the longest text, in numbers: keys in panels, values,
// the scores of some queries and what belongs to them.
func (x *Encoder) attendNumbers() int {
	n, dim := panels(x.d.Context), x.d.HeadDim()
	return 2*n*dim + queryTile*(n+dim+2)
}

// panels rounds positions up to whole panels.
func panels(n int) int { return (n + kernels.Panel - 1) / kernels.Panel * kernels.Panel }

// attendHead computes the attention of one head of one text, every token to all of them, and puts it where
// the queries were.
func (x *Encoder) attendHead(worker, item int) {
	s, k, dim := &x.step, x.e.k, x.d.HeadDim()
	text, head := item/x.d.Heads, item%x.d.Heads
	lo, hi := s.starts[text], s.starts[text+1]
	from, to := head*dim, (head+1)*dim
	n := hi - lo
	wide := panels(n)
	scratch := need(&x.e.work[worker].attend, x.attendNumbers())
	cut := func(n int) []float32 {
		part := scratch[:n:n]
		scratch = scratch[n:]
		return part
	}
	keys, values := cut(wide*dim), cut(wide*dim)
	k.PutF32(keys, values, kernels.Place{K: s.k.Slice(lo, hi, from, to), V: s.v.Slice(lo, hi, from, to)})
	table, acc, tops, sums := cut(queryTile*wide), cut(queryTile*dim), cut(queryTile), cut(queryTile)
	span := kernels.Span{From: 0, To: n}
	scale := float32(1 / math.Sqrt(float64(dim)))
	for at := lo; at < hi; at += queryTile {
		m := min(queryTile, hi-at)
		q := s.q.Slice(at, at+m, from, to)
		scores := kernels.View(table, m, wide)
		k.AttendScores(scores, q, kernels.Cached{Floats: keys}, kernels.Ahead{})
		k.AttendWeights(scores, tops[:m], sums[:m], span, scale)
		out := kernels.View(acc, m, dim)
		k.AttendValues(out, scores.Slice(0, m, 0, n), kernels.Cached{Floats: values}, span, kernels.Ahead{})
		for r := range m {
			row := q.Row(r)
			copy(row, out.Row(r))
			k.Scale(row, 1/sums[r])
		}
	}
}
