"""GPU folders in transformers with compressed-tensors, on the CPU: what vLLM loads, read by the library that defines it."""
import json
import os
import shutil

import install
from common import ADAPTER, HERE, MODEL, check, encode, finish, near, quiet, run, same_tokens, sample, step, verify

CONTEXT, CHUNKS = 512, 8
SAME = 1e-4  # both compute in float32 with the same weights
# What compressed-tensors has to read out of config.json, for each type that the target writes.
READ = {
    "int4g128": {"format": "pack-quantized", "bits": 4, "strategy": "group", "group": 128, "symmetric": True},
    "int8": {"format": "pack-quantized", "bits": 8, "strategy": "channel", "group": None, "symmetric": True},
}


def prove(cache, pare):
    step("install")
    install.torch(cache)
    work = cache / "work-torch"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    merged = work / "merged"
    step("models")
    quiet(pare, "lora", "merge", MODEL, "--adapter", ADAPTER, "--dtype", "f32", "-o", merged)
    text = work / "text.txt"
    text.write_bytes(sample().encode())
    for kind, want in READ.items():
        quiet(pare, "build", MODEL, "--adapter", ADAPTER, "-t", "gpu-vllm", "--quantize", kind, "--no-verify", "--no-bench", "-o", work / kind)
        package, decoded = work / kind / "gpu-vllm", work / f"{kind}-f32"
        quiet(pare, "convert", package, "--dtype", "f32", "-o", decoded)
        step(f"{kind} in transformers, {CHUNKS} chunks of {CONTEXT}")
        judge(cache, pare, kind, want, package, merged, decoded, text)
        broken = work / f"{kind}-damaged"
        shutil.copytree(package, broken)
        damage(broken / "model.safetensors")
        wrong = judged(cache, broken, merged, decoded, text, 1)
        check("one wrong byte is seen", wrong["weights"]["worst"] > 0 and wrong["rules"]["wrong_scales"] == 1,
              f"largest weight difference {wrong['weights']['worst']:.2g}, {wrong['rules']['wrong_scales']} scale that the library would not choose")
    finish()


def judged(cache, package, merged, decoded, text, chunks):
    return json.loads(run(install.python(cache, "venv-torch"), HERE / "judge.py", package, merged, decoded, text, CONTEXT, chunks,
                          env=os.environ | {"TRANSFORMERS_VERBOSITY": "error"}))


def judge(cache, pare, kind, want, package, merged, decoded, text):
    got = judged(cache, package, merged, decoded, text, CHUNKS)
    config = got["config"]
    check(f"{kind}: config.json", {k: config[k] for k in want} == want and config["targets"] == ["Linear"] and config["ignore"] == ["lm_head"] and not config["differ"],
          "compressed-tensors reads " + ", ".join(f"{k} {config[k]}" for k in want) + ("; " + "; ".join(config["differ"]) if config["differ"] else ""))
    same_tokens(f"{kind}: tokens", got["tokens"], encode(pare, package, sample(), "--special"))  # transformers reads control tokens in text
    w, r = got["weights"], got["rules"]
    check(f"{kind}: values of every weight", w["worst"] <= 1e-7, f"{w['values']} values, largest difference {w['worst']:.1e} of the tensor's largest")
    check(f"{kind}: scales", r["wrong_scales"] == 0 and r["groups"] > 0, f"{r['groups']} groups, {r['wrong_scales']} with a scale that the library's rule does not give")
    check(f"{kind}: codes", r["wrong_codes"] == 0 and r["codes"] > 0, f"{r['codes']} codes, {r['wrong_codes']} that the library would choose otherwise")
    ours = verify(pare, merged, package, CONTEXT, CHUNKS)
    near(f"{kind}: float model", got["original"], ours["perplexity"]["original"], SAME)
    near(f"{kind}: package", got["package"], ours["perplexity"]["package"], SAME)
    kl = ours["kl"]["mean"]
    check(f"{kind}: divergence", abs(got["kl"] - kl) <= 1e-3 * kl + 1e-6, f"KL {got['kl']:.6f}, pare {kl:.6f} (limit 0.1 %)")


def damage(path):
    """Turn one bit in a safetensors file: the top of the exponent of a scale."""
    data = bytearray(path.read_bytes())
    head = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + head])
    name = next(n for n in header if n.endswith("_scale"))
    data[8 + head + header[name]["data_offsets"][0] + 1] ^= 0x40
    path.write_bytes(data)
