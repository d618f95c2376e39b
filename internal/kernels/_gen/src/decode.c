// levels: avx2 avx512 neon
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

// iq4_nl, mxfp4: codes of a table; the factor of the second is 2^(e-128)
#define TABLE(y, table, q, d) \
  storew(y, value(table, (q) & 15) * (d)); \
  storew((y) + 16, value(table, (q) >> 4) * (d));

BLOCKS(iq4_nl, 32, {
  w16 d = allw((float)b->d);
  b16 q = bytes(b->q);
  TABLE(y, nonlinear, q, d)
})

BLOCKS(mxfp4, 32, {
  union { uint32_t u; float f; } e = {b->e < 2 ? (b->e + 1u) << 21 : (b->e - 1u) << 23}; // 2^-128 and 2^-127 for 0 and 1
  w16 d = allw(e.f);
  b16 q = bytes(b->q);
  TABLE(y, tiny_floats, q, d)
})

// iq4_xs: a 6-bit factor for every 32, its lower four bits apart from the upper two
BLOCKS(iq4_xs, 256, {
  ROLLED for (int c = 0; c < 8; c++) {
    int f = (b->l[c / 2] >> 4 * (c % 2) & 15) | (b->h >> 2 * c & 3) << 4;
    w16 d = allw((float)b->d * (float)(f - 32));
    b16 q = bytes(b->q + 16 * c);
    TABLE(y + 32 * c, nonlinear, q, d)
  }
})

#define STORE(j, lo, hi) storew(y + 32 * (j), lo); storew(y + 32 * (j) + 16, hi);

// q2_k: a scale and a minimum for every sixteen elements
#define USE(j, lo, hi) STORE(j, real(lo) * allw(d.v[2 * (j)]) - allw(m.v[2 * (j)]), real(hi) * allw(d.v[2 * (j) + 1]) - allw(m.v[2 * (j) + 1]))
BLOCKS(q2_k, 256, {
  struct factors d;
  struct factors m;
  spread(&d, allw((float)b->d) * real(bytes(b->s) & 15));
  spread(&m, allw((float)b->m) * real(bytes(b->s) >> 4));
  CODES_q2_k(b, USE)
})
#undef USE

// q3_k, q6_k: a scale for every sixteen
#define USE(j, lo, hi) STORE(j, signedw(lo) * allw(d.v[2 * (j)]), signedw(hi) * allw(d.v[2 * (j) + 1]))
BLOCKS(q3_k, 256, {
  struct factors d;
  spread(&d, allw((float)b->d) * signedw(scales_q3_k(b->s)));
  CODES_q3_k(b, USE)
})
BLOCKS(q6_k, 256, {
  struct factors d;
  spread(&d, allw((float)b->d) * signedw(bytes(b->s)));
  CODES_q6_k(b, USE)
})
#undef USE

// q4_k, q5_k: eight scales, each for 32, then eight minima
#define USE(j, lo, hi) STORE(j, real(lo) * allw(f.v[j]) - allw(f.v[8 + j]), real(hi) * allw(f.v[j]) - allw(f.v[8 + j]))
#define AFFINE(type) \
BLOCKS(type, 256, { \
  struct factors f; \
  w16 dm = __builtin_shufflevector(allw((float)b->d), allw((float)b->m), \
                                   0, 0, 0, 0, 0, 0, 0, 0, 16, 16, 16, 16, 16, 16, 16, 16); \
  spread(&f, dm * real(scales6(b->s))); \
  CODES_##type(b, USE) \
})
AFFINE(q4_k)
AFFINE(q5_k)
#undef AFFINE
#undef USE
