package runner

import (
	"context"
	"fmt"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/internal/kernels"
)

// Want says which rows of logits an Append hands over.
type Want int

// Values of Want.
const (
	WantNone Want = iota
	WantLast      // the row after the last token
	WantAll       // a row for every token
)

// Session is one text under way: the keys and values of the tokens so far. Sessions of one runner
// are independent. A session is used by one goroutine at a time.
type Session struct {
	r     *Runner
	pos   int
	text  []int32 // the tokens so far
	layer []cache
	// OnBlock, when set, sees the residual stream after each block: hidden is [rows, cols]
	// row-major, one row a token of the batch under way, valid during the call only. After the last
	// block of States, the rows are those of the tokens whose states were asked for.
	OnBlock func(block int, hidden []float32, rows, cols int)
}

// NewSession starts an empty text.
func (r *Runner) NewSession() *Session {
	s := &Session{r: r, layer: make([]cache, r.d.Layers)}
	for i := range s.layer {
		s.layer[i] = cacheFor(r.d, i, r.opt.KV)
	}
	return s
}

// Pos is the number of tokens in the session.
func (s *Session) Pos() int { return s.pos }

// Truncate keeps the first n tokens and forgets the rest; n beyond Pos changes nothing. Where layers
// with a window no longer hold what the token after them sees, the text is computed again when it goes on.
func (s *Session) Truncate(n int) { s.pos = max(0, min(n, s.pos)) }

// Append adds tokens to the text and computes what follows them. fn gets the logits after the token
// at position pos: one row of Vocab numbers, valid during the call only, in order of position; it
// must not use the same runner, and its error ends the call. Memory does not grow with the number
// of tokens other than by the cache.
//
// It fails with ErrContext or ErrToken before computing anything, with fault.ErrBudget when the
// cache would outgrow Options.Memory, and with ctx's error. After a failure the session holds the
// tokens of the batches that were finished: see Pos.
func (s *Session) Append(ctx context.Context, tokens []int32, want Want, fn func(pos int, logits []float32) error) error {
	from := len(tokens)
	switch want {
	case WantAll:
		from = 0
	case WantLast:
		from--
	}
	return s.run(ctx, tokens, from, s.OnBlock != nil, func(first, from, n int) error {
		return s.logits(ctx, first, from, n, fn)
	})
}

// States adds tokens to the text, as Append does, and keeps what the output matrix would be
// multiplied with: the normalised residual stream after the last block, for tokens[from:], in dst, a
// row of Hidden numbers each. Runner.Logits makes logits of them, now or later, which lets a text be
// run in large batches whatever the size of the vocabulary.
func (s *Session) States(ctx context.Context, tokens []int32, from int, dst []float32) error {
	r, hidden := s.r, s.r.d.Hidden
	if len(dst) != (len(tokens)-from)*hidden {
		return &fault.Error{Op: "run", Err: fmt.Errorf("room for %d numbers, the states of %d tokens are asked for", len(dst), len(tokens)-from)}
	}
	return s.run(ctx, tokens, from, false, func(_, from, n int) error {
		rows := n - from
		r.e.norm(kernels.View(dst, rows, hidden), kernels.View(r.hidden[from*hidden:], rows, hidden), r.norm)
		dst = dst[rows*hidden:]
		return nil
	})
}

// run adds tokens batch by batch and calls done after each with the position of its first token and
// the rows [from,n) of it that belong to tokens[from:]. Unless whole is set, the last block leaves out
// the other rows, of which nothing but keys and values will be read.
func (s *Session) run(ctx context.Context, tokens []int32, from int, whole bool, done func(first, from, n int) error) error {
	r := s.r
	if limit := r.opt.Context; limit > 0 && len(tokens) > limit-s.pos {
		return &fault.Error{
			Op: "run", Err: fmt.Errorf("%w: %d tokens after %d, the context holds %d", ErrContext, len(tokens), s.pos, limit),
			Hint: "shorten the text or raise the context",
		}
	}
	for i, id := range tokens {
		if id < 0 || int(id) >= r.d.Vocab {
			return &fault.Error{Op: "run", Err: fmt.Errorf("%w: %d at position %d, the vocabulary has %d", ErrToken, id, s.pos+i, r.d.Vocab)}
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := s.recall(ctx); err != nil {
		return err
	}
	return s.extend(ctx, tokens, from, whole, done)
}

// recall computes the text again when a window has let go of positions that are needed once more.
func (s *Session) recall(ctx context.Context) error {
	for i := range s.layer {
		if s.layer[i].remembers(s.pos) {
			continue
		}
		text := s.text[:s.pos]
		seen := s.OnBlock
		s.OnBlock, s.pos = nil, 0
		defer func() { s.OnBlock = seen }()
		s.release()
		return s.extend(ctx, text, len(text), false, nil)
	}
	return nil
}

// extend adds tokens that run has found to be right.
func (s *Session) extend(ctx context.Context, tokens []int32, from int, whole bool, done func(first, from, n int) error) error {
	r := s.r
	for len(tokens) > 0 {
		n := min(r.batch, len(tokens))
		if err := s.reserve(s.pos + n); err != nil {
			return err
		}
		wanted := min(from, n)
		last := wanted
		if whole {
			last = 0
		}
		if err := s.forward(ctx, tokens[:n], last); err != nil {
			return err
		}
		first := s.pos
		s.text = append(s.text[:first], tokens[:n]...)
		s.pos += n
		if wanted < n {
			if err := done(first, wanted, n); err != nil {
				return err
			}
		}
		tokens, from = tokens[n:], from-wanted
	}
	return nil
}

// reserve makes room in the caches for n positions, within the budget.
func (s *Session) reserve(n int) error {
	r := s.r
	var grow int64
	for i := range s.layer {
		c := &s.layer[i]
		grow += int64(c.missing(s.pos, n)) * c.pageBytes()
	}
	if r.opt.Memory > 0 && grow > 0 {
		if r.committed(n)+r.weights.mapped+grow > r.opt.Memory {
			r.unpack()
		}
		r.tight = r.tight || r.committed(n)+r.weights.mapped+grow > r.opt.Memory
		if held := r.committed(n) + r.pages(); held+grow > r.opt.Memory {
			return &fault.Error{Op: "run", Err: fault.As(fault.ErrBudget, fmt.Errorf("the cache of %d tokens needs %s more, %s of %s are in use",
				n, human.Bytes(grow), human.Bytes(held), human.Bytes(r.opt.Memory))), Hint: "raise --max-memory or shorten the text"}
		}
	}
	in := newSlab(grow)
	for i := range s.layer {
		s.layer[i].grow(s.pos, n, in)
	}
	r.cached += grow
	return nil
}

// Close gives the session's cache back. Using the session afterwards starts an empty text.
func (s *Session) Close() {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	s.release()
	s.pos = 0
}

// release gives the pages of all layers back.
func (s *Session) release() {
	for i := range s.layer {
		c := &s.layer[i]
		s.r.cached -= int64(c.held()) * c.pageBytes()
		for _, p := range c.pages {
			p.slab.close()
		}
		c.pages = nil
	}
}

// forward runs all blocks on one batch; the hidden states are left in r.hidden, those of rows [from,n)
// complete: what the others become in the last block is read by nobody but through keys and values.
func (s *Session) forward(ctx context.Context, tokens []int32, from int) error {
	r, d, t := s.r, s.r.d, len(tokens)
	x := kernels.View(need(&r.hidden, t*d.Hidden), t, d.Hidden)
	attn := kernels.View(need(&r.attn, t*d.QDim()), t, d.QDim())
	ffn := kernels.View(need(&r.ffn, t*d.FFN), t, d.FFN)
	// Whoever waits for the first token is not to wait until memory for tiles is found and filled: the first pass
	// makes them near the processor and forgets them, the second keeps them.
	r.e.keep, r.used = r.used, true
	r.e.lookup(x, r.embed, tokens)
	if r.tight {
		r.embed.drop()
	}
	r.e.place(s.pos, t)
	for i, b := range r.blocks {
		if err := ctx.Err(); err != nil {
			return err
		}
		pos := s.pos
		if i == len(r.blocks)-1 && from > 0 {
			r.e.remember(b, &s.layer[i], &r.buf, x.Slice(0, from, 0, d.Hidden), pos)
			x, attn, ffn = x.Slice(from, t, 0, d.Hidden), attn.Slice(from, t, 0, d.QDim()), ffn.Slice(from, t, 0, d.FFN)
			pos += from
			r.e.place(pos, x.Rows)
		}
		if x.Rows > 0 {
			r.e.attention(b, &s.layer[i], &r.buf, attn, x, pos)
			r.e.multiply(attn, product{w: b.o, dst: x, add: true})
			r.e.expand(b, &r.buf, ffn, x)
			r.e.multiply(ffn, product{w: b.down, dst: x, add: true})
		}
		if r.tight {
			b.drop()
		}
		if s.OnBlock != nil {
			s.OnBlock(i, x.Data[:x.Rows*d.Hidden], x.Rows, d.Hidden)
		}
	}
	return nil
}

// logits computes and hands over rows [from,n) of the batch, whose first position is first.
func (s *Session) logits(ctx context.Context, first, from, n int, fn func(pos int, logits []float32) error) error {
	r, d := s.r, s.r.d
	step := r.LogitRows()
	for lo := from; lo < n; lo += step {
		if err := ctx.Err(); err != nil {
			return err
		}
		rows := min(step, n-lo)
		norm := kernels.View(need(&r.buf.norm, rows*d.Hidden), rows, d.Hidden)
		r.e.norm(norm, kernels.View(r.hidden[lo*d.Hidden:], rows, d.Hidden), r.norm)
		out := r.project(norm)
		if fn == nil {
			continue
		}
		for i := range rows {
			if err := fn(first+lo+i, out.Row(i)); err != nil {
				return err
			}
		}
	}
	return nil
}

// project multiplies normalised states with the output matrix.
func (r *Runner) project(states kernels.Matrix) kernels.Matrix {
	out := kernels.View(need(&r.logits, states.Rows*r.d.Vocab), states.Rows, r.d.Vocab)
	r.e.multiply(states, product{w: r.head, dst: out})
	if r.tight {
		r.head.drop()
	}
	return out
}

// LogitRows is the most rows of states that Logits takes at a time.
func (r *Runner) LogitRows() int { return logitRows(r.d, r.batch, r.opt.Memory > 0) }

// Logits turns rows of Session.States into rows of Vocab logits, at most LogitRows of them. They are
// valid until the runner computes something else.
func (r *Runner) Logits(ctx context.Context, states []float32) ([]float32, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	rows := len(states) / r.d.Hidden
	if rows*r.d.Hidden != len(states) || rows > r.LogitRows() {
		return nil, &fault.Error{Op: "run", Err: fmt.Errorf("%d numbers are no states of at most %d tokens", len(states), r.LogitRows())}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.project(kernels.View(states, rows, r.d.Hidden)).Data, nil
}
