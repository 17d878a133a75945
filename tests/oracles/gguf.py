#!/usr/bin/env python3
"""Holds orthoscope's GGUF decoders against two other implementations, bit for bit.

    cargo build --release --example dequantize
    python3 -m venv venv && venv/bin/pip install numpy gguf llama-cpp-python
    venv/bin/python tests/oracles/gguf.py [--program PATH] [--blocks N] [--file MODEL.gguf]...

Three comparisons, each with counts:

1. Random blocks of every ggml type: all code bytes random, scales random finite binary16 numbers (zero, subnormal,
   largest and negative ones among them). Compared with `dequantize` of the `gguf` package and with ggml's own
   `to_float` in the library that llama-cpp-python brings.
2. Blocks that ggml's quantiser makes of real-looking numbers, for every type it can write.
3. A tiny model written by the `gguf` package and quantised by llama.cpp to each of its file types, and every file given
   with `--file`: names, shapes, types and offsets as the `gguf` reader has them, all tensors decoded and compared.

`llama-cpp-python` is built from source where PyPI has no wheel for the machine (it needs cmake and a C++ compiler);
without it (`--without-llama`) comparison 1 runs against the `gguf` package alone and 2 and 3 are left out.
Exit status: 0 all equal, 1 a difference, 2 nothing was compared.
"""

import argparse
import ctypes
import json
import os
import pathlib
import subprocess
import sys
import tempfile

# This script has the package's name; without this, Python would import the script in its place.
HERE = pathlib.Path(__file__).resolve().parent
sys.path[:] = [entry for entry in sys.path if pathlib.Path(entry or ".").resolve() != HERE]

import gguf
import numpy as np
from gguf import GGMLQuantizationType

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Type number, elements and bytes of a block, and where its binary16 scales lie. ggml says the sizes too and both are
# compared; the gguf package has Q8_1 wrong (it still counts two f32) and does not know Q2_0.
TYPES = {
    "F16": (1, 1, 2, None),
    "BF16": (30, 1, 2, None),
    "Q4_0": (2, 32, 18, [0]),
    "Q4_1": (3, 32, 20, [0, 2]),
    "Q5_0": (6, 32, 22, [0]),
    "Q5_1": (7, 32, 24, [0, 2]),
    "Q8_0": (8, 32, 34, [0]),
    "Q8_1": (9, 32, 36, [0, 2]),
    "Q2_K": (10, 256, 84, [80, 82]),
    "Q3_K": (11, 256, 110, [108]),
    "Q4_K": (12, 256, 144, [0, 2]),
    "Q5_K": (13, 256, 176, [0, 2]),
    "Q6_K": (14, 256, 210, [208]),
    "Q8_K": (15, 256, 292, "f32"),
    "IQ2_XXS": (16, 256, 66, [0]),
    "IQ2_XS": (17, 256, 74, [0]),
    "IQ3_XXS": (18, 256, 98, [0]),
    "IQ1_S": (19, 256, 50, [0]),
    "IQ4_NL": (20, 32, 18, [0]),
    "IQ3_S": (21, 256, 110, [0]),
    "IQ2_S": (22, 256, 82, [0]),
    "IQ4_XS": (23, 256, 136, [0]),
    "IQ1_M": (29, 256, 56, "nibbles"),
    "TQ1_0": (34, 256, 54, [52]),
    "TQ2_0": (35, 256, 66, [64]),
    "MXFP4": (39, 32, 17, []),
    "NVFP4": (40, 64, 36, []),
    "Q1_0": (41, 128, 18, [0]),
    "Q2_0": (42, 64, 18, [0]),
}

FILE_TYPES = ["F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_1", "Q5_0", "Q4_K_M", "Q4_1", "Q4_0", "Q3_K_M", "Q2_K",
              "IQ4_XS", "IQ4_NL", "IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S", "TQ1_0", "TQ2_0",
              "MXFP4_MOE"]


class Traits(ctypes.Structure):
    """The start of `struct ggml_type_traits`."""
    _fields_ = [("name", ctypes.c_char_p), ("block", ctypes.c_int64), ("interleave", ctypes.c_int64),
                ("bytes", ctypes.c_size_t), ("quantized", ctypes.c_bool), ("to_float", ctypes.c_void_p)]


class Ggml:
    """ggml itself, through the shared library of llama-cpp-python."""

    def __init__(self):
        import llama_cpp
        folder = pathlib.Path(llama_cpp.__file__).parent / "lib"
        library = next(p for p in sorted(folder.iterdir()) if "ggml-base" in p.name)
        self.library = ctypes.CDLL(str(library))
        self.library.ggml_get_type_traits.restype = ctypes.POINTER(Traits)
        self.library.ggml_quantize_chunk.restype = ctypes.c_size_t
        self.library.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64,
                                                     ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
        llama_cpp.llama_backend_init()

    def traits(self, number):
        return self.library.ggml_get_type_traits(number).contents

    def decode(self, number, blocks, elements):
        """ggml's `to_float`; for Q8_K the function exists but is not in the table."""
        address = self.traits(number).to_float
        if address:
            function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)(address)
        elif number == 15:
            function = self.library.dequantize_row_q8_K
            function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
        else:
            return None
        out = np.empty(elements, dtype=np.float32)
        function(blocks.ctypes.data, out.ctypes.data, elements)
        return out

    def encode(self, number, numbers, row, size):
        """ggml's quantiser with the same importance for every column; `None` for types it does not write."""
        out = np.zeros(size, dtype=np.uint8)
        importance = np.ones(row, dtype=np.float32)
        written = self.library.ggml_quantize_chunk(number, numbers.ctypes.data, out.ctypes.data, 0, numbers.size // row,
                                                   row, importance.ctypes.data)
        return out if written == size else None


class Tally:
    """What was compared, and what differed."""

    def __init__(self):
        self.compared = 0
        self.failures = 0

    def check(self, what, ours, theirs):
        self.compared += 1
        ours, theirs = np.ascontiguousarray(ours).reshape(-1), np.ascontiguousarray(theirs).reshape(-1)
        if ours.size != theirs.size:
            self.fail(f"{what}: {ours.size} elements, expected {theirs.size}")
            return False
        different = (ours.view(np.uint32) != theirs.view(np.uint32)) & ~(np.isnan(ours) & np.isnan(theirs))
        count = int(different.sum())
        if count:
            at = int(np.argmax(different))
            self.fail(f"{what}: {count} of {ours.size} differ, first at {at}: {ours[at]!r}, expected {theirs[at]!r}")
        return count == 0

    def equal(self, what, ours, theirs):
        self.compared += 1
        if ours != theirs:
            self.fail(f"{what}: {ours!r}, expected {theirs!r}")

    def fail(self, message):
        self.failures += 1
        print("DIFFERENT", message)


def finite_halves(random, count):
    """Random bits of binary16 without infinities and NaN, edge cases first."""
    edges = np.array([0x0000, 0x8000, 0x0001, 0x8001, 0x03ff, 0x0400, 0x3c00, 0xbc00, 0x7bff, 0xfbff], dtype=np.uint16)
    bits = random.integers(0, 1 << 16, count, dtype=np.uint16)
    bits = np.where((bits & 0x7c00) == 0x7c00, bits & 0xbfff, bits).astype(np.uint16)
    bits[: min(count, edges.size)] = edges[:count]
    return bits


def random_blocks(random, scales, size, count):
    """`count` blocks of random bytes whose scales are finite."""
    blocks = random.integers(0, 256, (count, size), dtype=np.uint8)
    if scales is None:
        return finite_halves(random, count).view(np.uint8).reshape(count, size)
    if scales == "f32":
        blocks[:, :4] = random.standard_normal(count).astype("<f4").view(np.uint8).reshape(count, 4)
    elif scales == "nibbles":
        bits = finite_halves(random, count)
        for i in range(4):
            blocks[:, 49 + 2 * i] = (blocks[:, 49 + 2 * i] & 0x0F) | (((bits >> (4 * i)) & 15) << 4).astype(np.uint8)
    else:
        for at in scales:
            blocks[:, at : at + 2] = finite_halves(random, count).view(np.uint8).reshape(count, 2)
    return blocks


def package_decode(number, blocks):
    """The `gguf` package's own dequantisation, or `None` where it has none."""
    try:
        kind = GGMLQuantizationType(number)
        with np.errstate(all="ignore"):
            return gguf.dequantize(blocks, kind).astype(np.float32)
    except (ValueError, NotImplementedError):
        return None


def ours(program, folder, name, blocks):
    source, target = folder / "blocks.bin", folder / "decoded.bin"
    source.write_bytes(blocks.tobytes())
    subprocess.run([program, "blocks", name, str(source), str(target)], check=True)
    return np.fromfile(target, dtype="<f4")


def compare_blocks(program, folder, count, ggml, tally):
    random = np.random.default_rng(20240229)
    for name, (number, elements, size, scales) in TYPES.items():
        # The first blocks carry edge-case scales; plain numbers get as many elements as others get blocks.
        blocks = random_blocks(random, scales, size, count if elements > 1 else 65536)
        decoded = ours(program, folder, name, blocks)
        references = []
        if (package := package_decode(number, blocks)) is not None:
            tally.check(f"{name} random blocks against gguf", decoded, package)
            references.append("gguf")
        if ggml:
            traits = ggml.traits(number)
            tally.equal(f"{name} block layout", (elements, size), (traits.block, traits.bytes))
            if (theirs := ggml.decode(number, blocks, decoded.size)) is not None:
                tally.check(f"{name} random blocks against ggml", decoded, theirs)
                references.append("ggml")
        if number == 9:  # no one decodes Q8_1; by its definition it is Q8_0 with another head
            as_q8_0 = np.concatenate([blocks[:, :2], blocks[:, 4:]], axis=1)
            tally.check("Q8_1 against Q8_0", decoded, gguf.dequantize(as_q8_0, GGMLQuantizationType.Q8_0))
            references.append("Q8_0")
        written = "-"
        if ggml and elements > 1:
            row, rows = 1024, 64
            numbers = (random.standard_normal(row * rows) * 0.02).astype(np.float32)
            encoded = ggml.encode(number, numbers, row, row * rows // elements * size) if number not in (9, 15) else None
            if encoded is not None:
                decoded = ours(program, folder, name, encoded)
                tally.check(f"{name} written blocks against ggml", decoded, ggml.decode(number, encoded, decoded.size))
                error = float(np.sqrt(np.mean((decoded - numbers) ** 2)) / 0.02)
                written = f"{error:.4f}"
        print(f"{name:8} {blocks.shape[0]:6} random blocks equal to {' and '.join(references) or 'nothing':14} "
              f"relative error when ggml writes it: {written}")
        if ggml and not references:
            tally.fail(f"{name}: nothing to compare with")


def tiny_model(path):
    """A two-block Llama with random weights that llama.cpp's quantiser accepts."""
    random = np.random.default_rng(7)
    width, hidden, heads, vocabulary = 512, 1024, 8, 512
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(2)
    writer.add_context_length(128)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads // 2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // heads)
    writer.add_vocab_size(vocabulary)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"<{i}>".encode() for i in range(vocabulary)])
    writer.add_token_scores([0.0] * vocabulary)
    writer.add_token_types([1] * vocabulary)

    def matrix(name, rows, columns):
        writer.add_tensor(name, (random.standard_normal((rows, columns)) * 0.02).astype(np.float32))

    matrix("token_embd.weight", vocabulary, width)
    matrix("output.weight", vocabulary, width)
    writer.add_tensor("output_norm.weight", np.ones(width, dtype=np.float32))
    for block in range(2):
        for name, rows, columns in (("attn_q", width, width), ("attn_k", width // 2, width), ("attn_v", width // 2, width),
                                    ("attn_output", width, width), ("ffn_gate", hidden, width),
                                    ("ffn_up", hidden, width), ("ffn_down", width, hidden)):
            matrix(f"blk.{block}.{name}.weight", rows, columns)
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{block}.{name}.weight", np.ones(width, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def compare_file(program, folder, path, ggml, tally):
    """One GGUF file: what the reader lists and what every tensor decodes to."""
    output = folder / "tensors.bin"
    listing = subprocess.run([program, "file", str(path), str(output)], check=True, capture_output=True, text=True)
    listed = {entry["name"]: entry for entry in map(json.loads, listing.stdout.splitlines())}
    decoded = np.fromfile(output, dtype="<f4")
    reader = gguf.GGUFReader(str(path))
    tally.equal(f"{path.name} tensor names", sorted(listed), sorted(t.name for t in reader.tensors))
    kinds = {}
    for tensor in reader.tensors:
        entry = listed.get(tensor.name)
        if entry is None:
            continue
        kind = tensor.tensor_type
        kinds[kind.name] = kinds.get(kind.name, 0) + 1
        what = f"{path.name} {tensor.name}"
        tally.equal(f"{what} type", entry["dtype"], kind.name)
        tally.equal(f"{what} shape", entry["shape"], [int(n) for n in reversed(tensor.shape)])
        tally.equal(f"{what} range", entry["range"], [int(tensor.data_offset), int(tensor.data_offset + tensor.n_bytes)])
        mine = decoded[entry["first"] : entry["first"] + int(tensor.n_elements)]
        with np.errstate(all="ignore"):
            tally.check(f"{what} against gguf", mine, gguf.dequantize(tensor.data, kind).astype(np.float32))
        if ggml and kind != GGMLQuantizationType.F32:
            data = np.ascontiguousarray(tensor.data).view(np.uint8).reshape(-1)
            tally.check(f"{what} against ggml", mine, ggml.decode(int(kind), data, int(tensor.n_elements)))
    print(f"{path.name}: {len(reader.tensors)} tensors, {decoded.size} elements:",
          ", ".join(f"{count} {name}" for name, count in sorted(kinds.items())))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--program", default=str(ROOT / "target" / "release" / "examples" / "dequantize"))
    parser.add_argument("--blocks", type=int, default=4096, help="random blocks of each type")
    parser.add_argument("--file", action="append", default=[], type=pathlib.Path, help="a GGUF file to compare whole")
    parser.add_argument("--without-llama", action="store_true")
    arguments = parser.parse_args()
    tally = Tally()
    ggml = None if arguments.without_llama else Ggml()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        compare_blocks(arguments.program, folder, arguments.blocks, ggml, tally)
        if ggml:
            sys.path.append(str(HERE))
            import quantize
            source = folder / "tiny-F32.gguf"
            tiny_model(source)
            compare_file(arguments.program, folder, source, ggml, tally)
            # llama.cpp reports every tensor on standard error; keep only our own lines.
            quiet, kept = os.open(os.devnull, os.O_WRONLY), os.dup(2)
            for kind in FILE_TYPES:
                target = folder / f"tiny-{kind}.gguf"
                os.dup2(quiet, 2)
                status = quantize.quantize(str(source), str(target), kind, pure=kind.startswith(("TQ", "IQ", "MX")))
                os.dup2(kept, 2)
                if status:
                    tally.fail(f"llama.cpp did not write {kind} (status {status})")
                    continue
                compare_file(arguments.program, folder, target, ggml, tally)
        for path in arguments.file:
            compare_file(arguments.program, folder, path, ggml, tally)
    print(f"{tally.compared} comparisons, {tally.failures} different")
    return 1 if tally.failures else 0 if tally.compared else 2


if __name__ == "__main__":
    sys.exit(main())
