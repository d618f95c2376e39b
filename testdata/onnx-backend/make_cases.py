#!/usr/bin/env python3
"""Packs onnx/backend/test/data into cases.zip, with the same bytes each time.

    make_cases.py onnx/backend/test/data cases.zip

Paths stay; sorted; fixed times and permissions. Licence and origin: README.md beside this file.
"""
import pathlib
import sys
import zipfile


def main():
    root, out = pathlib.Path(sys.argv[1]), sys.argv[2]
    kinds = ("light", "node", "pytorch-converted", "pytorch-operator", "simple")
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as z:
        for kind in kinds:
            for path in sorted((root / kind).rglob("*")):
                if not path.is_file():
                    continue
                info = zipfile.ZipInfo(path.relative_to(root).as_posix(), (1980, 1, 1, 0, 0, 0))
                info.compress_type = zipfile.ZIP_DEFLATED
                info.external_attr = 0o644 << 16
                z.writestr(info, path.read_bytes(), compresslevel=9)


if __name__ == "__main__":
    main()
