// levels: avx2 avx512 neon
// Q2_K: sixteen sub-blocks of 16 with 4-bit scales and minima.
#include "encode_nested.h"

KERNEL(encode_q2_k, encode)
{
  struct nested* s = (struct nested*)p->scratch;
  const float *x = p->x, *qw = p->qw;
  struct q2_k* y = (struct q2_k*)p->dst;
  for (long n = p->n; n > 0; n -= CHUNK, x += CHUNK * 256) {
    const long count = n < CHUNK ? n : CHUNK;
    if (qw) mean_squares(&s->g, s->sigma2, x, count, 1);
    EACH for (long first = 0; first < 16 * count; first += LN) {
      columns((float*)s->g.x, LN, x, first, 16 * count, 16, 16);
      if (qw) {
        columns((float*)s->g.w, LN, qw, first, 16 * count, 16, 16);
        weigh(&s->g, 16, s->sigma2, first, 16);
        fit_affine(&s->a, &s->g, 16, 3, -0.9f, 0.05f, 36, 0);
      } else {
        EACH for (int i = 0; i < 16; i++) s->g.w[i] = absl(s->g.x[i]);
        fit_affine(&s->a, &s->g, 16, 3, -0.5f, 0.1f, 15, 1);
      }
      keep_affine(s, first, 16);
    }
    EACH for (long o = 0; o < 16; o += NW) {
      if (qw)
        fit_positive(s, o, 16, 15);
      else
        fit_even(s, o, 16, 15);
    }
    qw = qw ? qw + CHUNK * 256 : 0;
    EACH for (long b = 0; b < count; b++, y++) {
      y->d = (_Float16)s->d[b];
      y->m = (_Float16)s->d[CHUNK + b];
      EACH for (int j = 0; j < 16; j++) {
        const int c = s->q[j][b], m = s->q[j][CHUNK + b];
        y->s[j] = (uint8_t)(c | m << 4);
        recode(s, x + 256 * b, 16 * j, 16, 16 * b + j, s->d[b] * (float)c, s->d[CHUNK + b] * (float)m, 3);
      }
      pack_pairs(y->q, s->codes);
    }
  }
}
