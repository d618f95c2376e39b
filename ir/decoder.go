package ir

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

func (d *Decoder) layers() int { return d.Layers }

func (d *Decoder) outerRoles() []Role {
	if d.TiedHead {
		return []Role{RoleEmbedding, RoleFinalNorm}
	}
	return []Role{RoleEmbedding, RoleFinalNorm, RoleHead}
}

// blockRoles are the tensors that every block has.
func (d *Decoder) blockRoles() []Role {
	roles := append([]Role{RoleAttnNorm, RoleAttnQ, RoleAttnK, RoleAttnV, RoleAttnO, RoleMLPNorm, RoleMLPGate, RoleMLPUp, RoleMLPDown}, d.Biases...)
	if d.QKNorm {
		roles = append(roles, RoleAttnQNorm, RoleAttnKNorm)
	}
	return roles
}
