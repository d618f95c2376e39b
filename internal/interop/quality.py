"""What 8 bits leave of networks: pare beside ONNX Runtime's quantizer with each of its calibrators, and NNCF."""
import json
import shutil

import install
from common import HERE, check, finish, run, step
from graphs import GRAPHS

# What an integer network has to keep: decibels of signal to noise, or as many more than the best of ONNX Runtime's calibrators; and the
# share of right classes that it may lose. Magika's right classes are those that its own library gives.
LEAST = {"mnist": 38, "yunet": 26}
AHEAD = {"silero": 3, "dtln": 3}
LOSS = {"mnist": 0.001}
# Of a sentence encoder: the mean cosine to the embeddings in float, and the share of right nearest neighbours that it may lose.
COSINE, NEIGHBOURS = {"uint8": 0.995, "dynamic-int8": 0.99}, 0.003
TIE = 0.2  # decibels of signal to noise
DIGIT = 0.002  # of the samples in the right class: one digit of 800


def cell(v):
    if "failed" in v:
        return "fails"
    return f"{v['db']:.1f}" + (f" · {100 * v['right']:.2f} %" if "right" in v else "")


def bars(kind, row):
    """What a network has to reach whatever the others do."""
    ours = row["pare"]
    theirs = [v for n, v in row.items() if n.startswith("ONNX Runtime") and "failed" not in v]
    if kind in LEAST:
        check(f"{kind}: signal to noise", ours["db"] >= LEAST[kind], f"{ours['db']:.1f} dB (at least {LEAST[kind]})")
    for m, what in (("db", "all outputs"), ("first", "first output")) if kind in AHEAD and theirs else ():
        least = max(v[m] for v in theirs) + AHEAD[kind]
        check(f"{kind}: ahead of ONNX Runtime, {what}", ours[m] >= least, f"{ours[m]:.1f} dB (at least {least:.1f})")
    if kind in LOSS:
        check(f"{kind}: right classes", ours["right"] >= ours["float"] - LOSS[kind], f"{100 * ours['right']:.2f} % of {100 * ours['float']:.2f} % in float (may lose {100 * LOSS[kind]:g} points)")
    if kind == "magika":
        best = max((v["right"] for v in theirs), default=0)
        check("magika: right classes", ours["float"] == 1 and ours["right"] >= best, f"{100 * ours['right']:.2f} % as its library says (float {100 * ours['float']:.2f} %, at least {100 * best:.2f} %)")


def encoder(cache, pare, table, work):
    """Questions with categories are found again with integers."""
    told = json.loads(run(install.python(cache, "venv-nncf"), HERE / "banking.py", pare, install.minilm(cache), table, work).strip().splitlines()[-1])
    for kind, least in COSINE.items():
        got = told[kind]
        check(f"sentences, {kind}: cosine", got["cosine"] >= least, f"{got['cosine']:.5f} (at least {least})")
        check(f"sentences, {kind}: nearest neighbours", got["right"] >= told["float"]["right"] - NEIGHBOURS, f"{100 * got['right']:.2f} % of {100 * told['float']['right']:.2f} % in float (may lose {100 * NEIGHBOURS:g} points)")


def prove(cache, pare, questions=None):
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
        bars(kind, row)
    if questions:
        step("sentences")
        encoder(cache, pare, questions, work)
    finish()
