package build

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/quantize"
	"github.com/pare-dev/pare/runner"
	"github.com/pare-dev/pare/runner/verify"
	"github.com/pare-dev/pare/targets/report"
)

// compared is the record of a finished comparison in the work folder.
type compared struct {
	Result   *verify.Result
	Evidence map[string]verify.Evidence // of Result, for the gates
	Tensors  map[string]map[string]float64
	Zeros    *report.Zeros
}

// compare measures the package that was written, m, against the reference, and judges it.
func (e *engine) compare(ctx context.Context, j *job, m *ir.Model, digest string) error {
	v := e.r.Verify
	limits, byDefault := e.limits(j)
	checkKey := ""
	if e.check != nil {
		checkKey = key(e.check.SHA256, e.check.Name, len(e.check.ids), v)
	}
	s, err := e.w.stage("verify", key(digest, e.refKey, checkKey, limits, e.o.ISA))
	if err != nil {
		return err
	}
	var rec compared
	err = e.timed("verify", j.t.Name, func() (bool, error) {
		if s.load(&rec) {
			return true, nil
		}
		rec = compared{}
		if rec.Tensors, err = e.weights(ctx, m); err != nil {
			return false, err
		}
		if rec.Zeros, err = e.zeros(ctx, m); err != nil {
			return false, err
		}
		if e.check != nil && !v.Off {
			if rec.Result, err = e.measure(ctx, m, j, limits); err != nil {
				return false, err
			}
			rec.Evidence = rec.Result.Evidence()
		}
		return false, s.finish(rec)
	})
	if err != nil {
		return err
	}
	r := j.rep
	r.Zeros = rec.Zeros
	for i := range r.Tensors {
		for k, x := range rec.Tensors[r.Tensors[i].Name] {
			if r.Tensors[i].Figures == nil {
				r.Tensors[i].Figures = map[string]float64{}
			}
			r.Tensors[i].Figures[k] = x
		}
	}
	if res := rec.Result; res != nil {
		r.Text = &report.Text{Name: e.check.Name, SHA256: e.check.SHA256, Tokens: res.Protocol.Chunks * res.Protocol.Context}
		r.Protocol, r.Perplexity, r.KL, r.Top1 = &res.Protocol, &res.Perplexity, &res.KL, &res.Top1
		r.Layers, r.Sample = res.Layers, res.Text
	} else {
		r.NotCompared = "not compared on text: " + cmp.Or(e.notRun, "the comparison is off ([verify] off, --no-verify)")
	}
	known, err := e.latency(ctx, j, m, digest)
	if err != nil {
		return err
	}
	maps.Copy(known, rec.Evidence)
	known["size_ratio"] = verify.Exact(float64(r.Bytes) / float64(max(e.rep.Source.Bytes, 1)))
	r.Gate = verify.Evaluate(limits, known)
	r.Verdict = r.Gate.Verdict
	if r.Verdict == verify.Inconclusive && v.Undecided == "pass" {
		r.Verdict = report.Pass
		r.Notes = append(r.Notes, "a gate stayed inconclusive; the recipe lets that pass")
	}
	if p := r.Perplexity; p != nil && p.Original > float64(e.src.Decoder.Vocab) {
		r.Notes = append(r.Notes, fmt.Sprintf("the original itself does worse than guessing on this text (perplexity %s, %d tokens in the vocabulary): the comparison says little about other texts", human.Float(p.Original), e.src.Decoder.Vocab))
	}
	if byDefault {
		r.Notes = append(r.Notes, fmt.Sprintf("no gate was named: the usual limit for %s was used", j.t.Quantize))
	}
	return nil
}

// limits are the gates of the recipe, or, when it names none, the usual limit for the size of the
// type, so that a build always ends with a verdict. Pruning has no usual limit.
func (e *engine) limits(j *job) (l verify.Limits, byDefault bool) {
	if len(e.r.Gate) > 0 || e.check == nil || e.r.Verify.Off || prunes(e.r) {
		return e.r.Gate.Limits(), false
	}
	if kl := usualKL(e.quantizedBits(j.rep), e.rep.Source.Parameters); kl > 0 {
		return verify.Limits{"kl_mean": kl}, true
	}
	return nil, false
}

// quantizedBits is the mean number of bits of the weights in transformer blocks, those that
// quantization is about; 16 when there are none.
func (e *engine) quantizedBits(r *report.Target) float64 {
	var bits, elems float64
	for i := range r.Tensors {
		if t := e.base.Find(r.Tensors[i].Name); t != nil && t.Role.Linear() {
			bits += 8 * float64(r.Tensors[i].Bytes)
			elems += float64(t.Elems())
		}
	}
	if elems == 0 {
		return 16
	}
	return bits / elems
}

// UsualKL is the limit on the mean KL divergence that a build holds a package to when no gate is
// named, for a type of which every weight takes as much; 0 when nothing is usual.
func UsualKL(typ string, parameters int64) (float64, error) {
	req, err := quantize.ParseRequest(typ)
	if err != nil {
		return 0, err
	}
	if req.Scheme != nil {
		return usualKL(float64(req.Scheme.Bits), parameters), nil
	}
	return usualKL(storage.MustLookup(req.Preset.Base).Bits(), parameters), nil
}

// usualKL is the mean KL divergence, in nats per token, that packages of a size are usually held to:
// what llama.cpp's tables of its types show for models of 7 billion parameters, with room, and three
// times that below one billion. Below 3 bits nothing is usual: 0.
func usualKL(bits float64, parameters int64) float64 {
	kl := 0.0
	switch {
	case bits >= 8:
		kl = 2e-3
	case bits >= 6.5:
		kl = 8e-3
	case bits >= 5.5:
		kl = 2e-2
	case bits >= 4:
		kl = 6e-2
	case bits >= 3:
		kl = 0.2
	}
	if parameters < 1e9 {
		kl *= 3
	}
	return kl
}

// measure runs both models side by side. While an accuracy gate cannot tell, the sample is doubled,
// up to the cap.
func (e *engine) measure(ctx context.Context, m *ir.Model, j *job, limits verify.Limits) (*verify.Result, error) {
	defer e.mapping(2)()
	a, err := e.load(ctx, e.ref)
	if err != nil {
		return nil, err
	}
	defer a.Close()
	b, err := e.load(ctx, m)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	c, err := verify.New(a, b, verify.Options{
		Context: e.r.Verify.Context, BOS: e.start(e.check), TextHash: e.check.SHA256, Progress: e.meter,
		Recording: e.original,
	})
	if err != nil {
		return nil, err
	}
	res, err := c.Until(ctx, e.check.ids, e.r.Verify.Chunks, e.r.Verify.MaxChunks, limits)
	if err != nil {
		return nil, err
	}
	res.Original, res.Package = e.against, j.t.Name
	res.Bytes = verify.Bytes{Original: e.rep.Source.Bytes, Package: j.rep.Bytes}
	res.Text, err = e.sample(ctx, a, b)
	return res, err
}

// sample lets both models write from the beginning of the text. Large models write less: the time
// for it should stay small beside the comparison's.
func (e *engine) sample(ctx context.Context, a, b *runner.Runner) (*verify.Text, error) {
	n := int(min(384, max(48, 3e9/float64(e.rep.Source.Parameters+1))))
	n = min(n, 3*e.src.Decoder.Context/2)
	prompt := e.check.ids[:min(16, len(e.check.ids))]
	e.meter.Stage("write text", 0, "tokens")
	return verify.WriteText(ctx, a, b, verify.TextOptions{
		Prompt: prompt, Tokens: n, Context: max(n/3, 2*len(prompt)), Greedy: min(64, n), Seed: e.r.Calibration.Seed,
	}, e.decode)
}

// weightBand bounds the real values of one tensor that are held to compare it.
const weightBand = 4 << 20

// weights compares every tensor of the package with the reference, as it reads back from disk: the
// signal to quantization noise ratio, and the largest difference relative to the largest weight. A
// value that is not finite fails the build.
func (e *engine) weights(ctx context.Context, m *ir.Model) (map[string]map[string]float64, error) {
	out := map[string]map[string]float64{}
	ref := e.ref
	if e.resized() {
		ref = e.base // the original has other shapes: what is left to compare is what storing did
	}
	var total int64
	for _, t := range ref.Tensors() {
		total += t.Elems()
	}
	e.meter.Stage("compare weights", total, "weights")
	var errs []error
	band := int64(weightBand)
	if most := e.memory(); most > 0 {
		band = min(band, most/16+1<<16)
	}
	for _, want := range ref.Tensors() {
		got := find(m, want)
		if got == nil && ref.Known() && (want.Role == ir.RoleUnknown || want.Role == ir.RolePooler || want.Role == ir.RolePoolerBias) {
			continue // no part of the architecture: its container left it out, and said so
		}
		if got == nil {
			errs = append(errs, &fault.Error{File: m.Path, Tensor: want.Name, Op: "verify", Err: errors.New("the package lacks this tensor")})
			continue
		}
		if x := ref.Encoder; x != nil && want.Role == ir.RolePosition && got.Rows() == want.Rows()-x.PositionBase {
			want = want.From(x.PositionBase) // GGUF files have no rows for padding
		}
		if got.Elems() != want.Elems() || got.Cols() != want.Cols() {
			errs = append(errs, &fault.Error{File: m.Path, Tensor: want.Name, Op: "verify", Err: fmt.Errorf("shape %v, the original has %v", got.Shape, want.Shape)})
			continue
		}
		if !real(want) {
			continue
		}
		f, err := difference(ctx, want, got, band)
		if err != nil {
			errs = append(errs, err)
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			continue
		}
		out[want.Name] = f
		e.meter.Add(want.Elems())
	}
	return out, errors.Join(errs...)
}

// resized reports whether passes have changed the dimensions of the model.
func (e *engine) resized() bool {
	a, b := e.ref.Decoder, e.base.Decoder
	return a != nil && b != nil && (a.Layers != b.Layers || a.Hidden != b.Hidden || a.FFN != b.FFN || a.Heads != b.Heads || a.KVHeads != b.KVHeads)
}

// real reports whether a tensor holds real values that can be decoded.
func real(t *ir.Tensor) bool {
	info, ok := storage.Lookup(t.Type)
	return ok && (t.Scheme != nil || info.Float || info.BlockElems > 1)
}

// find looks a tensor of the reference up in a package, whose container may spell it otherwise.
func find(m *ir.Model, t *ir.Tensor) *ir.Tensor {
	for _, name := range append([]string{t.Name}, t.Aliases...) {
		if got := m.Find(name); got != nil {
			return got
		}
	}
	if t.Role != ir.RoleUnknown {
		return m.Role(t.Role, t.Block)
	}
	return nil
}

func difference(ctx context.Context, want, got *ir.Tensor, band int64) (map[string]float64, error) {
	var signal, noise, most, peak float64
	var y []float32
	err := ir.EachBand(ctx, want, band, func(b ir.Band, x []float32) error {
		if cap(y) < len(x) {
			y = make([]float32, len(x))
		}
		y = y[:len(x)]
		if err := got.Data.ReadRows(ctx, y, b.Lo, b.Hi); err != nil {
			return ir.Wrap(got, "verify", err)
		}
		for i, v := range x {
			if y[i]-y[i] != 0 {
				return &fault.Error{Tensor: got.Name, Op: "verify", Err: fmt.Errorf("element %d of rows from %d: %w", i, b.Lo, fault.ErrNotFinite)}
			}
			d := float64(v) - float64(y[i])
			signal += float64(v) * float64(v)
			noise += d * d
			most = max(most, math.Abs(d))
			peak = max(peak, math.Abs(float64(v)))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	f := map[string]float64{"sqnr_db": 200}
	if noise > 0 && signal > 0 {
		f["sqnr_db"] = min(200, 10*math.Log10(signal/noise))
	}
	if peak > 0 {
		f["max_error"] = most / peak
	}
	return f, nil
}
