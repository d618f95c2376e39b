// levels: avx2 avx512 neon
// Scale searches of the block types: eight sub-blocks side by side, one a lane, so that every lane
// does the arithmetic of the scalar search in package storage, in its order, and gets its bits.
// Nothing here may fuse a multiplication with an addition.
#include "vec.h"

typedef int32_t i8v __attribute__((vector_size(32)));
typedef float f8u __attribute__((vector_size(32), aligned(4)));

INLINE f8 load8(const float* p) { return *(const f8u*)p; }
INLINE void store8(float* p, f8 v) { *(f8u*)p = v; }
INLINE f8 all8(float x) { return x - (f8){0}; }
INLINE f8 sel8(i8v m, f8 a, f8 b) { return (f8)((m & (i8v)a) | (~m & (i8v)b)); }
INLINE f8 abs8(f8 v) { return (f8)((i8v)v & 0x7fffffff); }
INLINE int any8(i8v m) { return __builtin_reduce_or(m) != 0; }

// code clamps to [lo,hi] and rounds to an integer, ties to even; NaN becomes lo.
INLINE f8 code(f8 v, f8 lo, f8 hi)
{
  const f8 magic = all8(12582912);
  v = sel8(v > lo, v, lo);
  v = sel8(v > hi, hi, v);
  return (v + magic) - magic;
}

struct fit_affine {
  const float *x, *w;    // [n][8]
  float *codes, *tried;  // [n][8]
  float *scale, *minus;  // [8]
  int64_t n, steps, mad;
  float top, from, step;
};

INLINE f8 affine_error(const struct fit_affine* p, const float* codes, f8 s, f8 m, int mad)
{
  f8 err = {0};
  for (long i = 0; i < p->n; i++) {
    f8 d = s * load8(codes + 8 * i) + m - load8(p->x + 8 * i);
    d = mad ? abs8(d) : d * d;
    err += load8(p->w + 8 * i) * d;
  }
  return err;
}

INLINE void fit_affine(struct fit_affine* restrict p, int mad)
{
  const long n = p->n;
  const f8 zero = {0}, top = all8(p->top);
  f8 lo = load8(p->x), hi = lo, sw = load8(p->w), sx = sw * lo;
  for (long i = 1; i < n; i++) {
    const f8 x = load8(p->x + 8 * i), w = load8(p->w + 8 * i);
    lo = sel8(x < lo, x, lo);
    hi = sel8(x > hi, x, hi);
    sw += w;
    sx += w * x;
  }
  lo = sel8(lo > zero, zero, lo);
  const i8v empty = hi <= lo;
  f8 iscale = top / (hi - lo);
  f8 scale = 1 / iscale;
  for (long i = 0; i < n; i++)
    store8(p->codes + 8 * i, code(iscale * (load8(p->x + 8 * i) - lo), zero, top));
  f8 best = affine_error(p, p->codes, scale, lo, mad);
  for (long k = 0; k <= p->steps; k++) {
    iscale = all8(p->from + p->step * (float)k + p->top) / (hi - lo);
    f8 sl = zero, sl2 = zero, sxl = zero;
    for (long i = 0; i < n; i++) {
      const f8 x = load8(p->x + 8 * i);
      const f8 l = code(iscale * (x - lo), zero, top);
      store8(p->tried + 8 * i, l);
      const f8 wl = load8(p->w + 8 * i) * l;
      sl += wl;
      sl2 += wl * l;
      sxl += wl * x;
    }
    const f8 det = sw * sl2 - sl * sl;
    i8v good = det > zero;
    if (!any8(good)) continue;
    f8 s = (sw * sxl - sx * sl) / det, m = (sl2 * sx - sl * sxl) / det;
    const i8v positive = m > zero;
    s = sel8(positive, sxl / sl2, s);
    m = sel8(positive, zero, m);
    const f8 err = affine_error(p, p->tried, s, m, mad);
    good &= err < best;
    if (!any8(good)) continue;
    best = sel8(good, err, best);
    scale = sel8(good, s, scale);
    lo = sel8(good, m, lo);
    for (long i = 0; i < n; i++)
      store8(p->codes + 8 * i, sel8(good, load8(p->tried + 8 * i), load8(p->codes + 8 * i)));
  }
  store8(p->scale, sel8(empty, zero, scale));
  store8(p->minus, -lo);
}

KERNEL(fit_affine, fit_affine)
{
  if (p->mad)
    fit_affine(p, 1);
  else
    fit_affine(p, 0);
}

struct fit_symmetric {
  const float *x, *w;    // [n][8]
  float *codes, *tried;  // [n][8]
  float* scale;          // [8]
  int64_t n;
  float most;
};

// gain sums w*x*q and w*q^2 for the codes that iscale gives, and stores the codes.
INLINE void gain(const struct fit_symmetric* p, float* codes, f8 iscale, f8* lx, f8* l2)
{
  const f8 lo = all8(-p->most), hi = all8(p->most - 1);
  f8 a = {0}, b = {0};
  for (long i = 0; i < p->n; i++) {
    const f8 x = load8(p->x + 8 * i), w = load8(p->w + 8 * i);
    const f8 l = code(iscale * x, lo, hi);
    store8(codes + 8 * i, l);
    a += w * x * l;
    b += w * l * l;
  }
  *lx = a;
  *l2 = b;
}

KERNEL(fit_symmetric, fit_symmetric)
{
  const f8 zero = {0};
  f8 v = zero, amax = zero, lx, l2;
  for (long i = 0; i < p->n; i++) {
    const f8 x = load8(p->x + 8 * i), a = abs8(x);
    const i8v more = a > amax;
    amax = sel8(more, a, amax);
    v = sel8(more, x, v);
  }
  const i8v none = amax < all8(1e-15f);
  gain(p, p->codes, all8(-p->most) / v, &lx, &l2);
  f8 scale = sel8(l2 == zero, zero, lx / l2), best = scale * lx;
  for (int k = -9; k <= 9; k++) {
    if (k == 0) continue;
    gain(p, p->tried, all8(-(p->most + 0.1f * (float)k)) / v, &lx, &l2);
    const i8v good = (l2 > zero) & (lx * lx > best * l2);
    if (!any8(good)) continue;
    const f8 s = lx / l2;
    scale = sel8(good, s, scale);
    best = sel8(good, s * lx, best);
    for (long i = 0; i < p->n; i++)
      store8(p->codes + 8 * i, sel8(good, load8(p->tried + 8 * i), load8(p->codes + 8 * i)));
  }
  store8(p->scale, sel8(none, zero, scale));
  for (long i = 0; i < p->n; i++)
    store8(p->codes + 8 * i, sel8(none, zero, load8(p->codes + 8 * i) + p->most));
}
