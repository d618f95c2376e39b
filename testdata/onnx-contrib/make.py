#!/usr/bin/env python3
"""Writes cases.zip: one model for each use of an operator that ONNX Runtime adds, with inputs and what it computes.

    make.py      numpy 2.4.6, onnx 1.23.2, onnxruntime 1.31.1; one thread of the CPU, without graph optimizations

The layout is that of ../onnx-backend: NAME/model.onnx, NAME/test_data_set_0/input_I.pb and output_I.pb. Inputs are
random numbers of a fixed seed. Weights are inputs, too, unless a case says that they are constants.
"""
import io
import pathlib
import zipfile

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

HERE = pathlib.Path(__file__).parent
DATE = (1980, 1, 1, 0, 0, 0)
rng = np.random.default_rng(7)
cases = {}


def f(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def u8(*shape):
    return rng.integers(0, 256, shape).astype(np.uint8)


def s8(*shape):
    return rng.integers(-128, 128, shape).astype(np.int8)


def scale(v=0.02):
    return np.array(v, np.float32)


def zero(v, dtype=np.uint8):
    return np.array(v, dtype)


def case(name, op, inputs, outputs=1, const=(), domain="com.microsoft", opset=21, types=None, **attrs):
    """Records a case. inputs may hold None; const lists inputs that are weights; outputs counts them, or names which."""
    wanted = range(outputs) if isinstance(outputs, int) else outputs
    ins, names, inits, feeds = [], [], [], {}
    for i, x in enumerate(inputs):
        if x is None:
            names.append("")
            continue
        names.append(f"x{i}")
        t = numpy_helper.from_array(x, f"x{i}") if not isinstance(x, TensorProto) else x
        t.name = f"x{i}"
        if i in const or isinstance(x, TensorProto):
            inits.append(t)
        else:
            ins.append(helper.make_tensor_value_info(f"x{i}", t.data_type, t.dims))
            feeds[f"x{i}"] = x
    outs = [f"y{i}" if i in wanted else "" for i in range(max(wanted) + 1)]
    if "opset_" in attrs:  # an attribute of that name
        attrs["opset"] = attrs.pop("opset_")
    node = helper.make_node(op, names, outs, domain=domain, name=name, **attrs)
    model = lambda kinds: helper.make_model(
        helper.make_graph([node], name, ins, [helper.make_tensor_value_info(o, k, None) for o, k in zip([o for o in outs if o], kinds)], inits),
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)], ir_version=10)
    o = ort.SessionOptions()
    o.intra_op_num_threads, o.log_severity_level = 1, 4
    o.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    for kinds in types and [types] or [[k] * len(wanted) for k in (TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT8, TensorProto.FLOAT16, TensorProto.UINT16)]:
        try:
            s = ort.InferenceSession(model(kinds).SerializeToString(), o, providers=["CPUExecutionProvider"])
            break
        except Exception as e:
            if "Type Error" not in str(e) and "type" not in str(e).lower():
                raise
            last = e
    else:
        raise last
    got = s.run(None, feeds)
    files = {"model.onnx": model([helper.np_dtype_to_tensor_dtype(y.dtype) for y in got]).SerializeToString(deterministic=True)}
    for i, x in enumerate(feeds.values()):
        files[f"test_data_set_0/input_{i}.pb"] = numpy_helper.from_array(x).SerializeToString(deterministic=True)
    for i, y in enumerate(got):
        files[f"test_data_set_0/output_{i}.pb"] = numpy_helper.from_array(y).SerializeToString(deterministic=True)
    assert name not in cases
    cases[name] = files


# Products.
a, b = f(2, 3, 5), f(2, 5, 4)
case("fused_matmul", "FusedMatMul", [a, b], alpha=0.5)
case("fused_matmul_turned", "FusedMatMul", [f(2, 5, 3), f(2, 4, 5)], transA=1, transB=1, alpha=1.5)
for fn, more in (("Relu", {}), ("LeakyRelu", {"activation_alpha": 0.2}), ("Sigmoid", {}), ("Tanh", {}), ("HardSigmoid", {"activation_alpha": 0.3, "activation_beta": 0.4})):
    case(f"fused_gemm_{fn.lower()}", "FusedGemm", [f(3, 5), f(4, 5), f(4)], activation=fn, transB=1, **more)
for fn, params in (("Relu", None), ("Clip", [0.0, 1.0]), ("LeakyRelu", [0.1]), ("HardSigmoid", [0.2, 0.6]), ("Sigmoid", None), ("Tanh", None)):
    more = {"activation_params": params} if params else {}
    case(f"fused_conv_{fn.lower()}", "FusedConv", [f(1, 4, 7, 6), f(6, 2, 3, 3), f(6)], activation=fn, group=2, pads=[1, 1, 1, 1], strides=[2, 1], **more)
case("fused_conv_sum", "FusedConv", [f(1, 3, 5, 5), f(4, 3, 1, 1), f(4), f(1, 4, 5, 5)], activation="Relu")
case("matmul_integer_to_float", "MatMulIntegerToFloat", [u8(2, 3, 6), s8(6, 4), scale(), np.abs(f(4)) * np.float32(0.02), zero(120), None, f(4)])
case("matmul_integer_to_float_zero_points", "MatMulIntegerToFloat", [u8(3, 6), u8(6, 4), scale(), np.abs(f(4)) * np.float32(0.02), zero(7), u8(4)])
case("matmul_integer_to_float_signed", "MatMulIntegerToFloat", [s8(3, 6), s8(6, 4), scale(), scale(0.03), zero(3, np.int8), zero(0, np.int8)])
case("dynamic_quantize_matmul", "DynamicQuantizeMatMul", [f(2, 3, 8), s8(8, 5), np.abs(f(5)) * np.float32(0.02), None, f(5)])
case("dynamic_quantize_matmul_zero_points", "DynamicQuantizeMatMul", [f(3, 8), u8(8, 5), scale(), zero(120)])
case("qgemm", "QGemm", [u8(3, 8), scale(), zero(110), s8(8, 5), np.abs(f(5)) * np.float32(0.02), np.zeros(5, np.int8), rng.integers(-900, 900, 5).astype(np.int32), scale(0.05), zero(130)])
case("qgemm_turned", "QGemm", [u8(8, 3), scale(), zero(110), s8(5, 8), scale(0.03), zero(0, np.int8), None, scale(0.2), zero(100)], transA=1, transB=1, alpha=0.5)
case("qgemm_float", "QGemm", [u8(3, 8), scale(), zero(110), u8(8, 5), scale(0.03), zero(90), rng.integers(-900, 900, 5).astype(np.int32)])

# Operators on codes.
x = u8(1, 4, 6, 6)
case("qlinear_average_pool", "QLinearAveragePool", [x, scale(), zero(100), scale(0.015), zero(120)], kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1])
case("qlinear_average_pool_pads_count", "QLinearAveragePool", [x, scale(), zero(100), scale(0.015), zero(120)], kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)
case("qlinear_average_pool_last", "QLinearAveragePool", [u8(1, 6, 5, 4), scale(), zero(100), scale(0.019), zero(110)], kernel_shape=[2, 2], channels_last=1)
case("qlinear_global_average_pool", "QLinearGlobalAveragePool", [x, scale(), zero(100), scale(0.01), zero(128)])
case("qlinear_global_average_pool_last", "QLinearGlobalAveragePool", [u8(2, 3, 5, 4), scale(), zero(100), scale(0.01), zero(128)], channels_last=1)
case("qlinear_add", "QLinearAdd", [u8(2, 3, 4), scale(), zero(100), u8(4), scale(0.03), zero(7), scale(0.05), zero(120)])
case("qlinear_add_signed", "QLinearAdd", [s8(2, 3, 4), scale(), zero(10, np.int8), s8(2, 3, 4), scale(0.03), zero(-7, np.int8), scale(0.04), zero(2, np.int8)])
case("qlinear_mul", "QLinearMul", [u8(2, 3, 4), scale(), zero(100), u8(3, 1), scale(0.03), zero(7), scale(0.2), zero(120)])
case("qlinear_sigmoid", "QLinearSigmoid", [u8(2, 30), scale(0.05), zero(128), scale(1 / 256), zero(0)])
case("qlinear_leaky_relu", "QLinearLeakyRelu", [s8(2, 30), scale(0.05), zero(5, np.int8), scale(0.04), zero(-20, np.int8)], alpha=0.1)
case("qlinear_concat", "QLinearConcat", [scale(0.05), zero(128), u8(2, 3), scale(), zero(100), u8(2, 4), scale(0.06), zero(140)], axis=1)
case("qlinear_softmax", "QLinearSoftmax", [u8(2, 3, 10), scale(0.05), zero(128), scale(1 / 256), zero(0)], const=(1, 2, 3, 4), axis=-1, opset_=13)
case("qlinear_softmax_rows", "QLinearSoftmax", [u8(2, 3, 5), scale(0.05), zero(128), scale(1 / 256), zero(0)], const=(1, 2, 3, 4), axis=1, opset_=11)
case("qlinear_where", "QLinearWhere", [rng.integers(0, 2, (2, 3)).astype(bool), u8(2, 3), scale(), zero(100), u8(3), scale(0.03), zero(90), scale(0.025), zero(95)])
case("qlinear_conv_last", "QLinearConv", [u8(1, 5, 6, 4), scale(), zero(100), s8(6, 2, 3, 3), np.abs(f(6)) * np.float32(0.02), np.zeros(6, np.int8), scale(0.15), zero(128),
                                          rng.integers(-900, 900, 6).astype(np.int32)], const=(3,), channels_last=1, group=2, pads=[1, 1, 1, 1])
case("nhwc_max_pool", "NhwcMaxPool", [u8(1, 6, 5, 4)], kernel_shape=[2, 2], strides=[2, 1])
case("quantize_16", "QuantizeLinear", [f(3, 4), scale(0.0001), zero(30000, np.uint16)], types=[TensorProto.UINT16])
case("quantize_signed_16", "QuantizeLinear", [f(3, 4), np.array([1e-4, 2e-4, 3e-4], np.float32), np.zeros(3, np.int16)], types=[TensorProto.INT16], axis=0)
case("dequantize_16", "DequantizeLinear", [rng.integers(0, 65536, (3, 4)).astype(np.uint16), scale(0.0001), zero(30000, np.uint16)])
case("dequantize_4", "DequantizeLinear", [helper.make_tensor("w", TensorProto.INT4, [3, 4], rng.integers(-8, 8, 12)), np.array([0.1, 0.2, 0.3], np.float32),
                                          helper.make_tensor("z", TensorProto.INT4, [3], [0, 0, 0])], axis=0)

# Norms and functions.
for name, shift in (("layer", True), ("simplified", False)):
    op = "SkipLayerNormalization" if shift else "SkipSimplifiedLayerNormalization"
    more = [f(8)] if shift else []
    case(f"skip_{name}_norm", op, [f(2, 3, 8), f(2, 3, 8), f(8), *more, f(8)], outputs=[0, 3], epsilon=1e-5)
case("skip_layer_norm_one_skip", "SkipLayerNormalization", [f(2, 3, 8), f(3, 8), f(8)], epsilon=1e-5)
case("simplified_norm", "SimplifiedLayerNormalization", [f(2, 3, 8), f(8)], domain="", axis=-1, epsilon=1e-6, stash_type=1)
case("gelu", "Gelu", [f(3, 8)])
case("fast_gelu", "FastGelu", [f(3, 8), f(8)])
case("bias_gelu", "BiasGelu", [f(3, 8), f(8)])
case("quick_gelu", "QuickGelu", [f(3, 8)], alpha=1.5)
words, ids = f(20, 8), rng.integers(0, 20, (2, 5)).astype(np.int32)
segments = rng.integers(0, 2, (2, 5)).astype(np.int32)
mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32)
case("embed_layer_norm", "EmbedLayerNormalization", [ids, segments, words, f(9, 8), f(2, 8), f(8), f(8), mask], outputs=2, types=[TensorProto.FLOAT, TensorProto.INT32], epsilon=1e-12)
case("embed_layer_norm_plain", "EmbedLayerNormalization", [ids, None, words, f(9, 8), None, f(8), f(8)], outputs=2, types=[TensorProto.FLOAT, TensorProto.INT32])
case("embed_layer_norm_positions", "EmbedLayerNormalization", [ids, segments, words, f(9, 8), f(2, 8), f(8), f(8), None, rng.integers(0, 9, (2, 5)).astype(np.int32)],
     outputs=[0, 2], types=[TensorProto.FLOAT, TensorProto.FLOAT])

# Attention.
B, S, N, H = 2, 4, 2, 8
D = N * H
keys = np.array([3, 4], np.int32)
case("attention", "Attention", [f(B, S, 6), f(6, 3 * D), f(3 * D)], num_heads=N)
case("attention_lengths", "Attention", [f(B, S, 6), f(6, 3 * D), f(3 * D), keys], num_heads=N)
case("attention_both_ends", "Attention", [f(B, S, 6), f(6, 3 * D), f(3 * D), np.array([3, 4, 1, 0], np.int32)], num_heads=N)
case("attention_mask", "Attention", [f(B, S, 6), f(6, 3 * D), f(3 * D), mask[:, 1:]], num_heads=N)
case("attention_pairs", "Attention", [f(B, S, 6), f(6, 3 * D), f(3 * D), rng.integers(0, 2, (B, S, S)).astype(np.int32)], num_heads=N)
case("attention_causal", "Attention", [f(B, S, 6), f(6, 3 * D), f(3 * D)], num_heads=N, unidirectional=1, scale=0.3)
case("attention_causal_lengths", "Attention", [f(B, S, 6), f(6, 3 * D), f(3 * D), keys], num_heads=N, unidirectional=1)
case("attention_sizes", "Attention", [f(B, S, 6), f(6, 2 * D + 4), f(2 * D + 4)], num_heads=N, qkv_hidden_sizes=[D, D, 4])
case("attention_past", "Attention", [f(B, S, 6), f(6, 3 * D), f(3 * D), None, f(2, B, N, 3, H)], outputs=2, num_heads=N, unidirectional=1)
case("attention_bias", "Attention", [f(B, S, 6), f(6, 3 * D), f(3 * D), None, None, f(1, N, S, S)], num_heads=N)
case("qattention", "QAttention", [u8(B, S, 6), s8(6, 3 * D), f(3 * D), scale(), scale(0.01), None, zero(128), zero(0, np.int8)], num_heads=N, const=(1, 3, 4, 6, 7))
case("qattention_mask", "QAttention", [u8(B, S, 6), u8(6, 3 * D), f(3 * D), scale(), scale(0.01), keys, zero(120), zero(110)], num_heads=N, const=(1, 3, 4, 6, 7))
L = 5
case("multi_head", "MultiHeadAttention", [f(B, S, D), f(B, L, D), f(B, L, D)], num_heads=N)
case("multi_head_bias", "MultiHeadAttention", [f(B, S, D), f(B, L, D), f(B, L, 6), f(2 * D + 6)], num_heads=N)
case("multi_head_mask", "MultiHeadAttention", [f(B, S, D), f(B, L, D), f(B, L, D), None, mask], num_heads=N, mask_filter_value=-1000.0)
case("multi_head_lengths", "MultiHeadAttention", [f(B, S, D), f(B, L, D), f(B, L, D), None, np.array([2, 5], np.int32)], num_heads=N)
case("multi_head_added", "MultiHeadAttention", [f(B, S, D), f(B, L, D), f(B, L, D), None, None, f(B, 1, S, L)], num_heads=N, scale=0.5)
case("multi_head_causal", "MultiHeadAttention", [f(B, S, D), f(B, S, D), f(B, S, D)], num_heads=N, unidirectional=1)
case("multi_head_heads_first", "MultiHeadAttention", [f(B, S, D), f(B, N, L, H), f(B, N, L, H)], num_heads=N)
case("multi_head_past", "MultiHeadAttention", [f(B, S, D), f(B, S, D), f(B, S, D), None, None, None, f(B, N, 3, H), f(B, N, 3, H)], outputs=3, num_heads=N)
N, K, H = 4, 2, 16
cos, sin = np.cos(f(16, H // 2)), np.sin(f(16, H // 2))
full = np.array([S - 1] * B, np.int32)
length = lambda n: np.array([n], np.int32)
case("group_query", "GroupQueryAttention", [f(B, S, N * H), f(B, S, K * H), f(B, S, K * H), None, None, full, length(S)], outputs=3, num_heads=N, kv_num_heads=K)
case("group_query_rotary", "GroupQueryAttention", [f(B, S, N * H), f(B, S, K * H), f(B, S, K * H), None, None, full, length(S), cos, sin], outputs=3, num_heads=N, kv_num_heads=K, do_rotary=1)
case("group_query_interleaved", "GroupQueryAttention", [f(B, S, N * H), f(B, S, K * H), f(B, S, K * H), None, None, full, length(S), cos, sin], outputs=3, num_heads=N, kv_num_heads=K,
     do_rotary=1, rotary_interleaved=1, scale=0.2)
case("group_query_packed", "GroupQueryAttention", [f(B, S, (N + 2 * K) * H), None, None, None, None, full, length(S), cos, sin], outputs=3, num_heads=N, kv_num_heads=K, do_rotary=1)
case("group_query_next", "GroupQueryAttention", [f(B, 1, N * H), f(B, 1, K * H), f(B, 1, K * H), f(B, K, 5, H), f(B, K, 5, H), np.array([5, 3], np.int32), length(6), cos, sin],
     outputs=3, num_heads=N, kv_num_heads=K, do_rotary=1)
case("group_query_more", "GroupQueryAttention", [f(1, 3, N * H), f(1, 3, K * H), f(1, 3, K * H), f(1, K, 5, H), f(1, K, 5, H), np.array([7], np.int32), length(8), cos, sin],
     outputs=3, num_heads=N, kv_num_heads=K, do_rotary=1)
case("group_query_window", "GroupQueryAttention", [f(B, S, N * H), f(B, S, K * H), f(B, S, K * H), None, None, full, length(S)], outputs=3, num_heads=N, kv_num_heads=K, local_window_size=2)
case("group_query_softcap", "GroupQueryAttention", [f(B, S, N * H), f(B, S, K * H), f(B, S, K * H), None, None, full, length(S)], outputs=3, num_heads=N, kv_num_heads=K, softcap=2.0)
case("rotary", "RotaryEmbedding", [f(B, S, N * H), np.array([2], np.int64), cos, sin])
case("rotary_positions", "RotaryEmbedding", [f(B, N, S, H), rng.integers(0, 16, (B, S)), cos, sin], interleaved=1)

# Weights in blocks.
for bits, zeros in ((4, False), (4, True), (8, True)):
    k, n, block = 40, 6, 32
    blocks = (k + block - 1) // block
    w = [f(2, 3, k), u8(n, blocks, block * bits // 8), np.abs(f(n * blocks)) * np.float32(0.1)]
    if zeros:
        w.append(u8(n * ((blocks * bits + 7) // 8)))
    case(f"matmul_{bits}_bits{'_zeros' if zeros else ''}", "MatMulNBits", w, const=(1, 2, 3), K=k, N=n, bits=bits, block_size=block)
rows = np.array([[3, 0], [1, -1]], np.int64)
case("gather_4_bits", "GatherBlockQuantized", [u8(5, 16), rows, np.abs(f(5, 2))], const=(0, 2), gather_axis=0, quantize_axis=1, block_size=16, bits=4)
case("gather_4_bits_zeros", "GatherBlockQuantized", [u8(5, 16), rows, np.abs(f(5, 2)), u8(5, 1)], const=(0, 2, 3), gather_axis=0, quantize_axis=1, block_size=16, bits=4)
case("gather_8_bits", "GatherBlockQuantized", [u8(5, 32), rows, np.abs(f(5, 2)), u8(5, 2)], const=(0, 2, 3), gather_axis=0, quantize_axis=1, block_size=16, bits=8)
case("gather_int4", "GatherBlockQuantized", [helper.make_tensor("w", TensorProto.INT4, [5, 32], rng.integers(-8, 8, 160)), rows, np.abs(f(5, 2)),
                                             helper.make_tensor("z", TensorProto.INT4, [5, 2], rng.integers(-8, 8, 10))], const=(2,), gather_axis=0, quantize_axis=1, block_size=16)
case("gather_uint4", "GatherBlockQuantized", [helper.make_tensor("w", TensorProto.UINT4, [5, 3, 16], rng.integers(0, 16, 240)), rows, np.abs(f(5, 3, 1))],
     const=(2,), gather_axis=0, quantize_axis=2, block_size=16)

# Recurrent layers.
for name, dirs, w, r, zw, zr in (("", 1, s8, s8, None, None), ("_two_ways", 2, u8, u8, 120, 130)):
    hidden, width = 8, 6
    zw, zr = (np.full(dirs, v or 0, np.uint8 if v else np.int8) for v in (zw, zr))
    case(f"dynamic_quantize_lstm{name}", "DynamicQuantizeLSTM",
         [f(5, 2, width), w(dirs, width, 4 * hidden), r(dirs, hidden, 4 * hidden), f(dirs, 8 * hidden) * np.float32(0.2), None, f(dirs, 2, hidden), f(dirs, 2, hidden), None,
          np.full(dirs, 0.01, np.float32), zw, np.full(dirs, 0.012, np.float32), zr], outputs=3, const=(1, 2, 8, 9, 10, 11), hidden_size=hidden, direction="bidirectional" if dirs > 1 else "forward")

raw = io.BytesIO()
with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as z:
    for name in sorted(cases):
        for path, data in sorted(cases[name].items()):
            info = zipfile.ZipInfo(f"contrib/{name}/{path}", DATE)
            info.compress_type = zipfile.ZIP_DEFLATED
            z.writestr(info, data)
(HERE / "cases.zip").write_bytes(raw.getvalue())
print(f"{len(cases)} cases, {len(raw.getvalue())} bytes")
