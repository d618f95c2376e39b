package build

import (
	"context"

	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/prune"
	"github.com/pare-dev/pare/quantize"
)

// prunePass makes the pass of a line of the recipe.
func (e *engine) prunePass(i int) (ir.Pass, error) {
	p := &e.r.Passes[i]
	o := prune.Options{Pattern: p.Pattern, Scope: prune.Scope(p.Scope), Only: p.Only, Skip: p.Skip}
	if p.Sparsity != nil {
		o.Sparsity = float64(*p.Sparsity)
	}
	o.NoRefit = p.Refit != nil && !*p.Refit
	o.Structure = prune.Structure{
		Parameters: int64(p.Parameters), Bytes: int64(p.Bytes), FFN: p.FFN, KVHeads: p.KVHeads, Hidden: p.Hidden,
		Blocks: p.Blocks, Multiple: p.Multiple, Score: p.Score,
	}
	if p.Ratio != nil {
		o.Structure.Ratio = float64(*p.Ratio)
	}
	for _, s := range p.Schedule {
		o.Schedule = append(o.Schedule, prune.Share{Match: s.Match, Sparsity: float64(s.Sparsity)})
	}
	method := prune.Lookup(p.Use)
	if method == nil { // checkPasses lets no other through
		return nil, misuse("recipe", "", "no pass is called %q", p.Use)
	}
	var importance map[string][]float32
	if f := e.r.Calibration.Imatrix; f != "" && method.Learns {
		s, err := quantize.ReadStatistics(f)
		if err != nil {
			return nil, err
		}
		importance = s.Importance()
	}
	return method.New(o, importance), nil
}

// prune applies one line of the recipe to the base model. What takes activations is computed once
// and kept in the work folder; what does not is cheap, and computed when it is read.
func (e *engine) prune(ctx context.Context, i int) (reused bool, err error) {
	pass, err := e.prunePass(i)
	if err != nil {
		return false, err
	}
	if err := e.promise(pass); err != nil {
		return false, err
	}
	runs := pass.Needs() == ir.NeedActivations
	parts := []any{e.key, e.r.Passes[i], e.origins.Imatrix}
	if runs {
		parts = append(parts, e.calibKey(), e.o.ISA)
	}
	e.key = key(parts...)
	s, err := e.w.stage("prune", e.key)
	if err != nil {
		return false, err
	}
	before := e.base.Clone()
	var rec packaged
	if runs && s.load(&rec) {
		e.rep.Passes = append(e.rep.Passes, rec.Passes...)
		if rec.Decoder != nil {
			if err := e.resize(rec.Decoder, rec.Dropped); err != nil {
				return false, err
			}
		}
		return true, e.spill(ctx, e.base, before, s, keptName)
	}
	res, plan, err := e.apply(ctx, pass, e.base, e.env(s))
	if err != nil {
		return false, err
	}
	result := passResult(pass.Name(), plan, res, e.src)
	e.rep.Passes = append(e.rep.Passes, result)
	if !runs {
		return false, nil
	}
	if err := e.spill(ctx, e.base, before, s, keptName); err != nil {
		return false, err
	}
	return false, s.finish(packaged{Passes: append(rec.Passes[:0], result), Decoder: res.Decoder, Dropped: res.Dropped})
}

// resize gives the base model the dimensions that a pass gave it before.
func (e *engine) resize(d *ir.Decoder, dropped []int) error {
	if len(dropped) > 0 {
		if err := e.base.DropBlocks(dropped); err != nil {
			return err
		}
	}
	e.base.Decoder = d
	return nil
}

// keptName is the file that a stage keeps tensors in.
const keptName = "tensors.safetensors"
