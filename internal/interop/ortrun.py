"""ortrun.py VERB ...: what graphs.py asks of ONNX Runtime, in the environment that has it.

    inputs GRAPHS WORK   arrays of the samples in testdata/graphs, prepared as the folder's make.py says
    run JOBS             run each model over its samples, and write one array an output
    quantize WORK        quantize by ONNX Runtime's own tools, into its integer operators
    compare JOBS         print what two folders of outputs have in common, as JSON
    steps DIR            run DIR/cut.onnx, and print how far its codes are from those in DIR/pare, as JSON
    optimize MODEL OUT   write what ONNX Runtime's optimizer makes of a model, but for layouts of one processor
    fuse MODEL OUT       write what its optimizer for text encoders makes of a model
    tokens TEXTS OUT     write each list of tokens of a JSON file as the arrays that a text encoder reads
    embed MODEL IN OURS  print the mean vectors of texts, of length 1, here and as pare has saved theirs, as JSON
    cut MODEL SAMPLES KIND OUT   take a model of codes apart where codes pass from layer to layer, with what each reads

JOBS is a JSON file. `run` needs numpy and onnxruntime only, and keeps its imports few: it is also run on an emulated
processor.
"""
import json
import pathlib
import sys

import numpy as np

# Of each kind of model: the input of its samples, what other inputs are, and which output each state comes from.
KINDS = {
    "mnist": ("Input3", {}, {}),
    "yunet": ("input", {}, {}),
    "magika": ("bytes", {}, {}),
    "dtln": ("input_2", {}, {"input_3": "tf_op_layer_stack_2"}),
    "silero": ("input", {"sr": np.array(16000, np.int64)}, {"state": "stateN"}),
}
FILES = 8  # samples of magika, which takes a while each
TIE = 0.03  # classes closer than this part of the largest score count as equal
MOVERS = ("Transpose", "Reshape")
STATES = {"input_3": (1, 2, 128, 2), "state": (2, 1, 128)}


def inputs(graphs, work):
    import gzip
    import wave

    from PIL import Image

    graphs, work = pathlib.Path(graphs), pathlib.Path(work)
    digits = np.frombuffer(gzip.decompress((graphs / "mnist/images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    np.save(work / "mnist.npy", digits.reshape(-1, 1, 1, 28, 28).astype(np.float32))
    photo = np.asarray(Image.open(graphs / "yunet/astronaut.png").convert("RGB"))
    np.save(work / "yunet.npy", photo[:, :, ::-1].transpose(2, 0, 1)[None, None].astype(np.float32))
    files = np.load(graphs / "magika/inputs.npy")[:FILES]
    np.save(work / "magika-in.npy", files)
    np.save(work / "magika.npy", files[:, None])
    np.save(work / "dtln.npy", np.load(graphs / "dtln/magnitudes.npy")[:, None, None])
    with wave.open(str(graphs / "silero/speech.wav")) as w:
        pcm = np.frombuffer(w.readframes(w.getnframes()), np.int16).astype(np.float32) / 32768
    pcm = np.concatenate([np.zeros(64, np.float32), pcm])
    np.save(work / "silero.npy", np.stack([pcm[at : at + 576][None] for at in range(0, len(pcm) - 575, 512)]))


def session(path, optimized=None):
    import onnxruntime as ort

    ort.set_default_logger_severity(3)
    o = ort.SessionOptions()
    o.intra_op_num_threads = 1
    if optimized:
        o.optimized_model_filepath = str(optimized)
    return ort.InferenceSession(str(path), o, providers=["CPUExecutionProvider"])


def optimize(model, out):
    import onnxruntime as ort

    o = ort.SessionOptions()
    o.log_severity_level, o.optimized_model_filepath, o.graph_optimization_level = 3, str(out), ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    ort.InferenceSession(str(model), o, providers=["CPUExecutionProvider"])


def fuse(model, out):
    from onnxruntime.transformers import optimizer

    m = optimizer.optimize_model(model, model_type="bert", num_heads=12, hidden_size=384, opt_level=0)
    m.save_model_to_file(out)
    print(json.dumps(operators(out)))


def tokens(texts, out):
    for i, t in enumerate(json.loads(pathlib.Path(texts).read_text())):
        folder = pathlib.Path(out, str(i))
        folder.mkdir(parents=True)
        for name, value in (("input_ids", t["tokens"]), ("attention_mask", [1] * len(t["tokens"])), ("token_type_ids", [0] * len(t["tokens"]))):
            np.save(folder / f"{name}.npy", np.array([value], np.int64))


def embed(model, given, ours):
    def mean(y):
        v = y.reshape(-1, y.shape[-1]).astype(np.float64).mean(0)
        return (v / np.linalg.norm(v)).tolist()

    s = session(model)
    told = {"ort": [], "pare": []}
    for folder in sorted(pathlib.Path(given).iterdir(), key=lambda p: int(p.name)):
        told["ort"].append(mean(s.run(["last_hidden_state"], {i.name: np.load(folder / f"{i.name}.npy") for i in s.get_inputs()})[0]))
        told["pare"].append(mean(np.load(pathlib.Path(ours, folder.name, "last_hidden_state.npy"))))
    print(json.dumps(told))


def rollout(s, kind, samples):
    """The outputs of a model over samples, one after the other, states carried along."""
    name, fixed, states = KINDS[kind]
    names = [o.name for o in s.get_outputs()]
    feeds = dict(fixed) | {i: np.zeros(STATES[i], np.float32) for i in states}
    feeds = {k: v for k, v in feeds.items() if k in {i.name for i in s.get_inputs()}}
    rows = []
    for x in samples:
        got = dict(zip(names, s.run(None, feeds | {name: x})))
        rows.append(got)
        feeds |= {i: got[o] for i, o in states.items()}
    return {n: np.stack([r[n] for r in rows]) for n in names}


def stem(name):
    """What pare calls the file of an output."""
    return name.replace("/", "_")


def run(jobs):
    for job in json.loads(pathlib.Path(jobs).read_text()):
        samples = np.load(job["samples"])[: job.get("count")]
        for name, y in rollout(session(job["model"], job.get("optimized")), job["kind"], samples).items():
            out = pathlib.Path(job["out"])
            out.mkdir(parents=True, exist_ok=True)
            np.save(out / f"{stem(name)}.npy", y)


def operators(path):
    """How often each operator is in a model, bodies of If and Loop included."""
    import onnx

    counts, todo = {}, [onnx.load(path, load_external_data=False).graph]
    while todo:
        for n in todo.pop().node:
            counts[n.op_type] = counts.get(n.op_type, 0) + 1
            todo += [a.g for a in n.attribute if a.type == onnx.AttributeProto.GRAPH]
    return counts


def compare(jobs):
    import gzip

    told = []
    for job in json.loads(pathlib.Path(jobs).read_text()):
        ours, theirs = pathlib.Path(job["ours"]), pathlib.Path(job["theirs"])
        signal = noise = 0.0
        names = sorted(p.name for p in theirs.glob("*.npy"))
        if not names or names != sorted(p.name for p in ours.glob("*.npy")):
            sys.exit(f"{ours} and {theirs} have other outputs")
        for n in names:
            a, b = np.load(theirs / n), np.load(ours / n)
            b = b[: len(a)] if b.size > a.size else b
            if a.size != b.size:
                sys.exit(f"{n}: {a.shape} in {theirs}, {b.shape} in {ours}")
            a, b = a.ravel().astype(np.float64), b.ravel()
            signal, noise = signal + float((a**2).sum()), noise + float(((a - b) ** 2).sum())
        got = {"db": min(200.0, 10 * float(np.log10(signal / max(noise, 1e-300)))) if signal else 0.0}
        first = np.load(theirs / names[0]), np.load(ours / names[0])
        if job.get("classes"):
            scores = np.sort(first[0].reshape(-1, job["classes"]), 1)
            clear = scores[:, -1] - scores[:, -2] > TIE * np.abs(scores).max()
            a, b = (x.reshape(-1, job["classes"]).argmax(1)[: len(scores)] for x in first)
            got |= {"samples": int(clear.sum()), "agree": float((a == b)[clear].mean())}
            if job.get("labels"):
                labels = np.frombuffer(gzip.decompress(pathlib.Path(job["labels"]).read_bytes()), np.uint8, offset=8)
                got["right"] = [float((x == labels[: len(x)]).mean()) for x in (b, a)]
        if job.get("optimized"):
            got["operators"] = operators(job["optimized"])
        told.append(got)
    print(json.dumps(told))


def quantize(graphs, work):
    """ONNX Runtime's own quantizers: integer operators with ranges from samples, and ranges found while running."""
    import logging

    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

    logging.disable(logging.WARNING)

    class Reader(CalibrationDataReader):
        def __init__(self, kind):
            name, fixed, _ = KINDS[kind]
            self.feeds = iter([fixed | {name: x} for x in np.load(work / f"{kind}.npy")[:20]])

        def get_next(self):
            return next(self.feeds, None)

    graphs, work = pathlib.Path(graphs), pathlib.Path(work)
    for kind, model in (("mnist", "mnist-8"), ("yunet", "yunet_n_320_320"), ("magika", "model")):
        m = onnx.load(graphs / kind / f"{model}.onnx")
        if m.opset_import[0].version < 13:  # its quantizer writes invalid files for older operator sets
            m = onnx.version_converter.convert_version(m, 13)
        stored = {t.name for t in m.graph.initializer}
        kept = [i for i in m.graph.input if i.name not in stored]
        del m.graph.input[:]
        m.graph.input.extend(kept)
        m.ir_version = max(m.ir_version, 8)
        onnx.save(m, work / f"{kind}-13.onnx")
        for label, per_channel, kw in (("qoperator", True, {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}),
                                       ("qoperator-s8", False, {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8})):
            quantize_static(work / f"{kind}-13.onnx", work / f"ort-{kind}-{label}.onnx", Reader(kind), quant_format=QuantFormat.QOperator, per_channel=per_channel, **kw)
        quantize_dynamic(work / f"{kind}-13.onnx", work / f"ort-{kind}-dynamic.onnx", weight_type=QuantType.QUInt8)
    quantize_dynamic(graphs / "dtln/model_1.onnx", work / "ort-dtln-dynamic.onnx", weight_type=QuantType.QInt8)


def cut(model, samples, kind, out):
    """Writes OUT/cut.onnx, in which each layer reads codes that are given and writes codes that can be seen, so that no
    difference of one layer reaches another; OUT/codes has what to give, as ONNX Runtime computes it from the first sample."""
    import onnx

    out = pathlib.Path(out)
    (out / "codes").mkdir(parents=True, exist_ok=True)
    m = onnx.load(model)
    g = m.graph
    coders = [n.output[0] for n in g.node if n.op_type == "QuantizeLinear"]
    name, fixed, states = KINDS[kind]
    feeds = fixed | {i: np.zeros(STATES[i], np.float32) for i in states} | {name: np.load(samples)[0]}
    open_names = {i.name for i in g.input}
    seen = onnx.ModelProto()
    seen.CopyFrom(m)
    seen.graph.output.extend(onnx.ValueInfoProto(name=c) for c in coders if c not in {o.name for o in g.output})
    onnx.save(seen, out / "seen.onnx")
    got = session(out / "seen.onnx").run(coders, {k: v for k, v in feeds.items() if k in open_names})
    order = []
    for i, (c, codes) in enumerate(zip(coders, got)):
        typ = onnx.helper.np_dtype_to_tensor_dtype(codes.dtype)
        readers = [n for n in g.node if c in n.input]
        # moved by itself, a code may end on another processor: it stays with what computes it
        fed = bool(readers) and not any(n.op_type in MOVERS for r in readers for n in g.node if r.output[0] in n.input)
        for n in g.node:
            n.input[:] = [(f"cut{i}" if fed else f"code{i}") if x == c else x for x in n.input]
            n.output[:] = [f"code{i}" if x == c else x for x in n.output]
        if fed:
            g.input.append(onnx.helper.make_tensor_value_info(f"cut{i}", typ, codes.shape))
            np.save(out / "codes" / f"cut{i}.npy", codes)
            order.append(f"cut{i}")
        g.output.append(onnx.helper.make_tensor_value_info(f"code{i}", typ, codes.shape))
    for i in list(g.input):
        if i.name in feeds:
            np.save(out / "codes" / f"{i.name}.npy", feeds[i.name])
            order.append(i.name)
    onnx.save(m, out / "cut.onnx")
    print(json.dumps(order))


def given(folder):
    """What cut put aside for its model."""
    return {p.stem: np.load(p) for p in pathlib.Path(folder, "codes").glob("*.npy")}


def apart(folder, got):
    """How far outputs are from pare's of the same cut model: codes in steps, floats as part of the largest."""
    told = {"codes": 0, "differ": 0, "steps": 0, "floats": 0.0}
    for name, y in got.items():
        ours = np.load(pathlib.Path(folder, "pare", stem(name) + ".npy")).reshape(y.shape)
        if y.dtype.kind == "f":
            told["floats"] = max(told["floats"], float(np.abs(y - ours).max() / max(float(np.abs(y).max()), 1e-9)))
            continue
        away = np.abs(y.astype(np.int64) - ours.astype(np.int64))
        told["codes"], told["differ"], told["steps"] = told["codes"] + away.size, told["differ"] + int((away > 0).sum()), max(told["steps"], int(away.max()))
    return told


def steps(folder):
    s = session(pathlib.Path(folder, "cut.onnx"))
    names = [o.name for o in s.get_outputs()]
    print(json.dumps(apart(folder, dict(zip(names, s.run(names, given(folder)))))))


if __name__ == "__main__":
    {"inputs": inputs, "run": run, "quantize": quantize, "compare": compare, "cut": cut, "steps": steps, "optimize": optimize, "fuse": fuse, "tokens": tokens, "embed": embed}[sys.argv[1]](*sys.argv[2:])
