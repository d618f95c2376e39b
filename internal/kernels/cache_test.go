package kernels

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/x448/float16"
)

// Stored keys and values come back as the nearest half, or within half a step of their 8-bit code, from
// the places where they belong; every level stores the same bits as the portable one.
func TestCache(t *testing.T) {
	levels(t, func(t *testing.T, s *Set) {
		rng := newRand()
		for _, dim := range []int{2, 16, 20, 32, 64, 96, 128} {
			const room, at, n = 64, 27, 21
			k, v := matrix(rng, n, dim, 3), matrix(rng, n, dim, 5)
			k.Row(3)[0] = 1e-7 // subnormal in half precision
			clear(k.Row(4))    // a scale of zero
			place := Place{k, v, at}

			kh, vh := make([]uint16, room*dim), make([]uint16, room*dim)
			s.PutF16(kh, vh, place)
			wide, check := guarded(room * dim)
			s.Widen(wide, kh)
			check(t)
			kf, checkK := guarded(room * dim)
			vf, checkV := guarded(room * dim)
			clear(kf)
			clear(vf)
			s.PutF32(kf, vf, place)
			checkK(t)
			checkV(t)
			for j := range room {
				for d := range dim {
					var key, value float32
					if j >= at && j < at+n {
						key, value = k.Row(j - at)[d], v.Row(j - at)[d]
					}
					i := keyAt(dim, j, d)
					if kf[i] != key || vf[j*dim+d] != value {
						t.Fatalf("dim %d: position %d element %d is not where it belongs", dim, j, d)
					}
					near(t, fmt.Sprintf("dim %d: half of position %d element %d", dim, j, d), float64(wide[i]), float64(key), math.Abs(float64(key))/2048+6e-8)
					if want := float16.Fromfloat32(value).Bits(); vh[j*dim+d] != want {
						t.Fatalf("dim %d: half %#x of %v, want %#x", dim, vh[j*dim+d], value, want)
					}
				}
			}
			if dim%32 != 0 {
				continue
			}
			quants := func() Quants { return Quants{make([]int8, room*dim), make([]uint16, room*dim/32)} }
			kq, vq, kp, vp := quants(), quants(), quants(), quants()
			s.PutQ8(kq, vq, place)
			(&Set{}).PutQ8(kp, vp, place)
			if !slices.Equal(kq.Codes, kp.Codes) || !slices.Equal(vq.Codes, vp.Codes) || !slices.Equal(kq.Scales, kp.Scales) || !slices.Equal(vq.Scales, vp.Scales) {
				t.Fatalf("dim %d: other codes than the portable level", dim)
			}
			keys, checkKeys := guarded(room * dim)
			values, checkValues := guarded(room * dim)
			s.KeysQ8(keys, kq, dim)
			s.ValuesQ8(values, vq, dim)
			checkKeys(t)
			checkValues(t)
			for j := at; j < at+n; j++ {
				for b := 0; b < dim; b += 32 {
					kr, vr := k.Row(j - at)[b:b+32], v.Row(j - at)[b:b+32]
					mk, mv := 0., 0.
					for l := range 32 {
						mk, mv = max(mk, math.Abs(float64(kr[l]))), max(mv, math.Abs(float64(vr[l])))
					}
					for l := range 32 { // half a step, and what the scale loses in half precision
						near(t, "key", float64(keys[keyAt(dim, j, b+l)]), float64(kr[l]), mk*(0.5/127+1./2048)+1e-12)
						near(t, "value", float64(values[j*dim+b+l]), float64(vr[l]), mv*(0.5/127+1./2048)+1e-12)
					}
				}
			}
		}
	})
}

// NaN and infinities do not pass for numbers: their blocks come back as NaN, and only those.
func TestCacheSpecial(t *testing.T) {
	levels(t, func(t *testing.T, s *Set) {
		const dim, n = 64, 32
		for _, c := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
			for d := range 32 {
				k, v := matrix(newRand(), n, dim, 3), matrix(newRand(), n, dim, 5)
				k.Row(7)[d], v.Row(9)[32+d] = float32(c), float32(c)
				kq, vq := Quants{make([]int8, n*dim), make([]uint16, n*dim/32)}, Quants{make([]int8, n*dim), make([]uint16, n*dim/32)}
				s.PutQ8(kq, vq, Place{k, v, 0})
				kp, vp := Quants{make([]int8, n*dim), make([]uint16, n*dim/32)}, Quants{make([]int8, n*dim), make([]uint16, n*dim/32)}
				(&Set{}).PutQ8(kp, vp, Place{k, v, 0})
				if !slices.Equal(kq.Codes, kp.Codes) || !slices.Equal(vq.Codes, vp.Codes) || !slices.Equal(kq.Scales, kp.Scales) || !slices.Equal(vq.Scales, vp.Scales) {
					t.Fatalf("%v at %d: other codes than the portable level", c, d)
				}
				keys, values := make([]float32, n*dim), make([]float32, n*dim)
				s.KeysQ8(keys, kq, dim)
				s.ValuesQ8(values, vq, dim)
				for j := range n {
					for e := range dim {
						key, value := keys[keyAt(dim, j, e)], values[j*dim+e]
						if (key != key) != (j == 7 && e < 32) || (value != value) != (j == 9 && e >= 32) {
							t.Fatalf("%v at %d: position %d element %d is %v, %v", c, d, j, e, key, value)
						}
					}
				}
			}
		}
	})
}
