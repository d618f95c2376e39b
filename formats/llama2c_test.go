package formats

import (
	"context"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/pare-dev/pare/ir"
)

const stories = "../testdata/stories260k/stories260K.bin"

// TestLlama2C: the checkpoint survives the way through GGUF and through a folder.
func TestLlama2C(t *testing.T) {
	m := open(t, stories)
	if m.Format != "llama2c" || m.Decoder == nil || len(m.Problems) > 0 || m.Tokenizer == nil || len(m.Tokenizer.Tokens) != 512 {
		t.Fatalf("format %s, decoder %+v, problems %v", m.Format, m.Decoder, m.Problems)
	}
	if err := m.Check(); err != nil {
		t.Fatal(err)
	}
	if m.Parameters() != 264128-2*512*4 {
		t.Errorf("%d parameters", m.Parameters())
	}
	for _, to := range []string{"gguf", "hf"} {
		out := filepath.Join(t.TempDir(), "out")
		if err := Write(context.Background(), to, m, out, WriteOptions{}); err != nil {
			t.Errorf("%s: %v", to, err)
			continue
		}
		back := open(t, out)
		if !reflect.DeepEqual(back.Decoder, m.Decoder) || len(back.Tensors()) != len(m.Tensors()) {
			t.Errorf("%s: %+v (%v), want %+v", to, back.Decoder, back.Problems, m.Decoder)
		}
		for _, x := range m.Tensors() {
			if y := back.Find(x.Name); y == nil || !slices.Equal(values(t, x), values(t, y)) {
				t.Errorf("%s: %s differs", to, x.Name)
			}
		}
		if back.Tokenizer == nil || !slices.Equal(back.Tokenizer.Tokens, m.Tokenizer.Tokens) {
			t.Errorf("%s: the tokenizer did not survive: %v", to, back.Problems)
		}
	}
}

// TestRopeOrder: neighbours of a head in the checkpoint are its halves in the IR.
func TestRopeOrder(t *testing.T) {
	x := open(t, stories).Role(ir.RoleAttnQ, 0)
	raw, ok := x.Data.(*rotated)
	if !ok {
		t.Fatalf("%T", x.Data)
	}
	lies, shown := values(t, raw.t), values(t, x)
	for i, from := range []int{0, 2, 4, 6, 1, 3, 5, 7, 8, 10} { // heads of 8
		if !slices.Equal(shown[i*64:(i+1)*64], lies[from*64:(from+1)*64]) {
			t.Errorf("row %d is not row %d of the file", i, from)
		}
	}
}
