"""Adapters of the less common kinds on one tiny network, with what PEFT's merge makes of them.

python make_cases.py FOLDER     (testdata/peft-methods)

base.safetensors is the network; CASE/ is what save_pretrained writes plus expected.safetensors, the tensors that
merge_and_unload changes. Versions: torch 2.11.0, peft 0.21.2, transformers 5.23.0, safetensors 0.8.0.
"""

import pathlib
import shutil
import sys

import safetensors.torch
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(24, 6)
        self.fc = nn.Linear(6, 8)
        self.square = nn.Linear(8, 8)
        self.conv1d = Conv1D(6, 8)
        self.square1d = Conv1D(6, 6)
        self.conv2d = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        h = self.square1d(self.conv1d(self.square(self.fc(self.emb(x)))).tanh())
        return h, self.conv2d(h[:, :3, :3].unsqueeze(1).expand(-1, 3, -1, -1) + h.mean())


def network():
    torch.manual_seed(5)
    net = Net().eval()
    for p in net.parameters():  # Conv1D starts with biases of zero
        p.data += 0.1 * torch.randn_like(p)
    return net


CASES = {
    "ia3": IA3Config(target_modules=["fc", "square", "conv2d"], feedforward_modules=["square", "conv2d"]),
    "ia3-conv1d": IA3Config(target_modules=["conv1d", "square1d"], feedforward_modules=["square1d"], fan_in_fan_out=True),
    "lora-bias": LoraConfig(r=3, lora_alpha=5, target_modules=["fc", "square"], lora_bias=True),
    "dora-conv1d": LoraConfig(r=3, lora_alpha=5, target_modules=["conv1d", "square1d"], use_dora=True, fan_in_fan_out=True),
    "dora-square": LoraConfig(r=2, lora_alpha=5, target_modules=["square"], use_dora=True),
    "dora-conv2d": LoraConfig(r=2, lora_alpha=5, target_modules=["conv2d"], use_dora=True),
    "rslora-conv2d": LoraConfig(r=2, lora_alpha=5, target_modules=["conv2d"], use_rslora=True),
    "bias-lora-only": LoraConfig(r=2, lora_alpha=5, target_modules=["fc", "conv1d"], bias="lora_only"),
}


def shake(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for name, p in sorted(model.named_parameters()):
        if p.requires_grad:
            p.data = p.data * (1 + 0.2 * torch.randn(p.shape, generator=generator)) + 0.3 * torch.randn(p.shape, generator=generator)


def main(folder):
    x = torch.arange(32).reshape(4, 8) % 24
    before = {k: v.clone() for k, v in network().state_dict().items()}
    safetensors.torch.save_file(before, folder / "base.safetensors")
    for seed, (case, config) in enumerate(CASES.items()):
        out = folder / case
        shutil.rmtree(out, ignore_errors=True)
        torch.manual_seed(seed)
        model = get_peft_model(network(), config)
        shake(model, seed)
        model.save_pretrained(out)
        (out / "README.md").unlink(missing_ok=True)
        model = PeftModel.from_pretrained(network(), out).eval()
        with torch.no_grad():
            unmerged = model(x)
            merged = model.merge_and_unload().eval()
            gap = max(float((a - b).abs().max()) for a, b in zip(merged(x), unmerged))
            effect = max(float((a - b).abs().max()) for a, b in zip(network()(x), unmerged))
        after = {k: v.detach().contiguous() for k, v in merged.state_dict().items() if not torch.equal(v, before[k])}
        print(case, sorted(after), "gap", gap, "effect", effect)
        assert gap < 1e-4 and effect > 0.05, case
        safetensors.torch.save_file(after, out / "expected.safetensors")


main(pathlib.Path(sys.argv[1]))
