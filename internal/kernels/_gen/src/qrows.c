// levels: avx2 avx512 neon
// Codes of 8 bits number by number: from floats and to floats, sums, largest of windows.
#include "codes.h"

INLINE vi widen(const uint8_t* p) { return __builtin_convertvector(*(const vnu*)p, vi); }

struct codes {
  uint8_t* dst;
  const float* x;
  long n;
  float scale, inverse; // inverse is 0 where it cannot be had exactly enough
  int32_t zero, flip;
};

// quotient is v/scale, or what rounds to the same integer: a product with the inverse is within 3*2^-24 of it, and
// divided after all where a number half way between integers lies that near.
INLINE vf quotient(vf v, float scale, float inverse)
{
  if (inverse == 0) return v / all(scale);
  const vf r = v * all(inverse), d = r - floats(nearest(r));
  const vi sign = alli(0x7fffffff);
  const vf from_half = all(0.5f) - (vf)((vi)d & sign);
  if (any(from_half < (vf)((vi)r & sign) * all(0x1p-22f))) return v / all(scale);
  return r;
}

// code is a quotient rounded, moved by zero and cut to a byte; NaN is zero.
INLINE vi code(vf v, float zero)
{
  v = sel(v == v, v, all(0));
  v = sel(v > all(255 - zero), all(255 - zero), v);
  v = sel(v < all(-zero), all(-zero), v);
  return nearest(v);
}

KERNEL(codes_of, codes)
{
  const float zero = (float)p->zero;
  const vi z = alli(p->zero), flip = alli(p->flip);
  long i = 0;
  for (; i + VL <= p->n; i += VL) store_lanes(p->dst + i, VL, (code(quotient(load(p->x + i), p->scale, p->inverse), zero) + z) ^ flip);
  if (i < p->n) store_lanes(p->dst + i, p->n - i, (code(load_part(p->x + i, p->n - i) / all(p->scale), zero) + z) ^ flip);
}

struct reals {
  float* dst;
  const uint8_t* x;
  long n;
  float scale;
  int32_t zero, flip;
};

KERNEL(codes_real, reals)
{
  const vf s = all(p->scale);
  const vi z = alli(p->zero), flip = alli(p->flip);
  long i = 0;
  for (; i + VL <= p->n; i += VL) store(p->dst + i, floats((widen(p->x + i) ^ flip) - z) * s);
  for (; i < p->n; i++) p->dst[i] = (float)((p->x[i] ^ p->flip) - p->zero) * p->scale;
}

struct lookup {
  void* dst;
  const uint8_t* x;
  const void* table;
  long n;
};

KERNEL(codes_lookup, lookup)
{
  float* d = p->dst;
  const float* t = p->table;
  long i = 0;
#if VL == 16
  for (; i + VL <= p->n; i += VL) _mm512_storeu_ps(d + i, _mm512_i32gather_ps((__m512i)widen(p->x + i), t, 4));
#elif VL == 8
  for (; i + VL <= p->n; i += VL) _mm256_storeu_ps(d + i, _mm256_i32gather_ps(t, (__m256i)widen(p->x + i), 4));
#endif
  for (; i < p->n; i++) d[i] = t[p->x[i]];
}

KERNEL(codes_recode, lookup)
{
  uint8_t* d = p->dst;
  const uint8_t *t = p->table, *x = p->x;
  long i = 0;
  for (; i + 8 <= p->n; i += 8) {
    const uint8_t a = t[x[i]], b = t[x[i + 1]], c = t[x[i + 2]], e = t[x[i + 3]];
    const uint8_t f = t[x[i + 4]], g = t[x[i + 5]], h = t[x[i + 6]], k = t[x[i + 7]];
    d[i] = a, d[i + 1] = b, d[i + 2] = c, d[i + 3] = e, d[i + 4] = f, d[i + 5] = g, d[i + 6] = h, d[i + 7] = k;
  }
  for (; i < p->n; i++) d[i] = t[x[i]];
}

// The sum, or the product, of two rows of codes.
struct both {
  uint8_t* dst;
  const uint8_t *x, *y;
  long n;
  float x_scale, y_scale, scale, inverse;
  int32_t x_zero, y_zero, zero;
};

#define BOTH(name, OP) \
  INLINE vi name##_of(const struct both* restrict p, vi x, vi y) \
  { \
    const vf a = floats(x - p->x_zero) * all(p->x_scale), b = floats(y - p->y_zero) * all(p->y_scale); \
    return code(quotient(a OP b, p->scale, p->inverse), (float)p->zero) + p->zero; \
  } \
  KERNEL(name, both) \
  { \
    long i = 0; \
    for (; i + VL <= p->n; i += VL) store_lanes(p->dst + i, VL, name##_of(p, widen(p->x + i), widen(p->y + i))); \
    for (; i < p->n; i++) store_lanes(p->dst + i, 1, name##_of(p, alli(p->x[i]), alli(p->y[i]))); \
  }
BOTH(codes_add, +)
BOTH(codes_mul, *)

// The largest code of every window.
struct codes_pool {
  uint8_t* dst;
  const uint8_t* x;
  long kh, kw, rows, cols, n;
  long dst_row, dst_pix, x_row, x_pix, tap_row, tap_pix;
};

typedef uint8_t b16 __attribute__((vector_size(16)));
typedef uint8_t b16u __attribute__((vector_size(16), aligned(1)));
typedef uint8_t b8 __attribute__((vector_size(8)));
typedef uint8_t b8u __attribute__((vector_size(8), aligned(1)));

// Windows of two by two are without loops, which would be mispredicted at every pixel.
#define LARGEST(T, U, STEP) \
  for (; c + STEP <= p->n; c += STEP) { \
    const uint8_t* a = x + c; \
    T m = *(const U*)a; \
    if (two) { \
      const uint8_t* b = a + p->tap_row; \
      m = __builtin_elementwise_max(m, *(const U*)(a + p->tap_pix)); \
      m = __builtin_elementwise_max(m, __builtin_elementwise_max(*(const U*)b, *(const U*)(b + p->tap_pix))); \
    } else \
      for (long ky = 0; ky < p->kh; ky++, a += p->tap_row) { \
        const uint8_t* b = a; \
        for (long kx = 0; kx < p->kw; kx++, b += p->tap_pix) m = __builtin_elementwise_max(m, *(const U*)b); \
      } \
    *(U*)(d + c) = m; \
  }

KERNEL(codes_max, codes_pool)
{
  const int two = p->kh == 2 && p->kw == 2;
  for (long i = 0; i < p->rows; i++)
    for (long j = 0; j < p->cols; j++) {
      const uint8_t* x = p->x + i * p->x_row + j * p->x_pix;
      uint8_t* d = p->dst + i * p->dst_row + j * p->dst_pix;
      long c = 0;
      LARGEST(vb, vbu, 4 * VL)
#if VL > 4
      LARGEST(b16, b16u, 16)
#endif
      LARGEST(b8, b8u, 8)
      for (; c < p->n; c++) {
        uint8_t m = x[c];
        for (long ky = 0; ky < p->kh; ky++)
          for (long kx = 0; kx < p->kw; kx++) {
            const uint8_t v = x[c + ky * p->tap_row + kx * p->tap_pix];
            m = v > m ? v : m;
          }
        d[c] = m;
      }
    }
}
