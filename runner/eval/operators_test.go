package eval

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/pare-dev/pare/ir/graph"
)

// runNode runs one node of a domain on tensors; nil ones are left out.
func runNode(t *testing.T, dom, op string, attrs map[string]graph.Attr, in ...*graph.Tensor) *graph.Tensor {
	t.Helper()
	g := &graph.Graph{Opset: map[string]int{"": 25, msDomain: 1}}
	n := &graph.Node{Op: op, Domain: dom, Attrs: attrs, Out: []*graph.Value{{Name: "y"}}}
	var given []Value
	for _, x := range in {
		if x == nil {
			n.In = append(n.In, nil)
			continue
		}
		v := input(string(rune('a'+len(n.In))), x.Type, x.Shape...)
		g.Inputs, n.In, given = append(g.Inputs, v), append(n.In, v), append(given, Of(x))
	}
	g.Nodes, g.Outputs = []*graph.Node{n}, n.Out
	p, err := Compile(g, Options{Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.Run(context.Background(), given...)
	if err != nil {
		t.Fatal(err)
	}
	return out[0].Tensor
}

// The keys that a window lets a query see are those of the figure in the specification of Attention: a window of 2
// to the left and 1 to the right, 4 queries, 6 keys.
func TestAttentionWindow(t *testing.T) {
	seen := [][]int{{1, 1, 0, 0, 0, 0}, {1, 1, 1, 0, 0, 0}, {1, 1, 1, 1, 0, 0}, {0, 1, 1, 1, 1, 0}}
	q, k := graph.New(graph.Float32, 1, 1, 4, 1), graph.New(graph.Float32, 1, 1, 6, 1)
	v := graph.New(graph.Float32, 1, 1, 6, 6) // values tell keys apart
	for i := range 6 {
		graph.Of[float32](v)[i*7] = 1
	}
	y := graph.Of[float32](runNode(t, "", "Attention", map[string]graph.Attr{"left_window_size": intAttr(2), "right_window_size": intAttr(1)}, q, k, v))
	for i, row := range seen {
		n := 0
		for _, s := range row {
			n += s
		}
		for j, s := range row {
			if want := float64(s) / float64(n); math.Abs(float64(y[i*6+j])-want) > 1e-6 {
				t.Errorf("query %d gives key %d the weight %v, want %v", i, j, y[i*6+j], want)
			}
		}
	}
}

// Products of bytes are exact at any depth: those of integers.
func TestMatMulIntegerExact(t *testing.T) {
	const m, k, n = 3, 1000, 5
	random := rand.New(rand.NewPCG(1, 2))
	a, b := graph.New(graph.Uint8, m, k), graph.New(graph.Int8, k, n)
	za, zb := graph.New(graph.Uint8), graph.New(graph.Int8, n)
	za.Data[0] = 7
	for _, x := range []*graph.Tensor{a, b, zb} {
		for i := range x.Data {
			x.Data[i] = byte(random.IntN(256))
		}
	}
	for i := range k { // the largest products, all of one sign
		a.Data[i], b.Data[i*n] = 255, 127
	}
	zb.Data[0] = 128
	got := graph.Of[int32](runNode(t, "", "MatMulInteger", nil, a, b, za, zb))
	for i := range m {
		for j := range n {
			sum := 0
			for p := range k {
				sum += (int(a.Data[i*k+p]) - 7) * (int(int8(b.Data[p*n+j])) - int(int8(zb.Data[j])))
			}
			if int(got[i*n+j]) != sum {
				t.Errorf("product %d,%d is %d, want %d", i, j, got[i*n+j], sum)
			}
		}
	}
}

// Operators on bytes are those on the numbers that the bytes mean, encoded again as QuantizeLinear does.
func TestQLinear(t *testing.T) {
	one := func(v float32) *graph.Tensor { return graph.From(graph.Float32, []float32{v}, 1) }
	zero := func(v byte) *graph.Tensor { return &graph.Tensor{Type: graph.Uint8, Shape: []int{}, Data: []byte{v}} }
	bytes := func(v ...byte) *graph.Tensor {
		return &graph.Tensor{Type: graph.Uint8, Shape: []int{1, 2, len(v) / 2}, Data: v}
	}
	x, s, z := bytes(0, 100, 128, 255), one(0.5), zero(128) // -64, -14, 0, 63.5
	row := &graph.Tensor{Type: graph.Uint8, Shape: []int{2}, Data: []byte{10, 30}}
	for _, c := range []struct {
		op    string
		attrs map[string]graph.Attr
		in    []*graph.Tensor
		want  []byte
	}{
		// -64+1, -14+3, 0+1, 63.5+3 over 1, to even: -63, -11, 1, 66
		{"QLinearAdd", nil, []*graph.Tensor{x, s, z, row, one(0.1), nil, one(1), zero(100)}, []byte{37, 89, 101, 166}},
		// -64, -42, 0, 190.5 over 1
		{"QLinearMul", nil, []*graph.Tensor{x, s, z, row, one(0.1), nil, one(1), zero(64)}, []byte{0, 22, 64, 254}},
		// 1/(1+e^-x): 0, 8.3e-7, 0.5, 1 over 1/256
		{"QLinearSigmoid", nil, []*graph.Tensor{x, s, z, one(1.0 / 256), zero(0)}, []byte{0, 0, 128, 255}},
		// -16, -3.5, 0, 63.5 over 0.5
		{"QLinearLeakyRelu", map[string]graph.Attr{"alpha": {Kind: graph.AttrFloat, Float: 0.25}}, []*graph.Tensor{x, s, z, s, z}, []byte{96, 121, 128, 255}},
		// means -39 and 31.75 over 0.25
		{"QLinearGlobalAveragePool", nil, []*graph.Tensor{x, s, z, one(0.25), zero(128)}, []byte{0, 255}},
		{"QLinearGlobalAveragePool", nil, []*graph.Tensor{x, s, z, one(1), zero(128)}, []byte{89, 160}},
		// as they are, then 1 and 3 over 0.5
		{"QLinearConcat", map[string]graph.Attr{"axis": intAttr(0)}, []*graph.Tensor{s, z, row, one(0.1), zero(0), row, s, zero(28)}, []byte{130, 134, 110, 130}},
	} {
		got := runNode(t, msDomain, c.op, c.attrs, c.in...)
		if !slices.Equal(got.Data, c.want) {
			t.Errorf("%s gives %v, want %v", c.op, got.Data, c.want)
		}
	}
}

// Random numbers are the same for the same seed, others for another one, and are where they should be.
func TestRandomNumbers(t *testing.T) {
	draw := func(op string, seed float32) []float32 {
		return graph.Of[float32](runNode(t, "", op, map[string]graph.Attr{
			"shape": {Kind: graph.AttrInts, Ints: []int64{100, 100}}, "seed": {Kind: graph.AttrFloat, Float: seed},
		}))
	}
	for op, moments := range map[string][2]float64{"RandomUniform": {0.5, 1.0 / 12}, "RandomNormal": {0, 1}} {
		x := draw(op, 1)
		if !slices.Equal(x, draw(op, 1)) || slices.Equal(x, draw(op, 2)) {
			t.Errorf("%s does not follow its seed", op)
		}
		mean, squares := 0.0, 0.0
		for _, v := range x {
			mean += float64(v) / float64(len(x))
			squares += float64(v) * float64(v) / float64(len(x))
		}
		// six standard errors of 10,000 numbers
		if variance := squares - mean*mean; math.Abs(mean-moments[0]) > 0.06*math.Sqrt(moments[1]) || math.Abs(variance/moments[1]-1) > 0.09 {
			t.Errorf("%s has mean %v and variance %v, want %v", op, mean, variance, moments)
		}
	}
}

// The form of ONNX Runtime takes tables before it picks rows by position; the one of ONNX, which the suite covers,
// takes the rows.
func TestRotaryPositions(t *testing.T) {
	const batch, seq, heads, size, rows = 2, 3, 2, 4, 8
	random := rand.New(rand.NewPCG(5, 6))
	fill := func(shape ...int) *graph.Tensor {
		x := graph.New(graph.Float32, shape...)
		for i := range graph.Of[float32](x) {
			graph.Of[float32](x)[i] = random.Float32()
		}
		return x
	}
	x, cos, sin := fill(batch, seq, heads*size), fill(rows, size/2), fill(rows, size/2)
	first := graph.From(graph.Int64, []int64{4}, 1)
	all := graph.From(graph.Int64, []int64{4, 5, 6, 4, 5, 6}, batch, seq)
	n := map[string]graph.Attr{"num_heads": intAttr(heads)}
	want := runNode(t, "", "RotaryEmbedding", n, x, cos, sin, all)
	for _, positions := range []*graph.Tensor{first, all} {
		if got := runNode(t, msDomain, "RotaryEmbedding", nil, x, positions, cos, sin); !slices.Equal(got.Data, want.Data) {
			t.Errorf("positions %v give other numbers", positions.Shape)
		}
	}
}

// A region of 3 by 4 pixels in bins of 2 by 2: bins share the row in the middle, as floor and ceiling of 1.5 say.
func TestMaxRoiPool(t *testing.T) {
	x := graph.New(graph.Float32, 1, 1, 4, 5)
	for i := range graph.Of[float32](x) {
		graph.Of[float32](x)[i] = float32(i)
	}
	region := graph.From(graph.Float32, []float32{0, 2, 2, 8, 6}, 1, 5) // of half the size: x 1 to 4, y 1 to 3
	y := runNode(t, "", "MaxRoiPool", map[string]graph.Attr{
		"pooled_shape": {Kind: graph.AttrInts, Ints: []int64{2, 2}}, "spatial_scale": {Kind: graph.AttrFloat, Float: 0.5},
	}, x, region)
	if got, want := graph.Of[float32](y), []float32{12, 14, 17, 19}; !slices.Equal(got, want) {
		t.Errorf("maxima %v, want %v", got, want)
	}
}

// Weights of few bits, as the documentation of MatMulNBits packs them: the first code in the low bits, a zero point
// for each block packed alike, 2^(bits-1) without; a row of 20 numbers takes two blocks of 16.
func TestMatMulNBits(t *testing.T) {
	const n, k, block, blocks = 3, 20, 16, 2
	random := rand.New(rand.NewPCG(7, 8))
	for _, bits := range []int{2, 4, 8} {
		for _, zeros := range []bool{false, true} {
			x, scale := graph.New(graph.Float32, 2, k), graph.New(graph.Float32, n*blocks)
			for _, s := range [][]float32{graph.Of[float32](x), graph.Of[float32](scale)} {
				for i := range s {
					s[i] = random.Float32() - 0.5
				}
			}
			w := graph.New(graph.Uint8, n, blocks, block*bits/8)
			per := (blocks*bits + 7) / 8
			z := graph.New(graph.Uint8, n*per)
			var zero *graph.Tensor
			if zeros {
				zero = z
			}
			want := make([]float64, 2*n)
			for j := range n {
				for b := range blocks {
					middle := 1 << (bits - 1)
					if zeros {
						middle = random.IntN(1 << bits)
						z.Data[j*per+b*bits/8] |= byte(middle << (b * bits % 8))
					}
					for i := b * block; i < (b+1)*block; i++ {
						code := random.IntN(1 << bits)
						w.Data[j*blocks*block*bits/8+i*bits/8] |= byte(code << (i * bits % 8))
						for r := 0; r < 2 && i < k; r++ {
							want[r*n+j] += float64(graph.Of[float32](x)[r*k+i]) * float64(code-middle) * float64(graph.Of[float32](scale)[j*blocks+b])
						}
					}
				}
			}
			y := runNode(t, msDomain, "MatMulNBits", map[string]graph.Attr{
				"N": intAttr(n), "K": intAttr(k), "bits": intAttr(int64(bits)), "block_size": intAttr(block),
			}, x, w, scale, zero)
			for i, v := range graph.Of[float32](y) {
				if math.Abs(float64(v)-want[i]) > 1e-5*(1+math.Abs(want[i])) {
					t.Errorf("%d bits, zero points %v: %v at %d, want %v", bits, zeros, v, i, want[i])
				}
			}
		}
	}
}

// The functions of ONNX Runtime's documentation: x times the normal distribution, and what comes near it.
func TestGelus(t *testing.T) {
	x := graph.From(graph.Float32, []float32{-1, 0, 1, 2}, 2, 2)
	bias := graph.From(graph.Float32, []float32{1, -1}, 2)
	for _, c := range []struct {
		op   string
		in   []*graph.Tensor
		want []float64
	}{
		// PyTorch's gelu and gelu(approximate="tanh") of -1, 0, 1, 2
		{"Gelu", []*graph.Tensor{x}, []float64{-0.158655, 0, 0.841345, 1.954500}},
		{"FastGelu", []*graph.Tensor{x}, []float64{-0.158808, 0, 0.841192, 1.954598}},
		{"BiasGelu", []*graph.Tensor{x, bias}, []float64{0, -0.158655, 1.954500, 0.841345}},
		{"FastGelu", []*graph.Tensor{x, bias}, []float64{0, -0.158808, 1.954598, 0.841192}},
		{"QuickGelu", []*graph.Tensor{x}, []float64{-0.154204, 0, 0.845796, 1.935659}}, // x/(1+e^(-1.702x))
	} {
		for i, v := range graph.Of[float32](runNode(t, msDomain, c.op, nil, c.in...)) {
			if math.Abs(float64(v)-c.want[i]) > 2e-6 {
				t.Errorf("%s: %v at %d, want %v", c.op, v, i, c.want[i])
			}
		}
	}
}

// What is normalized with what goes around it is what LayerNormalization and RMSNormalization, which the suite
// covers, make of the sum.
func TestSkipNormalization(t *testing.T) {
	random := rand.New(rand.NewPCG(9, 10))
	fill := func(shape ...int) *graph.Tensor {
		x := graph.New(graph.Float32, shape...)
		for i := range graph.Of[float32](x) {
			graph.Of[float32](x)[i] = random.Float32() - 0.3
		}
		return x
	}
	x, gamma, beta, bias := fill(2, 3, 8), fill(8), fill(8), fill(8)
	eps := map[string]graph.Attr{"epsilon": {Kind: graph.AttrFloat, Float: 1e-5}}
	for _, skip := range []*graph.Tensor{fill(2, 3, 8), fill(1, 3, 8), fill(3, 8)} {
		sum := runNode(t, "", "Add", nil, runNode(t, "", "Add", nil, x, skip), bias)
		for _, c := range []struct{ got, want *graph.Tensor }{
			{runNode(t, msDomain, "SkipLayerNormalization", eps, x, skip, gamma, beta, bias), runNode(t, "", "LayerNormalization", eps, sum, gamma, beta)},
			{runNode(t, msDomain, "SkipSimplifiedLayerNormalization", eps, x, skip, gamma, bias), runNode(t, "", "RMSNormalization", eps, sum, gamma)},
		} {
			if err := sameTensor(c.got, c.want, 1e-6); err != nil {
				t.Errorf("skip %v: %v", skip.Shape, err)
			}
		}
	}
}

// Products of bfloat16 are summed without rounding to it: 256 + 1 - 256, for which bfloat16 has no 257, is 1. What
// comes out is rounded once, half to even: 257 is 256, 259 is 260.
func TestMatMulBF16(t *testing.T) {
	bf16 := func(shape []int, v ...float32) *graph.Tensor {
		x := graph.New(graph.BFloat16, shape...)
		for i, f := range v {
			graph.Of[uint16](x)[i] = uint16(math.Float32bits(f) >> 16)
		}
		return x
	}
	a := bf16([]int{2, 1, 3}, 256, 1, -256, 256, 1, 3)
	b := bf16([]int{3, 2}, 1, 1, 1, 1, 1, 0)
	y := runNode(t, "", "MatMul", nil, a, b)
	if want := bf16([]int{2, 1, 2}, 1, 256, 260, 256); !slices.Equal(graph.Of[uint16](y), graph.Of[uint16](want)) || !slices.Equal(y.Shape, want.Shape) || y.Type != graph.BFloat16 {
		t.Errorf("a matrix on the right: %s %v, %x", y.Type, y.Shape, graph.Of[uint16](y))
	}
	y = runNode(t, "", "MatMul", nil, a, bf16([]int{2, 3, 1}, 1, 2, 1, 0, 1, 1))
	if want := bf16([]int{2, 1, 1}, 2, 4); !slices.Equal(graph.Of[uint16](y), graph.Of[uint16](want)) {
		t.Errorf("a matrix for each: %x", graph.Of[uint16](y))
	}
}
