// Codes of 8 bits: products of unsigned activations with signed weights, four to a lane of 32 bits, and what
// makes codes of their sums. Sums are exact at every level.
#pragma once
#include "vec.h"

typedef uint8_t vb __attribute__((vector_size(VL * 4)));
typedef uint8_t vbu __attribute__((vector_size(VL * 4), aligned(1)));
typedef uint8_t vn __attribute__((vector_size(VL))); // a byte for every lane
typedef uint8_t vnu __attribute__((vector_size(VL), aligned(1)));
typedef int16_t vs __attribute__((vector_size(VL * 4)));
typedef uint16_t vus __attribute__((vector_size(VL * 4)));

INLINE vb bytes(const void* p) { return *(const vbu*)p; }
INLINE vi alli(int32_t x) { return x - (vi){0}; }
INLINE vb allb(int x) { return (uint8_t)x - (vb){0}; }
INLINE vi ints(const int32_t* p) { return *(const viu*)p; }

// dot adds to every lane the products of four activations with four weights. Both are made ready once:
// processors without an instruction for it multiply in 16 bits, even and odd bytes apart, and those that only
// multiply signed codes take activations less FLIP, whose sums start FLIP times the sum of the weights higher.
#if defined(__x86_64__) && (defined(__AVX512VNNI__) || defined(__AVXVNNI__))
#define FLIP 0
typedef vb xq;
typedef vb wq;
INLINE xq ready_x(vb x) { return x; }
INLINE wq ready_w(vb w) { return w; }
#if VL == 16
INLINE vi dot(vi s, xq x, wq w) { return (vi)_mm512_dpbusd_epi32((__m512i)s, (__m512i)x, (__m512i)w); }
#else
INLINE vi dot(vi s, xq x, wq w) { return (vi)_mm256_dpbusd_avx_epi32((__m256i)s, (__m256i)x, (__m256i)w); }
#endif
#elif defined(__x86_64__)
#define FLIP 0
#define SPLIT 1
typedef struct { vs even, odd; } xq;
typedef xq wq;
INLINE xq ready_x(vb x) { return (xq){(vs)x & 255, (vs)((vus)x >> 8)}; }
INLINE wq ready_w(vb w) { return (wq){(vs)((vus)w << 8) >> 8, (vs)w >> 8}; }
#if VL == 16
INLINE vi mul_pairs(vs a, vs b) { return (vi)_mm512_madd_epi16((__m512i)a, (__m512i)b); }
#else
INLINE vi mul_pairs(vs a, vs b) { return (vi)_mm256_madd_epi16((__m256i)a, (__m256i)b); }
#endif
INLINE vi dot(vi s, xq x, wq w) { return s + mul_pairs(x.even, w.even) + mul_pairs(x.odd, w.odd); }
#else
typedef vb xq;
typedef vb wq;
INLINE wq ready_w(vb w) { return w; }
#if defined(__ARM_FEATURE_MATMUL_INT8)
#define FLIP 0
INLINE xq ready_x(vb x) { return x; }
INLINE vi dot(vi s, xq x, wq w) { return (vi)vusdotq_s32((int32x4_t)s, (uint8x16_t)x, (int8x16_t)w); }
#else
#define FLIP 128
INLINE xq ready_x(vb x) { return x ^ 128; }
#if defined(__ARM_FEATURE_DOTPROD)
INLINE vi dot(vi s, xq x, wq w) { return (vi)vdotq_s32((int32x4_t)s, (int8x16_t)x, (int8x16_t)w); }
#else
INLINE vi dot(vi s, xq x, wq w)
{
  int32x4_t lo = vpaddlq_s16(vmull_s8(vget_low_s8((int8x16_t)x), vget_low_s8((int8x16_t)w)));
  int32x4_t hi = vpaddlq_s16(vmull_high_s8((int8x16_t)x, (int8x16_t)w));
  return s + (vi)vpaddq_s32(lo, hi);
}
#endif
#endif
#endif

// spread is four activations in every lane.
typedef int32_t unaligned __attribute__((aligned(1)));
INLINE xq spread(const uint8_t* p)
{
  return ready_x((vb)alli(*(const unaligned*)p));
}

// nearest rounds to integers, ties to even.
INLINE vi nearest(vf v)
{
#if VL == 16
  return (vi)_mm512_cvtps_epi32((__m512)v);
#elif VL == 8
  return (vi)_mm256_cvtps_epi32((__m256)v);
#else
  return (vi)vcvtnq_s32_f32((float32x4_t)v);
#endif
}

INLINE vf floats(vi v) { return __builtin_convertvector(v, vf); }

// join packs four vectors of sums, less than 2^30 large, to bytes: element e of part q of vector v becomes byte
// 16q+4v+e, a part being 128 bits. Before it is cut to 0..255 a code is moved by zero. mix2 and mix4 are the
// other direction: of four vectors of bytes, vector v gets in each element byte 16q+4v+e of every one.
#if VL == 16
#define I(x) ((__m512i)(x))
INLINE vb join(vi a, vi b, vi c, vi d, vs zero)
{
  __m512i lo = _mm512_adds_epi16(_mm512_packs_epi32(I(a), I(b)), I(zero)), hi = _mm512_adds_epi16(_mm512_packs_epi32(I(c), I(d)), I(zero));
  return (vb)_mm512_packus_epi16(lo, hi);
}
#define LO8(a, b) ((vb)_mm512_unpacklo_epi8(I(a), I(b)))
#define HI8(a, b) ((vb)_mm512_unpackhi_epi8(I(a), I(b)))
#define LO16(a, b) ((vb)_mm512_unpacklo_epi16(I(a), I(b)))
#define HI16(a, b) ((vb)_mm512_unpackhi_epi16(I(a), I(b)))
#elif VL == 8
#define I(x) ((__m256i)(x))
INLINE vb join(vi a, vi b, vi c, vi d, vs zero)
{
  __m256i lo = _mm256_adds_epi16(_mm256_packs_epi32(I(a), I(b)), I(zero)), hi = _mm256_adds_epi16(_mm256_packs_epi32(I(c), I(d)), I(zero));
  return (vb)_mm256_packus_epi16(lo, hi);
}
#define LO8(a, b) ((vb)_mm256_unpacklo_epi8(I(a), I(b)))
#define HI8(a, b) ((vb)_mm256_unpackhi_epi8(I(a), I(b)))
#define LO16(a, b) ((vb)_mm256_unpacklo_epi16(I(a), I(b)))
#define HI16(a, b) ((vb)_mm256_unpackhi_epi16(I(a), I(b)))
#else
INLINE vb join(vi a, vi b, vi c, vi d, vs zero)
{
  int16x8_t lo = vcombine_s16(vqmovn_s32((int32x4_t)a), vqmovn_s32((int32x4_t)b));
  int16x8_t hi = vcombine_s16(vqmovn_s32((int32x4_t)c), vqmovn_s32((int32x4_t)d));
  lo = vqaddq_s16(lo, (int16x8_t)zero), hi = vqaddq_s16(hi, (int16x8_t)zero);
  return (vb)vcombine_u8(vqmovun_s16(lo), vqmovun_s16(hi));
}
#define LO8(a, b) ((vb)vzip1q_u8((uint8x16_t)(a), (uint8x16_t)(b)))
#define HI8(a, b) ((vb)vzip2q_u8((uint8x16_t)(a), (uint8x16_t)(b)))
#define LO16(a, b) ((vb)vzip1q_u16((uint16x8_t)(a), (uint16x8_t)(b)))
#define HI16(a, b) ((vb)vzip2q_u16((uint16x8_t)(a), (uint16x8_t)(b)))
#endif

INLINE void mix(vb* out, vb a, vb b, vb c, vb d)
{
  const vb ab = LO8(a, b), cd = LO8(c, d), AB = HI8(a, b), CD = HI8(c, d);
  out[0] = LO16(ab, cd);
  out[1] = HI16(ab, cd);
  out[2] = LO16(AB, CD);
  out[3] = HI16(AB, CD);
}

INLINE vb bound_bytes(vb v, vb lo, vb hi) { return __builtin_elementwise_min(__builtin_elementwise_max(v, lo), hi); }
INLINE vi bound_ints(vi v, vi lo, vi hi) { return __builtin_elementwise_min(__builtin_elementwise_max(v, lo), hi); }

// The first n bytes of a vector, and the same of a byte for every lane.
typedef uint64_t vw __attribute__((vector_size(VL * 4)));
INLINE void store_word(uint8_t* p, long n, uint64_t w)
{
  for (long i = 0; i < n && i < 8; i++, w >>= 8) p[i] = (uint8_t)w;
}
INLINE void store_first(uint8_t* p, long n, vb v)
{
#if VL == 16
  _mm512_mask_storeu_epi8(p, n >= 64 ? ~0ull : (1ull << n) - 1, (__m512i)v);
#else
#pragma clang loop unroll(full)
  for (int k = 0; k < VL / 2; k++) store_word(p + 8 * k, n - 8 * k, ((vw)v)[k]);
#endif
}
INLINE void store_lanes(uint8_t* p, long n, vi v)
{
  const vn b = __builtin_convertvector(v, vn);
  if (n >= VL) {
    *(vnu*)p = b;
    return;
  }
#if VL == 16
  _mm512_mask_cvtepi32_storeu_epi8(p, (__mmask16)((1u << n) - 1), (__m512i)v);
#elif VL == 8
  store_word(p, n, (uint64_t)b);
#else
  store_word(p, n, (uint32_t)b);
#endif
}
