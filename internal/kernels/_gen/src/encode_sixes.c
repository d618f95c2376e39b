// levels: avx2 avx512 neon
// Q4_K and Q5_K: eight sub-blocks of 32 with 6-bit scales and minima.
#include "encode_nested.h"

INLINE void pack_sixes(uint8_t* dst, const uint8_t* sc, const uint8_t* mn)
{
  EACH for (int j = 0; j < 4; j++) {
    dst[j] = sc[j] | sc[j + 4] >> 4 << 6;
    dst[j + 4] = mn[j] | mn[j + 4] >> 4 << 6;
    dst[j + 8] = (sc[j + 4] & 15) | mn[j + 4] << 4;
  }
}

KERNEL(encode_sixes, encode)
{
  struct nested* s = (struct nested*)p->scratch;
  const int five = p->kind, most = five ? 31 : 15, size = five ? sizeof(struct q5_k) : sizeof(struct q4_k);
  const float *x = p->x, *qw = p->qw;
  uint8_t* dst = p->dst;
  for (long n = p->n; n > 0; n -= CHUNK, x += CHUNK * 256, dst += CHUNK * size) {
    const long count = n < CHUNK ? n : CHUNK;
    if (qw) mean_squares(&s->g, s->sigma2, x, count, 2);
    EACH for (long first = 0; first < 8 * count; first += LN) {
      columns((float*)s->g.x, LN, x, first, 8 * count, 32, 32);
      if (qw) {
        columns((float*)s->g.w, LN, qw, first, 8 * count, 32, 32);
        weigh(&s->g, 32, s->sigma2, first, 8);
        fit_affine(&s->a, &s->g, 32, (float)most, -0.9f, 0.05f, 36, 0);
      } else {
        lf sum = 0;
        EACH for (int i = 0; i < 32; i++) sum += s->g.x[i] * s->g.x[i];
        const lf rms = __builtin_elementwise_sqrt(sum / 32);
        EACH for (int i = 0; i < 32; i++) s->g.w[i] = rms + absl(s->g.x[i]);
        fit_affine(&s->a, &s->g, 32, (float)most, five ? -0.5f : -1.f, 0.1f, five ? 15 : 20, 0);
      }
      keep_affine(s, first, 8);
    }
    EACH for (long o = 0; o < 16; o += NW) {
      if (qw)
        fit_positive(s, o, 8, 63);
      else
        fit_even(s, o, 8, 63);
    }
    qw = qw ? qw + CHUNK * 256 : 0;
    EACH for (long b = 0; b < count; b++) {
      uint8_t* y = dst + b * size;
      put_half(y, s->d[b]);
      put_half(y + 2, s->d[CHUNK + b]);
      uint8_t sc[8], mn[8];
      EACH for (int j = 0; j < 8; j++) sc[j] = (uint8_t)s->q[j][b], mn[j] = (uint8_t)s->q[j][CHUNK + b];
      pack_sixes(y + 4, sc, mn);
      EACH for (int j = 0; j < 8; j++)
        recode(s, x + 256 * b, 32 * j, 32, 8 * b + j, s->d[b] * (float)sc[j], s->d[CHUNK + b] * (float)mn[j], most);
      if (five) {
        pack_high(y + 16, s->codes, 4);
        pack_halves(y + 48, s->codes);
      } else {
        pack_halves(y + 16, s->codes);
      }
    }
  }
}
