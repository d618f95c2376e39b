// The search of types without a minimum: storage's fitSym on every lane.
#pragma once
#include "encode.h"

struct symmetric {
  lf value, best, scale; // the element of largest magnitude comes first
  lf inverse;            // of the codes found: round(inverse*x), NaN when all are the lowest
};

// gain sums w*x*q and w*q^2 for the codes that inverse scale is gives; t holds w*x. The largest
// magnitude gets |code| <= most + 0.1 k. So up to k = 4 no code is below -most, and to k = -6 none above
// most-1: clamping would change nothing there, and is a tenth of the work.
INLINE void gain(const struct group* g, const long n, lf is, float most, const int low, const int high, lf* lx, lf* l2)
{
  const lf lo = -most, hi = most - 1;
  lf a = 0, b = 0;
#pragma clang loop unroll_count(2)
  for (long i = 0; i < n; i++) {
    lf l = is * g->x[i];
    if (low) l = l > lo ? l : lo;
    if (high) l = l > hi ? hi : l;
    l = ROUND(l);
    a += g->t[i] * l;
    b += g->w[i] * l * l;
  }
  *lx = a;
  *l2 = b;
}

// fit_symmetric searches codes -most..most-1 for the n elements of every lane over 19 scales around the
// one that maps the element of largest magnitude to -most.
INLINE void fit_symmetric(struct symmetric* f, struct group* g, const long n, float most)
{
  const lf zero = 0, none = __builtin_nanf("");
  lf lx, l2, v = zero, top = zero;
  EACH for (long i = 0; i < n; i++) {
    const lf x = g->x[i], a = absl(x);
    v = a > top ? x : v;
    top = a > top ? a : top;
    g->t[i] = g->w[i] * x;
  }
  const lf first = -most / v;
  f->value = v;
  f->inverse = top < 1e-15f ? none : first;
  SETTLE
  gain(g, n, first, most, 1, 1, &lx, &l2);
  const lf scale = l2 == zero ? zero : lx / l2;
  f->best = scale * lx;
  f->scale = scale;
  EACH for (int k = -9; k <= 9; k++) {
    if (k == 0) continue;
    SETTLE
    const lf is = -(most + 0.1f * (float)k) / f->value;
    if (k <= -6)
      gain(g, n, is, most, 0, 0, &lx, &l2);
    else if (k <= 4)
      gain(g, n, is, most, 0, 1, &lx, &l2);
    else
      gain(g, n, is, most, 1, 1, &lx, &l2);
    const li good = (l2 > zero) & (lx * lx > f->best * l2);
    if (!anyl(good)) continue;
    const lf s = lx / l2;
    f->scale = good ? s : f->scale;
    f->best = good ? s * lx : f->best;
    f->inverse = (good & (f->inverse == f->inverse)) ? is : f->inverse;
  }
  f->scale = f->inverse == f->inverse ? f->scale : zero;
}
