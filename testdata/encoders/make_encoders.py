"""make_encoders.py: tiny encoders with random weights, as transformers saves them, and their reference outputs.

<name>/config.json, model.safetensors, and for those that are sentence models modules.json, 1_Pooling/config.json and
sentence_bert_config.json; reference.safetensors: input_ids [3,20], token_type_ids where there are types, last_hidden_state
[3,20,hidden] and embeddings [3,hidden] (pooled and normalised in PyTorch), all in float32 from the stored weights.
transformers 5.x, torch 2.x (CPU); seeded; CC0.
"""

import json
import pathlib

import torch
import transformers as tf
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent
SMALL = dict(vocab_size=150, attn_implementation="eager")
CASES = {
    # name: configuration, class, dtype, (pooling, normalize) or None
    "distilbert": (tf.DistilBertConfig(dim=32, hidden_dim=80, n_heads=4, n_layers=2, max_position_embeddings=40, activation="relu", **SMALL),
                   tf.DistilBertModel, torch.float32, ("cls", False)),
    "roberta": (tf.RobertaConfig(hidden_size=32, intermediate_size=96, num_attention_heads=2, num_hidden_layers=2, max_position_embeddings=42,
                                 type_vocab_size=1, pad_token_id=1, layer_norm_eps=1e-5, **SMALL), tf.RobertaModel, torch.bfloat16, ("mean", True)),
    "roberta-head": (tf.RobertaConfig(hidden_size=32, intermediate_size=64, num_attention_heads=2, num_hidden_layers=1, max_position_embeddings=34,
                                      type_vocab_size=1, pad_token_id=1, hidden_act="gelu_new", **SMALL), tf.RobertaForMaskedLM, torch.float32, None),
    "bert-max": (tf.BertConfig(hidden_size=32, intermediate_size=64, num_attention_heads=2, num_hidden_layers=1, max_position_embeddings=32,
                               hidden_act="gelu_new", **SMALL), tf.BertModel, torch.float16, ("max", True)),
}
MODULE = "sentence_transformers.models."


def sentence(folder, hidden, pooling, normalize):
    steps = [("", "Transformer"), ("1_Pooling", "Pooling")] + ([("2_Normalize", "Normalize")] if normalize else [])
    (folder / "modules.json").write_text(json.dumps([{"idx": i, "name": str(i), "path": p, "type": MODULE + k} for i, (p, k) in enumerate(steps)]))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    modes = {f"pooling_mode_{m}": m.startswith(pooling) for m in ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")}
    modes["pooling_mode_mean_sqrt_len_tokens"] = False
    (folder / "1_Pooling/config.json").write_text(json.dumps({"word_embedding_dimension": hidden, **modes}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 24, "do_lower_case": False}))


def main():
    for seed, (name, (config, cls, dtype, pools)) in enumerate(CASES.items()):
        torch.manual_seed(seed)
        folder = HERE / name
        folder.mkdir(exist_ok=True)
        model = cls(config).eval()
        with torch.no_grad():
            for key, p in model.named_parameters():
                gain = key.endswith("weight") and ("norm" in key.lower())
                p.copy_((torch.rand_like(p) + 0.5) if gain else torch.randn_like(p) * (0.3 if key.endswith("bias") else 0.25))
        model = model.to(dtype)
        model.save_pretrained(folder)
        config.dtype = str(dtype).removeprefix("torch.")
        config.save_pretrained(folder)
        model = model.to(torch.float32)
        ids = torch.randint(5, 150, (3, 20))
        inputs = {"input_ids": ids}
        if name.startswith("bert"):
            inputs["token_type_ids"] = (torch.arange(20) > 9).long().expand(3, 20).contiguous()
        base = model if cls is not tf.RobertaForMaskedLM else model.roberta
        with torch.no_grad():
            states = base(**inputs).last_hidden_state
        out = {"input_ids": ids, "last_hidden_state": states.contiguous(), **{k: v for k, v in inputs.items() if k != "input_ids"}}
        if pools:
            pooling, normalize = pools
            sentence(folder, 32, pooling, normalize)
            v = {"cls": states[:, 0], "mean": states.mean(1), "max": states.max(1).values}[pooling]
            out["embeddings"] = (torch.nn.functional.normalize(v, dim=1) if normalize else v).contiguous()
        save_file(out, folder / "reference.safetensors", metadata={"transformers": tf.__version__, "torch": torch.__version__})


main()
