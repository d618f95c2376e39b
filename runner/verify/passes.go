package verify

import (
	"context"
	"iter"
	"time"

	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/par"
	"github.com/pare-dev/pare/runner"
)

// passes run both models over chunks. The first half of a chunk is context only; of the second half,
// up to the token before the last, the final states are kept, a row of Hidden numbers for each model
// and token. Logits are made of them a few rows at a time, so that neither the length of a batch nor
// memory depends on the size of the vocabulary.
type passes struct {
	c      *Comparison
	a, b   *side // the same where a model is compared with itself
	half   int   // tokens of context; the scored ones follow
	scored int
	known  *recorded // the original's part of the chunk, where it need not run
	kept   *recorded // is filled while it runs
	told   int64     // tokens of the chunk that were reported as progress
}

// side is one model at work on a chunk.
type side struct {
	r      *runner.Runner
	s      *runner.Session
	states []float32 // [scored, hidden]
	pace   *pace
}

func (d *side) hidden() int { return d.r.Decoder().Hidden }

// pace is the time that a model took for a number of tokens.
type pace struct {
	tokens int
	time   time.Duration
}

// measure adds the time that fn takes.
func (p *pace) measure(fn func()) {
	start := time.Now()
	fn()
	p.time += time.Since(start)
}

func (p *pace) perSecond() float64 {
	if p.tokens == 0 || p.time <= 0 {
		return 0
	}
	return float64(p.tokens) / p.time.Seconds()
}

// speed is what the passes reached so far.
func (c *Comparison) speed() Speed {
	s := Speed{Original: c.spent[0].perSecond(), Package: c.spent[1].perSecond()}
	if c.a == c.b {
		s.Package = s.Original
	}
	if c.seconds > 0 {
		s.Whole = float64(len(c.chunks)*c.opt.Context) / c.seconds
	}
	return s
}

func (c *Comparison) newPasses() *passes {
	p := &passes{c: c, half: c.opt.Context / 2}
	p.scored = c.opt.Context - 1 - p.half
	newSide := func(r *runner.Runner, of *pace) *side {
		return &side{r: r, s: r.NewSession(), states: make([]float32, p.scored*r.Decoder().Hidden), pace: of}
	}
	p.a = newSide(c.a, &c.spent[0])
	if p.b = p.a; c.a != c.b { // a runner beside itself would wait for itself
		p.b = newSide(c.b, &c.spent[1])
	}
	return p
}

func (p *passes) close() {
	p.a.s.Close()
	if p.b != p.a {
		p.b.s.Close()
	}
}

// comparable says that the models have blocks of one kind, so that their residual streams compare.
func (p *passes) comparable() bool {
	a, b := p.a.r.Decoder(), p.b.r.Decoder()
	return a.Layers == b.Layers && a.Hidden == b.Hidden
}

// run computes the final states of a chunk by both models, and adds up how far the residual streams
// are apart after every block. The original is not run when a recording has the chunk.
func (p *passes) run(ctx context.Context, index int, tokens []int32) error {
	p.told = 0
	rec, depth := p.c.opt.Recording, 0
	if p.comparable() {
		depth = p.a.r.Decoder().Layers
	}
	p.known, p.kept = rec.find(index, tokens, depth > 0), nil
	if p.known == nil {
		p.a.pace.tokens += len(tokens)
		p.kept = rec.begin(index, tokens, depth, len(p.a.states))
	} else if p.known.blocks == nil {
		p.c.blind = true
	}
	if p.b != p.a {
		p.b.pace.tokens += len(tokens)
	}
	p.a.s.Truncate(0)
	p.b.s.Truncate(0)
	tokens = tokens[:p.half+p.scored] // what follows the last is nobody's question
	step := min(p.a.r.Batch(), p.b.r.Batch())
	for lo := 0; lo < len(tokens); lo += step {
		hi := min(len(tokens), lo+step)
		if err := p.batch(ctx, tokens, lo, hi); err != nil {
			return err
		}
		p.tell(hi, 0)
	}
	if p.kept != nil {
		p.kept.states = append(p.kept.states, p.a.states...)
		rec.end(index, p.kept)
	}
	return nil
}

// tell reports progress: that a number of tokens are done, and of a batch that follows a share. The
// scored tokens' logits stand for one token of work at the end.
func (p *passes) tell(done int, share float64) {
	n := int64(float64(done) + share)
	p.c.opt.Progress.Add(n - p.told)
	p.told = n
}

// batch runs tokens [lo,hi) of a chunk.
func (p *passes) batch(ctx context.Context, tokens []int32, lo, hi int) error {
	from := min(max(lo, p.half), hi) // the first scored one
	if from < hi && p.comparable() && (p.known == nil || p.known.blocks != nil) {
		return p.lockstep(ctx, tokens, lo, from, hi)
	}
	for _, d := range []*side{p.a, p.b} {
		if d == p.a && (p.known != nil || p.a == p.b) {
			continue
		}
		var err error
		d.pace.measure(func() { err = d.s.States(ctx, tokens[lo:hi], from-lo, p.part(d, from, hi)) })
		if err != nil {
			return err
		}
	}
	return nil
}

// part is the room for the states of tokens [from,hi), none when those are context.
func (p *passes) part(d *side, from, hi int) []float32 {
	if from == hi {
		return nil
	}
	n := d.hidden()
	return d.states[(from-p.half)*n : (hi-p.half)*n]
}

// lockstep runs both models over tokens [lo,hi), block by block in turns, and compares the residual
// streams of those from `from` on after each block where they lie: nothing is copied or held, whatever
// the depth of the models.
func (p *passes) lockstep(ctx context.Context, tokens []int32, lo, from, hi int) error {
	var errA, errB error
	n, layers := p.a.hidden(), p.a.r.Decoder().Layers
	nextA, stopA := iter.Pull(p.original(ctx, tokens, lo, from, hi, &errA))
	defer stopA()
	nextB, stopB := nextA, func() {}
	if p.b != p.a {
		nextB, stopB = iter.Pull(p.b.blocks(ctx, tokens[lo:hi], from-lo, p.part(p.b, from, hi), &errB))
	}
	defer stopB()
	if p.c.layers == nil {
		p.c.layers = make([]kernels.Deviation, layers)
	}
	for i := 0; ; i++ { // the step after the last block ends both
		var x, y []float32
		var more bool
		p.a.pace.measure(func() { x, more = nextA() })
		if errA != nil {
			return errA
		}
		if y = x; p.b != p.a {
			p.b.pace.measure(func() { y, more = nextB() })
		}
		if errB != nil || !more {
			return errB
		}
		// after the last block there are the scored rows only
		x, y = x[len(x)-(hi-from)*n:], y[len(y)-(hi-from)*n:]
		if p.kept != nil && p.kept.blocks != nil {
			p.kept.blocks[i] = append(p.kept.blocks[i], x...)
		}
		if err := p.deviate(ctx, &p.c.layers[i], x, y); err != nil {
			return err
		}
		p.tell(lo, float64(hi-lo)*float64(i+1)/float64(layers+1))
	}
}

// original yields the original's residual stream after each block, recorded or computed.
func (p *passes) original(ctx context.Context, tokens []int32, lo, from, hi int, err *error) iter.Seq[[]float32] {
	if p.known == nil {
		return p.a.blocks(ctx, tokens[lo:hi], from-lo, p.part(p.a, from, hi), err)
	}
	return func(yield func([]float32) bool) {
		n := p.a.hidden()
		for _, x := range p.known.blocks {
			if !yield(x[(from-p.half)*n : (hi-p.half)*n]) {
				return
			}
		}
	}
}

// blocks yields the residual stream after each block, and leaves in err what became of the pass.
func (d *side) blocks(ctx context.Context, tokens []int32, from int, states []float32, err *error) iter.Seq[[]float32] {
	return func(yield func([]float32) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stopped := false
		d.s.OnBlock = func(_ int, hidden []float32, _, _ int) {
			if !stopped && !yield(hidden) {
				stopped = true
				cancel() // the comparison failed elsewhere
			}
		}
		*err = d.s.States(ctx, tokens, from, states)
		d.s.OnBlock = nil
	}
}

// deviateNumbers is how much of the residual stream makes one item of work.
const deviateNumbers = 1 << 16

// deviate adds the difference of two residual streams to a layer's. Rows are added in order, however
// the work was shared out.
func (p *passes) deviate(ctx context.Context, layer *kernels.Deviation, x, y []float32) error {
	cols := p.a.hidden()
	each := make([]kernels.Deviation, len(x)/cols)
	err := par.Range(ctx, p.a.r.Threads(), len(each), max(1, deviateNumbers/cols), func(_, lo, hi int) error {
		for i := lo; i < hi; i++ {
			each[i] = p.c.k.Deviation(x[i*cols:][:cols], y[i*cols:][:cols])
		}
		return nil
	})
	for _, d := range each {
		layer.Add(d)
	}
	return err
}

// pairNumbers is how many logits of each model make one item of work: some tens of microseconds.
const pairNumbers = 1 << 14

// compare makes logits of the states of both models and compares them, row by row.
func (p *passes) compare(ctx context.Context, tokens []int32) ([]pair, error) {
	pairs := make([]pair, p.scored)
	vocab := p.a.r.Vocab()
	step := min(p.a.r.LogitRows(), p.b.r.LogitRows())
	parts := (p.scored + step - 1) / step
	step = (p.scored + parts - 1) / parts // no short rest
	original := p.a.states
	if p.known != nil {
		original = p.known.states
	}
	for lo := 0; lo < p.scored; lo += step {
		hi := min(p.scored, lo+step)
		x, err := p.a.logits(ctx, original, lo, hi)
		y := x
		if p.b != p.a && err == nil {
			y, err = p.b.logits(ctx, p.b.states, lo, hi)
		}
		if err != nil {
			return nil, err
		}
		err = par.Range(ctx, p.a.r.Threads(), hi-lo, max(1, pairNumbers/vocab), func(_, i, end int) error {
			for ; i < end; i++ {
				pairs[lo+i] = compare(p.c.k, x[i*vocab:][:vocab], y[i*vocab:][:vocab], int(tokens[p.half+lo+i+1]))
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	p.tell(len(tokens), 0)
	return pairs, nil
}

// logits are those of rows [lo,hi) of states.
func (d *side) logits(ctx context.Context, states []float32, lo, hi int) (x []float32, err error) {
	n := d.hidden()
	d.pace.measure(func() { x, err = d.r.Logits(ctx, states[lo*n:hi*n]) })
	return x, err
}
