"""make_goldens.py [LLAMA_CPP_BIN_FOLDER]: small WordPiece and Unigram tokenizers, and what others make of ../hf/texts.json with them.

Writes <name>/tokenizer.json (+ tokenizer_config.json, vocab.txt), unigram.model (SentencePiece, with a small table of character
normalization) and golden.json: name -> {"plain", "special", "text", "clean"} as ../hf/golden.json, and "pairs": [ids, types] of
texts i and i+1. With the folder of llama.cpp v0.5.0 (npm @node-llama-cpp/linux-x64@3.22.1) also llamacpp.json: the ids of
llama.cpp from the metadata that this package writes (../llamacpp/dump.go), texts without special tokens.
Needs tokenizers 0.23.3, sentencepiece 0.2.3 and, for llama.cpp, gguf 0.19.0. Seeded; CC0.
"""

import base64
import json
import pathlib
import random
import subprocess
import sys
import tempfile

import sentencepiece as spm
import tokenizers as tk
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).parent
TEXTS = json.loads((HERE / "../hf/texts.json").read_text())
BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
# character -> replacement: what tables of published models do, in small
RULES = {"\ufb01": "fi", "\ufb02": "fl", "\u017f": "s", "\uff21": "A", "\t": " ", "\n": " ", "\r": " ", "\u00a0": " ", "\u2003": " ",
         "\u3000": " ", "\u0130": "I\u0307", "e\u0301": "\u00e9", "a\u0308": "\u00e4", "\u2460": "1", "\u00bd": "1\u20442", "\u200b": "",
         "\u0001": "", "\u2028": " "}


def corpus():
    source = random.Random(5)
    words = " ".join(x for x in TEXTS if len(x) < 80).replace("\r", " ").replace("\n", " ").replace("\u2581", " ").split()
    return [" ".join(source.choice(words) for _ in range(source.randint(3, 12))) for _ in range(3000)]


def bert(size, **options):
    t = tk.Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
    t.normalizer = normalizers.BertNormalizer(**options)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.decoder = decoders.WordPiece()
    t.train_from_iterator(corpus(), trainers.WordPieceTrainer(vocab_size=size, special_tokens=BERT, show_progress=False, limit_alphabet=220))
    # the trainer orders tokens of one count as it finds them: by spelling instead
    state = json.loads(t.to_str())
    vocab = BERT + sorted(set(state["model"]["vocab"]) - set(BERT))
    state["model"]["vocab"] = {x: i for i, x in enumerate(vocab)}
    t = tk.Tokenizer.from_str(json.dumps(state))
    t.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
                                                     special_tokens=[(x, t.token_to_id(x)) for x in ("[CLS]", "[SEP]")])
    return t


def sentencepiece(folder):
    rules = folder / "rules.tsv"
    spell = lambda s: " ".join(f"{ord(c):X}" for c in s)
    rules.write_text("".join(f"{spell(a)}\t{spell(b)}\n" for a, b in sorted(RULES.items())))
    (folder / "corpus.txt").write_text("\n".join(corpus()))
    spm.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"), model_prefix=str(folder / "unigram"), model_type="unigram", vocab_size=700, character_coverage=0.98,
        normalization_rule_tsv=str(rules), pad_id=0, eos_id=1, unk_id=2, bos_id=-1, num_threads=1, hard_vocab_limit=False, minloglevel=2)
    return (folder / "unigram.model").read_bytes()


def unigram(model, normalizer, pre, roberta):
    p = spm.SentencePieceProcessor(model_proto=model)
    vocab = [(p.id_to_piece(i), p.get_score(i)) for i in range(p.get_piece_size())]
    unk = 2
    if roberta:
        vocab, unk = [(x, 0.0) for x in ROBERTA[:4]] + vocab[3:] + [("<mask>", 0.0)], 3
    t = tk.Tokenizer(models.Unigram(vocab, unk_id=unk, byte_fallback=False))
    t.normalizer, t.pre_tokenizer, t.decoder = normalizer, pre, decoders.Metaspace()
    if roberta:
        t.add_special_tokens(ROBERTA)
        t.post_processor = processors.TemplateProcessing(single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>",
                                                         special_tokens=[(x, t.token_to_id(x)) for x in ("<s>", "</s>")])
    else:
        t.add_special_tokens(["<pad>", "</s>", "<unk>"])
        t.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    return t


def charsmap(model):
    from sentencepiece import sentencepiece_model_pb2 as pb
    m = pb.ModelProto()
    m.ParseFromString(model)
    return m.normalizer_spec.precompiled_charsmap


def llama(folder, names):
    """ids of llama.cpp, by the functions of ../llamacpp/make_goldens.py"""
    import types
    source = (HERE / "../llamacpp/make_goldens.py").read_text().replace("\nmain()\n", "\n")
    tools = types.ModuleType("tools")
    tools.__file__ = str(HERE / "../llamacpp/make_goldens.py")
    old, sys.argv = sys.argv, ["", "", folder]
    exec(compile(source, "tools", "exec"), tools.__dict__)
    sys.argv = old
    made = json.loads(subprocess.run(["go", "run", HERE / "../llamacpp/dump.go", *(str(HERE / n) for n in names)], capture_output=True, check=True).stdout)
    out = {}
    with tempfile.TemporaryDirectory() as tmp:
        for name in names:
            kvs = made[str(HERE / name)]
            for kv in kvs:
                if kv["Key"].endswith("precompiled_charsmap"):
                    kv["Value"] = base64.b64decode(kv["Value"])  # as Go spells bytes
            path = pathlib.Path(tmp) / name
            tools.write(path, kvs)
            v = tools.Vocabulary(path)
            out[name] = [v.ids(x, False, False) for x in TEXTS]
    return out


def main():
    with tempfile.TemporaryDirectory() as tmp:
        model = sentencepiece(pathlib.Path(tmp))
    (HERE / "unigram.model").write_bytes(model)
    made = {
        "bert-uncased": bert(900, lowercase=True),
        "bert-cased": bert(900, lowercase=False),
        "bert-lower-accents": bert(900, lowercase=True, strip_accents=False),
    }
    table = normalizers.Precompiled(charsmap(model))
    collapse = normalizers.Replace(tk.Regex(" {2,}"), "▁")
    made["t5"] = unigram(model, normalizers.Sequence([table, normalizers.Strip(left=False, right=True), collapse]),
                         pre_tokenizers.Metaspace(prepend_scheme="always", split=True), False)
    made["xlm-roberta"] = unigram(model, table, pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]), True)
    made["xlm-new"] = unigram(model, normalizers.Sequence([table, normalizers.Replace(tk.Regex(" {2,}"), " ")]), pre_tokenizers.Metaspace(), True)
    golden = {}
    for name, t in made.items():
        (HERE / name).mkdir(exist_ok=True)
        state = json.loads(t.to_str())
        (HERE / name / "tokenizer.json").write_text(json.dumps(state, ensure_ascii=False, separators=(",", ":")))
        if name.startswith("bert"):
            order = sorted(state["model"]["vocab"].items(), key=lambda kv: kv[1])
            (HERE / name / "vocab.txt").write_text("".join(x + "\n" for x, _ in order))
            n = state["normalizer"]
            (HERE / name / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": n["lowercase"], "strip_accents": n["strip_accents"]}))
        plain = [t.encode(x, add_special_tokens=False).ids for x in TEXTS]
        pairs = [t.encode(a, b) for a, b in zip(TEXTS[:30], TEXTS[1:31])]
        golden[name] = {"plain": plain, "special": [t.encode(x).ids for x in TEXTS[:40]],
                        "text": [t.decode(x, skip_special_tokens=False) for x in plain], "clean": [t.decode(x, skip_special_tokens=True) for x in plain],
                        "pairs": [[e.ids, e.type_ids] for e in pairs]}
    p = spm.SentencePieceProcessor(model_proto=model)
    golden["unigram.model"] = {"plain": [p.encode(x) for x in TEXTS]}
    (HERE / "golden.json").write_text(json.dumps(golden, ensure_ascii=True, separators=(",", ":")).replace("},", "},\n") + "\n")
    if len(sys.argv) > 1:
        (HERE / "llamacpp.json").write_text(json.dumps(llama(sys.argv[1], [n for n in made]), separators=(",", ":")).replace("]],", "]],\n") + "\n")


main()
