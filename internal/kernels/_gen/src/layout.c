// levels: avx2 avx512 neon
// Transpositions of matrices, by which images change between planes (NCHW) and pixels (NHWC).
#include "vec.h"

struct transpose { void* dst; const void* src; long rows, cols, dst_ld, src_ld; };

// dst[cols][rows] = src[rows][cols], in squares of four.
KERNEL(transpose_4, transpose)
{
  const float* src = p->src;
  float* dst = p->dst;
  long i = 0;
  for (; i + 4 <= p->rows; i += 4) {
    const float* s = src + i * p->src_ld;
    float* d = dst + i;
    long j = 0;
    for (; j + 4 <= p->cols; j += 4, s += 4, d += 4 * p->dst_ld) {
      f4 a = *(const f4u*)s, b = *(const f4u*)(s + p->src_ld), c = *(const f4u*)(s + 2 * p->src_ld), e = *(const f4u*)(s + 3 * p->src_ld);
      f4 ab = SHUF(a, b, 0, 4, 1, 5), AB = SHUF(a, b, 2, 6, 3, 7), ce = SHUF(c, e, 0, 4, 1, 5), CE = SHUF(c, e, 2, 6, 3, 7);
      *(f4u*)d = SHUF(ab, ce, 0, 1, 4, 5);
      *(f4u*)(d + p->dst_ld) = SHUF(ab, ce, 2, 3, 6, 7);
      *(f4u*)(d + 2 * p->dst_ld) = SHUF(AB, CE, 0, 1, 4, 5);
      *(f4u*)(d + 3 * p->dst_ld) = SHUF(AB, CE, 2, 3, 6, 7);
    }
    for (; j < p->cols; j++, s++, d += p->dst_ld)
      for (int r = 0; r < 4; r++) d[r] = s[r * p->src_ld];
  }
  for (; i < p->rows; i++)
    for (long j = 0; j < p->cols; j++) dst[j * p->dst_ld + i] = src[i * p->src_ld + j];
}
