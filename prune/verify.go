package prune

import (
	"context"
	"fmt"

	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
)

// Expectation is what a written model must show for one tensor.
type Expectation struct {
	Tensor string // the name in the pruned model; found by name or alias
	Zeros  int64  // at least so many weights are zero
	N, M   int    // at most N of M consecutive weights of a row are not zero; 0 for unstructured
	Global bool   // Zeros is the tensor's share of a global threshold: only the sum over all counts
}

// Finding is what a written model really holds.
type Finding struct {
	Tensor   string  `json:"tensor"`
	Type     string  `json:"type"` // stored type in the file
	Zeros    int64   `json:"zeros"`
	Elements int64   `json:"elements"`
	Sparsity float64 `json:"sparsity"` // Zeros / Elements
	Holds    bool    `json:"holds"`
	Reason   string  `json:"reason,omitempty"` // why not
}

// Expect lists what the pass promises for a model, before or after it ran.
func (p *Magnitude) Expect(m *ir.Model) ([]Expectation, error) {
	_, chosen, err := p.choose(p.Name(), m, ScopeLayer)
	return expect(chosen), err
}

// Expect lists what the pass promises for a model, before or after it ran.
func (p *Wanda) Expect(m *ir.Model) ([]Expectation, error) {
	_, chosen, err := p.choose(m)
	return expect(chosen), err
}

func expect(chosen []*request) []Expectation {
	list := make([]Expectation, len(chosen))
	for i, r := range chosen {
		list[i] = Expectation{Tensor: r.t.Name, Zeros: r.zeros(), N: r.n, M: r.m, Global: r.m == 0 && r.scope == ScopeGlobal}
	}
	return list
}

// Verify reads a model, as it was written, and counts. It is not an error when something does not
// hold: quantization to a type that cannot hold a zero is one reason, and the finding says so.
func Verify(ctx context.Context, m *ir.Model, want []Expectation) ([]Finding, error) {
	var found []Finding
	var zeros, promised int64
	for _, e := range want {
		f, err := verify(ctx, m, e)
		if err != nil {
			return nil, err
		}
		if e.Global {
			zeros, promised = zeros+f.Zeros, promised+e.Zeros
		}
		found = append(found, f)
	}
	// the parts of a global request are rounded down one by one, so their sum is a lower bound
	for i, e := range want {
		if e.Global && zeros < promised {
			found[i].Holds, found[i].Reason = false, fmt.Sprintf("%d zeros in all chosen matrices, %d were promised", zeros, promised)
		}
	}
	return found, nil
}

func verify(ctx context.Context, m *ir.Model, e Expectation) (Finding, error) {
	f := Finding{Tensor: e.Tensor, Holds: true}
	t := m.Find(e.Tensor)
	if t == nil {
		f.Holds, f.Reason = false, "the model has no such tensor"
		return f, nil
	}
	f.Type, f.Elements = string(t.Type), t.Elems()
	cols, crowded := t.Cols(), int64(0)
	err := ir.EachBand(ctx, t, bandBytes, func(_ ir.Band, x []float32) error {
		for _, v := range x {
			if v == 0 {
				f.Zeros++
			}
		}
		if e.M > 0 && cols%e.M == 0 {
			for at := 0; at < len(x); at += e.M {
				kept := 0
				for _, v := range x[at : at+e.M] {
					if v != 0 {
						kept++
					}
				}
				if kept > e.N {
					crowded++
				}
			}
		}
		return nil
	})
	if err != nil {
		return f, err
	}
	f.Sparsity = float64(f.Zeros) / float64(f.Elements)
	switch {
	case e.M > 0 && cols%e.M != 0:
		f.Holds, f.Reason = false, fmt.Sprintf("rows of %d are no multiple of %d", cols, e.M)
	case crowded > 0:
		f.Holds, f.Reason = false, fmt.Sprintf("%d groups of %d hold more than %d weights", crowded, e.M, e.N)
	case !e.Global && f.Zeros < e.Zeros:
		f.Holds, f.Reason = false, fmt.Sprintf("%d zeros, %d were promised", f.Zeros, e.Zeros)
	}
	return f, nil
}

// Effect is what zeros mean in a stored type.
type Effect struct {
	HoldsZero bool    // a weight of zero stays exactly zero in this type
	Ratio     float64 // size of a tensor with zeros over the size without: 1 for all dense types
	Text      string  // for the report
}

// Gain says honestly what pruned weights bring in a stored type (scheme is set for planes).
func Gain(t storage.Type, scheme *storage.Scheme) Effect {
	e := Effect{HoldsZero: true, Ratio: 1, Text: fmt.Sprintf("%s stores a zero like any other weight: pruning changes neither size nor speed, only what a compressed copy of the file takes", t)}
	info, ok := storage.Lookup(t)
	switch {
	case !ok:
		return Effect{Ratio: 1, Text: fmt.Sprintf("unknown type %s", t)}
	case scheme != nil:
		return e // symmetric codes have 0, asymmetric ones a zero point that stands for 0
	case info.Float || info.BlockElems == 1:
		return e
	}
	if e.HoldsZero = holdsZero(info); !e.HoldsZero {
		e.Text = fmt.Sprintf("%s codes weights between a minimum and a maximum of each block, where 0 need not lie on the grid: pruned weights come out near zero, not zero", t)
	}
	return e
}

// holdsZero finds out by trying: blocks with zeros between weights of one sign, and of both.
func holdsZero(info *storage.Info) bool {
	if info.Encode == nil {
		return false
	}
	w := make([]float32, info.BlockElems)
	b, back := make([]byte, info.BlockBytes), make([]float32, len(w))
	for _, shift := range []float32{0, 1.3, -0.217, 0.0813, -1.7, 0.3331} { // several: one block may have 0 on its grid by chance
		for i := range w {
			w[i] = 0
			if i%3 != 0 {
				w[i] = float32(i*37%101)/101 - 0.45 + shift
			}
		}
		if info.Encode(b, w, nil) != nil {
			return false
		}
		info.Decode(back, b)
		for i, v := range back {
			if w[i] == 0 && v != 0 {
				return false
			}
		}
	}
	return true
}
