// Stored types in tiles: what a unit of sixteen rows by one block of the type holds, and how to read it.
//
// For every type: BYTES of a unit; OUTER*INNER groups of 32 weights in it; HALVES, 2 where every sixteen
// weights have a factor; MIN, 1 where there is a minimum beside it; ZERO, the code of weight zero.
// code reads codes 4j..4j+3 of a group for part r of the rows, factor and least the factor and the
// minimum of half h; what factors of a whole block are unpacked together is left in s by prepare. Loops over outer stay loops, those over inner are unrolled.
#pragma once
#include "tile.h"

#define AT(i) line(w + r * (LINE / PARTS), i)
#define HALVES_AT(offset) halves(w + (offset) + r * (LINE / 2 / PARTS))
#define PREPARE(type) INLINE void prepare_##type(const uint8_t* w, const int r, uint32_t* s)
#define NO_PREPARE(type) PREPARE(type) {}
#define CODE(type) INLINE vb code_##type(const uint8_t* w, const int r, long outer, const int inner, const int j)
#define FACTOR(type) INLINE vf factor_##type(const uint8_t* w, const int r, const uint32_t* s, long outer, const int inner, const int h)
#define LEAST(type) INLINE vf least_##type(const uint8_t* w, const int r, const uint32_t* s, long outer, const int inner, const int h)
#define NO_LEAST(type) LEAST(type) { return all(0); }

// shr and shl shift the bits of bytes; what comes over from the next byte is for the caller to mask.
INLINE vb shr(vb v, long n) { return (vb)((vu)v >> (uint32_t)n); }
INLINE vb shl(vb v, long n) { return (vb)((vu)v << (uint32_t)n); }
INLINE vb nibble(vb v, const int high) { return (high ? shr(v, 4) : v) & 15; }
// byte_of is byte i of every lane as a number, sbyte_of the same with a sign.
INLINE vf byte_of(vu v, const int i) { return __builtin_convertvector((vi)(v >> (8 * i) & 255), vf); }
INLINE vf sbyte_of(vu v, const int i) { return __builtin_convertvector((vi)(v << (24 - 8 * i)) >> 24, vf); }

INLINE void keep(uint32_t* s, long i, vu v) { *(vuu*)(s + VL * i) = v; }
INLINE vu kept(const uint32_t* s, long i) { return *(const vuu*)(s + VL * i); }

// q8_0: 8 lines of signed codes, d
#define BYTES_q8_0 544
#define OUTER_q8_0 1
#define INNER_q8_0 1
#define HALVES_q8_0 1
#define MIN_q8_0 0
#define ZERO_q8_0 0
NO_PREPARE(q8_0)
CODE(q8_0) { return AT(j); }
FACTOR(q8_0) { return HALVES_AT(512); }
NO_LEAST(q8_0)

// q4_0: 4 lines of nibbles, the low ones of codes 0..15, d
#define BYTES_q4_0 288
#define OUTER_q4_0 1
#define INNER_q4_0 1
#define HALVES_q4_0 1
#define MIN_q4_0 0
#define ZERO_q4_0 8
NO_PREPARE(q4_0)
CODE(q4_0) { return nibble(AT(j % 4), j / 4); }
FACTOR(q4_0) { return HALVES_AT(256); }
NO_LEAST(q4_0)

// q4_1: 4 lines of nibbles, d, m
#define BYTES_q4_1 320
#define OUTER_q4_1 1
#define INNER_q4_1 1
#define HALVES_q4_1 1
#define MIN_q4_1 1
#define ZERO_q4_1 0
NO_PREPARE(q4_1)
CODE(q4_1) { return nibble(AT(j % 4), j / 4); }
FACTOR(q4_1) { return HALVES_AT(256); }
LEAST(q4_1) { return HALVES_AT(288); }

// bit moves a bit of every byte to another place.
INLINE vb bit(vb v, const int from, const int to) { return (from < to ? shl(v, to - from) : shr(v, from - to)) & (uint8_t)(1 << to); }

// q5_0: 4 lines of nibbles, a line of fifth bits, bit j for codes 4j..4j+3, d
#define BYTES_q5_0 352
#define OUTER_q5_0 1
#define INNER_q5_0 1
#define HALVES_q5_0 1
#define MIN_q5_0 0
#define ZERO_q5_0 16
NO_PREPARE(q5_0)
CODE(q5_0) { return nibble(AT(j % 4), j / 4) | bit(AT(4), j, 4); }
FACTOR(q5_0) { return HALVES_AT(320); }
NO_LEAST(q5_0)

// q5_1: as q5_0, then m
#define BYTES_q5_1 384
#define OUTER_q5_1 1
#define INNER_q5_1 1
#define HALVES_q5_1 1
#define MIN_q5_1 1
#define ZERO_q5_1 0
NO_PREPARE(q5_1)
CODE(q5_1) { return nibble(AT(j % 4), j / 4) | bit(AT(4), j, 4); }
FACTOR(q5_1) { return HALVES_AT(320); }
LEAST(q5_1) { return HALVES_AT(352); }

// The K types: an outer step is half a block, 128 weights, an inner one 32 of them.

// prepare_k unpacks the 6-bit factors and minima of q4_k and q5_k from three lines: groups 4i..4i+3
// have bytes of vectors i and 2+i.
INLINE void prepare_k(const uint8_t* w, const int r, uint32_t* s)
{
  const vu a = (vu)AT(0), b = (vu)AT(1), c = (vu)AT(2);
  keep(s, 0, a & 0x3f3f3f3f);
  keep(s, 1, (c & 0x0f0f0f0f) | (a >> 2 & 0x30303030));
  keep(s, 2, b & 0x3f3f3f3f);
  keep(s, 3, (c >> 4 & 0x0f0f0f0f) | (b >> 2 & 0x30303030));
}

// TOP is the place of the highest bits of q5_k and q3_k, in lines from first on: half a block has four,
// with a nibble for its four groups for either of two j.
#define TOP(first) AT((first) + 4 * outer + j / 2), j % 2 * 4 + inner

// q4_k: 32 lines of nibbles, 3 of factors, d, m; the eight lines of 64 weights have the first 32 low
#define BYTES_q4_k 2304
#define OUTER_q4_k 2
#define INNER_q4_k 4
#define HALVES_q4_k 1
#define MIN_q4_k 1
#define ZERO_q4_k 0
PREPARE(q4_k) { prepare_k(w + LINE * 32, r, s); }
CODE(q4_k) { return nibble(AT(16 * outer + inner / 2 * 8 + j), inner % 2); }
FACTOR(q4_k) { return HALVES_AT(2240) * byte_of(kept(s, outer), inner); }
LEAST(q4_k) { return -HALVES_AT(2272) * byte_of(kept(s, 2 + outer), inner); }

// q5_k: as q4_k, with 8 lines of fifth bits after the nibbles: see TOP
#define BYTES_q5_k 2816
#define OUTER_q5_k 2
#define INNER_q5_k 4
#define HALVES_q5_k 1
#define MIN_q5_k 1
#define ZERO_q5_k 0
PREPARE(q5_k) { prepare_k(w + LINE * 40, r, s); }
CODE(q5_k)
{
  return nibble(AT(16 * outer + inner / 2 * 8 + j), inner % 2) | bit(TOP(32), 4);
}
FACTOR(q5_k) { return HALVES_AT(2752) * byte_of(kept(s, outer), inner); }
LEAST(q5_k) { return -HALVES_AT(2784) * byte_of(kept(s, 2 + outer), inner); }

// q6_k: 32 lines of low nibbles, 16 of pairs of high bits, 4 of signed factors for every 16, d
#define BYTES_q6_k 3360
#define OUTER_q6_k 2
#define INNER_q6_k 4
#define HALVES_q6_k 2
#define MIN_q6_k 0
#define ZERO_q6_k 32
NO_PREPARE(q6_k)
CODE(q6_k)
{
  const vb high = AT(32 + 8 * outer + j);
  return nibble(AT(16 * outer + inner % 2 * 8 + j), inner / 2) | ((inner < 2 ? shl(high, 4 - 2 * inner) : shr(high, 2 * inner - 4)) & 48);
}
FACTOR(q6_k) { return HALVES_AT(3328) * sbyte_of((vu)AT(48 + 2 * outer + inner / 2), inner % 2 * 2 + h); }
NO_LEAST(q6_k)

// q2_k: 4 lines of factors (low nibbles) and minima for every 16, 16 lines of codes, d, m
#define BYTES_q2_k 1344
#define OUTER_q2_k 2
#define INNER_q2_k 4
#define HALVES_q2_k 2
#define MIN_q2_k 1
#define ZERO_q2_k 0
NO_PREPARE(q2_k)
CODE(q2_k) { return shr(AT(4 + 8 * outer + j), 2 * inner) & 3; }
FACTOR(q2_k) { return HALVES_AT(1280) * byte_of((vu)AT(2 * outer + inner / 2) & 0x0f0f0f0f, inner % 2 * 2 + h); }
LEAST(q2_k) { return -HALVES_AT(1312) * byte_of((vu)AT(2 * outer + inner / 2) >> 4 & 0x0f0f0f0f, inner % 2 * 2 + h); }

// q3_k: 8 lines of third bits, 16 lines of the lower two, 3 of factors for every 16, d
#define BYTES_q3_k 1760
#define OUTER_q3_k 2
#define INNER_q3_k 4
#define HALVES_q3_k 2
#define MIN_q3_k 0
#define ZERO_q3_k 4
PREPARE(q3_k)
{
  const vu a = (vu)AT(24), b = (vu)AT(25), c = (vu)AT(26);
  keep(s, 0, (a & 0x0f0f0f0f) | (c << 4 & 0x30303030));
  keep(s, 1, (b & 0x0f0f0f0f) | (c << 2 & 0x30303030));
  keep(s, 2, (a >> 4 & 0x0f0f0f0f) | (c & 0x30303030));
  keep(s, 3, (b >> 4 & 0x0f0f0f0f) | (c >> 2 & 0x30303030));
}
CODE(q3_k)
{
  return (shr(AT(8 + 8 * outer + j), 2 * inner) & 3) | bit(TOP(0), 2);
}
FACTOR(q3_k) { return HALVES_AT(1728) * (byte_of(kept(s, 2 * outer + inner / 2), inner % 2 * 2 + h) - 32); }
NO_LEAST(q3_k)

// look takes the values of nibbles from a table of sixteen.
INLINE vb look(const int8_t* table, vb nibbles)
{
#if VL == 16
  return (vb)_mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)table)), (__m512i)nibbles);
#elif VL == 8
  return (vb)_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)table)), (__m256i)nibbles);
#else
  return (vb)vqtbl1q_s8(vld1q_s8(table), nibbles);
#endif
}
static const int8_t nonlinear[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
static const int8_t tiny_floats[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// iq4_nl: as q4_0, the nibbles index a table
#define BYTES_iq4_nl 288
#define OUTER_iq4_nl 1
#define INNER_iq4_nl 1
#define HALVES_iq4_nl 1
#define MIN_iq4_nl 0
#define ZERO_iq4_nl 0
NO_PREPARE(iq4_nl)
CODE(iq4_nl) { return look(nonlinear, nibble(AT(j % 4), j / 4)); }
FACTOR(iq4_nl) { return HALVES_AT(256); }
NO_LEAST(iq4_nl)

// mxfp4: the same with twice the values of E2M1 floats, and a byte e for the factor 2^(e-128)
#define BYTES_mxfp4 272
#define OUTER_mxfp4 1
#define INNER_mxfp4 1
#define HALVES_mxfp4 1
#define MIN_mxfp4 0
#define ZERO_mxfp4 0
typedef uint8_t vsmallu __attribute__((vector_size(VL), aligned(1)));
NO_PREPARE(mxfp4)
CODE(mxfp4) { return look(tiny_floats, nibble(AT(j % 4), j / 4)); }
FACTOR(mxfp4)
{
  const vu e = __builtin_convertvector(*(const vsmallu*)(w + 256 + r * VL), vu);
  const vi subnormal = (vi)(e < 2);
  return sel(subnormal, (vf)((e + 1) << 21), (vf)((e - 1) << 23)); // 2^-128 and 2^-127 for 0 and 1
}
NO_LEAST(mxfp4)

// iq4_xs: 4 lines of nibbles for every group, a line of the low four bits of its factors, two bytes with
// the upper two bits, d
#define BYTES_iq4_xs 2176
#define OUTER_iq4_xs 2
#define INNER_iq4_xs 4
#define HALVES_iq4_xs 1
#define MIN_iq4_xs 0
#define ZERO_iq4_xs 0
typedef uint16_t vshortu __attribute__((vector_size(VL * 2), aligned(1)));
NO_PREPARE(iq4_xs)
CODE(iq4_xs) { return look(nonlinear, nibble(AT(16 * outer + 4 * inner + j % 4), j / 4)); }
FACTOR(iq4_xs)
{
  const vu low = (vu)AT(32) >> (uint32_t)(16 * outer + 4 * inner) & 15;
  const vu high = __builtin_convertvector(*(const vshortu*)(w + 2112 + r * (VL * 2)), vu) >> (uint32_t)(8 * outer + 2 * inner) & 3;
  return HALVES_AT(2144) * (__builtin_convertvector((vi)(low | high << 4), vf) - 32);
}
NO_LEAST(iq4_xs)

// APART keeps the compiler from loading the codes of several groups at once: it would have nowhere to
// keep them.
#define APART __asm__ volatile("" ::: "memory")

// fetch asks for the lines that lie AHEAD of those in use. A core that waits for each line as it comes to
// it reads at half the speed of memory. Every part asks for its share. To ask beyond the end of what
// there is does no harm.
#ifndef AHEAD
#define AHEAD 4096
#endif
INLINE void fetch(const uint8_t* w, const int bytes)
{
#pragma clang loop unroll(full)
  for (int i = 0; i < bytes; i += LINE * PARTS) __builtin_prefetch(w + AHEAD + i);
}

// one is a unit with one token: what it adds to the sums of part r.
#define ONE(type) \
INLINE vf one_##type(const uint8_t* w, const int r, const struct act* x, long step, vf acc) \
{ \
  uint32_t s[4 * VL]; \
  prepare_##type(w, r, s); \
  _Pragma("clang loop unroll(disable)") \
  for (long outer = 0; outer < OUTER_##type; outer++) { \
    _Pragma("clang loop unroll(full)") \
    for (int inner = 0; inner < INNER_##type; inner++, x += step) { \
      APART; \
      fetch(w + r * LINE + (outer * INNER_##type + inner) * (BYTES_##type / (OUTER_##type * INNER_##type)), BYTES_##type / (OUTER_##type * INNER_##type)); \
      const quads q[2] = {quads_of(x->q), quads_of(x->q + 16)}; \
      vf t = all(0); \
      _Pragma("clang loop unroll(full)") \
      for (int h = 0; h < HALVES_##type; h++) { \
        const int32_t start = HALVES_##type == 1 ? x->start : x->start16[h]; \
        vi sum = alli(ZERO_##type == 0 ? (MIN_##type || !VNNI ? MAGIC : start) : MAGIC + (start - MAGIC) / 128 * ZERO_##type); \
        _Pragma("clang loop unroll(full)") \
        for (int j = h * 4; j < (h + 1) * (8 / HALVES_##type) ; j++) { \
          const vb c = code_##type(w, r, outer, inner, j); \
          sum = ZERO_##type == 0 && !MIN_##type ? dps(sum, c, q[j / 4], j % 4) : dp(sum, c, q[j / 4], j % 4); \
        } \
        const vf f = factor_##type(w, r, s, outer, inner, h); \
        t = h == 0 ? first_term(sum, f) : next_term(sum, f, t); \
      } \
      acc = fma(t, all(x->d), acc); \
      if (MIN_##type) { \
        _Pragma("clang loop unroll(full)") \
        for (int h = 0; h < HALVES_##type; h++) \
          acc = fma(least_##type(w, r, s, outer, inner, h), all(HALVES_##type == 1 ? x->sum : x->sum16[h]), acc); \
      } \
    } \
  } \
  return acc; \
}
