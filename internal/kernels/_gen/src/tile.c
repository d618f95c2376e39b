// levels: avx2 avxvnni avx512vnni neon dotprod
// Tiles times one token, straight from memory.
#include "tile.h"
#include "tiletypes.h"

// One token with whole tiles: dst[16*i..] for every tile i. blocks counts units of the stored type.
struct tile { float* dst; const struct act* x; const uint8_t* w; long tiles, blocks, add; };

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
    vf acc[PARTS]; \
    for (int r = 0; r < PARTS; r++) acc[r] = load(dst + r * VL); \
    for (long b = 0; b < p->blocks; b++, w += BYTES_##type, x += OUTER_##type * INNER_##type) { \
      _Pragma("clang loop unroll(full)") \
      for (int r = 0; r < PARTS; r++) acc[r] = one_##type(w, r, x, acc[r]); \
    } \
    for (int r = 0; r < PARTS; r++) store(dst + r * VL, acc[r]); \
  } \
}
TILE(q8_0)
TILE(q4_0)
