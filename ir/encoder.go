package ir

// Encoder describes how the tensors of a text encoder compute: BERT and its relatives. Token, position
// and type embeddings are added and normalised; blocks follow of attention that sees the whole text and a
// plain MLP, each added to its input and normalised after that:
//
//	x = norm(embedding[token] + positions[PositionBase+i] + types[type])
//	x = norm(x + o(attention(q(x), k(x), v(x))))      norm: mean and variance over the row, gain and bias
//	x = norm(x + down(act(up(x))))
//
// All products have biases. Pooling makes one vector, the embedding, of the last x of a text. ir/arch fills
// an Encoder from a config.json or GGUF metadata; the runner executes it. A graph is built from it block by
// block: every weight is found by Role and block, and Shape says what it must look like.
type Encoder struct {
	Layers  int
	Hidden  int
	FFN     int // width of the MLP
	Heads   int
	Vocab   int // rows of the token embedding
	Context int // positions: the longest text, special tokens included
	// PositionBase is the row of the first position: tables of RoBERTa begin with rows for padding.
	PositionBase int
	Types        int // rows of the type embedding; 0 for none
	NormEps      float32
	Activation   Activation
	Pooler       bool // a dense layer with tanh over the first token, which classifiers read

	// Pooling and Normalize say how sentence models make an embedding; Pooling is empty when nobody says.
	Pooling   Pooling
	Normalize bool // to length 1
	MaxTokens int  // what a sentence model cuts texts to; 0: Context
}

// Activation is the function between the two products of an MLP.
type Activation string

// The activations of published encoders.
const (
	GELU     Activation = "gelu"      // x/2 (1 + erf(x/sqrt 2))
	GELUTanh Activation = "gelu_tanh" // its approximation by tanh
	ReLU     Activation = "relu"
)

// Pooling is how one vector is made of those of all tokens.
type Pooling string

// The ways of sentence models.
const (
	PoolMean Pooling = "mean" // over all tokens, special ones included
	PoolCLS  Pooling = "cls"  // that of the first token
	PoolMax  Pooling = "max"  // the largest of each element
)

// Roles of encoders, beside those of decoders that mean the same.
const (
	RolePosition         Role = "position"        // [PositionBase+Context,hidden]
	RoleTokenType        Role = "token_type"      // [types,hidden]
	RoleEmbedNorm        Role = "embed_norm"      // over the sum of the embeddings
	RoleEmbedNormBias    Role = "embed_norm_bias" //
	RoleAttnPostNorm     Role = "attn_post_norm"  // after the attention is added
	RoleAttnPostNormBias Role = "attn_post_norm_bias"
	RoleMLPPostNorm      Role = "mlp_post_norm" // after the MLP is added
	RoleMLPPostNormBias  Role = "mlp_post_norm_bias"
	RolePooler           Role = "pooler" // [hidden,hidden]
	RolePoolerBias       Role = "pooler_bias"
)

// HeadDim is the width of a head.
func (e *Encoder) HeadDim() int { return e.Hidden / max(e.Heads, 1) }

// Longest is how many tokens of a text are read, special ones included.
func (e *Encoder) Longest() int {
	if e.MaxTokens > 0 {
		return min(e.MaxTokens, e.Context)
	}
	return e.Context
}

// Shape is the shape that a role must have, nil when the role does not occur in this encoder.
func (e *Encoder) Shape(r Role) []int {
	switch r {
	case RoleEmbedding:
		return []int{e.Vocab, e.Hidden}
	case RolePosition:
		return []int{e.PositionBase + e.Context, e.Hidden}
	case RoleTokenType:
		if e.Types == 0 {
			return nil
		}
		return []int{e.Types, e.Hidden}
	case RoleAttnQ, RoleAttnK, RoleAttnV, RoleAttnO, RolePooler:
		return []int{e.Hidden, e.Hidden}
	case RoleMLPUp:
		return []int{e.FFN, e.Hidden}
	case RoleMLPUpBias:
		return []int{e.FFN}
	case RoleMLPDown:
		return []int{e.Hidden, e.FFN}
	case RoleEmbedNorm, RoleEmbedNormBias, RoleAttnPostNorm, RoleAttnPostNormBias, RoleMLPPostNorm, RoleMLPPostNormBias,
		RoleAttnQBias, RoleAttnKBias, RoleAttnVBias, RoleAttnOBias, RoleMLPDownBias, RolePoolerBias:
		return []int{e.Hidden}
	}
	return nil
}

func (e *Encoder) layers() int { return e.Layers }

func (e *Encoder) outerRoles() []Role {
	roles := []Role{RoleEmbedding, RolePosition, RoleEmbedNorm, RoleEmbedNormBias}
	if e.Types > 0 {
		roles = append(roles, RoleTokenType)
	}
	if e.Pooler {
		roles = append(roles, RolePooler, RolePoolerBias)
	}
	return roles
}

func (e *Encoder) blockRoles() []Role {
	return []Role{
		RoleAttnQ, RoleAttnQBias, RoleAttnK, RoleAttnKBias, RoleAttnV, RoleAttnVBias, RoleAttnO, RoleAttnOBias, RoleAttnPostNorm, RoleAttnPostNormBias,
		RoleMLPUp, RoleMLPUpBias, RoleMLPDown, RoleMLPDownBias, RoleMLPPostNorm, RoleMLPPostNormBias,
	}
}
