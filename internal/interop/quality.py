"""What 8 bits leave of networks: pare beside ONNX Runtime's quantizer with each of its calibrators, and NNCF."""
import json
import shutil

import install
from common import HERE, check, finish, run, step
from graphs import GRAPHS

TIE = 0.2  # decibels of signal to noise
DIGIT = 0.002  # of the samples in the right class: one digit of 800


def cell(v):
    if "failed" in v:
        return "fails"
    return f"{v['db']:.1f}" + (f" · {100 * v['right']:.2f} %" if "right" in v else "")


def prove(cache, pare):
    step("install")
    install.nncf(cache)
    work = cache / "work-accuracy"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    step("quantize and compare")
    table = json.loads(run(install.python(cache, "venv-nncf"), HERE / "accuracy.py", GRAPHS, work, pare).strip().splitlines()[-1])
    names = list(next(iter(table.values())))
    print("| network | " + " | ".join(names) + " |\n" + "|---" * (len(names) + 1) + "|")
    for kind, row in table.items():
        print(f"| {kind} | " + " | ".join(cell(row[n]) for n in names) + " |")
    for kind, row in table.items():
        ours = row["pare"]
        for n in names[1:]:
            theirs = row[n]
            if "failed" in theirs:
                check(f"{kind}: {n}", True, f"it fails: {theirs['failed']}")
                continue
            ok = all(ours[m] >= theirs[m] - TIE for m in ("db", "first")) and ours.get("right", 1) >= theirs.get("right", 1) - DIGIT
            check(f"{kind}: pare and {n}", ok, f"{cell(ours)} and {cell(theirs)}; first output {ours['first']:.1f} and {theirs['first']:.1f} dB")
    finish()
