// levels: avx2 avx512 neon
// Types whose scale comes from the extremes of a block alone, and halves.
#include "encode.h"

INLINE int largest_bits(ef a, ef b)
{
  const ei x = AS(a, ei) & 0x7fffffff, y = AS(b, ei) & 0x7fffffff;
  return __builtin_reduce_max(MAX(x, y));
}

// where is the index of the first element that the masks of a block's halves choose.
INLINE long where(ei first, ei second)
{
  const ei count = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, none = 32;
  const ei a = first ? count : none, b = second ? count + 16 : none;
  return __builtin_reduce_min(MIN(a, b));
}

// away rounds to an integer, halves away from zero. The fraction is exact; adding 0.5 would round twice.
INLINE ei away(ef v)
{
  const ef a = abse(v);
  ei i = __builtin_convertvector(a, ei);
  i -= a - floats(i) >= 0.5f;
  return v < 0 ? -i : i;
}

KERNEL(encode_q8_0, encode)
{
  const float* x = p->x;
  struct q8_0* y = (struct q8_0*)p->dst;
  EACH for (long n = p->n; n > 0; n--, x += 32, y++) {
    const ef a = loade(x), b = loade(x + 16);
    const int top = largest_bits(a, b);
    const float d = *(const float*)&top / 127, id = inverse(d);
    y->d = (_Float16)d;
    put((uint8_t*)y->q, narrow(away(a * id)));
    put((uint8_t*)y->q + 16, narrow(away(b * id)));
  }
}

INLINE void pack(uint8_t* y, ei a, ei b, const int five)
{
  if (five) {
    uint8_t codes[32];
    put(codes, narrow(a));
    put(codes + 16, narrow(b));
    pack_fifths(y, codes);
    pack_nibbles(y + 4, codes);
  } else {
    put(y, narrow((a & 15) | b << 4));
  }
}

// symmetric maps the element of largest magnitude, the first of equals, to the lowest code.
INLINE void symmetric(const struct encode* p, const int five)
{
  const float* x = p->x;
  const int most = five ? 16 : 8;
  uint8_t* y = p->dst;
  EACH for (long n = p->n; n > 0; n--, x += 32, y += five ? 22 : 18) {
    const ef a = loade(x), b = loade(x + 16);
    const int most_bits = largest_bits(a, b);
    const ei top = most_bits;
    const long at = where((AS(a, ei) & 0x7fffffff) == top, (AS(b, ei) & 0x7fffffff) == top);
    const float v = most_bits ? x[at] : 0; // nothing is larger than zero: no sign either
    const float d = v / (float)-most, id = inverse(d), shift = (float)most + 0.5f;
    put_half(y, d);
    const ei last = 2 * most - 1, whole = (ei)(id == 0 && d != 0 ? 0 : -1);
    const ei i = __builtin_convertvector(a * id + shift, ei), j = __builtin_convertvector(b * id + shift, ei);
    pack(y + 2, MIN(i, last) & whole, MIN(j, last) & whole, five);
  }
}

KERNEL(encode_q4_0, encode) { symmetric(p, 0); }
KERNEL(encode_q5_0, encode) { symmetric(p, 1); }

// affine spreads codes over [min,max]. Of zeros of both signs the first counts.
INLINE void affine(const struct encode* p, const int five)
{
  const float* x = p->x;
  uint8_t* y = p->dst;
  EACH for (long n = p->n; n > 0; n--, x += 32, y += five ? 24 : 20) {
    const ef a = loade(x), b = loade(x + 16);
    const ef least = __builtin_reduce_min(MIN(a, b)), most = __builtin_reduce_max(MAX(a, b));
    const float lo = x[where(a == least, b == least)], hi = x[where(a == most, b == most)];
    const float d = (hi - lo) / (float)(five ? 31 : 15), id = inverse(d);
    put_half(y, d);
    put_half(y + 2, lo);
    const ei last = five ? 31 : 15;
    const ei i = __builtin_convertvector((a - lo) * id + 0.5f, ei), j = __builtin_convertvector((b - lo) * id + 0.5f, ei);
    pack(y + 4, MIN(i, last), MIN(j, last), five);
  }
}

KERNEL(encode_q4_1, encode) { affine(p, 0); }
KERNEL(encode_q5_1, encode) { affine(p, 1); }

// power is the scale byte of microscaling for the bits of a block's largest magnitude: its exponent, two less
// because the largest value of a code is 6. The reference takes the floor of a logarithm that it has rounded to
// float32, so of magnitudes just below 2^k a few count as 2^k: where neighbours of k are 2^(j-23) apart,
// 2^j log 2 of them.
INLINE int power(int bits)
{
  const int k = (bits >> 23) - 126;
  const union { float f; int32_t i; } m = {(float)(k > 0 ? k - 1 : -k)};
  const union { int32_t i; float f; } step = {m.i & 0x7f800000};
  const int e = ((bits + (int)(step.f * 0.6931472f)) >> 23) - 2;
  return MAX(e, 0);
}

// tiny_code is the code of the E2M1 float nearest to v, of those as near the first; d is half their unit.
INLINE ei tiny_code(ef v, float d)
{
  const ef a = abse(v);
  ef best = a;
  ei c = 0;
  EACH for (int k = 1; k < 8; k++) {
    const ef err = abse((float)tiny_floats[k] * d - a);
    const ei good = err < best;
    best = good ? err : best;
    c = good ? (ei)k : c;
  }
  return c | ((v < 0) & (c > 0) & 8);
}

KERNEL(encode_mxfp4, encode)
{
  const float* x = p->x;
  struct mxfp4* y = (struct mxfp4*)p->dst;
  EACH for (long n = p->n; n > 0; n--, x += 32, y++) {
    const ef a = loade(x), b = loade(x + 16);
    const int e = power(largest_bits(a, b));
    const union { int32_t i; float f; } d = {e < 2 ? 0x00200000 << e : (e - 1) << 23};
    y->e = (uint8_t)e;
    pack(y->q, tiny_code(a, d.f), tiny_code(b, d.f), 0);
  }
}

typedef _Float16 eh __attribute__((ext_vector_type(16), aligned(1)));
typedef uint16_t es __attribute__((ext_vector_type(16), aligned(1)));
typedef uint32_t eu __attribute__((ext_vector_type(16)));

KERNEL(encode_f16, encode)
{
  _Float16* y = (_Float16*)p->dst;
  long i = 0;
  EACH for (; i + 16 <= p->n; i += 16) *(eh*)(y + i) = __builtin_convertvector(loade(p->x + i), eh);
  EACH for (; i < p->n; i++) put_half((uint8_t*)(y + i), p->x[i]);
}

// Half of the lowest bit that stays, less one when that bit is clear, makes halves go to even.
KERNEL(encode_bf16, encode)
{
  typedef uint16_t u2 __attribute__((aligned(1)));
  typedef uint32_t u4 __attribute__((aligned(4)));
  uint16_t* y = (uint16_t*)p->dst;
  long i = 0;
  EACH for (; i + 16 <= p->n; i += 16) {
    const eu v = AS(loade(p->x + i), eu);
    *(es*)(y + i) = __builtin_convertvector((v + 0x7fff + (v >> 16 & 1)) >> 16, es);
  }
  EACH for (; i < p->n; i++) {
    const uint32_t v = *(const u4*)(p->x + i);
    *(u2*)(y + i) = (uint16_t)((v + 0x7fff + (v >> 16 & 1)) >> 16);
  }
}

struct extent {
  const float* x;
  int64_t n;
  uint32_t largest, signs; // found: the bits of the largest magnitude, all sign bits joined
};

KERNEL(extent, extent)
{
  typedef int32_t i4 __attribute__((aligned(4)));
  ei top[2] = {0, 0}, signs[2] = {0, 0};
  long i = 0;
  EACH for (; i + 32 <= p->n; i += 32)
    for (int k = 0; k < 2; k++) {
      const ei v = AS(loade(p->x + i + 16 * k), ei), a = v & 0x7fffffff;
      top[k] = MAX(a, top[k]);
      signs[k] |= v;
    }
  int32_t most = __builtin_reduce_max(MAX(top[0], top[1])), sign = __builtin_reduce_or(signs[0] | signs[1]);
  EACH for (; i < p->n; i++) {
    const int32_t v = *(const i4*)(p->x + i), a = v & 0x7fffffff;
    most = MAX(a, most);
    sign |= v;
  }
  p->largest = (uint32_t)most;
  p->signs = (uint32_t)sign >> 31;
}

struct row_squares {
  const float* x;
  float* sums;   // of sixteen rows; beyond the last they repeat its sum
  float* scratch;
  int64_t rows, cols;
};

// row_squares sums the squares of each of up to sixteen rows, in the order of the elements.
KERNEL(row_squares, row_squares)
{
  ef sum = 0;
  const ef* t = (const ef*)p->scratch;
  long e = 0;
  EACH for (; e + 16 <= p->cols; e += 16) {
    columns(p->scratch, 16, p->x + e, 0, p->rows, p->cols, 16);
    EACH for (int i = 0; i < 16; i++) sum += t[i] * t[i];
  }
  *(efu*)p->sums = sum;
}
