// levels: avx2 avx512 neon
// Dot products of encoded rows with real activations, without writing the decoded row.
#include "blocks.h"

struct dot_row { const void* row; const float* x; long n; float out; };

#define DOT(type, elems, ...) \
  KERNEL(dot_##type, dot_row) \
  { \
    const struct type* b = p->row; \
    const float* x = p->x; \
    w16 s0 = allw(0), s1 = s0; \
    for (long i = 0; i < p->n; i++, b++, x += elems) { __VA_ARGS__ } \
    p->out = sumw(s0 + s1); \
  }

KERNEL(dot_f16, dot_row)
{
  const _Float16* r = p->row;
  const float* x = p->x;
  w16 s0 = allw(0), s1 = s0;
  long i = 0;
  for (; i + 32 <= p->n; i += 32) {
    s0 = fmaw(__builtin_convertvector(*(const h16u*)(r + i), w16), loadw(x + i), s0);
    s1 = fmaw(__builtin_convertvector(*(const h16u*)(r + i + 16), w16), loadw(x + i + 16), s1);
  }
  float s = sumw(s0 + s1);
#pragma clang loop vectorize(disable)
  for (; i < p->n; i++) s = __builtin_fmaf((float)r[i], x[i], s);
  p->out = s;
}

KERNEL(dot_bf16, dot_row)
{
  const uint16_t* r = p->row;
  const float* x = p->x;
  w16 s0 = allw(0), s1 = s0;
  long i = 0;
#define WIDE(q) (w16)(__builtin_convertvector(*(const s16u*)(q), u16v) << 16)
  for (; i + 32 <= p->n; i += 32) {
    s0 = fmaw(WIDE(r + i), loadw(x + i), s0);
    s1 = fmaw(WIDE(r + i + 16), loadw(x + i + 16), s1);
  }
  float s = sumw(s0 + s1);
#pragma clang loop vectorize(disable)
  for (; i < p->n; i++) {
    union { uint32_t u; float f; } v = {(uint32_t)r[i] << 16};
    s = __builtin_fmaf(v.f, x[i], s);
  }
  p->out = s;
}

DOT(q8_0, 32, {
  w16 t = signedw(bytes(b->q)) * loadw(x);
  t = fmaw(signedw(bytes(b->q + 16)), loadw(x + 16), t);
  s0 = fmaw(allw((float)b->d), t, s0);
})

DOT(q4_0, 32, {
  b16 q = bytes(b->q);
  w16 t = signedw((q & 15) - 8) * loadw(x);
  t = fmaw(signedw((q >> 4) - 8), loadw(x + 16), t);
  s0 = fmaw(allw((float)b->d), t, s0);
})

DOT(q4_1, 32, {
  b16 q = bytes(b->q);
  w16 x0 = loadw(x), x1 = loadw(x + 16);
  w16 t = fmaw(real(q >> 4), x1, real(q & 15) * x0);
  s0 = fmaw(allw((float)b->d), t, s0);
  s1 = fmaw(allw((float)b->m), x0 + x1, s1);
})

DOT(q5_0, 32, {
  b16 q = bytes(b->q);
  w16 t = signedw(((q & 15) | fifth(b->h)) - 16) * loadw(x);
  t = fmaw(signedw(((q >> 4) | fifth(b->h + 2)) - 16), loadw(x + 16), t);
  s0 = fmaw(allw((float)b->d), t, s0);
})

DOT(q5_1, 32, {
  b16 q = bytes(b->q);
  w16 x0 = loadw(x), x1 = loadw(x + 16);
  w16 t = fmaw(real((q >> 4) | fifth(b->h + 2)), x1, real((q & 15) | fifth(b->h)) * x0);
  s0 = fmaw(allw((float)b->d), t, s0);
  s1 = fmaw(allw((float)b->m), x0 + x1, s1);
})

// a scale for every sixteen elements
#define SCALED(j, lo, hi) \
  t = fmaw(allw(f.v[2 * (j)]), signedw(lo) * loadw(x + 32 * (j)), t); \
  u = fmaw(allw(f.v[2 * (j) + 1]), signedw(hi) * loadw(x + 32 * (j) + 16), u);
#define FINISH s0 = fmaw(allw((float)b->d), t, s0); s1 = fmaw(allw((float)b->d), u, s1);

DOT(q3_k, 256, {
  struct factors f;
  spread(&f, signedw(scales_q3_k(b->s)));
  w16 t = allw(0); w16 u = t;
  CODES_q3_k(b, SCALED)
  FINISH
})

DOT(q6_k, 256, {
  struct factors f;
  spread(&f, signedw(bytes(b->s)));
  w16 t = allw(0); w16 u = t;
  CODES_q6_k(b, SCALED)
  FINISH
})

// and a minimum: the minima take a second look at x, which is at hand, since together the sums would
// not fit the registers of every level
DOT(q2_k, 256, {
  struct factors f;
  struct factors m;
  spread(&f, real(bytes(b->s) & 15));
  spread(&m, real(bytes(b->s) >> 4));
  w16 t = allw(0); w16 u = t;
  CODES_q2_k(b, SCALED)
  FINISH
  t = allw(0);
  ROLLED for (int g = 0; g < 16; g++) t = fmaw(allw(m.v[g]), loadw(x + 16 * g), t);
  s1 = fmaw(allw(-(float)b->m), t, s1);
})

// a scale and a minimum for every 32
#define PAIR(j, lo, hi) \
  t = fmaw(allw(f.v[j]), fmaw(real(hi), loadw(x + 32 * (j) + 16), real(lo) * loadw(x + 32 * (j))), t);
#define AFFINE(type) \
DOT(type, 256, { \
  struct factors f; \
  spread(&f, real(scales6(b->s))); \
  w16 t = allw(0); w16 u = t; \
  CODES_##type(b, PAIR) \
  ROLLED for (int j = 0; j < 8; j++) u = fmaw(allw(f.v[8 + j]), loadw(x + 32 * j) + loadw(x + 32 * j + 16), u); \
  s0 = fmaw(allw((float)b->d), t, s0); \
  s1 = fmaw(allw(-(float)b->m), u, s1); \
})
AFFINE(q4_k)
AFFINE(q5_k)
