package distill

import (
	"math"

	"github.com/pare-dev/pare/internal/kernels"
)

// attentionBand is the number of queries whose scores are held at once.
const attentionBand = 64

// heads is attention over one sequence for the query heads that share a key head.
type heads[T number] struct {
	k      *kernels.Set
	group  int // query heads
	dim    int
	window int // a position sees itself and window-1 before it; 0 for all
}

// scratch of a worker.
type headScratch[T number] struct{ p, dp []T }

func (s *headScratch[T]) need(n int) {
	if cap(s.p) < n {
		s.p, s.dp = make([]T, n), make([]T, n)
	}
}

// first is the first key that the queries of a band starting at a see.
func (h *heads[T]) first(a int) int {
	if h.window > 0 {
		return max(0, a-h.window+1)
	}
	return 0
}

// weights computes the attention weights of queries [a,b) over keys [f,b) into p [b-a, b-f].
func (h *heads[T]) weights(p kernels.Dense[T], q, key kernels.Dense[T], a, b, f int) {
	gemm(h.k, kernels.NT, p, q.Slice(a, b, 0, h.dim), key.Slice(f, b, 0, h.dim), false)
	scale := T(1 / math.Sqrt(float64(h.dim)))
	for i := a; i < b; i++ {
		row := p.Row(i - a)
		lo := 0
		if h.window > 0 {
			lo = max(0, i-h.window+1) - f
		}
		seen := row[lo : i-f+1]
		for j := range seen {
			seen[j] *= scale
		}
		softmax(h.k, seen)
		clear(row[:lo])
		clear(row[i-f+1:])
	}
}

// forward computes out [n, group*dim] of queries q [n, group*dim], keys and values [n, dim].
func (h *heads[T]) forward(out, q, key, value kernels.Dense[T], s *headScratch[T]) {
	n := q.Rows
	s.need(attentionBand * n)
	for g := range h.group {
		qg, og := q.Slice(0, n, g*h.dim, (g+1)*h.dim), out.Slice(0, n, g*h.dim, (g+1)*h.dim)
		for a := 0; a < n; a += attentionBand {
			b := min(a+attentionBand, n)
			f := h.first(a)
			p := kernels.View(s.p, b-a, b-f)
			h.weights(p, qg, key, a, b, f)
			gemm(h.k, kernels.NN, og.Slice(a, b, 0, h.dim), p, value.Slice(f, b, 0, h.dim), false)
		}
	}
}

// backward computes dq and adds to dk and dv what dout gives. With P the weights and S the scores before
// softmax: dV += P^T dO, dP = dO V^T, dS = P (dP - rowsum(P dP)), dQ = dS K c, dK += dS^T Q c.
func (h *heads[T]) backward(dq, dkey, dvalue, dout, q, key, value kernels.Dense[T], s *headScratch[T]) {
	n := q.Rows
	s.need(attentionBand * n)
	scale := T(1 / math.Sqrt(float64(h.dim)))
	for g := range h.group {
		lo, hi := g*h.dim, (g+1)*h.dim
		for a := 0; a < n; a += attentionBand {
			b := min(a+attentionBand, n)
			f := h.first(a)
			p, dp := kernels.View(s.p, b-a, b-f), kernels.View(s.dp, b-a, b-f)
			h.weights(p, q.Slice(0, n, lo, hi), key, a, b, f)
			do := dout.Slice(a, b, lo, hi)
			gemm(h.k, kernels.TN, dvalue.Slice(f, b, 0, h.dim), p, do, true)
			gemm(h.k, kernels.NT, dp, do, value.Slice(f, b, 0, h.dim), false)
			for i := range b - a {
				pi, di := p.Row(i), dp.Row(i)
				sum := T(dot(pi, di))
				for j, w := range pi {
					di[j] = w * (di[j] - sum) * scale
				}
			}
			gemm(h.k, kernels.NN, dq.Slice(a, b, lo, hi), dp, key.Slice(f, b, 0, h.dim), false)
			gemm(h.k, kernels.TN, dkey.Slice(f, b, 0, h.dim), dp, q.Slice(a, b, lo, hi), true)
		}
	}
}
