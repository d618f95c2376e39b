package formats

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/arch"
)

// Text encoders and the sentence models made of them: what their folders hold beside what those of
// language models do, and what GGUF files of encoders want otherwise.

const (
	modulesName = "modules.json"
	limitsName  = "sentence_bert_config.json"
)

// readSentence reads the side files of a sentence model. The steps lie in folders of their own.
func readSentence(m *ir.Model, dir string) error {
	step := arch.PoolingFolder(m.Assets[modulesName])
	if step == "" {
		return nil
	}
	if step != filepath.Base(step) || strings.ContainsAny(step, `/\:`) || !filepath.IsLocal(step) {
		return &fault.Error{File: filepath.Join(dir, modulesName), Err: fmt.Errorf("%w: the folder of a step is %q", ErrShardName, step)}
	}
	path := filepath.Join(dir, step, "config.json")
	b, err := readSmall(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // Sentence.Apply says so
	case err != nil:
		return &fault.Error{File: path, Err: unpath(err)}
	}
	if err := intact(path, b); err != nil {
		return err
	}
	m.Assets[step+"/config.json"] = b
	return nil
}

// readEncoder fills in the Encoder of a Hugging Face folder.
func readEncoder(m *ir.Model, a *arch.Arch, config []byte) {
	e, notes, err := a.EncoderFromHF(config)
	if err == nil {
		modules := m.Assets[modulesName]
		err = arch.Sentence{Modules: modules, Pooling: m.Assets[arch.PoolingFolder(modules)+"/config.json"], Limits: m.Assets[limitsName]}.Apply(e)
	}
	if err != nil {
		stop(m, err)
		return
	}
	m.Encoder = e
	for _, n := range notes {
		problemf(m, "", "%s", n)
	}
}

// settlePooler drops what a configuration has by default and many checkpoints go without.
func settlePooler(m *ir.Model, handles []*ir.Tensor) {
	if m.Encoder == nil || !m.Encoder.Pooler {
		return
	}
	for _, t := range handles {
		if t.Role == ir.RolePooler {
			return
		}
	}
	m.Encoder.Pooler = false
}

// settleEncoder is settle for GGUF files of encoders, whose tensors need no arrangement before.
func settleEncoder(m *ir.Model) {
	if m.Encoder != nil {
		settle(m)
	}
}

// encoderFiles makes the configuration of an encoder that did not come from a folder.
func (f *folder) encoderFiles(m *ir.Model, dtype string, quantization any) error {
	extra := map[string]any{}
	if dtype != "" {
		extra["torch_dtype"] = dtype
	}
	if quantization != nil {
		extra["quantization_config"] = quantization
	}
	if s := m.Tokenizer; s != nil {
		extra["pad_token_id"] = id(s.PAD)
	}
	config, err := arch.ByName(m.Arch).EncoderConfig(m.Encoder, extra)
	if err != nil {
		return err
	}
	f.assets["config.json"] = config
	if m.Encoder.Pooling == "" {
		return nil
	}
	files, err := arch.SentenceOf(m.Encoder)
	maps.Copy(f.assets, files)
	return err
}

// canonicalEncoder lists the tensors of an encoder under their GGUF names, in the order of the
// computation. Rows of positions that are for padding are left out, as llama.cpp's converter does.
func (f *ggufFile) canonicalEncoder(m *ir.Model, a *arch.Arch) ([]*ir.Tensor, error) {
	var out []*ir.Tensor
	for _, t := range sortedByRole(m.Tensors()) {
		name := a.GGUFName(t.Role, t.Block)
		if t.Role == ir.RoleUnknown || name == "" {
			f.notes = append(f.notes, fmt.Sprintf("%s has no place in a GGUF file of %s and is left out", t.Name, a.GGUF.Arch))
			continue
		}
		c := t.With(t.Type, t.Scheme, t.Data)
		if base := m.Encoder.PositionBase; t.Role == ir.RolePosition && base > 0 {
			c = t.From(base)
		}
		if t.Role == ir.RolePosition || t.Role == ir.RoleTokenType {
			if storage.MustLookup(c.Type).Float {
				c = widen(c) // llama.cpp adds their rows to numbers of f32
			}
		}
		c = c.With(c.Type, c.Scheme, c.Data) // widen keeps the handle that it reads from
		c.Name = name
		out = append(out, c)
	}
	return out, nil
}

// encoderOrder is where roles stand in a file.
var encoderOrder = []ir.Role{
	ir.RoleEmbedding, ir.RolePosition, ir.RoleTokenType, ir.RoleEmbedNorm, ir.RoleEmbedNormBias,
	ir.RoleAttnQ, ir.RoleAttnQBias, ir.RoleAttnK, ir.RoleAttnKBias, ir.RoleAttnV, ir.RoleAttnVBias, ir.RoleAttnO, ir.RoleAttnOBias,
	ir.RoleAttnPostNorm, ir.RoleAttnPostNormBias, ir.RoleMLPUp, ir.RoleMLPUpBias, ir.RoleMLPDown, ir.RoleMLPDownBias,
	ir.RoleMLPPostNorm, ir.RoleMLPPostNormBias,
}

func sortedByRole(tensors []*ir.Tensor) []*ir.Tensor {
	place := func(t *ir.Tensor) int {
		if i := slices.Index(encoderOrder, t.Role); i >= 0 {
			return i
		}
		return len(encoderOrder)
	}
	list := slices.Clone(tensors)
	slices.SortStableFunc(list, func(a, b *ir.Tensor) int {
		return cmp.Or(cmp.Compare(a.Block, b.Block), cmp.Compare(place(a), place(b)))
	})
	return list
}
