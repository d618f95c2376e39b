"""make_goldens.py RUN_C: what llama2.c's own encode() makes of ../hf/texts.json with tok512.bin.

RUN_C is run.c of karpathy/llama2.c@350e04fe3543. A C program of ours includes it, reads each
text (length, bytes) from its input and prints the ids. Texts with U+0000 are skipped (null). Writes golden.json.
"""

import json
import pathlib
import struct
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
MAIN = r"""
#define TESTING
#include "RUN_C"
int main(int n, char **a) {
    Tokenizer t; build_tokenizer(&t, a[1], 512);
    int len;
    while (fread(&len, 4, 1, stdin) == 1) {
        char *text = calloc(len + 1, 1); int *ids = malloc((len + 3) * sizeof(int)), count;
        if (len && fread(text, len, 1, stdin) != 1) return 1;
        encode(&t, text, 1, 0, ids, &count);
        for (int i = 0; i < count; i++) printf("%d ", ids[i]);
        printf("\n");
    }
}
"""
texts = json.loads((HERE / "../hf/texts.json").read_text())
with tempfile.TemporaryDirectory() as tmp:
    tmp = pathlib.Path(tmp)
    (tmp / "main.c").write_text(MAIN.replace("RUN_C", str(pathlib.Path(sys.argv[1]).resolve())))
    subprocess.run(["gcc", "-O1", "-w", "-o", tmp / "encode", tmp / "main.c", "-lm"], check=True)
    raw = [t.encode() for t in texts]
    fed = b"".join(struct.pack("<i", len(x)) + x for x in raw)
    out = subprocess.run([tmp / "encode", HERE / "tok512.bin"], input=fed, capture_output=True, check=True).stdout.decode()
ids = [None if b"\0" in x else [int(i) for i in line.split()] for x, line in zip(raw, out.splitlines(), strict=True)]
(HERE / "golden.json").write_text(json.dumps(ids, separators=(",", ":")).replace("],[", "],\n[") + "\n")
