"""make_minilm.py FOLDER: what PyTorch makes of all-MiniLM-L6-v2, into minilm.json beside this file.

Embeddings as the model's files ask for: texts cut at 256 tokens, mean over all tokens, length 1; and the token ids.
transformers 5.23.0, torch 2.x on a CPU, float32.
"""
import json
import pathlib
import sys

import torch
import transformers

TEXTS = [
    "How do I activate my new card?", "My card payment is still pending, why?", "hello", "12,345.67 EUR were taken twice!!!",
    "Être ou ne pas être, telle est la question.", "北京是中国的首都。", "naïve café résumé 🙂 \u200b end", "A man is eating food. " * 60,
]
folder = sys.argv[1]
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").float().eval()
cases = []
for text in TEXTS:
    inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=256)
    with torch.no_grad():
        v = torch.nn.functional.normalize(model(**inputs).last_hidden_state.mean(1), dim=1)[0]
    cases.append({"text": text, "tokens": inputs["input_ids"][0].tolist(), "embedding": [round(x, 7) for x in v.tolist()]})
out = json.dumps(cases, separators=(",", ":")).replace("},", "},\n")
pathlib.Path(__file__).with_name("minilm.json").write_text(out + "\n")
