// levels: avx2 avx512 neon
// Q3_K: sixteen sub-blocks of 16 with 6-bit scales.
#include "encode_signed.h"

// The sweeps are one long chain of dependent divisions: twice as many lanes as the other searches take
// hide more of it, where there are registers for them.
#define SN (VL == 16 ? 64 : LN)
typedef float sf __attribute__((ext_vector_type(SN)));
typedef int32_t si __attribute__((ext_vector_type(SN)));
typedef uint8_t sb __attribute__((ext_vector_type(SN)));

// SWEEPS are most passes of a search over its elements.
#define SWEEPS 5

// fit_sweep is storage's search of the same name on every lane, for codes -4..3 of 16 elements, with so
// many sweeps at most. t receives the codes, spare the lanes that the last sweep changed.
INLINE sf fit_sweep(const sf* x, sf* w, sf* t, sf* spare, long sweeps)
{
  const sf zero = 0;
  sf v = zero, top = zero;
  EACH for (long i = 0; i < 16; i++) {
    const sf a = AS(AS(x[i], si) & 0x7fffffff, sf);
    v = a > top ? x[i] : v;
    top = a > top ? a : top;
  }
  *spare = top < 1e-15f ? (sf)__builtin_nanf("") : -4 / v;
  sf lx = zero, l2 = zero;
  EACH for (long i = 0; i < 16; i++) {
    SETTLE
    sf c = *spare * x[i];
    c = c > -4 ? c : (sf)-4;
    c = ROUND(MIN(c, (sf)3));
    // with nothing to fit, all codes stay the lowest: no sum is positive, and nothing changes
    const sf q = *spare == *spare ? x[i] * x[i] : zero;
    w[i] = q;
    t[i] = c;
    lx += q * x[i] * c;
    l2 += q * c * c;
  }
  EACH for (; sweeps > 0; sweeps--) {
    si* changed = (si*)spare;
    *changed = 0;
    EACH for (long i = 0; i < 16; i++) {
      SETTLE
      const sf old = t[i], wx = w[i] * x[i];
      sf slx = lx - wx * old, sl2 = l2 - w[i] * old * old;
      si good = slx > zero;
      si c = (AS(x[i] * sl2 / slx + MAGIC, si) & 0x7fffff) - 0x400000;
      c = MAX(c, (si)-4);
      c = MIN(c, (si)3);
      const sf f = __builtin_convertvector(c, sf);
      good &= f != old;
      slx += wx * f;
      sl2 += w[i] * f * f;
      good &= (sl2 > zero) & (slx * slx * l2 > lx * lx * sl2);
      t[i] = good ? f : old;
      lx = good ? slx : lx;
      l2 = good ? sl2 : l2;
      *changed |= good;
    }
    if (!__builtin_reduce_or(*changed)) break;
  }
  return l2 > zero ? lx / l2 : zero;
}

// pack_scales stores sixteen 6-bit codes: low nibbles of j and j+8 share byte j, the top two bits of j
// lie in bits 2*(j/4) of byte 8+j%4.
INLINE void pack_scales(uint8_t* dst, const uint8_t* sc)
{
  EACH for (int j = 0; j < 8; j++) dst[j] = (sc[j] & 15) | sc[j + 8] << 4;
  EACH for (int j = 0; j < 4; j++)
    dst[8 + j] = sc[j] >> 4 | sc[j + 4] >> 4 << 2 | sc[j + 8] >> 4 << 4 | sc[j + 12] >> 4 << 6;
}

// fit_scales finds the 6-bit codes of the scales of a chunk by the same search as for elements, with the
// weights of the sub-blocks.
INLINE void fit_scales(struct signed_scales* s)
{
  EACH for (int j = 0; j < 16; j++) s->g.x[j] = SCALE(j), s->g.w[j] = WEIGHT(j);
  fit_symmetric(&s->f, &s->g, 16, 32);
  EACH for (int j = 0; j < 16; j++)
    Q(j) = __builtin_convertvector(code(s->f.inverse * SCALE(j), (lf)-32, (lf)31), li) + 32;
  D = halved(s->f.scale);
}

// spread_scales maps the scale of largest magnitude to the lowest code.
INLINE void spread_scales(struct signed_scales* s)
{
  const lf v = largest(s), is = -32 / v;
  const li none = v == 0;
  EACH for (int j = 0; j < 16; j++) {
    li c = nearest(is * SCALE(j));
    c = MAX(c, (li)-32);
    c = MIN(c, (li)31);
    Q(j) = none ? (li)0 : c + 32;
  }
  D = none ? (lf)0 : halved(1 / is);
}

// finish writes count superblocks whose scales are chosen; searched says that inverses make the codes of
// the first fit.
INLINE void finish(struct signed_scales* s, struct q3_k* y, const float* x, long count, const int searched)
{
  EACH for (long b = 0; b < count; b++, y++) {
    uint8_t sc[16];
    y->d = (_Float16)s->d[b];
    EACH for (int j = 0; j < 16; j++) {
      const long sub = 16 * b + j;
      const float d = s->d[b] * (float)(s->q[j][b] - 32);
      sc[j] = (uint8_t)s->q[j][b];
      if (d == 0 && !searched) {
        const uint8_t* from = s->first + sub / SN * SN * 16 + sub % SN;
        EACH for (int i = 0; i < 16; i++) s->codes[16 * j + i] = from[SN * i];
      } else {
        recode(s->codes + 16 * j, x + 256 * b + 16 * j, d, s->inverse[sub], 4);
      }
    }
    pack_scales(y->s, sc);
    pack_pairs(y->q, s->codes);
    pack_high(y->h, s->codes, 2);
  }
}

// plain is the work space without importance. Four sub-blocks of five find nothing to change in the first
// sweep, but hardly ever all of those that are searched side by side. So all get one sweep, and those that
// it changed are searched again, from the start, beside others of their kind.
struct plain {
  struct signed_scales s;
  int32_t sub[16 * LN + SN]; // sub-blocks to search
};
FITS(plain)

// listed is columns for sub-blocks from a list.
INLINE void listed(float* to, const float* x, const int32_t* sub)
{
  EACH for (long l = 0; l < SN; l += VL)
    EACH for (long e = 0; e < 16; e += VL) {
      vf r[VL];
      for (int i = 0; i < VL; i++) r[i] = load(x + 16 * (long)sub[l + i] + e);
      turn(r);
      SETTLE
      for (int i = 0; i < VL; i++) store(to + (e + i) * SN + l, r[i]);
    }
}

// put_off moves those of the sub-blocks at sub that the last sweep changed to the end of the n ones that
// are to be searched again.
INLINE long put_off(int32_t* again, long n, const int32_t* sub, const si* changed)
{
  union { sb lanes; uint64_t words[SN / 8]; } m = {__builtin_convertvector(*changed, sb)};
  EACH for (long i = 0; i < SN / 8; i++)
    EACH for (uint64_t w = m.words[i] & 0x0101010101010101; w; w &= w - 1) again[n++] = sub[8 * i + __builtin_ctzll(w) / 8];
  return n;
}

KERNEL(encode_q3_k, encode)
{
  struct plain* q = (struct plain*)p->scratch;
  struct signed_scales* s = &q->s;
  sf *t = (sf*)s->g.t, *spare = (sf*)s->weight;
  const float* x = p->x;
  struct q3_k* y = (struct q3_k*)p->dst;
  for (long n = p->n; n > 0; n -= LN, x += LN * 256, y += LN) {
    const long count = n < LN ? n : LN;
    long todo = 16 * count;
    EACH for (long i = 0; i < todo; i++) q->sub[i] = (int32_t)i;
    EACH for (long sweeps = 1; todo > 0; sweeps = SWEEPS) {
      EACH for (long i = 0; i < SN; i++) q->sub[todo + i] = q->sub[todo - 1];
      long again = 0;
      EACH for (long i = 0; i < todo; i += SN) {
        const int32_t* sub = q->sub + i;
        listed((float*)s->g.x, x, sub);
        const sf scale = fit_sweep((const sf*)s->g.x, (sf*)s->g.w, t, spare, sweeps);
        *(sf*)s->g.w = scale;
        EACH for (long l = 0; l < SN; l++) s->scale[sub[l] % 16][sub[l] / 16] = ((const float*)s->g.w)[l];
        if (sweeps == 1) {
          EACH for (long e = 0; e < 16; e++) ((sb*)(s->first + 16 * i))[e] = __builtin_convertvector(t[e] + 4, sb);
        } else {
          EACH for (long e = 0; e < 16; e++) ((sb*)t)[e] = __builtin_convertvector(t[e] + 4, sb); // each takes less room
          EACH for (long l = 0; l < SN; l++) {
            const uint8_t* c = (const uint8_t*)t + l;
            uint8_t* to = s->first + sub[l] / SN * SN * 16 + sub[l] % SN;
            for (int e = 0; e < 16; e++) to[SN * e] = c[SN * e];
          }
        }
        if (sweeps == 1) again = put_off(q->sub, again, sub, (const si*)spare);
      }
      todo = again;
    }
    spread_scales(s);
    finish(s, y, x, count, 0);
  }
}

KERNEL(encode_q3_k_weighted, encode)
{
  struct signed_scales* s = (struct signed_scales*)p->scratch;
  const float *x = p->x, *qw = p->qw;
  struct q3_k* y = (struct q3_k*)p->dst;
  for (long n = p->n; n > 0; n -= CHUNK, x += CHUNK * 256, qw += CHUNK * 256, y += CHUNK) {
    const long count = n < CHUNK ? n : CHUNK;
    mean_squares(&s->g, s->sigma2, x, count, 2);
    EACH for (long first = 0; first < 16 * count; first += LN) {
      columns((float*)s->g.x, LN, x, first, 16 * count, 16, 16);
      columns((float*)s->g.w, LN, qw, first, 16 * count, 16, 16);
      weigh(&s->g, 16, s->sigma2, first, 16);
      lf sum = 0;
      EACH for (int i = 0; i < 16; i++) sum += s->g.w[i];
      s->g.t[0] = sum;
      EACH for (long l = 0; l < LN; l++) s->weight[(first + l) % 16][(first + l) / 16] = ((const float*)s->g.t)[l];
      fit_symmetric(&s->f, &s->g, 16, 4);
      keep(s, first, s->f.scale);
      keep_inverse(s, first);
    }
    fit_scales(s);
    finish(s, y, x, count, 1);
  }
}
