// levels: avx2 avx512 neon
// Weights in planes: unsigned codes of four bits (the first of a byte is the low one) or eight, row by
// row, and for each group of a row a scale and a zero point. A weight is scale * (q - zero): the
// difference is exact, the product is rounded once, as in the portable form.
#include "blocks.h"

struct planes {
  float* dst;
  const float* x;
  const uint8_t* codes;
  const float* scales;
  const uint8_t* zeros; // null where all are zero
  long zero, row_bytes, row_scales, n, k, group, add;
};

INLINE long least(long a, long b) { return a < b ? a : b; }

INLINE int code(const uint8_t* row, long t, const int bits)
{
  return bits == 8 ? row[t] : row[t >> 1] >> (t & 1) * 4 & 15;
}

// A step of STEP(bits) codes takes sixteen bytes; it begins with a whole byte.
#define STEP(bits) (128 / (bits))
#define WHOLE(t, bits) ((bits) == 8 || !((t) & 1))

// decode_row writes one row as real values.
INLINE void decode_row(struct planes* restrict p, const int bits)
{
  float* y = p->dst;
  for (long t = 0, g = 0; t < p->k; g++) {
    long end = p->k - t < p->group ? p->k : t + p->group;
    float scale = p->scales[g], zero = (float)(p->zeros ? p->zeros[g] : p->zero);
    while (t < end) {
      if (end - t < STEP(bits) || !WHOLE(t, bits)) {
        y[t] = scale * ((float)code(p->codes, t, bits) - zero);
        t++;
        continue;
      }
      b16 q = bytes(p->codes + t * bits / 8);
      if (bits == 8) {
        storew(y + t, allw(scale) * (real(q) - allw(zero)));
      } else {
        b16 l = q & 15, h = q >> 4;
        storew(y + t, allw(scale) * (real(SHUF(l, h, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)) - allw(zero)));
        storew(y + t + 16, allw(scale) * (real(SHUF(l, h, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)) - allw(zero)));
      }
      t += STEP(bits);
    }
  }
}

KERNEL(planes_row4, planes) { decode_row(p, 4); }
KERNEL(planes_row8, planes) { decode_row(p, 8); }

typedef uint32_t uv __attribute__((vector_size(VL * 4)));
typedef uint32_t u4u __attribute__((vector_size(16), aligned(1)));

// words reads sixteen bytes of each of VL rows: lane i of v[c] is word c of row i.
INLINE void words(uv* v, const uint8_t* const* row, long at)
{
#define WORD(i) (*(const u4u*)(row[i] + at))
#if VL == 16
#define PAIR(i) SHUF(WORD(i), WORD(i + 4), 0, 1, 2, 3, 4, 5, 6, 7)
#define JOIN(i) SHUF(PAIR(i), PAIR(i + 8), 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
#define QUARTERS(a, b, c, d, e, f) \
  SHUF(a, b, c, d, e, f, c + 4, d + 4, e + 4, f + 4, c + 8, d + 8, e + 8, f + 8, c + 12, d + 12, e + 12, f + 12)
#elif VL == 8
#define JOIN(i) SHUF(WORD(i), WORD(i + 4), 0, 1, 2, 3, 4, 5, 6, 7)
#define QUARTERS(a, b, c, d, e, f) SHUF(a, b, c, d, e, f, c + 4, d + 4, e + 4, f + 4)
#else
#define JOIN(i) WORD(i)
#define QUARTERS(a, b, c, d, e, f) SHUF(a, b, c, d, e, f)
#endif
  uv a = JOIN(0), b = JOIN(1), c = JOIN(2), d = JOIN(3);
  uv ab = QUARTERS(a, b, 0, VL, 1, VL + 1), AB = QUARTERS(a, b, 2, VL + 2, 3, VL + 3);
  uv cd = QUARTERS(c, d, 0, VL, 1, VL + 1), CD = QUARTERS(c, d, 2, VL + 2, 3, VL + 3);
  v[0] = QUARTERS(ab, cd, 0, 1, VL, VL + 1);
  v[1] = QUARTERS(ab, cd, 2, 3, VL + 2, VL + 3);
  v[2] = QUARTERS(AB, CD, 0, 1, VL, VL + 1);
  v[3] = QUARTERS(AB, CD, 2, 3, VL + 2, VL + 3);
}

// LANES runs the rest for every lane i, one after the other: in registers there is no room for it.
#define LANES _Pragma("clang loop unroll(disable) vectorize(disable)") for (long i = 0; i < VL; i++)

// multiply is dst[n] (+)= x[k] w[n,k]^T with VL rows of w in the lanes. The sums and their order are
// those of mul_few.
#define PIECE 256
INLINE void multiply(struct planes* restrict p, const int bits)
{
  const uint8_t* row[VL];
  union { int32_t i[VL]; float f[VL]; } lane;
  const float* x = p->x;
  for (long j = 0; j < p->n; j += VL) {
    long have = least(VL, p->n - j);
    LANES row[i] = p->codes + (j + least(i, have - 1)) * p->row_bytes; // the last row stands in for those that are not there
    const float* scales = p->scales + j * p->row_scales;
    const uint8_t* zeros = p->zeros ? p->zeros + j * p->row_scales : 0;
    vf sum = all(0), scale = all(0);
    vi zero = (vi)all(0);
    for (long t = 0, g = 0, group = 0; t < p->k;) {
      long piece = least(p->k, t + PIECE);
      vf acc = all(0);
      int first = t == 0;
      while (t < piece) {
        if (t == group) {
          LANES lane.f[i] = scales[least(i, have - 1) * p->row_scales + g];
          scale = load(lane.f);
          LANES lane.i[i] = zeros ? zeros[least(i, have - 1) * p->row_scales + g] : (int32_t)p->zero;
          zero = (vi)load(lane.f);
          g++;
          group = p->k - t < p->group ? p->k : t + p->group;
        }
        long end = least(piece, group);
        while (t < end) {
          if (end - t < STEP(bits) || !WHOLE(t, bits)) {
            LANES lane.i[i] = code(row[i], t, bits);
            acc = fma(all(x[t]), __builtin_convertvector((vi)load(lane.f) - zero, vf) * scale, acc);
            t++;
            continue;
          }
          uv v[4];
          words(v, row, t * bits / 8);
          _Pragma("clang loop unroll(full)")
          for (int c = 0; c < 4; c++)
            _Pragma("clang loop unroll(full)")
            for (int i = 0; i < 32 / bits; i++, t++) {
              vi q = (vi)(v[c] >> (bits * i) & ((1u << bits) - 1));
              acc = fma(all(x[t]), __builtin_convertvector(q - zero, vf) * scale, acc);
            }
        }
      }
      // the first sum is added to dst or stored as it is, the others are added
      if (!first) sum += acc;
      else if (!p->add) sum = acc;
      else if (have == VL) sum = load(p->dst + j) + acc;
      else sum = load_part(p->dst + j, have) + acc;
    }
    if (have == VL) store(p->dst + j, sum);
    else store_part(p->dst + j, have, sum);
  }
}

KERNEL(planes_mul4, planes) { multiply(p, 4); }
KERNEL(planes_mul8, planes) { multiply(p, 8); }
