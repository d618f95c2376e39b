"""Compares our block encoders with the real ggml, byte by byte, on random rows and on the weights of
a model.

    python compare_blocks.py FOLDER [MODEL.safetensors]      FOLDER holds libggml-base.so

Run from the root of the repository; needs numpy and go. Exits with 1 when a type falls below
99.9 % of equal bytes.
"""
import json
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from ggml import TYPES, Ggml


def weights(path, cols=None):
    """Matrices of a bf16 or f32 safetensors file as float32."""
    b = Path(path).read_bytes()
    n = struct.unpack("<Q", b[:8])[0]
    for name, t in sorted(json.loads(b[8:8 + n]).items()):
        if name == "__metadata__" or len(t["shape"]) != 2:
            continue
        lo, hi = t["data_offsets"]
        raw = b[8 + n + lo:8 + n + hi]
        if t["dtype"] == "BF16":
            x = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            x = np.frombuffer(raw, np.float32)
        yield name, x.reshape(t["shape"])


def main():
    g = Ggml(sys.argv[1])
    tool = Path(tempfile.mkdtemp()) / "encode"
    subprocess.run(["go", "build", "-o", tool, "./internal/storage/testdata/encode"], check=True)
    rng = np.random.default_rng(7)
    sets = {"normal": rng.standard_normal((400, 1024)).astype(np.float32),
            "student": (rng.standard_t(4, (400, 1024)) * 0.03).astype(np.float32),
            "bf16": (rng.standard_normal((400, 1024)).astype(np.float32).view(np.uint32) & 0xffff0000).view(np.float32)}
    if len(sys.argv) > 2:
        by_cols = {}
        for name, x in weights(sys.argv[2]):
            by_cols.setdefault(x.shape[1], []).append(x)
        for cols, xs in by_cols.items():
            sets[f"model[{cols}]"] = np.concatenate(xs)
    bad = False
    for name in TYPES:
        for label, x in sets.items():
            imp = (rng.gamma(0.7, size=x.shape[1]) + 1e-3).astype(np.float32)
            for kind, v in (("plain", None), ("weighted", imp)):
                args = [tool, name, str(x.shape[1])]
                if v is not None:
                    v.tofile(tool.parent / "imp")
                    args.append(tool.parent / "imp")
                r = subprocess.run(args, input=x.tobytes(), capture_output=True, check=True)
                got, want = np.frombuffer(r.stdout, np.uint8), g.encode(name, x, v)
                equal = float((got == want).mean())
                bad |= equal < 0.999
                print(f"{name:7} {label:12} {kind:9} {100 * equal:9.4f} % equal, {int((got != want).sum()):6} bytes differ, {r.stderr.decode().strip()}")
    sys.exit(bad)


main()
