package kernels

import (
	"encoding/binary"
	"encoding/hex"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// halves are the places of binary16 numbers in a block.
var halves = map[string][]int{
	"f16": {0}, "q8_0": {0}, "q4_0": {0}, "q4_1": {0, 2}, "q5_0": {0}, "q5_1": {0, 2},
	"q2_k": {80, 82}, "q3_k": {108}, "q4_k": {0, 2}, "q5_k": {0, 2}, "q6_k": {208},
	"iq4_nl": {0}, "iq4_xs": {0},
}

// randomBlocks are random bytes, which is every code there is; the scales are finite when asked.
func randomBlocks(rng *rand.Rand, name string, n int, finite bool) []byte {
	b := blocks[name]
	row := make([]byte, n*b.bytes)
	for i := range row {
		row[i] = byte(rng.Uint32())
	}
	for i := range n {
		if !finite {
			break
		}
		for _, at := range halves[name] {
			at += i * b.bytes
			binary.LittleEndian.PutUint16(row[at:], binary.LittleEndian.Uint16(row[at:])&0x8fff|0x2000) // 2^-7 or so
		}
		switch name {
		case "bf16":
			row[2*i+1] = row[2*i+1]&0x80 | 0x3f
		case "mxfp4":
			row[17*i] = row[17*i]&15 | 0x70
		}
	}
	return row
}

func TestDecodeSameBits(t *testing.T) {
	levels(t, func(t *testing.T, s *Set) {
		rng := newRand()
		for _, name := range slices.Sorted(maps.Keys(blocks)) {
			b := blocks[name]
			decode := s.DecodeRow(name)
			for _, n := range []int{0, 1, 2, 3, 5, 17, 33, 70, 300} {
				for _, finite := range []bool{true, false} {
					src := randomBlocks(rng, name, n, finite)
					want := make([]float32, n*b.elems)
					b.decode(want, src)
					odd := append(make([]byte, 1, 1+len(src)), src...)[1:] // not aligned
					got, check := guarded(n * b.elems)
					decode(got, odd)
					check(t)
					for i := range want {
						if math.Float32bits(got[i]) != math.Float32bits(want[i]) && (got[i] == got[i] || want[i] == want[i]) {
							t.Fatalf("%s, %d blocks: element %d is %v (%#08x), want %v (%#08x)", name, n, i,
								got[i], math.Float32bits(got[i]), want[i], math.Float32bits(want[i]))
						}
					}
				}
			}
		}
		if s.DecodeRow("q9_9") != nil {
			t.Error("a kernel for a type that does not exist")
		}
	})
}

// All 65 536 halves, widened by the definition: (-1)^s 2^(e-15) (1 + m/1024), subnormals m 2^-24.
func TestDecodeHalvesWhole(t *testing.T) {
	src := make([]byte, 2<<16)
	for i := range 1 << 16 {
		binary.LittleEndian.PutUint16(src[2*i:], uint16(i))
	}
	levels(t, func(t *testing.T, s *Set) {
		got := make([]float32, 1<<16)
		s.DecodeRow("f16")(got, src)
		for i, v := range got {
			e, m := i>>10&31, float64(i&1023)
			want := math.Ldexp(1+m/1024, e-15)
			switch {
			case e == 31 && m != 0:
				if v == v {
					t.Fatalf("%#04x is %v, want NaN", i, v)
				}
				continue
			case e == 31:
				want = math.Inf(1)
			case e == 0:
				want = m / (1 << 24)
			}
			if i>>15 == 1 {
				want = -want
			}
			if float64(v) != want || math.Signbit(float64(v)) != (i>>15 == 1) {
				t.Fatalf("%#04x is %v, want %v", i, v, want)
			}
		}
		bf := make([]float32, 1<<16)
		s.DecodeRow("bf16")(bf, src)
		for i, v := range bf {
			if math.Float32bits(v) != uint32(i)<<16 {
				t.Fatalf("bf16 %#04x is %#08x", i, math.Float32bits(v))
			}
		}
	})
}

// Vectors worked out from the definition of the formats, not from this code.
func TestDecodeKnown(t *testing.T) {
	levels(t, func(t *testing.T, s *Set) {
		// Q4_0 of x_j = (j-16)/2, j = 0..31, is exact in its blocks of scale 1 only at even j
		src, err := hex.DecodeString("003c" + "809191a2a2b3b3c4c4d5d5e6e6f7f7f8")
		if err != nil {
			t.Fatal(err)
		}
		got := make([]float32, 32)
		s.DecodeRow("q4_0")(got, src)
		for j, v := range got {
			if x := float64(j-16) / 2; math.Abs(float64(v)-x) > 0.5 || v != float32(math.Round(float64(v))) || j == 31 && v != 7 {
				t.Errorf("q4_0 element %d is %v, want %v rounded", j, v, x)
			}
		}
		// K-quant scales: sc = 1,2,3,4,21,38,55,63, mn = 10,20,30,40,50,60,17,33
		sc, mn := []float32{1, 2, 3, 4, 21, 38, 55, 63}, []float32{10, 20, 30, 40, 50, 60, 17, 33}
		packed, err := hex.DecodeString("4182c3c4cad45ea825c6171f")
		if err != nil {
			t.Fatal(err)
		}
		q4k := append([]byte{0, 0x3c, 0, 0x3c}, packed...) // d = dmin = 1
		for i := range 128 {
			q4k = append(q4k, byte(i)) // low nibble i%16, high nibble i/16
		}
		y := make([]float32, 256)
		s.DecodeRow("q4_k")(y, q4k)
		for e, v := range y {
			i := e/64*32 + e%32
			q := i % 16
			if e%64 >= 32 {
				q = i / 16
			}
			if want := sc[e/32]*float32(q) - mn[e/32]; v != want {
				t.Fatalf("q4_k element %d is %v, want %v", e, v, want)
			}
		}
		// Q3_K scale codes (7j+5)%64, all codes 0 with the high bit clear: w = -4 (l-32)
		packed, err = hex.DecodeString("d54cb32a91087fe67888899d")
		if err != nil {
			t.Fatal(err)
		}
		q3k := append(append(make([]byte, 96), packed...), 0, 0x3c)
		s.DecodeRow("q3_k")(y, q3k)
		for e, v := range y {
			if want := -4 * float32((7*(e/16)+5)%64-32); v != want {
				t.Fatalf("q3_k element %d is %v, want %v", e, v, want)
			}
		}
	})
}
