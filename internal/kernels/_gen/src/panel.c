// levels: avx2 avx512 neon
// Products of packed matrices. The left operand lies in tiles of LEFT rows, the right one in panels
// of RIGHT columns, both with k outermost, so that a step over k reads them forwards: one number of
// each row is broadcast against the vectors of the columns. An element is one chain of fused
// multiply-adds over k, at every level, whatever tile it falls into.
#include "vec.h"

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

INLINE void store_part_f(float* d, long n, vf v) { store_part(d, n, v); }
INLINE vf load_part_f(const float* d, long n) { return load_part(d, n); }
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

// dst[m,n] (+)= left[m,k] right[k,n]. A tile has width rows in memory: LEFT, and what is left rounded
// up to four, or one row alone. The last panel is as many vectors wide as it needs.
#define MUL_PANELS(suffix, T, V, VU, LANES, FMA, ALL, LOADP, STOREP) \
  struct mul_panels##suffix { T* dst; const T* left; const T* right; long ldd, m, n, k, add; }; \
  \
  INLINE void tile##suffix(struct mul_panels##suffix* restrict p, const int mr, const int nv, const T* a, const T* b, \
                           T* d, long rows, long cols) \
  { \
    V acc[LEFT][VECTORS]; \
    long ldd = p->ldd; \
    for (int r = 0; r < mr; r++) { \
      if (p->add) __builtin_prefetch(d + (r < rows ? r : 0) * ldd); \
      for (int c = 0; c < nv; c++) acc[r][c] = ALL(0); \
    } \
    _Pragma("clang loop unroll_count(4)") \
    for (long t = p->k; t > 0; t--, a += mr, b += nv * LANES) { \
      V bv[VECTORS]; \
      for (int c = 0; c < nv; c++) bv[c] = *(const VU*)(b + c * LANES); \
      for (int r = 0; r < mr; r++) \
        for (int c = 0; c < nv; c++) acc[r][c] = FMA(ALL(a[r]), bv[c], acc[r][c]); \
    } \
    _Pragma("clang loop unroll(full)") \
    for (int r = 0; r < mr; r++, d += ldd) { \
      if (r >= rows) break; \
      for (int c = 0; c < nv; c++) { \
        long left = cols - c * LANES; \
        T* q = d + c * LANES; \
        if (left >= LANES) *(VU*)q = p->add ? *(const VU*)q + acc[r][c] : acc[r][c]; \
        else STOREP(q, left, p->add ? LOADP(q, left) + acc[r][c] : acc[r][c]); \
      } \
    } \
  } \
  \
  KERNEL(mul_panels##suffix, mul_panels##suffix) \
  { \
    const T* a = p->left; \
    for (long i = 0, width; i < p->m; i += LEFT, a += width * p->k) { \
      long rows = p->m - i; \
      width = rows >= LEFT ? LEFT : rows == 1 ? 1 : (rows + 3) & ~3; \
      const T* b = p->right; \
      for (long j = 0; j < p->n; j += VECTORS * LANES) { \
        long cols = p->n - j, nv = cols >= VECTORS * LANES ? VECTORS : (cols + LANES - 1) / LANES; \
        T* d = p->dst + i * p->ldd + j; \
        MUL_WIDTHS(suffix) \
        b += nv * LANES * p->k; \
      } \
    } \
  }

#define MUL_CASE(suffix, mr, nv) case (mr) * 4 + (nv): tile##suffix(p, mr, nv, a, b, d, rows, cols); break;
#if VL == 16
#define MUL_WIDTHS(s) \
  switch (width * 4 + nv) { \
    MUL_CASE(s, 12, 2) MUL_CASE(s, 12, 1) MUL_CASE(s, 8, 2) MUL_CASE(s, 8, 1) \
    MUL_CASE(s, 4, 2) MUL_CASE(s, 4, 1) MUL_CASE(s, 1, 2) MUL_CASE(s, 1, 1) \
  }
#elif VL == 8
#define MUL_WIDTHS(s) \
  switch (width * 4 + nv) { \
    MUL_CASE(s, 4, 3) MUL_CASE(s, 4, 2) MUL_CASE(s, 4, 1) MUL_CASE(s, 1, 3) MUL_CASE(s, 1, 2) MUL_CASE(s, 1, 1) \
  }
#else
#define MUL_WIDTHS(s) \
  switch (width * 4 + nv) { \
    MUL_CASE(s, 8, 3) MUL_CASE(s, 8, 2) MUL_CASE(s, 8, 1) MUL_CASE(s, 4, 3) MUL_CASE(s, 4, 2) MUL_CASE(s, 4, 1) \
    MUL_CASE(s, 1, 3) MUL_CASE(s, 1, 2) MUL_CASE(s, 1, 1) \
  }
#endif

MUL_PANELS(, float, vf, vfu, VL, fma, all, load_part_f, store_part_f)
MUL_PANELS(_64, double, vd, vdu, (VL / 2), fmad, alld, load_part_d, store_part_d)

// Packing: dst[t][width] of rows that k runs along (pack_rows, a transposition) or of columns that
// lie side by side (pack_cols). Lanes from n on are zero. ld counts elements.
struct pack { void* dst; const void* src; long ld, n, width, k; };

#define PACK_ROWS(name, T, S, V4, V4U, LOAD4, LOAD1) \
  KERNEL(name, pack) \
  { \
    const S* src = p->src; \
    long k = p->k, width = p->width; \
    for (long g = 0; g < width; g += 4) { \
      T* d = (T*)p->dst + g; \
      const S *r0 = src + g * p->ld, *r1 = r0 + p->ld, *r2 = r1 + p->ld, *r3 = r2 + p->ld; \
      long t = 0, have = p->n - g; \
      if (have >= 4) { \
        for (; t + 4 <= k; t += 4, d += 4 * width) { \
          V4 a = LOAD4(r0 + t), b = LOAD4(r1 + t), c = LOAD4(r2 + t), e = LOAD4(r3 + t); \
          V4 ab = SHUF(a, b, 0, 4, 1, 5), AB = SHUF(a, b, 2, 6, 3, 7); \
          V4 ce = SHUF(c, e, 0, 4, 1, 5), CE = SHUF(c, e, 2, 6, 3, 7); \
          *(V4U*)d = SHUF(ab, ce, 0, 1, 4, 5); \
          *(V4U*)(d + width) = SHUF(ab, ce, 2, 3, 6, 7); \
          *(V4U*)(d + 2 * width) = SHUF(AB, CE, 0, 1, 4, 5); \
          *(V4U*)(d + 3 * width) = SHUF(AB, CE, 2, 3, 6, 7); \
        } \
      } \
      long lanes = width - g < 4 ? width - g : 4; \
      _Pragma("clang loop vectorize(disable)") \
      for (; t < k; t++, d += width) \
        for (long i = 0; i < lanes; i++) d[i] = i < have ? LOAD1(src + (g + i) * p->ld + t) : 0; \
    } \
  }

typedef _Float16 h4 __attribute__((vector_size(8), aligned(2)));
typedef uint16_t s4 __attribute__((vector_size(8), aligned(2)));
typedef uint32_t u4 __attribute__((vector_size(16)));
INLINE float wide(uint16_t x)
{
  union { uint32_t u; float f; } v = {(uint32_t)x << 16};
  return v.f;
}
#define WIDE1(q) wide(*(q))
#define LOAD_F(q) (*(const f4u*)(q))
#define LOAD_D(q) (*(const d4u*)(q))
#define LOAD_H(q) __builtin_convertvector(*(const h4*)(q), f4)
#define LOAD_B(q) (f4)(__builtin_convertvector(*(const s4*)(q), u4) << 16)
PACK_ROWS(pack_rows, float, float, f4, f4u, LOAD_F, *)
PACK_ROWS(pack_rows_64, double, double, d4, d4u, LOAD_D, *)
PACK_ROWS(pack_f16, float, _Float16, f4, f4u, LOAD_H, (float)*)
PACK_ROWS(pack_bf16, float, uint16_t, f4, f4u, LOAD_B, WIDE1)

#define PACK_COLS(name, T) \
  KERNEL(name, pack) \
  { \
    T* d = p->dst; \
    const T* s = p->src; \
    long n = p->n < p->width ? p->n : p->width; \
    for (long t = 0; t < p->k; t++, d += p->width, s += p->ld) { \
      for (long i = 0; i < n; i++) d[i] = s[i]; \
      for (long i = n; i < p->width; i++) d[i] = 0; \
    } \
  }
PACK_COLS(pack_cols, float)
PACK_COLS(pack_cols_64, double)
