package storage

import "math"

// The scale searches shared by the block types. Each follows the reference operation for operation
// (ggml/src/ggml-quants.c: make_qx_quants, make_q3_quants, make_qkx2/3_quants, make_qp_quants), so
// that the bytes agree; where a step is skipped here, it provably could not have changed them.
// Products that are added are rounded first, because a compiler may fuse them otherwise.

// tiny is the magnitude below which a group counts as all zero.
const tiny = 1e-15

// fitSym finds a scale for codes -n..n-1: x ~ scale*q. It tries 19 scales around the one that maps
// the signed maximum to -n and keeps the first that maximises (sum w x q)^2 / (sum w q^2), the gain
// in weighted squared error. q receives the codes plus n.
func fitSym(x, w []float32, q []uint8, n int) float32 {
	q = q[:len(x)]
	v, amax := signedMax(x)
	if amax < tiny {
		clear(q)
		return 0
	}
	w = w[:len(x)]
	var wx [32]float32
	for i, e := range x {
		wx[i&31] = w[i] * e
	}
	iscale := float32(-n) / v
	lx, l2 := gain(x, w, &wx, iscale, n)
	symmetricCodes(x, q, iscale, n)
	var scale float32
	if l2 != 0 {
		scale = lx / l2
	}
	best := scale * lx
	for k := -9; k <= 9; k++ {
		if k == 0 {
			continue
		}
		iscale = -(float32(n) + float32(float32(0.1)*float32(k))) / v
		lx, l2 = gain(x, w, &wx, iscale, n)
		if l2 > 0 && lx*lx > best*l2 {
			symmetricCodes(x, q, iscale, n)
			scale = lx / l2
			best = scale * lx
		}
	}
	return scale
}

// gain sums w*x*q and w*q^2 for the codes that iscale gives.
func gain(x, w []float32, wx *[32]float32, iscale float32, n int) (lx, l2 float32) {
	w = w[:len(x)]
	for i, e := range x {
		l := float32(clamp(nearest(float32(iscale*e)), -n, n-1))
		lx += float32(wx[i&31] * l)
		l2 += float32(float32(w[i]*l) * l)
	}
	return lx, l2
}

func symmetricCodes(x []float32, q []uint8, iscale float32, n int) {
	q = q[:len(x)]
	for i, e := range x {
		q[i] = uint8(clamp(nearest(float32(iscale*e)), -n, n-1) + n)
	}
}

// fitSweep finds a scale for codes -n..n-1 by coordinate descent: starting from the plain codes,
// each element in turn is removed from the sums and re-rounded to the scale the others want; the
// change stays when the gain of fitSym rises. At most five sweeps. q receives the codes plus n.
func fitSweep(x []float32, q []uint8, n int) float32 {
	v, amax := signedMax(x)
	q = q[:len(x)]
	if amax < tiny {
		clear(q)
		return 0
	}
	iscale := float32(-n) / v
	var l [16]int
	var lx, l2 float32
	for i, e := range x {
		c := clamp(nearest(float32(iscale*e)), -n, n-1)
		l[i&15] = c
		w := e * e
		f := float32(c)
		lx += float32(float32(w*e) * f)
		l2 += float32(float32(w*f) * f)
	}
	for range 5 {
		changed := false
		for i, e := range x {
			w := e * e
			old := l[i&15]
			f := float32(old)
			slx := lx - float32(float32(w*e)*f)
			if !(slx > 0) {
				continue
			}
			sl2 := l2 - float32(float32(w*f)*f)
			c := clamp(nearest(float32(e*sl2)/slx), -n, n-1)
			if c == old {
				continue
			}
			f = float32(c)
			slx += float32(float32(w*e) * f)
			sl2 += float32(float32(w*f) * f)
			if sl2 > 0 && float32(slx*slx)*l2 > float32(lx*lx)*sl2 {
				l[i&15], lx, l2 = c, slx, sl2
				changed = true
			}
		}
		if !changed {
			break
		}
	}
	for i := range q {
		q[i] = uint8(l[i&15] + n)
	}
	if l2 > 0 {
		return lx / l2
	}
	return 0
}

// affineGrid is the set of inverse scales that fitAffine tries: (from + step*k + n)/(max-min) for
// k = 0..steps.
type affineGrid struct {
	from, step float32
	steps      int
	mad        bool // weigh absolute instead of squared errors
}

var (
	gridQ2K  = affineGrid{-0.5, 0.1, 15, true}
	gridQ4K  = affineGrid{-1, 0.1, 20, false}
	gridQ5K  = affineGrid{-0.5, 0.1, 15, false}
	gridFine = affineGrid{-0.9, 0.05, 36, false} // with importance
)

// fitAffine finds scale >= 0 and minus >= 0 for codes 0..n: x ~ scale*q - minus. For each inverse
// scale of the grid it takes the codes, solves the weighted least squares for scale and minimum,
// and keeps the first strict improvement. The minimum found so far is the one used to make the next
// codes: that is how the reference does it. len(x) <= 32; all w >= 0.
func fitAffine(x, w []float32, q []uint8, n int, g affineGrid) (scale, minus float32) {
	w, q = w[:len(x)], q[:len(x)]
	lo, hi := x[0], x[0]
	sw := w[0]
	sx := float32(sw * x[0])
	for i := 1; i < len(x); i++ {
		lo, hi = minf(lo, x[i]), maxf(hi, x[i])
		sw += w[i]
		sx += float32(w[i] * x[i])
	}
	if lo > 0 {
		lo = 0
	}
	if hi <= lo {
		clear(q)
		return 0, -lo
	}
	top := float32(n)
	iscale := top / (hi - lo)
	scale = 1 / iscale
	var best float32
	var lf [32]float32 // codes of the candidate
	l := lf[:len(x)]
	candidate(l, x, iscale, lo, top)
	for i, e := range x {
		q[i] = uint8(l[i])
		diff := float32(scale*l[i]) + lo - e
		if g.mad {
			diff = abs(diff)
		} else {
			diff *= diff
		}
		best += float32(w[i] * diff)
	}

	judged := false
	for k := 0; k <= g.steps; k++ {
		iscale = (g.from + float32(g.step*float32(k)) + top) / (hi - lo)
		// Equal codes have the same least-squares solution, which was already judged.
		if !candidate(l, x, iscale, lo, top) && judged {
			continue
		}
		judged = true
		var sl, sl2, sxl float32
		for i, e := range x {
			c := l[i]
			wl := float32(w[i] * c)
			sl += wl
			sl2 += float32(wl * c)
			sxl += float32(wl * e)
		}
		det := float32(sw*sl2) - float32(sl*sl)
		if !(det > 0) {
			continue
		}
		s := (float32(sw*sxl) - float32(sx*sl)) / det
		m := (float32(sl2*sx) - float32(sl*sxl)) / det
		if m > 0 {
			m = 0
			s = sxl / sl2
		}
		var err float32
		if g.mad {
			err = absError(x, w, l, s, m, best)
		} else {
			err = squareError(x, w, l, s, m, best)
		}
		if err < best {
			for i, c := range l {
				q[i] = uint8(c)
			}
			best, scale, lo = err, s, m
		}
	}
	return scale, -lo
}

// candidate fills l with the codes round(iscale*(x-lo)), clamped to [0,top] first, which gives the
// same codes and is safe when lo has come so close to the maximum that iscale is infinite. It
// reports whether any code changed.
func candidate(l, x []float32, iscale, lo, top float32) bool {
	const magic = 3 << 22 // rounds to an integer, ties to even, in the sum
	var changed uint32
	l = l[:len(x)]
	for i, e := range x {
		v := float32(iscale * (e - lo))
		if !(v > 0) {
			v = 0
		}
		if v > top {
			v = top
		}
		c := float32(v+magic) - magic
		changed |= math.Float32bits(c) ^ math.Float32bits(l[i])
		l[i] = c
	}
	return changed != 0
}

// squareError is sum w*(s*l + m - x)^2. It stops early once the sum reaches limit: the terms are
// not negative, and then rounded sums never fall, so the candidate has lost.
func squareError(x, w, l []float32, s, m, limit float32) (err float32) {
	for len(x) >= 8 && len(w) >= 8 && len(l) >= 8 {
		for i := range 8 {
			d := float32(s*l[i]) + m - x[i]
			err += float32(w[i] * float32(d*d))
		}
		if err >= limit {
			return err
		}
		x, w, l = x[8:], w[8:], l[8:]
	}
	return err
}

// absError is sum w*|s*l + m - x|, with the same early stop.
func absError(x, w, l []float32, s, m, limit float32) (err float32) {
	for len(x) >= 8 && len(w) >= 8 && len(l) >= 8 {
		for i := range 8 {
			err += float32(w[i] * abs(float32(s*l[i])+m-x[i]))
		}
		if err >= limit {
			return err
		}
		x, w, l = x[8:], w[8:], l[8:]
	}
	return err
}

// fitPositive quantizes the scales (or minima) x >= 0 of a superblock to codes 0..n: the inverse
// scale with the smallest weighted squared error among nine, then sweeps as fitSweep makes them.
// len(x) <= 16.
func fitPositive(x, w []float32, q []uint8, n int) float32 {
	w, q = w[:len(x)], q[:len(x)]
	var top float32
	for _, v := range x {
		top = maxf(top, v)
	}
	if top < tiny {
		clear(q)
		return 0
	}
	iscale := float32(n) / top
	best := positiveError(x, w, iscale, n)
	for k := -4; k <= 4; k++ {
		if k == 0 {
			continue
		}
		is := (float32(float32(0.1)*float32(k)) + float32(n)) / top
		if e := positiveError(x, w, is, n); e < best {
			best, iscale = e, is
		}
	}
	var lx, l2 float32
	for i, v := range x {
		c := min(n, nearest(float32(iscale*v)))
		q[i] = uint8(c)
		f := float32(c)
		lx += float32(float32(w[i]*v) * f)
		l2 += float32(float32(w[i]*f) * f)
	}
	for range 5 {
		changed := false
		for i, v := range x {
			f := float32(q[i])
			slx := lx - float32(float32(w[i]*v)*f)
			sl2 := l2 - float32(float32(w[i]*f)*f)
			if !(slx > 0 && sl2 > 0) {
				continue
			}
			c := min(n, nearest(float32(v*sl2)/slx))
			if c == int(q[i]) {
				continue
			}
			f = float32(c)
			slx += float32(float32(w[i]*v) * f)
			sl2 += float32(float32(w[i]*f) * f)
			if float32(slx*slx)*l2 > float32(lx*lx)*sl2 {
				q[i], lx, l2 = uint8(c), slx, sl2
				changed = true
			}
		}
		if !changed {
			break
		}
	}
	if l2 > 0 {
		return lx / l2
	}
	return 0
}

func positiveError(x, w []float32, iscale float32, n int) (mse float32) {
	w = w[:len(x)]
	s := 1 / iscale
	for i, v := range x {
		d := v - float32(s*float32(min(n, nearest(float32(iscale*v)))))
		mse += float32(float32(w[i]*d) * d)
	}
	return mse
}

// sumSubs adds the weights of each sub-block of a superblock.
func sumSubs(dst []float32, w *[super]float32) {
	size := super / len(dst)
	for j := range dst {
		var s float32
		for _, v := range w[j*size : (j+1)*size] {
			s += v
		}
		dst[j] = s
	}
}

// fitAffineSubs is fitAffine for every sub-block of a superblock; len(scales) says how many.
func fitAffineSubs(x []float32, w *[super]float32, l *codes256, scales, mins []float32, n int, g affineGrid) {
	size := super / len(scales)
	for j := range scales {
		a, b := j*size, (j+1)*size
		scales[j], mins[j] = fitAffine(x[a:b], w[a:b], l[a:b], n, g)
	}
}

// fitSymSubs is fitSym for every sub-block of a superblock; len(scales) says how many.
func fitSymSubs(x []float32, w *[super]float32, l *codes256, scales []float32, n int) {
	size := super / len(scales)
	for j := range scales {
		a, b := j*size, (j+1)*size
		scales[j] = fitSym(x[a:b], w[a:b], l[a:b], n)
	}
}
