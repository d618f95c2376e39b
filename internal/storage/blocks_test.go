package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/kernels"
)

// blockTypes are all that are registered: a new one fails until testdata holds what ggml makes of it.
func blockTypes(tb testing.TB) (types []Type) {
	for _, i := range All() {
		if i.BlockElems > 1 {
			types = append(types, i.Type)
		}
	}
	if len(types) < 13 {
		tb.Fatalf("only %d block types", len(types))
	}
	return types
}

func golden(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/blocks/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func goldenFloats(t testing.TB, name string) []float32 {
	t.Helper()
	b := golden(t, name)
	x := make([]float32, len(b)/4)
	if err := binary.Read(bytes.NewReader(b), binary.LittleEndian, x); err != nil {
		t.Fatal(err)
	}
	return x
}

// The bytes of every encoder are those of the real ggml, with and without importance, with every
// set of kernels that runs here.
func TestEncodeAsGGML(t *testing.T) {
	const cols = 512
	x, importance := goldenFloats(t, "input.f32"), goldenFloats(t, "importance.f32")
	defer func(k *kernels.Set) { vectors = k }(vectors)
	for _, vectors = range kernels.All() {
		for _, typ := range blockTypes(t) {
			info := MustLookup(typ)
			if info.Encode == nil {
				continue // read only
			}
			for kind, imp := range map[string][]float32{"plain": nil, "weighted": importance} {
				want := golden(t, string(typ)+"."+kind)
				size := cols / info.BlockElems * info.BlockBytes
				if len(want) != len(x)/cols*size {
					t.Fatalf("%s.%s has %d bytes", typ, kind, len(want))
				}
				got := make([]byte, size)
				for r := range len(x) / cols {
					if err := info.Encode(got, x[r*cols:(r+1)*cols], imp); err != nil {
						t.Errorf("%s %s row %d: %v", typ, kind, r, err)
						continue
					}
					if w := want[r*size : (r+1)*size]; !bytes.Equal(got, w) {
						t.Errorf("%s: %s %s row %d: bytes differ from ggml's\n got %x\nwant %x", vectors.Level(), typ, kind, r, got, w)
					}
				}
			}
		}
	}
}

// All sets of kernels give the same bytes, also for rows whose blocks do not come in eights.
func TestEncodeSameOnEveryLevel(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	defer func(k *kernels.Set) { vectors = k }(vectors)
	for _, typ := range blockTypes(t) {
		info := MustLookup(typ)
		if info.Encode == nil {
			continue
		}
		for _, blocks := range []int{1, 7, 8, 9, 19} {
			x, imp := make([]float32, blocks*info.BlockElems), make([]float32, blocks*info.BlockElems)
			for i := range x {
				x[i], imp[i] = float32(rng.NormFloat64())*float32(math.Exp(1.5*rng.NormFloat64())), rng.Float32()
				if i/64%2 == 1 { // stretches of tiny values, down to subnormal ones
					x[i] = float32(math.Ldexp(float64(x[i]), []int{-140, -126, -60, -40}[i/128%4]))
				}
			}
			var first [2][]byte
			for _, vectors = range kernels.All() {
				for k, v := range [][]float32{nil, imp} {
					b := make([]byte, blocks*info.BlockBytes)
					if err := info.Encode(b, x, v); err != nil {
						t.Fatal(err)
					}
					if first[k] == nil {
						first[k] = b
					} else if !bytes.Equal(b, first[k]) {
						t.Errorf("%s, %d blocks: bytes at level %s differ from portable", typ, blocks, vectors.Level())
					}
				}
			}
		}
	}
}

// Decoding arbitrary blocks gives ggml's values to the last bit, and Grid describes the same values.
func TestDecodeAsGGML(t *testing.T) {
	for _, typ := range blockTypes(t) {
		info := MustLookup(typ)
		b, want := golden(t, string(typ)+".random"), goldenFloats(t, string(typ)+".decoded")
		got := make([]float32, len(want))
		info.Decode(got, b)
		for i, w := range want {
			if math.Float32bits(got[i]) != math.Float32bits(w) {
				t.Fatalf("%s: element %d is %v, ggml says %v", typ, i, got[i], w)
			}
		}
	}
}

// Codes written through SetCodes decode to what Grid promises, and leave the scales alone.
func TestGrid(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, typ := range blockTypes(t) {
		info := MustLookup(typ)
		if info.Grid == nil {
			continue // table types
		}
		row := golden(t, string(typ)+".random")
		n := len(row) / info.BlockBytes * info.BlockElems
		var g, after Grid
		info.Grid(&g, row)
		if len(g.Scale)*g.Sub != n {
			t.Fatalf("%s: %d scales of %d elements for %d", typ, len(g.Scale), g.Sub, n)
		}
		codes := make([]int8, n)
		for i := range codes {
			codes[i] = int8(g.Lo + rng.IntN(g.Hi-g.Lo+1))
		}
		info.SetCodes(row, codes)
		info.Grid(&after, row)
		x := make([]float32, n)
		info.Decode(x, row)
		for i, q := range codes {
			want := g.Scale[i/g.Sub] * float32(q)
			if g.Min != nil {
				want += g.Min[i/g.Sub]
			}
			if x[i] != want || after.Scale[i/g.Sub] != g.Scale[i/g.Sub] {
				t.Fatalf("%s: element %d with code %d is %v, grid says %v", typ, i, q, x[i], want)
			}
		}
	}
}

// Mean squared error over variance on standard normal data; the expected figures were measured
// with another implementation over 30 000 samples.
func TestErrorOfNormalData(t *testing.T) {
	want := map[Type]float64{
		Q4_0: 7.3e-3, Q4_1: 6.0e-3, Q5_0: 1.83e-3, Q5_1: 1.43e-3, Q8_0: 2.9e-5,
		Q2K: 8.8e-2, Q3K: 2.25e-2, Q4K: 5.1e-3, Q5K: 1.31e-3, Q6K: 3.2e-4,
		IQ4NL: 5.8e-3, IQ4XS: 6.0e-3, MXFP4: 1.31e-2,
	}
	rng := rand.New(rand.NewPCG(3, 4))
	x := make([]float32, 1<<16)
	var power float64
	for i := range x {
		x[i] = float32(rng.NormFloat64())
		power += float64(x[i]) * float64(x[i])
	}
	for typ, w := range want {
		info := MustLookup(typ)
		b := make([]byte, len(x)/info.BlockElems*info.BlockBytes)
		if err := info.Encode(b, x, nil); err != nil {
			t.Fatal(err)
		}
		y := make([]float32, len(x))
		info.Decode(y, b)
		var e float64
		for i := range x {
			d := float64(x[i] - y[i])
			e += d * d
		}
		if got := e / power; math.Abs(got/w-1) > 0.05 {
			t.Errorf("%s: error %.3g of the variance, want %.3g", typ, got, w)
		}
	}
}

// The table of floors picks the nearest value, the upper one in the middle.
func TestNearestNonlinear(t *testing.T) {
	for v := float32(-200); v < 200; v += 1.0 / 32 {
		want := 0
		for c, n := range nonlinear {
			if abs(v-float32(n)) <= abs(v-float32(nonlinear[want])) {
				want = c
			}
		}
		if got := nearestNonlinear(v); got != want {
			t.Fatalf("%v: code %d, want %d", v, got, want)
		}
	}
	for v, want := range map[float64]int{math.Inf(1): 15, math.Inf(-1): 0, 1e30: 15, -1e30: 0} {
		if got := nearestNonlinear(float32(v)); got != want {
			t.Errorf("%v: code %d, want %d", v, got, want)
		}
	}
}

func TestEncodeRefuses(t *testing.T) {
	for _, typ := range blockTypes(t) {
		info := MustLookup(typ)
		if info.Encode == nil {
			continue
		}
		n := info.BlockElems
		x, b := make([]float32, n), make([]byte, info.BlockBytes)
		for _, bad := range []float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1)), 3e38} {
			if typ == MXFP4 && bad == 3e38 {
				continue // its scales reach that far
			}
			x[n-1] = bad
			if err := info.Encode(b, x, nil); !errors.Is(err, fault.ErrNotFinite) {
				t.Errorf("%s: %v encoded with error %v", typ, bad, err)
			}
		}
		x[n-1] = 1
		if err := info.Encode(b, x[:n-1], nil); !errors.Is(err, ErrNotBlock) {
			t.Errorf("%s: a short row gave %v", typ, err)
		}
		if err := info.Encode(b[:1], x, nil); err == nil {
			t.Errorf("%s: a short buffer was accepted", typ)
		}
		if !bytes.Equal(golden(t, string(typ)+".plain"), golden(t, string(typ)+".weighted")) { // importance enters
			imp := make([]float32, n)
			imp[3] = -1
			if err := info.Encode(b, x, imp); err == nil {
				t.Errorf("%s: a negative importance was accepted", typ)
			}
			if err := info.Encode(b, x, imp[:n-1]); err == nil {
				t.Errorf("%s: a short importance was accepted", typ)
			}
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	rng := rand.New(rand.NewPCG(5, 6))
	x, imp := make([]float32, 4096), make([]float32, 4096)
	for i := range x {
		x[i], imp[i] = float32(rng.NormFloat64()), rng.Float32()+0.01
	}
	for _, typ := range blockTypes(b) {
		info := MustLookup(typ)
		if info.Encode == nil {
			continue
		}
		dst := make([]byte, len(x)/info.BlockElems*info.BlockBytes)
		for kind, v := range map[string][]float32{"plain": nil, "weighted": imp} {
			b.Run(string(typ)+"/"+kind, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if err := info.Encode(dst, x, v); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(len(x))*float64(b.N)/b.Elapsed().Seconds()/1e6, "Mweights/s")
			})
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, typ := range blockTypes(b) {
		info := MustLookup(typ)
		src := bytes.Repeat(golden(b, string(typ)+".random"), 16)
		dst := make([]float32, len(src)/info.BlockBytes*info.BlockElems)
		b.Run(string(typ), func(b *testing.B) {
			for b.Loop() {
				info.Decode(dst, src)
			}
			b.ReportMetric(float64(len(dst))*float64(b.N)/b.Elapsed().Seconds()/1e6, "Mweights/s")
		})
	}
}
