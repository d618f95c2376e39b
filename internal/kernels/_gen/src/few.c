// levels: avx2 avx512 neon
// Products with a few rows of x, to which packing the other operand is not worth its while.
#include "columns.h"

// dst[m,n] (+)= x[m,k] w[n,k]^T for a few rows of x, without packing: vectors across the rows of w
// are made in registers, while w passes by once. m is up to FEW. The sums and their order are those of
// mul_panels called for one piece of PIECE after another.
#define FEW 4
#define PIECE 256
struct mul_few { float* dst; const float* x; const float* w; long ldd, ldx, ldw, m, n, k, add; };

INLINE void few(struct mul_few* restrict p, const int mr, const int full, long j)
{
  const float *x = p->x, *w = p->w + j * p->ldw;
  float* d = p->dst + j;
  long cols = full ? VL : p->n - j, ldx = p->ldx, ld = p->ldw, t = 0;
  vf sum[FEW];
  for (int r = 0; r < mr; r++) sum[r] = all(0);
  while (t < p->k) {
    long k = p->k - t < PIECE ? p->k : t + PIECE, first = t == 0;
    vf acc[FEW];
    for (int r = 0; r < mr; r++) acc[r] = all(0);
    for (; full && t + 4 <= k; t += 4) {
      vf v[4];
      COLUMNS(v)
      for (int i = 0; i < 4; i++)
        for (int r = 0; r < mr; r++) acc[r] = fma(all(x[r * ldx + t + i]), v[i], acc[r]);
    }
    for (; t < k; t++) {
      float one[VL] = {0};
      for (int i = 0; i < cols; i++) one[i] = w[i * ld + t];
      for (int r = 0; r < mr; r++) acc[r] = fma(all(x[r * ldx + t]), load(one), acc[r]);
    }
    // the first sum is added to dst or stored as it is, the others are added
    for (int r = 0; r < mr; r++, d += p->ldd) {
      if (full) sum[r] = !first ? sum[r] + acc[r] : p->add ? load(d) + acc[r] : acc[r];
      else sum[r] = !first ? sum[r] + acc[r] : p->add ? load_part(d, cols) + acc[r] : acc[r];
    }
    d -= mr * p->ldd;
  }
  for (int r = 0; r < mr; r++, d += p->ldd) {
    if (full) store(d, sum[r]);
    else store_part(d, cols, sum[r]);
  }
}

KERNEL(mul_few, mul_few)
{
  long j = 0;
#define FEW_ROWS(rows) \
  case rows: \
    for (; j + VL <= p->n; j += VL) few(p, rows, 1, j); \
    if (j < p->n) few(p, rows, 0, j); \
    break;
  switch (p->m) { FEW_ROWS(1) FEW_ROWS(2) FEW_ROWS(3) FEW_ROWS(4) }
}

// dst[n] (+)= w[n,k] x[k] for rows as they are stored, in half precision or bfloat16, with the same
// sums. lines is scratch for STRETCH numbers of TALL * VL rows: every row is read some whole lines at a time,
// because the first-level cache has no room for parts of lines of rows that lie a power of two apart. While
// these are multiplied the next ones are fetched, as many lines in each step as it takes to be through at
// the end: more at a time than there are buffers for would hold up what is read now.
#define LINE 32     // numbers
#define STRETCH 128 // numbers, a multiple of LINE
#if VL == 8
#define TALL 4 // vectors of rows side by side, so that their chains overlap
#else
#define TALL 2
#endif
typedef uint16_t u16u __attribute__((vector_size(64), aligned(2)));
typedef uint16_t vs __attribute__((vector_size(VL * 2)));
typedef _Float16 vh16 __attribute__((vector_size(VL * 2)));
typedef uint32_t vu __attribute__((vector_size(VL * 4)));
struct mul_stored { float* dst; const float* x; const uint16_t* w; uint32_t* lines; long n, k, add; };

// low_half is the real values of the lower halves of lanes, high_half those of the upper ones.
INLINE vf low_half(const int brain, vf v)
{
  if (brain) return (vf)((vu)v << 16);
  return __builtin_convertvector((vh16)__builtin_convertvector((vu)v, vs), vf);
}
INLINE vf high_half(const int brain, vf v)
{
  if (brain) return (vf)((vu)v & 0xffff0000);
  return low_half(0, (vf)((vu)v >> 16));
}

// stored does rows [j, j + tall*VL), or as many as there are.
INLINE void stored(struct mul_stored* restrict p, const int brain, const int tall, long j)
{
  const long n = p->n - j, ld = STRETCH / 2, rows = tall * VL;
  const float* x = p->x;
  float* y = p->dst + j;
  vf sum[TALL], acc[TALL];
  for (int g = 0; g < tall; g++) sum[g] = all(0);
  for (long at = 0; at < p->k;) {
    const long end = p->k - at < PIECE ? p->k : at + PIECE, start = at == 0;
    for (int g = 0; g < tall; g++) acc[g] = all(0);
    while (at + LINE <= end) {
      const long len = end - at < STRETCH ? (end - at) / LINE * LINE : STRETCH;
      const uint16_t* row = p->w + j * p->k + at;
      // what comes next in these rows, at their ends in those after them
      const uint16_t* next = row + len + (at + len < p->k ? 0 : (rows - 1) * p->k);
#pragma clang loop unroll(disable)
      for (long i = 0; i < rows; i++) {
        for (long l = 0; l < len; l += LINE) *(u16u*)(p->lines + i * ld + l / 2) = *(const u16u*)(row + l);
        row += i + 1 < n ? p->k : 0; // lanes without a row take the last one's
      }
      long fetched = 0; // lines
#pragma clang loop unroll(disable)
      for (long t = 0; t < len / 2; t += 4) {
        for (int g = 0; g < tall; g++) {
          const float *w = (const float*)p->lines + g * VL * ld, *f = x + at + 2 * t;
          for (int i = 0; i < VL / 4; i++, fetched++)
            __builtin_prefetch(next + fetched / (STRETCH / LINE) * p->k + fetched % (STRETCH / LINE) * LINE, 0, 3);
          vf v[4];
          COLUMNS(v)
          for (int i = 0; i < 4; i++) {
            acc[g] = fma(all(f[2 * i]), low_half(brain, v[i]), acc[g]);
            acc[g] = fma(all(f[2 * i + 1]), high_half(brain, v[i]), acc[g]);
          }
          __asm__ volatile("" ::: "memory"); // no number of x is kept for the next group: registers are few
        }
      }
      at += len;
    }
    for (; at < end; at++) {
      const uint16_t* row = p->w + j * p->k + at;
#pragma clang loop vectorize(disable) unroll(disable)
      for (long i = 0; i < rows; i++) {
        p->lines[i] = *row;
        row += i + 1 < n ? p->k : 0;
      }
      for (int g = 0; g < tall; g++)
        acc[g] = fma(all(x[at]), low_half(brain, load((const float*)p->lines + g * VL)), acc[g]);
    }
    for (int g = 0; g < tall; g++) {
      const long cols = n - g * VL;
      if (!start) sum[g] = sum[g] + acc[g];
      else if (!p->add) sum[g] = acc[g];
      else sum[g] = (cols >= VL ? load(y + g * VL) : load_part(y + g * VL, cols)) + acc[g];
    }
  }
  for (int g = 0; g < tall; g++) {
    if (n - g * VL >= VL) store(y + g * VL, sum[g]);
    else store_part(y + g * VL, n - g * VL, sum[g]);
  }
}

#define MUL_STORED(name, brain) \
  KERNEL(mul_##name, mul_stored) \
  { \
    long j = 0; \
    for (; j + TALL * VL <= p->n; j += TALL * VL) stored(p, brain, TALL, j); \
    for (; j < p->n; j += VL) stored(p, brain, 1, j); \
  }
MUL_STORED(f16, 0)
MUL_STORED(bf16, 1)
