// Values of codes that are no numbers themselves: ggml's kvalues_iq4nl, and twice the E2M1 floats.
#pragma once
#include <stdint.h>

static const int8_t nonlinear[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
static const int8_t tiny_floats[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
