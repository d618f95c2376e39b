"""A published text encoder, all-MiniLM-L6-v2: pare's embeddings against PyTorch's (minilm.json, by make_minilm.py), its GGUF
files in the real llama.cpp, and its ONNX files in ONNX Runtime."""
import array
import json
import math
import shutil

import encoderonnx
import install
from common import HERE, check, finish, quiet, run, step

SAME = 1e-4  # the largest difference of an element from PyTorch's, of vectors of length 1
# Least cosines: of a file's embeddings to PyTorch's on average, and of one text in two runtimes. llama.cpp computes GELU by an
# approximation, and both round the inputs of products to 8 bits where weights are in blocks.
FILES = {"f16": (0.99999, 0.9999), "q8_0": (0.995, 0.999), "q4_k_m": (0.97, 0.998)}
LINES = 4  # of the reference, for llama.cpp: texts without characters that its WordPiece treats in another way


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def embed(pare, model, texts):
    return [json.loads(run(pare, "run", model, "-p", t, "--output", "json", "--progress", "none"))["texts"][0] for t in texts]


def prove(cache, pare):
    step("install")
    install.llama(cache)
    folder = install.minilm(cache)
    work = cache / "work-encoders"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    want = json.loads((HERE / "minilm.json").read_text())
    texts = [c["text"] for c in want]
    step(f"{len(texts)} texts against PyTorch")
    got = embed(pare, folder, texts)
    check("tokens", all(g["tokens"] == w["tokens"] for g, w in zip(got, want)), f"{sum(len(w['tokens']) for w in want)} ids")
    worst = max(abs(a - b) for g, w in zip(got, want) for a, b in zip(g["embedding"], w["embedding"]))
    check("embeddings", worst <= SAME, f"at most {worst:.1e} from PyTorch's (limit {SAME:g})")
    lines = work / "lines.txt"
    lines.write_text("\n".join(texts[:LINES]) + "\n")
    for kind, (mean, runtime) in FILES.items():
        step(kind)
        model = work / f"{kind}.gguf"
        quiet(pare, "quantize", folder, "--type", kind, "-o", model)
        ours = embed(pare, model, texts)
        # a GGUF file does not say where the original cuts texts: the long one is longer there
        near = [cosine(o["embedding"], w["embedding"]) for o, w in zip(ours, want) if o["tokens"] == w["tokens"]]
        check(f"{kind} texts", len(near) == len(texts) - 1, f"{len(near)} of {len(texts)} have the same tokens")
        check(f"{kind} accuracy", sum(near) / len(near) >= mean, f"mean cosine {sum(near) / len(near):.5f} (at least {mean}), least {min(near):.5f}")
        told = json.loads(install.probe(cache, "embed", model, lines, work / "llama.f32"))
        check(f"{kind} tokens in llama.cpp", told["tokens"] == [len(o["tokens"]) for o in ours[:LINES]], str(told["tokens"]))
        flat = array.array("f", (work / "llama.f32").read_bytes())
        theirs = [flat[i * told["width"]:(i + 1) * told["width"]] for i in range(LINES)]
        least = min(cosine(t, o["embedding"]) for t, o in zip(theirs, ours))
        check(f"{kind} in llama.cpp", least >= runtime, f"least cosine to pare's {least:.5f} (at least {runtime})")
    encoderonnx.prove(cache, pare, folder, want, work, cosine)
    finish()
