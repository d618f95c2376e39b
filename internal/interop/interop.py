#!/usr/bin/env python3
"""Prove pare's packages with the runtimes that people use.

    interop.py gguf    CACHE PARE [DEMO]  every GGUF package of the demo in the real llama.cpp, on x86-64 and on
                                          emulated arm64, and in the gguf library; GPTQ and plain encoders against
                                          llama.cpp's own quantizer
    interop.py encoders CACHE PARE        a published text encoder (84 MB are fetched): its embeddings against PyTorch's, its
                                          GGUF files in llama.cpp
    interop.py graphs  CACHE PARE         quantized ONNX graphs in ONNX Runtime, also on an emulated processor without AVX-512; graphs that
                                          its tools quantize, in pare
    interop.py npu     CACHE PARE         packages for neural processors, compiled and executed by the programs of Qualcomm and Intel
    interop.py quality CACHE PARE [CSV]   what 8 bits leave of networks, beside ONNX Runtime's quantizer and NNCF; with the CSV of
                                          BANKING77's training split (text, category), of a sentence encoder, too
    interop.py torch   CACHE PARE         GPU folders in transformers with compressed-tensors, on the CPU (a large install)
    interop.py setup   CACHE              install what gguf, graphs and npu need, and stop

CACHE keeps what is installed. PARE is the binary under test. DEMO is the folder of an earlier `pare demo`;
without it the demo is run. Each check prints a line; when one fails the exit code is 1.
"""
import os
import pathlib
import sys

import install

if __name__ == "__main__":
    verbs = {"gguf": (2, 3), "encoders": (2, 2), "graphs": (2, 2), "npu": (2, 2), "quality": (2, 3), "torch": (2, 2), "setup": (1, 1)}
    verb = sys.argv[1] if len(sys.argv) > 1 else ""
    if verb not in verbs or not verbs[verb][0] <= len(sys.argv) - 2 <= verbs[verb][1]:
        sys.exit(__doc__)
    paths = [pathlib.Path(a).resolve() for a in sys.argv[2:]]
    os.environ |= {"NO_COLOR": "1", "HF_HUB_OFFLINE": "1"}
    if verb == "setup":
        install.llama(paths[0])
        install.onnx(paths[0])
        install.npu(paths[0])
    elif verb == "gguf":
        import llamacpp

        llamacpp.prove(*paths)
    elif verb == "encoders":
        import encoders

        encoders.prove(*paths)
    elif verb == "graphs":
        import graphs

        graphs.prove(*paths)
    elif verb == "npu":
        import npu

        npu.prove(*paths)
    elif verb == "quality":
        import quality

        quality.prove(*paths)
    else:
        import gpu

        gpu.prove(*paths)
