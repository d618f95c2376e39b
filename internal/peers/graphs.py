"""graphs.py serve THREADS | graphs.py quantize MODEL SAMPLES OUT: graphs in ONNX Runtime.

serve answers lines, in the protocol of probe/machine.c:
  open MODEL SAMPLES      a session, and what it is fed: arrays [n, ...] in SAMPLES/index, an input each
  run SECONDS             runs for that long, once at least, and answers the median seconds of a run
  first MODEL SAMPLES     the seconds from nothing to the first output, in this process

quantize is static quantization as ONNX Runtime documents it: its preprocessing, then QDQ with ranges from
min-max, per-channel weights, u8 activations and s8 weights. Models of operator sets below 13 are converted by
the onnx package first, since older ones do not have scales per channel.
"""
import pathlib
import sys
import time


def samples(folder):
    import numpy as np

    arrays = {}
    for line in pathlib.Path(folder, "index").read_text().splitlines():
        file, name = line.split(" ", 1)
        arrays[name] = np.load(pathlib.Path(folder, file))
    return [{k: np.asarray(v[i]) for k, v in arrays.items()} for i in range(min(len(v) for v in arrays.values()))]


def session(model, threads):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, ["CPUExecutionProvider"])


def serve(threads):
    import onnxruntime  # noqa: F401, importing it is no part of any measurement

    ready, feeds, at, fed = None, [], 0, {}
    for line in sys.stdin:
        word, _, rest = line.strip().partition(" ")
        if word in ("open", "first"):
            model, folder = rest.split("\t")
            if folder not in fed:
                fed = {folder: samples(folder)}
            start = time.perf_counter()
            one = session(model, threads)
            if word == "open":
                ready, feeds, at = one, fed[folder], 0
                print("ok", flush=True)
            else:
                one.run(None, fed[folder][0])
                print("ok %.9g" % (time.perf_counter() - start), flush=True)
        elif word == "run":
            limit, times, now = float(rest), [], time.perf_counter()
            end = now + limit
            while not times or now < end:
                ready.run(None, feeds[at])
                at = (at + 1) % len(feeds)
                before, now = now, time.perf_counter()
                times.append(now - before)
            times.sort()
            print("ok %.9g" % times[len(times) // 2], flush=True)
        else:
            sys.exit("unknown command " + word)


def quantize(source, folder, out):
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    model = onnx.load(source)
    if next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")) < 13:
        model = onnx.version_converter.convert_version(model, 13)
    model.ir_version = max(model.ir_version, 8)
    constants = {t.name for t in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    ready = str(pathlib.Path(out).with_suffix(".ready.onnx"))
    try:
        quant_pre_process(model, ready)
    except Exception as e:  # its shape inference does not take every model; quantization goes on without
        print("preprocessing:", str(e).splitlines()[0], file=sys.stderr)
        onnx.save(model, ready)

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.rest = iter(samples(folder))

        def get_next(self):
            return next(self.rest, None)

    quantize_static(ready, out, Reader(), quant_format=QuantFormat.QDQ, per_channel=True, activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8, calibrate_method=CalibrationMethod.MinMax)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    elif sys.argv[1] == "import":  # what of quantizing is Python alone
        import onnx  # noqa: F401
        import onnxruntime.quantization  # noqa: F401
    else:
        quantize(*sys.argv[2:])
