#!/usr/bin/env python3
"""Small ONNX files by the onnx package 1.23.2 (numpy 2.4.6, ml_dtypes 0.6.0): make.py, run in this folder.

types.onnx      every element type twice: NAME.raw in raw_data, NAME.data in the field for its type; small and
                large; sparse tensors in both forms of indices beside the dense ones
functions.onnx  functions that call functions, with attributes handed on, defaults, optional inputs and a
                subgraph; its text is that of the same model after onnx.inliner, values numbered
external.onnx   constants in external.data, as onnx.save_model writes them

Beside each lies its text as ../../../testdata/onnx-backend/make_facts.py has it.
"""
import pathlib
import sys

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper as h
from onnx import inliner, numpy_helper

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE / "../../../testdata/onnx-backend"))
import make_facts  # noqa: E402


def model(graph, opset=21, **kw):
    m = h.make_model(graph, opset_imports=[h.make_opsetid("", opset), *kw.pop("imports", [])], ir_version=10, **kw)
    onnx.checker.check_model(m)
    return m


def identity(initializers, sparse=()):
    names = [i.name for i in initializers] + [s.values.name for s in sparse]
    types = {i.name: i.data_type for i in initializers} | {s.values.name: s.values.data_type for s in sparse}
    nodes = [h.make_node("Identity", [n], [n + "."]) for n in names]
    outputs = [h.make_tensor_value_info(n + ".", types[n], None) for n in names]
    return h.make_graph(nodes, "constants", [], outputs, initializers, sparse_initializer=list(sparse))


def types():
    rng = np.random.default_rng(7)
    out = []
    for name, kind in T.DataType.items():
        if kind in (T.UNDEFINED, T.STRING) or kind > T.INT2:  # those of ONNX v1.22.0
            continue
        for size, shape in (("few", [3]), ("many", [5, 61])):
            dtype = h.tensor_dtype_to_np_dtype(kind)
            x = rng.integers(-100, 100, shape) if np.dtype(dtype).kind in "iV" else rng.integers(0, 3, shape)
            if np.dtype(dtype).kind in "fc":
                x = rng.normal(size=shape) * 1000
            if kind in (T.INT4, T.INT2):
                x = x % 2 - 1
            elif kind in make_facts.PACKED or kind == T.FLOAT8E8M0:
                x = abs(x) % 4
            x = np.asarray(x).astype(dtype)
            raw = numpy_helper.from_array(x, f"{name}.{size}.raw")
            data = h.make_tensor(f"{name}.{size}.data", kind, shape, x.flatten().tolist() if np.dtype(dtype).kind in "iufcb" else x.flatten())
            assert raw.HasField("raw_data") and not data.HasField("raw_data"), name
            assert make_facts.elements(raw) == make_facts.elements(data), name
            out += [raw, data]
    out.append(h.make_tensor("STRING.few.data", T.STRING, [2], ["a", "Grüße"]))
    dense = np.zeros([4, 5], np.float32)
    dense[1, 2], dense[3, 4] = 1.5, -2
    out.append(numpy_helper.from_array(dense, "sparse.flat.raw"))
    out.append(numpy_helper.from_array(dense, "sparse.places.raw"))
    sparse = [
        h.make_sparse_tensor(h.make_tensor("sparse.flat.data", T.FLOAT, [2], [1.5, -2]), h.make_tensor("i", T.INT64, [2], [7, 19]), [4, 5]),
        h.make_sparse_tensor(h.make_tensor("sparse.places.data", T.FLOAT, [2], [1.5, -2]), h.make_tensor("j", T.INT64, [2, 2], [1, 2, 3, 4]), [4, 5]),
    ]
    m = h.make_model(identity(out, sparse), opset_imports=[h.make_opsetid("", 21)], ir_version=13)
    onnx.save(m, HERE / "types.onnx")
    (HERE / "types.txt").write_text(make_facts.text(m))


def functions():
    ops, own = [h.make_opsetid("", 21)], [h.make_opsetid("", 21), h.make_opsetid("f", 1)]

    def ref(name, outer, kind):
        a = onnx.AttributeProto()
        a.name, a.ref_attr_name, a.type = name, outer, kind
        return a

    leaky = h.make_node("LeakyRelu", ["x"], ["y"])
    leaky.attribute.append(ref("alpha", "slope", onnx.AttributeProto.FLOAT))
    inner = h.make_function("f", "inner", ["x"], ["y"], [leaky], ops, ["slope"])
    call = h.make_node("inner", ["a"], ["t"], domain="f")
    call.attribute.append(ref("slope", "steep", onnx.AttributeProto.FLOAT))
    two = h.make_node("Constant", [], ["two"])
    two.attribute.append(ref("value_float", "steep", onnx.AttributeProto.FLOAT))
    soft = h.make_node("Softmax", ["u"], ["p"])
    soft.attribute.append(ref("axis", "axis", onnx.AttributeProto.INT))
    clip = h.make_node("Clip", ["p", "lo", ""], ["q"])
    branch = lambda op: h.make_graph([h.make_node(op, ["q", "two"], ["r_" + op])], op, [], [h.make_tensor_value_info("r_" + op, T.FLOAT, None)])
    choose = h.make_node("If", ["c"], ["b"], then_branch=branch("Add"), else_branch=branch("Sub"))
    outer = h.make_function(
        "f", "outer", ["a", "c", "lo"], ["b", "p"],
        [call, two, h.make_node("Mul", ["t", "two"], ["u"]), soft, clip, choose], own, ["steep"],
        [h.make_attribute("axis", 0)])
    nodes = [
        h.make_node("outer", ["x", "c"], ["m", ""], domain="f", steep=0.25, name="first"),
        h.make_node("outer", ["m", "c", "lo"], ["n", "o"], domain="f", steep=0.5, axis=1),
        h.make_node("inner", ["n"], ["y"], domain="f"),
    ]
    value = lambda n, t=T.FLOAT, s=("n", 4): h.make_tensor_value_info(n, t, s)
    g = h.make_graph(nodes, "calls", [value("x"), value("c", T.BOOL, ())], [value("y"), value("o")], [h.make_tensor("lo", T.FLOAT, [], [0.1])])
    m = model(g, functions=[outer, inner], imports=[h.make_opsetid("f", 1)])
    onnx.save(m, HERE / "functions.onnx")
    m.graph.node[0].attribute.append(h.make_attribute("axis", 0))  # the default, which this inliner forgets
    flat = inliner.inline_local_functions(m)
    del flat.opset_import[:]
    flat.opset_import.extend(m.opset_import)
    (HERE / "functions.txt").write_text(make_facts.text(flat, numbered=True))


def external():
    rng = np.random.default_rng(8)
    tensors = [numpy_helper.from_array(rng.normal(size=s).astype(np.float32), n) for n, s in (("w", (7, 300)), ("v", (3,)), ("b", (1000,)))]
    m = h.make_model(identity(tensors), opset_imports=[h.make_opsetid("", 21)], ir_version=10)
    (HERE / "external.data").unlink(missing_ok=True)
    onnx.save_model(m, HERE / "external.onnx", save_as_external_data=True, location="external.data", size_threshold=100)
    (HERE / "external.txt").write_text(make_facts.text(onnx.load(HERE / "external.onnx")))


if __name__ == "__main__":
    types()
    functions()
    external()
