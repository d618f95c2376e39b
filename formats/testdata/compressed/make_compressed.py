"""Make packed weights with the compressed-tensors package: python make_compressed.py

Needs torch, safetensors and compressed-tensors. Writes model.safetensors and config.json as the package stores
weights, and expected.safetensors with what it decompresses them to in float32.
"""

import json

import torch
from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationScheme
from compressed_tensors.quantization.lifecycle.forward import dequantize, quantize
from safetensors.torch import save_file

torch.manual_seed(5)
packed, expected, groups = {}, {}, {}


def case(name, rows, cols, bits, symmetric, strategy, group=None, scale_dtype=torch.bfloat16, loose=False):
    weight = torch.randn(rows, cols)
    columns = {"group": cols // group if group else 0, "channel": 1, "tensor": 1}[strategy]
    blocks = weight.reshape(1 if strategy == "tensor" else rows, columns, -1)
    low, high = blocks.amin(-1), blocks.amax(-1)
    if symmetric:
        scale = (torch.maximum(low.abs(), high.abs()) / (2 ** (bits - 1) - 0.5)).to(scale_dtype)
        zero = torch.zeros_like(scale, dtype=torch.int8)
    else:
        low, high = low.clamp(max=0), high.clamp(min=0)
        scale = ((high - low) / (2**bits - 1)).to(scale_dtype)
        zero = (-(2 ** (bits - 1)) - torch.round(low / scale.float())).clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1).to(torch.int8)
    if strategy == "tensor":
        scale, zero = scale.reshape(1), zero.reshape(1)
    weights = dict(num_bits=bits, type="int", symmetric=symmetric, strategy=strategy, group_size=group, dynamic=False)
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    state = {"weight": weight, "weight_scale": scale.float()}
    if not symmetric:
        state["weight_zero_point"] = zero
    codes = quantize(x=weight, scale=scale.float(), zero_point=None if symmetric else zero, args=scheme.weights, dtype=torch.int8)
    expected[f"{name}.weight"] = dequantize(x_q=codes, scale=scale.float(), zero_point=None if symmetric else zero, args=scheme.weights)
    if loose:
        out = {"weight": codes, "weight_scale": scale}
        if not symmetric:
            out["weight_zero_point"] = zero
    else:
        out = PackedQuantizationCompressor.compress(state, scheme)
        out["weight_scale"] = scale
        back = PackedQuantizationCompressor.decompress({**out, "weight_scale": scale.float()}, scheme)["weight"]
        assert torch.equal(back, expected[f"{name}.weight"]), name
    for key, value in out.items():
        packed[f"{name}.{key}"] = value.contiguous()
    groups[f"group_{len(groups)}"] = dict(targets=[name], weights=weights, input_activations=None, output_activations=None)


case("int4_g32", 13, 96, 4, True, "group", 32)
case("int4_g32_asym", 13, 96, 4, False, "group", 32)
case("int4_channel_odd", 5, 37, 4, True, "channel", scale_dtype=torch.float16)
case("int4_channel_asym", 9, 37, 4, False, "channel")
case("int8_channel", 6, 30, 8, True, "channel", scale_dtype=torch.float32)
case("int8_g64_asym", 7, 128, 8, False, "group", 64)
case("int4_tensor", 4, 40, 4, True, "tensor")
case("loose_channel", 6, 31, 8, True, "channel", loose=True)
case("loose_channel_asym", 6, 31, 8, False, "channel", loose=True)
packed["norm.weight"] = torch.ones(8, dtype=torch.bfloat16)

save_file(packed, "model.safetensors", metadata={"format": "pt"})
save_file(expected, "expected.safetensors")
config = dict(model_type="none", quantization_config=dict(
    quant_method="compressed-tensors", format="pack-quantized", quantization_status="compressed", ignore=[], kv_cache_scheme=None, config_groups=groups))
json.dump(config, open("config.json", "w"), indent=1)
