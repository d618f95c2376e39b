package ir

import (
	"context"
	"fmt"
	"math"

	"github.com/pare-dev/pare/internal/storage"
)

// Role says what a tensor does in the network, whatever its container calls it.
type Role string

// Roles of decoder language models. Weights are [out,in]; norms and biases are vectors.
const (
	RoleUnknown     Role = ""
	RoleEmbedding   Role = "embedding" // [vocab,hidden]
	RoleHead        Role = "head"      // [vocab,hidden]; absent when tied to the embedding
	RoleFinalNorm   Role = "final_norm"
	RoleAttnNorm    Role = "attn_norm"
	RoleAttnQ       Role = "attn_q"
	RoleAttnK       Role = "attn_k"
	RoleAttnV       Role = "attn_v"
	RoleAttnO       Role = "attn_o"
	RoleAttnQBias   Role = "attn_q_bias"
	RoleAttnKBias   Role = "attn_k_bias"
	RoleAttnVBias   Role = "attn_v_bias"
	RoleAttnOBias   Role = "attn_o_bias"
	RoleAttnQNorm   Role = "attn_q_norm" // one gain per element of a head
	RoleAttnKNorm   Role = "attn_k_norm"
	RoleMLPNorm     Role = "mlp_norm"
	RoleMLPGate     Role = "mlp_gate"
	RoleMLPUp       Role = "mlp_up"
	RoleMLPDown     Role = "mlp_down"
	RoleMLPGateBias Role = "mlp_gate_bias"
	RoleMLPUpBias   Role = "mlp_up_bias"
	RoleMLPDownBias Role = "mlp_down_bias"
)

// Linear reports whether the role is a weight matrix of a transformer block: what pruning and
// quantization work on by default.
func (r Role) Linear() bool {
	switch r {
	case RoleAttnQ, RoleAttnK, RoleAttnV, RoleAttnO, RoleMLPGate, RoleMLPUp, RoleMLPDown:
		return true
	}
	return false
}

// Tensor is everything known about a weight except its data. Handles are cheap, immutable and
// safe to share between goroutines; a pass replaces a handle, it never edits one.
type Tensor struct {
	Name    string   // as the source file spells it: "model.layers.0.mlp.up_proj.weight"
	Aliases []string // the names other containers use: "blk.0.ffn_up.weight"; patterns match them too
	Role    Role
	Block   int             // transformer block index, -1 outside the blocks
	Shape   []int           // outermost dimension first, whatever order the file uses
	Type    storage.Type    // how the bytes are laid out
	Scheme  *storage.Scheme // set exactly when Type is storage.Planes
	Data    Source
	// Side is a change kept beside the weight, nil for none: an adapter that is attached and not
	// merged. Only the runner computes with it; passes and writers see Data alone.
	Side *LowRank
}

// Source yields whole rows, so that even one tensor larger than the budget can pass through.
// Rows run along the last dimension; a vector is one row. Methods are safe for concurrent use.
type Source interface {
	// ReadRows decodes rows [lo,hi) to real values; dst holds exactly (hi-lo)*cols of them.
	ReadRows(ctx context.Context, dst []float32, lo, hi int) error
	// ReadRaw gives a part of the same rows in the layout of the tensor's type, bit-exact: what
	// writers copy. dst holds exactly PartBytes of them.
	ReadRaw(ctx context.Context, part Part, dst []byte, lo, hi int) error
}

// Part names one of the byte planes that make up a tensor. A quantized tensor keeps its planes
// under one handle, so that they cannot drift apart.
type Part string

// Parts. Tensors of every type but storage.Planes have only PartData.
const (
	PartData   Part = "data"
	PartCodes  Part = "codes"  // int8 (symmetric) or uint8, one byte per element, row-major
	PartScales Part = "scales" // Scheme.Scale, one per group, row-major
	PartZeros  Part = "zeros"  // uint8, one per group; only asymmetric schemes
)

// Rows is the number of rows: the product of all dimensions but the last.
func (t *Tensor) Rows() int {
	n := 1
	for _, d := range t.Shape[:max(len(t.Shape)-1, 0)] {
		n *= d
	}
	return n
}

// Cols is the length of a row.
func (t *Tensor) Cols() int {
	if len(t.Shape) == 0 {
		return 1
	}
	return t.Shape[len(t.Shape)-1]
}

// Elems is the number of elements.
func (t *Tensor) Elems() int64 { return int64(t.Rows()) * int64(t.Cols()) }

// Parts lists the byte planes of the tensor.
func (t *Tensor) Parts() []Part {
	if t.Scheme == nil {
		return []Part{PartData}
	}
	if t.Scheme.Symmetric {
		return []Part{PartCodes, PartScales}
	}
	return []Part{PartCodes, PartScales, PartZeros}
}

// PartBytes is the size of rows [lo,hi) of one part. Per-tensor schemes have one scale, which
// belongs to every row range.
func (t *Tensor) PartBytes(part Part, lo, hi int) (int64, error) {
	rows := int64(hi - lo)
	if t.Scheme == nil {
		row, err := t.Type.RowBytes(t.Cols())
		return rows * row, err
	}
	groups := rows * int64(t.Scheme.Groups(t.Cols()))
	if t.Scheme.Group == storage.GroupTensor {
		groups = 1
	}
	switch part {
	case PartCodes:
		return rows * int64(t.Cols()), nil
	case PartScales:
		return groups * int64(storage.MustLookup(t.Scheme.Scale).BlockBytes), nil
	case PartZeros:
		return groups, nil
	}
	return 0, fmt.Errorf("a tensor of type %s has no part %q", t.Type, part)
}

// Bytes is the number of bytes the tensor takes when shipped. Planes count their packed bits.
func (t *Tensor) Bytes() (int64, error) {
	if t.Scheme == nil {
		return t.PartBytes(PartData, 0, t.Rows())
	}
	var sum int64
	for _, p := range t.Parts()[1:] {
		n, err := t.PartBytes(p, 0, t.Rows())
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum + (t.Elems()*int64(t.Scheme.Bits)+7)/8, nil
}

// With returns a copy of the handle with another type, scheme and source: what a pass puts in its
// place.
func (t *Tensor) With(typ storage.Type, scheme *storage.Scheme, data Source) *Tensor {
	c := *t
	c.Type, c.Scheme, c.Data = typ, scheme, data
	return &c
}

// MaxElems bounds the elements of one tensor, so that sizes in bytes never overflow.
const MaxElems = math.MaxInt64 / 16

// Mapped is implemented by sources whose bytes lie in a mapped file, so that the runner can use
// them without a copy.
type Mapped interface {
	// MapRaw returns rows [lo,hi) of a part as they lie in the file, or false when they are not
	// contiguous there. The bytes are read-only and valid until the model is closed.
	MapRaw(part Part, lo, hi int) ([]byte, bool)
	// DropRaw gives the memory behind rows [lo,hi) of a part back, which stay valid and are read
	// from the file again when they are touched.
	DropRaw(part Part, lo, hi int)
}
