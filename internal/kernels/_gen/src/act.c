// levels: avx2 avx512 neon
// Activations as int8 codes.
#include "tile.h"

// n blocks of a row, which lie step apart
struct quantize { struct act* dst; const float* x; long n, step; };

typedef int8_t vq __attribute__((vector_size(VL)));
typedef int8_t vqu __attribute__((vector_size(VL), aligned(1)));

KERNEL(quantize, quantize)
{
  const float* x = p->x;
  struct act* a = p->dst;
  for (long b = 0; b < p->n; b++, a += p->step, x += 32) {
    vi top = alli(0);
#pragma clang loop unroll(full)
    for (int i = 0; i < 32; i += VL) top = __builtin_elementwise_max(top, (vi)load(x + i) & 0x7fffffff);
    union { int32_t u; float f; } most = {__builtin_reduce_max(top)};
    // a block of numbers too small to divide by is zero; one with NaN or infinities makes NaN
    float d = 0, id = 0;
    if (most.u >= 0x7f800000) {
      most.u = 0x7fc00000;
      d = most.f;
    } else if (most.f >= 0x1p-100f) {
      d = most.f / 127;
      id = 127 / most.f;
    }
    int32_t sum[2] = {0, 0};
#pragma clang loop unroll(full)
    for (int i = 0; i < 32; i += VL) {
      // adding MAGIC_F rounds to the nearest integer, ties to even
      vi q = (vi)(load(x + i) * id + MAGIC_F) - MAGIC;
      if (most.u == 0x7fc00000) q = alli(0);
      *(vqu*)(a->q + i) = __builtin_convertvector(q, vq);
      sum[i / 16] += __builtin_reduce_add(q);
    }
    a->d = d;
    a->d16 = d / 16;
    a->start = MAGIC - 128 * (sum[0] + sum[1]);
    a->sum = d * (float)(sum[0] + sum[1]);
    for (int h = 0; h < 2; h++) {
      a->start16[h] = MAGIC - 128 * sum[h];
      a->sum16[h] = d * (float)sum[h];
    }
  }
}
