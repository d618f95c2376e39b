"""PyTorch files of many kinds, and the same tensors as safetensors.

python make_cases.py FOLDER     (formats/pickle/testdata). torch 2.11.0, safetensors 0.8.0.
"""

import collections
import pathlib
import sys

import safetensors.torch
import torch


def main(folder):
    g = torch.Generator().manual_seed(3)
    x = torch.randn(6, 5, generator=g)
    tensors = collections.OrderedDict(
        plain=x,
        transposed=x.t(),
        sliced=x[1:5:2, 1:4],
        shared=x[2],
        scalar=torch.tensor(2.5),
        half=x.half(),
        bfloat=x.bfloat16(),
        double=x.double(),
        int64=torch.arange(-3, 3),
        int32=torch.arange(-3, 3, dtype=torch.int32),
        int16=torch.arange(-3, 3, dtype=torch.int16),
        int8=torch.arange(-3, 3, dtype=torch.int8),
        uint8=torch.arange(6, dtype=torch.uint8),
        bool=torch.tensor([True, False, True]),
        cube=torch.randn(2, 3, 4, generator=g).permute(2, 0, 1),
    )
    safetensors.torch.save_file({k: v.contiguous().clone() for k, v in tensors.items()}, folder / "expected.safetensors")
    torch.save(tensors, folder / "many.pt")
    torch.save({"epoch": 3, "note": "text", "rates": [0.1, 2**40], "model": dict(tensors), "none": None}, folder / "nested.pt")
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    torch.save(module.state_dict(), folder / "state_dict.pt")  # an OrderedDict with _metadata
    torch.save({"a": x}, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save(module, folder / "module.pt")  # a whole module: refused
    torch.save({"p": torch.nn.Parameter(x)}, folder / "parameter.pt")  # refused: _rebuild_parameter


main(pathlib.Path(sys.argv[1]))
