// levels: avx512bf16 bf16
// Products of packed pairs of bf16 (pack_rows_pairs): a step multiplies two numbers of each row with two
// of each column. How the two products are rounded is the processor's: those of amd64 chain two fused
// multiply-adds, the second pair first, those of arm64 round the sum of both to odd; numbers too
// small to be normal are zero to all of them.
#include "panels.h"

#if VL == 16
INLINE vf pairs(vf a, vf b, vf c) { return (vf)_mm512_dpbf16_ps((__m512)c, (__m512bh)a, (__m512bh)b); }
#else
INLINE vf pairs(vf a, vf b, vf c) { return (vf)vbfdotq_f32((float32x4_t)c, (bfloat16x8_t)b, (bfloat16x8_t)a); }
#endif
// the same bits in every lane, which all() would take for a number
INLINE vf each(float x)
{
  union { float f; int32_t i; } v = {x};
  return (vf)((vi){0} + v.i);
}
MUL_PANELS(_pairs, float, vf, vfu, VL, pairs, each, load_part, store_part)
