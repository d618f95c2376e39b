package formats

import (
	"bytes"
	"context"
	"os"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/pare-dev/pare/formats/onnx"
	"github.com/pare-dev/pare/ir"
)

// FuzzReadONNX makes graphs of whatever a file holds. What is read holds together, reads every weight, and is
// written and read again, as it was and put together anew; only names and sizes may speak against that.
func FuzzReadONNX(f *testing.F) {
	seed, err := proto.Marshal(small())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	b, err := os.ReadFile(onnxFiles + "functions.onnx")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := onnx.Parse(b)
		if err != nil {
			return
		}
		m := &ir.Model{Meta: map[string]any{}}
		if readONNX(context.Background(), m, file) != nil {
			return
		}
		if err := m.Graph.Check(); err != nil {
			t.Fatal(err)
		}
		for _, x := range m.Tensors() {
			if x.Elems() > 1<<20 {
				continue
			}
			if _, err := ir.ReadAll(context.Background(), x); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			w, err := layONNX(m, WriteOptions{}, "")
			if err != nil {
				t.Fatal(err)
			}
			if w.layout.Size > 16<<20 { // a sparse tensor made dense
				return
			}
			var out bytes.Buffer
			if err := w.layout.WriteModel(context.Background(), &out); err != nil {
				t.Fatal(err)
			}
			if _, err := onnx.Parse(out.Bytes()); err != nil {
				t.Fatal(err)
			}
			m.Graph.Extra.(*onnxExtra).digest++
		}
	})
}
