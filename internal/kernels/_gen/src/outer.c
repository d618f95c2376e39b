// levels: avx2 avx512 neon
// Products of matrices as they lie. Sums run along fixed lanes, so that an element never depends on its tile.
#include "vec.h"

struct dot { const float* a; const float* b; long n; float out; };

KERNEL(dot, dot)
{
  const float *a = p->a, *b = p->b;
  long n = p->n, i = 0;
  vf s0 = all(0), s1 = s0, s2 = s0, s3 = s0;
  for (; i + 4 * VL <= n; i += 4 * VL) {
    s0 = fma(load(a + i), load(b + i), s0);
    s1 = fma(load(a + i + VL), load(b + i + VL), s1);
    s2 = fma(load(a + i + 2 * VL), load(b + i + 2 * VL), s2);
    s3 = fma(load(a + i + 3 * VL), load(b + i + 3 * VL), s3);
  }
  for (; i + VL <= n; i += VL) s0 = fma(load(a + i), load(b + i), s0);
  if (i < n) s1 = fma(load_part(a + i, n - i), load_part(b + i, n - i), s1);
  p->out = sum((s0 + s1) + (s2 + s3));
}

// Outer products: a tile of OM rows and two vectors of columns, summed over k in order. Element
// (i,t) of a is at i*ra + t*ka.
#if VL == 8
#define OM 6
#else
#define OM 8
#endif
#define ON 2

INLINE void outer(vf acc[OM][ON], const int mr, const int nv, long part, const float* a, long ra, long ka,
                  const float* b, long ldb, long k)
{
  for (long t = 0; t < k; t++, a += ka, b += ldb) {
    vf bv[ON];
    for (int c = 0; c < nv; c++) bv[c] = part ? load_part(b + c * VL, part) : load(b + c * VL);
    for (int r = 0; r < mr; r++) {
      vf av = all(a[r * ra]);
      for (int c = 0; c < nv; c++) acc[r][c] = fma(av, bv[c], acc[r][c]);
    }
  }
}

// dst[m,n] (+)= a[m,k] b[k,n] for products too small to pack (see gemm.c): each sum begins at zero
// and is added to dst when it is complete.
struct gemm_outer {
  float* dst; const float* a; const float* b;
  long ldd, lda, ldb, m, n, k, add;
};

INLINE void outer_tile(struct gemm_outer* restrict p, const int mr, const int nv, long part, long i, long j)
{
  vf acc[OM][ON];
  float* d = p->dst + i * p->ldd + j;
  for (int r = 0; r < mr; r++)
    for (int c = 0; c < nv; c++) acc[r][c] = all(0);
  outer(acc, mr, nv, part, p->a + i * p->lda, p->lda, 1, p->b + j, p->ldb, p->k);
  for (int r = 0; r < mr; r++)
    for (int c = 0; c < nv; c++) {
      float* q = d + r * p->ldd + c * VL;
      if (part) store_part(q, part, p->add ? load_part(q, part) + acc[r][c] : acc[r][c]);
      else store(q, p->add ? load(q) + acc[r][c] : acc[r][c]);
    }
}

KERNEL(gemm_outer, gemm_outer)
{
  for (long j = 0; j < p->n;) {
    long left = p->n - j, i = 0;
#define BAND(nv, part) \
    for (; i + OM <= p->m; i += OM) outer_tile(p, OM, nv, part, i, j); \
    for (; i + 2 <= p->m; i += 2) outer_tile(p, 2, nv, part, i, j); \
    for (; i < p->m; i++) outer_tile(p, 1, nv, part, i, j);
    if (left >= 2 * VL) { BAND(2, 0) j += 2 * VL; }
    else if (left >= VL) { BAND(1, 0) j += VL; }
    else { BAND(1, left) j = p->n; }
  }
}

// The same in double precision. Columns that do not fill a vector are taken one by one.
struct gemm_outer_64 {
  double* dst; const double* a; const double* b;
  long ldd, lda, ldb, m, n, k, add;
};
#define VD (VL / 2)
INLINE vd loadd(const double* p) { return *(const vdu*)p; }

INLINE void outer_tile_64(struct gemm_outer_64* restrict p, const int mr, const int nv, long i, long j)
{
  vd acc[OM][ON];
  double* d = p->dst + i * p->ldd + j;
  const double *a = p->a + i * p->lda, *b = p->b + j;
  for (int r = 0; r < mr; r++)
    for (int c = 0; c < nv; c++) acc[r][c] = alld(0);
  for (long t = 0; t < p->k; t++, a++, b += p->ldb) {
    vd bv[ON];
    for (int c = 0; c < nv; c++) bv[c] = loadd(b + c * VD);
    for (int r = 0; r < mr; r++) {
      vd av = alld(a[r * p->lda]);
      for (int c = 0; c < nv; c++) acc[r][c] = fmad(av, bv[c], acc[r][c]);
    }
  }
  for (int r = 0; r < mr; r++)
    for (int c = 0; c < nv; c++) {
      vdu* q = (vdu*)(d + r * p->ldd + c * VD);
      *q = p->add ? *q + acc[r][c] : acc[r][c];
    }
}

KERNEL(gemm_outer_64, gemm_outer_64)
{
  for (long j = 0; j < p->n;) {
    long left = p->n - j, i = 0;
#define BAND_64(nv) \
    for (; i + OM <= p->m; i += OM) outer_tile_64(p, OM, nv, i, j); \
    for (; i < p->m; i++) outer_tile_64(p, 1, nv, i, j);
    if (left >= 2 * VD) { BAND_64(2) j += 2 * VD; }
    else if (left >= VD) { BAND_64(1) j += VD; }
    else {
      for (; i < p->m; i++) {
        double s = 0, *q = p->dst + i * p->ldd + j;
        for (long t = 0; t < p->k; t++) s = __builtin_fma(p->a[i * p->lda + t], p->b[t * p->ldb + j], s);
        *q = p->add ? *q + s : s;
      }
      j++;
    }
  }
}

// sum[m,n] += a^T b in double precision, of single-precision sums over t rows; a and b are [t,32].
struct gram_tile {
  double* sum; const float* a; const float* b;
  long ld, t, m, n;
};
#define PANEL 32

KERNEL(gram_tile, gram_tile)
{
  for (long i = 0; i < p->m; i += OM) {
    // the last tile of a level whose tiles do not divide 32 starts earlier; its first rows are not stored again
    long i0 = i + OM <= PANEL ? i : PANEL - OM;
    for (long j = 0; j < p->n; j += ON * VL) {
      vf acc[OM][ON];
      for (int r = 0; r < OM; r++)
        for (int c = 0; c < ON; c++) acc[r][c] = all(0);
      outer(acc, OM, ON, 0, p->a + i0, 1, PANEL, p->b + j, PANEL, p->t);
#pragma clang loop unroll(full)
      for (int r = 0; r < OM; r++) {
        if (i0 + r < i || i0 + r >= p->m) continue;
        double* s = p->sum + (i0 + r) * p->ld + j;
#pragma clang loop unroll(full)
        for (int c = 0; c < ON; c++, s += VL) {
          long left = p->n - j - c * VL;
          if (left >= VL) {
            *(vdu*)s += low(acc[r][c]);
            *(vdu*)(s + VL / 2) += high(acc[r][c]);
          } else if (left > 0) {
            float part[VL];
            store(part, acc[r][c]);
            for (long e = 0; e < left; e++) s[e] += (double)part[e];
          }
        }
      }
    }
  }
}
