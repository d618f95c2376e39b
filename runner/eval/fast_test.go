package eval

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"fmt"
	"image/png"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/internal/cpu"
	"github.com/pare-dev/pare/ir/graph"
)

const realGraphs = "../../testdata/graphs"

// npy reads the numbers of a .npy file, version 1.
func npy[T any](t *testing.T, path string) []T {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(realGraphs, path))
	if err != nil {
		t.Fatal(err)
	}
	b = b[10+int(binary.LittleEndian.Uint16(b[8:])):]
	return elems[T](&graph.Tensor{Type: graph.Float32, Data: b})
}

func realModel(t *testing.T, path string) *graph.Graph {
	t.Helper()
	m, err := formats.Open(t.Context(), filepath.Join(realGraphs, path))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m.Graph
}

func tensorOf[T any](typ graph.DType, data []T, shape ...int) *graph.Tensor {
	t := graph.New(typ, shape...)
	copy(elems[T](t), data)
	return t
}

// closeTo compares with what ONNX Runtime computed: numbers of the size of the largest may differ by tol.
func closeTo(t *testing.T, what string, got, want []float32, tol float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d numbers, want %d", what, len(got), len(want))
	}
	size := 1e-3
	for _, v := range want {
		size = max(size, math.Abs(float64(v)))
	}
	for i, v := range want {
		if d := math.Abs(float64(got[i]) - float64(v)); !(d <= tol*size) {
			t.Fatalf("%s: number %d is %v, want %v", what, i, got[i], v)
		}
	}
}

// ways are the programs that must all come to the same numbers: as planned, and made fast on every level.
func ways(t *testing.T, g *graph.Graph, run func(t *testing.T, p *Program)) {
	options := map[string]Options{
		"as planned": {Threads: 1, Observe: func(*graph.Value, *graph.Tensor) error { return nil }},
		"2 threads":  {Threads: 2},
	}
	for _, l := range cpu.Available() {
		options[string(l)] = Options{Threads: 1, ISA: l}
	}
	for name, o := range options {
		t.Run(name, func(t *testing.T) {
			p, err := Compile(g, o)
			if err != nil {
				t.Fatal(err)
			}
			run(t, p)
		})
	}
}

func outputs(t *testing.T, p *Program, in ...*graph.Tensor) []*graph.Tensor {
	t.Helper()
	var vals []Value
	for _, x := range in {
		vals = append(vals, Of(x))
	}
	out, err := p.Run(context.Background(), vals...)
	if err != nil {
		t.Fatal(err)
	}
	list := make([]*graph.Tensor, len(out))
	for i, v := range out {
		list[i] = v.Tensor
	}
	return list
}

// Real networks come to what ONNX Runtime computed.
func TestFastDigits(t *testing.T) {
	f, err := os.Open(filepath.Join(realGraphs, "mnist/images-idx3-ubyte.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	pixels, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	want := npy[float32](t, "mnist/logits.npy")
	ways(t, realModel(t, "mnist/mnist-8.onnx"), func(t *testing.T, p *Program) {
		for i := range 20 {
			x := make([]float32, 28*28)
			for j := range x {
				x[j] = float32(pixels[16+i*len(x)+j])
			}
			out := outputs(t, p, tensorOf(graph.Float32, x, 1, 1, 28, 28))
			closeTo(t, fmt.Sprint("digit ", i), elems[float32](out[0]), want[i*10:(i+1)*10], 1e-5)
		}
	})
}

func TestFastFaces(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(realGraphs, "yunet/astronaut.png"))
	if err != nil {
		t.Fatal(err)
	}
	img, err := png.Decode(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	x := make([]float32, 3*320*320)
	for y := range 320 {
		for px := range 320 {
			r, g, b, _ := img.At(px, y).RGBA()
			for c, v := range []uint32{b, g, r} {
				x[(c*320+y)*320+px] = float32(v >> 8)
			}
		}
	}
	g := realModel(t, "yunet/yunet_n_320_320.onnx")
	ways(t, g, func(t *testing.T, p *Program) {
		out := outputs(t, p, tensorOf(graph.Float32, x, 1, 3, 320, 320))
		for i, v := range g.Outputs {
			closeTo(t, v.Name, elems[float32](out[i]), npy[float32](t, "yunet/"+v.Name+".npy"), 1e-4)
		}
	})
}

func TestFastFileTypes(t *testing.T) {
	inputs, want := npy[int32](t, "magika/inputs.npy"), npy[float32](t, "magika/scores.npy")
	ways(t, realModel(t, "magika/model.onnx"), func(t *testing.T, p *Program) {
		n := 2
		if p.worker.Kernels.Level() == cpu.Portable {
			n = 1
		}
		out := outputs(t, p, tensorOf(graph.Int32, inputs[:n*2048], n, 2048))
		// its norms take variances as differences of means, which makes much of little
		closeTo(t, "scores", elems[float32](out[0]), want[:n*214], 1e-3)
	})
}

// One step after the other, each with the state of the one before.
func TestFastNoise(t *testing.T) {
	frames, want := npy[float32](t, "dtln/magnitudes.npy"), npy[float32](t, "dtln/masks.npy")
	ways(t, realModel(t, "dtln/model_1.onnx"), func(t *testing.T, p *Program) {
		state := graph.New(graph.Float32, 1, 2, 128, 2)
		for i := range 40 {
			out := outputs(t, p, tensorOf(graph.Float32, frames[i*257:(i+1)*257], 1, 1, 257), state)
			closeTo(t, fmt.Sprint("mask ", i), elems[float32](out[0]), want[i*257:(i+1)*257], 1e-4)
			state = clone(out[1])
		}
	})
}

func TestFastSpeech(t *testing.T) {
	wav, err := os.ReadFile(filepath.Join(realGraphs, "silero/speech.wav"))
	if err != nil {
		t.Fatal(err)
	}
	wav = wav[bytes.Index(wav, []byte("data"))+8:]
	want := npy[float32](t, "silero/probabilities.npy")
	ways(t, realModel(t, "silero/silero_vad_16k_op15.onnx"), func(t *testing.T, p *Program) {
		state, rate := graph.New(graph.Float32, 2, 1, 128), tensorOf(graph.Int64, []int64{16000})
		chunk := make([]float32, 64+512) // the last 64 samples of the chunk before come first
		for i := range 60 {
			copy(chunk, chunk[512:])
			for k := range 512 {
				chunk[64+k] = float32(int16(binary.LittleEndian.Uint16(wav[2*(i*512+k):]))) / 32768
			}
			out := outputs(t, p, tensorOf(graph.Float32, chunk, 1, 576), state, rate)
			if got := elems[float32](out[0])[0]; math.Abs(float64(got-want[i])) > 1e-4 {
				t.Fatalf("chunk %d: %v, want %v", i, got, want[i])
			}
			state = clone(out[1])
		}
	})
}

// net is a network under construction, of random constants.
type net struct {
	*graph.Graph
	rng *rand.Rand
}

func newNet(shape ...int) (*net, *graph.Value) {
	x := &graph.Value{Name: "x", Type: graph.Float32, Shape: graph.Fixed(shape...)}
	return &net{&graph.Graph{Inputs: []*graph.Value{x}, Opset: map[string]int{"": 17}}, rand.New(rand.NewPCG(3, 4))}, x
}

func (n *net) constant(shape ...int) *graph.Value {
	c := graph.New(graph.Float32, shape...)
	for i, x := 0, elems[float32](c); i < len(x); i++ {
		x[i] = float32(n.rng.NormFloat64()) / 2
	}
	return &graph.Value{Name: fmt.Sprint("c", n.rng.Uint32()), Type: graph.Float32, Const: c, Shape: graph.Fixed(shape...)}
}

func (n *net) op(name string, attrs map[string]any, in ...*graph.Value) *graph.Value {
	out := &graph.Value{Name: fmt.Sprint("v", len(n.Nodes))}
	node := &graph.Node{Op: name, Name: fmt.Sprint(name, len(n.Nodes)), In: in, Out: []*graph.Value{out}, Attrs: map[string]graph.Attr{}}
	for k, v := range attrs {
		switch v := v.(type) {
		case int:
			node.Attrs[k] = graph.Attr{Kind: graph.AttrInt, Int: int64(v)}
		case []int64:
			node.Attrs[k] = graph.Attr{Kind: graph.AttrInts, Ints: v}
		case string:
			node.Attrs[k] = graph.Attr{Kind: graph.AttrString, String: v}
		}
	}
	n.Nodes = append(n.Nodes, node)
	return out
}

type attrs = map[string]any

func single(v float32) *graph.Value {
	return &graph.Value{Name: fmt.Sprint("s", v), Type: graph.Float32, Const: tensorOf(graph.Float32, []float32{v})}
}

func ints(v ...int64) *graph.Value {
	return &graph.Value{Name: fmt.Sprint("i", v), Type: graph.Int64, Const: tensorOf(graph.Int64, v, len(v))}
}

// Networks that use every rewriting come to the same numbers with and without it.
func TestFastIsTheSame(t *testing.T) {
	pads := func(n int64) []int64 { return []int64{n, n, n, n} }
	cases := map[string]func(n *net, x *graph.Value) []*graph.Value{
		"strides and pads": func(n *net, x *graph.Value) []*graph.Value {
			y := n.op("Conv", attrs{"strides": []int64{2, 1}, "pads": []int64{0, 1, 2, 3}}, x, n.constant(20, 6, 3, 5), n.constant(20))
			return []*graph.Value{n.op("Relu", nil, y)}
		},
		"dilations and groups": func(n *net, x *graph.Value) []*graph.Value {
			y := n.op("Conv", attrs{"dilations": []int64{2, 3}, "group": 3, "auto_pad": "SAME_LOWER"}, x, n.constant(9, 2, 3, 3))
			return []*graph.Value{n.op("Clip", nil, y, single(-1), single(2)), y}
		},
		"residual": func(n *net, x *graph.Value) []*graph.Value {
			a := n.op("Conv", attrs{"pads": pads(1)}, x, n.constant(6, 6, 3, 3))
			b := n.op("Relu", nil, n.op("Add", nil, x, a))
			c := n.op("Conv", nil, b, n.constant(6, 6, 1, 1))
			return []*graph.Value{n.op("Sigmoid", nil, n.op("Add", nil, n.op("Add", nil, c, n.constant(6, 1, 1)), b))}
		},
		"pair and pool": func(n *net, x *graph.Value) []*graph.Value {
			y := n.op("Tanh", nil, n.op("Conv", nil, x, n.constant(19, 6, 1, 1), n.constant(19)))
			y = n.op("Relu", nil, n.op("Conv", attrs{"pads": pads(1), "group": 19}, y, n.constant(19, 1, 3, 3), n.constant(19)))
			return []*graph.Value{n.op("MaxPool", attrs{"kernel_shape": []int64{2, 2}, "strides": []int64{2, 2}}, y)}
		},
		"pair with strides": func(n *net, x *graph.Value) []*graph.Value {
			y := n.op("Conv", nil, x, n.constant(33, 6, 1, 1), n.constant(33))
			y = n.op("Conv", attrs{"pads": pads(2), "strides": []int64{2, 2}, "group": 33}, n.op("Clip", nil, y, single(0), single(6)), n.constant(33, 1, 5, 5))
			return []*graph.Value{y}
		},
		"heads": func(n *net, x *graph.Value) []*graph.Value {
			var out []*graph.Value
			for _, c := range []int{1, 4, 7} {
				y := n.op("Conv", nil, x, n.constant(c, 6, 1, 1), n.constant(c))
				y = n.op("Conv", attrs{"pads": pads(1), "group": c}, y, n.constant(c, 1, 3, 3), n.constant(c))
				y = n.op("Transpose", attrs{"perm": []int64{0, 2, 3, 1}}, y)
				out = append(out, n.op("Sigmoid", nil, y))
			}
			return out
		},
		"pixels through": func(n *net, x *graph.Value) []*graph.Value {
			y := n.op("Conv", nil, x, n.constant(8, 6, 1, 1))
			z := n.op("Concat", attrs{"axis": 1}, n.op("LeakyRelu", nil, y), x)
			sizes := &graph.Value{Name: "scales", Type: graph.Float32, Const: tensorOf(graph.Float32, []float32{1, 1, 2, 3}, 4)}
			up := n.op("Resize", attrs{"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}, z, nil, sizes)
			mean := n.op("AveragePool", attrs{"kernel_shape": []int64{3, 2}}, n.op("Mul", nil, up, up))
			return []*graph.Value{n.op("GlobalMaxPool", nil, up), n.op("GlobalAveragePool", nil, mean), n.op("ReduceSum", nil, z), y}
		},
		"pixels without a step": func(n *net, x *graph.Value) []*graph.Value {
			y := n.op("Conv", nil, n.op("Transpose", attrs{"perm": []int64{0, 3, 1, 2}}, x), n.constant(5, 17, 1, 1))
			y = n.op("Add", nil, n.op("Mul", nil, y, n.constant(5, 1, 1)), n.constant(1, 5, 1, 1))
			y = n.op("Reshape", nil, y, ints(2, 5, 6*13))
			z := n.op("Slice", nil, y, ints(0), ints(1<<40), ints(2))
			turned := n.op("Slice", nil, y, ints(-1), ints(-1<<40), ints(2), ints(-1))
			return []*graph.Value{n.op("GlobalMaxPool", nil, z), turned, n.op("Reshape", nil, y, ints(2, 13, 30))}
		},
		"sums": func(n *net, x *graph.Value) []*graph.Value {
			return []*graph.Value{
				n.op("ReduceSum", attrs{"keepdims": 0}, x, ints(1)), n.op("ReduceSum", nil, x, ints(-1)),
				n.op("ReduceMean", attrs{"axes": []int64{2}}, x), n.op("GlobalMaxPool", nil, x),
			}
		},
		"one of n": func(n *net, x *graph.Value) []*graph.Value {
			list := make([]float32, 9)
			for i := range list {
				list[i] = float32(i)
			}
			numbers := &graph.Value{Name: "numbers", Type: graph.Float32, Const: tensorOf(graph.Float32, list, 1, 9)}
			index := n.op("Reshape", nil, n.op("Floor", nil, n.op("Mul", nil, x, single(5))), ints(2, 6*13, 17, 1))
			hot := n.op("Cast", attrs{"to": 1}, n.op("Equal", nil, index, numbers))
			return []*graph.Value{n.op("MatMul", nil, hot, n.constant(9, 6))}
		},
		"cells": func(n *net, x *graph.Value) []*graph.Value {
			y := n.op("Reshape", nil, x, ints(6, 13, 34))
			cell := func(name string, gates int, at map[string]any, state ...*graph.Value) []*graph.Value {
				at["hidden_size"] = 19
				in := append([]*graph.Value{y, n.constant(1, gates*19, 34), n.constant(1, gates*19, 19), n.constant(1, 2*gates*19), nil}, state...)
				out := []*graph.Value{n.op(name, at, in...)}
				node := n.Nodes[len(n.Nodes)-1]
				for len(node.Out) < 2+len(state)/2 {
					v := &graph.Value{Name: fmt.Sprint(out[0].Name, "-", len(node.Out))}
					node.Out, out = append(node.Out, v), append(out, v)
				}
				return out
			}
			out := cell("LSTM", 4, attrs{}, n.constant(1, 13, 19), n.constant(1, 13, 19))
			out = append(out, cell("GRU", 3, attrs{"linear_before_reset": 1}, n.constant(1, 13, 19))...)
			return append(out, cell("GRU", 3, attrs{})...)
		},
		"dense": func(n *net, x *graph.Value) []*graph.Value {
			y := n.op("MatMul", nil, x, n.constant(17, 45))
			y = n.op("Relu", nil, n.op("Add", nil, n.constant(45), y))
			flat := n.op("Flatten", nil, y)
			z := n.op("Gemm", attrs{"transB": 1}, flat, n.constant(5, 6*13*45), n.constant(5))
			return []*graph.Value{n.op("Tanh", nil, z), n.op("Sub", nil, n.op("Div", nil, y, n.constant(45)), single(2)), n.op("Sub", nil, single(2), y)}
		},
	}
	for name, build := range cases {
		t.Run(name, func(t *testing.T) {
			n, x := newNet(2, 6, 13, 17)
			n.Outputs = build(n, x)
			in := n.constant(2, 6, 13, 17).Const
			plain, err := Compile(n.Graph, Options{Threads: 1, Observe: func(*graph.Value, *graph.Tensor) error { return nil }})
			if err != nil {
				t.Fatal(err)
			}
			want := outputs(t, plain, in)
			ways(t, n.Graph, func(t *testing.T, p *Program) {
				for range 2 { // memory is used again
					for i, got := range outputs(t, p, in) {
						closeTo(t, fmt.Sprint("output ", i), elems[float32](got), elems[float32](want[i]), 2e-6)
					}
				}
			})
		})
	}
}

// The number of threads does not show in the bytes.
func TestFastThreads(t *testing.T) {
	n, x := newNet(1, 6, 96, 64)
	y := n.op("Conv", attrs{"pads": []int64{1, 1, 1, 1}}, x, n.constant(40, 6, 3, 3))
	y = n.op("Conv", nil, y, n.constant(64, 40, 1, 1))
	y = n.op("Conv", attrs{"pads": []int64{1, 1, 1, 1}, "group": 64}, y, n.constant(64, 1, 3, 3))
	n.Outputs = []*graph.Value{n.op("MatMul", nil, y, n.constant(64, 30))}
	in := n.constant(1, 6, 96, 64).Const
	var first []byte
	for threads := 1; threads < 4; threads++ {
		p, err := Compile(n.Graph, Options{Threads: threads})
		if err != nil {
			t.Fatal(err)
		}
		out := outputs(t, p, in)[0].Data
		if first == nil {
			first = bytes.Clone(out)
		}
		if !bytes.Equal(first, out) {
			t.Errorf("%d threads give other bytes", threads)
		}
	}
}
