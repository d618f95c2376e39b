// Layouts of ggml's block types (ggml-common.h) and vectors of sixteen elements to read them with.
// Sixteen lanes at every level: clang splits them into the registers there are.
#pragma once
#include "tables.h"
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
struct PACKED iq4_nl { _Float16 d; uint8_t q[16]; };
struct PACKED iq4_xs { _Float16 d; uint16_t h; uint8_t l[4], q[128]; };
struct PACKED mxfp4 { uint8_t e, q[16]; };

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

// value takes the values of nibbles from a table of sixteen.
INLINE w16 value(const int8_t* table, b16 nibbles)
{
#if defined(__x86_64__)
  return signedw((b16)_mm_shuffle_epi8((__m128i)bytes(table), (__m128i)nibbles));
#else
  return signedw((b16)vqtbl1q_u8((uint8x16_t)bytes(table), (uint8x16_t)nibbles));
#endif
}

// fifth turns sixteen bits into the fifth bit, 16 or 0, of sixteen bytes.
INLINE b16 fifth(const uint8_t* h)
{
  const b16 bit = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  b16 v = {h[0], h[0], h[0], h[0], h[0], h[0], h[0], h[0], h[1], h[1], h[1], h[1], h[1], h[1], h[1], h[1]};
  return (b16)((v & bit) != 0) & 16;
}

// A row of sixteen factors goes through memory, from where each is broadcast by its load: taking
// lanes out of a vector would keep the one port busy that also widens the codes.
struct factors { float v[16]; } __attribute__((aligned(VL * 4)));
INLINE void spread(struct factors* f, w16 v)
{
  storew(f->v, v);
  __asm__("" : "+m"(*f));
}

// scales6 unpacks the eight 6-bit scales and then the eight minima of q4_k and q5_k.
INLINE b16 scales6(const uint8_t* s)
{
  typedef uint32_t u1 __attribute__((aligned(1)));
  typedef uint32_t u4 __attribute__((vector_size(16)));
  const uint32_t a = ((const u1*)s)[0], b = ((const u1*)s)[1], c = ((const u1*)s)[2];
  return (b16)(u4){a & 0x3f3f3f3f, (c & 0x0f0f0f0f) | ((a >> 6 & 0x03030303) << 4),
                   b & 0x3f3f3f3f, (c >> 4 & 0x0f0f0f0f) | ((b >> 6 & 0x03030303) << 4)};
}

// scales_q3_k unpacks sixteen 6-bit scales and takes 32 from each.
INLINE b16 scales_q3_k(const uint8_t* s)
{
  typedef uint32_t u1 __attribute__((aligned(1)));
  typedef uint32_t u4 __attribute__((vector_size(16)));
  const uint32_t a = ((const u1*)s)[0], b = ((const u1*)s)[1], c = ((const u1*)s)[2];
  return (b16)(u4){(a & 0x0f0f0f0f) | (c & 0x03030303) << 4, (b & 0x0f0f0f0f) | (c >> 2 & 0x03030303) << 4,
                   (a >> 4 & 0x0f0f0f0f) | (c >> 4 & 0x03030303) << 4, (b >> 4 & 0x0f0f0f0f) | (c >> 6 & 0x03030303) << 4} - 32;
}

// CODES_type(b, use) walks through a block of 256, 32 elements at a time: use(j, lo, hi) is given
// their number and the codes of the first and the second sixteen. Loops stay loops: unrolled, clang
// would work out all codes first and have nowhere to keep them.
#define ROLLED _Pragma("clang loop unroll(disable)")

#define CODES_q4_k(b, use) \
  ROLLED for (int c = 0; c < 4; c++) { \
    b16 q0 = bytes(b->q + 32 * c), q1 = bytes(b->q + 32 * c + 16); \
    use(2 * c, q0 & 15, q1 & 15) \
    use(2 * c + 1, q0 >> 4, q1 >> 4) \
  }

#define CODES_q5_k(b, use) \
  b16 h0 = bytes(b->h), h1 = bytes(b->h + 16); \
  ROLLED for (int c = 0; c < 4; c++, h0 >>= 2, h1 >>= 2) { \
    b16 q0 = bytes(b->q + 32 * c), q1 = bytes(b->q + 32 * c + 16); \
    use(2 * c, (q0 & 15) | (h0 & 1) << 4, (q1 & 15) | (h1 & 1) << 4) \
    use(2 * c + 1, q0 >> 4 | (h0 & 2) << 3, q1 >> 4 | (h1 & 2) << 3) \
  }

#define CODES_q6_k(b, use) \
  ROLLED for (int c = 0; c < 8; c += 4) { \
    b16 h0 = bytes(b->qh + 8 * c), h1 = bytes(b->qh + 8 * c + 16); \
    b16 l0 = bytes(b->ql + 16 * c), l1 = bytes(b->ql + 16 * c + 16); \
    b16 l2 = bytes(b->ql + 16 * c + 32), l3 = bytes(b->ql + 16 * c + 48); \
    use(c, ((l0 & 15) | (h0 & 3) << 4) - 32, ((l1 & 15) | (h1 & 3) << 4) - 32) \
    use(c + 1, ((l2 & 15) | (h0 & 12) << 2) - 32, ((l3 & 15) | (h1 & 12) << 2) - 32) \
    use(c + 2, (l0 >> 4 | (h0 & 48)) - 32, (l1 >> 4 | (h1 & 48)) - 32) \
    use(c + 3, (l2 >> 4 | (h0 >> 2 & 48)) - 32, (l3 >> 4 | (h1 >> 2 & 48)) - 32) \
  }

#define CODES_q2_k(b, use) \
  ROLLED for (int c = 0; c < 8; c += 4) { \
    b16 q0 = bytes(b->q + 8 * c), q1 = bytes(b->q + 8 * c + 16); \
    use(c, q0 & 3, q1 & 3) \
    use(c + 1, q0 >> 2 & 3, q1 >> 2 & 3) \
    use(c + 2, q0 >> 4 & 3, q1 >> 4 & 3) \
    use(c + 3, q0 >> 6, q1 >> 6) \
  }

#define CODES_q3_k(b, use) \
  b16 h0 = bytes(b->h), h1 = bytes(b->h + 16); \
  ROLLED for (int c = 0; c < 8; c += 4, h0 >>= 4, h1 >>= 4) { \
    b16 q0 = bytes(b->q + 8 * c), q1 = bytes(b->q + 8 * c + 16); \
    use(c, (q0 & 3) + ((h0 & 1) << 2) - 4, (q1 & 3) + ((h1 & 1) << 2) - 4) \
    use(c + 1, (q0 >> 2 & 3) + ((h0 & 2) << 1) - 4, (q1 >> 2 & 3) + ((h1 & 2) << 1) - 4) \
    use(c + 2, (q0 >> 4 & 3) + (h0 & 4) - 4, (q1 >> 4 & 3) + (h1 & 4) - 4) \
    use(c + 3, (q0 >> 6) + (h0 >> 1 & 4) - 4, (q1 >> 6) + (h1 >> 1 & 4) - 4) \
  }
