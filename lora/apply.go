package lora

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/par"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
)

// Apply implements ir.Pass. It reads the adapters once and a part of each changed weight, for the
// figures of the report; the merged values are computed when they are read.
//
// Figures per tensor: "delta" is |change|/|W|; "unchanged" the share of elements whose stored value
// stays the same although the merge changes them; for block types "signal_lost" is the rms of
// the error of encoding again over the rms of the change (above 1 the change drowns), and "cosine"
// compares the change asked for with the change that the stored values make.
func (p *Merge) Apply(ctx context.Context, m *ir.Model, _ *ir.Plan, env ir.Env) (*ir.Result, error) {
	r, err := p.resolve(m)
	if err != nil {
		return nil, err
	}
	jobs, err := p.prepare(ctx, r, env)
	if err != nil {
		return nil, err
	}
	res := &ir.Result{Skipped: r.skipped, Notes: r.notes, Tensors: map[string]map[string]float64{}}
	if err := r.addHead(m); err != nil {
		return nil, err
	}
	handles := make([]*ir.Tensor, len(jobs))
	figures := make([]map[string]float64, len(jobs))
	err = par.Range(ctx, env.Threads, len(jobs), 1, func(_, i, _ int) error {
		if jobs[i].chain == nil {
			return nil
		}
		var err error
		if handles[i], err = p.handle(ctx, jobs[i].chain); err == nil {
			figures[i], err = measure(ctx, jobs[i].chain, handles[i])
		}
		return ir.Wrap(jobs[i].chain.t, passName, err)
	})
	if err != nil {
		return nil, err
	}
	for i, j := range jobs {
		res.Notes = append(res.Notes, j.notes...)
		if j.chain == nil {
			if !onlyCopy(r.targets[j.name].ops) {
				res.Skipped[j.name] = "the adapter changes nothing here: a factor is zero or the values are the base's own"
			}
			continue
		}
		if err := m.Replace(handles[i]); err != nil {
			return nil, err
		}
		res.Changed++
		res.Tensors[j.name] = figures[i]
	}
	if res.Changed == 0 {
		return nil, &fault.Error{File: p.adapters[0].Adapter.File, Op: passName, Err: ErrNoChange, Hint: "every factor is zero: is the adapter trained?"}
	}
	res.Notes = append(res.Notes, summarise(res.Tensors, handles)...)
	return res, nil
}

func onlyCopy(ops []op) bool { return len(ops) == 1 && ops[0].saved != nil && ops[0].saved.base }

// handle makes the handle of a changed tensor.
func (p *Merge) handle(ctx context.Context, c *chain) (*ir.Tensor, error) {
	float := c.t.With(storage.F32, nil, floats{c})
	switch typ := p.outType(c.t); typ {
	case storage.F32:
		return float, nil
	case storage.Planes:
		return p.opts.Requantize(ctx, float, c.t)
	default:
		return c.t.With(typ, nil, &merged{c, storage.MustLookup(typ), p.opts.Importance[c.t.Name]}), nil
	}
}

// addHead gives the model its own output matrix when a tie has to be broken.
func (r *resolver) addHead(m *ir.Model) error {
	if r.untied == nil {
		return nil
	}
	if err := m.Add(r.untied); err != nil {
		return err
	}
	if m.Decoder != nil {
		d := *m.Decoder
		d.TiedHead = false
		m.Decoder = &d
	}
	if raw, ok := m.Assets["config.json"]; ok {
		config, err := setBool(raw, "tie_word_embeddings", false)
		if err != nil {
			return &fault.Error{File: "config.json", Op: passName, Err: err}
		}
		m.Assets["config.json"] = config
	}
	return nil
}

// setBool sets a key of a JSON object and leaves every other byte as it is. A missing key is added
// at the end.
func setBool(raw []byte, key string, value bool) ([]byte, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if tok, err := dec.Token(); err != nil || tok != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	text := fmt.Sprint(value)
	end, n := 0, 0
	for ; dec.More(); n++ {
		tok, err := dec.Token()
		if err != nil {
			return nil, err
		}
		var v json.RawMessage
		if err := dec.Decode(&v); err != nil {
			return nil, err
		}
		end = int(dec.InputOffset())
		if tok == key {
			return bytes.Join([][]byte{raw[:end-len(v)], raw[end:]}, []byte(text)), nil
		}
	}
	if _, err := dec.Token(); err != nil {
		return nil, err
	}
	if n == 0 {
		return fmt.Appendf(nil, "{%q: %s}\n", key, text), nil
	}
	return bytes.Join([][]byte{raw[:end], raw[end:]}, fmt.Appendf(nil, ",\n  %q: %s", key, text)), nil
}

// Attached returns a copy of the model with the adapters beside the weights and nothing merged: what
// the merged model is compared with. Replacements and biases, which have no such form, are in
// place in float32. All factors are held in memory. The copy shares the model's files.
func (p *Merge) Attached(ctx context.Context, m *ir.Model, env ir.Env) (*ir.Model, error) {
	r, err := p.resolve(m)
	if err != nil {
		return nil, err
	}
	jobs, err := p.prepare(ctx, r, env)
	if err != nil {
		return nil, err
	}
	out := m.Clone()
	if err := r.addHead(out); err != nil {
		return nil, err
	}
	for _, j := range jobs {
		if j.chain == nil {
			continue
		}
		h, err := j.chain.attach(ctx)
		if err != nil {
			return nil, ir.Wrap(j.chain.t, passName, err)
		}
		if err := out.Replace(h); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// attach keeps the trailing low-rank steps of a matrix beside it.
func (c *chain) attach(ctx context.Context) (*ir.Tensor, error) {
	rows, cols := c.t.Rows(), c.t.Cols()
	keep := len(c.steps)
	for keep > 0 && c.steps[keep-1].saved == nil && len(c.t.Shape) == 2 {
		keep--
	}
	h := *c.t
	if keep > 0 {
		before := *c
		before.steps = c.steps[:keep]
		h.Type, h.Scheme, h.Data = storage.F32, nil, floats{&before}
	}
	for _, s := range c.steps[keep:] {
		l, err := s.factors(ctx)
		if err != nil {
			return nil, err
		}
		if h.Side != nil {
			l = h.Side.Then(l, rows, cols)
		}
		h.Side = l
	}
	return &h, nil
}
