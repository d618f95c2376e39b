package storage

import (
	"math"
	"testing"
)

// Every code of the small floats survives widening and rounding; the formats' own limits hold.
func TestSmallFloatsWhole(t *testing.T) {
	for i := range 1 << 16 {
		h := uint16(i)
		if v := F16ToF32(h); v == v && F32ToF16(v) != h {
			t.Fatalf("f16 %#04x -> %v -> %#04x", h, v, F32ToF16(v))
		}
		if v := math.Float32frombits(uint32(h) << 16); v == v && F32ToBF16(v) != h {
			t.Fatalf("bf16 %#04x -> %v -> %#04x", h, v, F32ToBF16(v))
		}
	}
	for i := range 256 {
		b := byte(i)
		if v := F8E4M3ToF32(b); v == v && F32ToF8E4M3(v) != b {
			t.Errorf("e4m3 %#02x -> %v -> %#02x", b, v, F32ToF8E4M3(v))
		}
		if v := F8E5M2ToF32(b); v == v && !math.IsInf(float64(v), 0) && F32ToF8E5M2(v) != b {
			t.Errorf("e5m2 %#02x -> %v -> %#02x", b, v, F32ToF8E5M2(v))
		}
	}
	for _, c := range []struct {
		in   float32
		want byte
	}{{448, 0x7e}, {464, 0x7e}, {1e9, 0x7e}, {-500, 0xfe}, {1.0 / 512, 1}, {1.0 / 1024, 0}, {1.5 / 512, 2}} {
		if got := F32ToF8E4M3(c.in); got != c.want {
			t.Errorf("e4m3(%v) = %#02x, want %#02x", c.in, got, c.want)
		}
	}
}
