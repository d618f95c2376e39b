package main

import (
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/internal/human"
)

// productFile writes a network of one matrix product, Y = X W, whose weights lie in a sparse file beside it: zeros but
// for the first row, where output n has n%13 - 6.
func productFile(t *testing.T, dir string, in, outs int) string {
	t.Helper()
	field := func(n protowire.Number, parts ...[]byte) []byte {
		var b []byte
		for _, p := range parts {
			b = append(b, p...)
		}
		return protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), b)
	}
	text := func(n protowire.Number, s string) []byte { return field(n, []byte(s)) }
	number := func(n protowire.Number, v int) []byte {
		return protowire.AppendVarint(protowire.AppendTag(nil, n, protowire.VarintType), uint64(v)) //nolint:gosec // small
	}
	value := func(n protowire.Number, name string, width int) []byte {
		dims := append(field(1, number(1, 1)), field(1, number(1, width))...)
		return field(n, text(1, name), field(2, field(1, number(1, 1), field(2, dims))))
	}
	weights := field(5, number(1, in), number(1, outs), number(2, 1), text(8, "W"), field(13, text(1, "location"), text(2, "big.data")), number(14, 1))
	node := field(1, text(1, "X"), text(1, "W"), text(2, "Y"), text(3, "product"), text(4, "MatMul"))
	model := append(number(1, 8), field(7, node, text(2, "g"), weights, value(11, "X", in), value(12, "Y", outs))...)
	model = append(model, field(8, text(1, ""), number(2, 17))...)
	file := filepath.Join(dir, "big.onnx")
	if err := os.WriteFile(file, model, 0o600); err != nil {
		t.Fatal(err)
	}
	data, err := os.Create(filepath.Join(dir, "big.data"))
	if err != nil {
		t.Fatal(err)
	}
	defer data.Close()
	row := make([]byte, 4*outs)
	for n := range outs {
		binary.LittleEndian.PutUint32(row[4*n:], math.Float32bits(float32(n%13-6)))
	}
	if _, err := data.Write(row); err != nil {
		t.Fatal(err)
	}
	if err := data.Truncate(4 * int64(in) * int64(outs)); err != nil {
		t.Fatal(err)
	}
	return file
}

// Weights far larger than --max-memory become 4 bits: they are read in bands. With PARE_TEST_LARGE set it is one
// initializer of 3 GiB in 512 MiB.
func TestLargeGraph(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the peak of another process is read from /proc")
	}
	in, outs, limit := 4096, 12288, int64(112<<20)
	if os.Getenv("PARE_TEST_LARGE") != "" {
		in, outs, limit = 16384, 49152, 512<<20
	} else if testing.Short() {
		t.Skip("quantizes 192 MiB")
	}
	dir := t.TempDir()
	productFile(t, dir, in, outs)
	d, peak := measured(t, dir, "quantize", "big.onnx", "--type", "int4-32", "-o", "small.onnx", "-q", "-j", "2", "--max-memory", human.Bytes(limit))
	t.Logf("%s in %s of %s", human.Bytes(4*int64(in)*int64(outs)), human.Bytes(peak), human.Bytes(limit))
	if d.code != 0 || peak == 0 || peak > limit {
		t.Fatalf("exit code %d, peak %s of %s\n%s", d.code, human.Bytes(peak), human.Bytes(limit), d.err)
	}
	m, err := formats.Open(t.Context(), filepath.Join(dir, "small.onnx"))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	n := m.Graph.Nodes[0]
	if n.Op != "MatMulNBits" || n.Int("K", 0) != in || n.Int("N", 0) != outs {
		t.Fatalf("%s of %d x %d", n.Op, n.Int("K", 0), n.Int("N", 0))
	}
	// The operator's description: [N, blocks, 16] with the lower element in the lower bits, a scale a block, 8 for zero.
	codes, scales := n.In[1].Const, n.In[2].Const
	blocks := in / 32
	for o := 0; o < outs; o += 97 {
		s := math.Float32frombits(binary.LittleEndian.Uint32(scales.Data[4*o*blocks:]))
		got, want := (float64(codes.Data[o*blocks*16]&15)-8)*float64(s), float64(o%13-6)
		if math.Abs(got-want) > 1e-5 {
			t.Fatalf("weight [0, %d] is %g, want %g", o, got, want)
		}
		if b := codes.Data[(o*blocks+1)*16]; binary.LittleEndian.Uint32(scales.Data[4*(o*blocks+1):]) != 0 && b != 0x88 {
			t.Fatalf("zeros of output %d became %x", o, b)
		}
	}
}
