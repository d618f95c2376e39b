"""ctypes access to the block quantizers of libggml-base.so (llama.cpp release v0.5.0)."""
import ctypes as C
import os

import numpy as np

# name: ggml id, elements in a block, bytes in a block
TYPES = {
    "q4_0": (2, 32, 18), "q4_1": (3, 32, 20), "q5_0": (6, 32, 22), "q5_1": (7, 32, 24), "q8_0": (8, 32, 34),
    "q2_k": (10, 256, 84), "q3_k": (11, 256, 110), "q4_k": (12, 256, 144), "q5_k": (13, 256, 176), "q6_k": (14, 256, 210),
    "iq4_nl": (20, 32, 18), "iq4_xs": (23, 256, 136), "mxfp4": (39, 32, 17),
}
C_NAMES = {n: n.replace("_k", "_K") if n[0] == "q" else n for n in TYPES}


class Ggml:
    def __init__(self, folder):
        self.lib = C.CDLL(os.path.join(folder, "libggml-base.so"))
        f = self.lib.ggml_quantize_chunk
        f.restype = C.c_size_t
        f.argtypes = [C.c_int, C.c_void_p, C.c_void_p, C.c_int64, C.c_int64, C.c_int64, C.c_void_p]

    def encode(self, name, x, importance=None):
        """x: float32 [rows, cols]; importance: float32 [cols] or None. Returns the bytes."""
        ident, elems, size = TYPES[name]
        x = np.ascontiguousarray(x, np.float32)
        out = np.zeros(x.size // elems * size, np.uint8)
        imp = None
        if importance is not None:
            importance = np.ascontiguousarray(importance, np.float32)
            imp = importance.ctypes.data
        n = self.lib.ggml_quantize_chunk(ident, x.ctypes.data, out.ctypes.data, 0, x.shape[0], x.shape[1], imp)
        assert n == out.size, (name, n, out.size)
        return out

    def decode(self, name, b):
        _, elems, size = TYPES[name]
        b = np.ascontiguousarray(b, np.uint8)
        out = np.zeros(b.size // size * elems, np.float32)
        f = getattr(self.lib, "dequantize_row_" + C_NAMES[name])
        f.restype, f.argtypes = None, [C.c_void_p, C.c_void_p, C.c_int64]
        f(b.ctypes.data, out.ctypes.data, out.size)
        return out
