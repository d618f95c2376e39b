#!/usr/bin/env python3
"""Fills this folder: real models, inputs, and what ONNX Runtime computes from them.

    make.py SOURCES      numpy 2.4.6, onnxruntime 1.31.1, pillow 12.0.0

SOURCES has the files named in README.md in folders onnx-mnist, mnist-test, yunet-n, silero-vad, dtln, magika,
and astronaut.png. Every .npy is C-ordered and little-endian. ONNX Runtime runs on one thread of the CPU,
without graph optimizations, so that its numbers are those of the operators as they stand.
"""
import base64
import gzip
import json
import pathlib
import shutil
import struct
import sys
import wave

import numpy as np
import onnxruntime as ort
from PIL import Image

HERE = pathlib.Path(__file__).parent
DIGITS, CONTENTS = 1000, 64
SECONDS, FRAMES = 8, 120


def session(path):
    o = ort.SessionOptions()
    o.intra_op_num_threads = 1
    o.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(str(path), o, providers=["CPUExecutionProvider"])


def folder(name, *files):
    out = HERE / name
    out.mkdir(exist_ok=True)
    for f in files:
        shutil.copyfile(f, out / f.name)
    return out


def save(path, array):
    np.save(path, np.ascontiguousarray(array))


def mnist(src):
    """The first digits of the test set; pixels go in as 0..255."""
    out = folder("mnist", src / "onnx-mnist/mnist-8.onnx")
    for kind, head, item in (("images-idx3", 16, 784), ("labels-idx1", 8, 1)):
        raw = gzip.decompress((src / f"mnist-test/t10k-first5k-{kind}-ubyte.gz").read_bytes())
        cut = raw[:4] + struct.pack(">I", DIGITS) + raw[8 : head + DIGITS * item]
        (out / f"{kind}-ubyte.gz").write_bytes(gzip.compress(cut, 9, mtime=0))
        if head == 16:
            images = np.frombuffer(cut, np.uint8, offset=16).reshape(-1, 1, 1, 28, 28).astype(np.float32)
    s = session(out / "mnist-8.onnx")
    save(out / "logits.npy", np.concatenate([s.run(None, {"Input3": x})[0] for x in images]))


def yunet(src):
    """One photograph with a face, as BGR planes of 0..255."""
    out = folder("yunet", src / "yunet-n/yunet_n_320_320.onnx")
    image = Image.open(src / "astronaut.png").convert("RGB").resize((320, 320), Image.Resampling.BOX)
    image.save(out / "astronaut.png", optimize=True)
    x = np.asarray(image)[:, :, ::-1].transpose(2, 0, 1)[None].astype(np.float32)
    s = session(out / "yunet_n_320_320.onnx")
    for o, y in zip(s.get_outputs(), s.run(None, {"input": x})):
        save(out / f"{o.name}.npy", y)


def speech(src):
    """The beginning of the recording, as a WAV file and as floats in -1..1."""
    with wave.open(str(src / "silero-vad/test.wav")) as w:
        assert (w.getnchannels(), w.getsampwidth(), w.getframerate()) == (1, 2, 16000)
        raw = w.readframes(16000 * SECONDS)
    out = folder("silero", src / "silero-vad/silero_vad_16k_op15.onnx")
    with wave.open(str(out / "speech.wav"), "wb") as w:
        w.setnchannels(1)
        w.setsampwidth(2)
        w.setframerate(16000)
        w.writeframes(raw)
    return np.frombuffer(raw, np.int16).astype(np.float32) / 32768


def silero(samples):
    """Chunks of 512 samples, each behind the last 64 of the chunk before; the state is carried along."""
    out = HERE / "silero"
    s = session(out / "silero_vad_16k_op15.onnx")
    state, before, probabilities = np.zeros((2, 1, 128), np.float32), np.zeros(64, np.float32), []
    for at in range(0, len(samples) - 511, 512):
        chunk = np.concatenate([before, samples[at : at + 512]])
        before = chunk[-64:]
        p, state = s.run(None, {"input": chunk[None], "state": state, "sr": np.array(16000, np.int64)})
        probabilities.append(p[0, 0])
    save(out / "probabilities.npy", np.array(probabilities, np.float32))
    save(out / "state.npy", state)


def dtln(src, samples):
    """Magnitudes of blocks of 512 samples, 128 apart; the state is carried along."""
    out = folder("dtln", src / "dtln/model_1.onnx")
    s = session(out / "model_1.onnx")
    blocks = np.stack([samples[16000 + 128 * i :][:512] for i in range(FRAMES)])
    magnitudes = np.abs(np.fft.rfft(blocks)).astype(np.float32)
    state, masks = np.zeros((1, 2, 128, 2), np.float32), []
    for m in magnitudes:
        mask, state = s.run(None, {"input_2": m[None, None], "input_3": state})
        masks.append(mask[0, 0])
    save(out / "magnitudes.npy", magnitudes)
    save(out / "masks.npy", np.array(masks))
    save(out / "state.npy", state)


def features(content):
    """1,024 bytes from the beginning and 1,024 from the end, without white space around; 256 is padding."""
    begin, end = content[:4096].lstrip()[:1024], content[-4096:].rstrip()[-1024:]
    pad = lambda n: [256] * (1024 - n)
    return list(begin) + pad(len(begin)) + pad(len(end)) + list(end)


def magika(src):
    names = "model.onnx", "config.min.json", "metadata.json", "features_extraction_examples.json.gz"
    by_content = src / "magika/standard_v3_3-inference_examples_by_content.json.gz"
    out = folder("magika", *(src / "magika" / n for n in names), by_content)
    for e in json.loads(gzip.decompress((out / names[3]).read_bytes())):
        a = e["args"]
        if (a["beg_size"], a["end_size"], a["block_size"]) == (1024, 1024, 4096):
            want = e["features"]["beg"] + e["features"]["end"]
            assert features(base64.b64decode(e["content_base64"])) == want
    labels = json.loads((out / "config.min.json").read_text())["target_labels_space"]
    rows, references = [], []
    for e in json.loads(gzip.decompress(by_content.read_bytes())):
        if e["status"] == "ok" and e["prediction"]["dl"] != "undefined" and len(rows) < CONTENTS:
            rows.append(features(base64.b64decode(e["content_base64"])))
            references.append(e["prediction"])
    x = np.array(rows, np.int32)
    scores = session(out / "model.onnx").run(None, {"bytes": x})[0]
    for row, p in zip(scores, references):  # what the publisher computed
        assert labels[row.argmax()] == p["dl"] and abs(row.max() - p["score"]) < 5e-3
    save(out / "inputs.npy", x)
    save(out / "scores.npy", scores)


def main():
    src = pathlib.Path(sys.argv[1])
    mnist(src)
    yunet(src)
    samples = speech(src)
    silero(samples)
    dtln(src, samples)
    magika(src)


if __name__ == "__main__":
    main()
