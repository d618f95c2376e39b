package ir

import (
	"errors"
	"fmt"

	"github.com/pare-dev/pare/internal/fault"
)

// Decoder describes how the tensors of a decoder-only language model compute: pre-norm blocks of
// grouped-query attention and a gated MLP with RMS norms. ir/arch fills it from a config.json or
// from GGUF metadata; the runner executes it.
//
// In the IR the rows of q and k are always in the "half-split" RoPE order of Hugging Face: element
// i of a head rotates with element i+HeadDim/2. Adapters of containers that store another order
// (GGUF llama interleaves the pairs) permute rows on the way in and out.
type Decoder struct {
	Layers      int
	Hidden      int
	FFN         int // width of the MLP
	Heads       int
	KVHeads     int
	HeadDim     int // need not be Hidden/Heads
	Vocab       int // rows of the embedding, padding included
	Context     int // longest context the model was trained for
	NormEps     float32
	RopeTheta   float64
	RopeScaling *RopeScaling // nil: none
	// RopeFactors divides each of the HeadDim/2 frequencies; what a GGUF rope_freqs tensor holds.
	// nil: derived from RopeScaling.
	RopeFactors []float32
	// Window is the sliding attention window in tokens (a position sees itself and Window-1
	// before it), 0 for full attention. WindowLayers says which layers have it; nil means all.
	Window       int
	WindowLayers []bool
	QKNorm       bool // RMS norm over each head of q and k before RoPE
	TiedHead     bool // logits use the embedding matrix
	// Biases are the bias vectors that every block has, sorted.
	Biases []Role
}

// RopeScaling is a published way to stretch RoPE beyond the trained context.
type RopeScaling struct {
	Kind     string // "linear" or "llama3"
	Factor   float64
	LowFreq  float64 // llama3
	HighFreq float64 // llama3
	Original int     // llama3: context before stretching
}

// Windowed reports whether layer uses the sliding window.
func (d *Decoder) Windowed(layer int) bool {
	return d.Window > 0 && (d.WindowLayers == nil || d.WindowLayers[layer])
}

// QDim and KVDim are the widths of the query and of the key (or value) projections.
func (d *Decoder) QDim() int  { return d.Heads * d.HeadDim }
func (d *Decoder) KVDim() int { return d.KVHeads * d.HeadDim }

// Reasons why tensors and architecture do not go together.
var (
	ErrMissing = errors.New("the architecture needs a tensor that is missing")
	ErrShape   = errors.New("the shape does not fit")
)

// Shape is the shape that a role must have, nil when the role does not occur in this decoder.
func (d *Decoder) Shape(r Role) []int {
	switch r {
	case RoleEmbedding, RoleHead:
		return []int{d.Vocab, d.Hidden}
	case RoleFinalNorm, RoleAttnNorm, RoleMLPNorm, RoleAttnOBias, RoleMLPDownBias:
		return []int{d.Hidden}
	case RoleAttnQ:
		return []int{d.QDim(), d.Hidden}
	case RoleAttnK, RoleAttnV:
		return []int{d.KVDim(), d.Hidden}
	case RoleAttnO:
		return []int{d.Hidden, d.QDim()}
	case RoleAttnQBias:
		return []int{d.QDim()}
	case RoleAttnKBias, RoleAttnVBias:
		return []int{d.KVDim()}
	case RoleAttnQNorm, RoleAttnKNorm:
		if !d.QKNorm {
			return nil
		}
		return []int{d.HeadDim}
	case RoleMLPGate, RoleMLPUp:
		return []int{d.FFN, d.Hidden}
	case RoleMLPDown:
		return []int{d.Hidden, d.FFN}
	case RoleMLPGateBias, RoleMLPUpBias:
		return []int{d.FFN}
	}
	return nil
}

// check verifies presence and shapes. It reports everything wrong at once, a line for each kind: a
// configuration that contradicts the weights does so in every block.
func (d *Decoder) check(m *Model) error {
	type key struct {
		r Role
		b int
	}
	have := map[key]*Tensor{}
	wrong := &fault.Error{File: m.Path}
	others := 0
	for _, t := range m.tensors {
		if t.Role == RoleUnknown {
			continue
		}
		have[key{t.Role, t.Block}] = t
		want := d.Shape(t.Role)
		switch {
		case equalInts(want, t.Shape):
		case wrong.Err == nil:
			wrong.Tensor, wrong.Err = t.Name, fmt.Errorf("%w: %v, the configuration asks for %v", ErrShape, t.Shape, want)
		default:
			others++
		}
	}
	var errs []error
	if others > 0 {
		wrong.Err = fmt.Errorf("%w; and %d more like it", wrong.Err, others)
	}
	if wrong.Err != nil {
		errs = append(errs, wrong)
	}
	var first string
	missing, empty := 0, 0 // tensors, and blocks of which nothing is there
	need := func(r Role, b int) bool {
		if have[key{r, b}] != nil {
			return true
		}
		if missing++; missing == 1 {
			first = string(r)
			if b >= 0 {
				first += fmt.Sprintf(" of block %d", b)
			}
		}
		return false
	}
	need(RoleEmbedding, -1)
	need(RoleFinalNorm, -1)
	if !d.TiedHead {
		need(RoleHead, -1)
	}
	for b := range d.Layers {
		some := false
		for _, r := range d.blockRoles() {
			some = need(r, b) || some
		}
		if !some {
			empty++
		}
	}
	if missing > 0 {
		text := first
		if missing > 1 {
			text += fmt.Sprintf(" and %d more", missing-1)
		}
		if empty > 0 {
			text += fmt.Sprintf("; the configuration has %d blocks, the file %d of them", d.Layers, d.Layers-empty)
		}
		errs = append(errs, &fault.Error{File: m.Path, Err: fmt.Errorf("%w: %s", ErrMissing, text)})
	}
	return errors.Join(errs...)
}

// blockRoles are the tensors that every block has.
func (d *Decoder) blockRoles() []Role {
	roles := append([]Role{RoleAttnNorm, RoleAttnQ, RoleAttnK, RoleAttnV, RoleAttnO, RoleMLPNorm, RoleMLPGate, RoleMLPUp, RoleMLPDown}, d.Biases...)
	if d.QKNorm {
		roles = append(roles, RoleAttnQNorm, RoleAttnKNorm)
	}
	return roles
}

func equalInts(a, b []int) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}
