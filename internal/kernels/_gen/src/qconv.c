// levels: avx2 avxvnni avx512 avx512vnni neon dotprod i8mm
// Convolutions of codes of 8 bits, whose channels lie together, and products with packed weights.
//
// As for floats (conv.c), the window of an output pixel is a list of segments, runs of adjacent codes. They
// are taken in groups of four; where a run is no whole number of groups, the weights that meet what lies
// behind it are zero. A group of each of MR windows is spread against NV vectors of output channels.
//
// Sums begin with what zero points and biases contribute. They leave as codes of 8 bits (BYTES): times a factor
// of the channel, rounded, moved by a zero point and cut; as floats (FLOATS): times the factor, plus a number of
// the channel; or as they are (SUMS).
#include "codes.h"

#if VL == 8
#define NV 2
#else
#define NV 4
#endif
#define MR 12 // most windows of a tile
#define UNROLL _Pragma("clang loop unroll(full)")

enum { BYTES, FLOATS, SUMS };

struct qconv_shape { long vectors, lanes, flip; };

KERNEL(qconv_shape, qconv_shape)
{
  p->vectors = NV;
  p->lanes = VL;
  p->flip = FLIP;
}

struct qconv {
  void* dst;
  const uint8_t* x;
  const int8_t* w;
  const int32_t* start;
  const float *scale, *shift; // by channel
  const int64_t* seg;         // where segments begin, from the first code of the window
  long segs, groups;          // how many, and groups of each
  long rows, cols, n;         // output pixels, output channels
  long dst_row, dst_pix;      // in elements
  long x_row, x_pix;
  long kind;
  int32_t zero, lo, hi; // of codes
};

INLINE void finish_bytes(const struct qconv* restrict p, const int nv, const vi* acc, const float* scale, uint8_t* d, long left)
{
  vi q[4];
  UNROLL for (int c = 0; c < nv; c++) q[c] = nearest(floats(acc[c]) * load(scale + c * VL));
#if NV == 4
  if (nv == 4) {
    const vb b = bound_bytes(join(q[0], q[1], q[2], q[3], (int16_t)p->zero - (vs){0}), allb(p->lo), allb(p->hi));
    if (left >= 4 * VL) *(vbu*)d = b;
    else store_first(d, left, b);
    return;
  }
#endif
  UNROLL for (int c = 0; c < nv; c++) store_lanes(d + c * VL, left - c * VL, bound_ints(q[c] + p->zero, alli(p->lo), alli(p->hi)));
}

#if VL == 16
// Four adjacent pixels of 16 channels are joined, which leaves four channels of each pixel in turn.
INLINE void finish_four(const struct qconv* restrict p, vi (*acc)[NV], const float* scale, uint8_t* d)
{
  vi q[4];
  UNROLL for (int r = 0; r < 4; r++) q[r] = nearest(floats(acc[r][0]) * load(scale));
  const vi b = (vi)bound_bytes(join(q[0], q[1], q[2], q[3], (int16_t)p->zero - (vs){0}), allb(p->lo), allb(p->hi));
  *(vbu*)d = (vb)__builtin_shufflevector(b, b, 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
}
#endif

INLINE void finish_floats(const struct qconv* restrict p, const int nv, const vi* acc, const float* scale, const float* shift, float* d, long left)
{
  UNROLL for (int c = 0; c < nv; c++) {
    const vf v = p->kind == SUMS ? (vf)acc[c] : floats(acc[c]) * load(scale + c * VL) + load(shift + c * VL);
    const long rest = left - c * VL;
    if (rest >= VL) store(d + c * VL, v);
    else store_part(d + c * VL, rest, v);
  }
}

INLINE void qconv_tile(const struct qconv* restrict p, const int mr, const int nv, const uint8_t* x, const int8_t* w,
                       long o, long at, long left)
{
  vi acc[MR][NV];
  const long step = p->x_pix;
  UNROLL for (int r = 0; r < mr; r++) UNROLL for (int c = 0; c < nv; c++) acc[r][c] = ints(p->start + o + c * VL);
  for (long s = 0; s < p->segs; s++) {
    const uint8_t* a = x + p->seg[s];
    for (const uint8_t* end = a + 4 * p->groups; a < end; a += 4, w += nv * 4 * VL) {
      wq wv[NV];
      UNROLL for (int c = 0; c < nv; c++) wv[c] = ready_w(bytes(w + c * 4 * VL));
      UNROLL for (int r = 0; r < mr; r++) {
        const xq v = spread(a + r * step);
        UNROLL for (int c = 0; c < nv; c++) acc[r][c] = dot(acc[r][c], v, wv[c]);
      }
    }
  }
  if (p->kind == BYTES) {
    uint8_t* d = (uint8_t*)p->dst + at;
#if VL == 16
    if (mr % 4 == 0 && nv == 1 && left == 16 && p->dst_pix == 16) {
      UNROLL for (int r = 0; r < mr; r += 4) finish_four(p, acc + r, p->scale + o, d + 16 * r);
      return;
    }
#endif
    UNROLL for (int r = 0; r < mr; r++, d += p->dst_pix) finish_bytes(p, nv, acc[r], p->scale + o, d, left);
  } else {
    float* d = (float*)p->dst + at;
    UNROLL for (int r = 0; r < mr; r++, d += p->dst_pix) finish_floats(p, nv, acc[r], p->scale + o, p->shift + o, d, left);
  }
}

#define TILES(mr, nv) \
  for (; j + mr <= p->cols; j += mr) qconv_tile(p, mr, nv, x + j * p->x_pix, w, c, i * p->dst_row + j * p->dst_pix + c, left);

KERNEL(qconv, qconv)
{
  const int8_t* w = p->w;
  for (long c = 0, nv; c < p->n; c += NV * VL, w += p->segs * p->groups * nv * 4 * VL) {
    const long left = p->n - c;
    nv = left >= NV * VL ? NV : (left + VL - 1) / VL;
    for (long i = 0; i < p->rows; i++) {
      const uint8_t* x = p->x + i * p->x_row;
      long j = 0;
#if defined(SPLIT) && VL == 8
      if (nv == 2) { TILES(4, 2) TILES(2, 2) TILES(1, 2) }
      else { TILES(6, 1) TILES(2, 1) TILES(1, 1) }
#elif VL == 8
      if (nv == 2) { TILES(6, 2) TILES(4, 2) TILES(2, 2) TILES(1, 2) }
      else { TILES(8, 1) TILES(4, 1) TILES(2, 1) TILES(1, 1) }
#elif VL == 4
      if (nv == 4) { TILES(4, 4) TILES(2, 4) TILES(1, 4) }
      else if (nv == 3) { TILES(4, 3) TILES(1, 3) }
      else if (nv == 2) { TILES(8, 2) TILES(4, 2) TILES(1, 2) }
      else { TILES(8, 1) TILES(4, 1) TILES(1, 1) }
#else
      if (nv == 4) {
#ifndef SPLIT
        TILES(6, 4)
#endif
        TILES(4, 4) TILES(2, 4) TILES(1, 4)
      } else if (nv == 3) { TILES(4, 3) TILES(2, 3) TILES(1, 3) }
      else if (nv == 2) { TILES(8, 2) TILES(4, 2) TILES(2, 2) TILES(1, 2) }
      else { TILES(12, 1) TILES(8, 1) TILES(4, 1) TILES(2, 1) TILES(1, 1) }
#endif
    }
  }
}
