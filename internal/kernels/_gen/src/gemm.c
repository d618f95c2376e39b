// levels: avx2 avx512 neon
// Products of packed matrices. The left operand lies in tiles of LEFT rows, the right one in panels
// of RIGHT columns, both with k outermost, so that a step over k reads them forwards: one number of
// each row is broadcast against the vectors of the columns. An element is one chain of fused
// multiply-adds over k, at every level, whatever tile it falls into.
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

struct panel_shape { long left, vectors, lanes; };

KERNEL(panel_shape, panel_shape)
{
  p->left = LEFT;
  p->vectors = VECTORS;
  p->lanes = VL;
}

typedef double d4 __attribute__((vector_size(32)));
typedef double d4u __attribute__((vector_size(32), aligned(8)));

#if VL == 16
INLINE void store_part_d(double* d, long n, vd v) { _mm512_mask_storeu_pd(d, (__mmask8)((1u << n) - 1), (__m512d)v); }
INLINE vd load_part_d(const double* d, long n) { return (vd)_mm512_maskz_loadu_pd((__mmask8)((1u << n) - 1), d); }
#elif VL == 8
INLINE __m256i first_d(long n) { return _mm256_cvtepi32_epi64(*(const __m128i_u*)(lanes + VL - n)); }
INLINE void store_part_d(double* d, long n, vd v) { _mm256_maskstore_pd(d, first_d(n), (__m256d)v); }
INLINE vd load_part_d(const double* d, long n) { return (vd)_mm256_maskload_pd(d, first_d(n)); }
#else
INLINE void store_part_d(double* d, long n, vd v) { d[0] = v[0]; } // of two lanes a part is one
INLINE vd load_part_d(const double* d, long n) { return (vd){d[0], 0}; }
#endif

// sums[m,n] (+)= left[m,k] right[k,n]. A tile has width rows in memory: LEFT, and what is left rounded
// up to four, or one row alone. The last panel is as many vectors wide as it needs. Sums that a later
// piece of k continues wait in "sums", tile after tile: the rows of dst may lie a power of two apart,
// and then push each other and all else out of the caches. from and to say where sums are.
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
  struct mul_panels##suffix { T* dst; const T* left; const T* right; T* sums; long ldd, m, n, k, from, to; }; \
  \
  INLINE void tile##suffix(struct mul_panels##suffix* restrict p, const int mr, const int nv, const T* a, const T* b, \
                           T* d, T* s, long rows, long cols, const char* next, long step) \
  { \
    V acc[LEFT][VECTORS]; \
    for (int r = 0; r < mr; r++) \
      for (int c = 0; c < nv; c++) acc[r][c] = ALL(0); \
    if (p->from == IN_DST || p->to == IN_DST) { EACH_IN_DST(T, LANES, (void)left; __builtin_prefetch(q);) } \
    if (p->from == IN_SUMS || p->to == IN_SUMS) \
      for (int i = 0; i < mr * nv; i++) __builtin_prefetch(s + i * LANES); \
    long t = p->k; \
    for (; t >= 4; t -= 4, next += step) { \
      __builtin_prefetch(next, 0, 2); \
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
    for (long i = 0, width; i < p->m; i += LEFT, a += width * p->k) { \
      long rows = p->m - i; \
      width = rows >= LEFT ? LEFT : rows == 1 ? 1 : (rows + 3) & ~3; \
      const T* b = p->right; \
      long line = 0, lines = p->m - i > LEFT ? (LEFT * p->k * (long)sizeof(T) + 63) / 64 : 0; \
      for (long j = 0; j < p->n; j += VECTORS * LANES) { \
        /* while this tile meets the first panels, the next comes into the second-level cache */ \
        const char* next = (const char*)(a + (line < lines ? width * p->k + line * (64 / (long)sizeof(T)) : 0)); \
        long step = line < lines ? 64 : 0; \
        line += p->k / 4; \
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

MUL_PANELS(, float, vf, vfu, VL, fma, all, load_part, store_part)
MUL_PANELS(_64, double, vd, vdu, (VL / 2), fmad, alld, load_part_d, store_part_d)

// Packing rows that k runs along, which transposes them: dst[t][width] of n rows. Lanes from n on are
// zero. ld counts elements.
struct pack { void* dst; const void* src; long ld, n, width, k; };

// Four rows at a time: rows a power of two apart push each other out of the first-level cache when
// more of them take turns.
#define PACK_FOUR(T, V4, V4U) \
  { \
    V4 a = *(V4U*)r0, b = *(V4U*)(r0 + ld), c = *(V4U*)(r0 + 2 * ld), e = *(V4U*)(r0 + 3 * ld); \
    V4 ab = SHUF(a, b, 0, 4, 1, 5), AB = SHUF(a, b, 2, 6, 3, 7); \
    V4 ce = SHUF(c, e, 0, 4, 1, 5), CE = SHUF(c, e, 2, 6, 3, 7); \
    *(V4U*)d = SHUF(ab, ce, 0, 1, 4, 5); \
    *(V4U*)(d + width) = SHUF(ab, ce, 2, 3, 6, 7); \
    *(V4U*)(d + 2 * width) = SHUF(AB, CE, 0, 1, 4, 5); \
    *(V4U*)(d + 3 * width) = SHUF(AB, CE, 2, 3, 6, 7); \
  }

// Quarter l of vector c of these goes to k = 4l + c.
#if VL == 16
#define STORE_QUARTERS(c, v) \
  { \
    *(f4u*)(d + (c) * width) = SHUF(v, v, 0, 1, 2, 3); \
    *(f4u*)(d + (4 + c) * width) = SHUF(v, v, 4, 5, 6, 7); \
    *(f4u*)(d + (8 + c) * width) = SHUF(v, v, 8, 9, 10, 11); \
    *(f4u*)(d + (12 + c) * width) = SHUF(v, v, 12, 13, 14, 15); \
  }
#elif VL == 8
#define STORE_QUARTERS(c, v) \
  { \
    *(f4u*)(d + (c) * width) = SHUF(v, v, 0, 1, 2, 3); \
    *(f4u*)(d + (4 + c) * width) = SHUF(v, v, 4, 5, 6, 7); \
  }
#else
#define STORE_QUARTERS(c, v) *(f4u*)(d + (c) * width) = v;
#endif
#define PACK_VECTORS(LOAD) \
  { \
    vf a = LOAD(r0), b = LOAD(r0 + ld), c = LOAD(r0 + 2 * ld), e = LOAD(r0 + 3 * ld); \
    vf ab = IN_QUARTERS(a, b, 0, VL, 1, VL + 1), AB = IN_QUARTERS(a, b, 2, VL + 2, 3, VL + 3); \
    vf ce = IN_QUARTERS(c, e, 0, VL, 1, VL + 1), CE = IN_QUARTERS(c, e, 2, VL + 2, 3, VL + 3); \
    STORE_QUARTERS(0, IN_QUARTERS(ab, ce, 0, 1, VL, VL + 1)) \
    STORE_QUARTERS(1, IN_QUARTERS(ab, ce, 2, 3, VL + 2, VL + 3)) \
    STORE_QUARTERS(2, IN_QUARTERS(AB, CE, 0, 1, VL, VL + 1)) \
    STORE_QUARTERS(3, IN_QUARTERS(AB, CE, 2, 3, VL + 2, VL + 3)) \
  }

// What is being written stays in the first-level cache: all rows pass for CHUNK of k. What comes AHEAD
// bytes later is fetched meanwhile, for there are more rows than the processor follows by itself.
#define CHUNK 64
#define AHEAD 1024
INLINE void ahead(const void* p) { __builtin_prefetch((const char*)p + AHEAD); }
#define PACK_ROWS(name, T, S, ONE, STEP, ...) \
  KERNEL(name, pack) \
  { \
    long width = p->width, ld = p->ld; \
    for (long from = 0; from < p->k; from += CHUNK) { \
      long k = p->k - from < CHUNK ? p->k - from : CHUNK; \
      for (long g = 0; g < width; g += 4) { \
        T* d = (T*)p->dst + from * width + g; \
        const S* r0 = (const S*)p->src + g * ld + from; \
        long t = 0, have = p->n - g, lanes = width - g < 4 ? width - g : 4; \
        if (have >= 4) \
          for (; t + STEP <= k; t += STEP, r0 += STEP, d += STEP * width) { \
            ahead(r0), ahead(r0 + ld), ahead(r0 + 2 * ld), ahead(r0 + 3 * ld); \
            __VA_ARGS__ \
          } \
        _Pragma("clang loop vectorize(disable)") \
        for (; t < k; t++, r0++, d += width) \
          for (long i = 0; i < lanes; i++) d[i] = i < have ? ONE(r0[i * ld]) : 0; \
      } \
    } \
  }

typedef _Float16 hv __attribute__((vector_size(VL * 2), aligned(2)));
typedef uint16_t sv __attribute__((vector_size(VL * 2), aligned(2)));
typedef uint32_t uv __attribute__((vector_size(VL * 4)));
INLINE float wide(uint16_t x)
{
  union { uint32_t u; float f; } v = {(uint32_t)x << 16};
  return v.f;
}
#define LOAD_H(q) __builtin_convertvector(*(const hv*)(q), vf)
#define LOAD_B(q) (vf)(__builtin_convertvector(*(const sv*)(q), uv) << 16)
PACK_ROWS(pack_rows, float, float, , VL, PACK_VECTORS(load))
PACK_ROWS(pack_rows_f16, float, _Float16, (float), VL, PACK_VECTORS(LOAD_H))
PACK_ROWS(pack_rows_bf16, float, uint16_t, wide, VL, PACK_VECTORS(LOAD_B))
PACK_ROWS(pack_rows_64, double, double, , 4, PACK_FOUR(double, d4, d4u))

// Packing n columns that lie side by side: groups of width columns, [t][width] each, the last of them
// "last" wide. All groups pass together, so that memory is read along its rows. Whole groups are
// multiples of 16 bytes.
struct pack_cols { void* dst; const void* src; long ld, n, width, last, k; };

#define PACK_COLS(name, T) \
  KERNEL(name, pack_cols) \
  { \
    const T* s = p->src; \
    for (long t = 0; t < p->k; t++, s += p->ld) { \
      T* d = p->dst; \
      long j = 0, lanes = 16 / (long)sizeof(T), wide = VL * 4 / (long)sizeof(T); \
      for (; j + p->width <= p->n; j += p->width, d += p->width * p->k) { \
        T* q = d + t * p->width; \
        long i = 0; \
        for (; i + wide <= p->width; i += wide) *(vfu*)(q + i) = *(const vfu*)(s + j + i); \
        for (; i < p->width; i += lanes) *(f4u*)(q + i) = *(const f4u*)(s + j + i); \
      } \
      if (j == p->n) continue; \
      T* q = d + t * p->last; \
      for (long i = 0; i < p->last; i++) q[i] = j + i < p->n ? s[j + i] : 0; \
    } \
  }
PACK_COLS(pack_cols, float)
PACK_COLS(pack_cols_64, double)
