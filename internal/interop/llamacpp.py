"""GGUF packages in the real llama.cpp and in the gguf library, and pare's quantizers against llama.cpp's own."""
import concurrent.futures
import json
import os
import shutil
import subprocess

import install
from common import (ADAPTER, BOOKS, CALIBRATION, HERE, MODEL, ROOT, TEXT, check, encode, finish, gap, near, near_kl, quiet, read_ids, run,
                    same_tokens, sample, step, verify)

CONTEXT, CHUNKS = 512, 16
# An emulated processor is slow: less text, and the one without dot products sees the 4-bit package only.
ARM_CONTEXT, ARM_CHUNKS = 256, 6
DOTPROD, OLDEST = "cortex-a76", "cortex-a53"
SAME, BAR = 0.01, 0.6  # perplexity of one package in two runtimes; GPTQ's KL over that of llama.cpp's best file
TESTDATA = ROOT / "quantize" / "testdata"


def prove(cache, pare, demo=None):
    step("install")
    install.llama(cache)
    work = cache / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    step("models")
    if demo is None:
        demo = work / "demo"
        run(pare, "demo", "-o", demo, "--chunks", 2, "--progress", "none")
    found = packages(demo)
    check("packages of the demo", len(found) >= 4, ", ".join(found) or "none")
    merged, books = work / "merged.gguf", work / "books.gguf"
    quiet(pare, "lora", "merge", MODEL, "--adapter", ADAPTER, "--dtype", "f32", "-o", merged)
    quiet(pare, "convert", MODEL, "--dtype", "f32", "-o", books)
    n = int(json.loads(install.probe(cache, "tokens", merged, TEXT, work / "test.i32"))["tokens"])
    damaged = work / "damaged.gguf"
    run(install.python(cache, "venv"), HERE / "decode.py", "damage", found["arm64"], damaged)
    pairs = quantizers(cache, pare, books, work)

    # Every program below but pare uses one thread, so as many run at a time as there are cores.
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        score = lambda *models: json.loads(install.probe(cache, "score", work / "test.i32", CONTEXT, CHUNKS, *models))
        arm = lambda cpu, *models: json.loads(install.probe_arm(cache, cpu, "score", work / "test.i32", ARM_CONTEXT, ARM_CHUNKS, *models))
        on_arm = pool.submit(arm, DOTPROD, *found.values())
        on_x86 = pool.submit(score, merged, *found.values(), damaged)
        on_oldest = pool.submit(arm, OLDEST, found["arm64"])
        bar = pool.submit(score, books, *(f for pair in pairs.values() for f in pair))
        presets = pool.submit(compare_presets, cache, pare)

        step(f"tokens of {n}")
        tokens(cache, pare, {"float model": merged, **found}, work)
        step("values of every weight in the gguf library")
        decoded(cache, pare, found, damaged, work)
        step(f"llama.cpp on x86-64, {CHUNKS} chunks of {CONTEXT}")
        base, *scored, broken = on_x86.result()
        in_llama(pare, merged, found, base, scored, broken)
        step(f"KL of GPTQ and of llama.cpp's own files with importance matrix, {CHUNKS} chunks of {CONTEXT}")
        beats(pairs, bar.result()[1:])
        step("bytes of every preset, pare's and llama.cpp's")
        p = presets.result()
        print(p.stdout.strip(), flush=True)
        check("presets", p.returncode == 0, "at least 99.9 % of the bytes of every file agree" if p.returncode == 0 else p.stderr[-2000:] or "see above")
        step(f"llama.cpp on emulated arm64, {ARM_CHUNKS} chunks of {ARM_CONTEXT}")
        own = {name: verify(pare, merged, path, ARM_CONTEXT, ARM_CHUNKS)["perplexity"]["package"] for name, path in found.items()}
        for (name, ours), theirs in zip(own.items(), on_arm.result()):
            near(f"{name} on {DOTPROD}", theirs["perplexity"], ours, SAME)
        near(f"arm64 on {OLDEST}", on_oldest.result()[0]["perplexity"], own["arm64"], SAME)
    finish()


def packages(demo):
    """{name: model file} of the packages with GGUF inside."""
    found = {}
    for manifest in sorted(demo.rglob("manifest.json")):
        for f in json.loads(manifest.read_text())["files"]:
            if f["path"].endswith(".gguf"):
                found[manifest.parent.name] = manifest.parent / f["path"]
    return found


def tokens(cache, pare, models, work):
    """The vocabulary inside each file gives the same tokens in llama.cpp as in pare."""
    text = sample()
    (work / "tokens.txt").write_bytes(text.encode())
    for name, path in models.items():
        install.probe(cache, "tokens", path, work / "tokens.txt", work / "tokens.i32")
        same_tokens(f"tokens of {name}", read_ids(work / "tokens.i32"), encode(pare, path, text))


def decoded(cache, pare, found, damaged, work):
    def same(path, decoded):
        return subprocess.run([install.python(cache, "venv"), HERE / "decode.py", "same", path, decoded], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    for name, path in found.items():
        f32 = work / f"{name}-f32.gguf"
        quiet(pare, "convert", path, "--dtype", "f32", "-o", f32)
        p = same(path, f32)
        check(f"values of {name}", p.returncode == 0, p.stdout.strip())
    p = same(damaged, work / "arm64-f32.gguf")
    check("one wrong byte is seen", p.returncode == 1 and "values differ" in p.stdout, p.stdout.strip())


def in_llama(pare, merged, found, base, scored, broken):
    for (name, path), theirs in zip(found.items(), scored):
        ours = verify(pare, merged, path, CONTEXT, CHUNKS)
        near(name, theirs["perplexity"], ours["perplexity"]["package"], SAME)
        near_kl(f"{name}, divergence", theirs["kl"], ours["kl"]["mean"])
        if name == "arm64":
            apart = gap(broken["perplexity"], ours["perplexity"]["package"])
            check("one wrong scale is seen", not apart <= SAME, f"perplexity {broken['perplexity']:.4g} with it")
    own = verify(pare, merged, merged, CONTEXT, CHUNKS)
    near("float model", base["perplexity"], own["perplexity"]["original"], 1e-5)
    check("a model against itself", own["kl"]["mean"] < 1e-6, f"KL {own['kl']['mean']:.1e}")


def quantizers(cache, pare, books, work):
    """The base model in two types, by pare's GPTQ and by llama.cpp with its importance matrix."""
    pairs = {}
    for kind in ("q4_0", "q4_k_m"):
        ours, theirs = work / f"pare-{kind}.gguf", work / f"llama-{kind}.gguf"
        quiet(pare, "quantize", MODEL, "--type", kind, "--calibration", CALIBRATION, "-o", ours)
        run(install.python(cache, "venv"), TESTDATA / "llama.py", install.library(cache, "x64"), books, theirs, kind, BOOKS / "imatrix.gguf")
        pairs[kind] = (ours, theirs)
    return pairs


def beats(pairs, scored):
    for i, (kind, (ours, theirs)) in enumerate(pairs.items()):
        a, b = scored[2 * i]["kl"], scored[2 * i + 1]["kl"]
        sizes = [f.stat().st_size for f in (ours, theirs)]
        check(f"GPTQ {kind}", a <= BAR * b and sizes[0] <= sizes[1],
              f"KL {a:.5f} in {sizes[0]} bytes, llama.cpp's {b:.5f} in {sizes[1]}: {a / b:.3f}x (limit {BAR})")


def compare_presets(cache, pare):
    return subprocess.run([install.python(cache, "venv"), TESTDATA / "compare_llama_quantize.py", install.library(cache, "x64"), pare, MODEL, BOOKS / "imatrix.gguf"],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
