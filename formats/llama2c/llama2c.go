// Package llama2c reads the "version 0" checkpoints of karpathy/llama2.c: seven int32 and then all
// weights as float32, layer after layer within each kind (run.c, memory_map_weights). The format
// has no magic number, so a header is recognised by sizes that add up to the length of the file.
package llama2c

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
)

// Reasons for refusing a file.
var (
	ErrHeader = errors.New("not a llama2.c checkpoint of version 0")
	ErrSize   = errors.New("file does not have the size that its header asks for")
)

// HeaderSize is the number of bytes before the weights.
const HeaderSize = 28

// Header are the hyper-parameters. RoPE turns neighbouring elements with base 10000, and the norm
// epsilon is 1e-5; neither is in the file.
type Header struct {
	Dim, Hidden, Layers, Heads, KVHeads int
	Vocab                               int
	Context                             int
	Shared                              bool // the output matrix is the embedding
}

// HeadDim is the width of an attention head.
func (h Header) HeadDim() int { return h.Dim / h.Heads }

// Kind names what a tensor of a checkpoint is.
type Kind string

// Kinds, in the order of the file.
const (
	Embedding Kind = "tok_embeddings"
	AttnNorm  Kind = "attention_norm"
	WQ        Kind = "wq"
	WK        Kind = "wk"
	WV        Kind = "wv"
	WO        Kind = "wo"
	FFNNorm   Kind = "ffn_norm"
	W1        Kind = "w1" // gate
	W2        Kind = "w2" // down
	W3        Kind = "w3" // up
	Norm      Kind = "norm"
	Output    Kind = "output"
)

// Tensor is one float32 tensor.
type Tensor struct {
	Kind   Kind
	Layer  int   // -1 outside the layers
	Shape  []int // outermost first
	Offset int64 // of the first byte, from the start of the file
}

// File is a parsed header with the tensors in file order.
type File struct {
	Header
	Tensors []Tensor
}

// limit bounds every number of the header, so that products of three stay within 63 bits.
const limit = 1 << 20

// ParseHeader reads the first bytes of a file. It does not look at the length of the file.
func ParseHeader(b []byte) (Header, error) {
	if len(b) < HeaderSize {
		return Header{}, fmt.Errorf("%w: %d bytes", ErrHeader, len(b))
	}
	var v [7]int
	for i := range v {
		v[i] = int(int32(binary.LittleEndian.Uint32(b[4*i:]))) //nolint:gosec // the format stores int32
	}
	h := Header{v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[5] > 0}
	h.Vocab = max(h.Vocab, -h.Vocab)
	for _, n := range []int{h.Dim, h.Hidden, h.Layers, h.Heads, h.KVHeads, h.Vocab, h.Context} {
		if n < 1 || n > limit {
			return h, fmt.Errorf("%w: a size of %d", ErrHeader, n)
		}
	}
	if h.Dim%h.Heads != 0 || h.Heads%h.KVHeads != 0 || h.HeadDim()%2 != 0 {
		return h, fmt.Errorf("%w: width %d, %d heads, %d key/value heads", ErrHeader, h.Dim, h.Heads, h.KVHeads)
	}
	return h, nil
}

// kinds lists what the file holds, in order; 0 layers means one tensor outside the layers.
func (h Header) kinds() []struct {
	kind       Kind
	layered    bool
	rows, cols int
} {
	kv := h.HeadDim() * h.KVHeads
	type k = struct {
		kind       Kind
		layered    bool
		rows, cols int
	}
	return []k{
		{Embedding, false, h.Vocab, h.Dim},
		{AttnNorm, true, 0, h.Dim},
		{WQ, true, h.Dim, h.Dim},
		{WK, true, kv, h.Dim},
		{WV, true, kv, h.Dim},
		{WO, true, h.Dim, h.Dim},
		{FFNNorm, true, 0, h.Dim},
		{W1, true, h.Hidden, h.Dim},
		{W2, true, h.Dim, h.Hidden},
		{W3, true, h.Hidden, h.Dim},
		{Norm, false, 0, h.Dim},
	}
}

// Size is the length in bytes of a file with this header, or false when it cannot be counted.
func (h Header) Size() (int64, bool) {
	total := uint64(HeaderSize / 4)
	add := func(factors ...int) bool {
		n := uint64(1)
		for _, f := range factors {
			hi, lo := bits.Mul64(n, uint64(max(f, 1))) //nolint:gosec // not negative
			if hi != 0 || lo > 1<<60 {
				return false
			}
			n = lo
		}
		total += n
		return total <= 1<<60
	}
	for _, k := range h.kinds() {
		layers := 1
		if k.layered {
			layers = h.Layers
		}
		if !add(layers, k.rows, k.cols) {
			return 0, false
		}
	}
	if !add(2, h.Context, h.HeadDim()/2) { // two tables of RoPE angles that nothing uses any more
		return 0, false
	}
	if !h.Shared && !add(h.Vocab, h.Dim) {
		return 0, false
	}
	return int64(4 * total), true //nolint:gosec // at most 2^62
}

// Parse reads the header of a file of the given size and lays out its tensors.
func Parse(r io.ReaderAt, fileSize int64) (*File, error) {
	head := make([]byte, min(HeaderSize, max(fileSize, 0)))
	if _, err := r.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	h, err := ParseHeader(head)
	if err != nil {
		return nil, err
	}
	if want, ok := h.Size(); !ok || want != fileSize {
		return nil, fmt.Errorf("%w: %d bytes, not %d", ErrSize, fileSize, want)
	}
	f := &File{Header: h} // from here on the file is as large as the tensors: layers are bounded by it
	off := int64(HeaderSize)
	add := func(kind Kind, layer, rows, cols int) {
		t := Tensor{kind, layer, []int{rows, cols}, off}
		if rows == 0 {
			t.Shape = []int{cols}
		}
		f.Tensors = append(f.Tensors, t)
		off += 4 * int64(max(rows, 1)) * int64(cols)
	}
	for _, k := range h.kinds() {
		if !k.layered {
			add(k.kind, -1, k.rows, k.cols)
			continue
		}
		for l := range h.Layers {
			add(k.kind, l, k.rows, k.cols)
		}
	}
	off += 4 * 2 * int64(h.Context) * int64(h.HeadDim()/2)
	if !h.Shared {
		add(Output, -1, h.Vocab, h.Dim)
	}
	return f, nil
}
