"""What the interop scripts share: running programs, and checks of which a failed one decides the exit code."""
import array
import atexit
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BOOKS = ROOT / "testdata" / "books-llama"
MODEL, ADAPTER = BOOKS / "model", BOOKS / "adapter-shakespeare"
TEXT, CALIBRATION = BOOKS / "text" / "test.txt", BOOKS / "text" / "calibration.txt"

# Text that a tokenizer can get wrong: scripts, joined characters, runs of spaces, numbers, contractions.
SCRIPTS = (
    "The year 1894, it's 3.14159; they'LL go...  two  spaces\t\ttabs\n\n\nlines \r\n ends\n"
    "Größe, naïve café, ÆØÅ; Привет, мир! Γειά σου Κόσμε; שלום עולם; مرحبا بالعالم; नमस्ते दुनिया; สวัสดีชาวโลก; 你好，世界。 こんにちは；안녕하세요\n"
    "e\u0301 a\u0308 \u00a0 \u200d \ufeff 👩‍👩‍👧‍👦 🇩🇪 ½ ² Ⅷ ١٢٣ x_y-z/(a+b)*{c}[d] <|endoftext|> <s> \\n 0000000 100,000.00 don't DON'T\n"
)

# Programs run in a folder that goes away: some of the tools leave files of data where they run.
SCRATCH = tempfile.mkdtemp(prefix="interop-")
atexit.register(shutil.rmtree, SCRATCH, ignore_errors=True)

failures = []
started = time.monotonic()


def run(*cmd, **kw):
    """Run a command and return what it printed; its own message ends the program when it fails."""
    kw.setdefault("cwd", SCRATCH)
    p = subprocess.run([str(c) for c in cmd], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8", **kw)
    if p.returncode:
        sys.exit(f"interop: {' '.join(str(c)[:200] for c in cmd)}\nexit code {p.returncode}\n{p.stdout[-4000:]}{p.stderr[-4000:]}")
    return p.stdout


def step(what):
    print(f"-- {what} ({time.monotonic() - started:.0f} s)", flush=True)


def check(what, ok, detail):
    print(f"{'ok  ' if ok else 'FAIL'} {what}: {detail}", flush=True)
    if not ok:
        failures.append(what)


def gap(theirs, ours):
    return abs(theirs / ours - 1)


def near(what, theirs, ours, limit, more=""):
    """Two perplexities agree within limit, a ratio."""
    check(what, gap(theirs, ours) <= limit, f"perplexity {theirs:.4f}, pare {ours:.4f}, {100 * gap(theirs, ours):.3f} % apart (limit {100 * limit:g} %){'; ' + more if more else ''}")


def near_kl(what, theirs, ours):
    """Two KL divergences from the float model agree. Each runtime rounds activations in its own way, which
    itself costs some 1e-4 nats; beyond that they are of the same weights."""
    check(what, abs(theirs - ours) <= 0.15 * ours + 3e-4, f"KL {theirs:.5f}, pare {ours:.5f} (limit 15 % + 0.0003)")


def finish():
    if failures:
        sys.exit(f"interop: {len(failures)} failed: " + ", ".join(failures))
    t = os.times()
    cpu = t.user + t.system + t.children_user + t.children_system
    print(f"interop: all agree ({time.monotonic() - started:.0f} s, {cpu:.0f} s of processor time)")


def verify(pare, original, package, context, chunks):
    """What pare measures by llama.cpp's protocol: chunks without overlap, second half scored."""
    return json.loads(run(pare, "verify", original, package, "--text", TEXT, "--context", context, "--chunks", chunks,
                          "--write", 0, "--output", "json", "--progress", "none"))


def sample():
    """Text for tokenizers: a piece of the book, then all that is not in it. As bytes, for line ends count."""
    return TEXT.read_bytes()[:60000].decode("utf-8", "ignore") + SCRIPTS


def encode(pare, model, text, *flags):
    return json.loads(run(pare, "run", model, "--encode", text, "--output", "json", *flags))["tokens"]


def read_ids(path):
    return array.array("i", pathlib.Path(path).read_bytes())


def same_tokens(what, theirs, ours):
    theirs, ours = list(theirs), list(ours)
    first = next((i for i, (a, b) in enumerate(zip(theirs, ours)) if a != b), None)
    if first is None and len(theirs) != len(ours):
        first = min(len(theirs), len(ours))
    check(what, first is None, f"{len(theirs)} tokens" if first is None else f"{len(theirs)} and {len(ours)} tokens, the first difference at {first}")


def quiet(pare, *args):
    """A verb of pare whose result is the file it writes."""
    run(pare, *args, "--force", "--progress", "none")
