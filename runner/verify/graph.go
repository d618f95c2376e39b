package verify

import (
	"math"
	"slices"
)

// Graphs is what a comparison of two graphs measured. It is the object of `pare verify --output json` for them.
type Graphs struct {
	Schema   int           `json:"schema"`
	Original string        `json:"original"`
	Package  string        `json:"package"`
	Samples  int           `json:"samples"`
	ISA      string        `json:"isa"`
	Outputs  []OutputError `json:"outputs"`
	Layers   []OutputError `json:"layers,omitempty"` // values that have the same name in both graphs, in the order they are computed
	// All is the error of all outputs together.
	All   OutputError `json:"all"`
	Top1  *Neighbours `json:"top1,omitempty"` // share of rows for which both rank the same class first
	Task  *Task       `json:"task,omitempty"`
	Bytes Bytes       `json:"bytes"`
	Gate  Gate        `json:"gate"`

	same, diff []float64
	hits       [2][2]int // [original, package][top-1, top-5]
	rows       []row     // those that have labels
	classes    int       // 2 for a single score
	known      map[string]Evidence
}

// OutputError is how far a value of the package is from that of the original, over all samples.
type OutputError struct {
	Name   string  `json:"name"`
	SQNR   float64 `json:"sqnr_db"` // 10 log10(signal/error); 200 when there is no error
	Cosine float64 `json:"cosine"`
	MaxAbs float64 `json:"max_abs"`

	aa, bb, ab, ee float64
}

// Task is how well both do what they were trained for: the share of rows whose label is ranked first. Of a
// network with a single score, a probability, it is the share for which that lies on the right side of 0.5.
// Bounds are Wilson's, one-sided, of the package's share.
type Task struct {
	Metric   string  `json:"metric"`
	Original float64 `json:"original"`
	Package  float64 `json:"package"`
	N        int     `json:"n"`
	Lower95  float64 `json:"lower95"`
	Upper95  float64 `json:"upper95"`
	// shares of rows whose label is among the first five
	OriginalTop5 float64 `json:"original_top5"`
	PackageTop5  float64 `json:"package_top5"`
	// F1 of class 1 where there are two, else the mean over classes (macro). AUC is the area under the receiver
	// operating characteristic, of two classes that both occur.
	F1  Pair  `json:"f1"`
	AUC *Pair `json:"auc,omitempty"`
}

// Add compares one tensor.
func (o *OutputError) Add(a, b []float64) {
	for i, x := range a {
		y := b[i]
		o.aa += x * x
		o.bb += y * y
		o.ab += x * y
		o.ee += (x - y) * (x - y)
		o.MaxAbs = max(o.MaxAbs, math.Abs(x-y))
	}
}

// join counts another value in.
func (o *OutputError) join(x *OutputError) {
	o.aa, o.bb, o.ab, o.ee = o.aa+x.aa, o.bb+x.bb, o.ab+x.ab, o.ee+x.ee
	o.MaxAbs = max(o.MaxAbs, x.MaxAbs)
}

// sum makes figures of sums.
func (o *OutputError) sum() {
	o.SQNR = 200
	if o.ee > 0 {
		o.SQNR = min(200, max(-200, 10*math.Log10(o.aa/o.ee)))
	}
	if o.Cosine = 1; o.ee > 0 {
		if o.Cosine = 0; o.aa > 0 && o.bb > 0 {
			o.Cosine = o.ab / math.Sqrt(o.aa*o.bb)
		}
	}
}

// AddRow compares how both rank classes; label is negative when nobody knows the right one. Of equal scores the
// first class is ranked first. A single score is the probability of class 1 of two.
func (r *Graphs) AddRow(a, b []float64, label int) {
	l := row{label: label}
	for side, x := range [][]float64{a, b} {
		l.took[side], l.score[side] = decide(x)
	}
	same := 0.0
	if l.took[0] == l.took[1] {
		same = 1
	}
	r.same = append(r.same, same)
	if label < 0 {
		return
	}
	r.rows, r.classes = append(r.rows, l), max(2, len(a))
	var right [2]float64
	for side, x := range [][]float64{a, b} {
		place := 0
		if len(x) > 1 {
			place = rank(x, label)
		} else if l.took[side] != label {
			place = 1
		}
		switch {
		case place == 0:
			r.hits[side][0]++
			right[side] = 1
			fallthrough
		case place < 5:
			r.hits[side][1]++
		}
	}
	r.diff = append(r.diff, right[0]-right[1])
}

// rank is how many classes are before class; of -1 it is the class that is first.
func rank(x []float64, class int) int {
	if class < 0 {
		best := 0
		for i, v := range x {
			if v > x[best] {
				best = i
			}
		}
		return best
	}
	n := 0
	for i, v := range x {
		if v > x[class] || v == x[class] && i < class || v-v != 0 {
			n++
		}
	}
	return n
}

// Judge makes figures of what was added and applies limits. sizes are those of the files.
func (r *Graphs) Judge(l Limits, sizes Bytes) {
	least, cosine := math.Inf(1), math.Inf(1)
	for i := range r.Outputs {
		r.Outputs[i].sum()
		r.All.join(&r.Outputs[i])
		least, cosine = min(least, r.Outputs[i].SQNR), min(cosine, r.Outputs[i].Cosine)
	}
	r.All.sum()
	for i := range r.Layers {
		r.Layers[i].sum()
	}
	r.Bytes = sizes
	known := map[string]Evidence{"size_ratio": Exact(float64(sizes.Package) / float64(max(sizes.Original, 1)))}
	if len(r.Outputs) > 0 {
		known["sqnr_db"], known["sqnr_all_db"], known["cosine"] = Exact(least), Exact(r.All.SQNR), Exact(cosine)
	}
	share := func(x []float64) (float64, []float64) {
		sum := 0.0
		for _, v := range x {
			sum += v
		}
		return sum / float64(len(x)), slices.Repeat([]float64{1}, len(x))
	}
	if len(r.same) > 0 {
		agree, ones := share(r.same)
		lower, upper := wilson(agree, float64(len(r.same)))
		r.Top1 = &Neighbours{agree, lower, upper}
		known["top1"] = Evidence{Value: agree, Resamples: estimateRatio(r.same, ones).at, Units: len(r.same)}
	}
	if n := len(r.diff); n > 0 {
		of := func(side, k int) float64 { return float64(r.hits[side][k]) / float64(n) }
		t := &Task{Metric: "top1", Original: of(0, 0), Package: of(1, 0), N: n, OriginalTop5: of(0, 1), PackageTop5: of(1, 1)}
		t.Lower95, t.Upper95 = wilson(t.Package, float64(n))
		r.Task = t
		drop, ones := share(r.diff)
		known["accuracy_drop"] = Evidence{Value: drop, Resamples: estimateRatio(r.diff, ones).at, Units: n}
		t.F1, known["f1_drop"] = f1Scores(r.rows, r.classes)
		if r.classes == 2 {
			if p, e, ok := areas(r.rows); ok {
				t.AUC, known["auc_drop"] = &p, e
			}
		}
	}
	r.known = known
	r.Gate = Evaluate(l, known)
}

// Evidence is what gates go by, once Judge has been called.
func (r *Graphs) Evidence() map[string]Evidence { return r.known }
