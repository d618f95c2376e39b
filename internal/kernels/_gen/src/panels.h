// Products of packed matrices. The left operand lies in tiles of LEFT rows, the right one in panels
// of RIGHT columns, both with k outermost, so that a step over k reads them forwards: one number of
// each row is broadcast against the vectors of the columns. An element is one chain of fused
// multiply-adds over k, at every level, whatever tile it falls into.
#pragma once
#include "columns.h"

// LEFT x RIGHT/VL accumulators, the vectors of a step and a broadcast fill the registers.
#if VL == 16
#define LEFT 12
#define VECTORS 2
#elif VL == 8
#define LEFT 4
#define VECTORS 3
#else
#define LEFT 8
#define VECTORS 3
#endif

// sums[m,n] (+)= left[m,k] right[k,n]. A tile has width rows in memory: LEFT, and what is left rounded
// up to four, or one row alone. The last panel is as many vectors wide as it needs. Sums that a later
// piece of k continues wait in "sums", tile after tile: the rows of dst may lie a power of two apart,
// and then push each other and all else out of the caches. from and to say where sums are. ahead is
// memory that the next call reads first, so many lines of it: it comes nearer meanwhile.
enum { NOWHERE, IN_DST, IN_SUMS };
#define TILE_STEP(V, VU, LANES, FMA, ALL) \
  { \
    V bv[VECTORS]; \
    for (int c = 0; c < nv; c++) bv[c] = *(const VU*)(b + c * LANES); \
    for (int r = 0; r < mr; r++) \
      for (int c = 0; c < nv; c++) acc[r][c] = FMA(ALL(a[r]), bv[c], acc[r][c]); \
  }
// Rows and vectors of the tile that are in dst.
#define EACH_IN_DST(T, LANES, ...) \
  _Pragma("clang loop unroll(full)") \
  for (int r = 0; r < mr; r++) { \
    if (r >= rows) break; \
    for (int c = 0; c < nv; c++) { \
      long left = cols - c * LANES; \
      T* q = d + r * p->ldd + c * LANES; \
      __VA_ARGS__ \
    } \
  }
#define MUL_PANELS(suffix, T, V, VU, LANES, FMA, ALL, LOADP, STOREP) \
  struct mul_panels##suffix { T* dst; const T* left; const T* right; T* sums; const char* ahead; long ldd, m, n, k, from, to, lines; }; \
  \
  INLINE void tile##suffix(struct mul_panels##suffix* restrict p, const int mr, const int nv, const T* a, const T* b, \
                           T* d, T* s, long rows, long cols, const char* next, long step) \
  { \
    V acc[LEFT][VECTORS]; \
    for (int r = 0; r < mr; r++) \
      for (int c = 0; c < nv; c++) acc[r][c] = ALL(0); \
    /* what is read and written at the end comes row by row: all at once would keep the panels waiting */ \
    long in_dst = -(p->from == IN_DST || p->to == IN_DST), in_sums = -(p->from == IN_SUMS || p->to == IN_SUMS); \
    long far_row = p->ldd * (long)sizeof(T) & in_dst, near_row = nv * LANES * (long)sizeof(T) & in_sums; \
    const char *far = in_dst ? (const char*)d : next, *near = in_sums ? (const char*)s : next; \
    long t = p->k, last = t - 4 * mr; \
    for (; t >= 4; t -= 4, next += step) { \
      __builtin_prefetch(next, 0, 2); \
      for (int c = 0; c < nv; c++) { \
        __builtin_prefetch(far + c * LANES * (long)sizeof(T)); \
        __builtin_prefetch(near + c * LANES * (long)sizeof(T)); \
      } \
      long more = -(t > last + 4); \
      far += far_row & more, near += near_row & more; \
      _Pragma("clang loop unroll(full)") \
      for (int u = 0; u < 4; u++, a += mr, b += nv * LANES) TILE_STEP(V, VU, LANES, FMA, ALL) \
    } \
    for (; t > 0; t--, a += mr, b += nv * LANES) TILE_STEP(V, VU, LANES, FMA, ALL) \
    if (p->from == IN_DST) { \
      EACH_IN_DST(T, LANES, if (left >= LANES) acc[r][c] += *(const VU*)q; else acc[r][c] += LOADP(q, left);) \
    } else if (p->from == IN_SUMS) { \
      for (int r = 0; r < mr; r++) \
        for (int c = 0; c < nv; c++) acc[r][c] += *(const VU*)(s + (r * nv + c) * LANES); \
    } \
    if (p->to == IN_DST) { \
      EACH_IN_DST(T, LANES, if (left >= LANES) *(VU*)q = acc[r][c]; else STOREP(q, left, acc[r][c]);) \
    } else { \
      for (int r = 0; r < mr; r++) \
        for (int c = 0; c < nv; c++) *(VU*)(s + (r * nv + c) * LANES) = acc[r][c]; \
    } \
  } \
  \
  KERNEL(mul_panels##suffix, mul_panels##suffix) \
  { \
    const T* a = p->left; \
    T* s = p->sums; \
    const char* ahead = p->ahead; \
    long steps = p->k / 4, wanted = p->lines; \
    for (long i = 0, width; i < p->m; i += LEFT, a += width * p->k) { \
      long rows = p->m - i; \
      width = rows >= LEFT ? LEFT : rows == 1 ? 1 : (rows + 3) & ~3; \
      const T* b = p->right; \
      /* A step of four k fetches a line into the second-level cache: while this tile meets the first panels, \
         of the next tile; with those that remain, of what is ahead, as late as there is time for it. */ \
      long lines = p->m - i > LEFT ? (LEFT * p->k * (long)sizeof(T) + 63) / 64 : 0; \
      long spare = (p->n + VECTORS * LANES - 1) / (VECTORS * LANES) * steps - lines; \
      long soon = wanted >= spare * ((p->m - i - 1) / LEFT); \
      const char* below = (const char*)(a + width * p->k); \
      for (long j = 0; j < p->n; j += VECTORS * LANES) { \
        const char* next = (const char*)a; \
        long step = 64; \
        if (lines > 0) { \
          next = below; \
          below += steps * 64, lines -= steps; \
        } else if (soon && wanted > 0) { \
          next = ahead; \
          ahead += steps * 64, wanted -= steps; \
        } else { \
          step = 0; \
        } \
        long cols = p->n - j, nv = cols >= VECTORS * LANES ? VECTORS : (cols + LANES - 1) / LANES; \
        T* d = p->dst + i * p->ldd + j; \
        MUL_WIDTHS(suffix) \
        b += nv * LANES * p->k; \
        s += width * nv * LANES; \
      } \
    } \
  }

#define MUL_CASE(suffix, mr, nv) case (mr) * 4 + (nv): tile##suffix(p, mr, nv, a, b, d, s, rows, cols, next, step); break;
#if VL == 16
#define MUL_WIDTHS(x) \
  switch (width * 4 + nv) { \
    MUL_CASE(x, 12, 2) MUL_CASE(x, 12, 1) MUL_CASE(x, 8, 2) MUL_CASE(x, 8, 1) \
    MUL_CASE(x, 4, 2) MUL_CASE(x, 4, 1) MUL_CASE(x, 1, 2) MUL_CASE(x, 1, 1) \
  }
#elif VL == 8
#define MUL_WIDTHS(x) \
  switch (width * 4 + nv) { \
    MUL_CASE(x, 4, 3) MUL_CASE(x, 4, 2) MUL_CASE(x, 4, 1) MUL_CASE(x, 1, 3) MUL_CASE(x, 1, 2) MUL_CASE(x, 1, 1) \
  }
#else
#define MUL_WIDTHS(x) \
  switch (width * 4 + nv) { \
    MUL_CASE(x, 8, 3) MUL_CASE(x, 8, 2) MUL_CASE(x, 8, 1) MUL_CASE(x, 4, 3) MUL_CASE(x, 4, 2) MUL_CASE(x, 4, 1) \
    MUL_CASE(x, 1, 3) MUL_CASE(x, 1, 2) MUL_CASE(x, 1, 1) \
  }
#endif
