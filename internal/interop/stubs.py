"""stubs.py TORCH_LIB: let torch of PyPI import on a machine without CUDA.

PyPI's torch for x86-64 is linked against two gigabytes of CUDA libraries that nothing on a CPU ever
calls, and the loader refuses it without them. For each one that is missing, this writes a shared
object of the same name beside torch's own: it defines, as eight bytes of data with the right symbol
version, what torch's libraries take from it, and nothing else.
"""
import pathlib
import re
import subprocess
import sys
import tempfile

CUDA = re.compile(r"lib(cu|nccl|nvrtc|nvshmem)")  # soname of a library that a CPU run can do without
OURS = re.compile(r"(cu|nccl|nv)[A-Za-z]")  # symbols of such libraries that carry no version


def readelf(*args):
    return subprocess.run(["readelf", "-W", *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True).stdout


def needed(path):
    return re.findall(r"NEEDED.*\[(.*)\]", readelf("-d", path))


def versions(path):
    """Which library each symbol version is taken from: {soname: {version}}."""
    found, soname = {}, None
    for line in readelf("-V", path).splitlines():
        if m := re.search(r"Version: \d+  File: (\S+)", line):
            soname = m[1]
        elif (m := re.search(r"Name: (\S+)  Flags:", line)) and soname:
            found.setdefault(soname, set()).add(m[1])
    return found


def symbols(path):
    """Undefined (name, version or None) and defined names of a library."""
    undefined, defined = set(), set()
    for line in readelf("--dyn-syms", path).splitlines():
        f = line.split()
        if len(f) < 8 or not f[0].endswith(":"):
            continue
        name, _, version = f[7].partition("@")
        if f[6] == "UND":
            undefined.add((name, version or None))
        else:
            defined.add(name)
    return undefined, defined


def main(folder):
    own = sorted(p for p in folder.glob("*.so*") if p.is_file())
    installed = sorted((folder.parent.parent / "nvidia").glob("*/lib/*.so*"))
    present = {p.name for p in own + installed}
    missing = sorted({n for p in own for n in needed(p) if CUDA.match(n)} - present)
    undefined, defined, taken = set(), set(), {}
    for p in own:
        u, d = symbols(p)
        undefined |= u
        defined |= d
        for soname, names in versions(p).items():
            taken.setdefault(soname, set()).update(names)
    for p in installed:
        defined |= symbols(p)[1]
    loose = {n for n, v in undefined if v is None and OURS.match(n) and n not in defined}
    with tempfile.TemporaryDirectory() as tmp:
        source, script = pathlib.Path(tmp, "stub.c"), pathlib.Path(tmp, "stub.map")
        for soname in missing:
            names, options = set(), []
            for version in sorted(taken.get(soname, ())):
                of = sorted(n for n, v in undefined if v == version)
                names.update(of)
                options.append(f"{version} {{ {''.join(f'{n}; ' for n in of)}}};\n")
            if options:
                script.write_text("".join(options))
                options = [f"-Wl,--version-script,{script}"]
            else:  # symbols without a version do not say where they belong
                names = loose
            source.write_text("".join(f"char {n}[8];\n" for n in sorted(names)))
            subprocess.run(["gcc", "-shared", "-fPIC", "-w", "-fno-builtin", f"-Wl,-soname,{soname}", *options, "-o", str(folder / soname), str(source)], check=True)
    print(f"{len(missing)} stand-ins for CUDA libraries: {' '.join(missing)}")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
