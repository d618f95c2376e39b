"""The gguf library of PyPI reads pare's files.

    decode.py same   PACKAGE.gguf DECODED.gguf   the values that the library decodes are, bit for bit, those of pare's float32 copy
    decode.py damage PACKAGE.gguf DAMAGED.gguf   a copy with one wrong byte: the upper byte of the first scale of a Q4_0 or Q8_0 tensor
"""
import sys

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, dequantize


def same(package, decoded):
    a, b = GGUFReader(package), GGUFReader(decoded)
    ours = {t.name: t for t in b.tensors}
    if set(ours) != {t.name for t in a.tensors}:
        sys.exit("the decoded file has other tensors")
    values = 0
    for t in a.tensors:
        want, o = dequantize(t.data, t.tensor_type).astype(np.float32, copy=False), ours[t.name]
        if o.tensor_type != GGMLQuantizationType.F32 or list(o.shape) != list(t.shape):
            sys.exit(f"{t.name}: {o.tensor_type.name} {list(o.shape)}, expected F32 {list(t.shape)}")
        got = np.array(o.data).reshape(want.shape)
        wrong = want.view(np.uint32) != got.view(np.uint32)
        if wrong.any():
            sys.exit(f"{t.name} ({t.tensor_type.name}): {wrong.sum()} of {wrong.size} values differ, by up to {np.abs(want - got)[wrong].max()}")
        values += want.size
    print(f"{values} values of {len(a.tensors)} tensors, none differs")


def damage(package, damaged):
    data = bytearray(open(package, "rb").read())
    t = next(t for t in GGUFReader(package).tensors if t.tensor_type in (GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q8_0) and t.name.startswith("blk."))
    data[t.data_offset + 1] ^= 0x40  # the top bit of the exponent of a float16: the block's weights grow by 2^16
    open(damaged, "wb").write(data)


if __name__ == "__main__":
    {"same": same, "damage": damage}[sys.argv[1]](*sys.argv[2:])
