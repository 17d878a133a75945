#!/usr/bin/env python3
"""Writes checkpoints with other people's tools, and beside each the numbers those tools read from it.

    python tests/oracles/checkpoints.py FOLDER [case ...]
    ORTHOSCOPE_ORACLES=FOLDER cargo test --release --lib -- --ignored other_tools_read_the_same_numbers

Needs torch, safetensors, ml_dtypes, transformers, peft, bitsandbytes and compressed-tensors, all without an accelerator.
A case whose tool is missing is left out with a message. Weights are random.
"""

import collections
import json
import os
import shutil
import sys

import torch
from safetensors.torch import save_file

CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


def expected(folder, tensors, **metadata):
    os.makedirs(os.path.join(folder, "expected"), exist_ok=True)
    plain = {name: value.detach().to(torch.float32).contiguous().clone() for name, value in tensors.items()}
    save_file(plain, os.path.join(folder, "expected", "model.safetensors"), {k: str(v) for k, v in metadata.items()})


def config(folder, **fields):
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump(fields, file)


def state_dict():
    tensors = collections.OrderedDict()
    tensors["plain.weight"] = torch.randn(3, 4)
    tensors["bf16.weight"] = torch.randn(4, 3).to(torch.bfloat16)
    tensors["transposed"] = torch.randn(3, 5).t()
    tensors["parameter"] = torch.nn.Parameter(torch.randn(2, 2).half())
    tensors["whole"] = torch.arange(5)
    tensors["truth"] = torch.tensor([True, False])
    tensors["slice"] = torch.randn(6, 6)[1:5, 2:4]
    tensors["permuted"] = torch.randn(2, 3, 4).permute(2, 0, 1)
    tensors["scalar"] = torch.tensor(2.5)
    tensors["tied"] = tensors["plain.weight"]
    tensors["expanded"] = torch.randn(3, 1).expand(3, 4)
    tensors["bytes"] = torch.arange(4, dtype=torch.uint8)
    return tensors


@case
def pytorch(folder):
    """Every protocol of both layouts."""
    for protocol in (2, 3, 4, 5):
        for layout in ("zip", "plain"):
            inner = f"{folder}-{layout}-{protocol}"
            os.makedirs(inner)
            tensors = state_dict()
            if layout == "zip":
                tensors["fp8"] = torch.randn(4).to(torch.float8_e4m3fn)
                tensors["unsigned"] = torch.tensor([1, 2, 60000], dtype=torch.uint16)
            torch.save(
                tensors,
                os.path.join(inner, "pytorch_model.bin"),
                pickle_protocol=protocol,
                _use_new_zipfile_serialization=layout == "zip",
            )
            expected(inner, tensors, exactly=True)


@case
def small_floats(folder):
    """All codes of the small floats, against ml_dtypes."""
    import ml_dtypes
    import numpy

    os.makedirs(folder)
    codes = torch.arange(256, dtype=torch.uint8)
    kinds = {
        "e4m3": (torch.float8_e4m3fn, ml_dtypes.float8_e4m3fn),
        "e5m2": (torch.float8_e5m2, ml_dtypes.float8_e5m2),
        "e4m3fnuz": (torch.float8_e4m3fnuz, ml_dtypes.float8_e4m3fnuz),
        "e5m2fnuz": (torch.float8_e5m2fnuz, ml_dtypes.float8_e5m2fnuz),
        "e8m0": (torch.float8_e8m0fnu, ml_dtypes.float8_e8m0fnu),
    }
    save_file({name: codes.clone().view(kind) for name, (kind, _) in kinds.items()}, os.path.join(folder, "model.safetensors"))
    values = {name: codes.numpy().view(kind).astype(numpy.float32) for name, (_, kind) in kinds.items()}
    expected(folder, {name: torch.from_numpy(value) for name, value in values.items()}, exactly=True)


def tiny_llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=64,
            tie_word_embeddings=False,
        )
    )


@case
def adapters(folder):
    """PEFT's own merge of each kind of adapter."""
    import peft
    from transformers import GPT2Config, GPT2LMHeadModel

    writers = ["o_proj", "down_proj"]
    every = writers + ["q_proj", "gate_proj"]
    pattern = {"rank_pattern": {"layers.1.self_attn.o_proj": 2, "down_proj": 6}}
    pattern["alpha_pattern"] = {"^model.layers.0.mlp.down_proj": 3, "o_proj": 5}
    kinds = {
        "lora": dict(r=4, lora_alpha=10, target_modules=every),
        "patterns": dict(r=4, lora_alpha=7, target_modules=every, **pattern),
        "rslora": dict(r=4, lora_alpha=7, target_modules=every, use_rslora=True, **pattern),
        "dora": dict(r=3, lora_alpha=6, target_modules=every, use_dora=True),
        "saved": dict(r=2, lora_alpha=2, target_modules=writers, modules_to_save=["lm_head", "embed_tokens"]),
        "embedding": dict(r=2, lora_alpha=4, target_modules=["embed_tokens", "lm_head"]),
        "transposed": dict(r=2, lora_alpha=4, target_modules=["c_proj", "c_attn"], fan_in_fan_out=True),
    }
    for kind, settings in kinds.items():
        inner = f"{folder}-{kind}"
        if kind == "transposed":
            model = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=32, n_positions=8))
        else:
            model = tiny_llama()
        model.save_pretrained(os.path.join(inner, "base"))
        adapted = peft.get_peft_model(model, peft.LoraConfig(init_lora_weights=False, task_type="CAUSAL_LM", **settings))
        for name, parameter in adapted.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.data += 0.1 * torch.randn_like(parameter)
        adapted.save_pretrained(inner)
        merged = adapted.merge_and_unload().state_dict()
        if kind == "transposed":
            merged = {name: value for name, value in merged.items() if name != "lm_head.weight"}
        expected(inner, merged, absolute=1e-6, relative=1e-6, exactly=True)


def main():
    folder, *wanted = sys.argv[1:]
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    for name, function in CASES.items():
        if wanted and name not in wanted:
            continue
        torch.manual_seed(len(name))
        try:
            function(os.path.join(folder, name))
        except ImportError as error:
            print(f"{name}: left out, {error}", file=sys.stderr)
    print(f"{len(os.listdir(folder))} folders written")


if __name__ == "__main__":
    main()
