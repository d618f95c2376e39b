package eval

import (
	"math"
	"testing"

	"github.com/pare-dev/pare/internal/cpu"
	"github.com/pare-dev/pare/ir/graph"
)

// Networks of most kinds of layers, as ONNX Runtime's quantizer writes them, come to what ONNX Runtime makes of them
// with integers, code by code.
func TestCodesNetworks(t *testing.T) {
	image := npy[float32](t, "int8/image.npy")
	for name, floats := range map[string]int{ // how many convolutions and products compute with floats
		"qdq_u8s8": 0, "qdq_s8s8": 0, "qdq_u8u8": 7, "op_u8s8": 0, "op_s8s8": 0, "dynamic": 0,
	} {
		t.Run(name, func(t *testing.T) {
			ways(t, realModel(t, "int8/"+name+".onnx"), func(t *testing.T, p *Program) {
				out := outputs(t, p, tensorOf(graph.Float32, image, 1, 3, 35, 30))
				for i, v := range p.Graph.Outputs {
					got, want := elems[float32](out[i]), npy[float32](t, "int8/"+name+"."+v.Name+".npy")
					for j, w := range want {
						if d := math.Abs(float64(got[j] - w)); !(d <= 1e-6) { // codes are 0.002 apart or more
							t.Fatalf("%s: number %d is %v, want %v", v.Name, j, got[j], w)
						}
					}
				}
				if p.opt.Observe == nil && p.worker.Kernels.Level() != cpu.Portable {
					found := 0
					for _, s := range p.plans[0].steps {
						switch s.node.Op {
						case "Conv", "MatMul", "Gemm":
							if _, ok := s.fast.(*codeConv); !ok && s.Out[0].Type == graph.Float32 {
								found++
							}
						}
					}
					if found != floats {
						t.Errorf("%s: %d convolutions and products compute with floats, want %d", p.worker.Kernels.Level(), found, floats)
					}
				}
			})
		})
	}
}
