package distill

import (
	"fmt"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
)

// Footprint is the memory that a training takes, in bytes.
type Footprint struct {
	Weights  int64 // of both models, with the gradients and averages of what learns
	Token    int64 // for every token that is gone through at once
	Remember int64 // more for each of them where blocks remember their activations
}

// Subject is what is trained.
type Subject struct {
	Student, Teacher *ir.Model // Teacher may be nil
	Learns           func(*ir.Tensor) bool
	Stored           map[string]storage.Type // see Pass
	LowRank          *LowRank                // nil for none
}

// scratchWorkers is the most cores that work where each needs scratch of its own. What a training takes then
// does not depend on the cores there are, nor does what Fit makes of it, on which bits depend.
const scratchWorkers = 16

// Footprint adds up what a training takes, for sequences up to a length.
func (s Subject) Footprint(length int) (f Footprint) {
	f.Weights = holds(s.Student, s.Learns)
	for _, t := range s.Student.Tensors() {
		if t.Role == ir.RoleUnknown {
			continue
		}
		if s.Learns(t) {
			f.Weights += 12*t.Elems() + t.Elems() // gradient, two averages; the zeros that must stay
			if _, ok := s.Stored[t.Name]; ok {
				f.Weights += 4 * t.Elems()
			}
		}
		if l := s.LowRank; l != nil {
			for _, r := range l.Targets {
				if r == t.Role {
					f.Weights += 16 * int64(l.Rank) * int64(t.Rows()+t.Cols())
				}
			}
		}
	}
	d := s.Student.Decoder
	block := blockFloats(d)
	if l := s.LowRank; l != nil {
		block += int64(len(l.Targets) * l.Rank)
	}
	// what blocks pass on, one block's activations, their gradients, and that of the last output
	f.Token = 4 * (int64(d.Hidden)*int64(d.Layers+2) + block + int64(d.Hidden+3*d.FFN+2*d.QDim()+2*d.KVDim()))
	f.Remember = 4 * block * int64(d.Layers-1)
	sides := int64(1)
	if t := s.Teacher; t != nil {
		f.Weights += holds(t, func(*ir.Tensor) bool { return false })
		f.Token += 4 * (3*int64(t.Decoder.Hidden) + blockFloats(t.Decoder))
		sides = 2
	}
	// logits of a band, the states behind them, and scratch for these and for attention
	f.Weights += 4 * (headBand*sides*int64(d.Vocab+2*d.Hidden) + scratchWorkers*(3*int64(d.Vocab)+2*attentionBand*int64(length)))
	return f
}

// blockFloats is how many numbers a block computes for a token.
func blockFloats(d *ir.Decoder) int64 {
	n := 3*d.Hidden + 2*d.QDim() + 2*d.KVDim() + 4*d.FFN
	if d.QKNorm {
		n += d.QDim() + d.KVDim()
	}
	return int64(n)
}

// holds is the memory of a model's weights; learns says which are held to be changed.
func holds(m *ir.Model, learns func(*ir.Tensor) bool) (n int64) {
	var widest int64
	for _, t := range m.Tensors() {
		if t.Role == ir.RoleUnknown {
			continue
		}
		if b := frozenBytes(t); b > 0 && !learns(t) {
			n += b
			widest = max(widest, 4*t.Elems())
			continue
		}
		n += 4 * t.Elems()
	}
	return n + widest
}

// atOnce is how many tokens are gone through together at most: more make products no faster.
const atOnce = 2048

// Least is the least memory that sequences of a length can be learned from in.
func (f Footprint) Least(length int) int64 { return f.Weights + int64(length)*f.Token }

// Fit chooses how many sequences are gone through at once, and whether blocks remember their activations
// or compute them again on the way back, so that the training fits in memory; 0 is no limit.
func (f Footprint) Fit(o Options, length int, memory int64) (Options, error) {
	o = o.defaults()
	if o.Micro == 0 {
		o.Micro = max(1, min(o.Batch, atOnce/length))
	}
	if memory <= 0 {
		return o, nil
	}
	left := memory - f.Weights
	take := func(seqs int, token int64) bool { return int64(seqs)*int64(length)*token <= left }
	for n := o.Micro; n >= 1 && (n == o.Micro || n*length >= atOnce/8); n /= 2 { // fewer make products slower
		if take(n, f.Token+f.Remember) {
			o.Micro, o.Recompute = n, false
			return o, nil
		}
	}
	for n := o.Micro; n >= 1; n /= 2 {
		if take(n, f.Token) {
			o.Micro, o.Recompute = n, true
			return o, nil
		}
	}
	return o, &fault.Error{
		Op: "distill", Err: fault.As(fault.ErrBudget, fmt.Errorf("the training takes at least %s of memory, %s are there for it", human.BytesUp(f.Least(length)), human.Bytes(memory))),
		Hint: "raise --max-memory, or give shorter sequences with --context",
	}
}
