"""make_goldens.py REPOSITORY LLAMA_CPP_BIN_FOLDER: what llama.cpp v0.5.0 makes of ../hf/texts.json.

The folder holds the shared libraries of the npm package @node-llama-cpp/linux-x64@3.22.1. Vocabularies: the files of
../gguf, the tokenizer-only part of testdata/architectures/*/model-*.gguf, and what dump.go writes (our own GGUF metadata)
for the tokenizers of ../hf. Writes golden.json.gz: name -> {"plain": no special tokens parsed, "parsed": parsed,
"special": parsed and added}, and converter.json: the tokenizer metadata that llama.cpp's converter wrote for
testdata/architectures. Needs the Python package gguf 0.19.0.
"""

import ctypes as C
import gzip
import json
import pathlib
import subprocess
import sys
import tempfile

import gguf
import numpy as np

HERE = pathlib.Path(__file__).parent
ROOT, BIN = pathlib.Path(sys.argv[1]), sys.argv[2]
P, I, Z = C.c_void_p, C.c_int32, C.c_bool


class Params(C.Structure):
    _fields_ = ([(n, P) for n in "dev tbo".split()] + [(n, I) for n in "ngl split load lazy gpu".split()] +
                [(n, P) for n in "ts cb ud kv".split()] + [(n, Z) for n in "vocab check extra nohost noalloc mtp".split()])


assert C.sizeof(Params) == 80
G = C.CDLL(BIN + "/libggml.v0.5.0.so", C.RTLD_GLOBAL)
L = C.CDLL(BIN + "/libllama.v0.5.0.so")
G.ggml_backend_load_all_from_path(C.c_char_p(BIN.encode()))


def fn(name, result, *args):
    f = getattr(L, name)
    f.restype, f.argtypes = result, args
    return f


LOG = C.CFUNCTYPE(None, I, C.c_char_p, P)(lambda level, text, _: None)
fn("llama_log_set", None, P, P)(C.cast(LOG, P), None)


class Vocabulary:
    def __init__(self, path):
        params = fn("llama_model_default_params", Params)()
        params.vocab = True
        model = fn("llama_model_load_from_file", P, C.c_char_p, Params)(str(path).encode(), params)
        assert model, path
        self.vocab = fn("llama_model_get_vocab", P, P)(model)

    def ids(self, text, special, parse):
        raw = text.encode()
        room = (I * (len(raw) + 16))()
        n = fn("llama_tokenize", I, P, C.c_char_p, I, C.POINTER(I), I, Z, Z)(self.vocab, raw, len(raw), room, len(room), special, parse)
        assert n >= 0
        return list(room[:n])


def write(path, kvs):
    w = gguf.GGUFWriter(path, "llama")
    for kv in kvs:
        key, value = kv["Key"], kv["Value"]
        if isinstance(value, list) and key.endswith("scores"):
            w.add_array(key, [float(x) for x in value])
        elif isinstance(value, (list, bytes)):
            w.add_array(key, value)
        elif isinstance(value, bool):
            w.add_bool(key, value)
        elif isinstance(value, int):
            w.add_uint32(key, value)
        else:
            w.add_string(key, value)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.close()


def main():
    texts = json.loads((HERE / "../hf/texts.json").read_text())
    golden, converter = {}, {}
    with tempfile.TemporaryDirectory() as tmp:
        tmp = pathlib.Path(tmp)
        files = {}
        for path in sorted((HERE / "../gguf").glob("*.gguf.gz")):
            name = path.name.removesuffix(".gguf.gz")
            files[name] = tmp / name
            files[name].write_bytes(gzip.decompress(path.read_bytes()))
        for path in sorted((ROOT / "testdata/architectures").glob("*/model-*.gguf")):
            fields = gguf.GGUFReader(path).fields
            converter[path.parent.name] = {k: f.contents() for k, f in fields.items() if k.startswith("tokenizer.")}
        folders = sorted(str(p.parent) for p in (HERE / "../hf").glob("*/tokenizer.json"))
        folders += [str(ROOT / "testdata/architectures" / name) for name in converter] + [str(ROOT / "testdata/books-llama/model")]
        made = json.loads(subprocess.run(["go", "run", HERE / "dump.go", *folders], capture_output=True, check=True).stdout)
        for folder, kvs in made.items():
            name = pathlib.Path(folder).name
            name = "books-llama" if name == "model" else name
            files[name] = tmp / name
            write(files[name], kvs)
        for name, path in files.items():
            v = Vocabulary(path)
            golden[name] = {"plain": [v.ids(x, False, False) for x in texts], "parsed": [v.ids(x, False, True) for x in texts],
                            "special": [v.ids(x, True, True) for x in texts[:40]]}
    data = json.dumps(golden, separators=(",", ":")).replace("},", "},\n").encode()
    (HERE / "golden.json.gz").write_bytes(gzip.compress(data, 9, mtime=0))
    plain = json.dumps(converter, separators=(",", ":"), default=lambda x: x.item() if isinstance(x, np.generic) else list(x))
    (HERE / "converter.json").write_text(plain.replace("},", "},\n") + "\n")


main()
