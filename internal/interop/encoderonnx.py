"""A text encoder as ONNX: what pare writes in ONNX Runtime, and what ONNX Runtime's optimizer for transformers makes of it in pare."""
import json

import install
from common import HERE, check, quiet, run, step

# Least cosines: to PyTorch's embeddings on average, and of one text in both programs. Where ranges are found while it runs, the last bit of
# a float may move a code, and with it the ranges behind it: most texts are the same to the bit, others part by as much as codes cost.
KINDS = {"f32": (0.9999999, 0.9999999), "fused": (0.9999999, 0.9999999), "dynamic-int8": (0.99, 0.995), "int8-128": (0.999, 0.9999)}


def prove(cache, pare, folder, want, work, cosine):
    install.onnx(cache)
    judge = lambda *args: run(install.python(cache, "venv-onnx"), HERE / "ortrun.py", *args)
    judge("tokens", HERE / "minilm.json", work / "tokens")
    for kind, (accuracy, runtime) in KINDS.items():
        step(f"ONNX, {kind}")
        model = work / f"{kind}.onnx"
        if kind == "f32":
            quiet(pare, "convert", folder, "-o", model)
        elif kind == "fused":
            fused = json.loads(judge("fuse", work / "f32.onnx", model).strip().splitlines()[-1])
            check("fused by ONNX Runtime's optimizer", fused.get("SkipLayerNormalization", 0) > 0 and fused.get("BiasGelu", 0) > 0, ", ".join(f"{n} {op}" for op, n in sorted(fused.items()) if op in ("BiasGelu", "SkipLayerNormalization", "Attention")))
        else:
            quiet(pare, "quantize", folder, "--type", kind, "-o", model)
        for i in range(len(want)):
            inputs = [a for n in ("input_ids", "attention_mask", "token_type_ids") for a in ("--input", f"{n}={work / 'tokens' / str(i) / n}.npy")]
            run(pare, "run", model, *inputs, "--save-output", work / "onnx" / kind / str(i), "-q")
        got = json.loads(judge("embed", model, work / "tokens", work / "onnx" / kind).strip().splitlines()[-1])
        near = [cosine(a, w["embedding"]) for a, w in zip(got["ort"], want)]
        least = min(cosine(a, b) for a, b in zip(got["ort"], got["pare"]))
        check(f"ONNX {kind} accuracy", sum(near) / len(near) >= accuracy, f"mean cosine to PyTorch's {sum(near) / len(near):.7f} (at least {accuracy}), least {min(near):.7f}")
        check(f"ONNX {kind} in ONNX Runtime", least >= runtime, f"least cosine to pare's {least:.7f} (at least {runtime})")
