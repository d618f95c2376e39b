"""npurun.py WHERE MODEL SAMPLES KIND OUT CUT COUNT: a package in the program that its processor's vendor gives, as JSON.

WHERE is qnn, the compiler and the emulation of Qualcomm's Hexagon NPU under ONNX Runtime, from which every fallback to the CPU
is taken away; or openvino, on its CPU plugin. The first COUNT samples go through MODEL into the folder OUT, and CUT, the model
taken apart by ortrun.py, is compared with pare's codes layer by layer.
"""
import json
import pathlib
import sys
import time

import numpy as np

from ortrun import apart, given, rollout, stem

ARCH = "73"  # Hexagon v73: Snapdragon 8 Gen 2, X Elite


class QNN:
    def __init__(self, path):
        import onnxruntime as ort
        import onnxruntime_qnn as q

        if not any(d.ep_name == q.get_ep_name() for d in ort.get_ep_devices()):
            ort.register_execution_provider_library(q.get_ep_name(), q.get_library_path())
        device = [d for d in ort.get_ep_devices() if d.ep_name == q.get_ep_name()][:1]
        o = ort.SessionOptions()
        o.log_severity_level = 4
        o.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        o.add_provider_for_devices(device, {"backend_path": q.get_qnn_htp_path(), "htp_arch": ARCH, "offload_graph_io_quantization": "0"})
        self.s = ort.InferenceSession(str(path), o)
        self.get_inputs, self.get_outputs, self.run = self.s.get_inputs, self.s.get_outputs, self.s.run


class OpenVINO:
    """The same calls on a compiled model. Its own quantization of activations is taken away."""

    def __init__(self, path):
        import openvino as ov

        self.k = ov.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"})

    def get_inputs(self):
        return [Named(i.any_name) for i in self.k.inputs]

    def get_outputs(self):
        return [Named(o.any_name) for o in self.k.outputs]

    def run(self, names, feeds):
        got = self.k(feeds)
        return [got[o] for o in self.k.outputs if not names or o.any_name in names]


class Named:
    def __init__(self, name):
        self.name = name


def main(where, model, samples, kind, out, cut, count):
    start = {"qnn": QNN, "openvino": OpenVINO}[where]
    began = time.monotonic()
    s = start(model)
    compiled = time.monotonic() - began
    pathlib.Path(out).mkdir(parents=True)
    for name, y in rollout(s, kind, np.load(samples)[: int(count)]).items():
        np.save(pathlib.Path(out, f"{stem(name)}.npy"), y)
    s = start(pathlib.Path(cut, "cut.onnx"))
    names = [o.name for o in s.get_outputs()]
    print(json.dumps({"compiled": compiled, "layers": apart(cut, dict(zip(names, s.run(None, given(cut)))))}))


if __name__ == "__main__":
    main(*sys.argv[1:])
