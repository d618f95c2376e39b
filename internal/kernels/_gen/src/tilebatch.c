// levels: avx2 avxvnni avx512vnni neon dotprod i8mm
// Tiles times many tokens: a piece of a tile is laid out as a panel in the nearest cache, once, and all
// tokens pass by it.
#include "tiletypes.h"

// A panel has, for every 32 weights of sixteen rows, eight lines of codes, then a line of factors for
// the block or two for its halves, and as many lines of minima where the type has them. Codes of types
// without minima are signed, raised by 128 where VNNI needs them unsigned.
struct untile { uint8_t* panel; const uint8_t* w; long blocks; };

#define STRIDE(halves, min) (LINE * (8 + (halves) * (1 + (min))))

#define UNTILE(type) \
INLINE void untile_##type(uint8_t* to, const uint8_t* w, const int r) \
{ \
  uint32_t s[4 * VL]; \
  vf d[2]; \
  prepare_##type(w, r, s, d); \
  to += r * (LINE / PARTS); \
  _Pragma("clang loop unroll(disable)") \
  for (long outer = 0; outer < OUTER_##type; outer++) \
    _Pragma("clang loop unroll(full)") \
    for (int inner = 0; inner < INNER_##type; inner++, to += STRIDE(HALVES_##type, MIN_##type)) { \
      APART; \
      _Pragma("clang loop unroll(full)") \
      for (int j = 0; j < 8; j++) { \
        const vb c = code_##type(w, r, outer, inner, j, 0); \
        put(to, j, MIN_##type ? c : c + (uint8_t)((VNNI ? 128 : 0) - ZERO_##type)); \
      } \
      _Pragma("clang loop unroll(full)") \
      for (int h = 0; h < HALVES_##type; h++) { \
        put(to, 8 + h, (vb)factor_##type(w, r, s, d, outer, inner, h)); \
        if (MIN_##type) put(to, 8 + HALVES_##type + h, (vb)least_##type(w, r, s, d, outer, inner, h)); \
      } \
    } \
} \
KERNEL(untile_##type, untile) \
{ \
  const uint8_t* w = p->w; \
  uint8_t* to = p->panel; \
  for (long b = 0; b < p->blocks; b++, w += BYTES_##type, to += STRIDE(HALVES_##type, MIN_##type) * OUTER_##type * INNER_##type) \
    _Pragma("clang loop unroll(disable)") \
    for (int r = 0; r < PARTS; r++) untile_##type(to, w, r); \
}
UNTILE(q8_0)
UNTILE(q4_0)
UNTILE(q4_1)
UNTILE(q5_0)
UNTILE(q5_1)
UNTILE(q2_k)
UNTILE(q3_k)
UNTILE(q4_k)
UNTILE(q5_k)
UNTILE(q6_k)
UNTILE(iq4_nl)
UNTILE(iq4_xs)
UNTILE(mxfp4)

// dst[m,16*tiles] (+)= x[m,32*blocks] times one panel or two, one after the other. Rows of dst lie ldd
// numbers apart. Tokens come in groups of four, ldx blocks apart, in which the four blocks of the same
// columns are neighbours; those to multiply begin with token first of the group at x.
struct panel { float* dst; const struct act* x; const uint8_t* panel; long ldd, ldx, first, m, blocks, tiles, add; };

// MOST tokens pass together by one panel, PAIRED by two: their sums stay in registers. Two panels share
// what is read of the tokens.
#if VL == 16
#define MOST(halves) ((halves) == 1 ? 12 : 8)
#define PAIRED(halves) ((halves) == 1 ? 6 : 4)
#elif VL == 4 && defined(__ARM_FEATURE_DOTPROD)
#define MOST(halves) ((halves) == 1 ? 8 : 4)
#else
#define MOST(halves) 4
#endif

#define EACH(t) _Pragma("clang loop unroll(full)") for (int t = 0; t < m; t++)
#define X(t) (x[(t) / 2] + (t) % 2)

#ifdef __ARM_FEATURE_MATMUL_INT8
// pairs adds the products of lines from..to with m tokens, two by two: one instruction multiplies eight
// codes of two rows with those of two tokens.
INLINE void pairs(vi* s, const uint8_t* w, const int m, const int from, const int to, const struct act** x)
{
  int32x4_t low[6], high[6]; // of rows 0 and 1, and of rows 2 and 3: row, token
#pragma clang loop unroll(full)
  for (int t = 0; t < m / 2; t++) {
    low[t] = vzip1q_s32((int32x4_t)s[2 * t], (int32x4_t)s[2 * t + 1]);
    high[t] = vzip2q_s32((int32x4_t)s[2 * t], (int32x4_t)s[2 * t + 1]);
  }
#pragma clang loop unroll(full)
  for (int j = from; j < to; j += 2) {
    const int32x4_t c = (int32x4_t)line(w, j), d = (int32x4_t)line(w, j + 1);
    const int8x16_t c01 = (int8x16_t)vzip1q_s32(c, d), c23 = (int8x16_t)vzip2q_s32(c, d);
#pragma clang loop unroll(full)
    for (int t = 0; t < m; t += 2) {
      const int8x16_t a = vcombine_s8(vld1_s8(X(t)->q + 4 * j), vld1_s8(X(t + 1)->q + 4 * j));
      low[t / 2] = vmmlaq_s32(low[t / 2], c01, a);
      high[t / 2] = vmmlaq_s32(high[t / 2], c23, a);
    }
  }
#pragma clang loop unroll(full)
  for (int t = 0; t < m / 2; t++) {
    s[2 * t] = (vi)vuzp1q_s32(low[t], high[t]);
    s[2 * t + 1] = (vi)vuzp2q_s32(low[t], high[t]);
  }
}
#endif

// pass multiplies m tokens from token at on, which is even unless m is 1, with n panels.
INLINE void pass(const struct panel* p, const int m, const int n, const int halves, const int min, long at, const uint8_t* w, float* dst)
{
  const long next = p->blocks * STRIDE(halves, min); // from panel to panel
  const struct act* x[6];
  vf acc[2][12];
#define BOTH(i) _Pragma("clang loop unroll(full)") for (int i = 0; i < n; i++)
  dst += (at - p->first) * p->ldd;
#pragma clang loop unroll(full)
  for (int t = 0; t < m; t += 2) x[t / 2] = p->x + (at + t) / 4 * p->ldx + (at + t) % 4;
  BOTH(i) EACH(t) acc[i][t] = p->add ? load(dst + t * p->ldd + ROWS * i) : all(0);
  for (long b = p->blocks; b > 0; b--, w += STRIDE(halves, min)) {
    vf term[2][12];
#pragma clang loop unroll(full)
    for (int h = 0; h < halves; h++) {
      vi s[2][12];
      if (n == 2) APART; // or both halves of the block would be summed at once
      EACH(t) s[0][t] = s[1][t] = alli(min || !VNNI ? MAGIC : halves == 1 ? X(t)->start : X(t)->start16[h]);
#if VL == 16
      if (n == 2) {
#pragma clang loop unroll(full)
        for (int j = h * 4; j < (h + 1) * 8 / halves; j++) {
          const vb c = line(w, j), d = line(w + next, j);
          EACH(t) {
            __m512i a = _mm512_set1_epi32(quads_of(X(t)->q)[j]);
            __asm__("" : "+v"(a)); // read once for both
            s[0][t] = (vi)_mm512_dpbusd_epi32((__m512i)s[0][t], (__m512i)c, a);
            s[1][t] = (vi)_mm512_dpbusd_epi32((__m512i)s[1][t], (__m512i)d, a);
          }
        }
      } else
#elif defined(__ARM_FEATURE_MATMUL_INT8)
      if (m % 2 == 0) {
        pairs(s[0], w, m, h * 4, (h + 1) * 8 / halves, x);
      } else
#endif
#pragma clang loop unroll(full)
      for (int i = h * 4; i < (h + 1) * 8 / halves; i += 4) {
        quads q[12];
        EACH(t) q[t] = quads_of(X(t)->q + 4 * i);
#pragma clang loop unroll(full)
        for (int j = 0; j < 4; j++) {
          const vb c = line(w, i + j);
          EACH(t) s[0][t] = min || VNNI ? dp(s[0][t], c, q[t], j) : dps(s[0][t], c, q[t], j);
        }
      }
      BOTH(i) {
        const vf f = (vf)line(w + i * next, 8 + h);
        EACH(t) term[i][t] = h == 0 ? first_term(s[i][t], f) : next_term(s[i][t], f, term[i][t]);
      }
    }
    EACH(t) BOTH(i) acc[i][t] = fma(term[i][t], all(X(t)->d), acc[i][t]);
#pragma clang loop unroll(full)
    for (int h = 0; h < halves * min; h++)
      BOTH(i) {
        const vf f = (vf)line(w + i * next, 8 + halves + h);
        EACH(t) acc[i][t] = fma(f, all(halves == 1 ? X(t)->sum : X(t)->sum16[h]), acc[i][t]);
      }
#pragma clang loop unroll(full)
    for (int t = 0; t < m; t += 2) x[t / 2] += 4;
  }
  BOTH(i) EACH(t) store(dst + t * p->ldd + ROWS * i, acc[i][t]);
}

#if VL == 16
#define PASS_PAIRED(halves, min) \
  if (p->tiles == 2) { \
    if (t % 2 && t < end) { pass(p, 1, 2, halves, min, t, p->panel, p->dst); t++; } \
    for (; t + PAIRED(halves) <= end; t += PAIRED(halves)) pass(p, PAIRED(halves), 2, halves, min, t, p->panel, p->dst); \
  }
#else
#define PASS_PAIRED(halves, min)
#endif

#define PANEL(name, halves, min) \
KERNEL(name, panel) \
{ \
  const long end = p->first + p->m; \
  long begin = p->first; \
  { \
    long t = begin; \
    PASS_PAIRED(halves, min) \
    begin = t; \
  } \
  for (long i = 0; i < p->tiles * PARTS; i++) { \
    const uint8_t* w = p->panel + i / PARTS * p->blocks * STRIDE(halves, min) + i % PARTS * (LINE / PARTS); \
    float* dst = p->dst + i * VL; \
    long t = begin; \
    if (t % 2 && t < end) { pass(p, 1, 1, halves, min, t, w, dst); t++; } \
    for (; t + MOST(halves) <= end; t += MOST(halves)) pass(p, MOST(halves), 1, halves, min, t, w, dst); \
    if (MOST(halves) > 4) for (; t + 4 <= end; t += 4) pass(p, 4, 1, halves, min, t, w, dst); \
    for (; t + 2 <= end; t += 2) pass(p, 2, 1, halves, min, t, w, dst); \
    if (t < end) pass(p, 1, 1, halves, min, t, w, dst); \
  } \
}
PANEL(tile_panel, 1, 0)
PANEL(tile_panel_min, 1, 1)
PANEL(tile_panel_16, 2, 0)
PANEL(tile_panel_16_min, 2, 1)
