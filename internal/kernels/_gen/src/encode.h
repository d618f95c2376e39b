// What the encoders share. They do the arithmetic of the scalar encoders in package storage, in its
// order and with its roundings, so that the bytes are the same: nothing here may fuse a multiplication
// with an addition or add in another order.
//
// Searches put many sub-blocks side by side, one a lane, so that no sum crosses lanes. A vector of
// lanes is two registers of AVX-512 and AVX2 and four of NEON: independent chains hide the latencies.
#pragma once
#include "blocks.h"

#define LN (VL == 16 ? 32 : 8)
typedef float lf __attribute__((ext_vector_type(LN)));
typedef int32_t li __attribute__((ext_vector_type(LN)));
typedef float ef __attribute__((ext_vector_type(16)));
typedef int32_t ei __attribute__((ext_vector_type(16)));
typedef float efu __attribute__((ext_vector_type(16), aligned(4)));

struct encode {
  uint8_t* dst;
  const float *x, *qw; // values, and their importance or nothing
  float* scratch;      // a struct of the source, aligned to 128 bytes
  int64_t n;           // blocks
  float sigma2;        // mean square of the row, for blocks that do not find their own
  int32_t kind;        // which of the types that share a kernel
};

// FITS holds a struct to the work space that the caller gives.
#define FITS(type) _Static_assert(sizeof(struct type) <= 10 << 12, "the work space of package kernels is too small");

INLINE ef loade(const float* p) { return *(const efu*)p; }
INLINE ef alle(float x) { return (ef)x; }

// AS reads the bits of a vector as another type.
#define AS(v, type) ((type)(v))

// Macros, because they serve vectors of every length. CODE clamps to [lo,hi] and rounds to an
// integer, ties to even; NaN becomes lo. NEAREST rounds to an integer as package storage does, by the
// low bits of a sum, with its answers for what is too large as well.
// EACH loops stay as they are written: clang would find vectors across lanes and spill them.
#define EACH _Pragma("clang loop unroll(disable) vectorize(disable)")
// SETTLE keeps state in memory from here on: carried in registers through the loops of a search, most of
// it would be spilled to the stack, which is small.
#define SETTLE __asm__ volatile("" ::: "memory");
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAGIC 12582912.f
#define ROUND(v) (((v) + MAGIC) - MAGIC)
INLINE lf code(lf v, lf lo, lf hi)
{
  v = v > lo ? v : lo;
  v = v > hi ? hi : v;
  return ROUND(v);
}
INLINE li nearest(lf v) { return (AS(v + MAGIC, li) & 0x7fffff) - 0x400000; }
INLINE ei nearest16(ef v) { return (AS(v + MAGIC, ei) & 0x7fffff) - 0x400000; }
INLINE ei clamp16(ei v, int lo, int hi)
{
  v = MAX(v, (ei)lo);
  return MIN(v, (ei)hi);
}
INLINE lf absl(lf v) { return AS(AS(v, li) & 0x7fffffff, lf); }
INLINE ef abse(ef v) { return AS(AS(v, ei) & 0x7fffffff, ef); }
INLINE ef floats(ei v) { return __builtin_convertvector(v, ef); }
typedef uint8_t eb __attribute__((ext_vector_type(16)));
INLINE b16 narrow(ei v) { return (b16)__builtin_convertvector(v, eb); }
INLINE int anyl(li m) { return __builtin_reduce_or(m) != 0; }
INLINE void put(uint8_t* p, b16 v) { *(b16u*)p = v; }

// turn transposes VL vectors in place by swapping ever smaller squares.
#define SWAP(h, first, second) \
  for (int i = 0; i < VL; i++) \
    if (!(i & h)) { \
      vf a = r[i], b = r[i + h]; \
      r[i] = SHUF(a, b, first); \
      r[i + h] = SHUF(a, b, second); \
    }
INLINE void turn(vf* r)
{
#if VL == 16
#define EVEN8 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23
#define ODD8 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31
#define EVEN4 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27
#define ODD4 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31
#define EVEN2 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29
#define ODD2 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31
#define EVEN1 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30
#define ODD1 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31
  SWAP(8, EVEN8, ODD8)
#elif VL == 8
#define EVEN4 0, 1, 2, 3, 8, 9, 10, 11
#define ODD4 4, 5, 6, 7, 12, 13, 14, 15
#define EVEN2 0, 1, 8, 9, 4, 5, 12, 13
#define ODD2 2, 3, 10, 11, 6, 7, 14, 15
#define EVEN1 0, 8, 2, 10, 4, 12, 6, 14
#define ODD1 1, 9, 3, 11, 5, 13, 7, 15
#else
#define EVEN2 0, 1, 4, 5
#define ODD2 2, 3, 6, 7
#define EVEN1 0, 4, 2, 6
#define ODD1 1, 5, 3, 7
#endif
#if VL >= 8
  SWAP(4, EVEN4, ODD4)
#endif
  SWAP(2, EVEN2, ODD2)
  SWAP(1, EVEN1, ODD1)
}

// columns turns the runs of size elements that begin at x + step*s, s = first.., into columns of to,
// width lanes a row. Beyond the last of n runs it repeats that one.
INLINE void columns(float* to, long width, const float* x, long first, long n, long step, long size)
{
  EACH for (long l = 0; l < width; l += VL)
    EACH for (long e = 0; e < size; e += VL) {
      vf r[VL];
      long s = first + l < n ? first + l : n - 1;
      const float* at = x + s * step + e;
      for (int i = 0; i < VL; i++) {
        r[i] = load(at);
        at += ++s < n ? step : 0;
      }
      turn(r);
      SETTLE
      for (int i = 0; i < VL; i++) store(to + (e + i) * width + l, r[i]);
    }
}

// A group is the sub-blocks that are searched together, element by element.
struct group {
  lf x[32], w[32], t[32]; // values, weights of their errors, room for the search
};

// mean_squares finds times the mean square of each of sixteen superblocks, adding in the order of their
// elements; beyond count it repeats the last.
INLINE void mean_squares(struct group* g, float* sigma2, const float* x, long count, float times)
{
  ef sum = 0;
  EACH for (long e = 0; e < 256; e += 16) {
    columns((float*)g->t, 16, x + e, 0, count, 256, 16);
    const ef* t = (const ef*)g->t;
    EACH for (int i = 0; i < 16; i++) sum += t[i] * t[i];
  }
  *(ef*)sigma2 = times * sum / 256;
}

// weigh makes weights of importances: w = qw*sqrt(sigma2 + x*x). The first lane is sub-block first of a
// chunk whose superblocks have subs of them.
INLINE void weigh(struct group* g, const long n, const float* sigma2, long first, const int subs)
{
  float* to = (float*)g->t;
  EACH for (int i = 0; i < LN; i++) to[i] = sigma2[(first + i) / subs];
  const lf v = g->t[0];
  EACH for (long i = 0; i < n; i++) g->w[i] = g->w[i] * __builtin_elementwise_sqrt(v + g->x[i] * g->x[i]);
}

// inverse is 1/d, or 0 when d is 0 or so small that 1/d overflows.
INLINE float inverse(float d)
{
  const float id = 1 / d;
  return d == 0 || __builtin_isinf(id) ? 0 : id;
}

INLINE void put_half(uint8_t* p, float v)
{
  typedef _Float16 hu __attribute__((aligned(1)));
  *(hu*)p = (_Float16)v;
}

// The codes of a block in the order of its elements, and how types pack them.
INLINE void pack_nibbles(uint8_t* dst, const uint8_t* l) { put(dst, (bytes(l) & 15) | bytes(l + 16) << 4); }

INLINE void pack_halves(uint8_t* dst, const uint8_t* l)
{
  EACH for (int g = 0; g < 4; g++)
    EACH for (int i = 0; i < 32; i += 16) put(dst + 32 * g + i, (bytes(l + 64 * g + i) & 15) | bytes(l + 64 * g + 32 + i) << 4);
}

INLINE void pack_pairs(uint8_t* dst, const uint8_t* l)
{
  EACH for (int h = 0; h < 2; h++)
    EACH for (int i = 0; i < 32; i += 16) {
      const uint8_t* s = l + 128 * h + i;
      put(dst + 32 * h + i, (bytes(s) & 3) | (bytes(s + 32) & 3) << 2 | (bytes(s + 64) & 3) << 4 | bytes(s + 96) << 6);
    }
}

// pack_high stores bit number bit of each code: bit k of byte i for element 32k+i.
INLINE void pack_high(uint8_t* dst, const uint8_t* l, int bit)
{
  EACH for (int i = 0; i < 32; i += 16) {
    b16 h = bytes(l + i) >> bit & 1;
    for (int k = 1; k < 8; k++) h |= (bytes(l + 32 * k + i) >> bit & 1) << k;
    put(dst + i, h);
  }
}

// pack_fifths stores the fifth bits of 32 codes, in the order of the codes.
INLINE void pack_fifths(uint8_t* dst, const uint8_t* l)
{
  typedef uint64_t u8u __attribute__((aligned(1)));
  for (int k = 0; k < 4; k++) {
    const uint64_t b = *(const u8u*)(l + 8 * k) >> 4 & 0x0101010101010101;
    dst[k] = (uint8_t)(b * 0x0102040810204080 >> 56); // moves bit 0 of byte i to bit i
  }
}
