// levels: avx2 avx512 neon
// Convolutions of images that lie with their channels together (NHWC), and products with weights that
// are packed once.
//
// The window of an output pixel is a list of segments, runs of adjacent numbers: the rows of a window of
// channels-last pixels, the rows of every plane of an NCHW image, or one row of a matrix. Windows of
// adjacent output pixels lie a fixed step apart. So one number of each of MR windows is broadcast against
// NV vectors of output channels at each step: an element is one chain of fused multiply-adds that begins
// at the bias and follows the order of segments, at every level, whatever tile it falls into.
//
// Weights lie in panels of NV vectors of output channels, the last one as many vectors wide as it needs;
// in a panel the numbers of a step are adjacent.
#include "curves.h"

#if VL == 8
#define NV 2
#else
#define NV 4
#endif
#define MR 12 // most windows of a tile
#define UNROLL _Pragma("clang loop unroll(full)")

struct conv_shape { long vectors, lanes; };

KERNEL(conv_shape, conv_shape)
{
  p->vectors = NV;
  p->lanes = VL;
}

struct conv {
  float* dst;
  const float *x, *w, *start; // what sums begin with
  const float* add;           // numbers that are added to sums, or nothing
  const int64_t* seg;         // where segments begin, from the first number of the window
  long segs, len;             // how many, how long
  long window;                // numbers of a whole window, of which these segments may be a part
  long start_row, start_pix;  // 0 where every pixel begins with the bias; those of dst to go on with its sums
  long rows, cols, n;         // output pixels, output channels
  long dst_row, dst_pix, x_row, x_pix, add_row, add_pix;
  float lo, hi;
};


// Windows are addressed in fours, from a pointer of its own each: x86 has no room for one pointer a window.
INLINE void conv_tile(const struct conv* restrict p, const int mr, const int nv, const float* x, const float* w,
                      const float* start, float* d, const float* e, long left)
{
  vf acc[MR][NV];
  const long step = p->x_pix;
  UNROLL for (int r = 0; r < mr; r++, start += p->start_pix) {
    __asm__("" : "+r"(start)); // twelve multiples of start_pix have no place to be kept
    UNROLL for (int c = 0; c < nv; c++) {
      const long rest = left - c * VL;
      acc[r][c] = rest >= VL ? load(start + c * VL) : load_part(start + c * VL, rest);
    }
  }
  for (long s = 0; s < p->segs; s++) {
    const float* a = x + p->seg[s];
    for (const float* end = a + p->len; a < end; a++, w += nv * VL) {
      vf wv[NV];
      UNROLL for (int c = 0; c < nv; c++) wv[c] = load(w + c * VL);
      UNROLL for (int r = 0; r < mr; r++) {
        vf v = all(a[r * step]);
        UNROLL for (int c = 0; c < nv; c++) acc[r][c] = fma(v, wv[c], acc[r][c]);
      }
    }
  }
  const vf lo = all(p->lo), hi = all(p->hi);
  UNROLL for (int r = 0; r < mr; r++, d += p->dst_pix, e += p->add_pix)
    UNROLL for (int c = 0; c < nv; c++) {
      const long rest = left - c * VL;
      if (rest >= VL) store(d + c * VL, bound(p->add ? acc[r][c] + load(e + c * VL) : acc[r][c], lo, hi));
      else store_part(d + c * VL, rest, bound(p->add ? acc[r][c] + load_part(e + c * VL, rest) : acc[r][c], lo, hi));
    }
}

#define TILES(mr, nv) \
  for (; j + mr <= p->cols; j += mr) conv_tile(p, mr, nv, x + j * p->x_pix, w, b + j * p->start_pix, d + j * p->dst_pix, e + j * p->add_pix, left);

KERNEL(conv, conv)
{
  const float *w = p->w, *start = p->start;
  for (long c = 0, nv; c < p->n; c += NV * VL, w += p->window * nv * VL, start += NV * VL) {
    const long left = p->n - c;
    nv = left >= NV * VL ? NV : (left + VL - 1) / VL;
    for (long i = 0; i < p->rows; i++) {
      const float *x = p->x + i * p->x_row, *e = p->add + (p->add ? i * p->add_row + c : 0);
      const float* b = start + i * p->start_row;
      float* d = p->dst + i * p->dst_row + c;
      long j = 0;
#if VL == 8
      if (nv == 2) { TILES(6, 2) TILES(4, 2) TILES(2, 2) TILES(1, 2) }
      else { TILES(8, 1) TILES(4, 1) TILES(2, 1) TILES(1, 1) }
#else
      if (nv == 4) { TILES(6, 4) TILES(4, 4) TILES(2, 4) TILES(1, 4) }
      else if (nv == 3) { TILES(8, 3) TILES(4, 3) TILES(2, 3) TILES(1, 3) }
      else if (nv == 2) { TILES(12, 2) TILES(8, 2) TILES(4, 2) TILES(2, 2) TILES(1, 2) }
      else { TILES(12, 1) TILES(8, 1) TILES(4, 1) TILES(2, 1) TILES(1, 1) }
#endif
    }
  }
}

// Depthwise: channels do not meet, so vectors lie along them. Weights are [tap][n].
struct depthwise {
  float* dst;
  const float *x, *w, *bias;
  long kh, kw, rows, cols, n;
  long dst_row, dst_pix, x_row, x_pix; // x_row, x_pix: distance of windows
  long tap_row, tap_pix;               // distance of taps
  float lo, hi;
};

#define DEPTHWISE(name, mr, LD, ST) \
  INLINE void name(const struct depthwise* restrict p, const float* x, const float* w, float* d, vf b, long rest) \
  { \
    vf acc[mr]; \
    for (int r = 0; r < mr; r++) acc[r] = b; \
    for (long ky = 0; ky < p->kh; ky++) { \
      const float* a = x + ky * p->tap_row; \
      for (long kx = 0; kx < p->kw; kx++, a += p->tap_pix, w += p->n) { \
        vf v = LD(w); \
        for (int r = 0; r < mr; r++) acc[r] = fma(v, LD(a + r * p->x_pix), acc[r]); \
      } \
    } \
    for (int r = 0; r < mr; r++) ST(d + r * p->dst_pix, bound(acc[r], all(p->lo), all(p->hi))); \
  }
DEPTHWISE(depthwise8, 8, load, store)
DEPTHWISE(depthwise4, 4, load, store)
DEPTHWISE(depthwise1, 1, load, store)
DEPTHWISE(depthwise_part, 1, PART_LOAD, PART_STORE)

// A 3x3 window of stride 1: four outputs share columns.
INLINE void depthwise3(const struct depthwise* restrict p, const float* x, const float* w, float* d, vf b)
{
  vf acc[4];
  UNROLL for (int r = 0; r < 4; r++) acc[r] = b;
  _Pragma("clang loop unroll(disable)") for (int ky = 0; ky < 3; ky++, x += p->tap_row, w += 3 * p->n) {
    vf a[6];
    UNROLL for (int i = 0; i < 6; i++) a[i] = load(x + i * p->x_pix);
    UNROLL for (int kx = 0; kx < 3; kx++) {
      const vf v = load(w + kx * p->n);
      UNROLL for (int r = 0; r < 4; r++) acc[r] = fma(v, a[r + kx], acc[r]);
    }
  }
  UNROLL for (int r = 0; r < 4; r++) store(d + r * p->dst_pix, bound(acc[r], all(p->lo), all(p->hi)));
}

// An image is taken in strips as wide as STRIP pixels, from top to bottom, so that the rows under a window
// are still in the first-level cache when the next one comes; a tile of pixels has all its channels done
// before the next, since pixels a power of two apart would push each other out.
#define STRIP 16

KERNEL(depthwise, depthwise)
{
  const int three = p->kh == 3 && p->kw == 3 && p->x_pix == p->tap_pix;
  for (long strip = 0; strip < p->cols; strip += STRIP) {
    const long end = strip + STRIP < p->cols ? strip + STRIP : p->cols;
    for (long i = 0; i < p->rows; i++) {
      for (long j = strip, width; j < end; j += width) {
        const float *x = p->x + i * p->x_row + j * p->x_pix, *w = p->w, *b = p->bias;
        float* d = p->dst + i * p->dst_row + j * p->dst_pix;
        width = end - j >= 8 && !three ? 8 : end - j >= 4 ? 4 : 1;
        long rest = p->n;
        for (; rest >= VL; rest -= VL, x += VL, w += VL, b += VL, d += VL) {
          if (width == 8) depthwise8(p, x, w, d, load(b), rest);
          else if (width == 1) depthwise1(p, x, w, d, load(b), rest);
          else if (three) depthwise3(p, x, w, d, load(b));
          else depthwise4(p, x, w, d, load(b), rest);
        }
        if (rest > 0)
          for (long r = 0; r < width; r++) depthwise_part(p, x + r * p->x_pix, w, d + r * p->dst_pix, load_part(b, rest), rest);
      }
    }
  }
}

// Pools: the largest number, or the sum times a factor, of every window.
struct pool {
  float* dst;
  const float* x;
  long kh, kw, rows, cols, n;
  long dst_row, dst_pix, x_row, x_pix, tap_row, tap_pix;
  float factor;
};

#define POOL(name, OP, END) \
  KERNEL(name, pool) \
  { \
    for (long i = 0; i < p->rows; i++) \
      for (long j = 0; j < p->cols; j++) { \
        const float* x = p->x + i * p->x_row + j * p->x_pix; \
        float* d = p->dst + i * p->dst_row + j * p->dst_pix; \
        for (long c = 0; c < p->n; c += VL) { \
          const long rest = p->n - c; \
          if (rest >= VL) POOL_VECTOR(OP, END, load, store) \
          else POOL_VECTOR(OP, END, PART_LOAD, PART_STORE) \
        } \
      } \
  }
#define POOL_VECTOR(OP, END, LD, ST) \
  { \
    vf m = LD(x + c); \
    for (long kx = 1; kx < p->kw; kx++) m = OP(m, LD(x + c + kx * p->tap_pix)); \
    for (long ky = 1; ky < p->kh; ky++) \
      for (long kx = 0; kx < p->kw; kx++) m = OP(m, LD(x + c + ky * p->tap_row + kx * p->tap_pix)); \
    ST(d + c, END(m)); \
  }
#define SUM(m, v) ((m) + (v))
#define SCALED(m) ((m) * all(p->factor))
#define SAME(m) (m)
#define LARGEST(m, v) sel(((v) > (m)) | ((v) != (v)), v, m)
POOL(pool_max, LARGEST, SAME)
POOL(pool_mean, SUM, SCALED)
