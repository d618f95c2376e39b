"""Pruned matrices as torch gives them.

python make_reference.py FOLDER     (prune/testdata). torch 2.11.0, safetensors 0.8.0.

The rules are those of the papers' own code (Wanda: locuslab/wanda, lib/prune.py), with stable sorts so that ties go to the lower
index: row = the floor(in * p) smallest of each row, layer = the floor(n * p) smallest of the matrix, N:M = in each M
consecutive inputs the M - N smallest.
"""

import pathlib
import sys

import safetensors.torch
import torch


def smallest(score, k):
    order = torch.sort(score, dim=-1, stable=True).indices[..., :k]
    return torch.zeros_like(score, dtype=torch.bool).scatter_(-1, order, True)


def row(score, p):
    return smallest(score, int(score.shape[1] * p))


def layer(score, p):
    return smallest(score.reshape(-1), int(score.numel() * p)).reshape(score.shape)


def groups(score, n, m):
    return smallest(score.reshape(-1, m), m - n).reshape(score.shape)


def main(folder):
    g = torch.Generator().manual_seed(11)
    out = {}
    smooth = torch.randn(13, 24, generator=g)
    for name, w in {"smooth": smooth, "ties": (smooth * 2).round() / 2}.items():
        x = torch.randn(40, 24, generator=g) * torch.rand(24, generator=g) * 3
        mean = x.pow(2).mean(0)
        out[f"{name}.weight"], out[f"{name}.mean"] = w, mean
        for kind, score in {"magnitude": w.abs(), "wanda": w.abs() * mean.sqrt()}.items():
            for rule, mask in {
                "row-0.5": row(score, 0.5), "row-0.3": row(score, 0.3), "layer-0.5": layer(score, 0.5), "layer-0.37": layer(score, 0.37),
                "2:4": groups(score, 2, 4), "4:8": groups(score, 4, 8), "1:3": groups(score, 1, 3),
            }.items():
                out[f"{name}.{kind}.{rule}"] = torch.where(mask, 0.0, w)
        other = torch.randn(7, 9, generator=g) * 5
        if name == "ties":
            other = other.round()
        out[f"{name}.other"] = other
        both = torch.cat([(t.abs() * (1 / t.double().pow(2).mean().sqrt()).float()).reshape(-1) for t in (w, other)])
        mask = smallest(both, int(both.numel() * 0.4))
        out[f"{name}.global.weight"] = torch.where(mask[: w.numel()].reshape(w.shape), 0.0, w)
        out[f"{name}.global.other"] = torch.where(mask[w.numel():].reshape(other.shape), 0.0, other)
    safetensors.torch.save_file({k: v.contiguous() for k, v in out.items()}, folder / "reference.safetensors")


main(pathlib.Path(sys.argv[1]))
