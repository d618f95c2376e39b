// levels: avx2 avx512 neon
// Q6_K: sixteen sub-blocks of 16 with signed 8-bit scales.
#include "encode_signed.h"

INLINE void pack_q6_k(struct q6_k* y, const uint8_t* l)
{
  EACH for (int h = 0; h < 2; h++)
    EACH for (int i = 0; i < 32; i += 16) {
      const uint8_t* c = l + 128 * h + i;
      const b16 a = bytes(c), b = bytes(c + 32), d = bytes(c + 64), e = bytes(c + 96);
      put(y->ql + 64 * h + i, (a & 15) | d << 4);
      put(y->ql + 64 * h + 32 + i, (b & 15) | e << 4);
      put(y->qh + 32 * h + i, a >> 4 | b >> 4 << 2 | d >> 4 << 4 | e >> 4 << 6);
    }
}

KERNEL(encode_q6_k, encode)
{
  struct signed_scales* s = (struct signed_scales*)p->scratch;
  const float *x = p->x, *qw = p->qw;
  struct q6_k* y = (struct q6_k*)p->dst;
  for (long n = p->n; n > 0; n -= CHUNK, x += CHUNK * 256) {
    const long count = n < CHUNK ? n : CHUNK;
    EACH for (long first = 0; first < 16 * count; first += LN) {
      columns((float*)s->g.x, LN, x, first, 16 * count, 16, 16);
      if (qw)
        columns((float*)s->g.w, LN, qw, first, 16 * count, 16, 16);
      else
        EACH for (int i = 0; i < 16; i++) s->g.w[i] = s->g.x[i] * s->g.x[i];
      fit_symmetric(&s->f, &s->g, 16, 32);
      keep(s, first, s->f.scale);
      keep_inverse(s, first);
    }
    qw = qw ? qw + CHUNK * 256 : 0;
    const lf v = largest(s), is = -128 / v;
    EACH for (long j = 0; j < 16; j++) {
      const li c = nearest(is * SCALE(j));
      Q(j) = MIN(c, (li)127);
    }
    D = absl(v) < 1e-15f ? (lf)__builtin_nanf("") : halved(1 / is);
    EACH for (long b = 0; b < count; b++, y++) {
      if (s->d[b] != s->d[b]) { // nothing in it: all bytes are zero
        EACH for (unsigned i = 0; i < sizeof *y; i++) ((uint8_t*)y)[i] = 0;
        continue;
      }
      y->d = (_Float16)s->d[b];
      EACH for (int j = 0; j < 16; j++) {
        const int8_t c = (int8_t)s->q[j][b];
        y->s[j] = c;
        recode(s->codes + 16 * j, x + 256 * b + 16 * j, s->d[b] * (float)c, s->inverse[16 * b + j], 32);
      }
      pack_q6_k(y, s->codes);
    }
  }
}
