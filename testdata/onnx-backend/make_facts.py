#!/usr/bin/env python3
"""Writes what the onnx package finds in cases.zip: for each model the digest of a text that says every node,
edge, attribute and constant, and the digest of another that says the case's inputs and outputs.

    make_facts.py cases.zip > facts.txt          onnx 1.23.2, numpy 2.4.6, ml_dtypes 0.6.0
    make_facts.py cases.zip NAME                 the texts behind one model's digests
    make_facts.py MODEL.onnx...                  the first digest of each of these

The text: constants (initializers, Constant nodes) stand where they are read, as type, shape and digest of
their little-endian elements; initializers that are inputs count as constants before IR version 4.
"""
import hashlib
import struct
import sys
import zipfile

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, numpy_helper

numbers = None  # of names by the order of their appearance, where values are numbered


def called(name):
    return name if numbers is None else numbers.setdefault(name, "v%d" % len(numbers))


PACKED = {TensorProto.INT4: 4, TensorProto.UINT4: 4, TensorProto.FLOAT4E2M1: 4, TensorProto.INT2: 2, TensorProto.UINT2: 2}


def elements(t):
    array = numpy_helper.to_array(t)
    if t.data_type == TensorProto.STRING:
        return b"".join(struct.pack("<I", len(s)) + s for s in t.string_data)
    if t.data_type not in PACKED:
        return array.tobytes()
    bits = PACKED[t.data_type]
    each = 8 // bits
    codes = array.reshape(-1).view(np.uint8) & ((1 << bits) - 1)
    codes = np.concatenate([codes, np.zeros(-len(codes) % each, np.uint8)]).reshape(-1, each)
    return sum(codes[:, i].astype(np.uint16) << (bits * i) for i in range(each)).astype(np.uint8).tobytes()


def constant(kind, shape, data):
    return "%d%s:%s" % (kind, list(shape), hashlib.sha256(data).hexdigest()[:16])


def of_tensor(t):
    return constant(t.data_type, t.dims, elements(t))


def of_sparse(s):
    dense = np.zeros(list(s.dims), numpy_helper.to_array(s.values).dtype)
    indices = numpy_helper.to_array(s.indices)
    at = indices if indices.ndim == 1 else np.ravel_multi_index(tuple(indices.T), tuple(s.dims))
    dense.reshape(-1)[at] = numpy_helper.to_array(s.values)
    return constant(s.values.data_type, s.dims, dense.tobytes())


def of_constant_node(n):
    a = n.attribute[0]
    if a.name == "value":
        return of_tensor(a.t)
    if a.name == "sparse_value":
        return of_sparse(a.sparse_tensor)
    value = onnx.helper.get_attribute_value(a)
    array = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}.get(a.name)
    if array:
        array = np.array(value, array)
        return constant(onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape, array.tobytes())
    strings = [value] if a.name == "value_string" else value
    return constant(TensorProto.STRING, [] if a.name == "value_string" else [len(strings)], b"".join(struct.pack("<I", len(s)) + s for s in strings))


def of_type(p):
    kind = p.WhichOneof("value")
    if kind == "sequence_type":
        return "seq(" + of_type(p.sequence_type.elem_type) + ")"
    if kind == "optional_type":
        return "opt(" + of_type(p.optional_type.elem_type) + ")"
    if kind is None:
        return "0?"
    if kind != "tensor_type":
        return "other"
    t = p.tensor_type
    if not t.HasField("shape"):
        return "%d?" % t.elem_type
    dims = [str(d.dim_value) if d.HasField("dim_value") and d.dim_value >= 0 else d.dim_param or "?" for d in t.shape.dim]
    return "%d[%s]" % (t.elem_type, " ".join(dims))


def floats(values):
    return " ".join("%08x" % struct.unpack("<I", struct.pack("<f", v))[0] for v in values)


def attribute(a, out, known):
    head = "attr %s %d" % (a.name, a.type)
    if a.type == AttributeProto.FLOAT:
        out.append("%s %s" % (head, floats([a.f])))
    elif a.type == AttributeProto.INT:
        out.append("%s %d" % (head, a.i))
    elif a.type == AttributeProto.STRING:
        out.append("%s %s" % (head, a.s.hex()))
    elif a.type == AttributeProto.FLOATS:
        out.append("%s %s" % (head, floats(a.floats)))
    elif a.type == AttributeProto.INTS:
        out.append("%s %s" % (head, " ".join(map(str, a.ints))))
    elif a.type == AttributeProto.STRINGS:
        out.append("%s %s" % (head, " ".join(s.hex() for s in a.strings)))
    elif a.type == AttributeProto.TENSOR:
        out.append("%s %s" % (head, of_tensor(a.t)))
    elif a.type == AttributeProto.TENSORS:
        out.append("%s %s" % (head, " ".join(map(of_tensor, a.tensors))))
    elif a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
        out.append(head)
        for g in [a.g] if a.type == AttributeProto.GRAPH else a.graphs:
            graph(g, out, known, 99)
    else:
        out.append("attr %s 0" % a.name)


def graph(g, out, outer, ir_version):
    known = dict(outer)
    local = {i.name: of_tensor(i) for i in g.initializer}
    local.update({s.values.name: of_sparse(s) for s in g.sparse_initializer})
    for i in g.input:
        known.pop(i.name, None)
        if i.name in local and ir_version < 4:
            continue
        out.append("input %s %s" % (called(i.name), local.get(i.name) or of_type(i.type)))
    known.update(local)
    for n in g.node:
        if n.op_type == "Constant" and n.domain in ("", "ai.onnx"):
            known[n.output[0]] = of_constant_node(n)
    for n in g.node:
        if n.op_type == "Constant" and n.domain in ("", "ai.onnx"):
            continue
        domain = "" if n.domain == "ai.onnx" else n.domain
        ins = " ".join("-" if not i else known.get(i) or called(i) for i in n.input)
        out.append("node %s %s: %s -> %s" % (n.op_type, domain, ins, " ".join(o and called(o) or "-" for o in n.output)))
        for a in sorted(n.attribute, key=lambda a: a.name):
            attribute(a, out, known)
    for o in g.output:
        out.append("output %s" % (known.get(o.name) or "%s %s" % (called(o.name), of_type(o.type))))


def text(model, numbered=False):
    global numbers
    numbers = {} if numbered else None
    out = ["opset %s %d" % p for p in sorted(("" if o.domain == "ai.onnx" else o.domain, o.version) for o in model.opset_import)]
    graph(model.graph, out, {}, model.ir_version)
    return "\n".join(out) + "\n"


def value(kind, data):
    if kind == "tensor_type":
        return of_tensor(onnx.TensorProto.FromString(data))
    if kind == "sequence_type":
        return "seq(%s)" % " ".join(map(of_tensor, onnx.SequenceProto.FromString(data).tensor_values))
    o = onnx.OptionalProto.FromString(data)
    if o.HasField("tensor_value"):
        return "opt(%s)" % of_tensor(o.tensor_value)
    if o.HasField("sequence_value"):
        return "opt(seq(%s))" % " ".join(map(of_tensor, o.sequence_value.tensor_values))
    return "opt()"


def data_text(archive, name, model):
    folder = name.rsplit("/", 1)[0] + "/test_data_set_"
    out = []
    for path in sorted(n for n in archive.namelist() if n.startswith(folder)):
        which, place = path.rsplit("/", 1)[1][:-3].rsplit("_", 1)
        types = model.graph.input if which == "input" else model.graph.output
        out.append("%s %s" % (path[len(folder):], value(types[int(place)].type.WhichOneof("value"), archive.read(path))))
    return "".join(line + "\n" for line in out)


def main():
    if sys.argv[1].endswith(".onnx"):
        for name in sys.argv[1:]:
            print(hashlib.sha256(text(onnx.load(name)).encode()).hexdigest()[:16], name)
        return
    with zipfile.ZipFile(sys.argv[1]) as z:
        names = sorted(n for n in z.namelist() if n.endswith(".onnx"))
        for name in sys.argv[2:] or names:
            model = onnx.load_from_string(z.read(name))
            texts = text(model), data_text(z, name, model)
            if len(sys.argv) > 2:
                print(*texts, sep="")
                continue
            print(*(hashlib.sha256(t.encode()).hexdigest()[:16] for t in texts), name)


if __name__ == "__main__":
    main()
