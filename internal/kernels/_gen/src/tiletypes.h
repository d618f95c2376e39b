// Stored types in tiles: what a unit of sixteen rows by one block of the type holds, and how to read it.
//
// For every type: BYTES of a unit; OUTER*INNER groups of 32 weights in it; HALVES, 2 where every sixteen
// weights have a factor; MIN, 1 where there is a minimum beside it; ZERO, the code of weight zero.
// code reads codes 4j..4j+3 of a group for part r of the rows, factor and least the factor and the
// minimum of half h. Loops over outer stay loops, those over inner are unrolled.
#pragma once
#include "tile.h"

#define AT(i) line(w + r * (LINE / PARTS), i)
#define HALVES_AT(offset) halves(w + (offset) + r * (LINE / 2 / PARTS))
#define CODE(type) INLINE vb code_##type(const uint8_t* w, const int r, long outer, const int inner, const int j)
#define FACTOR(type) INLINE vf factor_##type(const uint8_t* w, const int r, long outer, const int inner, const int h)
#define LEAST(type) INLINE vf least_##type(const uint8_t* w, const int r, long outer, const int inner, const int h)
#define NO_LEAST(type) LEAST(type) { return all(0); }

// q8_0: 8 lines of signed codes, d
#define BYTES_q8_0 544
#define OUTER_q8_0 1
#define INNER_q8_0 1
#define HALVES_q8_0 1
#define MIN_q8_0 0
#define ZERO_q8_0 0
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
CODE(q4_0) { return j < 4 ? AT(j) & 15 : AT(j - 4) >> 4; }
FACTOR(q4_0) { return HALVES_AT(256); }
NO_LEAST(q4_0)

// one is a unit with one token: what it adds to the sums of part r.
#define ONE(type) \
INLINE vf one_##type(const uint8_t* w, const int r, const struct act* x, vf acc) \
{ \
  _Pragma("clang loop unroll(disable)") \
  for (long outer = 0; outer < OUTER_##type; outer++) { \
    _Pragma("clang loop unroll(full)") \
    for (int inner = 0; inner < INNER_##type; inner++, x++) { \
      const quads q[2] = {quads_of(x->q), quads_of(x->q + 16)}; \
      vf t = all(0); \
      _Pragma("clang loop unroll(full)") \
      for (int h = 0; h < HALVES_##type; h++) { \
        const int32_t start = HALVES_##type == 1 ? x->start : x->start16[h]; \
        vi s = alli(ZERO_##type == 0 ? (MIN_##type || !VNNI ? MAGIC : start) : MAGIC + (start - MAGIC) / 128 * ZERO_##type); \
        _Pragma("clang loop unroll(full)") \
        for (int j = h * 4; j < (h + 1) * (8 / HALVES_##type) ; j++) { \
          const vb c = code_##type(w, r, outer, inner, j); \
          s = ZERO_##type == 0 && !MIN_##type ? dps(s, c, q[j / 4], j % 4) : dp(s, c, q[j / 4], j % 4); \
        } \
        const vf f = factor_##type(w, r, outer, inner, h); \
        t = h == 0 ? first_term(s, f) : next_term(s, f, t); \
      } \
      acc = fma(t, all(x->d), acc); \
      if (MIN_##type) { \
        _Pragma("clang loop unroll(full)") \
        for (int h = 0; h < HALVES_##type; h++) \
          acc = fma(least_##type(w, r, outer, inner, h), all(HALVES_##type == 1 ? x->sum : x->sum16[h]), acc); \
      } \
    } \
  } \
  return acc; \
}
