"""Compares `pare quantize` with the real llama_model_quantize, tensor by tensor, byte by byte.

    python compare_llama_quantize.py FOLDER PARE MODEL IMATRIX.gguf [PRESET...]

FOLDER holds libllama.v0.5.0.so, PARE is the program, MODEL a GGUF or Hugging Face folder. Needs numpy and gguf.
Exits with 1 when a tensor has another type, or when fewer than 99.9 % of the bytes of a file agree.
"""
import subprocess
import sys
import tempfile

import gguf
import numpy as np

from llama import FILE_TYPES, Llama, importance


def data(path):
    return {t.name: (int(t.tensor_type), np.array(t.data).view(np.uint8).reshape(-1)) for t in gguf.GGUFReader(path).tensors}


def main():
    folder, pare, model, imatrix = sys.argv[1:5]
    presets = sys.argv[5:] or [p for p in FILE_TYPES if p != "f32"]
    lib, imp, bad = Llama(folder), importance(imatrix), False
    with tempfile.TemporaryDirectory() as tmp:
        src = model
        if not model.endswith(".gguf"):
            src = f"{tmp}/source.gguf"
            subprocess.run([pare, "convert", model, "-o", src, "--quiet"], check=True, stdout=subprocess.DEVNULL)
        for preset in presets:
            for kind, v in (("plain", None), ("importance", imp)):
                a, b = f"{tmp}/a.gguf", f"{tmp}/b.gguf"
                if not lib.quantize(src, a, preset, v):
                    continue  # llama.cpp refuses: q2_k_s without importance
                cmd = [pare, "quantize", model, "--type", preset, "-o", b, "--force", "--quiet"]
                subprocess.run(cmd + (["--imatrix", imatrix] if v is not None else []), check=True, stdout=subprocess.DEVNULL)
                want, got = data(a), data(b)
                wrong = [n for n in want if n not in got or got[n][0] != want[n][0]]
                total = sum(w.size for _, w in want.values())
                differ = sum(int((got[n][1] != w).sum()) for n, (_, w) in want.items() if n not in wrong)
                fail = bool(wrong) or set(got) != set(want) or differ > total / 1000
                bad |= fail
                print(f"{'FAIL' if fail else 'ok  '} {preset:7} {kind:10} {total:9} bytes, {differ} differ, types differ in {wrong or 'none'}", flush=True)
    sys.exit(bad)


if __name__ == "__main__":
    main()
