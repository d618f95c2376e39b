"""The tiny networks of PEFT's regression cases, rebuilt from their seed, and what merging their adapters gives.

python make_expected.py FOLDER     (testdata/peft-lora)

For each case: base.safetensors (the network's tensors) and expected.safetensors (the tensors that merge_and_unload changes).
The adapted network must reproduce output.pt, which PEFT 0.6.1 wrote. Versions: torch 2.11.0, peft 0.21.2, transformers 5.23.0.
"""

import pathlib
import sys

import safetensors.torch
import torch
from peft import PeftModel
from torch import nn
from transformers.pytorch_utils import Conv1D


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin0 = nn.Linear(10, 20)
        self.lin1 = nn.Linear(20, 2)

    def forward(self, x):
        return self.lin1(self.lin0(x.float()).relu()).log_softmax(-1)


class EmbConv1D(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(100, 5)
        self.conv1d = Conv1D(1, 5)
        self.lin0 = nn.Linear(10, 2)

    def forward(self, x):
        return self.lin0(self.conv1d(self.emb(x)).relu().flatten(1)).log_softmax(-1)


class Conv2D(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv2d = nn.Conv2d(5, 10, 3)
        self.lin0 = nn.Linear(10, 2)

    def forward(self, x):
        return self.lin0(self.conv2d(x.float().reshape(2, 5, 3, 3)).relu().flatten(1)).log_softmax(-1)


def main(folder):
    x = torch.arange(90).reshape(9, 10)
    for case, network in {"lora_mlp": Mlp, "lora_mlp_modules_to_save": Mlp, "lora_conv2d": Conv2D, "lora_emb_conv1d": EmbConv1D}.items():
        torch.manual_seed(0)
        base = network().eval()
        before = {k: v.clone() for k, v in base.state_dict().items()}
        model = PeftModel.from_pretrained(base, folder / case).eval()
        with torch.no_grad():
            unmerged = model(x)
            merged = model.merge_and_unload()
            gap = (merged(x) - unmerged).abs().max()
        stored = torch.load(folder / case / "output.pt", map_location="cpu")
        error = (stored - unmerged).abs().max()
        assert error < 1e-4 * stored.abs().max() and gap < 1e-4, (case, error, gap)
        after = {k: v.contiguous() for k, v in merged.state_dict().items() if not torch.equal(v, before[k])}
        print(case, sorted(after), "output error", float(error), "merge gap", float(gap))
        safetensors.torch.save_file(before, folder / case / "base.safetensors")
        safetensors.torch.save_file(after, folder / case / "expected.safetensors")


main(pathlib.Path(sys.argv[1]))
