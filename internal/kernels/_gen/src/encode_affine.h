// The search of types with a minimum: storage's fitAffine on every lane.
#pragma once
#include "encode.h"

struct affine {
  lf hi, lo, sw, sx, best, scale;
  lf inverse, base; // of the codes found: round(inverse*(x-base))
};

INLINE lf affine_error(const struct group* g, const long n, lf s, lf m, const int mad)
{
  lf err = 0;
#pragma clang loop unroll_count(4)
  for (long i = 0; i < n; i++) {
    lf d = s * g->t[i] + m - g->x[i];
    d = mad ? absl(d) : d * d;
    err += g->w[i] * d;
  }
  return err;
}

// fit_affine searches codes 0..most for the n elements of every lane over the inverse scales
// (from + step*k + most)/(max-min), k = 0..steps. State lies in memory: there are not enough
// registers for it beside the sums.
INLINE void fit_affine(struct affine* a, struct group* g, const long n, float most, float from, float step, long steps, const int mad)
{
  const lf zero = 0, top = most;
  {
    lf lo = g->x[0], hi = lo, sw = g->w[0], sx = sw * lo;
    EACH for (long i = 1; i < n; i++) {
      const lf x = g->x[i], w = g->w[i];
      lo = x < lo ? x : lo;
      hi = x > hi ? x : hi;
      sw += w;
      sx += w * x;
    }
    lo = lo > zero ? zero : lo;
    const lf iscale = top / (hi - lo);
    EACH for (long i = 0; i < n; i++) g->t[i] = code(iscale * (g->x[i] - lo), zero, top);
    a->hi = hi, a->lo = a->base = lo, a->sw = sw, a->sx = sx;
    a->inverse = iscale;
    a->scale = 1 / iscale;
    SETTLE
    const li empty = hi <= lo;
    a->best = affine_error(g, n, a->scale, lo, mad);
    // with nothing to fit, no candidate wins, and the codes are zero
    a->best = empty ? -1 : a->best;
    a->scale = empty ? zero : a->scale;
    a->inverse = empty ? zero : a->inverse;
  }
  EACH for (long k = 0; k <= steps; k++) {
    SETTLE
    const lf lo = a->lo, iscale = (from + step * (float)k + most) / (a->hi - lo);
    lf sl = zero, sl2 = zero, sxl = zero;
#pragma clang loop unroll_count(2)
    for (long i = 0; i < n; i++) {
      const lf x = g->x[i], l = code(iscale * (x - lo), zero, top), wl = g->w[i] * l;
      g->t[i] = l;
      sl += wl;
      sl2 += wl * l;
      sxl += wl * x;
    }
    SETTLE
    const lf sw = a->sw, sx = a->sx, det = sw * sl2 - sl * sl;
    lf s = (sw * sxl - sx * sl) / det, m = (sl2 * sx - sl * sxl) / det;
    const li positive = m > zero;
    if (anyl(positive)) {
      s = positive ? sxl / sl2 : s;
      m = positive ? zero : m;
    }
    SETTLE
    const lf err = affine_error(g, n, s, m, mad);
    const li good = (det > zero) & (err < a->best);
    a->best = good ? err : a->best;
    a->scale = good ? s : a->scale;
    a->lo = good ? m : a->lo;
    a->inverse = good ? iscale : a->inverse;
    a->base = good ? lo : a->base;
  }
}
