"""banking.py PARE ENCODER CSV WORK: what 8 bits leave of a sentence encoder, on questions with categories (the training split of BANKING77:
a CSV of text and category). Every second question is looked up among the others, by the nearest embedding. Ranges come from every 40th
of those that are looked up among; the quantized graph runs in ONNX Runtime. Prints shares of right categories and cosines as JSON.
"""
import csv
import json
import pathlib
import subprocess
import sys

import numpy as np

from ortrun import session


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def right(v, labels):
    """The share of odd rows whose nearest even row has their label."""
    return float((labels[::2][(v[1::2] @ v[::2].T).argmax(1)] == labels[1::2]).mean())


def in_runtime(model, tokens):
    s = session(model)
    names, rows = [i.name for i in s.get_inputs()], []
    for ids in tokens:
        a = np.array([ids], np.int64)
        feeds = {"input_ids": a, "attention_mask": np.ones_like(a), "token_type_ids": np.zeros_like(a)}
        y = s.run(None, {n: feeds[n] for n in names})[0]
        rows.append(y.reshape(-1, y.shape[-1]).mean(0))  # of the tokens; one row where the graph takes their mean itself
    return unit(np.stack(rows))


def main(pare, encoder, table, work):
    with open(table, newline="", encoding="utf-8") as f:
        rows = [(" ".join(r["text"].split()), r["category"]) for r in csv.DictReader(f)]
    texts, labels = [r[0] for r in rows], np.array([r[1] for r in rows])
    told = subprocess.run([pare, "run", encoder, "-p", "-", "--output", "json", "-q"], input="\n".join(texts), capture_output=True, text=True, check=True)
    made = json.loads(told.stdout)["texts"]
    assert len(made) == len(texts), (len(made), len(texts))
    float_, tokens = unit(np.array([e["embedding"] for e in made], np.float32)), [e["tokens"] for e in made]
    learn = work / "questions.txt"
    learn.write_text("\n".join(texts[::40]) + "\n")
    out = {"float": {"right": right(float_, labels)}}
    for kind, more in (("uint8", ["--calibration", learn]), ("dynamic-int8", [])):
        model = work / f"banking-{kind}.onnx"
        subprocess.run([pare, "quantize", encoder, "--type", kind, "-o", model, "--force", "-q", *more], check=True, stdout=subprocess.DEVNULL)
        v = in_runtime(model, tokens)
        out[kind] = {"right": right(v, labels), "cosine": float((v * float_).sum(1).mean())}
        print(kind, json.dumps(out[kind]), file=sys.stderr, flush=True)
    print(json.dumps(out))


if __name__ == "__main__":
    main(*(pathlib.Path(a).resolve() for a in sys.argv[1:]))
