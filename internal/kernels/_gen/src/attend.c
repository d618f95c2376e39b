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

// passes is how many tiles ROWS makes of m rows and so many vectors, about.
INLINE long passes(long m, long n)
{
  const long wide = m / AM + (m % AM >= 4), rest = m % AM % 4, flat = rest / 2 + rest % 2;
  return wide * (n / 2) + flat * ((n + 3) / 4);
}

// What the next call will read comes nearer meanwhile: in each step of an inner loop as many lines as it
// takes to be through at the end, for more at a time than there are buffers hold up what is read now.
struct ahead { const char* at; const char* end; };
struct pace { const char* at; const char* end; int two; };
INLINE struct pace paced(struct ahead a, long steps)
{
  return (struct pace){a.at, a.end, a.end - a.at > 64 * steps};
}
INLINE void fetch(struct pace* a)
{
  if (a->at >= a->end) return;
  __builtin_prefetch(a->at, 0, 2);
  if (a->two) __builtin_prefetch(a->at + 64, 0, 2);
  a->at += a->two ? 128 : 64;
}

// Keys and values are numbers, halves, or codes with a scale in half precision for 32 of them. All become
// the same numbers wherever they are decoded, for the product of a code and its scale is exact.
enum { F32, F16, Q8 };
typedef _Float16 vhalf __attribute__((vector_size(VL * 2), aligned(2)));
typedef int8_t vcode __attribute__((vector_size(VL), aligned(1)));
INLINE vf widen(const _Float16* p) { return __builtin_convertvector(*(const vhalf*)p, vf); }
INLINE vf held(const int kind, const void* p, long at)
{
  if (kind == F32) return load((const float*)p + at);
  if (kind == F16) return widen((const _Float16*)p + at);
  return __builtin_convertvector(__builtin_convertvector(*(const vcode*)((const int8_t*)p + at), vi), vf);
}
// held_part is for the end of a row; rows of codes are whole vectors.
INLINE vf held_part(const int kind, const void* p, long at, long n)
{
  if (kind == F32) return load_part((const float*)p + at, n);
#if VL == 16
  return (vf)_mm512_cvtph_ps(_mm256_maskz_loadu_epi16((__mmask16)((1u << n) - 1), (const _Float16*)p + at));
#else
  _Float16 x[VL] = {0};
  for (long l = 0; l < n; l++) x[l] = ((const _Float16*)p)[at + l];
  return widen(x);
#endif
}

struct attend_scores {
  float* dst; const float* q; const void* keys; const _Float16* scale; // of codes: [dim/32,32] a panel
  long ldd, ldq, m, dim, panels;
  struct ahead ahead;
};

INLINE void score_tile(struct attend_scores* restrict p, struct pace* next, const int kind, const int mr, const int nv, long i, long v)
{
  struct pace ahead = *next;
  vf acc[AM][4], scale[4];
  const float* q = p->q + i * p->ldq;
  long at[4], scale_at[4]; // where the vectors of a panel begin, and those of its scales
  for (int c = 0; c < nv; c++) {
    const long panel = (v + c) / PARTS * p->dim, lane = (v + c) % PARTS * VL;
    at[c] = panel * PANEL + lane;
    scale_at[c] = panel + lane;
  }
  for (int r = 0; r < mr; r++)
    for (int c = 0; c < nv; c++) acc[r][c] = all(0);
  for (long d = 0; d < p->dim;) {
    const long end = kind == Q8 ? d + 32 : p->dim;
    if (kind == Q8)
      for (int c = 0; c < nv; c++) scale[c] = widen(p->scale + scale_at[c] + d);
    for (; d < end; d++) {
      vf b[4];
      fetch(&ahead);
      for (int c = 0; c < nv; c++) b[c] = held(kind, p->keys, at[c] + d * PANEL);
      if (kind == Q8)
        for (int c = 0; c < nv; c++) b[c] = b[c] * scale[c];
      for (int r = 0; r < mr; r++) {
        vf x = all(q[r * p->ldq + d]);
        for (int c = 0; c < nv; c++) acc[r][c] = fma(x, b[c], acc[r][c]);
      }
    }
  }
  for (int r = 0; r < mr; r++)
    for (int c = 0; c < nv; c++) store(p->dst + (i + r) * p->ldd + (v + c) * VL, acc[r][c]);
  *next = ahead;
}

// dst[m, 32 panels] = q[m,dim] keys, where a panel of keys is [dim,32]
INLINE void scores(struct attend_scores* restrict p, const int kind)
{
  const long n = p->panels * PARTS;
  struct pace ahead = paced(p->ahead, passes(p->m, n) * p->dim);
#define WIDE(mr) for (long v = 0; v < n; v += 2) score_tile(p, &ahead, kind, mr, 2, i, v);
#define FLAT(mr) { long v = 0; for (; v + 4 <= n; v += 4) score_tile(p, &ahead, kind, mr, 4, i, v); if (v < n) score_tile(p, &ahead, kind, mr, 2, i, v); }
  ROWS(p->m, WIDE, FLAT)
#undef WIDE
#undef FLAT
}
KERNEL(attend_scores, attend_scores) { scores(p, F32); }
KERNEL(attend_scores_f16, attend_scores) { scores(p, F16); }
KERNEL(attend_scores_q8, attend_scores) { scores(p, Q8); }

struct attend_weights { float* s; float* top; float* sum; long lds, m, cols, from, to, step; float scale; };

INLINE long within(long x, long n) { return x < 0 ? 0 : x > n ? n : x; }

// below is e^x of what is not above 0, but for a rounding: scores less the largest.
INLINE vf below(vf x) { return vexp_of(x, 0); }

INLINE vf greater(vf a, vf b) { return sel(a > b, a, b); }
// greatest_four is the largest lane of each of four vectors without NaN.
INLINE f4 greatest_four(vf a, vf b, vf c, vf d)
{
#if VL == 16
  vf p = greater(SHUF(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23),
                 SHUF(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31));
  vf q = greater(SHUF(c, d, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23),
                 SHUF(c, d, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31));
  p = greater(SHUF(p, q, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27),
              SHUF(p, q, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31));
  p = greater(p, SHUF(p, p, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
  p = greater(p, SHUF(p, p, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14));
  return SHUF(p, p, 0, 4, 8, 12);
#elif VL == 8
  vf p = greater(SHUF(a, b, 0, 1, 2, 3, 8, 9, 10, 11), SHUF(a, b, 4, 5, 6, 7, 12, 13, 14, 15));
  vf q = greater(SHUF(c, d, 0, 1, 2, 3, 8, 9, 10, 11), SHUF(c, d, 4, 5, 6, 7, 12, 13, 14, 15));
  p = greater(SHUF(p, q, 0, 1, 8, 9, 4, 5, 12, 13), SHUF(p, q, 2, 3, 10, 11, 6, 7, 14, 15));
  p = greater(p, SHUF(p, p, 1, 0, 3, 2, 5, 4, 7, 6));
  return SHUF(p, p, 0, 4, 2, 6);
#else
  vf p = greater(SHUF(a, b, 0, 1, 4, 5), SHUF(a, b, 2, 3, 6, 7));
  vf q = greater(SHUF(c, d, 0, 1, 4, 5), SHUF(c, d, 2, 3, 6, 7));
  return greater(SHUF(p, q, 0, 2, 4, 6), SHUF(p, q, 1, 3, 5, 7));
#endif
}

// weights_of does some rows that see the same columns: the long chains of their exponentials pass side by side.
#if VL == 8
#define WM 2 // as registers allow
#else
#define WM 4
#endif
INLINE void weights_of(struct attend_weights* restrict p, const int rows, long r, long from, long to)
{
  const vf scale = all(p->scale), never = all(-__builtin_inff());
  float* s[WM];
  vf m[WM], by[WM], sums[WM];
  for (int i = 0; i < rows; i++) {
    s[i] = p->s + (r + i) * p->lds;
    m[i] = never;
    sums[i] = all(0);
    for (long j = 0; j < from; j++) s[i][j] = -__builtin_inff();
  }
  long j = 0;
  for (; j + VL <= to; j += VL)
    for (int i = 0; i < rows; i++) m[i] = greater(load(s[i] + j), m[i]);
  if (j < to)
    for (int i = 0; i < rows; i++) m[i] = greater(sel(first(to - j), load_part(s[i] + j, to - j), never), m[i]);
  const f4 best = greatest_four(m[0], m[rows > 1 ? 1 : 0], m[rows > 2 ? 2 : 0], m[rows > 3 ? 3 : 0]);
  float shift[WM];
  for (int i = 0; i < rows; i++) {
    shift[i] = best[i] == -__builtin_inff() ? 0 : best[i] * p->scale;
    by[i] = all(-shift[i]);
  }
  for (j = 0; j + VL <= to; j += VL)
    for (int i = 0; i < rows; i++) {
      const vf e = below(fma(load(s[i] + j), scale, by[i]));
      store(s[i] + j, e);
      sums[i] = sums[i] + e;
    }
  if (j < to)
    for (int i = 0; i < rows; i++) {
      const vf e = sel(first(to - j), below(fma(load_part(s[i] + j, to - j), scale, by[i])), all(0));
      store_part(s[i] + j, to - j, e);
      sums[i] = sums[i] + e;
    }
  const f4 total = sum_four(sums[0], sums[rows > 1 ? 1 : 0], sums[rows > 2 ? 2 : 0], sums[rows > 3 ? 3 : 0]);
  for (int i = 0; i < rows; i++) {
    for (j = to; j < p->cols; j++) s[i][j] = 0;
    // a row that sees nothing but NaN has no largest score, yet must not pass for an empty one
    p->top[r + i] = best[i] == -__builtin_inff() && total[i] == 0 ? -__builtin_inff() : shift[i];
    p->sum[r + i] = total[i];
  }
}

// Scores become e^(scale s - top), where row r sees columns [from+r*step, to+r*step); the others become
// 0. top is the largest scaled score of the row, -Inf when it sees nothing, sum that of its numbers.
KERNEL(attend_weights, attend_weights)
{
  for (long r = 0; r < p->m;) {
    const long from = within(p->from + r * p->step, p->cols), to = within(p->to + r * p->step, p->cols);
    const long last = r + WM - 1; // which sees what the first sees, or more of what comes later
    if (last < p->m && within(p->from + last * p->step, p->cols) == from && within(p->to + last * p->step, p->cols) == to) {
      weights_of(p, WM, r, from, to < from ? from : to);
      r += WM;
    } else {
      weights_of(p, 1, r, from, to < from ? from : to);
      r++;
    }
  }
}

struct attend_values {
  float* dst; const float* w; const void* v; const _Float16* scale; // of codes: [dim/32] a row
  long ldd, ldw, m, dim, n, from, to, step;
  struct ahead ahead;
};

// value_steps adds positions [j,end) to the sums. Where some rows do not see all of them, sparse, the
// others are left alone: a weight of 0 is no mask, for 0 times infinity is NaN.
#define VALUE_STEPS(end, sparse) \
  for (; j < (end); j++, at += p->dim, scale += blocks) { \
    vf b[4]; \
    fetch(&ahead); \
    for (int c = 0; c < nv; c++) b[c] = part ? held_part(kind, p->v, at, part) : held(kind, p->v, at + c * VL); \
    if (kind == Q8) \
      for (int c = 0; c < nv; c++) b[c] = b[c] * all((float)scale[c * VL / 32]); \
    for (int r = 0; r < mr; r++) { \
      if (sparse && (j < from + r * p->step || j >= to + r * p->step)) continue; \
      vf x = all(w[r * p->ldw + j]); \
      for (int c = 0; c < nv; c++) acc[r][c] = fma(x, b[c], acc[r][c]); \
    } \
  }

INLINE void value_tile(struct attend_values* restrict p, struct pace* next, const int kind, const int mr, const int nv, long part, long i, long d)
{
  struct pace ahead = *next;
  vf acc[AM][4];
  const float* w = p->w + i * p->ldw;
  // what the first row sees, and of that and what the last one sees, what any row and all rows see
  const long from = p->from + i * p->step, to = p->to + i * p->step, more = (mr - 1) * p->step;
  const long last = within(to + more, p->n), some = within(from + more, last), all_to = within(to, last);
  const long blocks = kind == Q8 ? p->dim / 32 : 0;
  long j = within(from, last), at = j * p->dim + d;
  const _Float16* scale = p->scale + (kind == Q8 ? j * blocks + d / 32 : 0); // a tile lies in one block, or begins with one
  for (int r = 0; r < mr; r++)
    for (int c = 0; c < nv; c++) acc[r][c] = all(0);
  if (kind == F32) { VALUE_STEPS(some, 1) }
  VALUE_STEPS(all_to, 0)
  if (kind == F32) { VALUE_STEPS(last, 1) }
  for (int r = 0; r < mr; r++)
    for (int c = 0; c < nv; c++) {
      float* o = p->dst + (i + r) * p->ldd + d + c * VL;
      if (part) store_part(o, part, acc[r][c]);
      else store(o, acc[r][c]);
    }
  *next = ahead;
}

// dst[m,dim] = w[m,n] v[n,dim], of the positions that a row sees: row r those of [from+r*step, to+r*step).
// Where v are halves or codes the rows are heads of one token: step is 0.
INLINE void values(struct attend_values* restrict p, const int kind)
{
  struct pace ahead = paced(p->ahead, passes(p->m, p->dim / VL) * p->n);
#define TAIL(mr) \
    for (; d + VL <= p->dim; d += VL) value_tile(p, &ahead, kind, mr, 1, 0, i, d); \
    if (kind != Q8 && d < p->dim) value_tile(p, &ahead, kind, mr, 1, p->dim - d, i, d);
#define WIDE(mr) { long d = 0; for (; d + 2 * VL <= p->dim; d += 2 * VL) value_tile(p, &ahead, kind, mr, 2, 0, i, d); TAIL(mr) }
#define FLAT(mr) { long d = 0; for (; d + 4 * VL <= p->dim; d += 4 * VL) value_tile(p, &ahead, kind, mr, 4, 0, i, d); TAIL(mr) }
  ROWS(p->m, WIDE, FLAT)
#undef WIDE
#undef FLAT
}
KERNEL(attend_values, attend_values) { values(p, F32); }
KERNEL(attend_values_f16, attend_values) { values(p, F16); }
KERNEL(attend_values_q8, attend_values) { values(p, Q8); }

struct attend_merge { float* acc; float* top; float* sum; const float* part; const float* ptop; const float* psum; long lda, ldp, m, dim; };

// Joins a page to the pages before: sums of exponentials with different largest scores. The factors of as many
// rows as a vector has lanes are computed together.
KERNEL(attend_merge, attend_merge)
{
  for (long lo = 0; lo < p->m; lo += VL) {
    const long n = p->m - lo < VL ? p->m - lo : VL;
    vf t, u;
    if (n < VL) {
      t = load_part(p->top + lo, n);
      u = load_part(p->ptop + lo, n);
    } else {
      t = load(p->top + lo);
      u = load(p->ptop + lo);
    }
    const vf m = greater(t, u);
    float of[VL], part[VL], top[VL];
    store(of, below(t - m));
    store(part, below(u - m));
    store(top, m);
    for (long i = 0; i < n; i++) {
      const long r = lo + i;
      if (p->ptop[r] == -__builtin_inff()) continue; // the page has nothing for this row
      const vf a = all(of[i]), b = all(part[i]);
      p->top[r] = top[i];
      p->sum[r] = __builtin_fmaf(of[i], p->sum[r], part[i] * p->psum[r]);
      float* x = p->acc + r * p->lda;
      const float* y = p->part + r * p->ldp;
      long d = 0;
      for (; d + VL <= p->dim; d += VL) store(x + d, fma(a, load(x + d), b * load(y + d)));
      if (d < p->dim) store_part(x + d, p->dim - d, fma(a, load_part(x + d, p->dim - d), b * load_part(y + d, p->dim - d)));
    }
  }
}
