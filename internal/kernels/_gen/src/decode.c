// Whole blocks to real values, each step rounded as in the Go reference: the bits are the same.
#include "blocks.h"

struct decode { float* dst; const void* src; long n; };

// BLOCKS runs the rest for every block b and its place y.
#define BLOCKS(type, elems, ...) \
  KERNEL(decode_##type, decode) \
  { \
    const struct type* b = p->src; \
    float* y = p->dst; \
    for (long i = 0; i < p->n; i++, b++, y += elems) { __VA_ARGS__ } \
  }

KERNEL(decode_f16, decode)
{
  const _Float16* x = p->src;
  long i = 0;
  for (; i + 16 <= p->n; i += 16) storew(p->dst + i, __builtin_convertvector(*(const h16u*)(x + i), w16));
#pragma clang loop vectorize(disable)
  for (; i < p->n; i++) p->dst[i] = (float)x[i];
}

INLINE w16 bf16(const uint16_t* x)
{
  return (w16)(__builtin_convertvector(*(const s16u*)x, u16v) << 16);
}

KERNEL(decode_bf16, decode)
{
  const uint16_t* x = p->src;
  long i = 0;
  for (; i + 16 <= p->n; i += 16) storew(p->dst + i, bf16(x + i));
#pragma clang loop vectorize(disable)
  for (; i < p->n; i++) ((uint32_t*)p->dst)[i] = (uint32_t)x[i] << 16;
}

BLOCKS(q8_0, 32, {
  w16 d = allw((float)b->d);
  storew(y, signedw(bytes(b->q)) * d);
  storew(y + 16, signedw(bytes(b->q + 16)) * d);
})

BLOCKS(q4_0, 32, {
  w16 d = allw((float)b->d);
  b16 q = bytes(b->q);
  storew(y, signedw((q & 15) - 8) * d);
  storew(y + 16, signedw((q >> 4) - 8) * d);
})

BLOCKS(q4_1, 32, {
  w16 d = allw((float)b->d), m = allw((float)b->m);
  b16 q = bytes(b->q);
  storew(y, real(q & 15) * d + m);
  storew(y + 16, real(q >> 4) * d + m);
})

BLOCKS(q5_0, 32, {
  w16 d = allw((float)b->d);
  b16 q = bytes(b->q);
  storew(y, signedw(((q & 15) | fifth(b->h)) - 16) * d);
  storew(y + 16, signedw(((q >> 4) | fifth(b->h + 2)) - 16) * d);
})

BLOCKS(q5_1, 32, {
  w16 d = allw((float)b->d), m = allw((float)b->m);
  b16 q = bytes(b->q);
  storew(y, real((q & 15) | fifth(b->h)) * d + m);
  storew(y + 16, real((q >> 4) | fifth(b->h + 2)) * d + m);
})

#define UNROLL _Pragma("clang loop unroll(full)")

BLOCKS(q2_k, 256, {
  float d = (float)b->d; float m = (float)b->m;
  UNROLL for (int g = 0; g < 16; g++)
    storew(y + 16 * g, real(code_q2_k(b, g)) * allw(d * (float)(b->s[g] & 15)) - allw(m * (float)(b->s[g] >> 4)));
})

BLOCKS(q3_k, 256, {
  float d = (float)b->d;
  UNROLL for (int g = 0; g < 16; g++)
    storew(y + 16 * g, signedw(code_q3_k(b, g)) * allw(d * (float)scale_q3_k(b, g)));
})

#define AFFINE(type) \
BLOCKS(type, 256, { \
  float d = (float)b->d; float m = (float)b->m; \
  UNROLL for (int g = 0; g < 16; g++) { \
    float sc; float mn; \
    pair6(b->s, g / 2, &sc, &mn); \
    storew(y + 16 * g, real(code_##type(b, g)) * allw(d * sc) - allw(m * mn)); \
  } \
})
AFFINE(q4_k)
AFFINE(q5_k)

BLOCKS(q6_k, 256, {
  float d = (float)b->d;
  UNROLL for (int g = 0; g < 16; g++)
    storew(y + 16 * g, signedw(code_q6_k(b, g)) * allw(d * (float)b->s[g]));
})
