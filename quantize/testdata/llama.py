"""llama_model_quantize of the real libllama (release v0.5.0) through ctypes.

    python llama.py FOLDER SOURCE.gguf OUT.gguf PRESET [IMATRIX.gguf]

FOLDER holds libllama.v0.5.0.so. An importance matrix needs numpy and gguf, the rest the standard library only.
"""
import ctypes as C
import sys

FILE_TYPES = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q2_k": 10, "q3_k_s": 11, "q3_k_m": 12, "q3_k_l": 13,
    "q4_k_s": 14, "q4_k_m": 15, "q5_k_s": 16, "q5_k_m": 17, "q6_k": 18, "q2_k_s": 21, "iq4_nl": 25, "iq4_xs": 30, "bf16": 32,
}
P, I, Z = C.c_void_p, C.c_int32, C.c_bool


def struct(name, *parts):
    return type(name, (C.Structure,), {"_fields_": [(n, t) for t, ns in parts for n in ns.split()]})


Params = struct("Params", (I, "nthread ftype out_t emb_t"), (Z, "requant quant_out copy pure split dry"), (P, "imatrix kv tt prune"), (C.c_size_t, "max_buf"))
Entry = struct("Entry", (C.c_char_p, "name"), (P, "data"), (C.c_size_t, "size"))
LOG = C.CFUNCTYPE(None, C.c_int, C.c_char_p, P)
SILENT = LOG(lambda level, text, user: None)


def importance(path):
    """An importance matrix as llama-imatrix writes it, as {tensor: mean square of each input}."""
    import gguf
    import numpy as np

    t = {x.name: np.array(x.data) for x in gguf.GGUFReader(path).tensors}
    return {n[:-8]: np.ascontiguousarray((v / t[n[:-8] + ".counts"]).reshape(-1), np.float32) for n, v in t.items() if n.endswith(".in_sum2")}


class Llama:
    def __init__(self, folder, version="v0.5.0", quiet=True):
        ggml = C.CDLL(f"{folder}/libggml.{version}.so", C.RTLD_GLOBAL)
        self.lib = C.CDLL(f"{folder}/libllama.{version}.so")
        if quiet:
            self.lib.llama_log_set(SILENT, None)
        ggml.ggml_backend_load_all_from_path(C.c_char_p(folder.encode()))
        self.defaults = self.lib.llama_model_quantize_default_params
        self.defaults.restype, self.defaults.argtypes = Params, []
        p = self.defaults()
        assert (C.sizeof(Params), p.ftype, p.out_t) == (64, 7, 43), "not the struct layout of v0.5.0"

    def quantize(self, src, dst, preset, importance=None):
        """importance: {tensor: float32 numpy array} or None. Returns False when llama.cpp refuses."""
        p = self.defaults()
        p.ftype, p.nthread, p.requant = FILE_TYPES[preset], 1, True
        entries = None
        if importance is not None:
            entries = (Entry * (len(importance) + 1))()
            for e, (name, v) in zip(entries, importance.items()):
                e.name, e.data, e.size = name.encode(), v.ctypes.data, v.size
            p.imatrix = C.cast(entries, P)
        f = self.lib.llama_model_quantize
        f.restype, f.argtypes = C.c_uint32, [C.c_char_p, C.c_char_p, C.POINTER(Params)]
        return f(str(src).encode(), str(dst).encode(), C.byref(p)) == 0


if __name__ == "__main__":
    folder, source, out, kind = sys.argv[1:5]
    if not Llama(folder, quiet=False).quantize(source, out, kind, importance(sys.argv[5]) if len(sys.argv) > 5 else None):
        sys.exit(f"llama.cpp does not make {kind} of {source}")
