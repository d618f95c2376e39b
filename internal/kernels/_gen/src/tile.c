// levels: avx2 avxvnni avx512vnni neon dotprod
// flags: -mllvm -enable-misched=false
// Tiles times one token, straight from memory.
#include "tile.h"
#include "tiletypes.h"

// One token with whole tiles: dst[16*i..] for every tile i. blocks counts units of the stored type; those
// of the token lie step apart.
struct tile { float* dst; const struct act* x; const uint8_t* w; long tiles, blocks, step, add; };

#define TILE(type) \
ONE(type) \
KERNEL(tile_##type, tile) \
{ \
  const uint8_t* w = p->w; \
  for (long i = 0; i < p->tiles; i++) { \
    float* dst = p->dst + ROWS * i; \
    if (!p->add) \
      for (int r = 0; r < ROWS; r += VL) store(dst + r, all(0)); \
    const struct act* x = p->x; \
    for (long b = 0; b < p->blocks; b++, w += BYTES_##type, x += OUTER_##type * INNER_##type * p->step) { \
      _Pragma("clang loop unroll(disable)") \
      for (int r = 0; r < PARTS; r++) store(dst + r * VL, one_##type(w, r, x, p->step, load(dst + r * VL))); \
    } \
  } \
}

TILE(q8_0)
TILE(q4_0)
TILE(q4_1)
TILE(q5_0)
TILE(q5_1)
TILE(q2_k)
TILE(q3_k)
TILE(q4_k)
TILE(q5_k)
TILE(q6_k)
TILE(iq4_nl)
TILE(iq4_xs)
TILE(mxfp4)
