// levels: avx2 avx512 neon
// What calibration asks of activations: extremes and squares of columns.
#include "vec.h"

struct spread { const float* x; float* lo; float* hi; float* squares; long rows, cols, ld; };

INLINE vf smaller(vf v, vf m) { return sel(v < m, v, m); }
INLINE vf larger(vf v, vf m) { return sel(v > m, v, m); }

// Columns in vectors; rows two at a time, so that sums wait for each other half as often.
KERNEL(spread, spread)
{
  for (long j = 0; j < p->cols; j += VL) {
    const long n = p->cols - j;
    const float* x = p->x + j;
    long i = 0;
#define SPREAD(LD, ST) \
    vf lo = LD(p->lo + j), hi = LD(p->hi + j), s0 = LD(p->squares + j), s1 = all(0), lo1 = lo, hi1 = hi; \
    for (; i + 2 <= p->rows; i += 2, x += 2 * p->ld) { \
      vf a = LD(x), b = LD(x + p->ld); \
      lo = smaller(a, lo), hi = larger(a, hi), s0 = s0 + a * a; \
      lo1 = smaller(b, lo1), hi1 = larger(b, hi1), s1 = s1 + b * b; \
    } \
    if (i < p->rows) { vf a = LD(x); lo = smaller(a, lo), hi = larger(a, hi), s0 = s0 + a * a; } \
    ST(p->lo + j, smaller(lo1, lo)); \
    ST(p->hi + j, larger(hi1, hi)); \
    ST(p->squares + j, s0 + s1);
    if (n >= VL) {
      SPREAD(load, store)
    } else {
      const long rest = n;
      SPREAD(PART_LOAD, PART_STORE)
    }
  }
}
