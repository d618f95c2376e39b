"""Writes presets.json: the type that the real llama_model_quantize gives every tensor of small models
of several shapes, for every preset.

    python make_preset_goldens.py FOLDER [NAME...]      FOLDER holds libllama.v0.5.0.so; needs numpy and gguf

With names only those cases are made again.

{"cases": [{"name", "arch", "layers", "heads", "kv_heads", "hidden", "ffn", "tied", "importance", "presets":
{preset: {kind: "q6_k*4 q4_k*20 ..."}}}]}; kinds are GGUF names without the block number, types in block order. Mixtures
have "experts" and "shared" (every block has a shared expert beside them) too.
"""
import itertools
import json
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np

from llama import FILE_TYPES, Llama

VOCAB = 64
CASES = [
    # name, arch, layers, heads, kv heads, hidden, ffn, tied
    ("32 layers", "llama", 32, 8, 8, 256, 256, False),
    ("32 layers, grouped heads, tied", "llama", 32, 8, 2, 256, 256, True),
    ("6 layers, two heads share", "llama", 6, 8, 4, 256, 512, False),
    ("80 layers, grouped heads", "llama", 80, 8, 1, 256, 256, False),
    ("80 layers", "llama", 80, 8, 8, 256, 256, False),
    ("rows of 288 and 320", "llama", 8, 8, 4, 288, 320, False),
    ("rows of 288, tied", "llama", 8, 8, 4, 288, 256, True),
    ("rows of 48", "llama", 4, 4, 2, 48, 80, False),
    ("qwen2", "qwen2", 28, 8, 2, 256, 256, False),
    ("qwen2, 80 layers", "qwen2", 80, 8, 1, 256, 256, False),
    ("qwen3, tied", "qwen3", 36, 8, 2, 256, 256, True),
    # and experts, shared
    ("eight experts", "llama", 16, 8, 2, 256, 256, False, 8, False),
    ("eight experts, no grouped heads, tied", "llama", 8, 8, 8, 256, 256, True, 8, False),
    ("four experts", "llama", 8, 8, 2, 256, 256, False, 4, False),
    ("rows of 288, eight experts", "llama", 6, 8, 4, 288, 320, False, 8, False),
    ("qwen2moe, a shared expert", "qwen2moe", 8, 8, 8, 256, 256, False, 4, True),
    ("qwen3moe, eight experts", "qwen3moe", 8, 8, 1, 256, 256, True, 8, False),
]


def write(path, arch, layers, heads, kv, hidden, ffn, tied, experts, shared):
    rng = np.random.default_rng(1)
    w = gguf.GGUFWriter(path, arch)
    w.add_block_count(layers)
    w.add_context_length(64)
    w.add_embedding_length(hidden)
    w.add_feed_forward_length(ffn)
    w.add_head_count(heads)
    w.add_head_count_kv(kv)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_vocab_size(VOCAB)
    w.add_rope_freq_base(10000.0)
    if experts:
        w.add_expert_count(experts)
        w.add_expert_used_count(2)
        w.add_expert_feed_forward_length(ffn)
    if shared:
        w.add_expert_shared_feed_forward_length(ffn)
    head = hidden // heads
    t = {"token_embd.weight": (VOCAB, hidden), "output_norm.weight": (hidden,)}
    if not tied:
        t["output.weight"] = (VOCAB, hidden)
    for i in range(layers):
        b = f"blk.{i}."
        t |= {b + "attn_norm.weight": (hidden,), b + "attn_q.weight": (heads * head, hidden), b + "attn_k.weight": (kv * head, hidden),
              b + "attn_v.weight": (kv * head, hidden), b + "attn_output.weight": (hidden, heads * head), b + "ffn_norm.weight": (hidden,)}
        if experts:
            rows = 4  # in place of ffn and hidden: llama.cpp does not look at them, and so it takes minutes less
            t |= {b + "ffn_gate_inp.weight": (experts, hidden), b + "ffn_gate_exps.weight": (experts, rows, hidden),
                  b + "ffn_up_exps.weight": (experts, rows, hidden), b + "ffn_down_exps.weight": (experts, rows, ffn)}
        else:
            t |= {b + "ffn_gate.weight": (ffn, hidden), b + "ffn_up.weight": (ffn, hidden), b + "ffn_down.weight": (hidden, ffn)}
        if shared:
            t |= {b + "ffn_gate_inp_shexp.weight": (hidden,), b + "ffn_gate_shexp.weight": (ffn, hidden),
                  b + "ffn_up_shexp.weight": (ffn, hidden), b + "ffn_down_shexp.weight": (hidden, ffn)}
        if arch in ("qwen2", "qwen2moe"):
            t |= {b + "attn_q.bias": (heads * head,), b + "attn_k.bias": (kv * head,), b + "attn_v.bias": (kv * head,)}
        if arch in ("qwen3", "qwen3moe"):
            t |= {b + "attn_q_norm.weight": (head,), b + "attn_k_norm.weight": (head,)}
    for name, shape in t.items():
        x = rng.standard_normal(shape).astype(np.float16 if len(shape) > 1 and "ffn_gate_inp" not in name else np.float32)
        w.add_tensor(name, x)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return {n: np.ones(s[-1] * (s[0] if len(s) > 2 else 1), np.float32) for n, s in t.items() if len(s) > 1 and n != "token_embd.weight"}


def types(path):
    out = {}
    tensors = {t.name: gguf.GGMLQuantizationType(t.tensor_type).name.lower() for t in gguf.GGUFReader(path).tensors}
    for name in sorted(tensors, key=lambda n: (int(n.split(".")[1]) if n.startswith("blk.") else -1, n)):
        kind = ".".join(name.split(".")[2:]) if name.startswith("blk.") else name
        out.setdefault(kind, []).append(tensors[name])
    return {k: " ".join(f"{t}*{len(list(g))}" for t, g in itertools.groupby(v)) for k, v in out.items()}


def main():
    lib = Llama(sys.argv[1])
    file = Path(__file__).parent / "presets.json"
    old = json.loads(file.read_text())["cases"] if sys.argv[2:] else []
    cases = []
    with tempfile.TemporaryDirectory() as tmp:
        for name, arch, layers, heads, kv, hidden, ffn, tied, experts, shared in (c if len(c) == 10 else (*c, 0, False) for c in CASES):
            if sys.argv[2:] and name not in sys.argv[2:]:
                cases += [c for c in old if c["name"] == name]
                continue
            src, dst = f"{tmp}/src.gguf", f"{tmp}/dst.gguf"
            importance = write(src, arch, layers, heads, kv, hidden, ffn, tied, experts, shared)
            for imp in (None, importance):
                case = {"name": name, "arch": arch, "layers": layers, "heads": heads, "kv_heads": kv, "hidden": hidden, "ffn": ffn,
                        "tied": tied, "importance": imp is not None, "presets": {}}
                if experts:
                    case |= {"experts": experts, "shared": shared}
                for preset in FILE_TYPES:
                    if imp is not None and (layers > 32 or experts) and preset in ("f32", "f16", "bf16", "q8_0", "q6_k", "q5_1", "q4_1"):
                        continue  # importance does not enter
                    ok = lib.quantize(src, dst, preset, imp)
                    case["presets"][preset] = types(dst) if ok else None
                cases.append(case)
                print(name, imp is not None, {k: v and v["attn_v.weight"] for k, v in case["presets"].items()}, flush=True)
    file.write_text(json.dumps({"cases": cases}, indent=1) + "\n")


main()
