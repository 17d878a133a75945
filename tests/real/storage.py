"""The same weights as published files store them: GGUF, pickled PyTorch, and the common quantised safetensors layouts.

Written from the formats' documentation, apart from any reader, so that a reader can be held against them. Only the
matrices inside the layers are quantised; embeddings, norms and the output matrix stay as they are.
"""

import json
from pathlib import Path

import torch

from checkpoint import inner_matrix
from edits import NF4

GROUP = 32  # GPTQ and AWQ group size: divides every inner width used here
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def pickled(checkpoint, folder):
    """pytorch_model.bin: a zip with a pickle, as older uploads."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(dict(checkpoint.tensors), folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(checkpoint.config, indent=2) + "\n")


def quantised(checkpoint, folder, pack, config):
    """Each inner matrix replaced by the tensors `pack(name, weight)` gives, config.json told of the method."""
    out = checkpoint.copy()
    for name, tensor in checkpoint.tensors.items():
        if inner_matrix(name, tensor) and ".mlp.gate.weight" not in name:
            del out.tensors[name]
            out.tensors.update(pack(name.removesuffix(".weight"), tensor.float()))
    out.config["quantization_config"] = config
    out.write(folder)


def fp8_channel(stem, w):
    """compressed-tensors: float8 codes and one scale per output row."""
    scale = w.abs().amax(1, keepdim=True).clamp_min(1e-12) / 448
    return {f"{stem}.weight": (w / scale).to(torch.float8_e4m3fn), f"{stem}.weight_scale": scale.bfloat16()}


def fp8_block(stem, w, size=128):
    """DeepSeek's layout: float8 codes and one `weight_scale_inv` per 128 x 128 block (it multiplies)."""
    rows, columns = -(-w.shape[0] // size), -(-w.shape[1] // size)
    scale, codes = torch.ones(rows, columns), torch.empty(w.shape, dtype=torch.float8_e4m3fn)
    for i in range(rows):
        for j in range(columns):
            part = (slice(i * size, (i + 1) * size), slice(j * size, (j + 1) * size))
            scale[i, j] = w[part].abs().max().clamp_min(1e-12) / 448
            codes[part] = (w[part] / scale[i, j]).to(torch.float8_e4m3fn)
    return {f"{stem}.weight": codes, f"{stem}.weight_scale_inv": scale}


def bnb_nf4(stem, w, block=64):
    """bitsandbytes NF4 without double quantisation: two codes a byte, the first in the high half."""
    flat = w.flatten().view(-1, block)
    absmax = flat.abs().amax(1).clamp_min(1e-12)
    codes = torch.bucketize(flat / absmax[:, None], (NF4[1:] + NF4[:-1]) / 2).flatten().to(torch.uint8)
    state = {"quant_type": "nf4", "blocksize": block, "dtype": "bfloat16", "shape": list(w.shape)}
    return {
        f"{stem}.weight": ((codes[0::2] << 4) | codes[1::2])[:, None],
        f"{stem}.weight.absmax": absmax,
        f"{stem}.weight.quant_map": NF4.clone(),
        f"{stem}.weight.quant_state.bitsandbytes__nf4": torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8),
    }


def grouped_int4(w):
    """Asymmetric int4 along the inputs: codes (in, out), zero points and scales (in / GROUP, out)."""
    groups = w.T.reshape(-1, GROUP, w.shape[0])
    low, high = groups.amin(1).clamp(max=0), groups.amax(1).clamp(min=0)
    scale = ((high - low) / 15).clamp_min(1e-8).half()
    zero = (-low / scale.float()).round().clamp(1, 15)
    codes = (groups / scale.float()[:, None] + zero[:, None]).round().clamp(0, 15)
    return codes.reshape(-1, w.shape[0]).int(), zero.int(), scale


def nibbles(values, dim, order=range(8)):
    """Eight 4-bit values along `dim` packed into one int32, the first of `order` lowest."""
    parts = values.unflatten(dim, (-1, 8)).unbind(dim + 1)
    packed = torch.zeros_like(parts[0])
    for position, source in enumerate(order):
        packed |= parts[source] << (4 * position)
    return packed


def gptq(stem, w):
    """AutoGPTQ: codes packed along the inputs, zero points stored less one and packed along the outputs."""
    codes, zero, scale = grouped_int4(w)
    return {
        f"{stem}.qweight": nibbles(codes, 0),
        f"{stem}.qzeros": nibbles(zero - 1, 1),
        f"{stem}.scales": scale,
        f"{stem}.g_idx": torch.arange(len(codes), dtype=torch.int32) // GROUP,
    }


def awq(stem, w):
    """AutoAWQ: codes and zero points packed along the outputs in the interleaved order."""
    codes, zero, scale = grouped_int4(w)
    return {f"{stem}.qweight": nibbles(codes, 1, AWQ_ORDER), f"{stem}.qzeros": nibbles(zero, 1, AWQ_ORDER), f"{stem}.scales": scale}


METHODS = {
    "fp8-compressed-tensors": (
        fp8_channel,
        {"quant_method": "compressed-tensors", "format": "float-quantized",
         "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True}}},
         "ignore": ["lm_head"]},
    ),
    "fp8-block": (fp8_block, {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}),
    "bnb-nf4": (bnb_nf4, {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": False}),
    "gptq": (gptq, {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False, "sym": False, "checkpoint_format": "gptq"}),
    "awq": (awq, {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"}),
}  # fmt: skip


def gguf(checkpoint, file, kind):
    """A llama-architecture GGUF with every matrix quantised to `kind`; q and k rows reordered as llama.cpp wants them."""
    from gguf import GGMLQuantizationType, GGUFWriter
    from gguf.quants import quantize

    config = checkpoint.config
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    file.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(file, "llama")
    writer.add_name("tiny")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    renamed = {
        "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "model.layers": "blk",
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    }  # fmt: skip
    for name, tensor in checkpoint.tensors.items():
        w = tensor.float()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            n = heads if "q_proj" in name else kv_heads
            w = w.reshape(n, 2, len(w) // n // 2, -1).swapaxes(1, 2).reshape(w.shape)
        for old, new in renamed.items():
            name = name.replace(old, new)
        stored = GGMLQuantizationType.F32 if w.dim() == 1 else GGMLQuantizationType[kind]
        data = w.contiguous().numpy() if w.dim() == 1 else quantize(w.contiguous().numpy(), stored)
        writer.add_tensor(name, data, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def cases(name, label, build, base, **more):
    """(case, label, build(path), further label fields) of one checkpoint in every storage that fits the base's shapes."""
    llama, grouped = base.config["model_type"] == "llama", base.width % GROUP == 0
    found = [(f"{name}-pickled", "repackaged" if label == "identical" else label, lambda p: pickled(build(), p), {**more, "form": "pickle"})]
    quantity = "quantized" if label == "identical" else label
    for method, (pack, config) in METHODS.items():
        if method in ("gptq", "awq") and not grouped:
            continue
        found.append((f"{name}-{method}", quantity, lambda p, a=pack, c=config: quantised(build(), p, a, c), {**more, "form": method}))
    if llama:
        for kind in ("Q8_0", "Q5_1", "Q4_0", "F16"):
            named = ("recast" if label == "identical" else label) if kind == "F16" else quantity
            found.append((f"{name}-{kind}.gguf", named, lambda p, k=kind: gguf(build(), Path(p), k), {**more, "form": "gguf"}))
    return found

