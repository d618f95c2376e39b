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
      for (int c = 0; c < nv; c++) { \
        acc[r][c] = ALL(0); \
        __builtin_prefetch(d + (r < rows ? r : 0) * ldd + c * LANES); \
      } \
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

MUL_PANELS(, float, vf, vfu, VL, fma, all, load_part, store_part)
MUL_PANELS(_64, double, vd, vdu, (VL / 2), fmad, alld, load_part_d, store_part_d)

// Packing: dst[t][width] of rows that k runs along (a transposition) or of columns that lie side by
// side. Lanes from n on are zero. ld counts elements.
struct pack { void* dst; const void* src; long ld, n, width, k; };

// COLUMNS makes vectors across VL rows, v[0..3] at k = t..t+3, of four numbers from each row. The
// rows of a quarter of 128 bits are adjacent, so quarters are put together as they are loaded and
// then transposed each in itself.
#if VL == 16
#define IN_QUARTERS(a, b, c, d, e, f) \
  SHUF(a, b, c, d, e, f, c + 4, d + 4, e + 4, f + 4, c + 8, d + 8, e + 8, f + 8, c + 12, d + 12, e + 12, f + 12)
#define PAIR(L, i) SHUF(L(i), L(i + 4), 0, 1, 2, 3, 4, 5, 6, 7)
#define JOIN(L, i) SHUF(PAIR(L, i), PAIR(L, i + 8), 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
#elif VL == 8
#define IN_QUARTERS(a, b, c, d, e, f) SHUF(a, b, c, d, e, f, c + 4, d + 4, e + 4, f + 4)
#define JOIN(L, i) SHUF(L(i), L(i + 4), 0, 1, 2, 3, 4, 5, 6, 7)
#else
#define IN_QUARTERS(a, b, c, d, e, f) SHUF(a, b, c, d, e, f)
#define JOIN(L, i) L(i)
#endif
#define COLUMNS(v, L, REAL) \
  { \
    vf a = REAL(JOIN(L, 0)), b = REAL(JOIN(L, 1)), c = REAL(JOIN(L, 2)), d = REAL(JOIN(L, 3)); \
    vf ab = IN_QUARTERS(a, b, 0, VL, 1, VL + 1), AB = IN_QUARTERS(a, b, 2, VL + 2, 3, VL + 3); \
    vf cd = IN_QUARTERS(c, d, 0, VL, 1, VL + 1), CD = IN_QUARTERS(c, d, 2, VL + 2, 3, VL + 3); \
    v[0] = IN_QUARTERS(ab, cd, 0, 1, VL, VL + 1); \
    v[1] = IN_QUARTERS(ab, cd, 2, 3, VL + 2, VL + 3); \
    v[2] = IN_QUARTERS(AB, CD, 0, 1, VL, VL + 1); \
    v[3] = IN_QUARTERS(AB, CD, 2, 3, VL + 2, VL + 3); \
  }

typedef _Float16 h4 __attribute__((vector_size(8), aligned(2)));
typedef uint16_t s4 __attribute__((vector_size(8), aligned(2)));
typedef uint32_t uv __attribute__((vector_size(VL * 4)));
INLINE float wide(uint16_t x)
{
  union { uint32_t u; float f; } v = {(uint32_t)x << 16};
  return v.f;
}
#define ROW_F(i) (*(const f4u*)(w + (i) * ld + t))
#define ROW_LEFT(i) ROW_F((i) < LEFT ? (i) : 0)
#define ROW_H(i) (*(const h4*)(w + (i) * ld + t))
#define ROW_B(i) (*(const s4*)(w + (i) * ld + t))
#define REAL_F(v) (v)
#define REAL_H(v) __builtin_convertvector(v, vf)
#define REAL_B(v) (vf)(__builtin_convertvector(v, uv) << 16)

// Four rows at a time, for tiles of the left operand and for double precision.
#define PACK_FOUR(T, V4, V4U, from) \
  for (long g = from; g < width; g += 4) { \
    T* d = (T*)p->dst + g; \
    const T *r0 = src + g * p->ld, *r1 = r0 + p->ld, *r2 = r1 + p->ld, *r3 = r2 + p->ld; \
    long t = 0, have = p->n - g; \
    if (have >= 4) { \
      for (; t + 4 <= k; t += 4, d += 4 * width) { \
        V4 a = *(V4U*)(r0 + t), b = *(V4U*)(r1 + t), c = *(V4U*)(r2 + t), e = *(V4U*)(r3 + t); \
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
      for (long i = 0; i < lanes; i++) d[i] = i < have ? src[(g + i) * p->ld + t] : 0; \
  }

KERNEL(pack_rows, pack)
{
  const float* src = p->src;
  long k = p->k, width = p->width;
#if VL > LEFT
  // a whole tile is part of a vector
  if (p->n >= LEFT) {
    const float* w = src;
    float* d = p->dst;
    long ld = p->ld, t = 0;
    for (; t + 4 <= k; t += 4) {
      vf v[4];
      COLUMNS(v, ROW_LEFT, REAL_F)
      for (int i = 0; i < 4; i++, d += LEFT) store_part(d, LEFT, v[i]);
    }
    for (; t < k; t++, d += LEFT)
      for (int i = 0; i < LEFT; i++) d[i] = src[i * ld + t];
    return;
  }
#endif
  PACK_FOUR(float, f4, f4u, 0)
}
KERNEL(pack_rows_64, pack)
{
  const double* src = p->src;
  long k = p->k, width = p->width;
  PACK_FOUR(double, d4, d4u, 0)
}

// Panels of the right operand, a vector of rows at a time, of real or of stored numbers.
#define PACK_PANEL(name, S, ROW, REAL, ONE) \
  KERNEL(name, pack) \
  { \
    long k = p->k, width = p->width, ld = p->ld; \
    for (long g = 0; g < width; g += VL) { \
      float* d = (float*)p->dst + g; \
      const S* w = (const S*)p->src + g * ld; \
      long t = 0, have = p->n - g; \
      for (; have >= VL && t + 4 <= k; t += 4) { \
        vf v[4]; \
        COLUMNS(v, ROW, REAL) \
        for (int i = 0; i < 4; i++, d += width) store(d, v[i]); \
      } \
      _Pragma("clang loop vectorize(disable)") \
      for (; t < k; t++, d += width) \
        for (long i = 0; i < VL; i++) d[i] = i < have ? ONE(w[i * ld + t]) : 0; \
    } \
  }
PACK_PANEL(pack_panel, float, ROW_F, REAL_F, )
PACK_PANEL(pack_panel_f16, _Float16, ROW_H, REAL_H, (float))
PACK_PANEL(pack_panel_bf16, uint16_t, ROW_B, REAL_B, wide)

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

// dst[m,n] (+)= x[m,k] w[n,k]^T for a few rows of x, without packing: vectors across the rows of w
// are made in registers, while w passes by once. m is up to FEW. The sums and their order are those of
// mul_panels called for one piece of PIECE after another.
#define FEW 4
#define PIECE 256
struct mul_few { float* dst; const float* x; const float* w; long ldd, ldx, ldw, m, n, k, add; };

INLINE void few(struct mul_few* restrict p, const int mr, const int full, long j)
{
  const float *x = p->x, *w = p->w + j * p->ldw;
  float* d = p->dst + j;
  long cols = full ? VL : p->n - j, ldx = p->ldx, ld = p->ldw, t = 0;
  vf sum[FEW];
  for (int r = 0; r < mr; r++) sum[r] = all(0);
  while (t < p->k) {
    long k = p->k - t < PIECE ? p->k : t + PIECE, first = t == 0;
    vf acc[FEW];
    for (int r = 0; r < mr; r++) acc[r] = all(0);
    for (; full && t + 4 <= k; t += 4) {
      vf v[4];
      COLUMNS(v, ROW_F, REAL_F)
      for (int i = 0; i < 4; i++)
        for (int r = 0; r < mr; r++) acc[r] = fma(all(x[r * ldx + t + i]), v[i], acc[r]);
    }
    for (; t < k; t++) {
      float one[VL] = {0};
      for (int i = 0; i < cols; i++) one[i] = w[i * ld + t];
      for (int r = 0; r < mr; r++) acc[r] = fma(all(x[r * ldx + t]), load(one), acc[r]);
    }
    // the first sum is added to dst or stored as it is, the others are added
    for (int r = 0; r < mr; r++, d += p->ldd) {
      if (full) sum[r] = !first ? sum[r] + acc[r] : p->add ? load(d) + acc[r] : acc[r];
      else sum[r] = !first ? sum[r] + acc[r] : p->add ? load_part(d, cols) + acc[r] : acc[r];
    }
    d -= mr * p->ldd;
  }
  for (int r = 0; r < mr; r++, d += p->ldd) {
    if (full) store(d, sum[r]);
    else store_part(d, cols, sum[r]);
  }
}

KERNEL(mul_few, mul_few)
{
  long j = 0;
#define FEW_ROWS(rows) \
  case rows: \
    for (; j + VL <= p->n; j += VL) few(p, rows, 1, j); \
    if (j < p->n) few(p, rows, 0, j); \
    break;
  switch (p->m) { FEW_ROWS(1) FEW_ROWS(2) FEW_ROWS(3) FEW_ROWS(4) }
}
