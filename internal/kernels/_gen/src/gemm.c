// levels: avx2 avx512 neon
// Products of matrices. Sums run along fixed lanes, so that an element never depends on its tile.
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

// dst[m,n] (+)= x[m,k] w[n,k]^T. An element has one vector of sums: lane l adds the products of
// k = l, l+VL, l+2VL, ... One call takes the piece [from,to) of long rows, so that what is in use
// stays in the caches; the vectors wait in sums meanwhile, which changes nothing. Pieces but the last
// are multiples of VL long.
struct gemm_nt {
  float* dst; const float* x; const float* w; float* sums;
  long ldd, ldx, ldw, m, n, k, from, to, add;
};

#if VL == 8
#define NT_M 3
#else
#define NT_M 6
#endif
#define NT_N 4

INLINE void nt_tile(struct gemm_nt* restrict p, const int mr, long i, long j)
{
  const float *x[NT_M], *w[NT_N];
  vf acc[NT_M][NT_N];
  vf* sums = (vf*)p->sums + j * p->m + i * NT_N;
  for (int r = 0; r < mr; r++) x[r] = p->x + (i + r) * p->ldx;
  // past the last row of w the last one is taken again, and its result not stored
  for (int c = 0; c < NT_N; c++) w[c] = p->w + (j + c < p->n ? j + c : p->n - 1) * p->ldw;
  for (int r = 0; r < mr; r++)
    for (int c = 0; c < NT_N; c++) acc[r][c] = p->from == 0 ? all(0) : sums[r * NT_N + c];
  long t = p->from, to = p->to;
// one step keeps the vectors of one side in registers and takes those of the other as they come
#if NT_M < NT_N
#define NT_STEP(LD) \
    vf xv[NT_M]; \
    for (int r = 0; r < mr; r++) xv[r] = LD(x[r] + t); \
    for (int c = 0; c < NT_N; c++) { \
      vf wv = LD(w[c] + t); \
      for (int r = 0; r < mr; r++) acc[r][c] = fma(xv[r], wv, acc[r][c]); \
    }
#else
#define NT_STEP(LD) \
    vf wv[NT_N]; \
    for (int c = 0; c < NT_N; c++) wv[c] = LD(w[c] + t); \
    for (int r = 0; r < mr; r++) { \
      vf xv = LD(x[r] + t); \
      for (int c = 0; c < NT_N; c++) acc[r][c] = fma(xv, wv[c], acc[r][c]); \
    }
#endif
  for (; t + VL <= to; t += VL) { NT_STEP(load) }
  if (t < to) {
    long rest = to - t;
    NT_STEP(PART_LOAD)
  }
  if (to < p->k) {
    for (int r = 0; r < mr; r++)
      for (int c = 0; c < NT_N; c++) sums[r * NT_N + c] = acc[r][c];
    return;
  }
  float* d = p->dst + i * p->ldd + j;
  long cols = p->n - j;
  for (int r = 0; r < mr; r++, d += p->ldd) {
    f4 v = sum_four(acc[r][0], acc[r][1], acc[r][2], acc[r][3]);
    if (cols >= NT_N) {
      *(f4u*)d = p->add ? *(f4u*)d + v : v;
    } else {
      d[0] = p->add ? d[0] + v[0] : v[0];
      if (cols > 1) d[1] = p->add ? d[1] + v[1] : v[1];
      if (cols > 2) d[2] = p->add ? d[2] + v[2] : v[2];
    }
  }
}

KERNEL(gemm_nt, gemm_nt)
{
  for (long j = 0; j < p->n; j += NT_N) {
    long i = 0;
    for (; i + NT_M <= p->m; i += NT_M) nt_tile(p, NT_M, i, j);
    switch (p->m - i) {
#if NT_M > 3
    case 5: nt_tile(p, 5, i, j); break;
    case 4: nt_tile(p, 4, i, j); break;
    case 3: nt_tile(p, 3, i, j); break;
#endif
    case 2: nt_tile(p, 2, i, j); break;
    case 1: nt_tile(p, 1, i, j); break;
    }
  }
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

// dst[m,n] (+)= a[m,k] b[k,n]
struct gemm_outer {
  float* dst; const float* a; const float* b;
  long ldd, lda, ldb, m, n, k, add;
};

INLINE void outer_tile(struct gemm_outer* restrict p, const int mr, const int nv, long part, long i, long j)
{
  vf acc[OM][ON];
  float* d = p->dst + i * p->ldd + j;
  for (int r = 0; r < mr; r++)
    for (int c = 0; c < nv; c++)
      acc[r][c] = !p->add ? all(0) : part ? load_part(d + r * p->ldd, part) : load(d + r * p->ldd + c * VL);
  outer(acc, mr, nv, part, p->a + i * p->lda, p->lda, 1, p->b + j, p->ldb, p->k);
  for (int r = 0; r < mr; r++)
    for (int c = 0; c < nv; c++) {
      if (part) store_part(d + r * p->ldd, part, acc[r][c]);
      else store(d + r * p->ldd + c * VL, acc[r][c]);
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
    for (int c = 0; c < nv; c++) acc[r][c] = p->add ? loadd(d + r * p->ldd + c * VD) : alld(0);
  for (long t = 0; t < p->k; t++, a++, b += p->ldb) {
    vd bv[ON];
    for (int c = 0; c < nv; c++) bv[c] = loadd(b + c * VD);
    for (int r = 0; r < mr; r++) {
      vd av = alld(a[r * p->lda]);
      for (int c = 0; c < nv; c++) acc[r][c] = fmad(av, bv[c], acc[r][c]);
    }
  }
  for (int r = 0; r < mr; r++)
    for (int c = 0; c < nv; c++) *(vdu*)(d + r * p->ldd + c * VD) = acc[r][c];
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
        double s = p->add ? p->dst[i * p->ldd + j] : 0;
        for (long t = 0; t < p->k; t++) s = __builtin_fma(p->a[i * p->lda + t], p->b[t * p->ldb + j], s);
        p->dst[i * p->ldd + j] = s;
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
