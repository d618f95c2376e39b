"""Makes quantized networks and what ONNX Runtime computes from them.

needs: onnx==1.23.2 onnxruntime==1.31.1 numpy          usage: make.py (in this folder)

A float network with random weights, in which most kinds of layers of image networks occur, is quantized by
onnxruntime.quantization in every combination that its readers meet; each is then run with all graph
optimizations on one thread, so that it fuses what it fuses in use.
"""
import os
import tempfile

import numpy as np
import onnx
from onnx import TensorProto as T, helper as h, numpy_helper as nh
import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

rng = np.random.default_rng(5)
FLOAT = os.path.join(tempfile.mkdtemp(), "layers.onnx")
nodes, weights = [], []


def const(name, value):
    weights.append(nh.from_array(np.asarray(value), name))
    return name


def op(kind, inputs, out, **attrs):
    nodes.append(h.make_node(kind, inputs, [out], name=out, **attrs))
    return out


def conv(x, out, n, c, k, group=1, **attrs):
    w = (rng.standard_normal((n, c // group, k, k)) / np.sqrt(c // group * k * k)).astype(np.float32)
    w *= np.exp(0.7 * rng.standard_normal((n, 1, 1, 1))).astype(np.float32)
    b = (0.3 * rng.standard_normal(n)).astype(np.float32)
    return op("Conv", [x, const(out + "_w", w), const(out + "_b", b)], out, group=group, kernel_shape=[k, k], **attrs)


SIZE = (1, 3, 35, 30)
x = conv("image", "first", 16, 3, 3, strides=[2, 2], pads=[1, 1, 1, 1])
x = op("Relu", [x], "first_relu")
x = conv(x, "deep", 16, 16, 3, group=16, pads=[1, 1, 1, 1])
x = conv(x, "point", 24, 16, 1)
x = op("Relu", [x], "point_relu")
x = conv(x, "mixed", 24, 24, 1)
x = conv(x, "deep_too", 24, 24, 3, group=24, pads=[1, 1, 1, 1])
y = conv(x, "wide", 24, 24, 5, group=24, pads=[2, 2, 2, 2], strides=[2, 2])
z = op("MaxPool", [x], "pool", kernel_shape=[2, 2], strides=[2, 2])
z = conv(z, "holes", 24, 24, 3, pads=[2, 2, 2, 2], dilations=[2, 2])
y = op("Slice", [y, const("from", np.array([0, 0])), const("to", np.array([9, 7])), const("axes", np.array([2, 3]))], "cut")
y = op("Add", [y, z], "sum")
y = op("Sigmoid", [y], "gate")
y = op("Concat", [y, z], "both", axis=1)
y = op("Resize", [y, "", const("scales", np.array([1, 1, 2, 2], np.float32))], "up", mode="nearest",
       coordinate_transformation_mode="asymmetric", nearest_mode="floor")
y = conv(y, "groups", 20, 48, 3, group=4, pads=[1, 0, 1, 0])
y = op("Clip", [y, const("zero", np.float32(-0.5)), const("six", np.float32(1.5))], "clipped")
y = op("AveragePool", [y], "mean", kernel_shape=[3, 3], strides=[3, 3])
m = op("Transpose", [y], "turned", perm=[0, 2, 3, 1])
y = op("Reshape", [y, const("shape", np.array([4, -1]))], "rows")
w = (rng.standard_normal((120, 11)) / 11).astype(np.float32)
y = op("MatMul", [y, const("matrix", w)], "product")
y = op("Add", [y, const("bias", rng.standard_normal(11).astype(np.float32))], "biased")
y = op("Tanh", [y], "scores")

graph = h.make_graph(nodes, "layers", [h.make_tensor_value_info("image", T.FLOAT, SIZE)],
                     [h.make_tensor_value_info("turned", T.FLOAT, (1, 6, 4, 20)), h.make_tensor_value_info("scores", T.FLOAT, (4, 11))], weights)
model = h.make_model(graph, opset_imports=[h.make_opsetid("", 13)], ir_version=8)
model = onnx.shape_inference.infer_shapes(model)
onnx.checker.check_model(model)
onnx.save(model, FLOAT)

images = rng.standard_normal((8,) + SIZE[1:]).astype(np.float32)


class Samples(CalibrationDataReader):
    def __init__(self):
        self.rest = iter(images)

    def get_next(self):
        return next(({"image": i[None]} for i in self.rest), None)


U, S = QuantType.QUInt8, QuantType.QInt8
for name, how in {
    "qdq_u8s8": dict(quant_format=QuantFormat.QDQ, activation_type=U, weight_type=S, per_channel=True),
    "qdq_s8s8": dict(quant_format=QuantFormat.QDQ, activation_type=S, weight_type=S, per_channel=True),
    "qdq_u8u8": dict(quant_format=QuantFormat.QDQ, activation_type=U, weight_type=U),
    "op_u8s8": dict(quant_format=QuantFormat.QOperator, nodes_to_exclude=["mean"], activation_type=U, weight_type=S, per_channel=True),
    "op_s8s8": dict(quant_format=QuantFormat.QOperator, nodes_to_exclude=["mean"], activation_type=S, weight_type=S),
    "dynamic": dict(weight_type=U),
    "dynamic_centred": dict(weight_type=U, extra_options={"WeightSymmetric": True}),
    "dynamic_matmul": dict(weight_type=S, op_types_to_quantize=["MatMul"], per_channel=True),
}.items():
    path = name + ".onnx"
    if name.startswith("dynamic"):
        quantize_dynamic(FLOAT, path, **how)
    else:
        quantize_static(FLOAT, path, Samples(), **how)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    for i, value in enumerate(session.run(None, {"image": images[:1]})):
        np.save(f"{name}.{session.get_outputs()[i].name}.npy", value)
np.save("image.npy", images[:1])
