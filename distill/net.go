package distill

import (
	"context"
	"fmt"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/par"
	"github.com/pare-dev/pare/ir"
)

// Net is a decoder in memory, with gradients.
type Net[T number] struct {
	d       *ir.Decoder
	k       *kernels.Set
	threads int
	workers int         // threads where each needs scratch
	params  []*Param[T] // every tensor once, in catalogue order
	byName  map[string]*Param[T]

	embedding, head *Param[T] // the same when tied
	finalNorm       *Param[T]
	blocks          []*block[T]
	angles          angles[T]
	positions       int

	shared  acts[T]          // of the block that is worked on, where blocks do not remember
	grads   grads[T]         // likewise on the way back
	scratch []headScratch[T] // one a worker
	bands   bands[T]
	decoded []T // of the frozen matrix that is worked with

	forwardOnly bool // nothing will ask for the way back
}

// block is the weights of one decoder block.
type block[T number] struct {
	index                      int
	attnNorm, mlpNorm          *Param[T]
	qNorm, kNorm               *Param[T] // nil unless the decoder has them
	q, k, v, o, gate, up, down linear[T]
	window                     int
	input, output              []T      // [tokens,Hidden] of the batch; output is the next one's input
	acts                       *acts[T] // nil: computed again on the way back
}

// acts is what a block remembers of a batch of tokens for the way back.
type acts[T number] struct {
	n                   int // tokens
	norm1, norm2        []T // [n,Hidden]
	r1, r2              []T // [n]
	q, k, v, qRaw, kRaw []T // after rotation; raw before norms of heads, nil without
	rq, rk              []T // [n,Heads], [n,KVHeads]
	attn                []T // [n,QDim]
	mid                 []T // [n,Hidden], after attention
	gate, up, sig, prod []T // [n,FFN]
	low                 [7][]T
}

// Load reads a model's weights. positions is the length of the sequences that it will see. Matrices that
// learns leaves out stay as they are stored; nil stands for all of them.
func Load[T number](ctx context.Context, m *ir.Model, k *kernels.Set, threads, positions int, learns func(*ir.Tensor) bool) (*Net[T], error) {
	if err := m.CannotRun(); err != nil {
		return nil, &fault.Error{File: m.Path, Op: "distill", Err: fault.As(fault.ErrMisuse, err)}
	}
	d := m.Decoder
	if d.Context > 0 && positions > d.Context {
		return nil, &fault.Error{File: m.Path, Op: "distill", Err: fault.As(fault.ErrMisuse, fmt.Errorf("sequences of %d tokens, the model was trained for %d", positions, d.Context)), Hint: fmt.Sprintf("give --context %d or less", d.Context)}
	}
	n := &Net[T]{
		d: d, k: k, threads: par.Threads(threads), byName: map[string]*Param[T]{},
		angles: newAngles[T](d, positions), positions: positions,
	}
	n.workers = min(n.threads, scratchWorkers)
	n.scratch = make([]headScratch[T], n.workers)
	var err error
	get := func(r ir.Role, at int) *Param[T] {
		t := m.Role(r, at)
		if t == nil || err != nil {
			return nil
		}
		var p *Param[T]
		p, err = n.read(ctx, t, learns == nil || learns(t))
		return p
	}
	n.embedding = get(ir.RoleEmbedding, -1)
	for i := range d.Layers {
		b := &block[T]{index: i, attnNorm: get(ir.RoleAttnNorm, i), mlpNorm: get(ir.RoleMLPNorm, i)}
		if d.QKNorm {
			b.qNorm, b.kNorm = get(ir.RoleAttnQNorm, i), get(ir.RoleAttnKNorm, i)
		}
		for j, l := range b.linears() {
			l.w = get(linearRoles[j].weight, i)
			l.bias = get(linearRoles[j].bias, i)
		}
		if d.Windowed(i) {
			b.window = d.Window
		}
		n.blocks = append(n.blocks, b)
	}
	n.finalNorm = get(ir.RoleFinalNorm, -1)
	n.head = n.embedding
	if !d.TiedHead {
		n.head = get(ir.RoleHead, -1)
	}
	return n, err
}

var linearRoles = []struct{ weight, bias ir.Role }{
	{ir.RoleAttnQ, ir.RoleAttnQBias},
	{ir.RoleAttnK, ir.RoleAttnKBias},
	{ir.RoleAttnV, ir.RoleAttnVBias},
	{ir.RoleAttnO, ir.RoleAttnOBias},
	{ir.RoleMLPGate, ir.RoleMLPGateBias},
	{ir.RoleMLPUp, ir.RoleMLPUpBias},
	{ir.RoleMLPDown, ir.RoleMLPDownBias},
}

func (b *block[T]) linears() []*linear[T] {
	return []*linear[T]{&b.q, &b.k, &b.v, &b.o, &b.gate, &b.up, &b.down}
}

// read makes the parameter of a tensor.
func (n *Net[T]) read(ctx context.Context, t *ir.Tensor, learns bool) (*Param[T], error) {
	p := &Param[T]{Name: t.Name, Role: t.Role, Block: t.Block, Rows: t.Rows(), Cols: t.Cols()}
	var err error
	if _, real := reals[T](nil); real && !learns && frozenBytes(t) > 0 {
		p.frozen, err = freeze(ctx, t, n.k)
	} else {
		var x []float32
		if x, err = ir.ReadAll(ctx, t); err == nil {
			err = finite(x, 0)
		}
		if len(t.Shape) == 1 {
			p.Rows, p.Cols = 1, len(x)
		}
		p.W = convert[T](x)
	}
	if err != nil {
		return nil, ir.Wrap(t, "distill", err)
	}
	n.params = append(n.params, p)
	n.byName[p.Name] = p
	return p, nil
}

// convert is x as T; the same memory when it is that already.
func convert[T number](x []float32) []T {
	if y, ok := any(x).([]T); ok {
		return y
	}
	y := make([]T, len(x))
	for i, v := range x {
		y[i] = T(v)
	}
	return y
}

// Params lists all parameters.
func (n *Net[T]) Params() []*Param[T] { return n.params }

// ZeroGrad forgets gradients.
func (n *Net[T]) ZeroGrad() {
	for _, p := range n.params {
		clear(p.Grad)
	}
}

// rows calls fn for ranges of tokens on all cores.
func (n *Net[T]) rows(ctx context.Context, count int, fn func(lo, hi int)) error {
	return par.Range(ctx, n.threads, count, 64, func(_, lo, hi int) error {
		fn(lo, hi)
		return nil
	})
}

// need makes room for n numbers in a buffer that is used again.
func need[T any](buf *[]T, n int) []T {
	if cap(*buf) < n {
		*buf = make([]T, n)
	}
	*buf = (*buf)[:n]
	return *buf
}

// Forward computes the hidden states [tokens,Hidden] behind the last block for sequences of one length,
// before the final norm. With keep the blocks remember what the way back needs; without, only their
// inputs, and not even these where nothing will be trained.
func (n *Net[T]) Forward(ctx context.Context, seqs [][]int32, keep bool) (kernels.Dense[T], error) {
	length := len(seqs[0])
	tokens := length * len(seqs)
	h := n.d.Hidden
	x := need(&n.blocks[0].input, tokens*h)
	for i, s := range seqs {
		if len(s) != length || length > n.positions {
			return kernels.Dense[T]{}, fmt.Errorf("a sequence of %d tokens among those of %d, at most %d", len(s), length, n.positions)
		}
		for j, id := range s {
			if id < 0 || int(id) >= n.embedding.Rows {
				return kernels.Dense[T]{}, fmt.Errorf("token %d of a vocabulary of %d", id, n.embedding.Rows)
			}
			if err := n.lookUp(ctx, x[(i*length+j)*h:][:h], int(id)); err != nil {
				return kernels.Dense[T]{}, err
			}
		}
	}
	for i, b := range n.blocks {
		a := &n.shared
		if keep && b.acts == nil {
			b.acts = &acts[T]{}
		}
		if keep {
			a = b.acts
		} else {
			b.acts = nil
		}
		buf := &b.output
		if n.forwardOnly {
			buf = &n.blocks[i%2].output
		}
		out := need(buf, tokens*h)
		x = out
		if i+1 < len(n.blocks) {
			n.blocks[i+1].input = out
		}
		if err := n.block(ctx, b, a, kernels.View(out, tokens, h), kernels.View(b.input, tokens, h), length); err != nil {
			return kernels.Dense[T]{}, err
		}
	}
	return kernels.View(x, tokens, h), nil
}

// block computes out of x, both [tokens,Hidden], for sequences of a length.
func (n *Net[T]) block(ctx context.Context, b *block[T], a *acts[T], out, x kernels.Dense[T], length int) error {
	d, t := n.d, x.Rows
	a.n = t
	norm1 := kernels.View(need(&a.norm1, t*d.Hidden), t, d.Hidden)
	q := kernels.View(need(&a.q, t*d.QDim()), t, d.QDim())
	k := kernels.View(need(&a.k, t*d.KVDim()), t, d.KVDim())
	v := kernels.View(need(&a.v, t*d.KVDim()), t, d.KVDim())
	attn := kernels.View(need(&a.attn, t*d.QDim()), t, d.QDim())
	mid := kernels.View(need(&a.mid, t*d.Hidden), t, d.Hidden)
	norm2 := kernels.View(need(&a.norm2, t*d.Hidden), t, d.Hidden)
	gate := kernels.View(need(&a.gate, t*d.FFN), t, d.FFN)
	up := kernels.View(need(&a.up, t*d.FFN), t, d.FFN)
	prod := kernels.View(need(&a.prod, t*d.FFN), t, d.FFN)
	sig := need(&a.sig, t*d.FFN)
	r1, r2 := need(&a.r1, t), need(&a.r2, t)
	for i, l := range b.linears() {
		if l.a != nil {
			need(&a.low[i], t*l.a.Rows)
		}
	}
	if b.qNorm != nil {
		need(&a.qRaw, t*d.QDim())
		need(&a.kRaw, t*d.KVDim())
		need(&a.rq, t*d.Heads)
		need(&a.rk, t*d.KVHeads)
	}
	var err error
	do := func(f func() error) {
		if err == nil {
			err = f()
		}
	}
	rows := func(fn func(lo, hi int)) { do(func() error { return n.rows(ctx, t, fn) }) }
	rows(func(lo, hi int) {
		rmsNorm(norm1.Slice(lo, hi, 0, d.Hidden), x.Slice(lo, hi, 0, d.Hidden), b.attnNorm.W, r1[lo:hi], d.NormEps)
	})
	do(func() error { return b.q.forward(ctx, n, q, norm1, a.low[0]) })
	do(func() error { return b.k.forward(ctx, n, k, norm1, a.low[1]) })
	do(func() error { return b.v.forward(ctx, n, v, norm1, a.low[2]) })
	rows(func(lo, hi int) { n.turn(b, a, q, k, lo, hi, length) })
	do(func() error {
		return n.attend(ctx, t, length, b.window, func(h *heads[T], s *headScratch[T], at func(kernels.Dense[T], int) kernels.Dense[T]) {
			h.forward(at(attn, h.group), at(q, h.group), at(k, 1), at(v, 1), s)
		})
	})
	do(func() error { return b.o.forward(ctx, n, mid, attn, a.low[3]) })
	rows(func(lo, hi int) {
		for i := lo; i < hi; i++ {
			add(n.k, mid.Row(i), x.Row(i))
		}
		rmsNorm(norm2.Slice(lo, hi, 0, d.Hidden), mid.Slice(lo, hi, 0, d.Hidden), b.mlpNorm.W, r2[lo:hi], d.NormEps)
	})
	do(func() error { return b.gate.forward(ctx, n, gate, norm2, a.low[4]) })
	do(func() error { return b.up.forward(ctx, n, up, norm2, a.low[5]) })
	rows(func(lo, hi int) {
		lo, hi = lo*d.FFN, hi*d.FFN
		sigmoid(n.k, sig[lo:hi], gate.Data[lo:hi])
		p, g, u, s := prod.Data[lo:hi], gate.Data[lo:hi], up.Data[lo:hi], sig[lo:hi]
		for i, v := range g {
			p[i] = v * s[i] * u[i]
		}
	})
	do(func() error { return b.down.forward(ctx, n, out, prod, a.low[6]) })
	rows(func(lo, hi int) {
		for i := lo; i < hi; i++ {
			add(n.k, out.Row(i), mid.Row(i))
		}
	})
	return err
}

// turn puts norms and rotations on queries and keys of tokens [lo,hi).
func (n *Net[T]) turn(b *block[T], a *acts[T], q, k kernels.Dense[T], lo, hi, length int) {
	if b.qNorm != nil {
		n.normHeads(a.qRaw, a.rq, q, b.qNorm.W, lo, hi)
		n.normHeads(a.kRaw, a.rk, k, b.kNorm.W, lo, hi)
	}
	for i := lo; i < hi; i++ {
		n.angles.rotate(q.Row(i), i%length, false)
		n.angles.rotate(k.Row(i), i%length, false)
	}
}

// normHeads applies the RMS norm to every head of rows [lo,hi) and keeps what it was applied to.
func (n *Net[T]) normHeads(raw, r []T, x kernels.Dense[T], g []T, lo, hi int) {
	copy(raw[lo*x.Cols:hi*x.Cols], x.Data[lo*x.Cols:hi*x.Cols])
	per := x.Cols / len(g)
	rmsNorm(byHead(x.Data, x.Cols, len(g), lo, hi), byHead(raw, x.Cols, len(g), lo, hi), g, r[lo*per:hi*per], n.d.NormEps)
}

// byHead shows rows [lo,hi) of x, cols wide, as one row a head.
func byHead[T number](x []T, cols, dim, lo, hi int) kernels.Dense[T] {
	return kernels.View(x[lo*cols:hi*cols], (hi-lo)*cols/dim, dim)
}

// attend calls fn for every sequence and key head, on several cores: at cuts the rows of the sequence and the
// columns of the head, or of the group of query heads that share it, out of a matrix.
func (n *Net[T]) attend(ctx context.Context, tokens, length, window int, fn func(h *heads[T], s *headScratch[T], at func(x kernels.Dense[T], group int) kernels.Dense[T])) error {
	d := n.d
	group := d.Heads / d.KVHeads
	return par.Range(ctx, n.workers, tokens/length*d.KVHeads, 1, func(worker, i, _ int) error {
		seq, head := i/d.KVHeads, i%d.KVHeads
		h := &heads[T]{k: n.k, group: group, dim: d.HeadDim, window: window}
		fn(h, &n.scratch[worker], func(x kernels.Dense[T], group int) kernels.Dense[T] {
			return x.Slice(seq*length, (seq+1)*length, head*group*d.HeadDim, (head+1)*group*d.HeadDim)
		})
		return nil
	})
}

// eachRow calls fn for every row on several cores, told apart for their scratch.
func (n *Net[T]) eachRow(ctx context.Context, count int, fn func(worker, i int)) error {
	return par.Range(ctx, n.workers, count, 16, func(worker, lo, hi int) error {
		for i := lo; i < hi; i++ {
			fn(worker, i)
		}
		return nil
	})
}
