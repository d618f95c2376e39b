package kernels

import (
	"encoding/binary"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/pare-dev/pare/internal/cpu"
)

// The portable level gives the same bits on every machine. The digest was taken on amd64; it holds
// wherever this test runs, above all where the compiler may fuse a product with a sum (arm64,
// GOAMD64=v3). Inputs are small multiples of powers of two with random low bits, made without any
// function whose rounding could differ.
func TestPortableBits(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 12))
	numbers := func(n int) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(int32(rng.Uint32())) / (1 << 29) // -4..4
		}
		return x
	}
	h := fnv.New64a()
	out := func(x ...float32) {
		for _, v := range x {
			_ = binary.Write(h, binary.LittleEndian, math.Float32bits(v))
		}
	}
	out64 := func(x ...float64) {
		for _, v := range x {
			_ = binary.Write(h, binary.LittleEndian, math.Float64bits(v))
		}
	}
	s := For(cpu.Portable)
	const m, n, k = 5, 7, 301
	x, w, b, d := View(numbers(m*k), m, k), View(numbers(n*k), n, k), View(numbers(k*n), k, n), View(numbers(m*n), m, n)
	out(s.Dot(x.Row(0), x.Row(1)))
	s.GemmNT(d, x, w, true)
	out(d.Data...)
	s.GemmNN(d, x, b, true)
	out(d.Data...)
	g := s.NewGram(k)
	if err := g.Add(t.Context(), 1, x.Data); err != nil {
		t.Fatal(err)
	}
	sum, err := g.Sum(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	out64(sum...)
	d64 := View(make([]float64, k*k), k, k)
	s.GemmNN64(d64, View(sum, k, k), View(sum, k, k), false)
	out64(d64.Data...)
	y, z := numbers(k-1), numbers(k-1)
	for _, fn := range []func(){
		func() { s.Exp(y, z) }, func() { s.Softmax(y) }, func() { s.RMSNorm(y, z, y, 1e-5) }, func() { s.SiLUMul(y, z, y) },
		func() { s.RoPE(y, z[:150], z[150:]) }, func() { s.Axpy(y, 0.3, z) }, func() { s.Scale(y, 0.7) }, func() { s.Mul(y, z) },
	} {
		fn()
		out(y...)
	}
	p := s.LogitPair(numbers(5000), numbers(5000))
	out64(p.KL, p.P.LogSumExp, p.Q.LogSumExp)
	dev := s.Deviation(numbers(5000), numbers(5000))
	out64(dev.Signal, dev.Other, dev.Dot, dev.Noise, dev.Max)
	for _, name := range []string{"q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "f16", "bf16"} {
		row := randomBlocks(rng, name, 512/blocks[name].elems, true)
		y := make([]float32, 512)
		s.DecodeRow(name)(y, row)
		out(y...)
		out(s.Dot(y, numbers(512)))
	}
	if got := h.Sum64(); got != portableDigest {
		t.Errorf("digest %#x, want %#x", got, uint64(portableDigest))
	}
}

const portableDigest = 0xa88431ea48a1e7e2
