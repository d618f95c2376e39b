package kernels

import (
	"context"

	"github.com/pare-dev/pare/internal/par"
)

// The portable order of a dot product: element i goes to lane i%4, each product is rounded and
// added to its lane in turn, and the lanes are joined as (0+2)+(1+3).

func dotPortable[T float32 | float64](a, b []T) T {
	b = b[:len(a)]
	var s0, s1, s2, s3 T
	for len(a) >= 4 && len(b) >= 4 {
		s0 += T(a[0] * b[0])
		s1 += T(a[1] * b[1])
		s2 += T(a[2] * b[2])
		s3 += T(a[3] * b[3])
		a, b = a[4:], b[4:]
	}
	return joinTail(s0, s1, s2, s3, a, b)
}

// joinTail adds up to three last products to their lanes and joins the lanes.
func joinTail[T float32 | float64](s0, s1, s2, s3 T, a, b []T) T {
	switch len(a) {
	case 3:
		s2 += T(a[2] * b[2])
		fallthrough
	case 2:
		s1 += T(a[1] * b[1])
		fallthrough
	case 1:
		s0 += T(a[0] * b[0])
	}
	return (s0 + s2) + (s1 + s3)
}

// dot2Portable is two dot products that share a, in the same order as dotPortable: eight chains of
// additions hide each other's latency.
func dot2Portable[T float32 | float64](a, b, c []T) (T, T) {
	b, c = b[:len(a)], c[:len(a)]
	var s0, s1, s2, s3, t0, t1, t2, t3 T
	for len(a) >= 4 && len(b) >= 4 && len(c) >= 4 {
		a0, a1, a2, a3 := a[0], a[1], a[2], a[3]
		s0 += T(a0 * b[0])
		s1 += T(a1 * b[1])
		s2 += T(a2 * b[2])
		s3 += T(a3 * b[3])
		t0 += T(a0 * c[0])
		t1 += T(a1 * c[1])
		t2 += T(a2 * c[2])
		t3 += T(a3 * c[3])
		a, b, c = a[4:], b[4:], c[4:]
	}
	return joinTail(s0, s1, s2, s3, a, b), joinTail(t0, t1, t2, t3, a, c)
}

func gemmNTPortable[T float32 | float64](dst, x, w Dense[T], add bool) {
	for i := range x.Rows {
		xi, di := x.Row(i), dst.Row(i)
		j := 0
		for ; j+2 <= w.Rows; j += 2 {
			u, v := dot2Portable(xi, w.Row(j), w.Row(j+1))
			if add {
				u, v = di[j]+u, di[j+1]+v
			}
			di[j], di[j+1] = u, v
		}
		for ; j < w.Rows; j++ {
			u := dotPortable(xi, w.Row(j))
			if add {
				u = di[j] + u
			}
			di[j] = u
		}
	}
}

// gemmNNPortable sums each element over k in order. The loops run along rows of b, four at a time,
// so that dst is read and written a quarter as often; the order of additions is the same.
func gemmNNPortable[T float32 | float64](dst, a, b Dense[T], add bool) {
	for i := range a.Rows {
		d, ai := dst.Row(i), a.Row(i)
		if !add {
			clear(d)
		}
		p := 0
		for ; p+4 <= a.Cols; p += 4 {
			a0, a1, a2, a3 := ai[p], ai[p+1], ai[p+2], ai[p+3]
			b0, b1, b2, b3 := b.Row(p)[:len(d)], b.Row(p + 1)[:len(d)], b.Row(p + 2)[:len(d)], b.Row(p + 3)[:len(d)]
			for j := range d {
				d[j] = d[j] + T(a0*b0[j]) + T(a1*b1[j]) + T(a2*b2[j]) + T(a3*b3[j])
			}
		}
		for ; p < a.Cols; p++ {
			v := ai[p]
			for j, w := range b.Row(p)[:len(d)] {
				d[j] += T(v * w)
			}
		}
	}
}

// gemmPortable is Gemm. Sums of NT have the order of dot products, the others that of k.
func gemmPortable[T float32 | float64](ctx context.Context, threads int, form Form, dst, a, b Dense[T], add bool) error {
	const rows = 8
	return par.Range(ctx, threads, dst.Rows, rows, func(_, lo, hi int) error {
		d := dst.Slice(lo, hi, 0, dst.Cols)
		switch form {
		case NT:
			gemmNTPortable(d, a.Slice(lo, hi, 0, a.Cols), b, add)
		case NN:
			gemmNNPortable(d, a.Slice(lo, hi, 0, a.Cols), b, add)
		case TN:
			t := View(make([]T, (hi-lo)*a.Rows), hi-lo, a.Rows)
			for p := range a.Rows {
				for i, v := range a.Row(p)[lo:hi] {
					t.Data[i*t.Stride+p] = v
				}
			}
			gemmNNPortable(d, t, b, add)
		}
		return nil
	})
}
