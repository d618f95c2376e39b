package kernels

// The portable order of a dot product: element i goes to lane i%4, each product is rounded and
// added to its lane in turn, and the lanes are joined as (0+2)+(1+3).

func dotPortable(a, b []float32) float32 {
	b = b[:len(a)]
	var s0, s1, s2, s3 float32
	for len(a) >= 4 && len(b) >= 4 {
		s0 += float32(a[0] * b[0])
		s1 += float32(a[1] * b[1])
		s2 += float32(a[2] * b[2])
		s3 += float32(a[3] * b[3])
		a, b = a[4:], b[4:]
	}
	return joinTail(s0, s1, s2, s3, a, b)
}

// joinTail adds up to three last products to their lanes and joins the lanes.
func joinTail(s0, s1, s2, s3 float32, a, b []float32) float32 {
	switch len(a) {
	case 3:
		s2 += float32(a[2] * b[2])
		fallthrough
	case 2:
		s1 += float32(a[1] * b[1])
		fallthrough
	case 1:
		s0 += float32(a[0] * b[0])
	}
	return (s0 + s2) + (s1 + s3)
}

// dot2Portable is two dot products that share a, in the same order as dotPortable: eight chains of
// additions hide each other's latency.
func dot2Portable(a, b, c []float32) (float32, float32) {
	b, c = b[:len(a)], c[:len(a)]
	var s0, s1, s2, s3, t0, t1, t2, t3 float32
	for len(a) >= 4 && len(b) >= 4 && len(c) >= 4 {
		a0, a1, a2, a3 := a[0], a[1], a[2], a[3]
		s0 += float32(a0 * b[0])
		s1 += float32(a1 * b[1])
		s2 += float32(a2 * b[2])
		s3 += float32(a3 * b[3])
		t0 += float32(a0 * c[0])
		t1 += float32(a1 * c[1])
		t2 += float32(a2 * c[2])
		t3 += float32(a3 * c[3])
		a, b, c = a[4:], b[4:], c[4:]
	}
	return joinTail(s0, s1, s2, s3, a, b), joinTail(t0, t1, t2, t3, a, c)
}

func gemmNTPortable(dst, x, w Matrix, add bool) {
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
