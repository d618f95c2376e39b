"""install.py CACHE: fetch the programs that `make bench` measures beside pare, each with the ordinary client
of its registry, and print as JSON what there is and why the rest is not. What is there already is kept, and
what the interop tests installed is shared with them.

Nothing here is needed to build or to test pare; what cannot be had becomes a row that says so.
"""
import json
import os
import pathlib
import shutil
import sys

HERE = pathlib.Path(__file__).resolve().parent
INTEROP = HERE.parent / "interop"
sys.path.insert(0, str(INTEROP))

import install as interop  # noqa: E402
from common import run  # noqa: E402

LOOK = "import {0}, pathlib; print({0}.__version__); print(pathlib.Path({0}.__file__).parent)"


def compiled(cache, name, *flags):
    """A probe, compiled for this very processor, so that the peer's side of the arithmetic is as fast as it gets."""
    out, source = cache / name, HERE / "probe" / f"{name}.c"
    newest = max(p.stat().st_mtime for p in (source, INTEROP / "llama.h"))
    if not out.is_file() or out.stat().st_mtime < newest:
        run(os.environ.get("CC", "cc"), "-O3", "-march=native", *flags, "-I", INTEROP, "-o", out, source, "-ldl", "-lm", "-lpthread")
    return str(out)


def llama(cache):
    return {"library": str(interop.node(cache.parent / "interop", "x64")), "probe": compiled(cache, "llama", "-ffast-math"),
            "version": f"llama.cpp v0.5.0, npm @node-llama-cpp/linux-x64 {interop.NODE}"}


def machine(cache):
    return {"probe": compiled(cache, "machine")}


def packages(cache):
    interop.virtual(cache, "venv", ["-r", str(HERE / "requirements.txt")])
    return interop.python(cache, "venv")


def openblas(cache):
    """PyPI has the current release; its symbols carry a prefix."""
    version, folder = run(packages(cache), "-c", LOOK.format("scipy_openblas32")).split("\n")[:2]
    return {"library": str(next(pathlib.Path(folder).glob("lib/libscipy_openblas*.so"))), "prefix": "scipy_", "version": f"OpenBLAS {version}, PyPI scipy-openblas32"}


def debian(cache):
    """OpenBLAS as the distribution has it."""
    found = lambda: next(pathlib.Path("/usr/lib").glob("*/openblas-pthread/libopenblas.so.0"), None)
    if not found():
        if not shutil.which("apt-get") or os.geteuid() != 0:
            sys.exit("installing libopenblas0-pthread takes apt-get and root")
        interop.debian("libopenblas0-pthread")
    version = run("dpkg-query", "-W", "-f", "${Version}", "libopenblas0-pthread")
    return {"library": str(found()), "prefix": "", "version": f"OpenBLAS {version}, Debian libopenblas0-pthread"}


def numpy(cache):
    python = packages(cache)
    return {"python": str(python), "version": "NumPy " + run(python, "-c", "import numpy; print(numpy.__version__)").strip()}


def onnxruntime(cache):
    python = packages(cache)
    return {"python": str(python), "version": "ONNX Runtime " + run(python, "-c", "import onnxruntime; print(onnxruntime.__version__)").strip()}


def minilm(cache):
    """A text encoder, shared with the interop tests."""
    return {"library": str(interop.minilm(cache.parent / "interop"))}


def torch(cache):
    """Shared with the interop tests, which know how to have PyTorch without gigabytes of CUDA."""
    interop.torch(cache.parent / "interop")
    python = interop.python(cache.parent / "interop", "venv-torch")
    return {"python": str(python), "version": "PyTorch " + run(python, "-c", "import torch; print(torch.__version__)").strip()}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = pathlib.Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    have = {}
    for step in (machine, llama, openblas, debian, numpy, onnxruntime, minilm, torch):
        try:
            have[step.__name__] = step(folder)
        except (Exception, SystemExit) as e:  # one that is missing must not hide the others
            lines = [line for line in str(e).splitlines() if line.strip()]
            have[step.__name__] = {"why": (lines[-1] if lines else type(e).__name__)[:300]}
    print(json.dumps(have))
