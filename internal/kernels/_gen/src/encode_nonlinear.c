// levels: avx2 avx512 neon
// IQ4_NL and IQ4_XS: codes of 4 bits for a table of values, a scale for every 32 that is searched, one sub-block a
// lane; IQ4_XS has superblocks of eight with 6-bit scales.
#include "nearest_nonlinear.h"

struct nonlinear_scales {
  struct group g;
  lf value, best, scale; // the element of largest magnitude comes first
  float sigma2[32];      // of superblocks, or of the sub-block in every lane
  uint8_t codes[32];
};
FITS(nonlinear_scales)

// fit is storage's fitNonlinear on every lane.
INLINE void fit(struct nonlinear_scales* s)
{
  const struct group* g = &s->g;
  lf v = 0, top = 0;
  EACH for (long i = 0; i < 32; i++) {
    const lf x = g->x[i], a = absl(x);
    v = a > top ? x : v;
    top = a > top ? a : top;
  }
  s->value = v;
  s->best = s->scale = 0;
  const li some = top >= 1e-15f;
  EACH for (int k = -8; k <= 7; k++) {
    SETTLE
    const lf is = k == -8 ? 1 / (s->value / 127) : ((float)k - 127) / s->value;
    lf lx = 0, l2 = 0;
    EACH for (long i = 0; i < 32; i++) {
      const lf x = g->x[i], q = nearest_value(is * x), wq = g->w[i] * q;
      lx += wq * x;
      l2 += wq * q;
    }
    const li good = (li)(k == -8 ? -1 : 0) | ((l2 > 0) & (lx * lx > s->best * l2));
    if (!anyl(good)) continue;
    const lf d = lx / l2;
    s->scale = good ? d : s->scale;
    s->best = good ? d * lx : s->best;
  }
  s->scale = some ? s->scale : (lf)0;
}

// weigh_lanes makes the weights of errors: the squares of the values, or what weigh makes of importances.
INLINE void weigh_lanes(struct nonlinear_scales* s, const struct encode* p, long first, long n)
{
  struct group* g = &s->g;
  if (!p->qw) {
    EACH for (int i = 0; i < 32; i++) g->w[i] = g->x[i] * g->x[i];
    return;
  }
  const long within = first % 128;
  if (p->kind && within == 0) mean_squares(g, s->sigma2, p->x + 32 * first, MIN(16, (n - first) / 8), 2);
  columns((float*)g->w, LN, p->qw, first, n, 32, 32);
  if (p->kind) {
    weigh(g, 32, s->sigma2, within, 8);
  } else {
    lf sum = 0;
    EACH for (int i = 0; i < 32; i++) sum += g->x[i] * g->x[i];
    *(lf*)s->sigma2 = sum / 16;
    weigh(g, 32, s->sigma2, 0, 1);
  }
}

// code_block writes the codes of 32 values for x = d*value.
INLINE void code_block(struct nonlinear_scales* s, uint8_t* y, const float* x, float d)
{
  const float id = inverse(d);
  EACH for (int i = 0; i < 32; i += 16) put(s->codes + i, nearest_codes(id * loade(x + i)));
  pack_nibbles(y, s->codes);
}

// finish_super writes a superblock whose sub-blocks have the given scales.
INLINE void finish_super(struct nonlinear_scales* s, struct iq4_xs* y, const float* x, const float* scales)
{
  float v = 0, top = 0;
  EACH for (int j = 0; j < 8; j++) {
    const float a = __builtin_fabsf(scales[j]);
    v = a > top ? scales[j] : v;
    top = a > top ? a : top;
  }
  const float d = -v / 32, id = inverse(d);
  uint32_t low = 0, high = 0;
  EACH for (int j = 0; j < 8; j++) {
    const union { float f; int32_t i; } m = {id * scales[j] + MAGIC};
    int l = (m.i & 0x7fffff) - 0x400000;
    l = MIN(MAX(l, -32), 31);
    code_block(s, y->q + 16 * j, x + 32 * j, d * (float)l);
    const uint32_t c = (uint32_t)(l + 32);
    low |= (c & 15) << 4 * j;
    high |= c >> 4 << 2 * j;
  }
  y->d = (_Float16)d;
  y->h = (uint16_t)high;
  EACH for (int j = 0; j < 4; j++) y->l[j] = (uint8_t)(low >> 8 * j);
}

KERNEL(encode_nonlinear, encode)
{
  struct nonlinear_scales* s = (struct nonlinear_scales*)p->scratch;
  const long n = p->kind ? 8 * p->n : p->n; // sub-blocks
  EACH for (long first = 0; first < n; first += LN) {
    columns((float*)s->g.x, LN, p->x, first, n, 32, 32);
    weigh_lanes(s, p, first, n);
    fit(s);
    const float* scale = (const float*)&s->scale;
    const long count = MIN((long)LN, n - first);
    if (p->kind) {
      EACH for (long l = 0; l < count; l += 8) finish_super(s, (struct iq4_xs*)p->dst + (first + l) / 8, p->x + 32 * (first + l), scale + l);
      continue;
    }
    EACH for (long l = 0; l < count; l++) {
      struct iq4_nl* y = (struct iq4_nl*)p->dst + first + l;
      y->d = (_Float16)scale[l];
      code_block(s, y->q, p->x + 32 * (first + l), scale[l]);
    }
  }
}
