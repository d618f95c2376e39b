"""gemm.py numpy|onnxruntime|torch THREADS: matrix products of a Python library, in the protocol of probe/machine.c.

Reads lines "gemm f32|f64|bf16 N THREADS" (bf16: torch alone) and answers "ok SECONDS", the mean of one product over 0.2 s.
"""
import os
import sys
import time

kind, threads = sys.argv[1], int(sys.argv[2])
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = str(threads)  # before the libraries are loaded

NAMES = {"f32": "float32", "f64": "float64", "bf16": "bfloat16"}


def numpy_product(typ, n):
    import numpy as np

    a, b = (np.random.default_rng(s).standard_normal((n, n), np.dtype(NAMES[typ])) for s in (1, 2))
    out = np.empty_like(a)
    return lambda: np.matmul(a, b, out=out)


def torch_product(typ, n):
    import torch

    torch.set_num_threads(threads)
    a, b = (torch.randn(n, n).to(getattr(torch, NAMES[typ])) for _ in range(2))
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out)


def onnxruntime_product(typ, n):
    import numpy as np
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper

    element = {"f32": TensorProto.FLOAT, "f64": TensorProto.DOUBLE}[typ]
    x, y = (np.random.default_rng(s).standard_normal((n, n), np.dtype(NAMES[typ])) for s in (1, 2))
    io = [helper.make_tensor_value_info(name, element, [n, n]) for name in "ac"]
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "product", io[:1], io[1:], [onnx.numpy_helper.from_array(y, "b")])
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return lambda: session.run(None, {"a": x})


made = {}
for line in sys.stdin:
    word, typ, n, _ = line.split()
    if word != "gemm":
        sys.exit("unknown command " + word)
    key = typ, int(n)
    if key not in made:
        made = {key: globals()[kind + "_product"](*key)}
    product = made[key]
    product()
    start, reps = time.perf_counter(), 0
    while reps == 0 or time.perf_counter() < start + 0.2:
        product()
        reps += 1
    print("ok %.9g" % ((time.perf_counter() - start) / reps), flush=True)
