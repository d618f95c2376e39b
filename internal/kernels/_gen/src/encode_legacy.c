// levels: avx2 avx512 neon
// Q4_0, Q4_1, Q5_0 and Q5_1 with importance: blocks of 32 whose scales are searched, one block a lane.
#include "encode_affine.h"
#include "encode_symmetric.h"

struct legacy {
  struct group g;
  struct affine a;
  struct symmetric f;
  uint8_t codes[32];
};
FITS(legacy)

// pack writes the codes of a block after its head, with fifth bits or without.
INLINE void pack(uint8_t* y, const uint8_t* codes, int five)
{
  if (five) pack_fifths(y, codes);
  pack_nibbles(y + 4 * five, codes);
}

INLINE void weigh_blocks(const struct encode* p, struct group* g, long first)
{
  columns((float*)g->x, LN, p->x, first, p->n, 32, 32);
  columns((float*)g->w, LN, p->qw, first, p->n, 32, 32);
  EACH for (int i = 0; i < 32; i++)
    g->w[i] = g->w[i] * __builtin_elementwise_sqrt(p->sigma2 + g->x[i] * g->x[i]);
}

KERNEL(encode_affine, encode)
{
  struct legacy* s = (struct legacy*)p->scratch;
  const int five = p->kind;
  const float most = five ? 31 : 15;
  uint8_t* y = p->dst;
  EACH for (long first = 0; first < p->n; first += LN) {
    weigh_blocks(p, &s->g, first);
    fit_affine(&s->a, &s->g, 32, most, -0.9f, 0.05f, 36, 0);
    const float *scale = (const float*)&s->a.scale, *lo = (const float*)&s->a.lo;
    const float *inverse = (const float*)&s->a.inverse, *base = (const float*)&s->a.base;
    EACH for (long l = 0; l < LN && first + l < p->n; l++, y += five ? 24 : 20) {
      put_half(y, scale[l]);
      put_half(y + 2, lo[l]);
      EACH for (int i = 0; i < 32; i += 16) {
        ef t = inverse[l] * (loade(p->x + 32 * (first + l) + i) - base[l]);
        t = t > 0 ? t : 0;
        put(s->codes + i, narrow(nearest16(MIN(t, (ef)most))));
      }
      pack(y + 4, s->codes, five);
    }
  }
}

KERNEL(encode_symmetric, encode)
{
  struct legacy* s = (struct legacy*)p->scratch;
  const int five = p->kind;
  const float most = five ? 16 : 8;
  uint8_t* y = p->dst;
  EACH for (long first = 0; first < p->n; first += LN) {
    weigh_blocks(p, &s->g, first);
    fit_symmetric(&s->f, &s->g, 32, most);
    const float *scale = (const float*)&s->f.scale, *inverse = (const float*)&s->f.inverse;
    EACH for (long l = 0; l < LN && first + l < p->n; l++, y += five ? 22 : 18) {
      put_half(y, scale[l]);
      EACH for (int i = 0; i < 32; i += 16) {
        ef t = inverse[l] * loade(p->x + 32 * (first + l) + i);
        t = t > -most ? t : (ef)-most;
        put(s->codes + i, narrow(nearest16(MIN(t, (ef)(most - 1))) + (int)most));
      }
      pack(y + 2, s->codes, five);
    }
  }
}
