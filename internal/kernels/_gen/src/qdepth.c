// levels: avx2 avxvnni avx512 avx512vnni neon dotprod i8mm
// Depthwise convolutions of codes of 8 bits. Four taps of every channel are brought together in a lane by
// interleaving four vectors of bytes; sums then lie in the order that join undoes.
//
// Vectors of activations may reach up to 63 codes beyond what is used.
#include "codes.h"

#define BLOCK (4 * VL)
#define UNROLL _Pragma("clang loop unroll(full)")

struct qdepth {
  uint8_t* dst;
  const uint8_t* x;
  const int8_t* w;      // by block and four taps, four vectors
  const int32_t* start; // by block, four vectors; so are factors
  const float* scale;
  const int64_t* taps; // where they lie from the first of a window
  long groups;         // of four taps
  long rows, cols, n;
  long dst_row, dst_pix, x_row, x_pix; // x_row, x_pix: distance of windows
  long phases;                         // of blocks in a row of bytes
  int32_t zero, lo, hi;
};

INLINE vb finish(const struct qdepth* restrict p, const vi* acc, const float* scale)
{
  vi q[4];
  UNROLL for (int v = 0; v < 4; v++) q[v] = nearest(floats(acc[v]) * load(scale + v * VL));
  return bound_bytes(join(q[0], q[1], q[2], q[3], (int16_t)p->zero - (vs){0}), allb(p->lo), allb(p->hi));
}

INLINE void put(uint8_t* d, long left, vb v)
{
  if (left >= BLOCK) *(vbu*)d = v;
  else store_first(d, left, v);
}

// Any window: a pixel at a time.
KERNEL(qdepth, qdepth)
{
  const int8_t* block = p->w;
  for (long c = 0; c < p->n; c += BLOCK, block += p->groups * 4 * BLOCK)
    for (long i = 0; i < p->rows; i++)
      for (long j = 0; j < p->cols; j++) {
        const uint8_t* x = p->x + i * p->x_row + j * p->x_pix + c;
        const int8_t* w = block;
        vi acc[4];
        UNROLL for (int v = 0; v < 4; v++) acc[v] = ints(p->start + c + v * VL);
        for (long g = 0; g < p->groups; g++, w += 4 * BLOCK) {
          const int64_t* t = p->taps + 4 * g;
          vb m[4];
          mix(m, bytes(x + t[0]), bytes(x + t[1]), bytes(x + t[2]), bytes(x + t[3]));
          UNROLL for (int v = 0; v < 4; v++) acc[v] = dot(acc[v], ready_x(m[v]), ready_w(bytes(w + v * BLOCK)));
        }
        put(p->dst + i * p->dst_row + j * p->dst_pix + c, p->n - c, finish(p, acc, p->scale + c));
      }
}

// Windows of three by three adjacent taps, at every pixel: four rows serve two rows of outputs. A row is
// taken as a string of bytes, whatever the number of channels; blocks then begin at one of several phases,
// which have weights each.
INLINE void pair(const struct qdepth* restrict p, const int two, const uint8_t* x, uint8_t* d)
{
  const long end = p->cols * p->n;
  for (long b = 0, phase = 0; b < end; b += BLOCK, phase = phase + 1 == p->phases ? 0 : phase + 1) {
    const int8_t* w = p->w + phase * 6 * 4 * BLOCK;
    vi above[4], below[4];
    UNROLL for (int v = 0; v < 4; v++) above[v] = below[v] = ints(p->start + phase * BLOCK + v * VL);
#ifdef SPLIT // weights of all taps, made ready, have no place to be kept
    _Pragma("clang loop unroll(disable)")
#else
    UNROLL
#endif
    for (int k = 0; k < 3; k++) {
      const uint8_t* a = x + b + k * p->n;
      vb m[4];
      const vb third = bytes(a + 2 * p->x_row);
      mix(m, bytes(a), bytes(a + p->x_row), third, two ? bytes(a + 3 * p->x_row) : third);
      UNROLL for (int v = 0; v < 4; v++) {
        const xq q = ready_x(m[v]);
        above[v] = dot(above[v], q, ready_w(bytes(w + (8 * k + v) * BLOCK)));
        if (two) below[v] = dot(below[v], q, ready_w(bytes(w + (8 * k + 4 + v) * BLOCK)));
      }
    }
    const float* scale = p->scale + phase * BLOCK;
    put(d + b, end - b, finish(p, above, scale));
    if (two) put(d + p->dst_row + b, end - b, finish(p, below, scale));
  }
}

KERNEL(qdepth3, qdepth)
{
  long i = 0;
  for (; i + 2 <= p->rows; i += 2) pair(p, 1, p->x + i * p->x_row, p->dst + i * p->dst_row);
  if (i < p->rows) pair(p, 0, p->x + i * p->x_row, p->dst + i * p->dst_row);
}
