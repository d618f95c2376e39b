"""Perplexity of models pruned by the published reference code of Wanda and SparseGPT.

    python published.py --wanda DIR --sparsegpt DIR --model MODEL --train FILE... --test FILE --out DIR

DIR of --wanda is a clone of github.com/locuslab/wanda, DIR of --sparsegpt of github.com/IST-DASLab/sparsegpt.
Only their classes for one layer are used (WrappedGPT, SparseGPT); this script drives them as their own main
programs do: block after block, the inputs of a block from the pruned blocks before it, all matrices of a block
at once. Calibration tokens are 128 stretches of 512, evenly spaced over the texts; they are written to
DIR/calibration.npy, which `pare prune --calibration` reads. Perplexity is llama.cpp's: chunks of 512 tokens, the
second half scored, start token in front of each where the tokenizer adds one. Everything is computed in float32.
"""

import argparse
import copy
import importlib.util
import json
import pathlib

import numpy as np
import torch
import transformers

torch.cuda.synchronize = lambda *a: None  # the reference code waits for a device that is not there


def load(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def calibration(tok, files, n=128, length=512):
    ids = []
    for f in files:
        ids += tok(pathlib.Path(f).read_text(encoding="utf-8"), add_special_tokens=False)["input_ids"]
    step = (len(ids) - length) // (n - 1)
    return np.array([ids[i * step : i * step + length] for i in range(n)], dtype=np.int32)


@torch.no_grad()
def perplexity(model, ids, chunks=64, length=512):
    nll, count = 0.0, 0
    for c in range(chunks):
        x = torch.tensor(ids[c * length : (c + 1) * length])[None].long()
        logits = model(x).logits[0].float()
        at = torch.arange(length // 2, length - 1)
        nll += torch.nn.functional.cross_entropy(logits[at], x[0, at + 1], reduction="sum").item()
        count += len(at)
    return float(np.exp(nll / count))


def linears(block):
    return {n: m for n, m in block.named_modules() if isinstance(m, torch.nn.Linear)}


@torch.no_grad()
def walk(model, tokens, watch, prune):
    """Runs tokens through the model block by block; prune(name, module, watcher) is called for each matrix."""
    hidden = [model.model.embed_tokens(t[None].long()) for t in torch.tensor(tokens)]
    place = torch.arange(tokens.shape[1])[None]
    rope = model.model.rotary_emb(hidden[0], place)
    mask = torch.full((tokens.shape[1], tokens.shape[1]), float("-inf")).triu(1)[None, None]
    run = lambda b, h: (lambda o: o[0] if isinstance(o, tuple) else o)(
        b(h, attention_mask=mask, position_ids=place, position_embeddings=rope)
    )
    for block in model.model.layers:
        subset = linears(block)
        watchers = {n: watch(m) for n, m in subset.items()}
        hooks = [
            m.register_forward_hook(lambda _, i, o, w=watchers[n]: w.add_batch(i[0].data, o.data))
            for n, m in subset.items()
        ]
        for h in hidden:
            run(block, h)
        for h in hooks:
            h.remove()
        for n, m in subset.items():
            prune(n, m, watchers[n])
        hidden = [run(block, h) for h in hidden]


def drop(w, score, share, n, m, per_row):
    """Sets the lowest scores to zero, as lib/prune.py of Wanda does it."""
    if m:
        groups = score.reshape(score.shape[0], -1, m)
        gone = torch.zeros_like(groups, dtype=torch.bool)
        gone.scatter_(2, torch.topk(groups, n, dim=2, largest=False)[1], True)
        w[gone.reshape(w.shape)] = 0
    elif per_row:
        order = torch.sort(score, dim=-1, stable=True)[1]
        w.scatter_(1, order[:, : int(score.shape[1] * share)], 0)
    else:
        w[score <= torch.sort(score.flatten())[0][int(score.numel() * share)]] = 0


@torch.no_grad()
def outlier_shares(model, tokens, wrapped, share, spread=0.08, factor=5):
    """A share of zeros for each block as OWL (arXiv 2310.05175) chooses it: blocks with more scores beyond factor
    times the mean keep more, within share +- spread, and the mean stays."""
    found = {}
    names = {m: i for i, b in enumerate(model.model.layers) for m in linears(b).values()}

    def look(_, l, w):
        score = (l.weight.abs() * torch.sqrt(w.scaler_row.reshape(1, -1))).flatten()
        found.setdefault(names[l], []).append(score)

    walk(model, tokens, wrapped, look)
    part = []
    for i in sorted(found):
        scores = torch.cat(found[i])
        part.append(100 * (scores > factor * scores.mean()).float().mean().item())
    part = np.array(part)
    scaled = (part - part.min()) / (part.max() - part.min()) * 2 * spread
    return share - (scaled - scaled.mean())


def main():
    p = argparse.ArgumentParser()
    for name in ("wanda", "sparsegpt", "model", "test", "out"):
        p.add_argument("--" + name, required=True)
    p.add_argument("--train", nargs="+", required=True)
    o = p.parse_args()
    out = pathlib.Path(o.out)
    out.mkdir(parents=True, exist_ok=True)
    tok = transformers.AutoTokenizer.from_pretrained(o.model)
    tokens = calibration(tok, o.train)
    np.save(out / "calibration.npy", tokens)
    test = tok(pathlib.Path(o.test).read_text(encoding="utf-8"), add_special_tokens=False)["input_ids"]
    dense = transformers.AutoModelForCausalLM.from_pretrained(o.model, dtype=torch.float32, attn_implementation="eager").eval()
    wrapped = load(pathlib.Path(o.wanda) / "lib/layerwrapper.py", "layerwrapper").WrappedGPT
    solver = load(pathlib.Path(o.wanda) / "lib/sparsegpt.py", "sparsegpt").SparseGPT
    base = perplexity(dense, test)
    rows = {"dense": base}
    print("dense", base, flush=True)

    def note(name, model):
        rows[name] = perplexity(model, test)
        zeros = [(m.weight == 0).float().mean().item() for b in model.model.layers for m in linears(b).values()]
        print(name, rows[name], f"{100 * (rows[name] / base - 1):+.2f} %", f"zeros {np.mean(zeros):.4f}", flush=True)
        (out / "published.json").write_text(json.dumps(rows, indent=1) + "\n")

    owl = outlier_shares(dense, tokens, wrapped, 0.5)
    print("shares by outliers", owl.round(3).tolist(), flush=True)
    for method in ("wanda", "wanda by layer", "sparsegpt"):
        x = copy.deepcopy(dense)
        block = {m: float(owl[i]) for i, b in enumerate(x.model.layers) for m in linears(b).values()}
        score = lambda l, w: l.weight.data.abs() * torch.sqrt(w.scaler_row.reshape(1, -1))
        if method == "sparsegpt":
            walk(x, tokens, solver, lambda _, l, w: w.fasterprune(block[l], percdamp=0.01, blocksize=128))
        else:
            walk(x, tokens, wrapped, lambda _, l, w: drop(l.weight.data, score(l, w), block[l], 0, 0, method == "wanda"))
        note(f"{method} 50% with shares by outliers", x)

    for label, share, n, m in (("50%", 0.5, 0, 0), ("2:4", 0.5, 2, 4)):
        for per_row in (False, True) if not m else (False,):
            x = copy.deepcopy(dense)
            with torch.no_grad():
                for b in x.model.layers:
                    for l in linears(b).values():
                        drop(l.weight.data, l.weight.data.abs(), share, n, m, per_row)
            note(f"magnitude {label}" + (" by row" if per_row else ""), x)
        for per_row in (True, False) if not m else (True,):
            x = copy.deepcopy(dense)
            score = lambda l, w: l.weight.data.abs() * torch.sqrt(w.scaler_row.reshape(1, -1))
            walk(x, tokens, wrapped, lambda _, l, w: drop(l.weight.data, score(l, w), share, n, m, per_row))
            note(f"wanda {label}" + ("" if per_row else " by layer"), x)
        x = copy.deepcopy(dense)
        walk(x, tokens, solver, lambda _, l, w: w.fasterprune(share, prune_n=n, prune_m=m, percdamp=0.01, blocksize=128))
        note(f"sparsegpt {label}", x)


main()
