package formats

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/pare-dev/pare/formats/onnx"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/internal/proc"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
	"github.com/pare-dev/pare/ir/rewrite"
)

// errUnfolds is the reason when a file is a small description of something that is not small.
var errUnfolds = errors.New("the file would unfold to more memory than its size warrants")

// What a file may unfold to, by sparse tensors made dense and functions put in place of their calls: so much
// whatever its size, and so many times its size.
const (
	unfoldAlways = 256 << 20
	unfoldTimes  = 16
)

func newONNXReader(ctx context.Context, m *ir.Model, f *onnx.File) *onnxReader {
	spare := unfoldAlways + unfoldTimes*f.Length()
	if n := proc.TotalMemory(); n > 0 {
		spare = min(spare, max(n/2, unfoldAlways))
	}
	return &onnxReader{
		ctx: ctx, f: f, m: m, spare: spare, tensors: map[*onnx.TensorProto]readTensor{}, told: map[string]bool{},
		dense: map[*onnx.SparseTensorProto]*graph.Tensor{}, bodies: map[*onnx.FunctionProto]bulk{},
		upgrader: rewrite.NewUpgrader(), listed: map[string]int{},
	}
}

// unfold counts bytes that the reader makes and the file does not hold.
func (r *onnxReader) unfold(bytes int64) error {
	if bytes < 0 || bytes > r.spare {
		return fault.As(fault.ErrBudget, fmt.Errorf("%w: %s more, %s are left", errUnfolds, human.Bytes(bytes), human.Bytes(r.spare)))
	}
	r.spare -= bytes
	return nil
}

// bulk is what one call of a function makes.
type bulk struct{ bytes, names int64 }

// expansion is about how many times the bytes of a message its form in memory takes: numbers of a byte become
// words, fields become structures.
const expansion = 8

// unfolds counts a call of a function, whose names all get a prefix.
func (r *onnxReader) unfolds(f *onnx.FunctionProto, prefix int) error {
	b, known := r.bodies[f]
	if !known {
		b = bulk{expansion * int64(proto.Size(f)), namesOf(f.Node)}
		r.bodies[f] = b
	}
	if err := r.unfold(b.bytes + b.names*int64(prefix)); err != nil {
		return fmt.Errorf("%w: %s: %w", errFunctions, f.GetName(), err)
	}
	return nil
}

// namesOf counts what is named in nodes and their subgraphs.
func namesOf(nodes []*onnx.NodeProto) (n int64) {
	of := func(g *onnx.GraphProto) {
		if g != nil {
			n += int64(len(g.Input)+len(g.Initializer)+len(g.SparseInitializer)) + namesOf(g.Node)
		}
	}
	for _, p := range nodes {
		n += 1 + int64(len(p.Output))
		for _, a := range p.Attribute {
			of(a.G)
			for _, g := range a.Graphs {
				of(g)
			}
		}
	}
	return n
}
