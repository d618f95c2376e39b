"""accuracy.py GRAPHS WORK PARE: what is left of networks in 8 bits, quantized by pare, by ONNX Runtime's quantizer with each of its
calibrators, and by NNCF, on the same samples. All of them run in ONNX Runtime, on samples that calibration has not seen (but for magika,
of which there are few). Prints signal to noise against the float network in decibels, and shares of right classes, as JSON.
"""
import json
import logging
import pathlib
import subprocess
import sys
import wave

import numpy as np
import onnx
from PIL import Image

from ortrun import session


def crops(photo, n, seed):
    """Square cuts of a photograph, as BGR planes."""
    rng = np.random.default_rng(seed)
    for _ in range(n):
        side = int(min(photo.size) * rng.uniform(0.3, 1))
        x, y = rng.integers(0, photo.size[0] - side + 1), rng.integers(0, photo.size[1] - side + 1)
        cut = np.asarray(photo.crop((x, y, x + side, y + side)).resize((320, 320), Image.Resampling.BILINEAR))
        yield cut[:, :, ::-1].transpose(2, 0, 1)[None].astype(np.float32)


def walk(model, name, chunks, state, to, more):
    """Chunks with the state that the float network has when it comes to them."""
    s, carried, states = session(model), np.zeros(*state[1:]), []
    for c in chunks:
        states.append(carried)
        carried = s.run([to], {name: c, state[0]: carried} | more)[0]
    return {name: np.stack(chunks), state[0]: np.stack(states)}


def samples(graphs):
    """Of each network: its file, inputs that never change, samples to learn from and samples to be judged on."""
    import gzip

    half = lambda feeds, step: ({k: v[: len(v) // 2 : step] for k, v in feeds.items()}, {k: v[len(v) // 2 :] for k, v in feeds.items()})
    digits = np.frombuffer(gzip.decompress((graphs / "mnist/images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16).reshape(-1, 1, 1, 28, 28).astype(np.float32)
    yield "mnist", graphs / "mnist/mnist-8.onnx", {}, {"Input3": digits[:200]}, {"Input3": digits[200:]}
    photo = Image.open(graphs / "yunet/astronaut.png").convert("RGB")
    yield "yunet", graphs / "yunet/yunet_n_320_320.onnx", {}, {"input": np.stack(list(crops(photo, 40, 1)))}, {"input": np.stack(list(crops(photo, 30, 2)))}
    frames = np.load(graphs / "dtln/magnitudes.npy")[:, None, None]
    yield "dtln", graphs / "dtln/model_1.onnx", {}, *half(walk(graphs / "dtln/model_1.onnx", "input_2", list(frames), ("input_3", (1, 2, 128, 2), np.float32), "tf_op_layer_stack_2", {}), 1)
    with wave.open(str(graphs / "silero/speech.wav")) as w:
        pcm = np.concatenate([np.zeros(64, np.float32), np.frombuffer(w.readframes(w.getnframes()), np.int16).astype(np.float32) / 32768])
    chunks = [pcm[at : at + 576][None] for at in range(0, len(pcm) - 575, 512)]
    rate = {"sr": np.array(16000, np.int64)}
    model = graphs / "silero/silero_vad_16k_op15.onnx"
    yield "silero", model, rate, *half(walk(model, "input", chunks, ("state", (2, 1, 128), np.float32), "stateN", rate), 2)
    files = np.load(graphs / "magika/inputs.npy")[:, None]
    yield "magika", graphs / "magika/model.onnx", {}, {"bytes": files}, {"bytes": files}


def feeds(data, more):
    return [{k: v[i] for k, v in data.items()} | more for i in range(len(next(iter(data.values()))))]


def outputs(model, data):
    s = session(model)
    rows = [s.run(None, f) for f in data]
    return [np.stack(column) for column in zip(*rows)]


def modern(model, out):
    """What the other quantizers need before they can begin: a newer operator set, and weights that are no inputs."""
    m = onnx.load(model)
    if m.opset_import[0].version < 13:
        m = onnx.version_converter.convert_version(m, 13)
    stored = {t.name for t in m.graph.initializer}
    kept = [i for i in m.graph.input if i.name not in stored]
    del m.graph.input[:]
    m.graph.input.extend(kept)
    m.ir_version = max(m.ir_version, 8)
    onnx.save(m, out)
    return out


def by_pare(pare, model, learn, more, out):
    args = []
    for name, v in learn.items():
        path = out.with_name(f"{out.stem}-{name}.npy")
        np.save(path, v)
        args += ["--calibration", f"{name}={path}"]
    for name, v in more.items():
        args += ["--calibration", f"{name}={v}"]
    subprocess.run([pare, "quantize", model, "--type", "uint8", "-o", out, "--force", "-q", *args], check=True, stdout=subprocess.DEVNULL)


def by_ort(method, model, learn, more, out):
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.rest = iter(feeds(learn, more))

        def get_next(self):
            return next(self.rest, None)

    ready = modern(model, out.with_suffix(".13.onnx"))
    try:
        quant_pre_process(ready, out.with_suffix(".pre.onnx"))
        ready = out.with_suffix(".pre.onnx")
    except Exception:  # it cannot follow the shapes of every network; quantization goes on without
        pass
    quantize_static(ready, out, Reader(), quant_format=QuantFormat.QDQ, per_channel=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                    calibrate_method=getattr(CalibrationMethod, method))


def by_nncf(fast, model, learn, more, out):
    import nncf

    rows = feeds(learn, more)
    m = onnx.load(modern(model, out.with_suffix(".13.onnx")))
    onnx.save(nncf.quantize(m, nncf.Dataset(rows), subset_size=len(rows), fast_bias_correction=fast), out)


def references(graphs, n):
    """What magika's own library said of the files: its network's class of each, as an index."""
    import gzip

    labels = json.loads((graphs / "magika/config.min.json").read_text())["target_labels_space"]
    examples = json.loads(gzip.decompress((graphs / "magika/standard_v3_3-inference_examples_by_content.json.gz").read_bytes()))
    told = [e["prediction"]["dl"] for e in examples if e["status"] == "ok" and e["prediction"]["dl"] != "undefined"]
    return np.array([labels.index(x) for x in told[:n]])


def judge(kind, want, got, graphs):
    """Signal to noise over all outputs, of the first, and the shares of right classes, here and in float."""
    import gzip

    ratio = lambda a, b: 10 * np.log10((a.astype(np.float64) ** 2).sum() / max(((a.astype(np.float64) - b) ** 2).sum(), 1e-30))
    told = {"db": ratio(np.concatenate([x.ravel() for x in want]), np.concatenate([x.ravel() for x in got])), "first": ratio(want[0], got[0])}
    if kind == "mnist":
        labels = np.frombuffer(gzip.decompress((graphs / "mnist/labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)[-len(got[0]):]
    elif kind == "magika":
        labels = references(graphs, len(got[0]))
    else:
        return told
    told["right"], told["float"] = (float((x[0].reshape(len(labels), -1).argmax(1) == labels).mean()) for x in (got, want))
    return told


def main(graphs, work, pare):
    logging.disable(logging.WARNING)
    table = {}
    for kind, model, more, learn, test in samples(graphs):
        data = feeds(test, more)
        want = outputs(model, data)
        makers = {"pare": lambda m, l, e, o: by_pare(pare, m, l, e, o)}
        makers |= {f"ONNX Runtime, {m}": (lambda m: lambda *a: by_ort(m, *a))(m) for m in ("MinMax", "Entropy", "Percentile")}
        makers |= {"NNCF": lambda *a: by_nncf(True, *a), "NNCF, full bias correction": lambda *a: by_nncf(False, *a)}
        table[kind] = {}
        for name, make in makers.items():
            out = work / f"{kind}-{name.replace(', ', '-').replace(' ', '-').lower()}.onnx"
            try:
                make(model, learn, more, out)
                table[kind][name] = judge(kind, want, outputs(out, data), graphs)
            except Exception as e:
                table[kind][name] = {"failed": (str(e).strip().splitlines() or [repr(e)])[0][:90]}
            print(kind, name, json.dumps(table[kind][name]), file=sys.stderr, flush=True)
    print(json.dumps(table))


if __name__ == "__main__":
    main(*(pathlib.Path(a).resolve() for a in sys.argv[1:]))
