#!/usr/bin/env python3
"""Asks the compilers about every graph of graphs.py, and writes graphs.tar.gz and verdicts.tsv.

    record.py            needs onnx, onnxruntime, onnxruntime-qnn and openvino
    record.py PATTERN    of some graphs; the other verdicts stay as they are
    record.py --one NAME of one graph, with what the compilers say

A graph is accepted by QNN when a session without the CPU provider compiles for it and runs. "steps" is the largest
difference between its outputs and those of ONNX Runtime's CPU kernels, in steps of the output's scale (for floats: in
thousandths of the largest value). A process of its own compiles each batch, since compilers may take it with them.
"""
import concurrent.futures
import gzip
import io
import multiprocessing
import os
import pathlib
import re
import sys
import tarfile

import numpy as np

import graphs

HERE = pathlib.Path(__file__).parent
ARCHS = ("68", "73")


def feeds(session):
    rng = np.random.default_rng(1)
    kinds = {"tensor(float)": lambda s: np.asarray(rng.uniform(-1.9, 1.9, s), np.float32), "tensor(bool)": lambda s: np.asarray(rng.integers(0, 2, s), bool),
             "tensor(int64)": lambda s: np.asarray(rng.integers(0, 4, s), np.int64), "tensor(int32)": lambda s: np.asarray(rng.integers(0, 4, s), np.int32),
             "tensor(double)": lambda s: np.asarray(rng.uniform(-1.9, 1.9, s)), "tensor(float16)": lambda s: np.asarray(rng.uniform(-1.9, 1.9, s), np.float16)}
    return {i.name: kinds[i.type]([d if isinstance(d, int) else 2 for d in i.shape]) for i in session.get_inputs()}


def steps(model, ours, theirs):
    """How far two lists of outputs are apart."""
    inits = {t.name: t for t in model.graph.initializer}
    worst = 0.0
    for out, a, b in zip(model.graph.output, ours, theirs):
        last = next((n for n in model.graph.node if out.name in n.output), None)
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        if a.shape != b.shape:
            return float("inf")
        unit = max(1e-6, np.abs(a).max(initial=0)) / 1000
        if last is not None and last.op_type == "DequantizeLinear" and last.input[1] in inits:
            import onnx
            unit = float(onnx.numpy_helper.to_array(inits[last.input[1]]).max())
        worst = max(worst, np.abs(a - b).max(initial=0) / unit) if unit > 0 else float("inf")
    return worst


def qnn(model, arch, want, feed):
    import onnxruntime as ort
    import onnxruntime_qnn as q
    try:
        ort.register_execution_provider_library(q.get_ep_name(), q.get_library_path())
    except Exception:  # it is registered
        pass
    device = [d for d in ort.get_ep_devices() if d.ep_name == q.get_ep_name()][:1]
    so = ort.SessionOptions()
    so.log_severity_level = 4
    so.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    so.add_provider_for_devices(device, {"backend_path": q.get_qnn_htp_path(), "htp_arch": arch, "offload_graph_io_quantization": "0"})
    s = ort.InferenceSession(model.SerializeToString(), so)
    got = s.run(None, feed or feeds(s))
    return steps(model, want, got) if want is not None else None


def openvino(model, want, feed):
    import openvino as ov
    core = ov.Core()
    k = core.compile_model(core.read_model(io.BytesIO(model.SerializeToString())), "CPU", {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"})
    got = list(k(list(feed.values())).values()) if feed else None
    return steps(model, want, got) if want is not None else None


def ask(name):
    """The verdicts on one graph: ORT's CPU kernels, QNN for each architecture, OpenVINO's CPU plugin."""
    import onnxruntime as ort
    model = graphs.CASES[name]()
    row, why = [], []
    want = feed = None
    try:
        s = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        feed = feeds(s)
        want = s.run(None, feed)
        row.append("yes")
    except Exception as e:
        row.append("no")
        why.append(f"cpu: {e}")
    for label, fn in [(f"qnn{a}", lambda a=a: qnn(model, a, want, feed)) for a in ARCHS] + [("openvino", lambda: openvino(model, want, feed))]:
        try:
            d = fn()
            row.append("ran" if d is None else f"{d:.2f}")
        except Exception as e:
            row.append("no")
            why.append(f"{label}: {e}")
    return row, why


def worker(names, pipe):
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    for n in names:
        pipe.send((n, ask(n)[0]))
    pipe.send(None)


def batch(names):
    """The rows of some graphs, by a process of their own, which ends where a compiler crashes."""
    rows, todo = {}, list(names)
    while todo:
        here, there = multiprocessing.Pipe(False)
        p = multiprocessing.Process(target=worker, args=(todo, there))
        p.start()
        there.close()
        done = 0
        try:
            while here.poll(240) and (got := here.recv()):
                rows[got[0]], done = got[1], done + 1
        except EOFError:
            pass
        p.kill()
        p.join()
        if done < len(todo):  # what it was compiling took it with it
            rows[todo[done]] = ["crash"] * 4
            done += 1
        todo = todo[done:]
    return rows


def write(rows):
    with open(HERE / "verdicts.tsv", "w") as f:
        f.write("graph\tcpu\t" + "\t".join(f"qnn{a}" for a in ARCHS) + "\topenvino\n")
        for n in sorted(rows):
            f.write(n + "\t" + "\t".join(rows[n]) + "\n")


def record(names):
    rows = {}
    if len(names) < len(graphs.CASES):
        lines = (HERE / "verdicts.tsv").read_text().splitlines()[1:]
        rows = {n: row for n, *row in (line.split("\t") for line in lines) if n in graphs.CASES}
    parts = [names[i:i + 20] for i in range(0, len(names), 20)]
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        for done in pool.map(batch, parts):
            rows |= done
            write(rows)
            print(f"{len(rows)} of {len(graphs.CASES)}", flush=True)


def pack(names):
    """Every graph in one archive, the same bytes on every day."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as t:
        for n in names:
            data = graphs.CASES[n]().SerializeToString(deterministic=True)
            info = tarfile.TarInfo(n + ".onnx")
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))
    with open(HERE / "graphs.tar.gz", "wb") as f, gzip.GzipFile(fileobj=f, mode="wb", mtime=0, filename="") as z:
        z.write(raw.getvalue())


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(*ask(sys.argv[2]), sep="\n")
        sys.exit()
    names = sorted(graphs.CASES)
    pack(names)
    record([n for n in names if re.search(sys.argv[1], n)] if len(sys.argv) > 1 else names)
