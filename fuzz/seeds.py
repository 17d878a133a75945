#!/usr/bin/env python3
"""Writes small honest inputs into fuzz/corpus/, one folder a target. Needs only Python's standard library.

    python3 fuzz/seeds.py
    cargo +nightly fuzz run gguf_header -- -max_total_time=600 -max_len=65536

Run from the repository's top; `cargo install cargo-fuzz` once.
"""

import base64
import io
import json
import pathlib
import pickle
import random
import struct
import zipfile

CORPUS = pathlib.Path(__file__).resolve().parent / "corpus"

# Elements and bytes of a block of every ggml type.
GGML = {0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36),
        10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66),
        17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136),
        24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54),
        35: (256, 66), 39: (32, 17), 40: (64, 36), 41: (128, 18), 42: (64, 18)}


def text(value, order="<", short=False):
    return struct.pack(order + ("I" if short else "Q"), len(value)) + value.encode()


def key(name, kind, value, order="<", short=False):
    return text(name, order, short) + struct.pack(order + "I", kind) + value


def gguf(version=3, order="<"):
    """A file with every kind of value and a tensor of every type."""
    short = version == 1
    length = "I" if short else "Q"

    def array(kind, values):
        return struct.pack(order + "I" + length, kind, len(values)) + b"".join(values)

    def number(kind, code, value):
        return key(f"llama.k{kind}", kind, struct.pack(order + code, value), order, short)

    keys = [key("general.architecture", 8, text("llama", order, short), order, short)]
    keys += [number(kind, code, 7) for kind, code in
             ((0, "B"), (1, "b"), (2, "H"), (3, "h"), (4, "I"), (5, "i"), (6, "f"), (7, "B"), (10, "Q"), (11, "q"),
              (12, "d"))]
    keys.append(key("tokenizer.ggml.tokens", 9, array(8, [text("a", order, short), text("b", order, short)]), order,
                    short))
    keys.append(key("nested", 9, array(9, [array(4, [struct.pack(order + "I", 1)])]), order, short))
    keys.append(key("general.alignment", 4, struct.pack(order + "I", 32), order, short))
    tensors, data = [], b""
    generator = random.Random(1)
    for kind, (elements, size) in GGML.items():
        entry = text(f"t{kind}", order, short) + struct.pack(order + "I" + length * 2, 2, elements, 1)
        tensors.append(entry + struct.pack(order + "IQ", kind, len(data)))
        data += generator.randbytes(size)
        data += bytes(-len(data) % 32)
    head = b"GGUF" + struct.pack(order + "I" + length * 2, version, len(tensors), len(keys))
    head += b"".join(keys) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + data


def safetensors(header, data):
    header = json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + data


def torch_zip():
    """The zip layout of a PyTorch file, with a pickle that names no class."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"w": [1.0, 2.0]}, protocol=2))
        archive.writestr("archive/data/0", bytes(8))
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


# A group of each scheme: configuration, then name, dtype, shape of its tensors.
SCHEMES = {
    "fp8-block": ({"weight_block_size": [2, 2]}, [("w.weight", "F8_E4M3", [3, 4]), ("w.weight_scale_inv", "F32", [2, 2])]),
    "fp8-channel": ({}, [("w.weight", "F8_E4M3", [4, 4]), ("w.weight_scale", "F32", [4, 1])]),
    "int8": ({"load_in_8bit": True}, [("w.weight", "I8", [4, 4]), ("w.SCB", "F32", [4])]),
    "nf4": ({"load_in_4bit": True},
            [("w.weight", "U8", [64, 1]), ("w.weight.absmax", "F32", [2]), ("w.weight.quant_map", "F32", [16]),
             ("w.weight.quant_state.bitsandbytes__nf4", "U8", [77])]),
    "gptq": ({"quant_method": "gptq", "bits": 4, "group_size": 32},
             [("w.qweight", "I32", [4, 8]), ("w.scales", "F16", [1, 8]), ("w.qzeros", "I32", [1, 1]),
              ("w.g_idx", "I32", [32])]),
    "awq": ({"quant_method": "awq", "bits": 4, "group_size": 32},
            [("w.qweight", "I32", [32, 1]), ("w.scales", "F16", [1, 8]), ("w.qzeros", "I32", [1, 1])]),
    "compressed-tensors": ({"quant_method": "compressed-tensors", "format": "pack-quantized"},
                           [("w.weight_packed", "I32", [4, 4]), ("w.weight_scale", "F32", [4, 1]),
                            ("w.weight_shape", "I64", [2])]),
    "mxfp4": ({"quant_method": "mxfp4"},
              [("e.down_proj_blocks", "U8", [1, 2, 1, 16]), ("e.down_proj_scales", "U8", [1, 2, 1])]),
    "nvfp4": ({}, [("w.weight", "U8", [4, 8]), ("w.weight_scale", "F8_E4M3", [4, 1]),
                   ("w.weight_scale_2", "F32", [1])]),
    "lora": ({"peft_type": "LORA", "r": 1, "lora_alpha": 2, "rank_pattern": {"o": 1}},
             [("base_model.model.o.lora_A.weight", "F32", [1, 2]), ("base_model.model.o.lora_B.weight", "F32", [3, 1])]),
    "dora": ({"peft_type": "LORA", "r": 1, "lora_alpha": 2, "use_dora": True, "use_rslora": True},
             [("base_model.model.o.lora_A.weight", "F32", [1, 2]), ("base_model.model.o.lora_B.weight", "F32", [3, 1]),
              ("base_model.model.o.lora_magnitude_vector", "F32", [3])]),
}
WIDTHS = {"F32": 4, "I32": 4, "F16": 2, "I64": 8}


def quantized(config, tensors, data):
    """The three lines of an input: configuration, header, bytes."""
    header, at = {}, 0
    for name, dtype, shape in tensors:
        size = WIDTHS.get(dtype, 1)
        for extent in shape:
            size *= extent
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    keys = {"quantization_config": config, **config}
    return b"\n".join([json.dumps(keys).encode(), json.dumps(header).encode(), data])


def statement(method, name):
    digest = "ab" * 32
    return json.dumps({
        "_type": "https://in-toto.io/Statement/v1", "subject": [{"name": "m", "digest": {"sha256": digest}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {"serialization": {"method": method, "hash_type": "sha256", "ignore_paths": ["model.sig"]},
                      "resources": [{"name": name, "digest": digest, "algorithm": "sha256"}]}}).encode()


def signature(method, name):
    """A bundle with a statement, a signature of nothing and a hint."""
    payload = base64.b64encode(statement(method, name)).decode()
    return json.dumps({
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": "00"}, "tlogEntries": [],
                                 "x509CertificateChain": {"certificates": [{"rawBytes": "MAA="}]}},
        "dsseEnvelope": {"payload": payload, "payloadType": "application/vnd.in-toto+json",
                         "signatures": [{"sig": "MAA=", "keyid": ""}]}}).encode()


def main():
    seeds = {"gguf_header": {"v3": gguf(), "v2": gguf(2), "v1": gguf(1), "big-endian": gguf(3, ">")}}
    seeds["gguf_header"]["without-magic"] = gguf()[8:]
    generator = random.Random(2)
    seeds["dequantize"] = {f"{which}": bytes([which, 64]) + generator.randbytes(900) for which in range(64)}
    entry = {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]}
    other = {"dtype": "BF16", "shape": [4], "data_offsets": [8, 16]}
    header = {"__metadata__": {"format": "pt"}, "a.weight": entry, "b.weight": other}
    seeds["safetensors_header"] = {"whole": safetensors(header, bytes(16)), "header": json.dumps(header).encode()}
    index = {"metadata": {"total_size": 16}, "weight_map": {"a": "model-00001-of-00002.safetensors",
                                                            "b": "model-00002-of-00002.safetensors"}}
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2, "num_hidden_layers": 1,
              "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}}
    seeds["shard_index"] = {"index": json.dumps(index).encode(), "config": json.dumps(config).encode(),
                            "escape": json.dumps({"weight_map": {"a": "../x", "b": "/etc/x"}}).encode()}
    seeds["pickle"] = {f"protocol-{n}": pickle.dumps({"w": (1, 2.0, "x", b"y", None, True)}, protocol=n)
                       for n in range(2, 6)}
    seeds["pickle"]["zip"] = torch_zip()
    # What 4-bit codes of bitsandbytes bring along comes after 136 bytes of other tensors.
    state = json.dumps({"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [8, 16]}).encode()
    seeds["quantized"] = {name: quantized(config, tensors, generator.randbytes(136) + state)
                          for name, (config, tensors) in SCHEMES.items()}
    digest = "ab" * 32
    seeds["checksums"] = {
        "text": f"{digest}  model.safetensors\n{digest} *sub/config.json\n\\{digest}  line\\nfeed\n".encode(),
        "tagged": f"SHA256 (model (1).gguf) = {digest}\nBLAKE2b (x) = {digest * 2}\n".encode(),
        "lone": digest.encode(), "escape": f"{digest}  ../x\n{digest}  /etc/x\n".encode()}
    seeds["model_signature"] = {"files": signature("files", "model.safetensors"),
                                "shards": signature("shards", "model.safetensors:0:16"),
                                "statement": statement("files", "model.safetensors")}
    for target, inputs in seeds.items():
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in inputs.items():
            (folder / f"seed-{name}").write_bytes(data)
        print(f"{target}: {len(inputs)} seeds")


if __name__ == "__main__":
    main()
