#!/usr/bin/env python3
"""Writes checkpoints with other people's tools, and beside each the numbers those tools read from it.

    python tests/oracles/checkpoints.py FOLDER [case ...]
    ORTHOSCOPE_ORACLES=FOLDER cargo test --release --lib -- --ignored other_tools_read_the_same_numbers

Needs torch, safetensors, ml_dtypes, transformers, peft, bitsandbytes and compressed-tensors, and of auto-gptq and
autoawq the packages alone (pip install --no-deps); no accelerator. A case whose tool is missing is left out with a
message. Weights are random.
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


def tiny_llama(**more):
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
            **more,
        )
    )


def tiny_gpt_oss():
    from transformers import GptOssConfig, GptOssForCausalLM

    return GptOssForCausalLM(
        GptOssConfig(
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            vocab_size=64,
            num_local_experts=3,
            num_experts_per_tok=2,
        )
    ).float()


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
        "expressions": dict(
            r=4,
            lora_alpha=7,
            target_modules=every,
            rank_pattern={r".*\.layers\.(1|7)\..*(o_proj|down_proj)$": 2, "layers.0.*_proj": 3},
            alpha_pattern={r"self_attn\.[qo]_proj": 5, "mlp.down.proj": 9, ".*": 2},
        ),
        "bias": dict(r=2, lora_alpha=4, target_modules=["q_proj", "o_proj"], lora_bias=True),
        "biases": dict(r=2, lora_alpha=4, target_modules=["q_proj", "o_proj"], bias="all"),
        "tokens": dict(r=2, lora_alpha=4, target_modules=writers, trainable_token_indices=[5, 1, 3]),
    }
    experts = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    kinds["experts"] = dict(r=2, lora_alpha=6, target_modules=["o_proj"], target_parameters=experts)
    for kind, settings in kinds.items():
        inner = f"{folder}-{kind}"
        if kind == "experts":
            model = tiny_gpt_oss()
        elif kind == "transposed":
            model = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=32, n_positions=8))
        else:
            model = tiny_llama(attention_bias=kind.startswith("bias"))
        model.save_pretrained(os.path.join(inner, "base"))
        adapted = peft.get_peft_model(model, peft.LoraConfig(init_lora_weights=False, task_type="CAUSAL_LM", **settings))
        for name, parameter in adapted.named_parameters():
            trained = any(part in name for part in ("lora_", "modules_to_save", "trainable_tokens"))
            if trained or kind == "biases" and name.endswith("bias"):
                parameter.data += 0.1 * torch.randn_like(parameter)
        adapted.save_pretrained(inner)
        # As loaded: saving sorts the keys of patterns, and the first that fits counts.
        again = type(model).from_pretrained(os.path.join(inner, "base"), dtype=torch.float32)
        merged = peft.PeftModel.from_pretrained(again, inner).merge_and_unload().state_dict()
        if kind == "transposed":
            merged = {name: value for name, value in merged.items() if name != "lm_head.weight"}
        expected(inner, merged, absolute=1e-6, relative=1e-6, exactly=True)


def save(folder, tensors, **quantization):
    os.makedirs(folder)
    tensors = {name: value.detach().contiguous().clone() for name, value in tensors.items()}
    save_file(tensors, os.path.join(folder, "model.safetensors"))
    if quantization:
        config(folder, model_type="llama", quantization_config=quantization)


def alone(package, path):
    """One module of a package whose other modules need what is not installed."""
    import importlib.util

    spec = importlib.util.find_spec(package)
    if spec is None:
        raise ImportError(f"no {package}")
    file = os.path.join(os.path.dirname(spec.origin), path)
    spec = importlib.util.spec_from_file_location("alone", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@case
def fp8(folder):
    """Scales by tensor, channel and block, as loaders multiply them."""
    weight = torch.randn(200, 300)
    codes = (weight * 100).clamp(-448, 448).to(torch.float8_e4m3fn)
    name = "model.layers.0.mlp.down_proj.weight"
    beside = {"model.norm.weight": torch.randn(8).to(torch.bfloat16)}
    for kind, scale, suffix, dtype in [
        ("tensor", torch.rand(()) + 0.1, "_scale", torch.float32),
        ("tensor-of-one", torch.rand(1) + 0.1, "_scale", torch.bfloat16),
        ("channel", torch.rand(200, 1) + 0.1, "_scale", torch.bfloat16),
        ("channel-flat", torch.rand(200) + 0.1, "_scale", torch.float32),
        ("block", torch.rand(2, 3) + 0.1, "_scale_inv", torch.float32),
        ("group", torch.rand(200, 10) + 0.1, "_scale", torch.float32),
    ]:
        scale = scale.to(dtype)
        whole = scale.float()
        if kind == "block":
            whole = whole.repeat_interleave(128, 0)[:200].repeat_interleave(128, 1)[:, :300]
        elif kind == "group":
            whole = whole.repeat_interleave(30, 1)
        elif kind == "channel-flat":
            whole = whole[:, None]
        inner = f"{folder}-{kind}"
        save(inner, {name: codes, name + suffix: scale, **beside}, quant_method="fp8", weight_block_size=[128, 128])
        expected(inner, {name: codes.float() * whole, **beside}, exactly=True)
    stacked = torch.randn(3, 256, 128).to(torch.float8_e4m3fn)
    scale = torch.rand(3, 2, 1)
    name = "model.layers.0.mlp.experts.down_proj"
    save(f"{folder}-experts", {name: stacked, name + "_scale_inv": scale}, quant_method="fp8")
    expected(f"{folder}-experts", {name: stacked.float() * scale.repeat_interleave(128, 1)}, exactly=True)


@case
def bitsandbytes(folder):
    """Its own quantiser and its own dequantisation, on the processor."""
    import bitsandbytes.functional as bnb

    name = "model.layers.0.mlp.down_proj.weight"
    for kind in ("nf4", "fp4"):
        for double in (False, True):
            for block in (64, 256):
                weight = torch.randn(96, 200)
                packed, state = bnb.quantize_4bit(
                    weight, blocksize=block, quant_type=kind, compress_statistics=double
                )
                tensors = {name: packed}
                tensors.update({f"{name}.{part}": value for part, value in state.as_dict(packed=True).items()})
                inner = f"{folder}-{kind}-{block}{'-double' if double else ''}"
                save(inner, tensors, quant_method="bitsandbytes", load_in_4bit=True)
                plain = bnb.dequantize_4bit(packed, state)
                expected(inner, {name: plain}, exactly=True, relative=3e-7, absolute=1e-9)
    weight = torch.randn(96, 200).half()
    codes, scales, _ = bnb.int8_vectorwise_quant(weight)
    stem = name.removesuffix(".weight")
    tensors = {name: codes, stem + ".SCB": scales, stem + ".weight_format": torch.tensor(0, dtype=torch.uint8)}
    save(f"{folder}-int8", tensors, quant_method="bitsandbytes", load_in_8bit=True)
    plain = bnb.int8_vectorwise_dequant(codes, scales)
    expected(f"{folder}-int8", {name: plain}, exactly=True, relative=2e-7)


@case
def gptq(folder):
    """AutoGPTQ's own packing, and its layer applied to the identity."""
    layer_type = alone("auto_gptq", "nn_modules/qlinear/qlinear_cuda.py").QuantLinear
    stem = "model.layers.0.mlp.down_proj"
    for bits in (2, 3, 4, 8):
        for ordered in (False, True):
            inputs, outputs, group = 128, 96, 32
            linear = torch.nn.Linear(inputs, outputs, bias=False)
            scales = torch.rand(outputs, inputs // group) * 0.1 + 0.01
            zeros = torch.randint(1, 2**bits, (outputs, inputs // group)).float()
            groups = torch.arange(inputs) // group
            if ordered:
                groups = groups[torch.randperm(inputs)]
            layer = layer_type(bits, group, inputs, outputs, False, weight_dtype=torch.float32)
            layer.pack(linear, scales, zeros.clone(), groups.to(torch.int32))
            with torch.no_grad():
                weight = layer(torch.eye(inputs)).t()
            tensors = {f"{stem}.{part}": getattr(layer, part) for part in ("qweight", "qzeros", "scales", "g_idx")}
            if not ordered:
                del tensors[f"{stem}.g_idx"]
            inner = f"{folder}-{bits}bit{'-ordered' if ordered else ''}"
            save(inner, tensors, quant_method="gptq", bits=bits, group_size=group, desc_act=ordered)
            expected(inner, {f"{stem}.weight": weight}, exactly=True)
            if bits == 4 and not ordered:
                second = dict(tensors)
                second[f"{stem}.qzeros"] = tensors[f"{stem}.qzeros"] + 0x11111111
                settings = dict(quant_method="gptq", bits=4, group_size=group, checkpoint_format="gptq_v2")
                save(f"{folder}-v2", second, **settings)
                expected(f"{folder}-v2", {f"{stem}.weight": weight}, exactly=True)


@case
def awq(folder):
    """AutoAWQ's dequantisation of random words."""
    packing = alone("awq", "utils/packing_utils.py")
    stem = "model.layers.0.mlp.down_proj"
    words = torch.randint(-(2**31), 2**31 - 1, (128, 12), dtype=torch.int32)
    zeros = torch.randint(-(2**31), 2**31 - 1, (4, 12), dtype=torch.int32)
    scales = torch.rand(4, 96)
    weight = packing.dequantize_gemm(words, zeros, scales, 4, 32).t()
    tensors = {f"{stem}.qweight": words, f"{stem}.qzeros": zeros, f"{stem}.scales": scales}
    save(folder, tensors, quant_method="awq", bits=4, group_size=32, version="gemm")
    expected(folder, {f"{stem}.weight": weight}, exactly=True)


@case
def compressed_tensors(folder):
    """Its own compressors, there and back."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    stem = "model.layers.0.mlp.down_proj"
    weight = torch.randn(96, 128)
    kinds = {
        "int4-group": ("pack-quantized", dict(num_bits=4, strategy="group", group_size=32)),
        "int4-channel": ("pack-quantized", dict(num_bits=4, strategy="channel")),
        "int8-packed": ("pack-quantized", dict(num_bits=8, strategy="group", group_size=64)),
        "int3-group": ("pack-quantized", dict(num_bits=3, strategy="group", group_size=32)),
        "int4-asymmetric": ("pack-quantized", dict(num_bits=4, strategy="group", group_size=32, symmetric=False)),
        "int8-channel": ("int-quantized", dict(num_bits=8, strategy="channel")),
        "fp8-channel": ("float-quantized", dict(num_bits=8, type="float", strategy="channel")),
        "nvfp4": ("nvfp4-pack-quantized", dict(num_bits=4, type="float", strategy="tensor_group", group_size=16)),
        "mxfp4": ("mxfp4-pack-quantized", dict(num_bits=4, type="float", strategy="group", group_size=32)),
    }
    for kind, (form, arguments) in kinds.items():
        arguments = QuantizationArgs(**arguments)
        scheme = QuantizationScheme(targets=["Linear"], weights=arguments)
        size = arguments.group_size or weight.shape[1]
        grouped = weight.reshape(96, -1, size)
        most = {4: 7, 8: 127, 3: 3}[arguments.num_bits] if arguments.type == "int" else {4: 6.0, 8: 448.0}[arguments.num_bits]
        scale = (grouped.abs().amax(-1) / most).contiguous()
        state = {"weight": weight.clone(), "weight_scale": scale}
        if not arguments.symmetric:
            state["weight_zero_point"] = torch.randint(-3, 4, scale.shape, dtype=torch.int8)
        if kind == "nvfp4":
            state["weight_global_scale"] = torch.tensor([7.0])
            state["weight_scale"] = (scale * 7.0).to(torch.float8_e4m3fn).float()
        if kind == "mxfp4":
            state["weight_scale"] = 2.0 ** torch.ceil(torch.log2(scale))
        compressor = BaseCompressor.get_value_from_registry(form)
        packed = compressor.compress(state, scheme)
        plain = compressor.decompress(dict(packed), scheme)["weight"]
        tensors = {f"{stem}.{part}": value for part, value in packed.items() if value is not None}
        weights = {"num_bits": arguments.num_bits, "type": str(arguments.type)}
        inner = f"{folder}-{kind}"
        save(inner, tensors, quant_method="compressed-tensors", format=form, config_groups={"group_0": {"weights": weights}})
        # That of NVFP4 rounds to bfloat16 on its way.
        expected(inner, {f"{stem}.weight": plain}, exactly=True, relative=8e-3 if kind == "nvfp4" else 2e-7)


@case
def fp4(folder):
    """Pairs of FP4 codes as ModelOpt and DeepSeek scale them, against transformers' own unpacking."""
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    stem = "model.layers.0.mlp.down_proj"
    codes = torch.randint(-128, 128, (48, 32), dtype=torch.int8)
    unpack = Fp8Dequantize(None)
    scale = torch.randint(110, 140, (48, 2), dtype=torch.uint8).view(torch.float8_e8m0fnu)
    weight = unpack._dequantize_one(codes, scale, torch.float32)
    tensors = {f"{stem}.weight": codes, f"{stem}.weight_scale_inv": scale}
    save(f"{folder}-signed", tensors, quant_method="fp8", weight_block_size=[128, 128])
    expected(f"{folder}-signed", {f"{stem}.weight": weight}, exactly=True)
    scale = (torch.rand(48, 4) * 100 + 1).to(torch.float8_e4m3fn)
    weight = unpack._dequantize_one(codes, scale, torch.float32) * 0.25
    tensors = {f"{stem}.weight": codes.view(torch.uint8), f"{stem}.weight_scale": scale}
    tensors.update({f"{stem}.weight_scale_2": torch.tensor(0.25), f"{stem}.input_scale": torch.tensor(1.0)})
    save(f"{folder}-modelopt", tensors, quant_method="modelopt", quant_algo="NVFP4")
    expected(f"{folder}-modelopt", {f"{stem}.weight": weight}, exactly=True)


@case
def mxfp4(folder):
    """The experts of gpt-oss as transformers unpacks them."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    blocks = torch.randint(0, 256, (3, 40, 2, 16), dtype=torch.uint8)
    scales = torch.randint(100, 140, (3, 40, 2), dtype=torch.uint8)
    name = "model.layers.0.mlp.experts.down_proj"
    weight = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    save(folder, {name + "_blocks": blocks, name + "_scales": scales}, quant_method="mxfp4")
    expected(folder, {name: weight}, exactly=True)


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
            shutil.rmtree(os.path.join(folder, name), ignore_errors=True)
            print(f"{name}: left out, {error}", file=sys.stderr)
    print(f"{len(os.listdir(folder))} folders written")


if __name__ == "__main__":
    main()
