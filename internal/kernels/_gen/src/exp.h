// exp in single precision: the constants and the order are those of exp32 in Go, with fused steps.
#pragma once
#include "vec.h"

// vexp_of is e^x; may_be_large is 0 where x is known not to be above 88, which saves looking.
INLINE vf vexp_of(vf x, const int may_be_large)
{
  const float lo = -87.336544f, hi = 88.722839f;
#if VL == 16 // NaN is the second operand's, and passes
  vf y = (vf)_mm512_max_ps((__m512)all(lo), (__m512)x);
  if (may_be_large) y = (vf)_mm512_min_ps((__m512)all(hi), (__m512)y);
#else
  vi under = x < all(lo), over = x > all(hi);
  vf y = sel(under, all(lo), may_be_large ? sel(over, all(hi), x) : x);
#endif
  vf n = __builtin_elementwise_roundeven(y * all(1.44269504088896340736f));
  vf r = fma(n, all(-0.693359375f), y);
  r = fma(n, all(2.12194440e-4f), r);
  vf q = all(1.9875691500e-4f);
  q = fma(q, r, all(1.3981999507e-3f));
  q = fma(q, r, all(8.3334519073e-3f));
  q = fma(q, r, all(4.1665795894e-2f));
  q = fma(q, r, all(1.6666665459e-1f));
  q = fma(q, r, all(5.0000001201e-1f));
  q = fma(q, r * r, r) + all(1);
#if VL == 16 // one rounding, like that of the two products below
  q = (vf)_mm512_scalef_ps((__m512)q, (__m512)n);
  if (may_be_large) q = (vf)_mm512_mask_mov_ps((__m512)q, _mm512_cmp_ps_mask((__m512)x, (__m512)all(hi), _CMP_GT_OQ), (__m512)all(__builtin_inff()));
  return (vf)_mm512_maskz_mov_ps(_mm512_cmp_ps_mask((__m512)x, (__m512)all(lo), _CMP_NLT_UQ), (__m512)q);
#else
  vi k = __builtin_convertvector(n, vi), h = k >> 1;
  q = q * (vf)((h + 127) << 23) * (vf)((k - h + 127) << 23);
  if (may_be_large) q = sel(over, all(__builtin_inff()), q);
  return sel(under, all(0), q);
#endif
}
INLINE vf vexp(vf x) { return vexp_of(x, 1); }
