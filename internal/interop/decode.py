"""decode.py PACKAGE.gguf DECODED.gguf: compare what the gguf library makes of every tensor of a package with pare's own
float32 copy of it, bit for bit."""
import sys

import numpy as np
from gguf import GGUFReader, dequantize

a, b = GGUFReader(sys.argv[1]), GGUFReader(sys.argv[2])
ours = {t.name: t for t in b.tensors}
if set(ours) != {t.name for t in a.tensors}:
    sys.exit("FAIL the decoded file has other tensors")
worst = 0.0
for t in a.tensors:
    want = dequantize(t.data, t.tensor_type).reshape(-1).astype(np.float32)
    got = dequantize(ours[t.name].data, ours[t.name].tensor_type).reshape(-1).astype(np.float32)
    if want.shape != got.shape:
        sys.exit(f"FAIL {t.name}: {want.shape} and {got.shape}")
    gap = float(np.max(np.abs(want - got) / (np.max(np.abs(want)) + 1e-30)))
    if gap > 1e-6:
        sys.exit(f"FAIL {t.name}: values differ by {gap} of the largest")
    worst = max(worst, gap)
print(f"ok   every value of {len(a.tensors)} tensors as the gguf library decodes it: largest relative difference {worst:.1e}")
