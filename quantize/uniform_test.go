package quantize

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/pare-dev/pare/internal/storage"
)

func signed(b []byte) (q []int) {
	for _, v := range b {
		q = append(q, int(int8(v)))
	}
	return q
}

func unsigned(b []byte) (q []int) {
	for _, v := range b {
		q = append(q, int(v))
	}
	return q
}

// By hand, from the formulas in the comments.
func TestUniformByHand(t *testing.T) {
	sym := func(bits int, narrow bool) storage.Scheme {
		return storage.Scheme{Bits: bits, Symmetric: true, Narrow: narrow, Scale: storage.F32}
	}
	asym := func(bits int) storage.Scheme { return storage.Scheme{Bits: bits, Scale: storage.F32} }
	for _, tc := range []struct {
		name  string
		s     storage.Scheme
		in    []float32
		want  []int
		scale float32
		zero  int
	}{
		{"narrow: codes are the inputs", sym(8, true), []float32{127, -3, 0, -127}, []int{127, -3, 0, -127}, 1, 0},
		{"ties round to even", sym(8, true), []float32{127, 0.5, 1.5, -2.5}, []int{127, 0, 2, -2}, 1, 0},
		{"full range, 4 bit: scale = 15/7.5", sym(4, false), []float32{15, -15, 4, -5}, []int{7, -8, 2, -2}, 2, 0},
		{"all zero", sym(4, false), []float32{0, 0}, []int{0, 0}, 1, 0},
		{"asymmetric, 4 bit", asym(4), []float32{-5, 10, 0, 2.5, 3.5}, []int{0, 15, 5, 7, 9}, 1, 5},
		{"asymmetric, all positive: zero stays exact", asym(4), []float32{15, 7, 0}, []int{15, 7, 0}, 1, 0},
		{"asymmetric, all negative", asym(4), []float32{-15, -7}, []int{0, 8}, 1, 15},
		{"8 bit unsigned", asym(8), []float32{255, 0, 200}, []int{255, 0, 200}, 1, 0},
		{"2 bit", asym(2), []float32{0, 1, 2, 3}, []int{0, 1, 2, 3}, 1, 0},
	} {
		u, err := NewUniform(tc.s, Clip{})
		if err != nil {
			t.Fatal(err)
		}
		scale, zero, err := u.Fit(tc.in, nil)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, len(tc.in))
		u.Codes(b, tc.in, scale, zero)
		got := unsigned(b)
		if tc.s.Symmetric {
			got = signed(b)
		}
		if scale != tc.scale || zero != tc.zero || !slices.Equal(got, tc.want) {
			t.Errorf("%s: codes %v, scale %v, zero %d; want %v, %v, %d", tc.name, got, scale, zero, tc.want, tc.scale, tc.zero)
		}
	}
}

func normals(n int) []float32 {
	rng := rand.New(rand.NewPCG(11, 12))
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	return x
}

func relativeError(t *testing.T, u *Uniform, x []float32) float64 {
	t.Helper()
	g := u.Scheme().Groups(len(x))
	scales, codes, y := make([]float32, g), make([]byte, len(x)), make([]float32, len(x))
	var zeros []uint8
	if !u.Scheme().Symmetric {
		zeros = make([]uint8, g)
	}
	if err := u.FitRow(scales, zeros, x, nil); err != nil {
		t.Fatal(err)
	}
	u.CodesRow(codes, x, scales, zeros)
	u.DequantizeRow(y, codes, scales, zeros)
	var e, p float64
	for i := range x {
		e += float64(x[i]-y[i]) * float64(x[i]-y[i])
		p += float64(x[i]) * float64(x[i])
	}
	return e / p
}

// Error over variance on normal data, measured with another implementation over 30 000 samples.
func TestUniformErrorOfNormalData(t *testing.T) {
	x := normals(1 << 16)
	for _, tc := range []struct {
		s    storage.Scheme
		want float64
	}{
		{storage.Scheme{Bits: 4, Symmetric: true, Narrow: true, Group: 128, Scale: storage.F16}, 1.36e-2},
		{storage.Scheme{Bits: 4, Group: 128, Scale: storage.F16}, 1.0e-2},
		{storage.Scheme{Bits: 8, Symmetric: true, Narrow: true, Group: 128, Scale: storage.F16}, 4.2e-5},
		{storage.Scheme{Bits: 3, Group: 128, Scale: storage.F16}, 4.6e-2},
	} {
		u, err := NewUniform(tc.s, Clip{})
		if err != nil {
			t.Fatal(err)
		}
		if got := relativeError(t, u, x); math.Abs(got/tc.want-1) > 0.05 {
			t.Errorf("%s: %.3g, want %.3g", tc.s, got, tc.want)
		}
	}
}

// The search never loses on its own loss, helps at few bits, and clips most Gaussian groups.
func TestClipSearch(t *testing.T) {
	x := normals(1 << 14)
	for _, norm := range []float64{2, 2.4} {
		for _, s := range []storage.Scheme{
			{Bits: 3, Symmetric: true, Group: 128, Scale: storage.BF16},
			{Bits: 4, Group: 128, Scale: storage.F16},
		} {
			plain, _ := NewUniform(s, Clip{})
			search, err := NewUniform(s, Clip{Norm: norm})
			if err != nil {
				t.Fatal(err)
			}
			clipped := 0
			for i := 0; i < len(x); i += 128 {
				g := x[i : i+128]
				s0, z0, _ := plain.Fit(g, nil)
				s1, z1, _ := search.Fit(g, nil)
				l0, l1 := lossByHand(s, g, s0, z0, norm), lossByHand(s, g, s1, z1, norm)
				if l1 > l0*(1+3e-4) { // the table of powers
					t.Fatalf("%s norm %v: the search chose loss %v over %v", s, norm, l1, l0)
				}
				if s1 < s0 {
					clipped++
				}
			}
			if s.Bits == 3 && clipped < len(x)/128/2 {
				t.Errorf("%s norm %v: only %d of %d groups are clipped", s, norm, clipped, len(x)/128)
			}
			if a, b := relativeError(t, plain, x), relativeError(t, search, x); b > a {
				t.Errorf("%s norm %v: error %v after the search, %v before", s, norm, b, a)
			}
		}
	}
}

func lossByHand(s storage.Scheme, w []float32, scale float32, zero int, norm float64) (sum float64) {
	lo, hi := s.Range()
	for _, v := range w {
		q := math.RoundToEven(float64(v/scale)) + float64(zero)
		q = math.Max(float64(lo), math.Min(float64(hi), q))
		sum += math.Pow(math.Abs(float64(v)-float64(scale)*(q-float64(zero))), norm)
	}
	return sum
}

func TestPower(t *testing.T) {
	for _, x := range []float64{1e-30, 1e-6, 0.1, 0.5, 0.7071, 1, 1.5, 3, 1e10} {
		for _, n := range []float64{0.4, 1, 2, 2.4, 3.7} {
			if got, want := power(x, n), math.Pow(x, n); math.Abs(got/want-1) > 1e-13 {
				t.Errorf("%v^%v = %v, want %v", x, n, got, want)
			}
		}
	}
	tab := newPowerTable(2.4)
	for e := float32(1e-3); e < 1e5; e *= 1.0007 {
		if got, want := tab.of(e), math.Pow(float64(e), 2.4); math.Abs(got/want-1) > 2e-4 {
			t.Errorf("table at %v: %v, want %v", e, got, want)
		}
	}
}

func TestSmallAndLargeRanges(t *testing.T) {
	u, _ := NewUniform(storage.Scheme{Bits: 4, Symmetric: true, Scale: storage.F16}, ClipSearch)
	if s, _, err := u.Fit([]float32{1e-20, -1e-21}, nil); err != nil || s != storage.F16ToF32(1) {
		t.Errorf("tiny group: scale %v, %v", s, err)
	}
	if _, _, err := u.Fit([]float32{3e38, -3e38}, nil); err == nil {
		t.Error("a range that half precision scales cannot hold was accepted")
	}
	wide, _ := NewUniform(storage.Scheme{Bits: 4, Symmetric: true, Scale: storage.F32}, ClipSearch)
	if s, _, err := wide.Fit([]float32{3e38, -3e38}, nil); err != nil || s < 1e37 {
		t.Errorf("large group: scale %v, %v", s, err)
	}
}

func BenchmarkClipSearch(b *testing.B) {
	x := normals(4096)
	u, _ := NewUniform(storage.Scheme{Bits: 4, Symmetric: true, Group: 128, Scale: storage.BF16}, ClipSearch)
	scales := make([]float32, 32)
	for b.Loop() {
		if err := u.FitRow(scales, nil, x, nil); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(x))*float64(b.N)/b.Elapsed().Seconds()/1e6, "Mweights/s")
}

// The bytes of a clip search are the same on every machine: the digest was made on amd64 and is
// checked on arm64, where the compiler fuses multiplications and additions.
func TestUniformBytesAnyMachine(t *testing.T) {
	x := make([]float32, 1<<13)
	state := uint64(1)
	for i := range x {
		for range 4 { // the sum of four is bell-shaped
			state = state*6364136223846793005 + 1442695040888963407
			x[i] += float32(int32(state>>32)) / (1 << 31)
		}
	}
	h := sha256.New()
	for _, s := range []storage.Scheme{
		{Bits: 3, Symmetric: true, Group: 128, Scale: storage.BF16},
		{Bits: 4, Group: 32, Scale: storage.F16},
		{Bits: 8, Symmetric: true, Scale: storage.F32, Narrow: true},
	} {
		for _, c := range []Clip{{}, {Norm: 2}, ClipSearch} {
			u, err := NewUniform(s, c)
			if err != nil {
				t.Fatal(err)
			}
			scales, codes := make([]float32, s.Groups(len(x))), make([]byte, len(x))
			zeros := make([]uint8, len(scales))
			if err := u.FitRow(scales, zeros, x, nil); err != nil {
				t.Fatal(err)
			}
			u.CodesRow(codes, x, scales, zeros)
			h.Write(codes)
			h.Write(zeros)
			for _, v := range scales {
				h.Write(binary.LittleEndian.AppendUint32(nil, math.Float32bits(v)))
			}
		}
	}
	const want = "71a06bfeb2b75eaaf1579ecd75a7b08c7219f674b043b011fcbfaa10e560cabd"
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		t.Errorf("digest %s, want %s", got, want)
	}
}
