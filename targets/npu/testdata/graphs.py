"""The graphs whose verdicts verdicts.tsv holds: one operator each, in every type, and what breaks a rule."""
import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper, numpy_helper, shape_inference

TYPES = {"u8": (np.uint8, T.UINT8, 0, 255), "i8": (np.int8, T.INT8, -128, 127), "u16": (np.uint16, T.UINT16, 0, 65535),
         "i16": (np.int16, T.INT16, -32768, 32767), "i4": (np.int8, T.INT4, -7, 7), "u4": (np.uint8, T.UINT4, 0, 15),
         "i32": (np.int32, T.INT32, -2**31, 2**31 - 1)}
MIDDLE = {"u8": 128, "i8": 0, "u16": 32768, "i16": 0, "i4": 0, "u4": 8, "i32": 0}


class Net:
    """A graph in the making. act is the type of activations, None for floats."""

    def __init__(self, act, opset, domain=""):
        self.act, self.opset, self.domain = act, opset, domain
        self.nodes, self.inits, self.inputs, self.outputs, self.count = [], [], [], [], 0
        self.rng = np.random.default_rng(0)

    def fresh(self, kind):
        self.count += 1
        return f"{kind}{self.count}"

    def const(self, array, name="c"):
        name = self.fresh(name)
        self.inits.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def add(self, op, ins, outs=1, domain="", **attrs):
        made = [self.fresh(op.lower()) for _ in range(outs)]
        self.nodes.append(helper.make_node(op, ins, made, name=self.fresh("n_" + op), domain=domain, **attrs))
        return made[0] if outs == 1 else made

    def typed(self, typ, values, shape):
        name = self.fresh("q")
        self.inits.append(helper.make_tensor(name, TYPES[typ][1], shape, np.asarray(values).flatten().tolist()))
        return name

    def scale_of(self, typ, span=4.0):
        """Scale and zero point of activations in [-span, span)."""
        lo, hi = TYPES[typ][2:]
        return 2 * span / (hi - lo + 1), MIDDLE[typ]

    def code(self, v, typ=None, span=4.0, zero=None, scale=None):
        """A value as codes: QuantizeLinear and DequantizeLinear."""
        typ = typ or self.act
        if typ is None:
            return v
        s, z = self.scale_of(typ, span)
        s, z = scale or s, z if zero is None else zero
        sn, zn = self.const(np.float32(s), "scale"), self.typed(typ, [z], [])
        q = self.add("QuantizeLinear", [v, sn, zn], domain=self.domain)
        return self.add("DequantizeLinear", [q, sn, zn], domain=self.domain)

    def input(self, shape, elem=T.FLOAT, coded=True, **how):
        name = self.fresh("x")
        self.inputs.append(helper.make_tensor_value_info(name, elem, shape))
        return self.code(name, **how) if coded and elem == T.FLOAT else name

    def output(self, v, shape=None, elem=T.FLOAT, coded=True, **how):
        v = self.code(v, **how) if coded and elem == T.FLOAT else v
        self.outputs.append(helper.make_tensor_value_info(v, elem, shape))
        return v

    def weight(self, shape, typ, axis=None, zero=None, scale=None, block=0, zeros=None):
        """A constant as codes; with an axis one scale for each channel."""
        if typ is None:
            return self.const(self.rng.normal(0, .3, shape).astype(np.float32), "w")
        lo, hi = TYPES[typ][2:]
        lo, hi = max(lo, -127), min(hi, 255)
        codes = self.rng.integers(lo, hi + 1, shape)
        z = MIDDLE[typ] if zero is None else zero
        n = 1 if axis is None else shape[axis]
        sshape, attrs = ([], {}) if axis is None else ([n], {"axis": axis})
        if block:
            sshape = [d // block if i == axis else d for i, d in enumerate(shape)]
            attrs["block_size"] = block
        base = scale or 1 / max(abs(lo), abs(hi))
        s = (base * (1 + 3 * np.arange(np.prod(sshape, dtype=int)) / max(1, np.prod(sshape, dtype=int))) / (4 if sshape else 1)).astype(np.float32).reshape(sshape)
        self.wscale = s
        dom = self.domain
        return self.add("DequantizeLinear", [self.typed(typ, codes, shape), self.const(s, "wscale"),
                                             self.typed(typ, np.full(sshape, z) if zeros is None else zeros, sshape)], domain=dom, **attrs)

    def bias(self, n, typ="i32", scale=None, xspan=4.0, zero=0):
        if typ is None or self.act is None:
            return self.const(self.rng.normal(0, .3, n).astype(np.float32), "b")
        s = (self.scale_of(self.act, xspan)[0] * self.wscale).astype(np.float32) if scale is None else np.float32(scale)
        attrs = {"axis": 0} if s.ndim else {}
        sn = self.const(s, "bscale")
        bz = [self.typed(typ, np.full(s.shape, zero), list(s.shape))] if typ != "i32" or zero else []
        codes = self.rng.integers(-500, 500, n) if typ == "i32" else self.rng.integers(0, 100, n)
        return self.add("DequantizeLinear", [self.typed(typ, codes, [n]), sn] + bz, domain=self.domain if bz else "", **attrs)

    def model(self):
        imports = [helper.make_opsetid("", self.opset)] + ([helper.make_opsetid("com.microsoft", 1)])
        g = helper.make_graph(self.nodes, "g", self.inputs, self.outputs, self.inits)
        m = helper.make_model(g, opset_imports=imports, ir_version=8 if self.opset < 19 else 10)
        plain = onnx.ModelProto()  # the same without what onnx has no shapes of
        plain.CopyFrom(m)
        for n in plain.graph.node:
            n.domain = "" if n.op_type.endswith("Linear") else n.domain
        plain.opset_import[0].version = max(self.opset, 21)
        try:
            plain = shape_inference.infer_shapes(plain)
            m.graph.value_info.extend(plain.graph.value_info)
            for mine, known in zip(m.graph.output, plain.graph.output):
                mine.CopyFrom(known)
        except Exception:  # what is illegal on purpose may not have shapes
            pass
        return m


CASES = {}


def case(name, act, opset=None, domain=None):
    """Registers a builder under a name, made with activations of a type."""
    wide = act in ("u16", "i16")
    opset = opset or (21 if wide else 17)

    def register(build):
        assert name not in CASES, name
        CASES[name] = lambda: build_one(build, act, opset, domain or "")
    return register


def build_one(build, act, opset, domain):
    n = Net(act, opset, domain)
    build(n)
    return n.model()


ALL = ("u8", "i8", "u16", "i16", None)


def each(op, build, types=ALL, opset=None, tag=""):
    for act in types:
        case(f"{op}{tag}/{act or 'f32'}", act, max(opset or 0, 21 if act in ("u16", "i16") else 17))(build)


def unary(op, shape=(1, 8, 4, 4), opset=None, span=4.0, out=4.0, how=None, positive=False, **attrs):
    def build(n):
        kw = dict(zero=TYPES[n.act][2]) if positive and n.act else {}
        x = n.input(list(shape), span=span, **kw)
        n.output(n.add(op, [x], **attrs), span=out, **(how(n) if how and n.act else {}))
    each(op, build, opset=opset)


def unit(n, lo):
    """The scale and zero point of results known to lie in [lo, 1)."""
    if not n.act:
        return {}
    a, b = TYPES[n.act][2:]
    return {"scale": (1 - lo) / (b - a + 1), "zero": a if lo == 0 else MIDDLE[n.act]}


def same(op, shape, *consts, shape_to=None, opset=None, tag="", **attrs):
    """An operator that only moves elements: one scale in and out, and a variant with two."""
    for kind in ("", "+rescaled"):
        def build(n, kind=kind):
            x = n.input(list(shape))
            y = n.add(op, [x] + [n.const(c) if c is not None else "" for c in consts], **attrs)
            n.output(y, span=4.0 if not kind else 5.0)
        each(op, build, types=ALL if not kind else ("u8",), opset=opset, tag=tag + kind)


# Pointwise.
for op in "Abs Ceil Cos Elu Erf Floor HardSwish LeakyRelu Neg Relu Round Sign Sin Softplus Softsign Selu Celu Atan Tan Mish ThresholdedRelu".split():
    unary(op, opset=18 if op == "Mish" else None)
unary("Exp", out=64.0)
unary("Gelu", opset=20)
for op in "Sqrt Log Reciprocal".split():
    unary(op, positive=True)
for op, lo in (("Sigmoid", 0), ("HardSigmoid", 0), ("Softmax", 0), ("Tanh", -1)):
    unary(op, how=lambda n, lo=lo: unit(n, lo))
    each(op, lambda n, op=op: n.output(n.add(op, [n.input([1, 8, 4, 4])])), types=("u8", "u16"), tag="+span4")
unary("LogSoftmax", out=16.0)
each("Softmax", lambda n: n.output(n.add("Softmax", [n.input([1, 8, 4, 4])], axis=1), **(unit(n, 0) if n.act else {})), tag="+axis1")
each("Clip", lambda n: n.output(n.add("Clip", [n.input([1, 8, 4, 4]), n.const(np.float32(0)), n.const(np.float32(6))])))

# Two operands.
for op in "Add Sub Mul Div Max Min Pow Mod".split():
    def two(n, op=op):
        kw = dict(zero=TYPES[n.act][2] + 1) if op == "Div" and n.act else {}
        extra = {"fmod": 1} if op == "Mod" else {}
        first = dict(zero=TYPES[n.act][2]) if op == "Pow" and n.act else {}
        n.output(n.add(op, [n.input([1, 8, 4, 4], **first), n.input([1, 8, 4, 4], **kw)], **extra), span=16.0)

    def with_const(n, op=op):
        extra = {"fmod": 1} if op == "Mod" else {}
        first = dict(zero=TYPES[n.act][2]) if op == "Pow" and n.act else {}
        n.output(n.add(op, [n.input([1, 8, 4, 4], **first), n.weight([1, 8, 1, 1], n.act, scale=.01, zero=TYPES[n.act][2] if n.act else None)], **extra), span=16.0)
    each(op, two)
    each(op, with_const, types=("u8", "u16"), tag="+const")
each("Add", lambda n: n.output(n.add("Add", [n.input([1, 8, 4, 4]), n.const(np.ones((1, 8, 1, 1), np.float32))])), types=("u8",), tag="+floatconst")
each("PRelu", lambda n: n.output(n.add("PRelu", [n.input([1, 8, 4, 4]), n.weight([8, 1, 1], n.act)])))
each("Where", lambda n: n.output(n.add("Where", [n.input([1, 8, 4, 4], elem=T.BOOL), n.input([1, 8, 4, 4]), n.input([1, 8, 4, 4])])))
for op in "Equal Greater Less GreaterOrEqual LessOrEqual".split():
    each(op, lambda n, op=op: n.output(n.add(op, [n.input([1, 8, 4, 4]), n.input([1, 8, 4, 4])]), elem=T.BOOL), types=("u8", "u16", None))
for op in "And Or Xor".split():
    case(f"{op}/bool", None)(lambda n, op=op: n.output(n.add(op, [n.input([1, 8], elem=T.BOOL), n.input([1, 8], elem=T.BOOL)]), elem=T.BOOL))
case("Not/bool", None)(lambda n: n.output(n.add("Not", [n.input([1, 8], elem=T.BOOL)]), elem=T.BOOL))

# What moves elements.
same("Reshape", (1, 8, 4, 4), np.array([1, 8, 16], np.int64))
same("Transpose", (1, 8, 4, 4), perm=[0, 2, 3, 1])
same("Flatten", (1, 8, 4, 4))
same("Squeeze", (1, 8, 1, 4), np.array([2], np.int64))
same("Unsqueeze", (1, 8, 4), np.array([2], np.int64))
same("Slice", (1, 8, 4, 4), np.array([1], np.int64), np.array([5], np.int64), np.array([1], np.int64))
same("Gather", (1, 8, 4, 4), np.array([3, 1], np.int64), axis=1)
same("Gather", (1, 8, 4, 4), np.array([-1, 1], np.int64), axis=1, tag="+negative")
same("GatherElements", (1, 8, 4), np.zeros((1, 8, 2), np.int64), axis=2)
same("GatherND", (1, 8, 4), np.zeros((1, 2, 2), np.int64))
same("Tile", (1, 8, 4, 4), np.array([1, 1, 2, 1], np.int64))
same("Expand", (1, 8, 1, 4), np.array([1, 8, 4, 4], np.int64))
same("DepthToSpace", (1, 8, 4, 4), blocksize=2)
same("SpaceToDepth", (1, 8, 4, 4), blocksize=2)
same("Identity", (1, 8, 4, 4))
same("MaxPool", (1, 8, 4, 4), kernel_shape=[2, 2], strides=[2, 2])
same("GlobalMaxPool", (1, 8, 4, 4))
same("ReverseSequence", (4, 2, 4), np.array([2, 3], np.int64))
same("Trilu", (1, 1, 4, 4))
same("Dropout", (1, 8, 4, 4))
each("Pad", lambda n: n.output(n.add("Pad", [n.input([1, 8, 4, 4]), n.const(np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)), n.const(np.float32(0))])))
each("Pad", lambda n: n.output(n.add("Pad", [n.input([1, 8, 4, 4]), n.const(np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64))], mode="reflect")), tag="+reflect")


def concat(n, spans=(4.0, 4.0, 4.0)):
    n.output(n.add("Concat", [n.input([1, 8, 4, 4], span=spans[0]), n.input([1, 8, 4, 4], span=spans[1])], axis=1), span=spans[2])


def split(n):
    a, b = n.add("Split", [n.input([1, 8, 4, 4]), n.const(np.array([3, 5], np.int64))], outs=2, axis=1)
    n.output(a), n.output(b)


each("Concat", concat)
each("Concat", lambda n: concat(n, (4.0, 2.0, 4.0)), types=("u8", "u16"), tag="+rescaled")
each("Split", split)

# Windows and reductions.
each("AveragePool", lambda n: n.output(n.add("AveragePool", [n.input([1, 8, 4, 4])], kernel_shape=[2, 2], strides=[2, 2])))
each("AveragePool", lambda n: n.output(n.add("AveragePool", [n.input([1, 8, 4, 4, 4])], kernel_shape=[2, 2, 2])), types=("u8", "u16", None), tag="+3d")
each("AveragePool", lambda n: n.output(n.add("AveragePool", [n.input([1, 8, 8])], kernel_shape=[2])), types=("u8", "u16", None), tag="+1d")
each("MaxPool", lambda n: n.output(n.add("MaxPool", [n.input([1, 8, 8])], kernel_shape=[2])), types=("u8", "u16", None), tag="+1d")
each("MaxPool", lambda n: n.output(n.add("MaxPool", [n.input([1, 8, 6, 6])], kernel_shape=[2, 2], dilations=[2, 2])), types=("u8", None), tag="+dilated")
each("GlobalAveragePool", lambda n: n.output(n.add("GlobalAveragePool", [n.input([1, 8, 4, 4])])))
each("LpPool", lambda n: n.output(n.add("LpPool", [n.input([1, 8, 4, 4])], kernel_shape=[2, 2]), span=8.0), types=("u8", None), opset=18)
for op in "ReduceMean ReduceMax ReduceMin ReduceProd ReduceL2".split():
    each(op, lambda n, op=op: n.output(n.add(op, [n.input([1, 8, 4, 4])], axes=[2, 3])), types=("u8", "i8", None))
    each(op, lambda n, op=op: n.output(n.add(op, [n.input([1, 8, 4, 4]), n.const(np.array([2, 3], np.int64))])), types=("u16", "i16"), opset=21)
each("ReduceSum", lambda n: n.output(n.add("ReduceSum", [n.input([1, 8, 4, 4]), n.const(np.array([2, 3], np.int64))]), span=16.0))
for op in ("ArgMax", "ArgMin"):
    each(op, lambda n, op=op: n.output(n.add(op, [n.input([1, 8, 4, 4])], axis=1), elem=T.INT64), types=("u8", "u16", None))
each("CumSum", lambda n: n.output(n.add("CumSum", [n.input([1, 8]), n.const(np.array(1, np.int64))]), span=16.0), types=("u8", "u16", None))


def topk(n):
    v, i = n.add("TopK", [n.input([1, 16]), n.const(np.array([4], np.int64))], outs=2)
    n.output(v), n.output(i, elem=T.INT64)


each("TopK", topk, types=("u8", "u16", None))
for mode, coord in (("nearest", "half_pixel"), ("nearest", "asymmetric"), ("linear", "half_pixel"), ("linear", "align_corners"), ("linear", "asymmetric"), ("cubic", "half_pixel")):
    each("Resize", lambda n, mode=mode, coord=coord: n.output(n.add("Resize", [n.input([1, 8, 4, 4]), "", n.const(np.array([1, 1, 2, 2], np.float32))], mode=mode,
         coordinate_transformation_mode=coord, nearest_mode="round_prefer_floor")), types=("u8", "u16", None) if mode != "cubic" else ("u8", None), tag=f"+{mode}-{coord}")
for coord in ("half_pixel", "asymmetric", "align_corners"):
    for nearest in ("floor", "ceil", "round_prefer_ceil"):
        each("Resize", lambda n, coord=coord, nearest=nearest: n.output(n.add("Resize", [n.input([1, 8, 4, 4]), "", n.const(np.array([1, 1, 2, 2], np.float32))],
             mode="nearest", coordinate_transformation_mode=coord, nearest_mode=nearest)), types=("u8", "u16", None), tag=f"+nearest-{coord}-{nearest}")
each("GridSample", lambda n: n.output(n.add("GridSample", [n.input([1, 8, 4, 4]), n.input([1, 4, 4, 2], span=1.0)])), types=("u8", "u16", None))

# Layers with weights.
def plain(n):
    """The weights that go with the activations when a case is about something else."""
    return {"u8": "u8", "i8": "i8", "u16": "i8", "i16": "i8", None: None}[n.act]


def conv(n, w="", axis=None, shape=(8, 8, 3, 3), group=1, bias="i32", x=(1, 8, 8, 8), op="Conv", after=None, out={}, wkw={}, bkw={}, **attrs):
    xv = n.input(list(x))
    ins = [xv, n.weight(list(shape), w or plain(n), axis, **wkw)]
    m = shape[0] if op == "Conv" else shape[1] * group
    if bias != "none":
        ins.append(n.bias(m, bias if bias != "float" else None, **bkw))
    y = n.add(op, ins, **({"group": group} if group > 1 else {}), **attrs)
    if after:
        y = n.add(after, [y])
    n.output(y, **{"span": 64.0, **out})


def gemm(n, w="", axis=None, bias="i32", trans=1, after=None, wkw={}, bkw={}, alpha=1.0, out={}):
    x = n.input([2, 16])
    ins = [x, n.weight([8, 16] if trans else [16, 8], w or plain(n), axis, **wkw)]
    if bias != "none":
        ins.append(n.bias(8, bias if bias != "float" else None, **bkw))
    y = n.add("Gemm", ins, transB=trans, alpha=alpha)
    n.output(n.add(after, [y]) if after else y, **{"span": 64.0, **out})


def matmul(n, w="", axis=None, x=(1, 4, 16), wkw={}):
    n.output(n.add("MatMul", [n.input(list(x)), n.weight([16, 8], w or plain(n), axis, **wkw)]), span=64.0)


LAYERS = {"Conv": (conv, 0, {}), "ConvTranspose": (conv, 1, {"op": "ConvTranspose"}), "Gemm": (gemm, 0, {}), "MatMul": (matmul, 1, {})}
for name, (fn, axis, kw) in LAYERS.items():
    case(f"{name}/f32", None)(lambda n, fn=fn, kw=kw: fn(n, **kw))
    for act in ("u8", "i8", "u16", "i16"):
        for w in ("u8", "i8", "i4", "u16", "i16"):
            for per in ("tensor", "channel"):
                wide = {act, w} & {"u16", "i16", "i4"}
                case(f"{name}/{act}x{w}+{per}", act, 21 if wide else 17)(lambda n, fn=fn, kw=kw, w=w, axis=axis, per=per: fn(n, w=w, axis=axis if per == "channel" else None, **kw))
    for act, w in (("u8", "i8"), ("u16", "i8")):
        other = 1 - axis
        case(f"{name}/{act}x{w}+wrongaxis", act)(lambda n, fn=fn, kw=kw, w=w, other=other: fn(n, w=w, axis=other, **kw, **({"bias": "none", "out": {"span": 16.0}} if fn is not matmul else {})))
    case(f"{name}/u8xi8+asymmetric", "u8")(lambda n, fn=fn, kw=kw: fn(n, w="i8", wkw={"zero": 5}, **kw))
    case(f"{name}/u8xi8+channel+asymmetric", "u8")(lambda n, fn=fn, kw=kw, axis=axis: fn(n, w="i8", axis=axis, wkw={"zero": 5}, **kw))
    case(f"{name}/u8xu8+asymmetric", "u8")(lambda n, fn=fn, kw=kw: fn(n, w="u8", wkw={"zero": 100}, **kw))
    case(f"{name}/u16xi8+microsoft", "u16", 17, "com.microsoft")(lambda n, fn=fn, kw=kw, axis=axis: fn(n, w="i8", axis=axis, **kw))
    case(f"{name}/u16xi8+opset17", "u16", 17)(lambda n, fn=fn, kw=kw, axis=axis: fn(n, w="i8", axis=axis, **kw))
    case(f"{name}/u8xi4+opset17", "u8", 17)(lambda n, fn=fn, kw=kw, axis=axis: fn(n, w="i4", axis=axis, **kw))
    if fn is not matmul:
        case(f"{name}/u8xu8+nobias", "u8")(lambda n, fn=fn, kw=kw: fn(n, bias="none", **kw))
        case(f"{name}/u8xu8+floatbias", "u8")(lambda n, fn=fn, kw=kw: fn(n, bias="float", **kw))
        case(f"{name}/u8xu8+biasscale", "u8")(lambda n, fn=fn, kw=kw: fn(n, bkw={"scale": .01}, **kw))
        case(f"{name}/u8xu8+bias8", "u8")(lambda n, fn=fn, kw=kw: fn(n, bias="u8", bkw={"scale": .01}, **kw))
        for act in ("u8", "i8", "u16"):
            low = TYPES[act][2]
            case(f"{name}/{act}+relu-zero", act)(lambda n, fn=fn, kw=kw, low=low: fn(n, after="Relu", out={"zero": low}, **kw))
            case(f"{name}/{act}+relu-middle", act)(lambda n, fn=fn, kw=kw: fn(n, after="Relu", **kw))
for act, w in (("u8", "i8"), ("u16", "i8")):
    case(f"Conv/{act}x{w}+depthwise", act)(lambda n, w=w: conv(n, w=w, axis=0, shape=(8, 1, 3, 3), group=8))
    case(f"Conv/{act}x{w}+grouped", act)(lambda n, w=w: conv(n, w=w, axis=0, shape=(8, 4, 3, 3), group=2))
    case(f"Conv/{act}x{w}+1d", act)(lambda n, w=w: conv(n, w=w, axis=0, shape=(8, 8, 3), x=(1, 8, 16)))
    case(f"Conv/{act}x{w}+3d", act)(lambda n, w=w: conv(n, w=w, axis=0, shape=(8, 8, 3, 3, 3), x=(1, 8, 5, 5, 5)))
    case(f"Conv/{act}x{w}+dilated", act)(lambda n, w=w: conv(n, w=w, axis=0, dilations=[2, 2]))
    case(f"Conv/{act}x{w}+same", act)(lambda n, w=w: conv(n, w=w, axis=0, auto_pad="SAME_UPPER"))
    case(f"Gemm/{act}x{w}+untransposed", act)(lambda n, w=w: gemm(n, w=w, axis=1, trans=0))
case("Conv/f32+depthwise", None)(lambda n: conv(n, shape=(8, 1, 3, 3), group=8))
case("Conv/f32+1d", None)(lambda n: conv(n, shape=(8, 8, 3), x=(1, 8, 16)))
case("Conv/f32+3d", None)(lambda n: conv(n, shape=(8, 8, 3, 3, 3), x=(1, 8, 5, 5, 5)))
case("Gemm/u8xu8+alpha", "u8")(lambda n: gemm(n, alpha=.5, bias="none"))
for a in ("u8", "i8", "u16", "i16", None):
    for b in ("u8", "u16", "i8") if a else (None,):
        case(f"MatMul/two-{a or 'f32'}x{b or 'f32'}", a, 21 if "16" in f"{a}{b}" else 17)(
            lambda n, b=b: n.output(n.add("MatMul", [n.input([1, 4, 16]), n.input([1, 16, 8], **({"typ": b} if b else {}))]), span=64.0))

# Normalization, recurrence.
each("LayerNormalization", lambda n: n.output(n.add("LayerNormalization", [n.input([1, 4, 16]), n.weight([16], n.act), n.bias(16, "i32")], axis=-1)))
each("LayerNormalization", lambda n: n.output(n.add("LayerNormalization", [n.input([1, 4, 16]), n.weight([16], "u8" if n.act else None), n.bias(16, "i32")], axis=-1)), types=("u16",), tag="+w8")
each("InstanceNormalization", lambda n: n.output(n.add("InstanceNormalization", [n.input([1, 8, 4, 4]), n.weight([8], n.act), n.bias(8, "i32")])))
each("BatchNormalization", lambda n: n.output(n.add("BatchNormalization", [n.input([1, 8, 4, 4])] + [n.weight([8], n.act, zero=TYPES[n.act][2] if n.act else None) for _ in range(4)])))
each("LpNormalization", lambda n: n.output(n.add("LpNormalization", [n.input([1, 8, 4, 4])], axis=-1, p=2), span=1.0))
each("GroupNormalization", lambda n: n.output(n.add("GroupNormalization", [n.input([1, 8, 4, 4]), n.weight([8], n.act), n.weight([8], n.act)], num_groups=2)), opset=21, types=("u8", "u16", None))
each("LRN", lambda n: n.output(n.add("LRN", [n.input([1, 8, 4, 4])], size=3)), types=("u8", "u16", None))
for op, k in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
    each(op, lambda n, op=op, k=k: n.output(n.add(op, [n.input([4, 1, 8]), n.weight([1, k * 8, 8], n.act), n.weight([1, k * 8, 8], n.act)], hidden_size=8), span=1.0), types=("u8", "u16", None))
each("Einsum", lambda n: n.output(n.add("Einsum", [n.input([1, 4, 16]), n.input([1, 8, 16])], equation="bij,bkj->bik"), span=64.0), types=("u8", "u16", None))

# Integers as such, casts, tables.
case("Cast/f32-i32", None)(lambda n: n.output(n.add("Cast", [n.input([1, 8])], to=T.INT32), elem=T.INT32))
case("Cast/f32-f16", None)(lambda n: n.output(n.add("Cast", [n.input([1, 8])], to=T.FLOAT16), elem=T.FLOAT16))
case("Cast/i32-f32", None)(lambda n: n.output(n.add("Cast", [n.input([1, 8], elem=T.INT32)], to=T.FLOAT)))
case("Add/i32", None)(lambda n: n.output(n.add("Add", [n.input([1, 8], elem=T.INT32), n.input([1, 8], elem=T.INT32)]), elem=T.INT32))
case("Add/i64", None)(lambda n: n.output(n.add("Add", [n.input([1, 8], elem=T.INT64), n.input([1, 8], elem=T.INT64)]), elem=T.INT64))
case("Add/f64", None)(lambda n: n.output(n.add("Add", [n.input([1, 8], elem=T.DOUBLE), n.input([1, 8], elem=T.DOUBLE)]), elem=T.DOUBLE))
case("Add/f16", None)(lambda n: n.output(n.add("Add", [n.input([1, 8], elem=T.FLOAT16), n.input([1, 8], elem=T.FLOAT16)]), elem=T.FLOAT16))
each("Gather", lambda n: n.output(n.add("Gather", [n.weight([32, 8], n.act), n.input([1, 4], elem=T.INT64)])), types=("u8", "u16", None), tag="+table")
for index, elem in (("i32", T.INT32), ("i64", T.INT64)):
    each("Gather", lambda n, elem=elem: n.output(n.add("Gather", [n.input([1, 8, 4, 4]), n.input([2], elem=elem)], axis=1)), types=("u8", "u16", None), tag=f"+dynamic-{index}")
each("OneHot", lambda n: n.output(n.add("OneHot", [n.input([1, 4], elem=T.INT64), n.const(np.array(8, np.int64)), n.const(np.array([0, 1], np.float32))])), types=("u8", None))
each("ScatterND", lambda n: n.output(n.add("ScatterND", [n.input([1, 8, 4]), n.const(np.array([[0, 1], [0, 2]], np.int64)), n.input([2, 4])])), types=("u8", "u16", None))
each("ScatterElements", lambda n: n.output(n.add("ScatterElements", [n.input([1, 8]), n.const(np.array([[1, 3]], np.int64)), n.input([1, 2])], axis=1)), types=("u8", "u16", None))

# What no NPU does.
each("NonZero", lambda n: n.output(n.add("NonZero", [n.input([1, 8])]), elem=T.INT64), types=("u8", None))
each("Unique", lambda n: n.output(n.add("Unique", [n.input([8])])), types=("u8", None))
for op, build in (("Sinh", lambda n: n.output(n.add("Sinh", [n.input([1, 8])]))), ("Asinh", lambda n: n.output(n.add("Asinh", [n.input([1, 8])]))), ("Acosh", lambda n: n.output(n.add("Acosh", [n.input([1, 8])]))),
                  ("Det", lambda n: n.output(n.add("Det", [n.input([2, 4, 4])]), span=64.0)), ("IsNaN", lambda n: n.output(n.add("IsNaN", [n.input([1, 8])]), elem=T.BOOL)),
                  ("Hardmax", lambda n: n.output(n.add("Hardmax", [n.input([1, 8])]))), ("MeanVarianceNormalization", lambda n: n.output(n.add("MeanVarianceNormalization", [n.input([1, 8, 4, 4])])))):
    each(op, build, types=("u8", None))


def branch(n):
    def body(value):
        c = helper.make_node("Constant", [], [f"v{value}"], name=f"n_c{value}", value=numpy_helper.from_array(np.full((1, 8), value, np.float32)))
        return helper.make_graph([c], f"b{value}", [], [helper.make_tensor_value_info(f"v{value}", T.FLOAT, [1, 8])])
    n.output(n.add("If", [n.input([], elem=T.BOOL)], then_branch=body(1), else_branch=body(2)))


case("If/f32", None)(branch)
case("Loop/f32", None)(lambda n: n.output(n.add("Loop", [n.const(np.array(3, np.int64)), "", n.input([1, 8])], body=helper.make_graph(
    [helper.make_node("Identity", ["c"], ["c2"], name="n_i"), helper.make_node("Neg", ["v"], ["v2"], name="n_n")], "body",
    [helper.make_tensor_value_info("i", T.INT64, []), helper.make_tensor_value_info("c", T.BOOL, []), helper.make_tensor_value_info("v", T.FLOAT, [1, 8])],
    [helper.make_tensor_value_info("c2", T.BOOL, []), helper.make_tensor_value_info("v2", T.FLOAT, [1, 8])]))))

# Shapes.
for op in ("Relu", "Add", "Reshape", "Transpose", "Concat", "Mul", "Sigmoid"):
    for rank in (1, 5, 6):
        dims = [2] * rank

        def ranked(n, op=op, dims=dims):
            x = n.input(dims)
            if op in ("Add", "Mul", "Concat"):
                y = n.add(op, [x, n.input(dims)], **({"axis": 0} if op == "Concat" else {}))
            elif op == "Reshape":
                y = n.add(op, [x, n.const(np.array(dims[::-1], np.int64))])
            elif op == "Transpose":
                y = n.add(op, [x], perm=list(range(len(dims)))[::-1])
            else:
                y = n.add(op, [x])
            n.output(y, **(unit(n, 0) if op == "Sigmoid" else {"span": 4.0}))
        case(f"{op}/u8+rank{rank}", "u8")(ranked)
        case(f"{op}/f32+rank{rank}", None)(ranked)
for name, dims in (("dynamic", ["n", 8, 4, 4]), ("dynamic-inner", [1, 8, "h", 4])):
    for op in ("Relu", "Add"):
        for act in ("u8", None):
            case(f"{op}/{act or 'f32'}+{name}", act)(lambda n, op=op, dims=dims: n.output(n.add(op, [n.input(dims)] + ([n.input(dims)] if op == "Add" else []))))
case("Conv/u8xi8+dynamic", "u8")(lambda n: conv(n, w="i8", axis=0, x=("n", 8, 8, 8)))
for op in "Sigmoid Tanh Sqrt Abs Clip Exp Softmax AveragePool".split():
    case(f"{op}/f32+rank5", None)(lambda n, op=op: n.output(n.add(op, [n.input([1, 2, 2, 2, 2])], **({"kernel_shape": [2, 2, 2]} if op == "AveragePool" else {})))) if op != "Sigmoid" else None
case("Relu/u8+empty", "u8")(lambda n: n.output(n.add("Relu", [n.input([0, 8])])))

# Islands of float between codes, codes without an end, one side only.
case("Erf/u8+island", "u8")(lambda n: n.output(n.add("Erf", [n.add("Sin", [n.input([1, 8])])])))
for first in ("Add", "Mul", "Sigmoid", "Conv", "AveragePool", "Reshape"):
    for second in ("Relu", "Sigmoid", "LeakyRelu", "Reshape", "Erf"):
        def island(n, first=first, second=second, low=False):
            x = n.input([1, 8, 4, 4])
            y = n.add(first, {"Add": [x, x], "Mul": [x, x], "Conv": [x, n.weight([8, 8, 1, 1], "u8")] if first == "Conv" else [], "Reshape": [x, n.const(np.array([1, 8, 4, 4], np.int64))]}.get(first, [x]),
                      **({"kernel_shape": [2, 2]} if first == "AveragePool" else {}))
            z = n.add(second, [y] + ([n.const(np.array([1, 8, -1, 1], np.int64))] if second == "Reshape" else []))
            n.output(z, **({"zero": 0, "scale": 8 / 256} if low else {}))
        case(f"{first}/u8+island-{second}", "u8")(island)
        if second == "Relu":
            case(f"{first}/u8+island-Relu-zero", "u8")(lambda n, b=island: b(n, low=True))
case("Conv/u8+clip6-exact", "u8")(lambda n: n.output(n.add("Clip", [n.add("Conv", [n.input([1, 8, 4, 4]), n.weight([8, 8, 1, 1], "u8")]), n.const(np.float32(0)), n.const(np.float32(6))]), zero=0, scale=6 / 255))
case("Conv/u8+clip6-wide", "u8")(lambda n: n.output(n.add("Clip", [n.add("Conv", [n.input([1, 8, 4, 4]), n.weight([8, 8, 1, 1], "u8")]), n.const(np.float32(0)), n.const(np.float32(6))]), zero=0, scale=12 / 255))
case("Conv/u8+twice", "u8")(lambda n: (lambda y: (n.output(y), n.output(n.add("Relu", [y]))))(n.add("Conv", [n.input([1, 8, 4, 4]), n.weight([8, 8, 1, 1], "u8")])))
case("Relu/u8+nooutput", "u8")(lambda n: n.output(n.add("Relu", [n.input([1, 8])]), coded=False))
case("Conv/u8+nooutput", "u8")(lambda n: (lambda x: n.output(n.add("Conv", [x, n.weight([8, 8, 3, 3], "u8")]), coded=False))(n.input([1, 8, 8, 8])))
case("Add/u8+mixed", "u8")(lambda n: n.output(n.add("Add", [n.input([1, 8]), n.input([1, 8], coded=False)])))
case("Add/u8+u16", "u8", 21)(lambda n: n.output(n.add("Add", [n.input([1, 8]), n.input([1, 8], typ="u16")])))
case("Relu/u8-u16", "u8", 21)(lambda n: n.output(n.add("Relu", [n.input([1, 8])]), typ="u16"))
case("Conv/u8xi8-u16", "u8", 21)(lambda n: conv(n, w="i8", out={"typ": "u16"}))

# Weights in few bits whose products are floats.
def nbits(n, bits=4, block=32):
    rng = n.rng
    b = n.const(rng.integers(0, 256, (8, 64 // block, block * bits // 8)).astype(np.uint8))
    s = n.const(rng.uniform(.01, .02, (8, 64 // block)).astype(np.float32).reshape(-1))
    n.output(n.add("MatMulNBits", [n.input([1, 64]), b, s], domain="com.microsoft", K=64, N=8, bits=bits, block_size=block), shape=[1, 8], coded=False)


case("MatMulNBits/f32-4-32", None, 21)(nbits)
case("MatMulNBits/f32-8-32", None, 21)(lambda n: nbits(n, bits=8))
for typ in ("i4", "u4"):
    case(f"MatMul/f32x{typ}+block", None, 21)(lambda n, typ=typ: n.output(n.add("MatMul", [n.input([1, 64]), n.weight([64, 8], typ, axis=0, block=32)]), coded=False))
for typ in ("i8", "u8"):
    case(f"MatMul/f32x{typ}+weightonly", None, 17)(lambda n, typ=typ: n.output(n.add("MatMul", [n.input([1, 64]), n.weight([64, 8], typ)]), coded=False))
case("MatMul/dynamic-u8", None, 17)(lambda n: n.output(n.add("MatMul", [(lambda q: n.add("DequantizeLinear", q))(n.add("DynamicQuantizeLinear", [n.input([1, 64])], outs=3)), n.weight([64, 8], "u8")]), coded=False))
case("QLinearMatMul/u8", None, 17)(lambda n: n.output(n.add("DequantizeLinear", [n.add("QLinearMatMul", [
    n.add("QuantizeLinear", [n.input([1, 16]), n.const(np.float32(.05)), n.const(np.uint8(128))]), n.const(np.float32(.05)), n.const(np.uint8(128)),
    n.const(n.rng.integers(0, 255, (16, 8)).astype(np.uint8)), n.const(np.float32(.01)), n.const(np.uint8(128)), n.const(np.float32(.1)), n.const(np.uint8(128))]),
    n.const(np.float32(.1)), n.const(np.uint8(128))])))
for bad, scale in (("zero", 0.0), ("negative", -.05), ("nan", float("nan"))):
    case(f"Relu/u8+scale-{bad}", "u8")(lambda n, scale=scale: n.output(n.add("Relu", [n.add("DequantizeLinear", [n.add("QuantizeLinear", [
        n.input([1, 8], coded=False), n.const(np.float32(scale)), n.const(np.uint8(128))]), n.const(np.float32(scale)), n.const(np.uint8(128))])])))
