"""make_goldens.py REPOSITORY: what Hugging Face tokenizers 0.23.3 makes of texts.json, and small tokenizers to ask.

Writes texts.json, <name>/tokenizer.json (+ tokenizer_config.json) for the tokenizers trained here, and golden.json:
name -> {"plain": ids without special tokens, "special": ids with, "text": decoded, "clean": decoded without special
tokens}. Seeded, single-threaded; CC0.
"""

import json
import pathlib
import random
import sys

import tokenizers as tk
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).parent
ROOT = pathlib.Path(sys.argv[1])
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
POSSESSIVE = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]"
              r"|\s+(?!\S)|\s+")

SCRIPTS = [
    "The quick brown fox jumps over the lazy dog. It's what they'll say; we've seen I'm right, you're not, he'd go.",
    "Être ou ne pas être: où çà? Naïve façade, œuvre. Größe, Straße, Übermut.", "Съешь же ещё этих мягких французских булок",
    "Η γρήγορη καφέ αλεπού πηδάει", "敏捷的棕色狐狸跳过懒狗。我们来测试一下中文分词。", "いろはにほへと ちりぬるを ABCDEFカタカナ",
    "다람쥐 헌 쳇바퀴에 타고파", "نص عربي مع تشكيل: مُحَمَّدٌ ١٢٣", "טקסט בעברית עם ניקוד: שָׁלוֹם", "नमस्ते दुनिया १२३ क्षत्रिय", "สวัสดีชาวโลก ๑๒๓",
    "Tiếng Việt có dấu: Nguyễn Văn Ánh", "ខ្មែរ កាន់តែពិសេស", "𝕳𝖊𝖑𝖑𝖔 𝟙𝟚𝟛 ①②③ ½⅓ Ⅷ ㊿", "ﬁne ﬂow ſpecial Kelvin K Ångström Å",
]
ODD = [
    "", " ", "  ", "   ", "\n", "\r\n", "\t", "\n\n\n", " \n", "\n ", "  \n  \n  x", "a\r\n\r\nb\rc", "x \t \n y", "trailing   ",
    "   leading", "a  b   c    d", "\u00a0nbsp\u00a0\u00a0x", "em\u2003space\u2028line\u2029para\u3000wide", "zero\u200bwidth\u200djoin\ufeffbom",
    "👩‍👩‍👧‍👦 family 🏳️‍🌈 flag 🇩🇪🇫🇷 👍🏽", "e\u0301 a\u0308 ñ vs n\u0303", "don't DON'T don’t 'S 's 'ſ 'LL 'll'll ''s 'tis 'x",
    "1 12 123 1234 12345 1,234.56 3.14159e-10 0x1F 100000000", "a1b2c3 42abc abc42", "!!! ??? ... --- ___ ~~~ *** ### @@@", "f(x)=[{'a':1}];//end",
    "def f(x):\n    return x**2  # square\n\n\nif __name__ == '__main__':\n\tprint(f(3))\n", "<a href=\"x\">y</a> <unk> <s> </s> <pad>",
    "<|endoftext|>", "a<|endoftext|>b", "<|begin_of_text|><|end_of_text|>x", "<|im_end|> <|im_end|>\n<|im_end|>", "<|endof", "<<|endoftext|>>",
    "\u0000\u0001\u001f\u007f\u0080\u0085x\u009f", "\ufffd\ufffd x", "\ud7ff\ue000\U0010ffff", "▁▁under▁score▁", "ĠĠĊ", "<0x0A>", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    " " * 70, "\n" * 70, "ab" * 60, "the the the" * 20, "word" + " " * 9 + "\n" * 5 + " " * 3 + "word", "=" * 100,
    "A [TAG] b [TAG]c d[TAG] e", "x  [LEFT]  y  [RIGHT]  z", "wordy word sword word.", "naïve NAIVE nai\u0308ve", "[lower] [LOWER]", "x[TAG][LEFT] [RIGHT]y",
    " Hello", "Hello world", "Hello  world ", "▁Hello", "¹²³ ²x", "'", "''", "' ", "'S", "don't\r\n'", "über-Übung's", "a'b'c", "I'M'LL",
]


def texts():
    source = random.Random(7)
    pieces = SCRIPTS + ODD
    alphabet = list("aA1 \n\t'.-<é中🐦\u0301\r") + ["  ", "the", "'s", "ing", "[TAG]", "word"]
    mixed = ["".join(source.choice(alphabet) for _ in range(source.randint(1, 40))) for _ in range(120)]
    glued = ["".join(source.choice(pieces) for _ in range(3)) for _ in range(20)]
    return pieces + mixed + glued


ADDED = [AddedToken("[TAG]", normalized=False), AddedToken("[LEFT]", lstrip=True, normalized=False),
         AddedToken("[RIGHT]", rstrip=True, normalized=False), AddedToken("word", single_word=True, normalized=False),
         AddedToken("nai\u0308ve", normalized=True), AddedToken("    ", normalized=False)]


def corpus():
    source = random.Random(3)
    words = " ".join(SCRIPTS + [x for x in ODD if len(x) < 60]).split(" ")
    for _ in range(3000):
        yield " ".join(source.choice(words) for _ in range(source.randint(3, 12)))


def byte_level(steps, size, specials, normalizer=None, prefix=False, use_regex=False, ignore=False):
    t = tk.Tokenizer(models.BPE(ignore_merges=ignore))
    if normalizer:
        t.normalizer = normalizer
    steps = [*steps, pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=use_regex)]
    t.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=size, special_tokens=specials, show_progress=False,
                                                        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return t


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(tk.Regex(pattern), behavior, invert)


def piece(size, specials, normalizer, pre, decoder, complete=True):
    """A byte_fallback BPE that merges across words; complete: every way to split a token is a merge, as in SentencePiece."""
    t = tk.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.normalizer = normalizers.Replace(" ", "▁")
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)  # for training only
    t.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=size, special_tokens=[*specials, *(f"<0x{b:02X}>" for b in range(256)), "▁▁", "▁▁▁"], show_progress=False,
        limit_alphabet=150))
    saved = json.loads(t.to_str())
    saved["added_tokens"] = [a for a in saved["added_tokens"] if not a["content"].startswith(("<0x", "▁"))]
    saved["model"]["merges"] = [["▁", "▁"], ["▁▁", "▁"], *saved["model"]["merges"]]
    if complete:
        vocab = saved["model"]["vocab"]
        ordinary = {x for x in vocab if x not in specials and not x.startswith("<0x")}
        saved["model"]["merges"] = [[x[:cut], x[cut:]] for x in sorted(ordinary, key=vocab.get)
                                    for cut in range(1, len(x)) if x[:cut] in ordinary and x[cut:] in ordinary]
    saved["normalizer"], saved["pre_tokenizer"] = None, None
    t = tk.Tokenizer.from_str(json.dumps(saved))
    if normalizer:
        t.normalizer = normalizer
    if pre:
        t.pre_tokenizer = pre
    t.decoder = decoder
    return t


def template(t, bos=None, eos=None):
    single = [*([bos] if bos else []), "$A", *([eos] if eos else [])]
    special = [(x, t.token_to_id(x)) for x in (bos, eos) if x]
    t.post_processor = processors.TemplateProcessing(single=" ".join(single), pair=" ".join([*single, "$B:1"]), special_tokens=special)
    return t


def trained():
    end = "<|endoftext|>"
    spm = ["<unk>", "<s>", "</s>"]
    strip = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    keep = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    prepend = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    out = {
        "gpt2-added": byte_level([], 700, [end], use_regex=True),
        "gpt2-prefix": byte_level([], 500, [end], prefix=True, use_regex=True),
        "llama3-template": template(byte_level([split(LLAMA3)], 800, ["<|begin_of_text|>", "<|end_of_text|>"], ignore=True),
                                    "<|begin_of_text|>", None),
        "qwen2-nfc": byte_level([split(QWEN2)], 700, [end, "<|im_end|>"], normalizer=normalizers.NFC()),
        "digits": byte_level([pre_tokenizers.Digits(individual_digits=True)], 500, [end], use_regex=True),
        "o200k": byte_level([split(O200K, "removed", True)], 700, [end]),
        "possessive": byte_level([split(POSSESSIVE)], 500, [end]),
        "llama2": template(piece(900, spm, prepend, None, strip), "<s>", "</s>"),
        "metaspace-first": template(piece(700, spm, None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False), strip), "<s>"),
        "metaspace-always": piece(700, spm, None, pre_tokenizers.Metaspace(prepend_scheme="always", split=False), strip, complete=False),
        "gemma": piece(700, ["<pad>", "<eos>", "<bos>", "<unk>"], normalizers.Replace(" ", "▁"),
                       pre_tokenizers.Split(" ", "merged_with_previous"), keep),
    }
    for name in ("gpt2-added", "llama3-template", "qwen2-nfc", "llama2", "metaspace-first"):
        out[name].add_tokens(ADDED)
    return out


def main():
    samples = texts()
    (HERE / "texts.json").write_text(json.dumps(samples, ensure_ascii=True, indent=0) + "\n")
    known = {}
    for name, t in trained().items():
        (HERE / name).mkdir(exist_ok=True)
        compact = json.loads(t.to_str())
        (HERE / name / "tokenizer.json").write_text(json.dumps(compact, ensure_ascii=False, separators=(",", ":")))
        known[name] = t
    for name in ("llama", "mistral", "qwen2", "qwen3"):
        known[name] = tk.Tokenizer.from_file(str(ROOT / "testdata/architectures" / name / "tokenizer.json"))
    known["books-llama"] = tk.Tokenizer.from_file(str(ROOT / "testdata/books-llama/model/tokenizer.json"))
    golden = {}
    for name, t in known.items():
        plain = [t.encode(x, add_special_tokens=False).ids for x in samples]
        golden[name] = {"plain": plain, "special": [t.encode(x).ids for x in samples[:40]],
                        "text": [t.decode(x, skip_special_tokens=False) for x in plain],
                        "clean": [t.decode(x, skip_special_tokens=True) for x in plain]}
    (HERE / "golden.json").write_text(json.dumps(golden, ensure_ascii=True, separators=(",", ":")).replace("},", "},\n") + "\n")


main()
