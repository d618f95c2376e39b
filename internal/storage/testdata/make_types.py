"""Writes types.json: what the real llama.cpp knows of every type id that GGUF files may hold.

    python make_types.py FOLDER      FOLDER holds libggml-base.so, libggml-cpu-x64.so and libllama.v0.5.0.so; needs numpy and gguf

[{"id", "name", "elems", "bytes", "multiplies", "file_types"}]: the block, whether its CPU kernels multiply with such weights
(ggml_get_type_traits_cpu has a vec_dot), and the numbers of llama_ftype for which llama_model_quantize stores the attention
matrices of a small model in it when told not to mix types.
"""
import ctypes as C
import json
import struct
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[2] / "quantize" / "testdata"))
from llama import Entry, Llama, P, Params  # noqa: E402

IDS = 43          # GGML_TYPE_COUNT of v0.5.0
FILE_TYPES = 42   # one beyond the last llama_ftype
COLS = 256


class Traits(C.Structure):
    _fields_ = [("from_float", P), ("vec_dot", P), ("vec_dot_type", C.c_int), ("nrows", C.c_int64)]


def small_model(path):
    w = gguf.GGUFWriter(path, "llama")
    w.add_block_count(1)
    w.add_context_length(64)
    w.add_embedding_length(COLS)
    w.add_feed_forward_length(COLS)
    w.add_head_count(8)
    w.add_head_count_kv(8)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_vocab_size(64)
    rng = np.random.default_rng(1)
    matrices = ["token_embd", "output"] + ["blk.0." + n for n in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")]
    for n in matrices:
        rows = 64 if n[0] in "to" else COLS
        w.add_tensor(n + ".weight", rng.standard_normal((rows, COLS)).astype(np.float32))
    for n in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        w.add_tensor(n + ".weight", np.ones(COLS, np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return {n + ".weight": np.ones(COLS, np.float32) for n in matrices}


def quantize(lib, src, dst, file_type, importance):
    """Every matrix in the one type of file_type; False when llama.cpp knows no such file."""
    p = lib.defaults()
    p.ftype, p.nthread, p.pure = file_type, 1, True
    entries = (Entry * (len(importance) + 1))()  # ends with an empty one
    for e, (name, v) in zip(entries, importance.items()):
        e.name, e.data, e.size = name.encode(), v.ctypes.data, v.size
    p.imatrix = C.cast(entries, P)
    f = lib.lib.llama_model_quantize
    f.restype, f.argtypes = C.c_uint32, [C.c_char_p, C.c_char_p, C.POINTER(Params)]
    return f(src.encode(), dst.encode(), C.byref(p)) == 0


def type_of(name, path):
    """The type id of a matrix, from behind its name and two dimensions: the Python reader does not know the newest ids."""
    head = Path(path).read_bytes()[:1 << 20]
    at = head.index(struct.pack("<Q", len(name)) + name.encode()) + 8 + len(name)
    dims, _, _, kind = struct.unpack_from("<IQQI", head, at)
    assert dims == 2
    return kind


def main():
    folder = sys.argv[1]
    base, cpu = C.CDLL(f"{folder}/libggml-base.so", C.RTLD_GLOBAL), C.CDLL(f"{folder}/libggml-cpu-x64.so")
    base.ggml_type_name.restype, base.ggml_type_size.restype, base.ggml_blck_size.restype = C.c_char_p, C.c_size_t, C.c_int64
    cpu.ggml_get_type_traits_cpu.restype = C.POINTER(Traits)
    types = {}
    for i in range(IDS):
        elems = base.ggml_blck_size(i)
        if elems > 0:  # others were removed from the format
            types[i] = {"id": i, "name": base.ggml_type_name(i).decode().lower(), "elems": elems, "bytes": base.ggml_type_size(i),
                        "multiplies": bool(cpu.ggml_get_type_traits_cpu(i)[0].vec_dot), "file_types": []}
    lib = Llama(folder)
    with tempfile.TemporaryDirectory() as tmp:
        src, dst = f"{tmp}/src.gguf", f"{tmp}/dst.gguf"
        importance = small_model(src)
        for n in range(FILE_TYPES):
            if quantize(lib, src, dst, n, importance):
                types[type_of("blk.0.attn_q.weight", dst)]["file_types"].append(n)
    lines = ",\n ".join(json.dumps(t) for t in types.values())
    (HERE / "types.json").write_text(f"[{lines}]\n")


main()
