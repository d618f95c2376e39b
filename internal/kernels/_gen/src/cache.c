// levels: avx2 avx512 neon
// Keys and values on their way into a page of the cache and out of it. Keys lie in panels, [dim,32] for
// 32 positions, values in rows, [position,dim]. All of it is bit for bit what the Go reference does.
#include "blocks.h"

#define PANEL 32
#define SCALAR _Pragma("clang loop vectorize(disable) unroll(disable)")

struct cache_put {
  const float* k; const float* v;
  void* keys; void* values;           // of one head in one page
  uint16_t* kscale; uint16_t* vscale; // q8_0 only
  long ldk, ldv, n, at, dim;          // n positions from the page's position at on
};

// where element d of position j is among the keys
#define KEY(j, d) ((j) / PANEL * p->dim * PANEL + (d) * PANEL + (j) % PANEL)

KERNEL(cache_put_f32, cache_put)
{
  for (long i = 0; i < p->n; i++) {
    const float *k = p->k + i * p->ldk, *v = p->v + i * p->ldv;
    float *keys = (float*)p->keys + KEY(p->at + i, 0), *values = (float*)p->values + (p->at + i) * p->dim;
    SCALAR for (long d = 0; d < p->dim; d++) keys[d * PANEL] = k[d];
    long d = 0;
    for (; d + VL <= p->dim; d += VL) store(values + d, load(v + d));
    SCALAR for (; d < p->dim; d++) values[d] = v[d];
  }
}

KERNEL(cache_put_f16, cache_put)
{
  for (long i = 0; i < p->n; i++) {
    const float *k = p->k + i * p->ldk, *v = p->v + i * p->ldv;
    _Float16 *keys = (_Float16*)p->keys + KEY(p->at + i, 0), *values = (_Float16*)p->values + (p->at + i) * p->dim;
    typedef _Float16 h16 __attribute__((vector_size(32)));
    long d = 0;
    for (; d + 16 <= p->dim; d += 16) {
      h16 h = __builtin_convertvector(loadw(k + d), h16);
#pragma clang loop unroll(full)
      for (int l = 0; l < 16; l++) keys[(d + l) * PANEL] = h[l];
      *(h16u*)(values + d) = __builtin_convertvector(loadw(v + d), h16);
    }
    SCALAR for (; d < p->dim; d++) {
      keys[d * PANEL] = (_Float16)k[d];
      values[d] = (_Float16)v[d];
    }
  }
}

// codes are those of 32 numbers, with scale max|x|/127 in half precision, as ggml's q8_0: the division
// by the scale is a product with its inverse before that is rounded; ties go to even. NaN or infinity
// among them makes the scale NaN: magnitudes are compared as integers, where both lie above all numbers.
typedef int8_t i8x16 __attribute__((vector_size(16)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
INLINE _Float16 codes(const float* x, i8x16* lo, i8x16* hi)
{
  w16 a = loadw(x), b = loadw(x + 16);
  i32x16 m = __builtin_elementwise_max((i32x16)a & 0x7fffffff, (i32x16)b & 0x7fffffff);
  union { int32_t u; float f; } most = {__builtin_reduce_max(m)};
  float d = most.f / 127, id = d != 0 ? 1 / d : 0;
  if (most.u >= 0x7f800000) {
    most.u = 0x7fc00000;
    d = most.f;
    id = 0;
    a = b = allw(0);
  }
  a = __builtin_elementwise_roundeven(a * allw(id));
  b = __builtin_elementwise_roundeven(b * allw(id));
  *lo = __builtin_convertvector(__builtin_convertvector(a, i32x16), i8x16);
  *hi = __builtin_convertvector(__builtin_convertvector(b, i32x16), i8x16);
  return (_Float16)d;
}

KERNEL(cache_put_q8, cache_put)
{
  const long blocks = p->dim / 32;
  for (long i = 0; i < p->n; i++) {
    const float *k = p->k + i * p->ldk, *v = p->v + i * p->ldv;
    long j = p->at + i;
    int8_t *keys = (int8_t*)p->keys + KEY(j, 0), *values = (int8_t*)p->values + j * p->dim;
    _Float16 *ks = (_Float16*)p->kscale + j / PANEL * blocks * PANEL + j % PANEL, *vs = (_Float16*)p->vscale + j * blocks;
    for (long b = 0; b < blocks; b++) {
      i8x16 lo, hi;
      ks[b * PANEL] = codes(k + 32 * b, &lo, &hi);
#pragma clang loop unroll(full)
      for (int l = 0; l < 16; l++) keys[(32 * b + l) * PANEL] = lo[l];
#pragma clang loop unroll(full)
      for (int l = 0; l < 16; l++) keys[(32 * b + 16 + l) * PANEL] = hi[l];
      vs[b] = codes(v + 32 * b, &lo, &hi);
      *(b16u*)(values + 32 * b) = (b16)lo;
      *(b16u*)(values + 32 * b + 16) = (b16)hi;
    }
  }
}

struct cache_get { float* dst; const int8_t* codes; const uint16_t* scale; long n, dim; };

INLINE w16 halves(const uint16_t* p) { return __builtin_convertvector(*(const h16u*)p, w16); }

// dst is n panels, [dim,32] each
KERNEL(cache_keys_q8, cache_get)
{
  const int8_t* q = p->codes;
  const uint16_t* s = p->scale;
  float* y = p->dst;
  for (long b = 0; b < p->n * p->dim / 32; b++, s += PANEL) {
    const w16 s0 = halves(s), s1 = halves(s + 16);
    for (int d = 0; d < 32; d++, q += PANEL, y += PANEL) {
      storew(y, signedw(bytes(q)) * s0);
      storew(y + 16, signedw(bytes(q + 16)) * s1);
    }
  }
}

// dst is n rows of dim
KERNEL(cache_values_q8, cache_get)
{
  const int8_t* q = p->codes;
  const _Float16* s = (const _Float16*)p->scale;
  float* y = p->dst;
  for (long b = 0; b < p->n * p->dim / 32; b++, q += 32, y += 32) {
    const w16 f = allw((float)s[b]);
    storew(y, signedw(bytes(q)) * f);
    storew(y + 16, signedw(bytes(q + 16)) * f);
  }
}
