// Products of int8 activations with tiles: sixteen rows of a stored type, interleaved by four bytes, so
// that a line of 64 bytes holds four consecutive codes of every row. What a line holds besides (two
// nibbles to a byte, say) is as in the stored type.
//
// Integer sums are exact. The float steps have one form and one order at every level.
#pragma once
#include "vec.h"

#define ROWS 16
#define PARTS (ROWS / VL) // vectors in a line; a part is VL rows
#define LINE 64
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
#define VNNI 1
#else
#define VNNI 0
#endif

typedef uint8_t vb __attribute__((vector_size(VL * 4)));
typedef uint8_t vbu __attribute__((vector_size(VL * 4), aligned(1)));
typedef int8_t vc __attribute__((vector_size(VL * 4)));
typedef uint32_t vu __attribute__((vector_size(VL * 4)));
typedef uint32_t vuu __attribute__((vector_size(VL * 4), aligned(4)));
typedef _Float16 vhalfu __attribute__((vector_size(VL * 2), aligned(1)));

// act is a block of 32 activations, d*q, with the sums that kernels need: start is MAGIC-128*sum(q) as
// the first value of an accumulator of codes that lie 128 too high, of the block and of its halves;
// sum is d*sum(q), and d16 is d/16.
struct act {
  int8_t q[32];
  float d;
  int32_t start, start16[2];
  float sum, sum16[2];
  float d16;
};

// An accumulator that starts at MAGIC holds the bits of the float MAGIC_F+sum, as sums stay below 2^22:
// one fused multiply-add with a factor and -MAGIC_F times the factor both converts and scales exactly,
// as factors have few bits.
#define MAGIC 0x4b400000
#define MAGIC_F 12582912.f

INLINE vi alli(int32_t x) { return x - (vi){0}; }
INLINE vb line(const uint8_t* w, long i) { return *(const vbu*)(w + LINE * i); }
INLINE void put(uint8_t* w, long i, vb v) { *(vbu*)(w + LINE * i) = v; }
INLINE vf halves(const uint8_t* w) { return __builtin_convertvector(*(const vhalfu*)w, vf); }

// dp adds to every lane the products of four codes, 0..127, with the activations 4l..4l+3 of q; dps
// takes codes -128..127. Where VNNI multiplies unsigned codes, those of dps are raised by 128, which
// sums that begin with the activations' start take back.
#if defined(__x86_64__)
typedef const int32_t* quads;
INLINE quads quads_of(const int8_t* q) { return (quads)q; }
#if defined(__AVX512VNNI__)
INLINE vi dp(vi s, vb u, quads q, int l) { return (vi)_mm512_dpbusd_epi32((__m512i)s, (__m512i)u, _mm512_set1_epi32(q[l])); }
#elif VNNI
INLINE vi dp(vi s, vb u, quads q, int l) { return (vi)_mm256_dpbusd_avx_epi32((__m256i)s, (__m256i)u, _mm256_set1_epi32(q[l])); }
#elif VL == 16
// pairs of products of 7-bit codes fit into 16 bits, and so do those of |-128|
INLINE vi pairs(vi s, __m512i u, __m512i a)
{
  return s + (vi)_mm512_madd_epi16(_mm512_maddubs_epi16(u, a), _mm512_set1_epi16(1));
}
INLINE vi dp(vi s, vb u, quads q, int l) { return pairs(s, (__m512i)u, _mm512_set1_epi32(q[l])); }
INLINE vi dps(vi s, vb c, quads q, int l)
{
  const __m512i a = _mm512_set1_epi32(q[l]);
  return pairs(s, _mm512_abs_epi8((__m512i)c), _mm512_mask_sub_epi8(a, _mm512_movepi8_mask((__m512i)c), _mm512_setzero_si512(), a));
}
#else
INLINE vi pairs(vi s, __m256i u, __m256i a)
{
  return s + (vi)_mm256_madd_epi16(_mm256_maddubs_epi16(u, a), _mm256_set1_epi16(1));
}
INLINE vi dp(vi s, vb u, quads q, int l) { return pairs(s, (__m256i)u, _mm256_set1_epi32(q[l])); }
INLINE vi dps(vi s, vb c, quads q, int l)
{
  return pairs(s, _mm256_abs_epi8((__m256i)c), _mm256_sign_epi8(_mm256_set1_epi32(q[l]), (__m256i)c));
}
#endif
#else
typedef int32x4_t quads;
INLINE quads quads_of(const int8_t* q) { return vld1q_s32((const int32_t*)q); }
#if defined(__ARM_FEATURE_DOTPROD)
INLINE vi dp(vi s, vb u, quads q, int l)
{
  return (vi)vdotq_s32((int32x4_t)s, (int8x16_t)u, (int8x16_t)vdupq_n_s32(q[l]));
}
#else
// two products fit into 16 bits
INLINE vi dp(vi s, vb u, quads q, int l)
{
  int8x16_t c = (int8x16_t)u, a = (int8x16_t)vdupq_n_s32(q[l]);
  int16x8_t lo = vmull_s8(vget_low_s8(c), vget_low_s8(a)), hi = vmull_high_s8(c, a);
  return (vi)vpadalq_s16((int32x4_t)s, vpaddq_s16(lo, hi));
}
#endif
INLINE vi dps(vi s, vb c, quads q, int l) { return dp(s, c, q, l); }
#endif

#if VNNI
INLINE vi dps(vi s, vb c, quads q, int l) { return dp(s, c ^ 128, q, l); }
#endif

// first_term is the product of a block's sum of codes, in an accumulator that began at MAGIC, with the
// factor of its weights; next_term adds that of its second half, where halves have their own factors.
INLINE vf first_term(vi s, vf factor) { return fma((vf)s, factor, factor * -MAGIC_F); }
INLINE vf next_term(vi s, vf factor, vf term) { return fma((vf)s - MAGIC_F, factor, term); }
