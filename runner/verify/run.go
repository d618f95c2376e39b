package verify

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/progress"
	"github.com/pare-dev/pare/runner"
)

// Options of a comparison.
type Options struct {
	Context   int        // tokens in a chunk; 0 means 512
	Chunks    int        // chunks to score; 0 means all that the tokens fill
	First     int        // index of the first chunk, so that a run can be continued with fresh chunks
	BOS       int32      // replaces the first token of every chunk, and leads the tokens; negative: nothing does
	TextHash  string     // digest of the text, for the record
	Recording *Recording // nil: the original is run for every package
	Progress  progress.Sink
}

// Comparison scores chunks of one text by two models. More chunks can be added to it when a gate
// cannot tell yet.
type Comparison struct {
	opt     Options
	a, b    *runner.Runner
	k       *kernels.Set
	chunks  []chunk
	kl      []float32 // one per scored token
	layers  []kernels.Deviation
	blind   bool // some chunk came from a recording, which has no blocks to compare
	looks   int  // verdicts that Until may try
	seconds float64
	spent   [2]pace // on the original and on the package
}

// New prepares a comparison of b, the package, with a, the original. Both must have the same
// vocabulary.
func New(a, b *runner.Runner, opt Options) (*Comparison, error) {
	if opt.Context == 0 {
		opt.Context = 512
	}
	if opt.Context < 4 {
		return nil, &fault.Error{Op: "verify", Err: fault.As(fault.ErrMisuse, fmt.Errorf("context of %d tokens", opt.Context)), Hint: "use --context 512"}
	}
	if va, vb := a.Vocab(), b.Vocab(); va != vb {
		return nil, &fault.Error{Op: "verify", Err: fmt.Errorf("the original has %d tokens, the package %d: their outputs do not compare", va, vb)}
	}
	if opt.Progress == nil {
		opt.Progress = progress.Discard
	}
	return &Comparison{opt: opt, a: a, b: b, k: kernels.For(b.ISA())}, nil
}

// Available is the number of chunks that the tokens fill.
func (c *Comparison) Available(tokens []int32) int { return len(tokens) / c.opt.Context }

// Scored is the number of chunks scored so far.
func (c *Comparison) Scored() int { return len(c.chunks) }

// Add scores up to n more chunks of the same tokens and returns how many there were.
func (c *Comparison) Add(ctx context.Context, tokens []int32, n int) (int, error) {
	start := time.Now()
	first := c.opt.First + len(c.chunks)
	n = min(n, c.Available(tokens)-first)
	if n <= 0 {
		return 0, nil
	}
	c.opt.Progress.Stage("verify", int64(n)*int64(c.opt.Context), "tokens")
	p := c.newPasses()
	defer p.close()
	for i := range n {
		at := (first + i) * c.opt.Context
		if err := c.chunk(ctx, p, first+i, tokens[at:at+c.opt.Context]); err != nil {
			return i, err
		}
	}
	c.seconds += time.Since(start).Seconds()
	return n, nil
}

// chunk scores one chunk.
func (c *Comparison) chunk(ctx context.Context, p *passes, index int, tokens []int32) error {
	if c.opt.BOS >= 0 {
		tokens = slices.Clone(tokens)
		tokens[0] = c.opt.BOS
	}
	if err := p.run(ctx, index, tokens); err != nil {
		return err
	}
	pairs, err := p.compare(ctx, tokens)
	if err != nil {
		return err
	}
	var sum chunk
	for i, x := range pairs {
		if math.IsNaN(x.nllB) || math.IsNaN(x.kl) {
			return &fault.Error{Op: "verify", Err: fmt.Errorf("%w: the package's logits at token %d of chunk %d", fault.ErrNotFinite, c.opt.Context/2+i, len(c.chunks))}
		}
		sum.add(x)
		c.kl = append(c.kl, float32(x.kl))
	}
	c.chunks = append(c.chunks, sum)
	return nil
}

// Result sums up what was scored so far.
func (c *Comparison) Result() (*Result, error) {
	if len(c.chunks) == 0 {
		return nil, &fault.Error{Op: "verify", Err: fmt.Errorf("the text fills no chunk of %d tokens", c.opt.Context), Hint: "give a longer text, or a smaller --context"}
	}
	r := &Result{Schema: 1, Seconds: c.seconds, Speed: c.speed(), Gate: Gate{Verdict: None, Checks: []Check{}}}
	r.Protocol = Protocol{
		Name: "llama.cpp: chunks without overlap, second half scored", TextSHA256: c.opt.TextHash,
		Context: c.opt.Context, Chunks: len(c.chunks), TokensScored: len(c.kl), ISA: string(c.k.Level()), Activations: string(c.b.Activations()),
	}
	nllA := ratio(c.chunks, func(x *chunk) float64 { return x.nllA })
	nllB := ratio(c.chunks, func(x *chunk) float64 { return x.nllB })
	growth := estimateMean(c.chunks, func(x *chunk) float64 { return x.nllB - x.nllA })
	r.Perplexity = Perplexity{Original: math.Exp(nllA), Package: math.Exp(nllB), LogRatio: nllB - nllA}
	r.Perplexity.LogRatioSE, r.Perplexity.Lower95, r.Perplexity.Upper95 = growth.bounds()
	sorted := slices.Clone(c.kl)
	slices.Sort(sorted)
	kl := func(x *chunk) float64 { return x.kl }
	r.KL = KL{
		Mean: ratio(c.chunks, kl), Median: quantile(sorted, .5), P90: quantile(sorted, .9), P99: quantile(sorted, .99),
		P999: quantile(sorted, .999), Max: float64(sorted[len(sorted)-1]), Histogram: histogram(sorted),
	}
	means, tails := estimateMean(c.chunks, kl).within(0, math.Inf(1)), estimateQuantile(c.kl, len(c.chunks), .99)
	r.KL.SE, r.KL.Lower95, r.KL.Upper95 = means.bounds()
	_, r.KL.P99Lower, r.KL.P99Upper = tails.bounds()
	same := func(x *chunk) float64 { return float64(x.same) }
	r.Top1.Agreement = ratio(c.chunks, same)
	agreements := estimateMean(c.chunks, same).within(0, 1)
	r.Top1.Upper95 = 1 // a share lies between 0 and 1 whatever is known
	if _, lo, hi := agreements.bounds(); lo.Known() {
		r.Top1.Lower95, r.Top1.Upper95 = float64(lo), float64(hi)
	}
	known := func(value float64, e estimate) Evidence {
		return Evidence{Value: value, Resamples: e.at, Units: len(c.chunks), Looks: c.looks}
	}
	for i, x := range growth.at {
		growth.at[i] = math.Expm1(x)
	}
	r.evidence = map[string]Evidence{
		"kl_mean": known(r.KL.Mean, means), "kl_p99": known(r.KL.P99, tails), "top1": known(r.Top1.Agreement, agreements),
		"perplexity_increase": known(math.Expm1(r.Perplexity.LogRatio), growth),
	}
	for i := range c.layers {
		if c.blind {
			break
		}
		l := &c.layers[i]
		out := Layer{Block: i, SQNR: 200, Cosine: 1, MaxAbs: l.Max}
		if l.Noise > 0 {
			out.SQNR = min(200, 10*math.Log10(l.Signal/l.Noise))
		}
		if l.Signal > 0 && l.Other > 0 {
			out.Cosine = l.Dot / math.Sqrt(l.Signal*l.Other)
		}
		r.Layers = append(r.Layers, out)
	}
	return r, nil
}

// histogram counts sorted KL values in bins that grow by half a decade from 1e-6 nats.
func histogram(sorted []float32) Histogram {
	h := Histogram{}
	for e := -12; e <= 6; e++ { // 10^(e/2): 1e-6 .. 1e3
		h.Edges = append(h.Edges, math.Pow(10, float64(e)/2))
	}
	h.Counts = make([]int, len(h.Edges)-1)
	bin := 0
	for _, v := range sorted {
		for bin < len(h.Counts)-1 && float64(v) >= h.Edges[bin+1] {
			bin++
		}
		h.Counts[bin]++
	}
	return h
}

// Run is the whole comparison: score opt.Chunks chunks and sum up.
func Run(ctx context.Context, a, b *runner.Runner, tokens []int32, opt Options) (*Result, error) {
	c, err := New(a, b, opt)
	if err != nil {
		return nil, err
	}
	n := opt.Chunks
	if n <= 0 {
		n = c.Available(tokens)
	}
	if _, err := c.Add(ctx, tokens, n); err != nil {
		return nil, err
	}
	return c.Result()
}

// Until scores first chunks and, while a limit on the accuracy cannot be decided, twice as many, up
// to most or the end of the text. How often it may look is settled beforehand and the looks share
// the risk of a wrong verdict. The Gate of the result knows accuracy only; see Evaluate.
func (c *Comparison) Until(ctx context.Context, tokens []int32, first, most int, l Limits) (*Result, error) {
	most = min(most, c.Available(tokens)-c.opt.First)
	c.looks = looks(first, most, l)
	for n := first; ; n = c.Scored() {
		added, err := c.Add(ctx, tokens, min(n, most-c.Scored()))
		if err != nil {
			return nil, err
		}
		r, err := c.Result()
		if err != nil {
			return nil, err
		}
		r.Gate = Evaluate(l, r.evidence)
		open := slices.ContainsFunc(r.Gate.Checks, func(k Check) bool {
			_, ours := r.evidence[k.Name]
			return ours && k.Verdict == Inconclusive
		})
		if !open || added == 0 || c.Scored() >= most {
			return r, nil
		}
	}
}

// looks is how often Until may find a verdict. With fewer chunks than a verdict needs it cannot.
func looks(first, most int, l Limits) int {
	n := 0
	for at := first; at > 0 && limitsAccuracy(l); at *= 2 {
		if min(at, most) >= fewest {
			n++
		}
		if at >= most {
			break
		}
	}
	return max(1, n)
}
