package eval

import (
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/formats/onnx"
	"github.com/pare-dev/pare/ir/graph"
)

// A function means what its own operator set says, though the model has another: Softmax took all axes from the
// given one on as one until version 12, Squeeze its axes from an attribute.
func TestFunctionOfAnotherVersion(t *testing.T) {
	ints := func(name string, x ...int64) *onnx.AttributeProto {
		return &onnx.AttributeProto{Name: &name, Type: onnx.AttributeProto_INTS.Enum(), Ints: x}
	}
	one := func(name string, x int64) *onnx.AttributeProto {
		return &onnx.AttributeProto{Name: &name, Type: onnx.AttributeProto_INT.Enum(), I: &x}
	}
	sixth := float32(1) / 6
	for name, c := range map[string]struct {
		inner, outer int64
		op           string
		attr         *onnx.AttributeProto
		shape        []int
		want         []float32
	}{
		"softmax of 12":   {12, 17, "Softmax", one("axis", 1), []int{1, 2, 3}, slices.Repeat([]float32{sixth}, 6)},
		"newer, the same": {17, 13, "Neg", nil, []int{1, 2, 3}, make([]float32, 6)},
		"softmax as such": {17, 17, "Softmax", one("axis", 1), []int{1, 2, 3}, slices.Repeat([]float32{0.5}, 6)},
		"squeeze of 11":   {11, 13, "Squeeze", ints("axes", 0), []int{2, 3}, make([]float32, 6)},
	} {
		n := &onnx.NodeProto{OpType: &c.op, Input: []string{"a"}, Output: []string{"b"}}
		if c.attr != nil {
			n.Attribute = []*onnx.AttributeProto{c.attr}
		}
		float := func(name string, dims ...int64) *onnx.ValueInfoProto {
			s := &onnx.TensorShapeProto{}
			for _, d := range dims {
				s.Dim = append(s.Dim, &onnx.TensorShapeProto_Dimension{Value: &onnx.TensorShapeProto_Dimension_DimValue{DimValue: d}})
			}
			return &onnx.ValueInfoProto{Name: &name, Type: &onnx.TypeProto{Value: &onnx.TypeProto_TensorType{TensorType: &onnx.TypeProto_Tensor{ElemType: proto.Int32(1), Shape: s}}}}
		}
		y := float("y")
		y.Type.GetTensorType().Shape = nil
		b, err := proto.Marshal(&onnx.ModelProto{
			IrVersion: proto.Int64(8), OpsetImport: []*onnx.OperatorSetIdProto{{Version: &c.outer}, {Domain: proto.String("own"), Version: proto.Int64(1)}},
			Functions: []*onnx.FunctionProto{{
				Name: proto.String("f"), Domain: proto.String("own"), Input: []string{"a"}, Output: []string{"b"}, Node: []*onnx.NodeProto{n},
				OpsetImport: []*onnx.OperatorSetIdProto{{Version: &c.inner}},
			}},
			Graph: &onnx.GraphProto{
				Name: proto.String("g"), Input: []*onnx.ValueInfoProto{float("x", 1, 2, 3)}, Output: []*onnx.ValueInfoProto{y},
				Node: []*onnx.NodeProto{{OpType: proto.String("f"), Domain: proto.String("own"), Input: []string{"x"}, Output: []string{"y"}}},
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "m.onnx")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		m, err := formats.Open(t.Context(), path)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		defer m.Close()
		p, err := Compile(m.Graph, Options{Threads: 1})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		out, err := p.Run(t.Context(), Of(graph.New(graph.Float32, 1, 2, 3)))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		have := out[0].Tensor
		ok := slices.Equal(have.Shape, c.shape)
		for i, v := range graph.Of[float32](have) {
			ok = ok && math.Abs(float64(v-c.want[i])) < 1e-6
		}
		if !ok || len(m.Problems) > 0 {
			t.Errorf("%s: %v %v, want %v %v; problems %v", name, have.Shape, graph.Of[float32](have), c.shape, c.want, m.Problems)
		}
	}
}
