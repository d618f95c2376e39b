"""Graphs that pare quantizes, in the real ONNX Runtime, natively and on an emulated processor without AVX-512; graphs that ONNX
Runtime's own tools quantize, in pare."""
import json
import shutil

import install
from common import HERE, ROOT, check, finish, quiet, run, step

GRAPHS = ROOT / "testdata" / "graphs"
MODELS = {"mnist": "mnist/mnist-8.onnx", "yunet": "yunet/yunet_n_320_320.onnx", "magika": "magika/model.onnx", "dtln": "dtln/model_1.onnx", "silero": "silero/silero_vad_16k_op15.onnx"}
LABELS = GRAPHS / "mnist/labels-idx1-ubyte.gz"
RECIPE = '[preprocess.input_3]\nstate = "tf_op_layer_stack_2"\n'  # of DTLN

# What is quantized, how, the least signal to noise in decibels of one program's outputs against the other's, and operators that must
# be left when ONNX Runtime has optimized the graph: the proof that its kernels for integers took it. Products of codes are
# the same in both; what else there is in floats differs in its last bits, which a later layer's codes may show (magika), and a state carries on.
QUANTIZED = [
    ("mnist", "uint8", 60, {"QLinearConv": 2, "QGemm": 1}),
    ("mnist", "int8", 60, {"QLinearConv": 2, "QGemm": 1}),
    ("mnist", "int16", 80, {"Conv": 2, "Gemm": 1}),
    ("yunet", "uint8", 100, {"QLinearConv": 59, "QLinearAdd": 2}),
    ("yunet", "int16", 60, {"Conv": 59}),
    ("silero", "uint8", 80, {"QLinearConv": 6}),
    ("dtln", "uint8", 60, {"Gemm": 1}),
    ("dtln", "dynamic-int8", 60, {"DynamicQuantizeMatMul": 1}),
    ("dtln", "dynamic-uint8", 60, {"DynamicQuantizeMatMul": 1}),
    ("dtln", "int4-32", 80, {"MatMulNBits": 1}),
    ("dtln", "int8-128", 80, {"MatMulNBits": 1}),
    ("magika", "uint8", 25, {"QLinearConv": 1, "MatMulIntegerToFloat": 1, "QGemm": 1}),
    ("magika", "dynamic-int8", 25, {"DynamicQuantizeMatMul": 2}),
    ("magika", "int4-32", 35, {"MatMulNBits": 2}),
]
# Networks with half of the multiplications, whose other channels pare took out, and the same bound.
PRUNED = [("mnist", 80), ("yunet", 80)]
# What ONNX Runtime's tools write, and the same bound.
THEIRS = [
    ("mnist", "qoperator", 60), ("mnist", "qoperator-s8", 60), ("mnist", "dynamic", 60),
    ("yunet", "qoperator", 100), ("yunet", "qoperator-s8", 100), ("yunet", "dynamic", 80),
    ("magika", "qoperator", 60), ("magika", "dynamic", 20),
]
# Networks that its optimizer fuses, and quantized ones as its kernels take them (those are left over from the first step).
FUSED = [("mnist", None, 80), ("yunet", None, 80), ("silero", None, 80), ("mnist", "uint8", 60), ("yunet", "uint8", 100), ("silero", "uint8", 80), ("dtln", "dynamic-int8", 60)]
# Of these each layer by itself, to one step. Magika is left out: its norms subtract sums of squares that are nearly equal.
LAYERS = ("mnist-uint8", "mnist-int8", "yunet-uint8")
# Packages for processors without VNNI on one that is emulated: what is run, how many samples, the least signal to noise. Products
# of unsigned and signed bytes saturate there (15 dB for MNIST with signed weights), so that these packages have others.
OLDER = [("mnist", 100, 60), ("yunet", 1, 100), ("silero", 20, 80)]
HASWELL = ("qemu-x86_64-static", "-cpu", "Haswell")
SAME = 0.99  # of the samples of a classifier must get the same class
FLOATS = 1e-3  # how far floats of one layer may be apart, as part of the largest


def given(flag, kind, work):
    """How pare is told where samples of a kind of model are."""
    name, path, recipe = {
        "mnist": ("Input3=", GRAPHS / "mnist/images-idx3-ubyte.gz", None),
        "yunet": ("", GRAPHS / "yunet/astronaut.png", GRAPHS / "yunet/recipe.toml"),
        "magika": ("", work / "magika-in.npy", None),
        "dtln": ("input_2=", GRAPHS / "dtln/magnitudes.npy", work / "dtln.toml"),
        "silero": ("input=", GRAPHS / "silero/speech.wav", GRAPHS / "silero/recipe.toml"),
    }[kind]
    return [flag, f"{name}{path}"] + (["-r", recipe] if recipe else [])


class Work:
    """A folder with samples, and the programs on both sides."""

    def __init__(self, pare, python, folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.pare, self.python, self.folder = pare, python, folder
        (folder / "dtln.toml").write_text(RECIPE)
        self.judge("inputs", GRAPHS, folder)

    def judge(self, verb, *args, wrapper=()):
        return run(*wrapper, self.python, HERE / "ortrun.py", verb, *args)

    def jobs(self, verb, jobs, wrapper=()):
        path = self.folder / f"{verb}.json"
        path.write_text(json.dumps(jobs, default=str))
        return self.judge(verb, path, wrapper=wrapper)

    def quantize(self, kind, how):
        model = self.folder / f"{kind}-{how}.onnx"
        learn = given("--calibration", kind, self.folder) if how in ("uint8", "int8", "int16") else []
        quiet(self.pare, "quantize", GRAPHS / MODELS[kind], "--type", how, "-o", model, *learn)
        return model

    def prune(self, kind):
        model = self.folder / f"{kind}-pruned.onnx"
        quiet(self.pare, "prune", GRAPHS / MODELS[kind], "--structure", "channels", "--flops", "50%", "-o", model, *given("--calibration", kind, self.folder))
        return model

    def build(self, target, kind):
        """A package as users get it: none where the target does not run all of the graph."""
        folder = self.folder / "packages" / kind
        run(self.pare, "build", GRAPHS / MODELS[kind], "-t", target, *given("--calibration", kind, self.folder), "--no-verify", "--no-bench", "--fail-on", "fallback", "-o", folder, "--force", "-q")
        return folder / target / "model.onnx"

    def ours(self, kind, model, name=None):
        """pare runs a model over the samples; what comes back is a job for the other side."""
        name = name or model.stem
        out = self.folder / "pare" / name
        run(self.pare, "run", model, *given("--input", kind, self.folder), "--save-output", out, "-q")
        job = {"kind": kind, "model": model, "samples": self.folder / f"{kind}.npy", "ours": out, "out": self.folder / "ort" / name, "name": name,
               "optimized": self.folder / "optimized" / f"{name}.onnx"}
        job["optimized"].parent.mkdir(exist_ok=True)
        return job | {"theirs": job["out"]} | {"mnist": {"classes": 10, "labels": LABELS}, "magika": {"classes": 214}}.get(kind, {})

    def cut(self, kind, model, name=None):
        """Every layer of a model by itself, as pare computes it."""
        out = self.folder / "cut" / (name or model.stem)
        names = json.loads(self.judge("cut", model, self.folder / f"{kind}.npy", kind, out))
        inputs = [a for n in names for a in ("--input", f"{n}={out / 'codes' / n}.npy")]
        run(self.pare, "run", out / "cut.onnx", *inputs, "--save-output", out / "pare", "-q")
        return out

    def compare(self, jobs, leasts, where=""):
        for j, got, least in zip(jobs, json.loads(self.jobs("compare", jobs)), leasts):
            name = j["name"] + where
            told = f"signal to noise {got['db']:.1f} dB (at least {least})"
            ok = got["db"] >= least
            if "agree" in got:
                told, ok = f"{told}, {100 * got['agree']:g} % of {got['samples']} clear samples in the same class", ok and got["agree"] >= SAME
            if "right" in got:
                told, ok = f"{told}, right {100 * got['right'][0]:.2f} % in pare and {100 * got['right'][1]:.2f} % there", ok and abs(got["right"][0] - got["right"][1]) <= 1 - SAME
            check(name, ok, told)
            for op, n in j.get("counts", {}).items():
                check(f"{name}: {op}", got["operators"].get(op, 0) >= n, f"{got['operators'].get(op, 0)} after optimization (at least {n})")


def layers(what, got):
    check(what, got["codes"] > 0 and got["steps"] <= 1 and got["floats"] <= FLOATS,
          f"{got['codes']} codes, {got['differ']} differ, by at most {got['steps']} step (limit 1); floats by {got['floats']:.1e} (limit {FLOATS:g})")


def prove(cache, pare):
    step("install")
    install.onnx(cache)
    w = Work(pare, install.python(cache, "venv-onnx"), cache / "work-graphs")
    step("pare quantizes, ONNX Runtime runs")
    jobs = [w.ours(kind, w.quantize(kind, how)) | {"counts": counts} for kind, how, _, counts in QUANTIZED]
    w.jobs("run", jobs)
    w.compare(jobs, [least for _, _, least, _ in QUANTIZED])
    step("pare takes channels out, ONNX Runtime runs")
    jobs = [w.ours(kind, w.prune(kind)) for kind, _ in PRUNED]
    w.jobs("run", jobs)
    w.compare(jobs, [least for _, least in PRUNED])
    step("layer by layer")
    for j in jobs:
        if j["model"].stem in LAYERS:
            layers(f"{j['model'].stem}, each layer", json.loads(w.judge("steps", w.cut(j["kind"], j["model"]))))
    step("packages for x86-64-v3, natively and on an emulated Haswell")
    jobs = [w.ours(kind, w.build("x86-64-v3", kind), f"x86-64-v3-{kind}") | {"count": count} for kind, count, _ in OLDER]
    w.jobs("run", jobs)
    w.compare(jobs, [least for _, _, least in OLDER])
    for j in jobs:
        j["out"] = j["theirs"] = w.folder / "haswell" / j["name"]
        del j["optimized"]
    w.jobs("run", jobs, HASWELL)
    w.compare(jobs, [least for _, _, least in OLDER], " on Haswell")
    step("ONNX Runtime quantizes, pare runs")
    w.judge("quantize", GRAPHS, w.folder)
    jobs = [w.ours(kind, w.folder / f"ort-{kind}-{how}.onnx") for kind, how, _ in THEIRS]
    w.jobs("run", jobs)
    w.compare(jobs, [least for _, _, least in THEIRS])
    step("ONNX Runtime optimizes, pare runs")
    jobs = []
    for kind, how, _ in FUSED:
        model = w.folder / "optimized" / f"{kind}-{how}.onnx"
        if how is None:
            w.judge("optimize", GRAPHS / MODELS[kind], model)
        jobs.append(w.ours(kind, model, f"optimized-{kind}-{how or 'f32'}"))
    w.jobs("run", jobs)
    w.compare(jobs, [least for _, _, least in FUSED])
    finish()
