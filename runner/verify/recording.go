package verify

import (
	"slices"

	"github.com/pare-dev/pare/ir"
)

// Recording keeps what an original gave, chunk by chunk, as far as Most bytes reach, so that further
// packages compare with it on the same text without running it again: the final states, of which logits
// are made, and on demand the residual stream after every block. Chunks that it has no room for are run
// again. It is used by one comparison at a time, always with the same original and Options.
type Recording struct {
	Most int64 // bytes to keep
	// Blocks keeps residual streams too. Without them, comparisons with a recorded original have no
	// figures of single blocks.
	Blocks bool

	held   int64
	chunks map[int]*recorded
}

// recorded is what was kept of a chunk, one row for each scored token.
type recorded struct {
	tokens []int32
	states []float32
	blocks [][]float32
}

// find is what was kept of a chunk of these tokens, nil when nothing was; blocks says that residual
// streams are needed if they are kept at all.
func (r *Recording) find(index int, tokens []int32, blocks bool) *recorded {
	if r == nil {
		return nil
	}
	k := r.chunks[index]
	if k == nil || !slices.Equal(k.tokens, tokens) || blocks && r.Blocks && k.blocks == nil {
		return nil
	}
	return k
}

// begin makes room for a chunk of a model of some depth, 0 where blocks are not compared; nil when
// there is none.
func (r *Recording) begin(index int, tokens []int32, depth, numbers int) *recorded {
	if r == nil {
		return nil
	}
	if !r.Blocks {
		depth = 0
	}
	size := int64(4 * (len(tokens) + (depth+1)*numbers))
	if r.chunks[index] != nil || r.held+size > r.Most {
		return nil
	}
	k := &recorded{tokens: slices.Clone(tokens), states: make([]float32, 0, numbers)}
	if depth > 0 {
		k.blocks = make([][]float32, depth)
		for i := range k.blocks {
			k.blocks[i] = make([]float32, 0, numbers)
		}
	}
	r.held += size
	return k
}

// end keeps a chunk that begin made room for, now that all of it is there.
func (r *Recording) end(index int, k *recorded) {
	if r.chunks == nil {
		r.chunks = map[int]*recorded{}
	}
	r.chunks[index] = k
}

// Bytes is what the recording of a chunk takes.
func (r *Recording) Bytes(d *ir.Decoder, context int) int64 {
	rows := int64(context - 1 - context/2)
	if r.Blocks {
		rows *= int64(d.Layers + 1)
	}
	return 4 * (int64(context) + rows*int64(d.Hidden))
}
