package kernels

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"maps"
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/pare-dev/pare/internal/cpu"
)

// sameBits fails unless the numbers have the same bits; one NaN is as good as another.
func sameBits(t *testing.T, what string, got, want []float32) {
	t.Helper()
	for i := range want {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) && (got[i] == got[i] || want[i] == want[i]) {
			t.Fatalf("%s: number %d is %v (%#08x), want %v (%#08x)", what, i, got[i], math.Float32bits(got[i]), want[i], math.Float32bits(want[i]))
		}
	}
}

// fma32 against a sum that keeps every bit, rounded once.
func TestFMA32(t *testing.T) {
	rng := newRand()
	number := func() float32 {
		for {
			f := math.Float32frombits(rng.Uint32())
			switch rng.IntN(3) {
			case 0:
				f = float32(rng.NormFloat64())
			case 1: // few bits, so that products and sums hit ties
				f = float32(int32(rng.Uint32())>>20) * float32(math.Ldexp(1, rng.IntN(40)-30))
			}
			if f-f == 0 {
				return f
			}
		}
	}
	for range 300000 {
		a, b, c := number(), number(), number()
		if rng.IntN(3) == 0 { // near cancellation, and ties of the sum
			c = -a * b * (1 + float32(rng.IntN(3)-1)/(1<<23))
		}
		if c-c != 0 {
			continue
		}
		x := new(big.Float).SetPrec(700).SetFloat64(float64(a))
		x.Mul(x, new(big.Float).SetFloat64(float64(b)))
		x.Add(x, new(big.Float).SetFloat64(float64(c)))
		want, _ := x.Float32()
		if got := fma32(a, b, c); got != want {
			t.Fatalf("fma(%v, %v, %v) = %v, want %v", a, b, c, got, want)
		}
	}
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	sameBits(t, "extremes", []float32{fma32(inf, 1, 0), fma32(inf, 0, 1), fma32(1, 1, nan), fma32(3e38, 3e38, -inf), fma32(-3e38, 3e38, 0), fma32(0, 1, 0)},
		[]float32{inf, nan, nan, -inf, -inf, 0})
}

// row is the blocks of row i.
func (a *Activations) row(i int) []act {
	r := make([]act, a.cols/actBlock)
	for b := range r {
		r[b] = *a.block(i, b)
	}
	return r
}

// Codes and scales by hand, and by the definition in float64 for random rows.
func TestQuantize(t *testing.T) {
	levels(t, func(t *testing.T, s *Set) {
		x := make([]float32, 32*5)
		copy(x, []float32{127, 0.5, 1.5, -2.5, -127, 63.49, 63.51}) // scale 1: ties go to even
		x[32], x[63] = 1e-31, -1e-33                                // below 2^-100
		x[70], x[80] = float32(math.NaN()), 4
		x[96+31] = float32(math.Inf(-1))
		x[128] = -254
		x[128+16] = 2
		var a Activations
		a.Reset(1, len(x))
		s.Quantize(&a, View(x, 1, len(x)), 0, 1)
		r := a.row(0)
		if got := r[0].q[:7]; !slices.Equal(got, []int8{127, 0, 2, -2, -127, 63, 64}) || r[0].d != 1 || r[0].sum != 127+2-2-127+63+64 {
			t.Errorf("codes %v, scale %v, sum %v", got, r[0].d, r[0].sum)
		}
		if r[1] != (act{start: magicBits, start16: [2]int32{magicBits, magicBits}}) {
			t.Errorf("tiny numbers: %v", r[1])
		}
		for _, b := range []int{2, 3} {
			if r[b].d == r[b].d || r[b].sum == r[b].sum || r[b].q != [32]int8{} {
				t.Errorf("not finite: %v", r[b])
			}
		}
		want := act{d: 2, d16: 0.125, start: magicBits + 128*126, start16: [2]int32{magicBits + 128*127, magicBits - 128}, sum: -252, sum16: [2]float32{-254, 2}}
		want.q[0], want.q[16] = -127, 1
		if r[4] != want {
			t.Errorf("sums: %v, want %v", r[4], want)
		}
	})
	p := For(cpu.Portable)
	levels(t, func(t *testing.T, s *Set) {
		rng := newRand()
		for _, cols := range []int{0, 32, 96, 4096 + 32, 1 << 18} {
			rows := 3
			x := matrix(rng, rows, cols, 5)
			for i := range x.Data {
				x.Data[i] *= float32(math.Exp(4 * rng.NormFloat64()))
			}
			var got, want Activations
			got.Reset(rows, cols)
			s.Quantize(&got, x, 1, rows)
			s.Quantize(&got, x, 0, 1)
			want.Reset(rows, cols)
			p.Quantize(&want, x, 0, rows)
			for i := range rows {
				if !slices.Equal(got.row(i), want.row(i)) {
					t.Fatalf("%d columns: row %d is not as portable has it", cols, i)
				}
				for b, a := range want.row(i) {
					v := x.Row(i)[32*b:][:32]
					top := 0.
					for _, e := range v {
						top = max(top, math.Abs(float64(e)))
					}
					for k, e := range v { // half a step, and what float32 adds to it
						near(t, "activation", float64(a.d)*float64(a.q[k]), float64(e), top/127*(0.5+200*eps))
					}
				}
			}
		}
	})
}

// tileRows are n random encoded rows of cols numbers.
func tileRows(rng *rand.Rand, name string, n, cols int, finite bool) []byte {
	return randomBlocks(rng, name, n*cols/blocks[name].elems, finite)
}

// tileWeights packs random encoded rows, at every level the same; it gives their real values too.
func tileWeights(rng *rand.Rand, sets []*Set, name string, n, cols int, finite bool) (tiles []byte, real Matrix) {
	rows := tileRows(rng, name, n, cols, finite)
	real = View(make([]float32, n*cols), n, cols)
	blocks[name].decode(real.Data, rows)
	ld := len(rows) / n
	for _, s := range sets {
		tl := s.Tiler(name)
		size, guard := tl.Bytes(cols), slices.Repeat([]byte{0xa5}, 64)
		var packed []byte
		for i := 0; i < n; i += TileRows {
			m := min(TileRows, n-i)
			tile := append(slices.Repeat([]byte{0x5a}, size), guard...)
			tl.Pack(tile[:size:size], rows[i*ld:][:m*ld], m, cols)
			if !slices.Equal(tile[size:], guard) {
				panic("wrote past a tile")
			}
			packed = append(packed, tile[:size]...)
		}
		if tiles != nil && !slices.Equal(tiles, packed) {
			panic(fmt.Sprintf("%s packs %s in its own way", s.Level(), name))
		}
		tiles = packed
	}
	return slices.Clip(tiles), real
}

func tiledNames() []string { return slices.Sorted(maps.Keys(tiledTypes)) }

// Every level has the bits of portable, for one token and many, whole tiles and parts; and those are
// the products of decoded weights with dequantized activations, within rounding.
func TestTiles(t *testing.T) {
	all := All()
	for _, name := range tiledNames() {
		t.Run(name, func(t *testing.T) {
			rng := newRand()
			for _, c := range []struct {
				cols int
				n, m []int
			}{
				{256, []int{1, 2, 15, 16, 17, 40}, []int{1, 2, 3, 4, 5, 7, 8, 9, 12, 13, 17, 31}},
				{32, []int{3, 16, 33}, []int{1, 6, 25}},
				{96, []int{16}, []int{1, 12, 14}},
				{1024 + 256, []int{18, 32}, []int{1, 2, 15}}, // panels are 1024 long
				{2048 + 32, []int{17}, []int{1, 5}},
				{16384, []int{80}, []int{1}}, // more than one call takes
				{256, []int{16}, []int{1100}},
			} {
				if c.cols%(32*tiledTypes[name].groups) != 0 || testing.Short() && (c.cols > 2000 || c.m[0] > 1000) {
					continue
				}
				for _, n := range c.n {
					tiles, w := tileWeights(rng, all, name, n, c.cols, true)
					for _, m := range c.m {
						x := matrix(rng, m, c.cols, 1)
						var a Activations
						a.Reset(m, c.cols)
						all[0].Quantize(&a, x, 0, m)
						for _, add := range []bool{false, true} {
							what := fmt.Sprintf("%dx%dx%d add %v", m, n, c.cols, add)
							before := matrix(rng, m, n, 3)
							want := Matrix{slices.Clone(before.Data), m, n, n + 3}
							all[0].Tiler(name).Mul(want, &a, tiles, add)
							checkTiles(t, what, want, before, &a, w, add)
							for _, s := range all[1:] {
								data, check := guarded(m * (n + 3))
								copy(data, before.Data)
								s.Tiler(name).Mul(Matrix{data, m, n, n + 3}, &a, tiles, add)
								check(t)
								sameBits(t, string(s.Level())+" "+what, data, want.Data)
							}
						}
					}
				}
			}
		})
	}
}

// checkTiles compares products with the definition in float64.
func checkTiles(t *testing.T, what string, got, before Matrix, a *Activations, w Matrix, add bool) {
	t.Helper()
	x := make([]float32, a.cols)
	for i := range got.Rows {
		for k := range x {
			b := a.row(i)[k/32]
			x[k] = b.d * float32(b.q[k%32])
		}
		for j := range got.Cols {
			want, size := dot64(x, w.Row(j))
			if add {
				want += float64(before.Row(i)[j])
				size += math.Abs(float64(before.Row(i)[j]))
			}
			near(t, fmt.Sprintf("%s [%d,%d]", what, i, j), float64(got.Row(i)[j]), want, 40*eps*size)
		}
	}
}

// Scales that are infinite, NaN or subnormal, and activations that are not finite, give the same at
// every level too; and so does every part of the tokens.
func TestTilesExtremes(t *testing.T) {
	all := All()
	for _, name := range tiledNames() {
		rng := newRand()
		const m, n = 15, 37
		cols := 64 * tiledTypes[name].groups
		tiles, _ := tileWeights(rng, all, name, n, cols, false)
		x := matrix(rng, m, cols, 0)
		for i := range x.Data {
			x.Data[i] *= float32(math.Exp(20 * rng.NormFloat64()))
		}
		x.Row(1)[5], x.Row(2)[7] = float32(math.NaN()), float32(math.Inf(1))
		var a Activations
		a.Reset(m, cols)
		all[0].Quantize(&a, x, 0, m)
		want := View(make([]float32, m*n), m, n)
		all[0].Tiler(name).Mul(want, &a, tiles, false)
		for _, s := range all {
			for lo := range m {
				for _, hi := range []int{lo + 1, lo + 2, lo + 5, m} {
					if hi > m {
						continue
					}
					mid := (lo + hi) / 2 // in two parts, the second one a part of a part
					got := View(make([]float32, m*n), m, n)
					part := a.Slice(lo, hi)
					first, last := part.Slice(0, mid-lo), part.Slice(mid-lo, hi-lo)
					s.Tiler(name).Mul(got.Slice(lo, mid, 0, n), &first, tiles, false)
					s.Tiler(name).Mul(got.Slice(mid, hi, 0, n), &last, tiles, false)
					sameBits(t, fmt.Sprintf("%s %s, tokens %d:%d", name, s.Level(), lo, hi), got.Data[lo*n:hi*n], want.Data[lo*n:hi*n])
				}
			}
		}
	}
}

// The portable level, which the others are held to, gives the same bits on every machine: the digest was
// taken on amd64 and holds wherever the compiler may fuse a product with a sum.
func TestTilesBits(t *testing.T) {
	rng := rand.New(rand.NewPCG(21, 22))
	s := For(cpu.Portable)
	const m, n, cols = 3, 17, 512
	x := View(make([]float32, m*cols), m, cols)
	for i := range x.Data {
		x.Data[i] = float32(int32(rng.Uint32())) / (1 << 29) // made without any function that rounds
	}
	var a Activations
	a.Reset(m, cols)
	s.Quantize(&a, x, 0, m)
	h := fnv.New64a()
	for _, name := range tiledNames() {
		tiles, _ := tileWeights(rng, []*Set{s}, name, n, cols, true)
		dst := View(make([]float32, m*n), m, n)
		s.Tiler(name).Mul(dst, &a, tiles, false)
		for _, v := range dst.Data {
			_ = binary.Write(h, binary.LittleEndian, math.Float32bits(v))
		}
	}
	if got := h.Sum64(); got != tilesDigest {
		t.Errorf("digest %#x, want %#x", got, uint64(tilesDigest))
	}
}

const tilesDigest = 0x3269c6e07ef6ebb6
