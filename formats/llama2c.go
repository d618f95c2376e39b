package formats

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/pare-dev/pare/formats/llama2c"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/mapped"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/internal/tokenizer"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/arch"
)

func init() {
	register(Format{
		Name: "llama2c",
		Doc:  "llama2.c checkpoint of version 0 (.bin), with its tokenizer beside it",
		Ext:  ".bin",
		Sniff: func(p *Probe) bool {
			if p.Dir {
				return false
			}
			h, err := llama2c.ParseHeader(p.Head)
			if err != nil {
				return false
			}
			size, ok := h.Size()
			return ok && size == p.Size
		},
		Open: openLlama2C,
	})
}

// llama2cRoles says what the tensors of a checkpoint are. They are listed under the names that a
// Hugging Face folder of the same model would use, since the format itself has none.
var llama2cRoles = map[llama2c.Kind]ir.Role{
	llama2c.Embedding: ir.RoleEmbedding, llama2c.Output: ir.RoleHead, llama2c.Norm: ir.RoleFinalNorm,
	llama2c.AttnNorm: ir.RoleAttnNorm, llama2c.WQ: ir.RoleAttnQ, llama2c.WK: ir.RoleAttnK, llama2c.WV: ir.RoleAttnV, llama2c.WO: ir.RoleAttnO,
	llama2c.FFNNorm: ir.RoleMLPNorm, llama2c.W1: ir.RoleMLPGate, llama2c.W2: ir.RoleMLPDown, llama2c.W3: ir.RoleMLPUp,
}

func openLlama2C(ctx context.Context, path string) (*ir.Model, error) {
	m := &ir.Model{Path: path, Assets: map[string][]byte{}}
	if err := readLlama2C(ctx, m, path); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

func readLlama2C(ctx context.Context, m *ir.Model, path string) error {
	f, err := mapped.Open(path)
	if err != nil {
		return err
	}
	m.Owns(f)
	head, err := llama2c.Parse(f, f.Size())
	if err != nil {
		return err
	}
	a := arch.ByName("llama")
	m.Arch = a.Name
	m.Decoder = &ir.Decoder{
		Layers: head.Layers, Hidden: head.Dim, FFN: head.Hidden, Heads: head.Heads, KVHeads: head.KVHeads, HeadDim: head.HeadDim(),
		Vocab: head.Vocab, Context: head.Context, NormEps: 1e-5, RopeTheta: 10000, TiedHead: head.Shared,
	}
	for _, e := range head.Tensors {
		if err := ctx.Err(); err != nil {
			return err
		}
		role := llama2cRoles[e.Kind]
		t := &ir.Tensor{
			Name: a.HFName(role, e.Layer), Aliases: []string{a.GGUFName(role, e.Layer)},
			Role: role, Block: e.Layer, Shape: e.Shape, Type: storage.F32,
		}
		if t.Data, err = newFileSource(f, e.Offset, t); err != nil {
			return &fault.Error{File: path, Tensor: t.Name, Op: "llama2c", Err: err}
		}
		if turned(role) { // RoPE turns neighbours here, as in GGUF files of this architecture
			if t, err = rotate(t, head.HeadDim(), true); err != nil {
				return err
			}
		}
		if err := m.Add(t); err != nil {
			return err
		}
	}
	readLlama2CTokenizer(m, filepath.Dir(path))
	return nil
}

// readLlama2CTokenizer reads the vocabulary that llama2.c's export leaves beside a checkpoint.
func readLlama2CTokenizer(m *ir.Model, dir string) {
	for _, name := range []string{fmt.Sprintf("tok%d.bin", m.Decoder.Vocab), "tokenizer.bin"} {
		b, err := readSmall(filepath.Join(dir, name))
		if err != nil {
			continue
		}
		spec, err := tokenizer.FromLlama2C(b, m.Decoder.Vocab)
		if err != nil {
			mute(m, fmt.Errorf("%s: %w", name, err))
			continue
		}
		m.Tokenizer, m.NoTokenizer = spec, nil
		return
	}
	if m.NoTokenizer == nil {
		m.NoTokenizer = fmt.Errorf("%w: no tok%d.bin or tokenizer.bin lies beside the checkpoint", ir.ErrNoTokenizer, m.Decoder.Vocab)
		problemf(m, "", "%v", m.NoTokenizer)
	}
}
