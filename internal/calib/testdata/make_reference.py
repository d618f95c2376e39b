"""Ranges that others choose, for the tests of internal/calib: percentiles of ONNX Runtime's calibrators, the
entropy rule in numpy, the least squared errors by brute force.

onnxruntime==1.31.1 onnx==1.23.2, numpy; python make_reference.py > reference.json
Values are quantiles of known distributions, so that the tests can make the same ones. The true mean squared
errors of the best of 400 x 1 (one-sided) or 100 x 100 (two-sided) ranges are computed from the values
themselves with numpy, without a histogram.
"""
import contextlib
import json
import sys
import numpy as np
from statistics import NormalDist
from onnxruntime.quantization.calibrate import HistogramCollector

N = 20000
p = (np.arange(N) + 0.5) / N
normal = np.array([NormalDist().inv_cdf(float(q)) for q in p])
cases = {
    "normal": normal,
    "relu": np.maximum(normal, 0),
    "laplace": np.sign(p - 0.5) * -np.log(1 - 2 * np.abs(p - 0.5)),
    "exponential": -np.log(1 - p),
    "skewed": -np.log(1 - p) - 0.5,
    "uniform": 2 * p - 1,
    "outlier": np.append(normal, 100.0),
}


def mse(x, lo, hi):
    s = np.float32((hi - lo) / 255)
    z = np.clip(np.rint(-lo / s), 0, 255)
    q = np.clip(np.rint(x / s) + z, 0, 255)
    return float(np.mean((x - (q - z) * s) ** 2))


def kl_threshold(mag, levels):
    """The rule of TensorRT's calibration talk (GTC 2017) with the smoothing of ONNX Runtime, by numpy."""
    hist, edges = np.histogram(mag, bins=2048, range=(0, mag.max()))
    hist = hist.astype(float)
    hist[0] = hist[1]
    best = (np.inf, None)
    for i in range(levels, 2049):
        inside = hist[:i]
        p = inside.copy()
        p[-1] += hist[i:].sum()
        q = np.zeros(i)
        cuts = np.arange(levels + 1) * i // levels
        for a, b in zip(cuts[:-1], cuts[1:]):
            full = inside[a:b] > 0
            if full.any():
                q[a:b][full] = inside[a:b].sum() / full.sum()

        def smooth(d):
            z = d == 0
            take = 1e-4 * z.sum() / max((~z).sum(), 1)
            return np.where(z, 1e-4, np.maximum(d - take, 1e-4))

        p, q = smooth(p) / p.sum(), smooth(q) / q.sum()
        kl = float(np.sum(p * np.log(p / q)))
        if kl <= best[0]:
            best = (kl, float(edges[i]))
    return best[1]


out = {}
with contextlib.redirect_stdout(sys.stderr):  # the collectors print
    for name, x in cases.items():
        x = x.astype(np.float32)
        r = {"min": float(x.min()), "max": float(x.max())}
        for pct in (99.873, 99.971):
            for sym in (True, False):
                c = HistogramCollector("percentile", sym, 2048, 128, pct, "same")
                c.collect({"v": [x]})
                lo, hi = c.compute_collection_result()["v"][:2]
                r[f"percentile {pct} {'symmetric' if sym else 'asymmetric'}"] = [float(lo), float(hi)]
        r["entropy"] = kl_threshold(np.abs(x), 128)
        lo, hi = min(float(x.min()), 0), max(float(x.max()), 0)
        if lo == 0:
            best = min(mse(x, 0, hi * f) for f in np.linspace(0.01, 1, 400))
        else:
            best = min(mse(x, lo * f, hi * g) for f in np.linspace(0.02, 1, 100) for g in np.linspace(0.02, 1, 100))
        r["mse"] = best
        out[name] = r
print(json.dumps(out, indent=1))
