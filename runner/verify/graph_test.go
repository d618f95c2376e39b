package verify

import (
	"math"
	"testing"
)

// Figures of tensors that are known by hand.
func TestGraphFigures(t *testing.T) {
	r := &Graphs{Outputs: make([]OutputError, 3)}
	r.Outputs[0].Add([]float64{3, 4}, []float64{3, 4})
	r.Outputs[1].Add([]float64{10, 0}, []float64{9, 0})   // signal 100, error 1: 20 dB
	r.Outputs[2].Add([]float64{1, 0}, []float64{0, 1})    // at right angles, error twice the signal
	r.AddRow([]float64{1, 3, 2}, []float64{1, 3, 2}, 1)   // both right
	r.AddRow([]float64{1, 3, 2}, []float64{1, 2, 3}, 1)   // the package wrong
	r.AddRow([]float64{5, 3, 2}, []float64{5, 2, 3}, 2)   // both wrong, and alike
	r.AddRow([]float64{0, 9, 9}, []float64{0, 9, 9.5}, 1) // of equal scores the first
	r.Judge(Limits{"sqnr_db": 0, "size_ratio": 0.5}, Bytes{Original: 100, Package: 50})
	if r.Outputs[0].SQNR != 200 || r.Outputs[0].Cosine != 1 || math.Abs(r.Outputs[1].SQNR-20) > 1e-9 || r.Outputs[1].MaxAbs != 1 {
		t.Errorf("%+v", r.Outputs)
	}
	if o := r.Outputs[2]; math.Abs(o.SQNR+3.0103) > 1e-4 || o.Cosine != 0 {
		t.Errorf("%+v", o)
	}
	// signal 25 + 100 + 1, error 0 + 1 + 2
	if o := r.All; math.Abs(o.SQNR-10*math.Log10(126./3)) > 1e-9 || o.MaxAbs != 1 || math.Abs(o.Cosine-115/math.Sqrt(126*107)) > 1e-9 {
		t.Errorf("%+v", o)
	}
	if k := r.Task; k.N != 4 || k.Original != 0.75 || k.Package != 0.25 || k.OriginalTop5 != 1 {
		t.Errorf("%+v", k)
	}
	if r.Top1.Agreement != 0.5 || r.Gate.Verdict != Fail || r.Gate.Checks[0].Verdict != Pass {
		t.Errorf("%+v %+v", r.Top1, r.Gate)
	}
}
