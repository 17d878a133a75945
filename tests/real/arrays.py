"""Checkpoints as dictionaries of float32 arrays, without PyTorch: what the drivers here read and write.

Names are Hugging Face's. `load_gguf` takes a llama or gemma3 GGUF; `save` writes one safetensors file and a config.json,
`save_gguf` an F32 GGUF with the metadata of another.
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


def name_of(tensor, kind):
    """Hugging Face's name of a GGUF's tensor, or None."""
    names = BLOCK | (GEMMA if kind == "gemma3" else {})
    parts = tensor.removesuffix(".weight").split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{names[parts[2]]}.weight"
    return f"{TOP[parts[0]]}.weight" if parts[0] in TOP else None


def rotary(name, value):
    """Heads whose rotary rows llama.cpp keeps in pairs and Hugging Face in halves, or None."""
    if value("general.architecture") != "llama" or not name.endswith(("q_proj.weight", "k_proj.weight")):
        return None
    return value("llama.attention.head_count" + ("_kv" if "k_proj" in name else ""))


def load_gguf(path):
    """(weights, config) of a GGUF file."""
    from gguf import GGUFReader
    from gguf.quants import dequantize

    reader = GGUFReader(path)
    value = lambda key: reader.fields[key].contents()
    kind = value("general.architecture")
    weights = {}
    for tensor in reader.tensors:
        name = name_of(tensor.name, kind)
        if name is None:
            continue
        array = dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)
        heads = rotary(name, value)
        if heads:
            array = array.reshape(heads, -1, 2, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
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


def save_gguf(path, weights, source):
    """Writes `weights` as an F32 GGUF with the metadata of the GGUF file `source`."""
    from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter

    reader = GGUFReader(source)
    value = lambda key: reader.fields[key].contents()
    kind = value("general.architecture")
    writer = GGUFWriter(path, kind)
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        inner = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), field.types[0], inner)
    for tensor in reader.tensors:
        name = name_of(tensor.name, kind)
        if name is None:
            continue
        array = weights[name] + 1 if kind == "gemma3" and "norm" in name else weights[name]
        heads = rotary(name, value)
        if heads:
            array = array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        array = numpy.ascontiguousarray(array, numpy.float32)
        writer.add_tensor(tensor.name, array, raw_dtype=GGMLQuantizationType.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def writers(weights):
    """Names of the matrices that write to the residual stream, rows first."""
    return [name for name in weights if name.endswith(("o_proj.weight", "down_proj.weight"))]


def layer(name):
    return int(name.split(".")[2])
