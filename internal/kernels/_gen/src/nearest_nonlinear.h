// The nearest of the values that IQ4 codes stand for.
#pragma once
#include "encode.h"

static const float halfway[16] = {-115.5f, -93.5f, -74, -57, -42, -28.5f, -16, -4.5f, 7, 19, 31.5f, 45.5f, 61, 79, 101};
static const float nonlinear_reals[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

// entry takes from a table of sixteen by the low four bits of every lane.
INLINE vf entry(const float* table, vi at)
{
#if VL == 16
  return (vf)_mm512_permutexvar_ps((__m512i)at, (__m512)load(table));
#elif VL == 8
  const __m256 low = _mm256_permutevar8x32_ps((__m256)load(table), (__m256i)at);
  const __m256 high = _mm256_permutevar8x32_ps((__m256)load(table + 8), (__m256i)at);
  return (vf)_mm256_blendv_ps(low, high, (__m256)(at << 28));
#else
  const uint8x16x4_t all = vld1q_u8_x4((const uint8_t*)table);
  return (vf)vqtbl4q_u8(all, (uint8x16_t)((at & 15) * 0x04040404 + 0x03020100));
#endif
}

// code_of is the code, in its low four bits, whose value is nearest to t, the upper one in the middle. A
// cubic through the middles, evenly spaced by it to within 0.45, leaves two codes to choose from. Between the
// bounds, which are beyond the outer middles, it rises; NaN gets the lowest code.
typedef float bounded __attribute__((ext_vector_type(VL)));
INLINE vi code_of(vf v)
{
  bounded b = (bounded)v;
  b = MAX(b, (bounded)-120);
  const vf t = (vf)MIN(b, (bounded)105);
  const vi below = (vi)fma(t, fma(t * t, all(-1.75e-6f), all(0.083f)), all(MAGIC + 7));
  return below - (t >= entry(halfway, below));
}

union lanes_in_parts { lf l; vf v[LN / VL]; };
union elems_in_parts { ef e; ei i; vf v[16 / VL]; vi c[16 / VL]; };

INLINE lf nearest_value(lf t)
{
  union lanes_in_parts u = {t};
  for (int k = 0; k < LN / VL; k++) u.v[k] = entry(nonlinear_reals, code_of(u.v[k]));
  return u.l;
}

INLINE b16 nearest_codes(ef t)
{
  union elems_in_parts u = {t};
  for (int k = 0; k < 16 / VL; k++) u.c[k] = code_of(u.v[k]) & 15;
  return narrow(u.i);
}
