// Vectors of the level being compiled. Everything is clang's generic vector arithmetic; only
// partial loads and stores differ between instruction sets.
#pragma once
#include <stdint.h>
#if defined(__x86_64__)
#include <immintrin.h>
#else
#include <arm_neon.h>
#endif

#if defined(__AVX512F__)
#define VL 16
#elif defined(__AVX2__)
#define VL 8
#else
#define VL 4
#endif

#define INLINE static inline __attribute__((always_inline))
#define KERNEL(name, args) __attribute__((visibility("default"))) void k_##name(struct args* restrict p)

typedef float vf __attribute__((vector_size(VL * 4)));
typedef float vfu __attribute__((vector_size(VL * 4), aligned(4)));
typedef int32_t vi __attribute__((vector_size(VL * 4)));
typedef float vh __attribute__((vector_size(VL * 2))); // half of a vf
typedef double vd __attribute__((vector_size(VL * 4)));
typedef double vdu __attribute__((vector_size(VL * 4), aligned(8)));
typedef int64_t vl __attribute__((vector_size(VL * 4)));

INLINE vf load(const float* p) { return *(const vfu*)p; }
INLINE void store(float* p, vf v) { *(vfu*)p = v; }
INLINE vf all(float x) { return x - (vf){0}; }
INLINE vd alld(double x) { return x - (vd){0}; }
INLINE vf fma(vf a, vf b, vf c) { return __builtin_elementwise_fma(a, b, c); }
INLINE vd fmad(vd a, vd b, vd c) { return __builtin_elementwise_fma(a, b, c); }
// sel takes a where the mask is all ones and b where it is zero.
INLINE vf sel(vi m, vf a, vf b) { return (vf)((m & (vi)a) | (~m & (vi)b)); }
INLINE vd seld(vl m, vd a, vd b) { return (vd)((m & (vl)a) | (~m & (vl)b)); }

// first(n) is a mask of the first n lanes, 0 <= n <= VL. It is read from a window over ones and zeros.
static const int32_t lanes[2 * VL] = {
#if VL == 16
    -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1
#elif VL == 8
    -1, -1, -1, -1, -1, -1, -1, -1
#else
    -1, -1, -1, -1
#endif
};
typedef int32_t viu __attribute__((vector_size(VL * 4), aligned(4)));
INLINE vi first(long n) { return *(const viu*)(lanes + VL - n); }

// load_part reads n numbers, 0 < n < VL, and fills the other lanes with zeros; store_part writes n
// lanes. Neither touches a byte beyond.
#if VL == 16
INLINE vf load_part(const float* p, long n) { return (vf)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p); }
INLINE void store_part(float* p, long n, vf v) { _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v); }
INLINE int any(vi m) { return _mm512_test_epi32_mask((__m512i)m, (__m512i)m) != 0; }
#elif VL == 8
INLINE vf load_part(const float* p, long n) { return (vf)_mm256_maskload_ps(p, (__m256i)first(n)); }
INLINE void store_part(float* p, long n, vf v) { _mm256_maskstore_ps(p, (__m256i)first(n), (__m256)v); }
INLINE int any(vi m) { return _mm256_movemask_ps((__m256)m) != 0; }
#else
INLINE vf load_part(const float* p, long n)
{
  vf v = {p[0], 0, 0, 0};
  if (n > 1) v[1] = p[1];
  if (n > 2) v[2] = p[2];
  return v;
}
INLINE void store_part(float* p, long n, vf v)
{
  p[0] = v[0];
  if (n > 1) p[1] = v[1];
  if (n > 2) p[2] = v[2];
}
INLINE int any(vi m) { return vmaxvq_u32((uint32x4_t)m) != 0; }
#endif

// The same with the count in a variable rest, for macros that are given a way to load and to store.
#define PART_LOAD(q) load_part(q, rest)
#define PART_STORE(q, v) store_part(q, rest, v)

// low and high widen the halves of a vector to doubles.
#if VL == 16
#define LOW(v) __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7)
#define HIGH(v) __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15)
#elif VL == 8
#define LOW(v) __builtin_shufflevector(v, v, 0, 1, 2, 3)
#define HIGH(v) __builtin_shufflevector(v, v, 4, 5, 6, 7)
#else
#define LOW(v) __builtin_shufflevector(v, v, 0, 1)
#define HIGH(v) __builtin_shufflevector(v, v, 2, 3)
#endif
INLINE vd low(vf v) { return __builtin_convertvector((vh)LOW(v), vd); }
INLINE vd high(vf v) { return __builtin_convertvector((vh)HIGH(v), vd); }

// sum adds the lanes by halves: lane i and lane i+VL/2 first.
typedef float f8 __attribute__((vector_size(32)));
typedef float f4 __attribute__((vector_size(16)));
INLINE float sum4(f4 v)
{
  v = v + __builtin_shufflevector(v, v, 2, 3, 0, 1);
  return v[0] + v[1];
}
INLINE float sum8(f8 v)
{
  return sum4(__builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7));
}
INLINE float sum(vf v)
{
#if VL == 16
  return sum8(LOW(v) + HIGH(v));
#elif VL == 8
  return sum8(v);
#else
  return sum4(v);
#endif
}
// sum_four is the sum of each of four vectors, added in the order of sum.
typedef float f4u __attribute__((vector_size(16), aligned(4)));
INLINE f4 sum_four(vf a, vf b, vf c, vf d)
{
#define SHUF __builtin_shufflevector
#if VL == 16
  vf p = SHUF(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
         SHUF(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
  vf q = SHUF(c, d, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
         SHUF(c, d, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
  p = SHUF(p, q, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
      SHUF(p, q, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
  p = p + SHUF(p, p, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
  p = p + SHUF(p, p, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
  return SHUF(p, p, 0, 4, 8, 12);
#elif VL == 8
  vf p = SHUF(a, b, 0, 1, 2, 3, 8, 9, 10, 11) + SHUF(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
  vf q = SHUF(c, d, 0, 1, 2, 3, 8, 9, 10, 11) + SHUF(c, d, 4, 5, 6, 7, 12, 13, 14, 15);
  p = SHUF(p, q, 0, 1, 8, 9, 4, 5, 12, 13) + SHUF(p, q, 2, 3, 10, 11, 6, 7, 14, 15);
  p = p + SHUF(p, p, 1, 0, 3, 2, 5, 4, 7, 6);
  return SHUF(p, p, 0, 4, 2, 6);
#else
  f4 p = SHUF(a, b, 0, 1, 4, 5) + SHUF(a, b, 2, 3, 6, 7);
  f4 q = SHUF(c, d, 0, 1, 4, 5) + SHUF(c, d, 2, 3, 6, 7);
  return SHUF(p, q, 0, 2, 4, 6) + SHUF(p, q, 1, 3, 5, 7);
#endif
}
INLINE double sumd(vd v)
{
  double s = 0;
  for (int i = 0; i < VL / 2; i++) s += v[i];
  return s;
}
