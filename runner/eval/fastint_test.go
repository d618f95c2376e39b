package eval

import (
	"math"
	"testing"

	"github.com/pare-dev/pare/ir/graph"
)

// Networks of most kinds of layers, as ONNX Runtime's quantizer writes them, come to what ONNX Runtime makes of them
// with integers, code by code.
func TestCodesNetworks(t *testing.T) {
	image := npy[float32](t, "int8/image.npy")
	for name, want := range map[string]int{ // steps of products that are exact integers
		"qdq_u8s8": 8, "qdq_s8s8": 8, "op_u8s8": 8, "op_s8s8": 8, "dynamic_matmul": 1, "dynamic_centred": 5,
		"qdq_u8u8": 0, "dynamic": 0, // weights with zero points are left to others
	} {
		tol := 1e-6
		if name == "dynamic_matmul" {
			tol = 1e-5 // its convolutions are of floats
		}
		t.Run(name, func(t *testing.T) {
			ways(t, realModel(t, "int8/"+name+".onnx"), func(t *testing.T, p *Program) {
				out := outputs(t, p, tensorOf(graph.Float32, image, 1, 3, 35, 30))
				for i, v := range p.Graph.Outputs {
					got, want := elems[float32](out[i]), npy[float32](t, "int8/"+name+"."+v.Name+".npy")
					for j, w := range want {
						if d := math.Abs(float64(got[j] - w)); !(d <= tol) { // codes are 0.002 apart or more
							t.Fatalf("%s: number %d is %v, want %v", v.Name, j, got[j], w)
						}
					}
				}
				if p.opt.Observe == nil {
					found := 0
					for _, s := range p.plans[0].steps {
						switch s.fast.(type) {
						case *codeConv, *codeDense, *codePair:
							found++
						}
					}
					if found != want {
						t.Errorf("%d steps are products of codes, want %d", found, want)
					}
				}
			})
		})
	}
}
