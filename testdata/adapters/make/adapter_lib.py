"""Shared parts of the adapter generators: random adapters, what they do to the output, and what merging must give."""

import json
import pathlib
import re
import shutil
import sys
import tempfile

import peft
import safetensors.torch
import torch
import transformers

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent / "architectures" / "make"))
from fixture_lib import forward, load, randomize  # noqa: E402

OUT = pathlib.Path(__file__).parent.parent
LENGTH = 24


def make_base(name, model_class, config, seed, **loudness):
    torch.manual_seed(0)
    model = randomize(model_class(config), loudness, seed)
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    open_up(folder)


def open_up(folder):
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(0o644)


def base(name):
    return load(OUT / name)


def inputs_for(model, seed):
    generator = torch.Generator().manual_seed(seed)
    return {"input_ids": torch.randint(3, model.config.vocab_size, (2, LENGTH), generator=generator)}


def shake(model, seed):
    """Give every adapter parameter a value that matters; what copies a base weight is moved, not replaced."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        if not parameter.requires_grad:
            continue
        noise = torch.randn(parameter.shape, generator=generator)
        if re.search(r"lora_A\.|lora_embedding_A", name):
            value = noise / parameter.shape[-1] ** 0.5
        elif re.search(r"lora_B\.|lora_embedding_B", name) and name.endswith("bias"):
            value = 0.2 * noise
        elif re.search(r"lora_B\.|lora_embedding_B", name):
            value = 0.4 * noise / parameter.shape[-1] ** 0.5
        elif "hada_" in name or "lokr_" in name:
            value = 0.6 * noise / max(parameter.shape[-1], 4) ** 0.25
        elif "ia3_l" in name:
            value = 1 + 0.4 * noise
        elif "vera_lambda" in name:
            value = 0.6 * noise
        elif "trainable_tokens" in name or "token_adapter" in name:
            value = parameter.data + 0.3 * noise
        elif "magnitude" in name:
            value = parameter.data * (1 + 0.2 * noise)
        else:  # modules_to_save and base biases
            value = parameter.data + 0.15 * noise
        parameter.data = value.to(parameter.dtype).contiguous()


def on_disk(folder):
    tensors = {}
    for file in pathlib.Path(folder).glob("model*.safetensors"):
        tensors.update(safetensors.torch.load_file(file))
    return tensors


def saved(model):
    """The tensors of a model under the names and in the layout of its checkpoint files."""
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch)
        return on_disk(scratch)


def changed(before, after):
    assert set(before) <= set(after), set(before) - set(after)
    return {key: value.contiguous() for key, value in after.items()
            if key not in before or not torch.equal(before[key], value)}


def tidy(folder, base_name):
    (folder / "README.md").unlink(missing_ok=True)
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text())
    config["base_model_name_or_path"] = f"../{base_name}"
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    open_up(folder)


def finish(folder, base_name, inputs, logits, merged, facts, note=""):
    """Store the references and measure: base against adapter, adapter against merged."""
    plain = forward(base(base_name), inputs)["logits"]
    tensors = changed(on_disk(OUT / base_name), saved(merged))
    assert tensors, f"{folder.name}: the merge changed nothing"
    after = forward(merged, inputs)["logits"]
    safetensors.torch.save_file(tensors, folder / "expected.safetensors")
    safetensors.torch.save_file({"input_ids": inputs["input_ids"], "logits": logits.contiguous()},
                                folder / "reference.safetensors")
    open_up(folder)
    fact = {"base": base_name, "changed": len(tensors), "effect": float((logits - plain).abs().max()),
            "merge_gap": float((after - logits).abs().max()), "note": note}
    facts[folder.name] = fact
    print(folder.name, fact, flush=True)
    return tensors


def adapter(name, base_name, config, seed, facts, gap=2e-3):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(seed)
    model = peft.get_peft_model(base(base_name), config)
    shake(model, seed)
    model.eval()
    inputs = inputs_for(model, seed)
    with torch.no_grad():
        first = forward(model, inputs)["logits"]
    model.save_pretrained(folder)
    tidy(folder, base_name)
    again = peft.PeftModel.from_pretrained(base(base_name), folder).eval()
    logits = forward(again, inputs)["logits"]
    assert torch.equal(first, logits), f"{name}: the saved adapter gives {float((first - logits).abs().max())}"
    merged = again.merge_and_unload().eval()
    finish(folder, base_name, inputs, logits, merged, facts)
    assert facts[name]["merge_gap"] < gap, f"{name}: merged differs from unmerged"
    assert facts[name]["effect"] > 0.1, f"{name}: no effect"


def combine(name, base_name, parts, weights, kind, seed, facts, **options):
    """PEFT add_weighted_adapter over saved adapters, and the merge of its result."""
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    model = peft.PeftModel.from_pretrained(base(base_name), OUT / parts[0], adapter_name="part0")
    for index, part in enumerate(parts[1:], 1):
        model.load_adapter(OUT / part, adapter_name=f"part{index}")
    names = [f"part{index}" for index in range(len(parts))]
    model.add_weighted_adapter(names, weights, "combined", combination_type=kind, **options)
    model.set_adapter("combined")
    model.eval()
    inputs = inputs_for(model, seed)
    logits = forward(model, inputs)["logits"]
    model.save_pretrained(folder, selected_adapters=["combined"])
    for file in (folder / "combined").iterdir():
        file.rename(folder / file.name)
    (folder / "combined").rmdir()
    tidy(folder, base_name)
    recipe = {"parts": [f"../{part}" for part in parts], "weights": weights, "combination_type": kind, **options}
    (folder / "combination.json").write_text(json.dumps(recipe, indent=2) + "\n")
    merged = model.merge_and_unload(adapter_names=["combined"]).eval()
    finish(folder, base_name, inputs, logits, merged, facts, note=json.dumps(recipe))


def sequence(name, base_name, parts, seed, facts):
    """Merge the adapters one after the other; the logits are those of the last one on the partly merged base."""
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    model = base(base_name)
    inputs = inputs_for(model, seed)
    for part in parts:
        adapted = peft.PeftModel.from_pretrained(model, OUT / part).eval()
        logits = forward(adapted, inputs)["logits"]
        model = adapted.merge_and_unload().eval()
    (folder / "order.json").write_text(json.dumps([f"../{part}" for part in parts]) + "\n")
    finish(folder, base_name, inputs, logits, model, facts)


def save_facts(facts):
    versions = {"peft": peft.__version__, "transformers": transformers.__version__,
                "torch": torch.__version__.split("+")[0]}
    (OUT / "facts.json").write_text(json.dumps({"versions": versions, "cases": facts}, indent=1) + "\n")
