// levels: avx2 avx512 neon
// Attention over a page of the cache: scores, their exponentials, weighted sums of values, and the
// joining of pages. Every number of a row depends on that row, the page and the order of its
// positions, never on the rows that pass together.
#include "exp.h"

#define PANEL 32           // positions side by side in a panel of keys
#define PARTS (PANEL / VL) // vectors of a panel's row

#if VL == 8
#define AM 6
#else
#define AM 8
#endif

// ROWS runs a body over m rows, as many at a time as registers hold: WIDE for the tall tiles, FLAT,
// with more vectors side by side, for the few rows of a single token.
#define ROWS(m, WIDE, FLAT) { \
    long i = 0; \
    for (; i + AM <= (m); i += AM) { WIDE(AM) } \
    if (i + 4 <= (m)) { WIDE(4) i += 4; } \
    if (i + 2 <= (m)) { FLAT(2) i += 2; } \
    if (i < (m)) { FLAT(1) } \
  }

// What the next call will read comes nearer meanwhile, two lines in each step of an inner loop.
struct ahead { const char* at; const char* end; };
INLINE void fetch(struct ahead* a)
{
  if (a->at >= a->end) return;
  __builtin_prefetch(a->at, 0, 2);
  __builtin_prefetch(a->at + 64, 0, 2);
  a->at += 128;
}

struct attend_scores { float* dst; const float* q; const float* keys; long ldd, ldq, m, dim, panels; struct ahead ahead; };

INLINE void score_tile(struct attend_scores* restrict p, const int mr, const int nv, long i, long v)
{
  struct ahead ahead = p->ahead;
  vf acc[AM][4];
  const float *b[4], *q = p->q + i * p->ldq;
  for (int c = 0; c < nv; c++) b[c] = p->keys + (v + c) / PARTS * p->dim * PANEL + (v + c) % PARTS * VL;
  for (int r = 0; r < mr; r++)
    for (int c = 0; c < nv; c++) acc[r][c] = all(0);
  for (long d = 0; d < p->dim; d++) {
    vf bv[4];
    fetch(&ahead);
    for (int c = 0; c < nv; c++) bv[c] = load(b[c] + d * PANEL);
    for (int r = 0; r < mr; r++) {
      vf x = all(q[r * p->ldq + d]);
      for (int c = 0; c < nv; c++) acc[r][c] = fma(x, bv[c], acc[r][c]);
    }
  }
  for (int r = 0; r < mr; r++)
    for (int c = 0; c < nv; c++) store(p->dst + (i + r) * p->ldd + (v + c) * VL, acc[r][c]);
  p->ahead = ahead;
}

// dst[m, 32 panels] = q[m,dim] keys, where a panel of keys is [dim,32]
KERNEL(attend_scores, attend_scores)
{
  const long n = p->panels * PARTS;
#define WIDE(mr) for (long v = 0; v < n; v += 2) score_tile(p, mr, 2, i, v);
#define FLAT(mr) { long v = 0; for (; v + 4 <= n; v += 4) score_tile(p, mr, 4, i, v); if (v < n) score_tile(p, mr, 2, i, v); }
  ROWS(p->m, WIDE, FLAT)
#undef WIDE
#undef FLAT
}

struct attend_weights { float* s; float* top; float* sum; long lds, m, cols, from, to, step; float scale; };

INLINE long within(long x, long n) { return x < 0 ? 0 : x > n ? n : x; }

// Scores become e^(scale s - top), where row r sees columns [from+r*step, to+r*step); the others become
// 0. top is the largest scaled score of the row, -Inf when it sees nothing, sum that of its numbers.
KERNEL(attend_weights, attend_weights)
{
  const vf scale = all(p->scale), never = all(-__builtin_inff());
  for (long r = 0; r < p->m; r++) {
    float* s = p->s + r * p->lds;
    long from = within(p->from + r * p->step, p->cols), to = within(p->to + r * p->step, p->cols);
    long j = 0;
    for (; j < from; j++) s[j] = -__builtin_inff();
    if (to < from) to = from;
    vf m = never;
    for (j = 0; j + VL <= to; j += VL) { vf v = load(s + j); m = sel(v > m, v, m); }
    if (j < to) { vf v = sel(first(to - j), load_part(s + j, to - j), never); m = sel(v > m, v, m); }
    float best = m[0];
    for (int l = 1; l < VL; l++) best = m[l] > best ? m[l] : best;
    int none = best == -__builtin_inff();
    float shift = none ? 0 : best * p->scale;
    const vf by = all(-shift);
    vf sums = all(0);
    for (j = 0; j + VL <= to; j += VL) {
      vf e = vexp(fma(load(s + j), scale, by));
      store(s + j, e);
      sums = sums + e;
    }
    if (j < to) {
      vf e = sel(first(to - j), vexp(fma(load_part(s + j, to - j), scale, by)), all(0));
      store_part(s + j, to - j, e);
      sums = sums + e;
    }
    for (j = to; j < p->cols; j++) s[j] = 0;
    float total = sum(sums);
    // a row that sees nothing but NaN has no largest score, yet must not pass for an empty one
    p->top[r] = none && total == 0 ? -__builtin_inff() : shift;
    p->sum[r] = total;
  }
}

struct attend_values { float* dst; const float* w; const float* v; long ldd, ldw, m, dim, n, from, to, step; struct ahead ahead; };

// value_steps adds positions [j,end) to the sums. Where some rows do not see all of them, sparse, the
// others are left alone: a weight of 0 is no mask, for 0 times infinity is NaN.
#define VALUE_STEPS(end, sparse) \
  for (; j < (end); j++, v += p->dim) { \
    vf b[4]; \
    fetch(&ahead); \
    for (int c = 0; c < nv; c++) b[c] = part ? load_part(v, part) : load(v + c * VL); \
    for (int r = 0; r < mr; r++) { \
      if (sparse && (j < from + r * p->step || j >= to + r * p->step)) continue; \
      vf x = all(w[r * p->ldw + j]); \
      for (int c = 0; c < nv; c++) acc[r][c] = fma(x, b[c], acc[r][c]); \
    } \
  }

INLINE void value_tile(struct attend_values* restrict p, const int mr, const int nv, long part, long i, long d)
{
  struct ahead ahead = p->ahead;
  vf acc[AM][4];
  const float* w = p->w + i * p->ldw;
  // what the first row sees, and of that and what the last one sees, what any row and all rows see
  const long from = p->from + i * p->step, to = p->to + i * p->step, more = (mr - 1) * p->step;
  const long last = within(to + more, p->n), some = within(from + more, last), all_to = within(to, last);
  long j = within(from, last);
  const float* v = p->v + j * p->dim + d;
  for (int r = 0; r < mr; r++)
    for (int c = 0; c < nv; c++) acc[r][c] = all(0);
  VALUE_STEPS(some, 1)
  VALUE_STEPS(all_to, 0)
  VALUE_STEPS(last, 1)
  for (int r = 0; r < mr; r++)
    for (int c = 0; c < nv; c++) {
      float* o = p->dst + (i + r) * p->ldd + d + c * VL;
      if (part) store_part(o, part, acc[r][c]);
      else store(o, acc[r][c]);
    }
  p->ahead = ahead;
}

// dst[m,dim] = w[m,n] v[n,dim], of the positions that a row sees: row r those of [from+r*step, to+r*step)
KERNEL(attend_values, attend_values)
{
#define TAIL(mr) \
    for (; d + VL <= p->dim; d += VL) value_tile(p, mr, 1, 0, i, d); \
    if (d < p->dim) value_tile(p, mr, 1, p->dim - d, i, d);
#define WIDE(mr) { long d = 0; for (; d + 2 * VL <= p->dim; d += 2 * VL) value_tile(p, mr, 2, 0, i, d); TAIL(mr) }
#define FLAT(mr) { long d = 0; for (; d + 4 * VL <= p->dim; d += 4 * VL) value_tile(p, mr, 4, 0, i, d); TAIL(mr) }
  ROWS(p->m, WIDE, FLAT)
#undef WIDE
#undef FLAT
}

struct attend_merge { float* acc; float* top; float* sum; const float* part; const float* ptop; const float* psum; long lda, ldp, m, dim; };

// Joins a page to the pages before: sums of exponentials with different largest scores.
KERNEL(attend_merge, attend_merge)
{
  for (long r = 0; r < p->m; r++) {
    float t = p->top[r], u = p->ptop[r], m = t > u ? t : u;
    if (u == -__builtin_inff()) continue; // the page has nothing for this row
    vf f = all(0);
    f[0] = t - m;
    f[1] = u - m;
    f = vexp(f);
    const vf a = all(f[0]), b = all(f[1]);
    p->top[r] = m;
    p->sum[r] = __builtin_fmaf(f[0], p->sum[r], f[1] * p->psum[r]);
    float* x = p->acc + r * p->lda;
    const float* y = p->part + r * p->ldp;
    long d = 0;
    for (; d + VL <= p->dim; d += VL) store(x + d, fma(a, load(x + d), b * load(y + d)));
    if (d < p->dim) store_part(x + d, p->dim - d, fma(a, load_part(x + d, p->dim - d), b * load_part(y + d, p->dim - d)));
  }
}
