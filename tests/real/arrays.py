"""Checkpoints as dictionaries of float32 arrays, without PyTorch: what the drivers here read and write.

Names are Hugging Face's. `load_gguf` takes a llama or gemma3 GGUF; `save` writes one safetensors file and a config.json.
"""

import json
import pathlib

import ml_dtypes
import numpy
from safetensors.numpy import load_file, save_file

BLOCK = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
GEMMA = {
    "ffn_norm": "pre_feedforward_layernorm", "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
}  # fmt: skip
TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def load_gguf(path):
    """(weights, config) of a GGUF file, rotary rows left in llama.cpp's order."""
    from gguf import GGUFReader
    from gguf.quants import dequantize

    reader = GGUFReader(path)
    value = lambda key: reader.fields[key].contents()
    kind = value("general.architecture")
    names = BLOCK | (GEMMA if kind == "gemma3" else {})
    weights = {}
    for tensor in reader.tensors:
        parts = tensor.name.removesuffix(".weight").split(".")
        if parts[0] == "blk":
            name = f"model.layers.{parts[1]}.{names[parts[2]]}.weight"
        elif parts[0] in TOP:
            name = f"{TOP[parts[0]]}.weight"
        else:
            continue
        array = dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)
        weights[name] = array - 1 if kind == "gemma3" and "norm" in name else array
    config = {
        "model_type": "gemma3_text" if kind == "gemma3" else "llama",
        "architectures": ["Gemma3ForCausalLM" if kind == "gemma3" else "LlamaForCausalLM"],
        "hidden_size": value(f"{kind}.embedding_length"),
        "intermediate_size": value(f"{kind}.feed_forward_length"),
        "num_hidden_layers": value(f"{kind}.block_count"),
        "num_attention_heads": value(f"{kind}.attention.head_count"),
        "num_key_value_heads": value(f"{kind}.attention.head_count_kv"),
        "vocab_size": len(weights["model.embed_tokens.weight"]),
        "tie_word_embeddings": True,
    }
    if kind == "gemma3":
        config["head_dim"] = value("gemma3.attention.key_length")
    return weights, config


def load(folder):
    """(weights, config) of a folder that `save` wrote."""
    folder = pathlib.Path(folder)
    weights = {name: array.astype(numpy.float32) for name, array in load_file(folder / "model.safetensors").items()}
    return weights, json.loads((folder / "config.json").read_text())


def save(folder, weights, config, dtype=ml_dtypes.bfloat16):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: numpy.ascontiguousarray(array.astype(dtype)) for name, array in weights.items()},
              folder / "model.safetensors", metadata={"format": "pt"})  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))


def writers(weights):
    """Names of the matrices that write to the residual stream, rows first."""
    return [name for name in weights if name.endswith(("o_proj.weight", "down_proj.weight"))]


def layer(name):
    return int(name.split(".")[2])
