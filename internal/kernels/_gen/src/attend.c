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

// greatest is the largest lane of a vector without NaN.
INLINE float greatest(vf m)
{
  for (int half = VL / 2; half > 0; half /= 2) {
    vf o = m;
    for (int l = 0; l < half; l++) o[l] = m[l + half];
    m = sel(o > m, o, m);
  }
  return m[0];
}

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
    float best = greatest(m);
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
