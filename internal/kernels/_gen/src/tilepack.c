// levels: avx2 neon
// Encoded rows to tiles. What a block holds is moved by fours of bytes: line i of a unit takes the i-th
// four of every row.
#include "tile.h"

// n rows, 0 < n <= 16, lie ld bytes apart; rows that are missing become zeros. Of every block, size
// bytes long, count fours (or pairs, or bytes) at offset from go to offset to of a unit of unit bytes.
struct pack { uint8_t* dst; const uint8_t* src; long n, ld, blocks, size, unit, from, to, count; };
typedef uint32_t u4 __attribute__((aligned(1)));
typedef uint16_t u2 __attribute__((aligned(1)));

typedef uint32_t four __attribute__((vector_size(16)));
typedef uint32_t fouru __attribute__((vector_size(16), aligned(1)));
#define MIX __builtin_shufflevector

INLINE four load4(const struct pack* p, const uint8_t* src, long r)
{
  return r < p->n ? *(const fouru*)(src + r * p->ld) : (four){0};
}

// Four rows by four fours at a time, turned in registers.
KERNEL(pack_lines, pack)
{
  for (long b = 0; b < p->blocks; b++) {
    uint32_t* dst = (uint32_t*)(p->dst + b * p->unit + p->to);
    const uint8_t* src = p->src + b * p->size + p->from;
    long i = 0;
    for (; i + 4 <= p->count; i += 4, src += 16, dst += 4 * ROWS)
      for (long r = 0; r < ROWS; r += 4) {
        const four x = load4(p, src, r), y = load4(p, src, r + 1), z = load4(p, src, r + 2), w = load4(p, src, r + 3);
        const four xy = MIX(x, y, 0, 4, 1, 5), zw = MIX(z, w, 0, 4, 1, 5);
        const four xy2 = MIX(x, y, 2, 6, 3, 7), zw2 = MIX(z, w, 2, 6, 3, 7);
        *(fouru*)(dst + r) = MIX(xy, zw, 0, 1, 4, 5);
        *(fouru*)(dst + r + ROWS) = MIX(xy, zw, 2, 3, 6, 7);
        *(fouru*)(dst + r + 2 * ROWS) = MIX(xy2, zw2, 0, 1, 4, 5);
        *(fouru*)(dst + r + 3 * ROWS) = MIX(xy2, zw2, 2, 3, 6, 7);
      }
    for (; i < p->count; i++, src += 4, dst += ROWS)
#pragma clang loop vectorize(disable)
      for (long r = 0; r < ROWS; r++) ((u4*)dst)[r] = r < p->n ? *(const u4*)(src + r * p->ld) : 0;
  }
}

#define PACK(name, type) \
KERNEL(name, pack) \
{ \
  for (long b = 0; b < p->blocks; b++) { \
    type* dst = (type*)(p->dst + b * p->unit + p->to); \
    const uint8_t* src = p->src + b * p->size + p->from; \
    for (long r = 0; r < ROWS; r++, src += p->ld) \
      _Pragma("clang loop vectorize(disable)") \
      for (long i = 0; i < p->count; i++) dst[ROWS * i + r] = r < p->n ? ((const type*)src)[i] : 0; \
  } \
}
PACK(pack_halves, u2)
PACK(pack_bytes, uint8_t)

// spread moves bit 4j+i of a four to bit j of its byte i: the fifth bits of codes 4j..4j+3 in legacy types.
INLINE uint32_t spread(uint32_t h)
{
  uint32_t v = 0;
  for (int j = 0; j < 8; j++) v |= ((h >> 4 * j & 15) * 0x00204081 & 0x01010101) << j;
  return v;
}

KERNEL(pack_bits, pack)
{
  for (long b = 0; b < p->blocks; b++) {
    u4* dst = (u4*)(p->dst + b * p->unit + p->to);
    const uint8_t* src = p->src + b * p->size + p->from;
#pragma clang loop vectorize(disable)
    for (long r = 0; r < ROWS; r++, src += p->ld) dst[r] = r < p->n ? spread(*(const u4*)src) : 0;
  }
}

// The highest bits of q5_k and q3_k, a bit of each byte for every group of 32: fours 2i and 2i+1 become
// one with their bits of the first four groups and one, four lines on, with those of the others.
KERNEL(pack_groups, pack)
{
  for (long b = 0; b < p->blocks; b++) {
    u4* dst = (u4*)(p->dst + b * p->unit + p->to);
    const uint8_t* row = p->src + b * p->size + p->from;
    for (long r = 0; r < ROWS; r++, row += p->ld, dst++) {
      const u4* src = (const u4*)row;
#pragma clang loop vectorize(disable)
      for (long i = 0; i < 4; i++) {
        const uint32_t v = r < p->n ? src[2 * i] : 0, w = r < p->n ? src[2 * i + 1] : 0;
        dst[ROWS * i] = (v & 0x0f0f0f0f) | (w & 0x0f0f0f0f) << 4;
        dst[ROWS * (4 + i)] = (v >> 4 & 0x0f0f0f0f) | (w & 0xf0f0f0f0);
      }
    }
  }
}
