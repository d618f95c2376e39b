package formats

import (
	"context"
	"encoding/binary"
	"errors"
	"path/filepath"

	"github.com/pare-dev/pare/formats/safetensors"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/mapped"
	"github.com/pare-dev/pare/ir"
)

func init() {
	register(Format{
		Name: "safetensors",
		Doc:  "one safetensors file without a configuration: tensors by name",
		Ext:  ".safetensors",
		Sniff: func(p *Probe) bool {
			if p.Dir || len(p.Head) < 8 {
				return !p.Dir && filepath.Ext(p.Path) == ".safetensors" // its error says what is wrong
			}
			n := binary.LittleEndian.Uint64(p.Head)
			return n <= safetensors.MaxHeader && len(p.Head) > 8 && p.Head[8] == '{' || filepath.Ext(p.Path) == ".safetensors"
		},
		Open:  openSafetensors,
		Plan:  planSafetensors,
		Write: writeSafetensors,
	})
}

func openSafetensors(ctx context.Context, path string) (*ir.Model, error) {
	m := &ir.Model{Path: path}
	raw, err := openShard(m, path)
	if err != nil {
		return nil, err
	}
	for i := range raw.tensors {
		if err := ctx.Err(); err != nil {
			return nil, errors.Join(err, m.Close())
		}
		t, err := raw.tensor(i)
		if err == nil {
			err = m.Add(t)
		}
		if err != nil {
			return nil, errors.Join(err, m.Close())
		}
	}
	m.Meta = map[string]any{}
	for k, v := range raw.metadata {
		m.Meta[k] = v
	}
	return m, nil
}

// shard is an open safetensors file.
type shard struct {
	path     string
	f        *mapped.File
	tensors  []safetensors.Tensor
	metadata map[string]string
}

// openShard opens a file and gives it to the model to close.
func openShard(m *ir.Model, path string) (*shard, error) {
	f, err := mapped.Open(path)
	if err != nil {
		return nil, &fault.Error{File: path, Err: unpath(err)}
	}
	head, err := safetensors.Parse(f, f.Size())
	if err != nil {
		return nil, &fault.Error{File: path, Op: "safetensors", Err: errors.Join(err, f.Close()), Hint: shardHint(err)}
	}
	m.Owns(f)
	return &shard{path: path, f: f, tensors: head.Tensors, metadata: head.Metadata}, nil
}

func shardHint(err error) string {
	if errors.Is(err, safetensors.ErrTooShort) {
		return "the file is cut short: copy it again"
	}
	return ""
}

// tensor makes the handle of entry i, without a role.
func (s *shard) tensor(i int) (*ir.Tensor, error) {
	e := s.tensors[i]
	typ, err := safetensors.Type(e.DType)
	if err != nil {
		return nil, &fault.Error{File: s.path, Tensor: e.Name, Op: "safetensors", Err: err}
	}
	t := &ir.Tensor{Name: e.Name, Block: -1, Shape: e.Shape, Type: typ}
	if t.Data, err = newFileSource(s.f, e.Offset, t); err != nil {
		return nil, &fault.Error{File: s.path, Tensor: e.Name, Op: "safetensors", Err: err}
	}
	return t, nil
}
