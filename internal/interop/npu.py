"""Packages for neural processors in the programs of their vendors: npu-qnn compiled for Qualcomm's Hexagon NPU and executed by its
emulation, without any fallback to the CPU; npu-intel in OpenVINO. Both compute outputs, and layer by layer the codes of pare."""
import json

import install
from common import HERE, check, finish, run, step
from graphs import Work, layers

# What is built, how many samples are run, and the least signal to noise in decibels of the outputs against pare's: each layer
# may be a step off, and a deep network adds that up.
PACKAGES = [("npu-qnn", "qnn", "mnist", 100, 35), ("npu-qnn", "qnn", "yunet", 1, 20), ("npu-intel", "openvino", "mnist", 100, 35), ("npu-intel", "openvino", "yunet", 1, 20)]


def prove(cache, pare):
    step("install")
    install.onnx(cache)
    install.npu(cache)
    w = Work(pare, install.python(cache, "venv-onnx"), cache / "work-npu")
    for target, where, kind, count, least in PACKAGES:
        step(f"{target}: {kind}")
        model = w.build(target, kind)
        cut = w.cut(kind, model, f"{target}-{kind}")
        job = w.ours(kind, model, f"{target}-{kind}")
        told = run(install.python(cache, "venv-npu"), HERE / "npurun.py", where, model, job["samples"], kind, job["theirs"], cut, count)
        got = json.loads(told.strip().splitlines()[-1])  # the compilers print, too
        check(f"{target} {kind} compiled", True, f"{got['compiled']:.1f} s" + (", nothing left to the CPU" if where == "qnn" else " for the CPU"))
        layers(f"{target} {kind}, each layer in {where}", got["layers"])
        job.pop("optimized")
        w.compare([job], [least], f" in {where}")
    finish()
