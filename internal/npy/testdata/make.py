#!/usr/bin/env python3
"""Writes the arrays of this folder: numpy 2.4.6. Element i of [2,3], in C order, is i - 1 where the type has
signs, else i."""
import pathlib
import struct

import numpy as np

here = pathlib.Path(__file__).parent
for kind in ["b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"]:
    x = np.arange(6).reshape(2, 3) - (0 if kind[0] in "bu" else 1)
    for name, order, mark in [("c", "C", "<"), ("fortran", "F", "<"), ("big", "C", ">")]:
        np.save(here / f"{kind}_{name}.npy", np.array(x, dtype=mark + kind, order=order))
np.save(here / "scalar.npy", np.array(7, "<i8"))
with open(here / "v2.npy", "wb") as f:
    np.lib.format.write_array(f, np.arange(3, dtype="<f4"), version=(2, 0))
np.save(here / "fields.npy", np.zeros(2, [("a", "f4"), ("b", "i4")]))
np.save(here / "text.npy", np.array(["one", "two"]))
(here / "i2.idx").write_bytes(bytes([0, 0, 0x0B, 2]) + struct.pack(">II6h", 2, 3, *range(-1, 5)))
