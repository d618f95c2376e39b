// levels: avx2 avx512 neon
// Functions of every number of a row, and the cells of recurrent networks.
#include "curves.h"

struct curve { float* dst; const float *x, *y, *z; long n; float a, b, out; };

// A body is given a way to load and to store at element i, and the mask of the lanes that count.
#define EACH(n, body) { \
    long i = 0, rest; \
    for (; i + VL <= (n); i += VL) { body(load, store, FULL) } \
    if ((rest = (n) - i) > 0) { body(PART_LOAD, PART_STORE, first(rest)) } \
  }
#define FULL (~(vi){0})
#define ROW(name, expr) \
  KERNEL(name, curve) { EACH(p->n, expr) }

#define TANH(LD, ST, ON) ST(p->dst + i, vtanh(LD(p->x + i)));
#define SIGMOID(LD, ST, ON) ST(p->dst + i, vsigmoid(LD(p->x + i)));
#define ERF(LD, ST, ON) ST(p->dst + i, verf(LD(p->x + i)));
#define SILU(LD, ST, ON) ST(p->dst + i, vsilu(LD(p->x + i)));
#define GELU(LD, ST, ON) ST(p->dst + i, vgelu(LD(p->x + i)));
#define GELU_TANH(LD, ST, ON) ST(p->dst + i, vgelu_tanh(LD(p->x + i)));
#define CLIP(LD, ST, ON) ST(p->dst + i, bound(LD(p->x + i), all(p->a), all(p->b)));
#define HARD_SIGMOID(LD, ST, ON) ST(p->dst + i, vhard_sigmoid(LD(p->x + i), all(p->a), all(p->b)));
#define HARD_SWISH(LD, ST, ON) vf v = LD(p->x + i); ST(p->dst + i, v * vhard_sigmoid(v, all(p->a), all(p->b)));
#define LEAKY(LD, ST, ON) vf v = LD(p->x + i); ST(p->dst + i, sel(v < all(0), v * all(p->a), v));
ROW(tanh, TANH)
ROW(sigmoid, SIGMOID)
ROW(erf, ERF)
ROW(silu, SILU)
ROW(gelu, GELU)
ROW(gelu_tanh, GELU_TANH)
ROW(clip, CLIP)
ROW(hard_sigmoid, HARD_SIGMOID)
ROW(hard_swish, HARD_SWISH)
ROW(leaky, LEAKY)

// Two rows, or with a step of 0 for y one number against a row.
#define BOTH(name, op) \
  KERNEL(name, curve) \
  { \
    if (p->y) { EACH(p->n, op##_ROWS) } else { EACH(p->n, op##_ONE) } \
  }
#define ADD_ROWS(LD, ST, ON) ST(p->dst + i, LD(p->x + i) + LD(p->y + i));
#define ADD_ONE(LD, ST, ON) ST(p->dst + i, LD(p->x + i) + all(p->a));
#define SUB_ROWS(LD, ST, ON) ST(p->dst + i, LD(p->x + i) - LD(p->y + i));
#define SUB_ONE(LD, ST, ON) ST(p->dst + i, all(p->a) - LD(p->x + i));
#define MUL_ROWS(LD, ST, ON) ST(p->dst + i, LD(p->x + i) * LD(p->y + i));
#define MUL_ONE(LD, ST, ON) ST(p->dst + i, LD(p->x + i) * all(p->a));
#define DIV_ROWS(LD, ST, ON) ST(p->dst + i, LD(p->x + i) / LD(p->y + i));
#define DIV_ONE(LD, ST, ON) ST(p->dst + i, LD(p->x + i) / all(p->a));
BOTH(add_to, ADD)
BOTH(sub_to, SUB)
BOTH(mul_to, MUL)
BOTH(div_to, DIV)

KERNEL(row_sum, curve)
{
  const float* x = p->x;
  long n = p->n, i = 0;
  vf s0 = all(0), s1 = s0, s2 = s0, s3 = s0;
  for (; i + 4 * VL <= n; i += 4 * VL) {
    s0 = s0 + load(x + i);
    s1 = s1 + load(x + i + VL);
    s2 = s2 + load(x + i + 2 * VL);
    s3 = s3 + load(x + i + 3 * VL);
  }
  for (; i + VL <= n; i += VL) s0 = s0 + load(x + i);
  if (i < n) s1 = s1 + load_part(x + i, n - i);
  p->out = sum((s0 + s1) + (s2 + s3));
}

// out = sum of (x-a)^2
KERNEL(row_spread, curve)
{
  const vf m = all(p->a);
  vf s0 = all(0);
#define SPREAD(LD, ST, ON) vf v = sel(ON, LD(p->x + i) - m, all(0)); s0 = fma(v, v, s0);
  EACH(p->n, SPREAD)
  p->out = sum(s0);
}

// dst = (x-a)*b*y + z
KERNEL(row_norm, curve)
{
  const vf m = all(p->a), k = all(p->b);
#define NORM(LD, ST, ON) ST(p->dst + i, fma((LD(p->x + i) - m) * k, LD(p->y + i), LD(p->z + i)));
#define NORM_BARE(LD, ST, ON) ST(p->dst + i, (LD(p->x + i) - m) * k * LD(p->y + i));
  if (p->z) { EACH(p->n, NORM) } else { EACH(p->n, NORM_BARE) }
}

// A step of an LSTM: gates are sums for input, output, forget and cell, n of each.
struct lstm { float *h, *c; const float *gates, *before; long n; };

KERNEL(lstm, lstm)
{
  const float *gi = p->gates, *go = gi + p->n, *gf = go + p->n, *gc = gf + p->n;
#define LSTM(LD, ST, ON) \
  vf c = fma(vsigmoid(LD(gf + i)), LD(p->before + i), vsigmoid(LD(gi + i)) * vtanh(LD(gc + i))); \
  ST(p->c + i, c); \
  ST(p->h + i, vsigmoid(LD(go + i)) * vtanh(c));
  EACH(p->n, LSTM)
}

// A step of a GRU: x has the sums of the input for update, reset and hidden, r those of the state.
struct gru { float* h; const float *x, *r, *before; long n; };

KERNEL(gru, gru)
{
  const long n = p->n;
#define GRU(LD, ST, ON) \
  vf z = vsigmoid(LD(p->x + i) + LD(p->r + i)), r = vsigmoid(LD(p->x + n + i) + LD(p->r + n + i)); \
  vf t = vtanh(fma(r, LD(p->r + 2 * n + i), LD(p->x + 2 * n + i))); \
  ST(p->h + i, fma(z, LD(p->before + i) - t, t));
  EACH(n, GRU)
}
