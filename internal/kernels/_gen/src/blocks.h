// Layouts of ggml's block types (ggml-common.h) and vectors of sixteen elements to read them with.
// Sixteen lanes at every level: clang splits them into the registers there are.
#pragma once
#include "vec.h"

#define PACKED __attribute__((packed))
struct PACKED q8_0 { _Float16 d; int8_t q[32]; };
struct PACKED q4_0 { _Float16 d; uint8_t q[16]; };
struct PACKED q4_1 { _Float16 d, m; uint8_t q[16]; };
struct PACKED q5_0 { _Float16 d; uint8_t h[4], q[16]; };
struct PACKED q5_1 { _Float16 d, m; uint8_t h[4], q[16]; };
struct PACKED q2_k { uint8_t s[16], q[64]; _Float16 d, m; };
struct PACKED q3_k { uint8_t h[32], q[64], s[12]; _Float16 d; };
struct PACKED q4_k { _Float16 d, m; uint8_t s[12], q[128]; };
struct PACKED q5_k { _Float16 d, m; uint8_t s[12], h[32], q[128]; };
struct PACKED q6_k { uint8_t ql[128], qh[64]; int8_t s[16]; _Float16 d; };

typedef uint8_t b16 __attribute__((vector_size(16)));
typedef uint8_t b16u __attribute__((vector_size(16), aligned(1)));
typedef int8_t c16 __attribute__((vector_size(16)));
typedef float w16 __attribute__((vector_size(64)));
typedef float w16u __attribute__((vector_size(64), aligned(4)));
typedef _Float16 h16u __attribute__((vector_size(32), aligned(1)));
typedef uint16_t s16u __attribute__((vector_size(32), aligned(1)));
typedef uint32_t u16v __attribute__((vector_size(64)));

INLINE b16 bytes(const void* p) { return *(const b16u*)p; }
INLINE w16 real(b16 q) { return __builtin_convertvector(q, w16); }
INLINE w16 signedw(b16 q) { return __builtin_convertvector((c16)q, w16); }
INLINE w16 loadw(const float* p) { return *(const w16u*)p; }
INLINE void storew(float* p, w16 v) { *(w16u*)p = v; }
INLINE w16 allw(float x) { return x - (w16){0}; }
INLINE w16 fmaw(w16 a, w16 b, w16 c) { return __builtin_elementwise_fma(a, b, c); }
INLINE float sumw(w16 v)
{
  return sum8(__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) + __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15));
}

// fifth turns sixteen bits into the fifth bit, 16 or 0, of sixteen bytes.
INLINE b16 fifth(const uint8_t* h)
{
  const b16 bit = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  b16 v = {h[0], h[0], h[0], h[0], h[0], h[0], h[0], h[0], h[1], h[1], h[1], h[1], h[1], h[1], h[1], h[1]};
  return (b16)((v & bit) != 0) & 16;
}

// pair6 unpacks the 6-bit scale and minimum of sub-block j of q4_k and q5_k.
INLINE void pair6(const uint8_t* s, const int j, float* scale, float* min)
{
  if (j < 4) {
    *scale = s[j] & 63;
    *min = s[j + 4] & 63;
  } else {
    *scale = (s[j + 4] & 15) | ((s[j - 4] >> 6) << 4);
    *min = (s[j + 4] >> 4) | ((s[j] >> 6) << 4);
  }
}

// Codes of sixteen consecutive elements, number g of a block.
INLINE b16 code_q3_k(const struct q3_k* b, const int g)
{
  b16 low = (bytes(b->q + g / 8 * 32 + g % 2 * 16) >> (g % 8 / 2 * 2)) & 3;
  b16 high = (bytes(b->h + g % 2 * 16) >> (g / 2)) & 1;
  return low + (high << 2) - 4;
}
INLINE int scale_q3_k(const struct q3_k* b, const int g)
{
  return (((b->s[g % 8] >> (g / 8 * 4)) & 15) | ((b->s[8 + g % 4] >> (g / 4 * 2)) & 3) << 4) - 32;
}
INLINE b16 code_q2_k(const struct q2_k* b, const int g)
{
  return (bytes(b->q + g / 8 * 32 + g % 2 * 16) >> (g % 8 / 2 * 2)) & 3;
}
INLINE b16 code_q4_k(const struct q4_k* b, const int g)
{
  return (bytes(b->q + g / 4 * 32 + g % 2 * 16) >> (g % 4 / 2 * 4)) & 15;
}
INLINE b16 code_q5_k(const struct q5_k* b, const int g)
{
  b16 low = (bytes(b->q + g / 4 * 32 + g % 2 * 16) >> (g % 4 / 2 * 4)) & 15;
  b16 high = (bytes(b->h + g % 2 * 16) >> (g / 2)) & 1;
  return low | high << 4;
}
INLINE b16 code_q6_k(const struct q6_k* b, const int g)
{
  const int h = g / 8, r = g % 8;
  b16 low = (bytes(b->ql + 64 * h + r % 4 * 16) >> (r / 4 * 4)) & 15;
  b16 high = (bytes(b->qh + 32 * h + r % 2 * 16) >> (r / 2 * 2)) & 3;
  return (low | high << 4) - 32;
}
