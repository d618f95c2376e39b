"""make_goldens.py REPOSITORY: what SentencePiece 0.2.3 makes of ../hf/texts.json (those without U+0000, which it cannot see).

Models: gemma2.model (testdata "gemma2": CC0, trained on generated text), testdata/architectures/mistral/tokenizer.model,
and trim.model and plain.model, trained here: extra spaces removed, and no byte fallback. Writes golden.json: name -> ids
for every text, null where skipped.
"""

import io
import json
import pathlib
import sys

import sentencepiece

HERE = pathlib.Path(__file__).parent
texts = json.loads((HERE / "../hf/texts.json").read_text())


def train(name, **options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([t for t in texts if "\0" not in t and t.strip()] * 4), model_writer=model, model_type="bpe", character_coverage=0.98,
        normalization_rule_name="identity", num_threads=1, minloglevel=2, hard_vocab_limit=False, **options)
    (HERE / f"{name}.model").write_bytes(model.getvalue())


train("trim", vocab_size=700, byte_fallback=True, remove_extra_whitespaces=True)
train("plain", vocab_size=500, byte_fallback=False, remove_extra_whitespaces=False)
golden = {}
for path in [*sorted(HERE.glob("*.model")), pathlib.Path(sys.argv[1]) / "testdata/architectures/mistral/tokenizer.model"]:
    model = sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes())
    name = path.stem if path.parent == HERE else path.parent.name
    golden[name] = [None if "\0" in t else model.encode(t) for t in texts]
(HERE / "golden.json").write_text(json.dumps(golden, separators=(",", ":")).replace("],[", "],\n[") + "\n")
