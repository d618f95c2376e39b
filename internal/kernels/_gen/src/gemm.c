// levels: avx2 avx512 neon
// Products of packed matrices of real numbers (panels.h), and packing.
#include "panels.h"

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

MUL_PANELS(, float, vf, vfu, VL, fma, all, load_part, store_part)
MUL_PANELS(_64, double, vd, vdu, (VL / 2), fmad, alld, load_part_d, store_part_d)

// Packing rows that k runs along, which transposes them: dst[t][width] of n rows. Lanes from n on are
// zero. ld counts bytes.
struct pack { void* dst; const void* src; long ld, n, width, k; };

// Four rows at a time: rows a power of two apart push each other out of the first-level cache when
// more of them take turns.
#define PACK_FOUR(T, V4, V4U) \
  { \
    V4 a = *(V4U*)r0, b = *(V4U*)r1, c = *(V4U*)r2, e = *(V4U*)r3; \
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
    vf a = LOAD(r0), b = LOAD(r1), c = LOAD(r2), e = LOAD(r3); \
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
#define DOWN(r) ((const void*)((const char*)(r) + ld))
#define PACK_STEPS(name, T, S, ONE, STEP, ...) \
  INLINE void steps_##name(struct pack* restrict p, long steps) \
  { \
    long width = p->width, ld = p->ld; \
    for (long from = 0; from < steps; from += CHUNK) { \
      long k = steps - from < CHUNK ? steps - from : CHUNK; \
      for (long g = 0; g < width; g += 4) { \
        T* d = (T*)p->dst + from * width + g; \
        const S* r0 = (const S*)((const char*)p->src + g * ld) + from; \
        long t = 0, have = p->n - g, lanes = width - g < 4 ? width - g : 4; \
        if (have >= 4) \
          for (; t + STEP <= k; t += STEP, r0 += STEP, d += STEP * width) { \
            const S *r1 = DOWN(r0), *r2 = DOWN(r1), *r3 = DOWN(r2); \
            ahead(r0), ahead(r1), ahead(r2), ahead(r3); \
            __VA_ARGS__ \
          } \
        _Pragma("clang loop vectorize(disable)") \
        for (; t < k; t++, r0++, d += width) \
          for (long i = 0; i < lanes; i++) \
            d[i] = i < have ? ONE(*(const S*)((const char*)r0 + i * ld)) : 0; \
      } \
    } \
  }

#define PACK_ROWS(name, ...) \
  PACK_STEPS(name, __VA_ARGS__) \
  KERNEL(name, pack) { steps_##name(p, p->k); }

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

// Pairs of bf16 that follow each other in k, the first in the low half: a pair is packed like a float32
// whose bits nobody looks at. Where k is odd, the last pair ends in zero.
typedef struct { uint16_t low, high; } pair;
typedef float vfp __attribute__((vector_size(VL * 4), aligned(2)));
INLINE float both(uint32_t low, uint32_t high)
{
  union { uint32_t u; float f; } v = {low | high << 16};
  return v.f;
}
#define ONE_PAIR(x) both((x).low, (x).high)
#define LOAD_PAIRS(q) (*(const vfp*)(q))
PACK_STEPS(whole_pairs, float, pair, ONE_PAIR, VL, PACK_VECTORS(LOAD_PAIRS))

KERNEL(pack_rows_pairs, pack)
{
  long t = p->k / 2;
  steps_whole_pairs(p, t);
  if (p->k % 2 == 0) return;
  for (long i = 0; i < p->width; i++) {
    const char* row = (const char*)p->src + i * p->ld;
    ((float*)p->dst)[t * p->width + i] = i < p->n ? both(((const uint16_t*)row)[2 * t], 0) : 0;
  }
}

// Packing n columns that lie side by side: groups of width columns, [t][width] each, the last of them
// "last" wide. All groups pass together, so that memory is read along its rows, and four rows at a time, so
// that what is written lies side by side, too. width is LEFT or as much as VECTORS have.
struct pack_cols { void* dst; const void* src; long ld, n, width, last, k; };

// READ, READ4 and ONE make a vector, 16 bytes and one number of a step from what lies at q; next is the
// distance of the step's second row where it has one, or zero.
#define PACK_COLS(name, T, S, STEPS, READ, READ4, ONE) \
  INLINE void cols_##name(struct pack_cols* restrict p, const long width) \
  { \
    const long lanes = VL * 4 / (long)sizeof(T), few = 16 / (long)sizeof(T); \
    long ld = p->ld, steps = (p->k + STEPS - 1) / STEPS; \
    for (long from = 0; from < steps; from += 4) { \
      long end = steps - from < 4 ? steps : from + 4, j = 0; \
      T* d = p->dst; \
      for (; j + width <= p->n; j += width, d += width * steps) \
        for (long t = from; t < end; t++) { \
          const S* q = (const S*)p->src + t * STEPS * ld + j; \
          long next = t * STEPS + 1 < p->k ? ld : 0, i = 0; \
          (void)next; \
          for (; i + lanes <= width; i += lanes, q += lanes) *(vfu*)(d + t * width + i) = READ; \
          for (; i < width; i += few, q += few) *(f4u*)(d + t * width + i) = READ4; \
        } \
      if (j == p->n) continue; \
      for (long t = from; t < end; t++) { \
        const S* q = (const S*)p->src + t * STEPS * ld + j; \
        long next = t * STEPS + 1 < p->k ? ld : 0; \
        (void)next; \
        for (long i = 0; i < p->last; i++, q++) d[t * p->last + i] = j + i < p->n ? ONE : 0; \
      } \
    } \
  } \
  KERNEL(name, pack_cols) \
  { \
    if (p->width == LEFT) cols_##name(p, LEFT); \
    else cols_##name(p, VECTORS * VL * 4 / (long)sizeof(T)); \
  }
typedef uint16_t s4 __attribute__((vector_size(8), aligned(2)));
typedef uint32_t u4 __attribute__((vector_size(16)));
#define WORDS(q) __builtin_convertvector(*(const sv*)(q), uv)
#define WORDS4(q) __builtin_convertvector(*(const s4*)(q), u4)
PACK_COLS(pack_cols, float, float, 1, *(const vfu*)q, *(const f4u*)q, *q)
PACK_COLS(pack_cols_64, double, double, 1, *(const vfu*)q, *(const f4u*)q, *q)
PACK_COLS(pack_cols_bf16, float, uint16_t, 1, (vf)(WORDS(q) << 16), (f4)(WORDS4(q) << 16), wide(*q))
// the second row of the last pair may not be there: it is not read, and counts as zeros
PACK_COLS(pack_cols_pairs, float, uint16_t, 2, (vf)(WORDS(q) | (next ? WORDS(q + next) << 16 : (uv){0})),
          (f4)(WORDS4(q) | (next ? WORDS4(q + next) << 16 : (u4){0})), both(*q, next ? q[next] : 0))
