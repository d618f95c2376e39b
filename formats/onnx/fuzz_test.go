package onnx

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/proto"
)

// FuzzParse reads whatever lies in a file: refusing is fine; crashing, hanging or data outside the file are not.
func FuzzParse(f *testing.F) {
	f.Add(nested(3))
	f.Add(marshal(f, model(tensor("w", TensorProto_FLOAT, pattern(400), 100), &TensorProto{
		DataType: proto.Int32(int32(TensorProto_INT64)), Dims: []int64{300}, Int64Data: make([]int64, 300),
	})))
	files, err := filepath.Glob("../testdata/onnx/*.onnx")
	if err != nil || len(files) == 0 {
		f.Fatal("no seeds", err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		if len(b) < 4096 {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := Parse(b)
		if err != nil {
			return
		}
		Tensors(file.Model, func(p *TensorProto) {
			d, err := file.Data(p)
			if err != nil {
				return
			}
			n := 1
			for _, dim := range d.Shape {
				n *= dim
			}
			if width := bits(d.Type); (n*width+7)/8 != len(d.Bytes) || width == 0 && len(d.Strings) != n || len(d.Bytes) > 8*len(b) {
				t.Fatalf("%v of %s: %d bytes, %d strings", d.Shape, d.Type, len(d.Bytes), len(d.Strings))
			}
		})
		var builder Builder
		slim := proto.Clone(file.Model).(*ModelProto)
		Tensors(slim, Detach)
		l, err := builder.Lay(slim, "")
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := l.WriteModel(t.Context(), &out); err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(out.Bytes()); err != nil {
			t.Fatalf("what was written does not read: %v", err)
		}
	})
}
