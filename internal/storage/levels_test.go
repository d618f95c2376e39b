package storage

import (
	"bytes"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/pare-dev/pare/internal/kernels"
)

// hard are rows of values that encoders stumble over, each as long as two superblocks.
func hard(rng *rand.Rand) map[string][]float32 {
	rows := map[string][]float32{}
	row := func(name string, at func(i int) float32) {
		x := make([]float32, 2*super)
		for i := range x {
			x[i] = at(i)
		}
		rows[name] = x
	}
	negative := float32(math.Copysign(0, -1))
	row("zeros of both signs", func(i int) float32 { return []float32{0, negative, negative, 0, 0}[i%5] })
	row("negative zeros", func(int) float32 { return negative })
	row("subnormal", func(i int) float32 { return math.Float32frombits(uint32(i*7919) % (1 << 23)) })
	row("around the smallest half", func(i int) float32 { return float32(i-200) * 1e-9 })
	row("the largest that is taken", func(i int) float32 { return float32(beyond/64) * float32(i%3-1) })
	row("equal magnitudes", func(i int) float32 { return float32(1 - 2*(i/3%2)) })
	row("constant", func(int) float32 { return -3.75 })
	row("far from zero", func(i int) float32 { return -1000 + 1e-4*float32(i%7) })
	row("one in a superblock", func(i int) float32 { return float32(i / 255 % 2 * (i & 1)) })
	row("sub-blocks of very different size", func(i int) float32 { return float32(math.Ldexp(rng.NormFloat64(), -3*(i/16%16))) })
	row("halves between codes", func(i int) float32 { return float32(i%33-16) / 2 })
	row("heavy tails", func(int) float32 { return float32(rng.NormFloat64() / (0.01 + rng.Float64())) })
	row("positive", func(int) float32 { return rng.Float32() })
	row("tiny", func(int) float32 { return 1e-16 * float32(rng.NormFloat64()) })
	return rows
}

// guarded copies x between numbers that are none, so that reading beyond shows in the result.
func guarded(x []float32) []float32 {
	if x == nil {
		return nil
	}
	nan := float32(math.NaN())
	b := slices.Repeat([]float32{nan}, len(x)+128)
	return b[64 : 64+copy(b[64:], x)]
}

// encodeGuarded encodes and sees that no byte beside the result is written.
func encodeGuarded(t *testing.T, info *Info, x, importance []float32) ([]byte, error) {
	t.Helper()
	n := len(x) / info.BlockElems * info.BlockBytes
	b := bytes.Repeat([]byte{0xa5}, n+256)
	err := info.Encode(b[128:128+n], guarded(x), guarded(importance))
	if !bytes.Equal(b[:128], b[128+n:]) || b[0] != 0xa5 || bytes.Count(b[:128], b[:1]) != 128 {
		t.Errorf("%s: bytes beside the blocks were written", info.Type)
	}
	return b[128 : 128+n], err
}

// Hard rows give the same bytes on every level, plain and weighted, in pieces of every number of blocks
// up to two superblocks; what one level refuses, all refuse.
func TestHardRowsOnEveryLevel(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 12))
	importance := make([]float32, 2*super)
	for i := range importance {
		importance[i] = []float32{0, 1e-6, 1, 3, 1e4}[i%5] * rng.Float32()
	}
	rows := hard(rng)
	defer func(k *kernels.Set) { vectors = k }(vectors)
	encoded := 0
	for _, info := range All() {
		if info.Encode == nil || !info.Float && info.BlockElems == 1 {
			continue
		}
		for name, x := range rows {
			step := info.BlockElems
			if step == 1 {
				step = 37 // not in vectors
			}
			for n := info.BlockElems; n <= len(x); n += step {
				for _, imp := range [][]float32{nil, importance[:n]} {
					vectors = kernels.For("portable")
					want, refused := encodeGuarded(t, info, x[:n], imp)
					for _, vectors = range kernels.All()[1:] {
						got, err := encodeGuarded(t, info, x[:n], imp)
						if (err == nil) != (refused == nil) {
							t.Fatalf("%s %s, %d of %q: %v, portable %v", vectors.Level(), info.Type, n, name, err, refused)
						}
						if err == nil && !bytes.Equal(got, want) {
							t.Fatalf("%s %s, %d of %q, weighted %v: bytes differ from portable", vectors.Level(), info.Type, n, name, imp != nil)
						}
						encoded++
					}
				}
			}
		}
	}
	if len(kernels.All()) > 1 && encoded == 0 {
		t.Error("nothing was compared")
	}
}

// A scale of one makes every value its own multiple of the scale, so its code says which value of the table
// it is nearest to. Importance on two values of the table alone gives that scale, as no other fits both.
func TestNearestOfTable(t *testing.T) {
	var near []float32 // of every value in steps of a quarter, and of the middles as closely as can be
	for v := float32(-127); v < 127; v += 0.25 {
		near = append(near, v, math.Nextafter32(v, -127), math.Nextafter32(v, 127))
	}
	defer func(k *kernels.Set) { vectors = k }(vectors)
	for _, vectors = range kernels.All() {
		for _, info := range []*Info{MustLookup(IQ4NL), MustLookup(IQ4XS)} {
			x, importance := make([]float32, info.BlockElems), make([]float32, info.BlockElems)
			b, got := make([]byte, info.BlockBytes), make([]float32, info.BlockElems)
			for i := 0; i < len(x); i += 32 {
				x[i], x[i+1], importance[i], importance[i+1] = -127, 1, 1, 1
			}
			for part := range slices.Chunk(near, 30) {
				for i := 0; i < len(x); i += 32 {
					copy(x[i+2:i+32], part)
				}
				if err := info.Encode(b, x, importance); err != nil {
					t.Fatal(err)
				}
				info.Decode(got, b)
				for i, v := range x {
					want := float32(nonlinear[0])
					for _, n := range nonlinear[1:] {
						if math.Abs(float64(n)-float64(v)) <= math.Abs(float64(want)-float64(v)) {
							want = float32(n)
						}
					}
					if got[i] != want {
						t.Fatalf("%s %s: %v becomes %v, want %v", vectors.Level(), info.Type, v, got[i], want)
					}
				}
			}
		}
	}
}

// The scale of microscaling is the floor of a logarithm rounded to float32, on every level: all magnitudes
// around powers of two, where few of those below count as the power.
func TestPowersOnEveryLevel(t *testing.T) {
	defer func(k *kernels.Set) { vectors = k }(vectors)
	info := MustLookup(MXFP4)
	var x []float32
	for k := range 256 {
		for ulps := -60; ulps <= 3; ulps++ {
			v := math.Float32frombits(uint32(max(k<<23+ulps, 0)))
			if v-v != 0 {
				continue
			}
			for i := range 32 { // down to nothing, of both signs
				x = append(x, v*(float32(i-31)/31))
			}
		}
	}
	vectors = kernels.For("portable")
	want, err := encodeGuarded(t, info, x, nil)
	if err != nil {
		t.Fatal(err)
	}
	raised := 0
	for o, i := 0, 0; o < len(want); o, i = o+info.BlockBytes, i+32 {
		floor := math.Floor(math.Log2(math.Abs(float64(x[i]))))
		if d := int(want[o]) - int(min(max(floor+125, 0), 254)); d == 1 {
			raised++
		} else if d != 0 && x[i] != 0 {
			t.Fatalf("%v has the scale byte %d", x[i], want[o])
		}
	}
	if raised == 0 {
		t.Error("no logarithm was rounded up to an integer")
	}
	for _, vectors = range kernels.All()[1:] {
		got, err := encodeGuarded(t, info, x, nil)
		if err != nil {
			t.Fatal(err)
		}
		for o := 0; o < len(want); o += info.BlockBytes {
			if !bytes.Equal(got[o:o+info.BlockBytes], want[o:o+info.BlockBytes]) {
				at := o / info.BlockBytes * 32
				t.Fatalf("%s: a block up to %v is % x, portable % x", vectors.Level(), x[at], got[o:o+info.BlockBytes], want[o:o+info.BlockBytes])
			}
		}
	}
}

// What a user forces is what encodes.
func TestUse(t *testing.T) {
	defer func(k *kernels.Set) { vectors = k }(vectors)
	for _, k := range kernels.All() {
		if Use(k.Level()); vectors.Level() != k.Level() {
			t.Errorf("%s encodes where %s was asked for", vectors.Level(), k.Level())
		}
	}
}

// Rows that share an importance are encoded together as one by one.
func TestRowsTogether(t *testing.T) {
	rng := rand.New(rand.NewPCG(13, 14))
	const cols, rows = 768, 19
	x, importance := make([]float32, rows*cols), make([]float32, cols)
	for i := range x {
		x[i] = float32(rng.NormFloat64()) * float32(1+i/cols)
	}
	for i := range importance {
		importance[i] = rng.Float32()
	}
	defer func(k *kernels.Set) { vectors = k }(vectors)
	for _, vectors = range kernels.All() {
		for _, typ := range blockTypes(t) {
			info := MustLookup(typ)
			if info.Encode == nil {
				continue
			}
			size := cols / info.BlockElems * info.BlockBytes
			together, one := make([]byte, rows*size), make([]byte, size)
			if err := info.Encode(together, x, importance); err != nil {
				t.Fatal(err)
			}
			for r := range rows {
				if err := info.Encode(one, x[r*cols:(r+1)*cols], importance); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(one, together[r*size:(r+1)*size]) {
					t.Fatalf("%s %s: row %d differs when rows are encoded together", vectors.Level(), typ, r)
				}
			}
		}
	}
}

// Halves round to nearest, ties to even, on every level as F32ToF16 and F32ToBF16 do: every half, and
// the numbers around the middle between each and the next.
func TestHalvesOnEveryLevel(t *testing.T) {
	defer func(k *kernels.Set) { vectors = k }(vectors)
	for _, typ := range []Type{F16, BF16} {
		info := MustLookup(typ)
		var x []float32
		for i := range 1 << 16 {
			v, up := F16ToF32(uint16(i)), F16ToF32(uint16(i+1))
			if typ == BF16 {
				v, up = math.Float32frombits(uint32(i)<<16), math.Float32frombits(uint32(i+1)<<16)
			}
			middle := float32((float64(v) + float64(up)) / 2)
			for _, v := range []float32{v, middle, math.Nextafter32(middle, v), math.Nextafter32(middle, up)} {
				if v-v == 0 {
					x = append(x, v)
				}
			}
		}
		x = x[:len(x)-3] // not in sixteens
		for _, vectors = range kernels.All() {
			got, err := encodeGuarded(t, info, x, nil)
			if err != nil {
				t.Fatal(err)
			}
			for i, v := range x {
				want := F32ToF16(v)
				if typ == BF16 {
					want = F32ToBF16(v)
				}
				if h := uint16(got[2*i]) | uint16(got[2*i+1])<<8; h != want {
					t.Fatalf("%s: %v as %s is %#04x, want %#04x", vectors.Level(), v, typ, h, want)
				}
			}
		}
	}
}

func TestExtent(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	for _, s := range kernels.All() {
		for n := range 100 {
			x := make([]float32, n)
			for i := range x {
				x[i] = float32(i) / 8
			}
			if top, negative := s.Extent(guarded(x)); top != float32(max(n-1, 0))/8 || negative {
				t.Fatalf("%s, %d numbers: %v, %v", s.Level(), n, top, negative)
			}
			for i := range x {
				for _, v := range []float32{-100, inf, -inf, nan} {
					old := x[i]
					x[i] = v
					top, negative := s.Extent(guarded(x))
					if math.Float32bits(top) != math.Float32bits(v)&^(1<<31) || negative != (v < 0) {
						t.Fatalf("%s: %v at %d of %d gives %v, %v", s.Level(), v, i, n, top, negative)
					}
					x[i] = old
				}
			}
		}
	}
}

func TestRowSquares(t *testing.T) {
	rng := rand.New(rand.NewPCG(15, 16))
	for _, s := range kernels.All() {
		for _, rows := range []int{1, 2, 15, 16, 17, 40} {
			for _, cols := range []int{32, 48, 320} {
				x := make([]float32, rows*cols)
				for i := range x {
					x[i] = float32(rng.NormFloat64())
				}
				got := make([]float32, rows)
				s.RowSquares(got, guarded(x), cols)
				for r := range rows {
					if want := sumSquares(x[r*cols : (r+1)*cols]); got[r] != want {
						t.Fatalf("%s: row %d of %d by %d is %v, want %v", s.Level(), r, rows, cols, got[r], want)
					}
				}
			}
		}
	}
}
