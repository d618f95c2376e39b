package verify

import (
	"math"
	"slices"
	"testing"
)

// numbers are those of a generator that any language can repeat (Numerical Recipes).
func numbers(n int) []int {
	out := make([]int, n)
	s := uint32(1)
	for i := range out {
		s = s*1664525 + 1013904223
		out[i] = int(s >> 8)
	}
	return out
}

func cents(x float64) float64 { return math.RoundToEven(100*x) / 100 }

// What scikit-learn 1.7.2 says (roc_auc_score, f1_score, accuracy_score) of 200 probabilities with many ties.
func TestBinaryMetrics(t *testing.T) {
	const n = 200
	u := numbers(3 * n)
	r := &Graphs{}
	for i := range n {
		label := 0
		if u[i]%3 == 0 {
			label = 1
		}
		a := cents(float64(u[n+i]%1000)/1000*0.6 + float64(label)*0.35)
		b := cents(float64(u[2*n+i]%1000)/1000*0.8 + float64(label)*0.2)
		r.AddRow([]float64{a}, []float64{b}, label)
	}
	r.Judge(Limits{"auc_drop": 0.05, "f1_drop": 0.4, "accuracy_drop": 0.5}, Bytes{})
	k := r.Task
	for _, c := range []struct {
		name      string
		got, want float64
	}{
		{"AUC", k.AUC.Original, 0.9108072916666666},
		{"AUC of the package", k.AUC.Package, 0.7393120659722222},
		{"F1", k.F1.Original, 0.7671232876712328},
		{"F1 of the package", k.F1.Package, 0.5384615384615384},
		{"accuracy", k.Original, 0.83},
		{"accuracy of the package", k.Package, 0.64},
	} {
		if math.Abs(c.got-c.want) > 1e-12 {
			t.Errorf("%s is %v, want %v", c.name, c.got, c.want)
		}
	}
	verdicts := map[string]Verdict{}
	for _, c := range r.Gate.Checks {
		verdicts[c.Name] = c.Verdict
	}
	if verdicts["auc_drop"] != Fail || verdicts["f1_drop"] != Pass || verdicts["accuracy_drop"] != Pass {
		t.Errorf("%v", verdicts)
	}
}

// Macro F1 of scikit-learn over five classes. Each decision is the class of the one score that is not 0.
func TestMacroF1(t *testing.T) {
	const n = 200
	u := numbers(3 * n)
	r := &Graphs{}
	scores := func(class int) []float64 {
		x := make([]float64, 5)
		x[class] = 1
		return x
	}
	for i := range n {
		label := u[i] % 5
		p, q := label, label
		if u[n+i]%4 == 0 {
			p = u[2*n+i] % 5
		}
		if u[n+i]%3 == 0 {
			q = u[2*n+i] % 4
		}
		r.AddRow(scores(p), scores(q), label)
	}
	r.Judge(nil, Bytes{})
	if f := r.Task.F1; math.Abs(f.Original-0.7970462486029976) > 1e-12 || math.Abs(f.Package-0.750549650496146) > 1e-12 || r.Task.AUC != nil {
		t.Errorf("%+v", r.Task)
	}
}

// The spread of the difference of two areas, by the definition of DeLong, DeLong and Clarke-Pearson: every pair of
// samples of both classes compared.
func TestAreas(t *testing.T) {
	u := numbers(90)
	var rows []row
	for i := range 30 {
		l := i % 3 % 2
		rows = append(rows, row{label: l, score: [2]float64{float64(u[i]%20 + 4*l), float64(u[30+i]%15 + 2*l)}})
	}
	p, drop, ok := areas(rows)
	if !ok {
		t.Fatal("no area")
	}
	above := func(x, y float64) float64 {
		switch {
		case x > y:
			return 1
		case x == y:
			return 0.5
		}
		return 0
	}
	var yes, no []row
	for _, r := range rows {
		if r.label == 1 {
			yes = append(yes, r)
		} else {
			no = append(no, r)
		}
	}
	difference := func(x, y row) float64 { return above(x.score[0], y.score[0]) - above(x.score[1], y.score[1]) }
	var first, second []float64
	mean := 0.0
	for _, x := range yes {
		v := 0.0
		for _, y := range no {
			v += difference(x, y) / float64(len(no))
		}
		first = append(first, v)
		mean += v / float64(len(yes))
	}
	for _, y := range no {
		v := 0.0
		for _, x := range yes {
			v += difference(x, y) / float64(len(yes))
		}
		second = append(second, v)
	}
	variance := 0.0
	for _, part := range [][]float64{first, second} {
		s := 0.0
		for _, v := range part {
			s += (v - mean) * (v - mean)
		}
		variance += s / float64(len(part)-1) / float64(len(part))
	}
	if math.Abs(drop.Value-mean) > 1e-12 || math.Abs(p.Original-p.Package-mean) > 1e-12 {
		t.Errorf("difference %v of %+v, want %v", drop.Value, p, mean)
	}
	// of t with 9 degrees of freedom the 97.5 % quantile is 2.262
	at := drop.Resamples[len(drop.Resamples)*39/40]
	if got := (at - mean) / 2.262; math.Abs(got/math.Sqrt(variance)-1) > 0.005 || !slices.IsSorted(drop.Resamples) {
		t.Errorf("standard error %v, want %v", got, math.Sqrt(variance))
	}
	if _, _, ok := areas(yes); ok {
		t.Error("one class alone has an area")
	}
}
