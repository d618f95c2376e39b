package kernels

import "math"

var negInf = float32(math.Inf(-1))

func attendScoresPortable(dst, q Matrix, keys Cached) {
	dim := q.Cols
	var buf [Panel]float32
	for r := range q.Rows {
		row, x := dst.Row(r), q.Row(r)
		clear(row)
		for p := 0; p < len(row); p += Panel {
			out := row[p : p+Panel : p+Panel]
			for d, v := range x {
				for j, k := range keys.wide(&buf, p*dim+d*Panel, Panel, p/Panel*dim+d/32*Panel, 1) {
					out[j] += float32(v * k)
				}
			}
		}
	}
}

// attendWeightsPortable sums in four lanes, as dotPortable does.
func attendWeightsPortable(scores Matrix, top, sum []float32, span Span, scale float32) {
	for r := range scores.Rows {
		row := scores.Row(r)
		from, to := span.of(r, scores.Cols)
		clear(row[:from])
		clear(row[to:])
		best := maxPortable(row[from:to])
		none := math.IsInf(float64(best), -1)
		shift := float32(best * scale)
		if none {
			shift = 0
		}
		var s [4]float32
		for j := from; j < to; j++ {
			e := exp32(float32(row[j]*scale) - shift)
			row[j] = e
			s[j&3] += e
		}
		top[r], sum[r] = shift, (s[0]+s[2])+(s[1]+s[3])
		if none && sum[r] == 0 {
			top[r] = negInf
		}
	}
}

func attendValuesPortable(dst, w Matrix, values Cached, span Span) {
	dim := dst.Cols
	var buf [Panel]float32
	for r := range dst.Rows {
		out := dst.Row(r)
		clear(out)
		from, to := span.of(r, w.Cols)
		for j := from; j < to; j++ {
			for d := 0; d < dim; d += Panel {
				n := min(Panel, dim-d)
				axpyPortable(out[d:d+n], w.Row(r)[j], values.wide(&buf, j*dim+d, n, (j*dim+d)/32, 0))
			}
		}
	}
}

func attendMergePortable(dst, page Sums) {
	for r := range dst.Acc.Rows {
		t, u := dst.Top[r], page.Top[r]
		if math.IsInf(float64(u), -1) {
			continue
		}
		m := max(t, u)
		a, b := exp32(t-m), exp32(u-m)
		dst.Top[r] = m
		dst.Sum[r] = float32(a*dst.Sum[r]) + float32(b*page.Sum[r])
		y := page.Acc.Row(r)
		for d, v := range dst.Acc.Row(r) {
			dst.Acc.Data[r*dst.Acc.Stride+d] = float32(a*v) + float32(b*y[d])
		}
	}
}
