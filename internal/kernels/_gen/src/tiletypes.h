// Stored types in tiles: what a unit of sixteen rows by one block of the type holds, and how to read it.
//
// For every type: BYTES of a unit; OUTER*INNER groups of 32 weights in it; HALVES, 2 where every sixteen
// weights have a factor; MIN, 1 where there is a minimum beside it; ZERO, the code of weight zero.
// code reads codes 4j..4j+3 of a group for part r of the rows, factor and least the factor and the
// minimum of half h; what prepare unpacks once for a whole block, it leaves in s and d. Loops over outer
// stay loops, those over inner are unrolled.
//
// RAISED says whether codes 4j..4j+3 are high nibbles, which may stay where they are in their bytes, as 16
// times what they count, when code is asked to raise them: sums of their products are as exact as others.
#pragma once
#include "tables.h"
#include "tile.h"

#define AT(i) line(w + r * (LINE / PARTS), i)
#define HALVES_AT(offset) halves(w + (offset) + r * (LINE / 2 / PARTS))
#define PREPARE(type) INLINE void prepare_##type(const uint8_t* w, const int r, uint32_t* s, vf* d)
#define NO_PREPARE(type) PREPARE(type) {}
// READY is what prepare left in d where there are registers to keep it in, and made again elsewhere.
#define READY(i, again) (VL == 16 ? d[i] : (again))
#define CODE(type) INLINE vb code_##type(const uint8_t* w, const int r, long outer, const int inner, const int j, const int raise)
#define FACTOR(type) INLINE vf factor_##type(const uint8_t* w, const int r, const uint32_t* s, const vf* d, long outer, const int inner, const int h)
#define LEAST(type) INLINE vf least_##type(const uint8_t* w, const int r, const uint32_t* s, const vf* d, long outer, const int inner, const int h)
#define NO_LEAST(type) LEAST(type) { return all(0); }

// shr and shl shift the bits of bytes; what comes over from the next byte is for the caller to mask.
INLINE vb shr(vb v, long n) { return (vb)((vu)v >> (uint32_t)n); }
INLINE vb shl(vb v, long n) { return (vb)((vu)v << (uint32_t)n); }
INLINE vb nibble(vb v, const int high) { return (high ? shr(v, 4) : v) & 15; }
INLINE vb raised(vb v, const int high, const int raise) { return raise ? v & 240 : nibble(v, high); }
// byte_of is byte i of every lane as a number. upper_of is the same with a sign, times 2^24.
INLINE vf byte_of(vu v, const int i) { return __builtin_convertvector((vi)(v >> (8 * i) & 255), vf); }
INLINE vf upper_of(vu v, const int i) { return __builtin_convertvector((vi)(v << (24 - 8 * i) & 0xff000000), vf); }

INLINE void keep(uint32_t* s, long i, vu v) { *(vuu*)(s + VL * i) = v; }
INLINE vu kept(const uint32_t* s, long i) { return *(const vuu*)(s + VL * i); }

// q8_0: 8 lines of signed codes, d
#define BYTES_q8_0 544
#define OUTER_q8_0 1
#define INNER_q8_0 1
#define HALVES_q8_0 1
#define MIN_q8_0 0
#define ZERO_q8_0 0
#define RAISED_q8_0(inner, j) 0
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
#define RAISED_q4_0(inner, j) ((j) / 4)
NO_PREPARE(q4_0)
CODE(q4_0) { return raised(AT(j % 4), j / 4, raise); }
FACTOR(q4_0) { return HALVES_AT(256); }
NO_LEAST(q4_0)

// q4_1: 4 lines of nibbles, d, m
#define BYTES_q4_1 320
#define OUTER_q4_1 1
#define INNER_q4_1 1
#define HALVES_q4_1 1
#define MIN_q4_1 1
#define ZERO_q4_1 0
#define RAISED_q4_1(inner, j) ((j) / 4)
NO_PREPARE(q4_1)
CODE(q4_1) { return raised(AT(j % 4), j / 4, raise); }
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
#define RAISED_q5_0(inner, j) 0
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
#define RAISED_q5_1(inner, j) 0
NO_PREPARE(q5_1)
CODE(q5_1) { return nibble(AT(j % 4), j / 4) | bit(AT(4), j, 4); }
FACTOR(q5_1) { return HALVES_AT(320); }
LEAST(q5_1) { return HALVES_AT(352); }

// The K types: an outer step is half a block, 128 weights, an inner one 32 of them.

// prepare_k unpacks the 6-bit factors and minima of q4_k and q5_k from three lines, after which d and m
// come: groups 4i..4i+3 have bytes of vectors i and 2+i.
INLINE void prepare_k(const uint8_t* w, const int r, uint32_t* s, vf* d)
{
  d[0] = HALVES_AT(LINE * 3);
  d[1] = -HALVES_AT(LINE * 3 + 32);
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
#define RAISED_q4_k(inner, j) ((inner) % 2)
PREPARE(q4_k) { prepare_k(w + LINE * 32, r, s, d); }
CODE(q4_k) { return raised(AT(16 * outer + inner / 2 * 8 + j), inner % 2, raise); }
FACTOR(q4_k) { return READY(0, HALVES_AT(2240)) * byte_of(kept(s, outer), inner); }
LEAST(q4_k) { return READY(1, -HALVES_AT(2272)) * byte_of(kept(s, 2 + outer), inner); }

// q5_k: as q4_k, with 8 lines of fifth bits after the nibbles: see TOP
#define BYTES_q5_k 2816
#define OUTER_q5_k 2
#define INNER_q5_k 4
#define HALVES_q5_k 1
#define MIN_q5_k 1
#define ZERO_q5_k 0
#define RAISED_q5_k(inner, j) 0
PREPARE(q5_k) { prepare_k(w + LINE * 40, r, s, d); }
CODE(q5_k)
{
  return nibble(AT(16 * outer + inner / 2 * 8 + j), inner % 2) | bit(TOP(32), 4);
}
FACTOR(q5_k) { return READY(0, HALVES_AT(2752)) * byte_of(kept(s, outer), inner); }
LEAST(q5_k) { return READY(1, -HALVES_AT(2784)) * byte_of(kept(s, 2 + outer), inner); }

// q6_k: 32 lines of low nibbles, 16 of pairs of high bits, 4 of signed factors for every 16, d
#define BYTES_q6_k 3360
#define OUTER_q6_k 2
#define INNER_q6_k 4
#define HALVES_q6_k 2
#define MIN_q6_k 0
#define ZERO_q6_k 32
#define RAISED_q6_k(inner, j) 0
PREPARE(q6_k) { d[0] = HALVES_AT(3328) * 0x1p-24f; }
CODE(q6_k)
{
  const vb high = AT(32 + 8 * outer + j);
  return nibble(AT(16 * outer + inner % 2 * 8 + j), inner / 2) | ((inner < 2 ? shl(high, 4 - 2 * inner) : shr(high, 2 * inner - 4)) & 48);
}
FACTOR(q6_k) { return READY(0, HALVES_AT(3328) * 0x1p-24f) * upper_of((vu)AT(48 + 2 * outer + inner / 2), inner % 2 * 2 + h); }
NO_LEAST(q6_k)

// q2_k: 4 lines of factors (low nibbles) and minima for every 16, 16 lines of codes, d, m
#define BYTES_q2_k 1344
#define OUTER_q2_k 2
#define INNER_q2_k 4
#define HALVES_q2_k 2
#define MIN_q2_k 1
#define ZERO_q2_k 0
#define RAISED_q2_k(inner, j) 0
PREPARE(q2_k)
{
  d[0] = HALVES_AT(1280);
  d[1] = -HALVES_AT(1312);
}
CODE(q2_k) { return shr(AT(4 + 8 * outer + j), 2 * inner) & 3; }
FACTOR(q2_k) { return READY(0, HALVES_AT(1280)) * byte_of((vu)AT(2 * outer + inner / 2) & 0x0f0f0f0f, inner % 2 * 2 + h); }
LEAST(q2_k) { return READY(1, -HALVES_AT(1312)) * byte_of((vu)AT(2 * outer + inner / 2) >> 4 & 0x0f0f0f0f, inner % 2 * 2 + h); }

// q3_k: 8 lines of third bits, 16 lines of the lower two, 3 of factors for every 16, d
#define BYTES_q3_k 1760
#define OUTER_q3_k 2
#define INNER_q3_k 4
#define HALVES_q3_k 2
#define MIN_q3_k 0
#define ZERO_q3_k 4
#define RAISED_q3_k(inner, j) 0
PREPARE(q3_k)
{
  d[0] = HALVES_AT(1728);
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
FACTOR(q3_k) { return READY(0, HALVES_AT(1728)) * (byte_of(kept(s, 2 * outer + inner / 2), inner % 2 * 2 + h) - 32); }
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

// iq4_nl: as q4_0, the nibbles index a table
#define BYTES_iq4_nl 288
#define OUTER_iq4_nl 1
#define INNER_iq4_nl 1
#define HALVES_iq4_nl 1
#define MIN_iq4_nl 0
#define ZERO_iq4_nl 0
#define RAISED_iq4_nl(inner, j) 0
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
#define RAISED_mxfp4(inner, j) 0
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
#define RAISED_iq4_xs(inner, j) 0
typedef uint16_t vshortu __attribute__((vector_size(VL * 2), aligned(1)));
PREPARE(iq4_xs) { d[0] = HALVES_AT(2144); }
CODE(iq4_xs) { return look(nonlinear, nibble(AT(16 * outer + 4 * inner + j % 4), j / 4)); }
FACTOR(iq4_xs)
{
  const vu low = (vu)AT(32) >> (uint32_t)(16 * outer + 4 * inner) & 15;
  const vu high = __builtin_convertvector(*(const vshortu*)(w + 2112 + r * (VL * 2)), vu) >> (uint32_t)(8 * outer + 2 * inner) & 3;
  return READY(0, HALVES_AT(2144)) * (__builtin_convertvector((vi)(low | high << 4), vf) - 32);
}
NO_LEAST(iq4_xs)

// APART keeps the compiler from loading the codes of several groups at once: it would have nowhere to
// keep them.
#define APART __asm__ volatile("" ::: "memory")

// fetch asks for lines before they are used: those that lie FAR ahead shall come to the second cache,
// those that lie NEAR to the first. One distance is not enough. The first cache waits for few lines at a
// time, and while arithmetic holds up the next requests, memory would rest. Every part asks for its
// share. To ask beyond the end of what there is does no harm.
#define FAR 8192
#define NEAR 4096
INLINE void fetch(const uint8_t* w, const int bytes)
{
#pragma clang loop unroll(full)
  for (int i = 0; i < bytes; i += LINE * PARTS) {
    __builtin_prefetch(w + FAR + i, 0, 2);
    __builtin_prefetch(w + NEAR + i, 0, 3);
  }
}

// accumulate adds the products of four codes of every row, of whatever kind the type has.
#define ACCUMULATE(type, sum, c, q, l) (ZERO_##type == 0 && !MIN_##type ? dps(sum, c, q, l) : dp(sum, c, q, l))

// Products that wait for each other leave units idle, so there are two sums where registers allow. The
// first one begins with nothing.
#define TWO_SUMS(type) (HALVES_##type == 1 && (VL == 16 || (VNNI && RAISED_##type(0, 7) != RAISED_##type(0, 0))))

// start_of is the first value of a sum of codes that lie zero too high and are multiplied by times.
INLINE int32_t start_of(int32_t start, const int zero, const int times)
{
  return zero ? MAGIC + (start - MAGIC) / (128 / (zero * times)) : MAGIC;
}

// one is a unit with one token: what it adds to the sums of part r.
#define ONE(type) \
INLINE vf one_##type(const uint8_t* w, const int r, const struct act* x, long step, vf acc) \
{ \
  uint32_t s[4 * VL]; \
  vf d[2]; \
  prepare_##type(w, r, s, d); \
  _Pragma("clang loop unroll(disable)") \
  for (long outer = 0; outer < OUTER_##type; outer++) { \
    _Pragma("clang loop unroll(full)") \
    for (int inner = 0; inner < INNER_##type; inner++, x += step) { \
      APART; \
      fetch(w + r * LINE + (outer * INNER_##type + inner) * (BYTES_##type / (OUTER_##type * INNER_##type)), BYTES_##type / (OUTER_##type * INNER_##type)); \
      const quads q[2] = {quads_of(x->q), quads_of(x->q + 16)}; \
      const int times = VNNI && RAISED_##type(inner, 7) ? 16 : 1; /* the sum is so many times as large */ \
      vf t = all(0); \
      _Pragma("clang loop unroll(full)") \
      for (int h = 0; h < HALVES_##type; h++) { \
        const int32_t start = HALVES_##type == 1 ? x->start : x->start16[h]; \
        vi low = alli(0), sum = alli(ZERO_##type || MIN_##type || !VNNI ? start_of(start, ZERO_##type, times) : start); \
        _Pragma("clang loop unroll(full)") \
        for (int j = h * 4; j < (h + 1) * (8 / HALVES_##type); j++) { \
          const vb c = code_##type(w, r, outer, inner, j, VNNI && RAISED_##type(inner, j)); \
          if (TWO_SUMS(type) && j < 4) low = ACCUMULATE(type, low, c, q[0], j); \
          else sum = ACCUMULATE(type, sum, c, q[j / 4], j % 4); \
        } \
        if (TWO_SUMS(type)) sum += times == 16 && !RAISED_##type(inner, 0) ? low << 4 : low; \
        const vf f = factor_##type(w, r, s, d, outer, inner, h); \
        t = h == 0 ? first_term(sum, f) : next_term(sum, f, t); \
      } \
      acc = fma(t, all(times == 16 ? x->d16 : x->d), acc); \
      if (MIN_##type) { \
        _Pragma("clang loop unroll(full)") \
        for (int h = 0; h < HALVES_##type; h++) \
          acc = fma(least_##type(w, r, s, d, outer, inner, h), all(HALVES_##type == 1 ? x->sum : x->sum16[h]), acc); \
      } \
    } \
  } \
  return acc; \
}
