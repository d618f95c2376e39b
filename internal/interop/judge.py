"""judge.py PACKAGE MERGED DECODED TEXT CONTEXT CHUNKS: a GPU package as transformers and compressed-tensors see it, as JSON.

PACKAGE is the folder under judgement, MERGED the model it was quantized from, DECODED pare's float32 copy of the
package; both are Hugging Face folders. Everything is computed in float32 on the CPU.
"""
import json
import math
import pathlib
import sys

import torch
from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
from compressed_tensors.quantization import QuantizationConfig
from compressed_tensors.quantization.lifecycle.forward import quantize
from compressed_tensors.quantization.utils.helpers import calculate_qparams
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

CLIP = 80  # the clip search tries the ranges 1 - i/100 for i below this


def tensors(folder):
    found = {}
    for path in sorted(pathlib.Path(folder).glob("*.safetensors")):
        with safe_open(path, "pt") as f:
            found |= {name: f.get_tensor(name) for name in f.keys()}
    return found


def configuration(folder):
    """What compressed-tensors makes of config.json: its scheme, and the keys that it would write otherwise."""
    written = json.loads(pathlib.Path(folder, "config.json").read_text())["quantization_config"]
    parsed = QuantizationConfig.model_validate(written)
    back = parsed.to_dict()

    def differ(a, b, at):
        if isinstance(a, dict) and isinstance(b, dict):
            return [d for k in a for d in differ(a[k], b.get(k, "no such key"), f"{at}.{k}" if at else k)]
        return [] if a == b else [f"{at} is {a!r}, read as {b!r}"]

    return parsed, differ(json.loads(json.dumps(written)), json.loads(json.dumps(back, default=str)), "")


def rules(folder, merged, args):
    """Scales and codes by the library's own functions, from the weights before quantization.

    Returns groups, groups whose scale is not the library's for one of the ranges searched, and codes, codes that
    the library would choose otherwise for the stored scale.
    """
    stored, before = tensors(folder), tensors(merged)
    groups = wrong_scales = codes = wrong_codes = 0
    shrink = 1 - torch.arange(CLIP, dtype=torch.float32) / 100
    for name, scale in stored.items():
        if not name.endswith(".weight_scale"):
            continue
        base = name.removesuffix("_scale")
        w = before[base].float()
        rows = w.unflatten(-1, scale.shape[-1:] + (-1,))
        edge = rows.abs().amax(-1, keepdim=True) * shrink
        candidates, _ = calculate_qparams(-edge, edge, args)
        hit = (candidates.to(scale.dtype) == scale.unsqueeze(-1)).any(-1)
        groups, wrong_scales = groups + hit.numel(), wrong_scales + int((~hit).sum())
        ours = unpack_from_int32(stored[base + "_packed"], args.num_bits, torch.Size(stored[base + "_shape"].tolist()))
        theirs = quantize(w, scale.float(), torch.zeros_like(scale, dtype=torch.float32), args, dtype=torch.int8)
        codes, wrong_codes = codes + ours.numel(), wrong_codes + int((ours != theirs).sum())
    return groups, wrong_scales, codes, wrong_codes


def load(folder, **kw):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **kw).eval()


@torch.no_grad()
def compare(base, package, ids, context, chunks):
    """Perplexity of both and KL divergence, by llama.cpp's protocol: second half of each chunk."""
    nll_a = nll_b = kl = 0.0
    rows = slice(context // 2, context - 1)
    for c in range(chunks):
        t = torch.tensor(ids[c * context : (c + 1) * context]).unsqueeze(0)
        a, b = (m(t).logits[0, rows].double().log_softmax(-1) for m in (base, package))
        want = t[0, context // 2 + 1 :].unsqueeze(-1)
        nll_a, nll_b = nll_a - a.gather(-1, want).mean().item(), nll_b - b.gather(-1, want).mean().item()
        kl += (a.exp() * (a - b)).sum(-1).mean().item()
    return math.exp(nll_a / chunks), math.exp(nll_b / chunks), kl / chunks


def main(folder, merged, decoded, text_path, context, chunks):
    text = pathlib.Path(text_path).read_bytes().decode()  # line ends as they are
    ids = AutoTokenizer.from_pretrained(folder).encode(text, add_special_tokens=False)
    config, differ = configuration(folder)
    (group,) = config.config_groups.values()
    args = group.weights
    result = {"config": {"format": config.format, "bits": args.num_bits, "strategy": args.strategy, "group": args.group_size,
                         "symmetric": args.symmetric, "targets": group.targets, "ignore": config.ignore, "differ": differ}}
    result["tokens"] = ids
    groups, wrong_scales, codes, wrong_codes = rules(folder, merged, args)
    result["rules"] = {"groups": groups, "wrong_scales": wrong_scales, "codes": codes, "wrong_codes": wrong_codes}
    package = load(folder)
    a, b, kl = compare(load(merged), package, ids, context, chunks)
    result |= {"original": a, "package": b, "kl": kl}
    # The first forward has decompressed the weights.
    theirs, worst, values = package.state_dict(), 0.0, 0
    for name, ours in tensors(decoded).items():
        w = theirs[name].float()
        if w.shape != ours.shape:
            sys.exit(f"{name}: {list(w.shape)} in transformers, {list(ours.shape)} in pare")
        worst, values = max(worst, float((w - ours).abs().max() / ours.abs().max())), values + w.numel()
    result["weights"] = {"values": values, "worst": worst}
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:5], int(sys.argv[5]), int(sys.argv[6]))
