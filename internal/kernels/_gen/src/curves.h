// Functions of neural networks on vectors. Polynomials are near-minimax fits; the steps are those of
// curves_portable.go, with fused multiply-adds.
#pragma once
#include "exp.h"

INLINE vf vabs(vf x) { return (vf)((vi)x & 0x7fffffff); }
INLINE vf with_sign(vf x, vf of) { return (vf)((vi)x | ((vi)of & (vi)all(-0.f))); }

// bound clips to [lo,hi]. NaN stays NaN.
INLINE vf bound(vf v, vf lo, vf hi)
{
  v = sel(lo > v, lo, v);
  return sel(hi < v, hi, v);
}

INLINE vf vsigmoid(vf x) { return all(1) / (all(1) + vexp(-x)); }

INLINE vf vtanh(vf x)
{
  vf a = vabs(x), z = x * x;
  vf q = all(-5.70498872745e-3f);
  q = fma(q, z, all(2.06390887954e-2f));
  q = fma(q, z, all(-5.37397155531e-2f));
  q = fma(q, z, all(1.33314422036e-1f));
  q = fma(q, z, all(-3.33332819422e-1f));
  vf near = fma(q * z, x, x);
  vf far = with_sign(all(1) - all(2) / (vexp(a + a) + all(1)), x);
  return sel(a < all(0.625f), near, far);
}

INLINE vf verf(vf x)
{
  vf a = vabs(x), z = x * x;
  vf q = all(7.889021732e-5f);
  q = fma(q, z, all(-8.020811921e-4f));
  q = fma(q, z, all(5.189532032e-3f));
  q = fma(q, z, all(-2.685444287e-2f));
  q = fma(q, z, all(1.128360014e-1f));
  q = fma(q, z, all(-3.761262713e-1f));
  q = fma(q, z, all(1.283791659e-1f));
  vf near = fma(q, x, x);
  vf b = sel(a > all(3.95f), all(3.95f), a);
  vf r = all(-1.876286329e-4f);
  r = fma(r, b, all(2.960339821e-3f));
  r = fma(r, b, all(-2.189051323e-2f));
  r = fma(r, b, all(1.032199581e-1f));
  r = fma(r, b, all(6.380102659e-1f));
  r = fma(r, b, all(1.127172784f));
  r = fma(r, b, all(3.203043675e-4f));
  vf far = with_sign(all(1) - vexp(-r), x);
  vf y = sel(a < all(1), near, far);
  return sel(x != x, x, y);
}

INLINE vf vsilu(vf x) { return x / (all(1) + vexp(-x)); }
INLINE vf vgelu(vf x) { return all(0.5f) * x * (all(1) + verf(x * all(0.70710678118654752f))); }

// x/2 (1 + tanh(u)) is x sigmoid(2u), which needs no tanh.
INLINE vf vgelu_tanh(vf x)
{
  vf u = fma(x * x * x, all(0.044715f), x) * all(1.5957691216057308f);
  return x / (all(1) + vexp(-u));
}
INLINE vf vhard_sigmoid(vf x, vf slope, vf at) { return bound(fma(x, slope, at), all(0), all(1)); }
