package formats

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pare-dev/pare/formats/safetensors"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir"
)

const (
	architectures = "../testdata/architectures"
	badInputs     = "../testdata/adapters/bad-inputs"
)

func open(t testing.TB, path string) *ir.Model {
	t.Helper()
	m, err := Open(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func TestOpenHF(t *testing.T) {
	for _, a := range []string{"llama", "mistral", "qwen2", "qwen3"} {
		m := open(t, filepath.Join(architectures, a))
		if m.Format != "hf" || m.Arch != a || m.Decoder == nil {
			t.Errorf("%s: format %q, architecture %q, decoder %v, problems %v", a, m.Format, m.Arch, m.Decoder, m.Problems)
			continue
		}
		if len(m.Problems) > 0 {
			t.Errorf("%s: %v", a, m.Problems)
		}
		for _, x := range m.Tensors() {
			if x.Role == ir.RoleUnknown || len(x.Aliases) != 1 || m.Find(x.Aliases[0]) != x {
				t.Errorf("%s: %s has role %q and aliases %v", a, x.Name, x.Role, x.Aliases)
			}
		}
	}
}

func TestBrokenFolders(t *testing.T) {
	for name, want := range map[string]error{
		"missing-shard":              fs.ErrNotExist,
		"index-names-absent-tensor":  ErrIndex,
		"index-path-escape":          ErrShardName,
		"empty.safetensors":          safetensors.ErrTooShort,
		"truncated-data.safetensors": safetensors.ErrTooShort,
		"header-array.safetensors":   safetensors.ErrHeader,
		"adapter-nan":                ErrUnknown,
	} {
		path := filepath.Join(badInputs, name)
		m, err := Open(context.Background(), path)
		var fe *fault.Error
		if !errors.Is(err, want) || !errors.As(err, &fe) || !strings.HasPrefix(fe.File, path) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
		t.Log(err)
		if err == nil {
			m.Close()
		}
	}
}
