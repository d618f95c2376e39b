"""Writes blocks/: what the real ggml makes of a few rows, for every block type.

    python make_goldens.py FOLDER      FOLDER holds libggml-base.so

input.f32 [12,512], importance.f32 [512]; <type>.plain and <type>.weighted are the encoded rows,
<type>.random are random blocks with sane scales and <type>.decoded their real values.
"""
import sys
from pathlib import Path

import numpy as np

from ggml import TYPES, Ggml

HALVES = {"q4_0": [0], "q4_1": [0, 2], "q5_0": [0], "q5_1": [0, 2], "q8_0": [0], "q2_k": [80, 82], "q3_k": [108],
          "q4_k": [0, 2], "q5_k": [0, 2], "q6_k": [208], "iq4_nl": [0], "iq4_xs": [0], "mxfp4": []}


def rows(rng):
    x = rng.standard_normal((12, 512)).astype(np.float32)
    x[1] *= 0.02
    x[2] = rng.standard_t(3, 512) * 0.05
    x[3] = rng.laplace(size=512)
    x[4] = 0
    x[5, ::7] = 0
    x[6] = np.abs(x[6])
    x[7] = -np.abs(x[7])
    x[8, 100] = 40
    x[9] = 0.25                             # constant
    x[10, :256] = 0                         # an empty superblock beside a full one
    x[10, 256:] *= 1e-6
    x[11] = np.round(x[11] * 4) / 4         # ties
    return x


def main():
    g = Ggml(sys.argv[1])
    out = Path(__file__).parent / "blocks"
    rng = np.random.default_rng(20261121)
    x = rows(rng)
    imp = (rng.gamma(0.7, size=512) + 1e-4).astype(np.float32)
    imp[::64] *= 50
    x.tofile(out / "input.f32")
    imp.tofile(out / "importance.f32")
    for name, (_, _, size) in TYPES.items():
        g.encode(name, x).tofile(out / f"{name}.plain")
        g.encode(name, x, imp).tofile(out / f"{name}.weighted")
        b = rng.integers(0, 256, (8, size), np.uint8)
        for o in HALVES[name]:
            b[:, o:o + 2] = rng.standard_normal(8).astype(np.float16).view(np.uint8).reshape(8, 2)
        if name == "mxfp4":
            b[:, 0] = [0, 1, 2, 100, 120, 127, 130, 140]
        b.tofile(out / f"{name}.random")
        g.decode(name, b.reshape(-1)).tofile(out / f"{name}.decoded")


main()
