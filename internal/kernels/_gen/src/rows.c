// levels: avx2 avx512 neon
// Operations on rows. A row is taken a vector at a time; the rest goes through partial loads.
#include "exp.h"

struct row { float* a; const float* b; const float* c; const float* d; long n; float in, out; };

// EACH runs a body for every full vector and once more for the rest. In the body LD and ST read and
// write at element i, and ON is the mask of the lanes that count.
#define EACH(n, body) { \
    long i = 0, rest; \
    for (; i + VL <= (n); i += VL) { body(load, store, FULL) } \
    if ((rest = (n) - i) > 0) { body(PART_LOAD, PART_STORE, first(rest)) } \
  }
#define FULL (~(vi){0})

KERNEL(exp, row)
{
#define BODY(LD, ST, ON) ST(p->a + i, vexp(LD(p->b + i)));
  EACH(p->n, BODY)
#undef BODY
}

INLINE vf larger(vf v, vf m) { return sel(v > m, v, m); }

KERNEL(max, row)
{
  const float* x = p->a;
  long n = p->n, i = 0;
  vf m0 = all(-__builtin_inff()), m1 = m0, m2 = m0, m3 = m0;
  for (; i + 4 * VL <= n; i += 4 * VL) {
    m0 = larger(load(x + i), m0);
    m1 = larger(load(x + i + VL), m1);
    m2 = larger(load(x + i + 2 * VL), m2);
    m3 = larger(load(x + i + 3 * VL), m3);
  }
  for (; i + VL <= n; i += VL) m0 = larger(load(x + i), m0);
  if (i < n) m1 = larger(sel(first(n - i), load_part(x + i, n - i), m1), m1);
  m0 = larger(larger(m3, m2), larger(m1, m0));
  float best = m0[0];
  for (int l = 1; l < VL; l++) best = m0[l] > best ? m0[l] : best;
  p->out = best;
}

struct find { const float* x; long n; float value; long at; };

KERNEL(find, find)
{
  const vf v = all(p->value);
  long i = 0;
  for (; i + VL <= p->n; i += VL)
    if (any(load(p->x + i) == v)) break;
  for (; i < p->n; i++)
    if (p->x[i] == p->value) break;
  p->at = i;
}

KERNEL(softmax_exp, row)
{
  vf s = all(0), top = all(p->in);
#define BODY(LD, ST, ON) vf e = vexp(LD(p->a + i) - top); ST(p->a + i, e); s = s + sel(ON, e, all(0));
  EACH(p->n, BODY)
#undef BODY
  p->out = sum(s);
}

KERNEL(sum_squares, row)
{
  const float* x = p->b;
  long n = p->n, i = 0;
  vf s0 = all(0), s1 = s0, s2 = s0, s3 = s0;
  for (; i + 4 * VL <= n; i += 4 * VL) {
    vf a = load(x + i), b = load(x + i + VL), c = load(x + i + 2 * VL), d = load(x + i + 3 * VL);
    s0 = fma(a, a, s0);
    s1 = fma(b, b, s1);
    s2 = fma(c, c, s2);
    s3 = fma(d, d, s3);
  }
  for (; i + VL <= n; i += VL) { vf a = load(x + i); s0 = fma(a, a, s0); }
  if (i < n) { vf a = load_part(x + i, n - i); s1 = fma(a, a, s1); }
  p->out = sum((s0 + s1) + (s2 + s3));
}

KERNEL(rms_scale, row)
{
  const vf r = all(p->in);
#define BODY(LD, ST, ON) ST(p->a + i, LD(p->b + i) * r * LD(p->c + i));
  EACH(p->n, BODY)
#undef BODY
}

KERNEL(silu_mul, row)
{
#define BODY(LD, ST, ON) vf g = LD(p->b + i); ST(p->a + i, g / (all(1) + vexp(-g)) * LD(p->c + i));
  EACH(p->n, BODY)
#undef BODY
}

KERNEL(rope, row)
{
  float *x = p->a, *y = (float*)p->b;
#define BODY(LD, ST, ON) \
  vf a = LD(x + i), b = LD(y + i), c = LD(p->c + i), s = LD(p->d + i); \
  ST(x + i, fma(a, c, -(b * s))); \
  ST(y + i, fma(b, c, a * s));
  EACH(p->n, BODY)
#undef BODY
}

KERNEL(axpy, row)
{
  const vf k = all(p->in);
#define BODY(LD, ST, ON) ST(p->a + i, fma(k, LD(p->b + i), LD(p->a + i)));
  EACH(p->n, BODY)
#undef BODY
}

KERNEL(scale, row)
{
  const vf k = all(p->in);
#define BODY(LD, ST, ON) ST(p->a + i, LD(p->a + i) * k);
  EACH(p->n, BODY)
#undef BODY
}

KERNEL(add, row)
{
#define BODY(LD, ST, ON) ST(p->a + i, LD(p->a + i) + LD(p->b + i));
  EACH(p->n, BODY)
#undef BODY
}

KERNEL(mul, row)
{
#define BODY(LD, ST, ON) ST(p->a + i, LD(p->a + i) * LD(p->b + i));
  EACH(p->n, BODY)
#undef BODY
}

// exp in double precision for x <= 0: reduction by ln 2 in two parts, Taylor to degree 13.
INLINE vd vexpd(vd x)
{
  // adding 1.5*2^52 leaves the integer in the low bits, ready to be shifted into the exponent
  const vd magic = alld(6755399441055744.0);
  vd t = fmad(x, alld(1.44269504088896340736), magic), n = t - magic;
  vd r = fmad(n, alld(-6.93147180369123816490e-01), x);
  r = fmad(n, alld(-1.90821492927058770002e-10), r);
  vd q = alld(1. / 6227020800);
  q = fmad(q, r, alld(1. / 479001600));
  q = fmad(q, r, alld(1. / 39916800));
  q = fmad(q, r, alld(1. / 3628800));
  q = fmad(q, r, alld(1. / 362880));
  q = fmad(q, r, alld(1. / 40320));
  q = fmad(q, r, alld(1. / 5040));
  q = fmad(q, r, alld(1. / 720));
  q = fmad(q, r, alld(1. / 120));
  q = fmad(q, r, alld(1. / 24));
  q = fmad(q, r, alld(1. / 6));
  q = fmad(q, r, alld(1. / 2));
  q = fmad(q, r, alld(1));
  q = fmad(q, r, alld(1));
  q = (vd)((vl)q + ((vl)t << 52));
  q = seld(x < alld(-708), alld(0), q);
  return seld(x == x, q, x);
}

struct sum_exp { const float* p; const float* q; long n; float top_p, top_q; double sum_p, sum_q, sum_dif; };

// Lanes beyond the end are filled with -Inf, whose exp is 0.
#define OR_NOTHING(ON, v) sel(ON, v, all(-__builtin_inff()))

KERNEL(sum_exp, sum_exp)
{
  const vd top = alld(p->top_p);
  vd s = alld(0);
#define BODY(LD, ST, ON) vf v = OR_NOTHING(ON, LD(p->p + i)); s = s + vexpd(low(v) - top); s = s + vexpd(high(v) - top);
  EACH(p->n, BODY)
#undef BODY
  p->sum_p = sumd(s);
}

INLINE void pair(vd x, vd y, vd top_p, vd top_q, vd* sp, vd* sq, vd* dif)
{
  vd e = vexpd(x - top_p);
  *sp = *sp + e;
  *sq = *sq + vexpd(y - top_q);
  // an impossible outcome adds nothing, even where -Inf stands on both sides; NaN stays
  *dif = *dif + seld(e == alld(0), alld(0), e * (x - y));
}

KERNEL(sum_exp_pair, sum_exp)
{
  const vd top_p = alld(p->top_p), top_q = alld(p->top_q);
  vd sp = alld(0), sq = sp, dif = sp;
#define BODY(LD, ST, ON) \
  vf x = OR_NOTHING(ON, LD(p->p + i)), y = OR_NOTHING(ON, LD(p->q + i)); \
  pair(low(x), low(y), top_p, top_q, &sp, &sq, &dif); \
  pair(high(x), high(y), top_p, top_q, &sp, &sq, &dif);
  EACH(p->n, BODY)
#undef BODY
  p->sum_p = sumd(sp);
  p->sum_q = sumd(sq);
  p->sum_dif = sumd(dif);
}

struct deviation { const float* x; const float* y; long n; double signal, other, dot, noise, most; };

INLINE void deviate(vd x, vd y, vd* signal, vd* other, vd* dot, vd* noise, vd* most)
{
  vd e = x - y;
  *signal = fmad(x, x, *signal);
  *other = fmad(y, y, *other);
  *dot = fmad(x, y, *dot);
  *noise = fmad(e, e, *noise);
  e = (vd)((vl)e & 0x7fffffffffffffff);
  *most = seld(e > *most, e, *most);
}

// Lanes beyond the end are zeros, which add nothing.
KERNEL(deviation, deviation)
{
  vd signal = alld(0), other = signal, dot = signal, noise = signal, most = signal;
#define BODY(LD, ST, ON) \
  vf x = LD(p->x + i), y = LD(p->y + i); \
  deviate(low(x), low(y), &signal, &other, &dot, &noise, &most); \
  deviate(high(x), high(y), &signal, &other, &dot, &noise, &most);
  EACH(p->n, BODY)
#undef BODY
  p->signal = sumd(signal);
  p->other = sumd(other);
  p->dot = sumd(dot);
  p->noise = sumd(noise);
  double m = 0;
  for (int i = 0; i < VL / 2; i++) m = most[i] > m ? most[i] : m;
  p->most = m;
}
