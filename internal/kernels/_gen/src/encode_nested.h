// Superblocks whose sub-block scales and minima are small integers times one half-precision number.
#pragma once
#include "encode_affine.h"

#define CHUNK 8 // superblocks whose scales are quantized side by side: lane b the scales, 8+b the minima

struct nested {
  struct group g;
  struct affine a;
  // A row for each sub-block: scales and minima, their weights, their codes; then what the codes are
  // multiples of, as stored. Rows are vectors, but as such must not be indexed by a variable: clang
  // would copy them to the stack first.
  float scale[16][16], weight[16][16];
  int32_t q[16][16];
  float d[16];
  float sigma2[16];                            // of superblock b
  float inverse[16 * CHUNK], base[16 * CHUNK]; // of the codes of the first fit
  uint8_t codes[256];
};
FITS(nested)

// keep_affine files what the search found by superblock.
INLINE void keep_affine(struct nested* s, long first, const int subs)
{
  s->g.t[0] = -s->a.lo;
  const float *scale = (const float*)&s->a.scale, *minus = (const float*)&s->g.t, *sw = (const float*)&s->a.sw;
  EACH for (long l = 0; l < LN; l++) {
    const long b = (first + l) / subs, j = (first + l) % subs;
    s->scale[j][b] = scale[l];
    s->scale[j][CHUNK + b] = minus[l];
    s->weight[j][b] = s->weight[j][CHUNK + b] = sw[l];
    s->inverse[first + l] = ((const float*)&s->a.inverse)[l];
    s->base[first + l] = ((const float*)&s->a.base)[l];
  }
}

// The scales are quantized in as many lanes as registers are good for, from lane o on.
#define NW (VL == 16 ? 16 : 8)
typedef float nf __attribute__((ext_vector_type(NW)));
typedef int32_t ni __attribute__((ext_vector_type(NW)));
typedef _Float16 nh __attribute__((ext_vector_type(NW)));
INLINE ni nearestn(nf v) { return (AS(v + MAGIC, ni) & 0x7fffff) - 0x400000; }
INLINE nf reals(ni v) { return __builtin_convertvector(v, nf); }
INLINE nf halved(nf v) { return __builtin_convertvector(__builtin_convertvector(v, nh), nf); }
#define SCALE(j) (*(nf*)(s->scale[j] + o))
#define WEIGHT(j) (*(nf*)(s->weight[j] + o))
#define Q(j) (*(ni*)(s->q[j] + o))
#define D (*(nf*)(s->d + o))

// fit_even spreads codes 0..most over [0, largest].
INLINE void fit_even(struct nested* s, long o, const long subs, float most)
{
  nf top = 0;
  EACH for (long j = 0; j < subs; j++) top = MAX(SCALE(j), top);
  const nf is = top > 0 ? most / top : 0;
  EACH for (long j = 0; j < subs; j++) {
    const ni c = nearestn(is * SCALE(j)) & 255;
    Q(j) = MIN(c, (ni)(int)most);
  }
  D = halved(top / most);
}

// fit_positive is storage's search of the same name for all superblocks of a chunk.
INLINE void fit_positive(struct nested* s, long o, const long subs, float most)
{
  const ni n = (int)most;
  nf top = 0;
  EACH for (long j = 0; j < subs; j++) top = MAX(SCALE(j), top);
  nf iscale = most / top, best = 0;
  EACH for (int k = -5; k <= 4; k++) {
    if (k == 0) continue;
    const nf is = k == -5 ? most / top : (0.1f * (float)k + most) / top, scale = 1 / is;
    nf err = 0;
    EACH for (long j = 0; j < subs; j++) {
      const ni c = nearestn(is * SCALE(j));
      const nf d = SCALE(j) - scale * reals(MIN(c, n));
      err += WEIGHT(j) * d * d;
    }
    const ni good = (ni)(k == -5 ? -1 : 0) | (err < best);
    best = good ? err : best;
    iscale = good ? is : iscale;
  }
  SETTLE
  nf lx = 0, l2 = 0;
  EACH for (long j = 0; j < subs; j++) {
    ni c = nearestn(iscale * SCALE(j));
    c = MIN(c, n);
    const nf f = reals(c), w = WEIGHT(j);
    Q(j) = c & 255;
    lx += w * SCALE(j) * f;
    l2 += w * f * f;
  }
  EACH for (int sweep = 0; sweep < 5; sweep++) {
    ni changed = 0;
    EACH for (long j = 0; j < subs; j++) {
      SETTLE
      const nf v = SCALE(j), w = WEIGHT(j), wv = w * v, old = reals(Q(j));
      nf slx = lx - wv * old, sl2 = l2 - w * old * old;
      ni good = (slx > 0) & (sl2 > 0);
      ni c = nearestn(v * sl2 / slx);
      c = MIN(c, n);
      good &= c != Q(j);
      const nf f = reals(c);
      slx += wv * f;
      sl2 += w * f * f;
      good &= slx * slx * l2 > lx * lx * sl2;
      Q(j) = good ? c & 255 : Q(j);
      lx = good ? slx : lx;
      l2 = good ? sl2 : l2;
      changed |= good;
    }
    if (!__builtin_reduce_or(changed)) break;
  }
  const ni none = top < 1e-15f;
  EACH for (long j = 0; j < subs; j++) Q(j) = none ? 0 : Q(j);
  D = halved(none | ~(l2 > 0) ? 0 : lx / l2);
}

// recode chooses the codes 0..most of size elements of sub-block sub for x = d*code - m; a stored scale
// of zero keeps those of the first fit.
INLINE void recode(struct nested* s, const float* x, long at, const long size, long sub, float d, float m, int most)
{
  EACH for (long i = 0; i < size; i += 16) {
    const ef v = loade(x + at + i);
    ei c;
    if (d == 0) {
      ef t = s->inverse[sub] * (v - s->base[sub]);
      t = t > 0 ? t : 0;
      c = nearest16(MIN(t, (ef)(float)most));
    } else {
      c = clamp16(nearest16((v + m) / d), 0, most);
    }
    put(s->codes + at + i, narrow(c));
  }
}
