"""make_goldens.py REPOSITORY: what transformers 5.23.0 makes of the Hugging Face folders that package tokenizer writes.

Sources: ../gguf/*.gguf.gz, testdata/architectures/*/model-*.gguf and ../llama2c/tok512.bin, through write.go. Writes
golden.json: name -> {"sha256": of the written tokenizer.json, "plain": ids of ../hf/texts.json, "special": ids of the
first 40 with special tokens}.
"""

import gzip
import hashlib
import json
import pathlib
import subprocess
import sys
import tempfile

import gguf
import numpy as np
import transformers

HERE = pathlib.Path(__file__).parent
ROOT = pathlib.Path(sys.argv[1])
texts = json.loads((HERE / "../hf/texts.json").read_text())
with tempfile.TemporaryDirectory() as tmp:
    tmp = pathlib.Path(tmp)
    files = {p.parent.name: p for p in (ROOT / "testdata/architectures").glob("*/model-*.gguf")}
    for p in (HERE / "../gguf").glob("*.gguf.gz"):
        name = p.name.removesuffix(".gguf.gz")
        files[name] = tmp / (name + ".gguf")
        files[name].write_bytes(gzip.decompress(p.read_bytes()))
    kvs = {name: {k: f.contents() for k, f in gguf.GGUFReader(p).fields.items() if k.startswith("tokenizer.")} for name, p in files.items()}
    kvs["tok512"] = {"llama2c": str(HERE / "../llama2c/tok512.bin")}
    fed = json.dumps(kvs, default=lambda x: x.item() if isinstance(x, np.generic) else list(x))
    made = json.loads(subprocess.run(["go", "run", HERE / "write.go"], input=fed, text=True, stdout=subprocess.PIPE, check=True).stdout)
    golden = {}
    for name, folder in made.items():
        path = tmp / name
        path.mkdir()
        for file, text in folder.items():
            (path / file).write_text(text)
        t = transformers.AutoTokenizer.from_pretrained(path)
        golden[name] = {"sha256": hashlib.sha256(folder["tokenizer.json"].encode()).hexdigest(),
                        "plain": [t(x, add_special_tokens=False).input_ids for x in texts],
                        "special": [t(x).input_ids for x in texts[:40]]}
data = json.dumps(golden, separators=(",", ":")).replace("},", "},\n").encode()
(HERE / "golden.json.gz").write_bytes(gzip.compress(data, 9, mtime=0))
