// Vectors across rows of numbers that lie along the rows: transpositions in registers.
#pragma once
#include "vec.h"

// IN_QUARTERS is a shuffle of two vectors that does the same in every quarter of 128 bits.
#if VL == 16
#define IN_QUARTERS(a, b, c, d, e, f) \
  SHUF(a, b, c, d, e, f, c + 4, d + 4, e + 4, f + 4, c + 8, d + 8, e + 8, f + 8, c + 12, d + 12, e + 12, f + 12)
#elif VL == 8
#define IN_QUARTERS(a, b, c, d, e, f) SHUF(a, b, c, d, e, f, c + 4, d + 4, e + 4, f + 4)
#else
#define IN_QUARTERS(a, b, c, d, e, f) SHUF(a, b, c, d, e, f)
#endif

// COLUMNS makes vectors across VL rows, v[0..3] at k = t..t+3, of four numbers from each row. The
// rows of a quarter are adjacent, so quarters are put together as they are loaded and then
// transposed each in itself. w is the first row, ld the distance of rows.
#if VL == 16
#define PAIR(L, i) SHUF(L(i), L(i + 4), 0, 1, 2, 3, 4, 5, 6, 7)
#define JOIN(L, i) SHUF(PAIR(L, i), PAIR(L, i + 8), 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
#elif VL == 8
#define JOIN(L, i) SHUF(L(i), L(i + 4), 0, 1, 2, 3, 4, 5, 6, 7)
#else
#define JOIN(L, i) L(i)
#endif
#define ROW(i) (*(const f4u*)(w + (i) * ld + t))
#define COLUMNS(v) \
  { \
    vf a = JOIN(ROW, 0), b = JOIN(ROW, 1), c = JOIN(ROW, 2), d = JOIN(ROW, 3); \
    vf ab = IN_QUARTERS(a, b, 0, VL, 1, VL + 1), AB = IN_QUARTERS(a, b, 2, VL + 2, 3, VL + 3); \
    vf cd = IN_QUARTERS(c, d, 0, VL, 1, VL + 1), CD = IN_QUARTERS(c, d, 2, VL + 2, 3, VL + 3); \
    v[0] = IN_QUARTERS(ab, cd, 0, 1, VL, VL + 1); \
    v[1] = IN_QUARTERS(ab, cd, 2, 3, VL + 2, VL + 3); \
    v[2] = IN_QUARTERS(AB, CD, 0, 1, VL, VL + 1); \
    v[3] = IN_QUARTERS(AB, CD, 2, 3, VL + 2, VL + 3); \
  }
