package eval

import (
	"context"
	"errors"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/ir/graph"
)

var seed = flag.Uint64("seed", 1, "which mistakes are made in graphs")

// A graph whose inputs, constants and attributes are not what its operators need is refused by the operator, in
// words; it never makes one fail.
func TestWrongShapes(t *testing.T) {
	dir := t.TempDir()
	random := rand.New(rand.NewPCG(*seed, 2))
	refused, ran := 0, 0
	contrib := contribCases(t)
	for i, c := range append(contrib, backendCases(t)...) {
		if c.kind == "light" {
			continue
		}
		tries := 3
		if i < len(contrib) {
			tries = 40
		}
		name := filepath.Join(dir, "model.onnx")
		if err := os.WriteFile(name, c.files["model.onnx"], 0o600); err != nil {
			t.Fatal(err)
		}
		for range tries {
			try := random.IntN(8)
			m, err := formats.Open(context.Background(), name)
			if err != nil {
				t.Fatal(err)
			}
			err = runWrong(c, m.Graph, random, try)
			switch {
			case errors.Is(err, errBug):
				t.Errorf("%s/%s, try %d: %v", c.kind, c.name, try, err)
			case err != nil:
				refused++
			default:
				ran++
			}
			m.Close()
		}
	}
	if refused < 500 || ran < 100 {
		t.Errorf("%d graphs were refused and %d ran: the changes do not test much", refused, ran)
	}
}

// runWrong changes shapes of inputs, or attributes, and runs the graph.
func runWrong(c *backendCase, g *graph.Graph, random *rand.Rand, try int) error {
	for _, v := range g.Inputs { // what the graph declares would hide what its operators check
		v.Shape = nil
		if try == 7 {
			v.Type = graph.Undefined
		}
	}
	switch try {
	case 4, 5:
		wrongAttributes(g, random)
	case 6:
		for _, n := range g.Nodes {
			if len(n.In) > 0 {
				n.In[random.IntN(len(n.In))] = nil
			}
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	p, err := Compile(g, Options{Threads: 1, Memory: 64 << 20})
	if err != nil {
		return err
	}
	var in []Value
	for i, v := range p.Inputs() {
		b, ok := c.files["test_data_set_0/input_"+string(rune('0'+i))+".pb"]
		if !ok {
			break
		}
		x, err := readValue(b, v.Kind)
		if err != nil {
			return err
		}
		if x.Tensor != nil && (try < 4 && random.IntN(2) == 0) {
			x.Tensor = wrongShape(x.Tensor, random)
		}
		if x.Tensor != nil && try == 7 && x.Tensor.Type != graph.String {
			types := []graph.DType{graph.Float32, graph.Int8, graph.Uint64, graph.Bool, graph.Float16, graph.Int4}
			w := graph.New(types[random.IntN(len(types))], x.Tensor.Shape...)
			x.Tensor = w
		}
		in = append(in, x)
	}
	_, err = p.Run(ctx, in...)
	return err
}

// wrongShape is a tensor of the same type whose shape has a dimension more or less, or another size. Its elements
// are small numbers, some of them negative.
func wrongShape(t *graph.Tensor, random *rand.Rand) *graph.Tensor {
	shape := append([]int(nil), t.Shape...)
	switch k := random.IntN(4); {
	case k == 0 && len(shape) > 0:
		shape = shape[1:]
	case k == 1:
		shape = append(shape, 1+random.IntN(3))
	case k == 2 && len(shape) > 0:
		shape[random.IntN(len(shape))] = random.IntN(4)
	case len(shape) > 0:
		shape[len(shape)-1]++
	}
	w := graph.New(t.Type, shape...)
	for i := range w.Strings {
		w.Strings[i] = "a"
	}
	if t.Type != graph.String && t.Type.Bits() >= 8 && t.Type != graph.Complex64 && t.Type != graph.Complex128 {
		small := graph.New(graph.Int64, w.Elems())
		for i := range graph.Of[int64](small) {
			graph.Of[int64](small)[i] = int64(random.IntN(7) - 2)
		}
		recode(w, small)
	}
	return w
}

// wrongAttributes changes one number in an attribute of each node.
func wrongAttributes(g *graph.Graph, random *rand.Rand) {
	numbers := []int64{-1000, -2, -1, 0, 1, 2, 7, 1 << 40, -1 << 63}
	for _, n := range g.Nodes {
		for name, a := range n.Attrs {
			switch a.Kind {
			case graph.AttrInt:
				a.Int = numbers[random.IntN(len(numbers))]
			case graph.AttrInts:
				a.Ints = append([]int64(nil), a.Ints...)
				if len(a.Ints) > 0 && random.IntN(3) > 0 {
					a.Ints[random.IntN(len(a.Ints))] = numbers[random.IntN(len(numbers))]
				} else if len(a.Ints) > 0 {
					a.Ints = a.Ints[1:]
				}
			case graph.AttrString:
				a.String += "x"
			}
			n.Attrs[name] = a
		}
	}
}
