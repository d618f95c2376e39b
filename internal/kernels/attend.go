package kernels

import (
	"fmt"
	"unsafe"
)

// Attention reads keys in panels: Panel positions side by side, [dim, Panel] numbers, so that a vector
// holds one element of many keys and no sum runs across its lanes. Values are rows, [position, dim].
//
// In all of these a row of the result depends on that row's inputs and on the page, in one fixed order
// of sums, and not on the other rows of the call.
const Panel = 32

// Ahead is memory that is read soon after a call: it is brought nearer meanwhile, at an even pace.
type Ahead struct{ from, end unsafe.Pointer }

// AheadOf is the memory of a slice.
func AheadOf[T any](x []T) Ahead {
	if len(x) == 0 {
		return Ahead{}
	}
	return Ahead{at(x), unsafe.Pointer(&x[len(x)-1])}
}

type attendScoresArgs struct {
	dst, q, keys, scale      unsafe.Pointer
	ldd, ldq, m, dim, panels int
	ahead                    Ahead
}

// AttendScores is dst [m, Panel*panels] = q [m,dim] times panels of keys.
func (s *Set) AttendScores(dst, q Matrix, keys Cached, ahead Ahead) {
	dst.check("scores")
	q.check("queries")
	panels := dst.Cols / Panel
	if dst.Cols%Panel != 0 || dst.Rows != q.Rows || keys.len(q.Cols) < panels*Panel*q.Cols {
		panic(fmt.Sprintf("kernels: scores [%d,%d] of queries [%d,%d] and %d numbers of keys", dst.Rows, dst.Cols, q.Rows, q.Cols, keys.len(q.Cols)))
	}
	if dst.Rows == 0 || panels == 0 || q.Cols == 0 {
		return
	}
	if s.code == nil {
		attendScoresPortable(dst, q, keys)
		return
	}
	numbers, scales := keys.data()
	args := attendScoresArgs{at(dst.Data), at(q.Data), numbers, scales, dst.Stride, q.Stride, q.Rows, q.Cols, panels, ahead}
	s.code.call(keys.pick(fnAttendScores, fnAttendScoresF16, fnAttendScoresQ8), unsafe.Pointer(&args))
}

// Span is which columns a row of scores sees: row r those in [From+r*Step, To+r*Step).
type Span struct{ From, To, Step int }

// of is what row r sees of n columns.
func (s Span) of(r, n int) (from, to int) {
	from = min(max(s.From+r*s.Step, 0), n)
	return from, max(from, min(s.To+r*s.Step, n))
}

type attendWeightsArgs struct {
	s, top, sum                  unsafe.Pointer
	lds, m, cols, from, to, step int
	scale                        float32
	_                            float32
}

// AttendWeights turns scores into e^(scale*score - top) where a row sees them and 0 elsewhere. top[r]
// becomes the largest scaled score of row r, -Inf when it sees nothing, and sum[r] the sum of its
// numbers. scale is positive.
func (s *Set) AttendWeights(scores Matrix, top, sum []float32, span Span, scale float32) {
	scores.check("scores")
	same("attention weights", scores.Rows, len(top), len(sum))
	if scores.Rows == 0 {
		return
	}
	if s.code == nil {
		attendWeightsPortable(scores, top, sum, span, scale)
		return
	}
	args := attendWeightsArgs{at(scores.Data), at(top), at(sum), scores.Stride, scores.Rows, scores.Cols, span.From, span.To, span.Step, scale, 0}
	s.code.call(fnAttendWeights, unsafe.Pointer(&args))
}

type attendValuesArgs struct {
	dst, w, v, scale                    unsafe.Pointer
	ldd, ldw, m, dim, n, from, to, step int
	ahead                               Ahead
}

// AttendValues is dst [m,dim] = w [m,n] times values [n,dim], for each row over the positions that it
// sees: an infinity or NaN in what comes later does not reach it, though 0 times that is NaN. span.Step
// is not negative, and 0 for halves and codes, which pay for the heads of one token only.
func (s *Set) AttendValues(dst, w Matrix, values Cached, span Span, ahead Ahead) {
	dst.check("sums")
	w.check("weights")
	if dst.Rows != w.Rows || values.len(dst.Cols) < w.Cols*dst.Cols {
		panic(fmt.Sprintf("kernels: sums [%d,%d] of weights [%d,%d] and %d numbers of values", dst.Rows, dst.Cols, w.Rows, w.Cols, values.len(dst.Cols)))
	}
	if span.Step != 0 && values.Floats == nil {
		panic("kernels: values that are no float32 for several tokens")
	}
	if dst.Rows == 0 || dst.Cols == 0 {
		return
	}
	if s.code == nil {
		attendValuesPortable(dst, w, values, span)
		return
	}
	numbers, scales := values.data()
	args := attendValuesArgs{at(dst.Data), at(w.Data), numbers, scales, dst.Stride, w.Stride, dst.Rows, dst.Cols, w.Cols, span.From, span.To, span.Step, ahead}
	s.code.call(values.pick(fnAttendValues, fnAttendValuesF16, fnAttendValuesQ8), unsafe.Pointer(&args))
}

// Sums are weighted sums of values under way: row r stands for Acc[r] e^Top[r], and the weights in it
// add up to Sum[r] e^Top[r].
type Sums struct {
	Acc      Matrix
	Top, Sum []float32
}

// Empty makes sums of nothing.
func (x Sums) Empty() {
	for r := range x.Acc.Rows {
		clear(x.Acc.Row(r))
		x.Top[r], x.Sum[r] = negInf, 0
	}
}

type attendMergeArgs struct {
	acc, top, sum, part, ptop, psum unsafe.Pointer
	lda, ldp, m, dim                int
}

// AttendMerge adds the sums of a page to those of the pages before.
func (s *Set) AttendMerge(dst, page Sums) {
	dst.Acc.check("sums")
	page.Acc.check("page")
	same("attention sums", dst.Acc.Rows, page.Acc.Rows, len(dst.Top), len(dst.Sum), len(page.Top), len(page.Sum))
	same("attention sums", dst.Acc.Cols, page.Acc.Cols)
	if dst.Acc.Rows == 0 || dst.Acc.Cols == 0 {
		return
	}
	if s.code == nil {
		attendMergePortable(dst, page)
		return
	}
	args := attendMergeArgs{
		at(dst.Acc.Data), at(dst.Top), at(dst.Sum), at(page.Acc.Data), at(page.Top), at(page.Sum),
		dst.Acc.Stride, page.Acc.Stride, dst.Acc.Rows, dst.Acc.Cols,
	}
	s.code.call(fnAttendMerge, unsafe.Pointer(&args))
}
