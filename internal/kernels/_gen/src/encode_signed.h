// Superblocks of sixteen sub-blocks of 16 without minima: Q3_K and Q6_K.
#pragma once
#include "encode_symmetric.h"

#define CHUNK 8 // superblocks whose scales are quantized side by side

struct signed_scales {
  struct group g;
  struct symmetric f;
  float scale[16][LN], weight[16][LN]; // of sub-block j of superblock b
  int32_t q[16][LN];                   // their codes
  float d[LN];                         // what they are multiples of, as stored
  float sigma2[16];
  float inverse[16 * LN]; // of the codes of the first fit
  uint8_t first[LN * 256]; // those codes, where no inverse makes them: for each group an element after the other
  uint8_t codes[256];
};
FITS(signed_scales)

// keep files a scale for each lane by superblock.
INLINE void keep(struct signed_scales* s, long first, lf scale)
{
  s->g.t[0] = scale;
  const float* t = (const float*)s->g.t;
  EACH for (long l = 0; l < LN; l++) s->scale[(first + l) % 16][(first + l) / 16] = t[l];
}

INLINE void keep_inverse(struct signed_scales* s, long first)
{
  EACH for (long l = 0; l < LN; l++) s->inverse[first + l] = ((const float*)&s->f.inverse)[l];
}

#define SCALE(j) (*(lf*)s->scale[j])
#define WEIGHT(j) (*(lf*)s->weight[j])
#define Q(j) (*(li*)s->q[j])
#define D (*(lf*)s->d)

typedef _Float16 lh __attribute__((ext_vector_type(LN)));
INLINE lf halved(lf v) { return __builtin_convertvector(__builtin_convertvector(v, lh), lf); }

// largest is the scale of largest magnitude of every superblock, the first of equals.
INLINE lf largest(const struct signed_scales* s)
{
  lf v = 0, top = 0;
  EACH for (long j = 0; j < 16; j++) {
    const lf x = SCALE(j), a = absl(x);
    v = a > top ? x : v;
    top = a > top ? a : top;
  }
  return v;
}

// recode chooses the codes of sub-block j for x = d*(code-most), code - most in -most..most-1. A stored
// scale of zero keeps those of the first fit, which inverse gives.
INLINE void recode(uint8_t* codes, const float* x, float d, float inverse, int most)
{
  const ef v = loade(x);
  ei c;
  if (d == 0) {
    ef t = inverse * v;
    t = t > (float)-most ? t : (ef)(float)-most;
    c = nearest16(MIN(t, (ef)(float)(most - 1)));
  } else {
    c = clamp16(nearest16(v / d), -most, most - 1);
  }
  put(codes, narrow(c + most));
}
