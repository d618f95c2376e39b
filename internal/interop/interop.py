#!/usr/bin/env python3
"""Prove pare's packages with the runtimes that people use.

    interop.py setup  CACHE          install the pinned runtimes into CACHE (npm, PyPI, Debian's cross compiler)
    interop.py gguf   CACHE PARE     every GGUF package of the demo in the real llama.cpp: x86-64, and arm64 emulated
    interop.py torch  CACHE PARE     the GPU folder of the demo in transformers with compressed-tensors (a large install)

PARE is the binary under test. Each check prints one line; a failed one ends with exit code 1. The numbers
that are compared: perplexity over the books test text by llama.cpp's own protocol, KL divergence from the
float model, tokens of the same text, and the real value of every weight after decoding.
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BOOKS = ROOT / "testdata" / "books-llama"
TEXT = BOOKS / "text" / "test.txt"
NODE = "3.22.1"  # @node-llama-cpp: the shared libraries of llama.cpp v0.5.0
CONTEXT, CHUNKS, ARM_CHUNKS = 512, 64, 2
SYSROOT = "/usr/aarch64-linux-gnu"

failures = []


def run(*cmd, **kw):
    """Run a command and return what it printed; its own message ends the program when it fails."""
    p = subprocess.run([str(c) for c in cmd], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kw)
    if p.returncode:
        sys.exit(f"interop: {' '.join(str(c) for c in cmd)}\n{p.stdout}{p.stderr}")
    return p.stdout


def check(what, ok, detail):
    print(f"{'ok  ' if ok else 'FAIL'} {what}: {detail}", flush=True)
    if not ok:
        failures.append(what)


def library(cache, arch):
    return cache / f"node-{arch}" / "node_modules" / "@node-llama-cpp" / f"linux-{arch}" / "bins" / f"linux-{arch}"


def python(cache):
    return cache / "venv" / "bin" / "python"


def setup(cache):
    cache.mkdir(parents=True, exist_ok=True)
    for arch in ("x64", "arm64"):
        if not library(cache, arch).is_dir():
            run("npm", "install", "--force", f"--cpu={arch}", "--no-optional", "--ignore-scripts", "--no-audit", "--no-fund",
                "--prefix", cache / f"node-{arch}", f"@node-llama-cpp/linux-{arch}@{NODE}")
    want = (HERE / "requirements.txt").read_text()
    have = cache / "venv" / "requirements.txt"
    if not have.is_file() or have.read_text() != want:
        shutil.rmtree(cache / "venv", ignore_errors=True)
        run(sys.executable, "-m", "venv", cache / "venv")
        run(python(cache), "-m", "pip", "install", "-q", "--no-compile", "-r", HERE / "requirements.txt")
        have.write_text(want)
    if not (shutil.which("qemu-aarch64-static") and shutil.which("aarch64-linux-gnu-gcc")):
        run("apt-get", "update", "-qq")
        run("apt-get", "install", "-y", "-qq", "--no-install-recommends", "qemu-user-static", "gcc-aarch64-linux-gnu",
            "libc6-dev-arm64-cross", "libstdc++6-arm64-cross", "libgomp1-arm64-cross")
    for cc, out in (("gcc", "probe-x64"), ("aarch64-linux-gnu-gcc", "probe-arm64")):
        run(cc, "-O2", "-o", cache / out, HERE / "probe.c", "-ldl", "-lm")


def probe(cache, *args):
    return json.loads(run(cache / "probe-x64", library(cache, "x64"), *args))


def probe_arm(cache, cpu, *args):
    return json.loads(run("qemu-aarch64-static", "-cpu", cpu, "-L", SYSROOT, cache / "probe-arm64", library(cache, "arm64"), *args))


def demo(cache, pare):
    """The demo's packages, built once, with the float model they were made from as GGUF."""
    out = cache / "demo"
    shutil.rmtree(out, ignore_errors=True)
    run(pare, "demo", "-o", out, "--progress", "none")
    return out


def packages(out):
    found = {}
    for manifest in sorted(out.rglob("manifest.json")):
        m = json.loads(manifest.read_text())
        for f in m["files"]:
            if f["path"].endswith(".gguf"):
                found[manifest.parent.name] = manifest.parent / f["path"]
    return found


def verify(pare, original, package, chunks):
    return json.loads(run(pare, "verify", original, package, "--text", TEXT, "--context", CONTEXT, "--chunks", chunks,
                          "--output", "json", "--progress", "none"))


def gguf(cache, pare):
    setup(cache)
    out = demo(cache, pare)
    merged = cache / "merged-f32.gguf"
    run(pare, "lora", "merge", BOOKS / "model", "--adapter", BOOKS / "adapter-shakespeare", "--dtype", "f32", "-o", merged, "--force", "--progress", "none")
    ids = cache / "test.i32"
    n = probe(cache, "tokens", merged, TEXT, ids)["tokens"]
    ours = json.loads(run(pare, "run", merged, "--encode", TEXT.read_text()[:60000], "--output", "json"))["tokens"]
    import array
    theirs = array.array("i", ids.read_bytes())[: len(ours) - 8].tolist()
    check("tokens of the test text", ours[: len(theirs)] == theirs, f"{len(theirs)} of {n} compared with llama.cpp")

    base = probe(cache, "compare", merged, merged, ids, CONTEXT, CHUNKS)
    own = verify(pare, merged, merged, CHUNKS)
    near("float model", base["perplexity_a"], own["perplexity"]["original"], 1e-4)
    check("a model against itself", own["kl"]["mean"] < 1e-6, f"KL {own['kl']['mean']:.2e}")
    for name, path in packages(out).items():
        v = verify(pare, merged, path, CHUNKS)
        x = probe(cache, "compare", merged, path, ids, CONTEXT, CHUNKS)
        near(f"{name} in llama.cpp x86-64", x["perplexity_b"], v["perplexity"]["package"], 0.01, f"KL {x['kl']:.5f}, pare's {v['kl']['mean']:.5f}")
        x2 = probe(cache, "compare", merged, path, ids, CONTEXT, ARM_CHUNKS)
        for cpu in ("cortex-a53", "cortex-a76", "max"):
            a = probe_arm(cache, cpu, "compare", path, path, ids, CONTEXT, ARM_CHUNKS)
            near(f"{name} in llama.cpp arm64 {cpu}", a["perplexity_a"], x2["perplexity_b"], 0.02)
        decoded = cache / "decoded.gguf"
        run(pare, "convert", path, "-o", decoded, "--dtype", "f32", "--force", "--progress", "none")
        print(run(python(cache), HERE / "decode.py", path, decoded).strip(), flush=True)
    finish()


def near(what, theirs, ours, tolerance, more=""):
    gap = abs(theirs / ours - 1)
    check(what, gap <= tolerance, f"perplexity {theirs:.4f}, pare {ours:.4f}, {100 * gap:.3f} % apart (limit {100 * tolerance:g} %){'; ' + more if more else ''}")


def finish():
    if failures:
        sys.exit(f"interop: {len(failures)} failed: " + ", ".join(failures))


if __name__ == "__main__":
    verb, cache = sys.argv[1], pathlib.Path(sys.argv[2]).resolve()
    os.environ.setdefault("NO_COLOR", "1")
    if verb == "setup":
        setup(cache)
    elif verb == "gguf":
        gguf(cache, pathlib.Path(sys.argv[3]).resolve())
    else:
        sys.exit(__doc__)
