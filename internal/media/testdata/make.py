#!/usr/bin/env python3
"""Writes pictures and what Pillow 12.0.0 makes of them; numpy 2.4.6. Sounds are by the wave module of Python and
by hand where it has no such format."""
import pathlib
import struct
import wave

import numpy as np
from PIL import Image

here = pathlib.Path(__file__).parent
y, x = np.mgrid[0:12, 0:18]
rgb = np.stack([x * 15, y * 19, (x * y * 7) % 256], -1).astype(np.uint8)
picture = Image.fromarray(rgb)
for suffix, options in [("png", {}), ("bmp", {}), ("webp", {"lossless": True})]:
    picture.save(here / f"color.{suffix}", **options)
Image.fromarray(rgb[:, :, 1]).save(here / "gray.png")
picture.save(here / "color.jpg", quality=95, subsampling=0)
np.save(here / "color.npy", rgb.astype(np.float32))
np.save(here / "jpg.npy", np.asarray(Image.open(here / "color.jpg")).astype(np.float32))
planes = [Image.fromarray(rgb[:, :, c].astype(np.float32)) for c in range(3)]
for name, size, how in [("area", (6, 4), Image.Resampling.BOX), ("bilinear", (40, 29), Image.Resampling.BILINEAR)]:
    np.save(here / f"{name}.npy", np.stack([np.asarray(p.resize(size, how)) for p in planes]))

codes = [-3, 0, 1, 100, -128, 127]
for bits in (8, 16, 24, 32):
    with wave.open(str(here / f"pcm{bits}.wav"), "wb") as w:
        w.setnchannels(2)
        w.setsampwidth(bits // 8)
        w.setframerate(8000)
        top = 1 << (bits - 8)
        w.writeframes(b"".join(bytes([c + 128]) if bits == 8 else (c * top).to_bytes(bits // 8, "little", signed=True) for c in codes))
for bits, kind in ((32, "f"), (64, "d")):
    data = struct.pack(f"<6{kind}", *(c / 128 for c in codes))
    fmt = struct.pack("<HHIIHH", 3, 2, 8000, 8000 * bits // 4, bits // 4, bits)
    body = b"WAVEfmt " + struct.pack("<I", 16) + fmt + b"LIST\x03\x00\x00\x00abc\x00data" + struct.pack("<I", len(data)) + data
    (here / f"float{bits}.wav").write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
