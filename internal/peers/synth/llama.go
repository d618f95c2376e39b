package synth

import (
	"fmt"
	"strings"

	"github.com/pare-dev/pare/formats/gguf"
	"github.com/pare-dev/pare/internal/storage"
)

// ggml's ids of types, and llama.cpp's of files that hold mostly such tensors.
var (
	typeID = map[storage.Type]uint32{storage.F32: 0, storage.F16: 1, storage.BF16: 30}
	fileID = map[storage.Type]uint32{storage.F32: 0, storage.F16: 1, storage.BF16: 32}
)

// tensors lists the model in the order in which llama.cpp's converter writes it.
func (s Shape) tensors(typ storage.Type) []gguf.Tensor {
	var list []gguf.Tensor
	matrix := func(name string, rows, cols int) {
		list = append(list, gguf.Tensor{Name: name + ".weight", Type: typeID[typ], Shape: []int{rows, cols}})
	}
	norm := func(name string) {
		list = append(list, gguf.Tensor{Name: name + ".weight", Type: typeID[storage.F32], Shape: []int{s.Embed}})
	}
	kv := s.Embed / s.Heads * s.KVHeads
	matrix("token_embd", s.Vocab, s.Embed)
	for b := range s.Layers {
		block := fmt.Sprintf("blk.%d.", b)
		norm(block + "attn_norm")
		matrix(block+"attn_q", s.Embed, s.Embed)
		matrix(block+"attn_k", kv, s.Embed)
		matrix(block+"attn_v", kv, s.Embed)
		matrix(block+"attn_output", s.Embed, s.Embed)
		norm(block + "ffn_norm")
		matrix(block+"ffn_gate", s.FF, s.Embed)
		matrix(block+"ffn_up", s.FF, s.Embed)
		matrix(block+"ffn_down", s.Embed, s.FF)
	}
	norm("output_norm")
	matrix("output", s.Vocab, s.Embed)
	return list
}

func (s Shape) metadata(typ storage.Type) []gguf.KV {
	pieces, scores, kinds := vocabulary(s.Vocab)
	u := func(v int) uint32 { return uint32(v) } //nolint:gosec // dimensions are small and positive
	return []gguf.KV{
		{Key: "general.architecture", Value: "llama"},
		{Key: "general.name", Value: "synthetic"},
		{Key: "general.file_type", Value: fileID[typ]},
		{Key: "llama.vocab_size", Value: u(s.Vocab)},
		{Key: "llama.context_length", Value: u(s.Context)},
		{Key: "llama.embedding_length", Value: u(s.Embed)},
		{Key: "llama.block_count", Value: u(s.Layers)},
		{Key: "llama.feed_forward_length", Value: u(s.FF)},
		{Key: "llama.rope.dimension_count", Value: u(s.Embed / s.Heads)},
		{Key: "llama.rope.freq_base", Value: float32(10000)},
		{Key: "llama.attention.head_count", Value: u(s.Heads)},
		{Key: "llama.attention.head_count_kv", Value: u(s.KVHeads)},
		{Key: "llama.attention.layer_norm_rms_epsilon", Value: float32(1e-5)},
		{Key: "tokenizer.ggml.model", Value: "llama"},
		{Key: "tokenizer.ggml.tokens", Value: pieces},
		{Key: "tokenizer.ggml.scores", Value: scores},
		{Key: "tokenizer.ggml.token_type", Value: kinds},
		{Key: "tokenizer.ggml.bos_token_id", Value: uint32(1)},
		{Key: "tokenizer.ggml.eos_token_id", Value: uint32(2)},
		{Key: "tokenizer.ggml.unknown_token_id", Value: uint32(0)},
		{Key: "tokenizer.ggml.add_bos_token", Value: true},
		{Key: "tokenizer.ggml.add_eos_token", Value: false},
	}
}

const (
	firstText  = 3 + 256 // <unk>, <s>, </s> and the bytes
	letters    = "abcdefghijklmnopqrstuvwxyz"
	space      = "\u2581" // SentencePiece's mark of a space
	mostTokens = firstText + 96 + 2*(26+26*26+26*26*26) - 26
)

// vocabulary makes a SentencePiece vocabulary of n tokens that takes every text: special tokens,
// bytes, printable ASCII, then pieces of two and three letters, with and without a space before.
// Earlier pieces have higher scores, and every piece is joined from two earlier ones.
func vocabulary(n int) (pieces []string, scores []float32, kinds []int32) {
	const (
		normal  = 1
		unknown = 2
		control = 3
		byteful = 6
	)
	add := func(piece string, kind int32) {
		if len(pieces) < n {
			score := float32(0)
			if kind == normal {
				score = -float32(len(pieces) - firstText)
			}
			pieces, scores, kinds = append(pieces, piece), append(scores, score), append(kinds, kind)
		}
	}
	add("<unk>", unknown)
	add("<s>", control)
	add("</s>", control)
	for b := range 256 {
		add(fmt.Sprintf("<0x%02X>", b), byteful)
	}
	add(space, normal)
	for c := '!'; c <= '~'; c++ {
		add(string(c), normal)
	}
	add("\n", normal)
	words := strings.Split(letters, "")
	for length := 1; length <= 3; length++ {
		if length > 1 {
			for _, w := range words {
				add(w, normal)
			}
		}
		for _, w := range words {
			add(space+w, normal)
		}
		var longer []string
		for _, w := range words {
			for _, c := range letters {
				longer = append(longer, w+string(c))
			}
		}
		words = longer
	}
	return pieces, scores, kinds
}
