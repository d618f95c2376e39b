# Conversations as Hugging Face tokenizers read them in one piece, and which tokens the assistant says: what talk_test.go holds
# package corpus to. The tokenizers are those of package tokenizer, with the markers of the formats behind their vocabulary.
#   pip install jinja2==3.1.6 tokenizers==0.23.3 && python talk.py > talk.json
import json, os
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
formats = {
    "chatml": (["<|im_start|>", "<|im_end|>"], "<|im_end|>", False, "{% for m in messages %}{{'<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n'}}{% endfor %}"),
    # the tokenizer of the family takes white space behind its markers away
    "phi-3": (["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"], "<|end|>", True, "{% for m in messages %}{{'<|' + m.role + '|>\n' + m.content + '<|end|>\n'}}{% endfor %}"),
    "llama-3": (["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"], "<|eot_id|>", False, "{% for m in messages %}{{'<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>'}}{% endfor %}"),
}
talk = [
    {"role": "user", "content": "What is 21+2?"}, {"role": "assistant", "content": "23, the sum."},
    {"role": "user", "content": "\n  Thanks  \n"}, {"role": "assistant", "content": "\n\n  x = 1\n"},
    {"role": "user", "content": " Größe?"}, {"role": "assistant", "content": " It's big "},
]
here = os.path.dirname(os.path.abspath(__file__))
out = []
for name in ["llama2", "metaspace-always", "metaspace-first", "gemma", "qwen2-nfc", "llama3-template", "digits", "gpt2-prefix"]:
    source = json.load(open(f"{here}/../../tokenizer/testdata/hf/{name}/tokenizer.json", encoding="utf-8"))
    for form, (markers, after, strip, template) in formats.items():
        first = max(list(source["model"]["vocab"].values()) + [a["id"] for a in source["added_tokens"]]) + 1
        known = [a["content"] for a in source["added_tokens"]]
        if any(m in known for m in markers):
            continue
        added = [{"id": first + i, "content": m, "single_word": False, "lstrip": False, "rstrip": strip, "normalized": False, "special": True} for i, m in enumerate(markers)]
        tok = Tokenizer.from_str(json.dumps(source | {"added_tokens": source["added_tokens"] + added}))
        text = env.from_string(template).render(messages=talk)
        e = tok.encode(text, add_special_tokens=False)
        learned, at = [False] * len(text), 0
        for m in talk:  # from where the assistant begins to speak to the end of the marker behind it
            said = m["content"].strip() if form == "llama-3" else m["content"]
            lo = text.index(said + after, at)
            at = lo + len(said) + len(after)
            if m["role"] == "assistant":
                learned[lo:at] = [True] * (at - lo)
        # white space that a marker takes away is its own; a token counts with its last character
        ends = [hi - 1 for lo, hi in e.offsets]
        for i, (lo, hi) in enumerate(e.offsets):
            if tok.id_to_token(e.ids[i]) in markers:
                ends[i] = lo
        out.append({"tokenizer": name, "format": form, "added": added, "messages": talk, "ids": e.ids, "learn": [int(hi >= 0 and learned[hi]) for hi in ends]})
print(json.dumps(out))
