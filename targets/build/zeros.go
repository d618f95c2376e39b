package build

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/prune"
	"github.com/pare-dev/pare/targets/report"
)

// promise remembers what a pruning pass promises of the base model, so that what was written can be
// held to it.
func (e *engine) promise(pass ir.Pass) error {
	p, ok := pass.(interface {
		Expect(m *ir.Model) ([]prune.Expectation, error)
	})
	if !ok {
		return nil
	}
	want, err := p.Expect(e.base)
	e.promised = append(e.promised, want...)
	return err
}

// zeros counts what is left of the pruning in a model that was written, m: quantization may move a
// weight off zero, and only the file can tell. It is nil when nothing was pruned.
func (e *engine) zeros(ctx context.Context, m *ir.Model) (*report.Zeros, error) {
	if len(e.promised) == 0 {
		return nil, nil
	}
	want := slices.Clone(e.promised)
	schemes := map[string]*storage.Scheme{}
	var total int64
	for i := range want {
		t := e.base.Find(want[i].Tensor)
		if got := find(m, t); got != nil { // the container may spell it otherwise
			want[i].Tensor = got.Name
			schemes[got.Name] = got.Scheme
		}
		total += t.Elems()
	}
	e.meter.Stage("count zeros", total, "weights")
	found, err := prune.Verify(ctx, m, want)
	if err != nil {
		return nil, err
	}
	z := &report.Zeros{}
	seen := map[string]bool{} // a matrix that two passes prune is one matrix
	for i, f := range found {
		e.meter.Add(f.Elements)
		if !f.Holds {
			z.Broken = append(z.Broken, report.Line{Tensor: e.promised[i].Tensor, Reason: f.Reason})
		}
		if seen[f.Tensor] {
			continue
		}
		seen[f.Tensor] = true
		z.Matrices, z.Zeros, z.Elements = z.Matrices+1, z.Zeros+f.Zeros, z.Elements+f.Elements
		if f.Type == "" {
			continue // the model lacks it; the reason says so
		}
		if g := prune.Gain(storage.Type(f.Type), schemes[f.Tensor]).Text; !slices.Contains(z.Gain, g) {
			z.Gain = append(z.Gain, g)
		}
	}
	return z, nil
}

// lostZeros warns of pruned matrices that a plan stores in types that have no zero.
func (e *engine) lostZeros(p *ir.Plan) (notes []string) {
	pruned := map[string]bool{}
	for _, pass := range e.rep.Passes {
		if strings.HasPrefix(pass.Name, "prune.") {
			for _, t := range pass.Tensors {
				pruned[t.Name] = true
			}
		}
	}
	lost := map[storage.Type]int{}
	for _, s := range p.Steps {
		if pruned[s.Tensor] && !prune.Gain(s.To, s.Scheme).HoldsZero {
			lost[s.To]++
		}
	}
	for _, typ := range sortedKeys(lost) {
		notes = append(notes, fmt.Sprintf("%d pruned matrices become %s, which cannot hold a zero: the pruning is lost; q4_0, q5_0, q6_k and q8_0 keep it", lost[typ], typ))
	}
	return notes
}

// holdZeros counts the zeros of a step's output. A file that was pruned and not quantized must hold
// every one of them.
func (e *engine) holdZeros(ctx context.Context, m *ir.Model, j *job) error {
	z, err := e.zeros(ctx, m)
	if err != nil || z == nil {
		return err
	}
	j.rep.Zeros = z
	if len(z.Broken) > 0 && j.t.Quantize == "" {
		b := z.Broken[0]
		return &fault.Error{File: m.Path, Tensor: b.Tensor, Op: "prune", Err: fmt.Errorf("the file does not hold what was pruned: %s", b.Reason)}
	}
	return nil
}
