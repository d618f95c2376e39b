package formats

import (
	"context"
	"github.com/pare-dev/pare/ir"
)

type packed struct{}

func (*packed) join(m *ir.Model, h []*ir.Tensor) ([]*ir.Tensor, error)        { return h, nil }
func readPacked(m *ir.Model, config []byte) (*packed, error)                  { return nil, nil }
func planHF(m *ir.Model, o WriteOptions) ([]string, error)                    { return nil, nil }
func writeHF(context.Context, *ir.Model, string, WriteOptions) error          { return nil }
func planSafetensors(m *ir.Model, o WriteOptions) ([]string, error)           { return nil, nil }
func writeSafetensors(context.Context, *ir.Model, string, WriteOptions) error { return nil }
