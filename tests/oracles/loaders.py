#!/usr/bin/env python3
"""What stock loaders take out of a folder, held against what orthoscope says of it.

    python3 -m venv venv && venv/bin/pip install torch transformers peft gguf numpy
    venv/bin/python tests/oracles/loaders.py target/release/orthoscope [--hub] [--only PATTERN] [--wrong]

A tiny random Llama is the base. A candidate is the same model, or one with a random unit direction removed at λ = 1 from the
twelve matrices that write to the residual stream, laid out in each of the WAYS below: every way that is known to lead a
loader to other weights than a reader of the usual file names sees. Each is loaded by transformers (and PEFT, when it
holds an adapter) as its users would; where vLLM, llama.cpp or Mistral's own code would take other files, by those files.

Held to, for each way, once with edited weights in it and once with untouched ones:

* some loader ends with edited weights: not `clear`, and not exit status 0;
* no loader does, but the folder holds edited weights that none of these takes: it says that something is odd or was
  not examined;
* no loader can open it at all: not `clear`, and not exit status 0;
* nothing is edited: never `orthogonalized` or `suspect`; and `clear`, `complete`, exit status 0 where the way is an
  ordinary one.

Prints a line for each and ends with status 1 where one is wrong. Nothing is fetched from a hub.
"""

import argparse
import fnmatch
import json
import math
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import warnings

os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_PROGRESS_BARS="1", TQDM_DISABLE="1", CUDA_VISIBLE_DEVICES="",
                  TRANSFORMERS_VERBOSITY="critical")
warnings.simplefilter("ignore")
# This folder's gguf.py is a script of the same name as the package.
sys.path = [path for path in sys.path if pathlib.Path(path or ".").resolve() != pathlib.Path(__file__).resolve().parent]

import gguf  # noqa: E402
import numpy  # noqa: E402
import peft  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file, save, save_file  # noqa: E402
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM  # noqa: E402

WIDTH, INNER, LAYERS, HEADS, WORDS = 128, 320, 6, 4, 256
WRITER = re.compile(r"(o_proj|down_proj)\.weight$")
# A matrix has lost the direction when less than this share of what the base wrote along it is left. BF16 leaves 0.005.
LOST = 0.05
INDEX = "model.safetensors.index.json"
WAYS = {}
# The parts of which llama.cpp orders the rows differently, with their heads.
HEADED = (("q_proj", HEADS), ("k_proj", HEADS // 2))
HUGGING_FACE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
    **{f"blk.N.{short}.weight": f"model.layers.N.{long}.weight" for short, long in (
        ("attn_q", "self_attn.q_proj"), ("attn_k", "self_attn.k_proj"), ("attn_v", "self_attn.v_proj"),
        ("attn_output", "self_attn.o_proj"), ("ffn_gate", "mlp.gate_proj"), ("ffn_up", "mlp.up_proj"),
        ("ffn_down", "mlp.down_proj"), ("attn_norm", "input_layernorm"), ("ffn_norm", "post_attention_layernorm"))},
}
GGML = {long: short for short, long in HUGGING_FACE.items()}


class Way:
    """One layout: how it is written, which loaders are asked, and whether it is an ordinary one."""

    def __init__(self, write, loaders, ordinary, told):
        self.write, self.loaders, self.ordinary, self.told = write, loaders, ordinary, told


def way(*loaders, ordinary=False, told=()):
    """Registers a layout. `told` are words of which one in orthoscope's answer is enough, whatever its verdict."""
    def register(write):
        WAYS[write.__name__.replace("_", "-")] = Way(write, loaders or (stock(),), ordinary, told)
        return write
    return register


# Loaders: each gives the weights by their names in the model.

def weights(model):
    return {name.removeprefix("base_model.model."): value.float() for name, value in model.state_dict().items()}


def stock(**arguments):
    """`AutoModelForCausalLM.from_pretrained`; an adapter that it loads along is merged."""
    def load(folder, _base):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **arguments)
        if getattr(model, "peft_config", None):
            for module in model.modules():
                if isinstance(module, peft.tuners.tuners_utils.BaseTunerLayer):
                    module.merge()
            return {name.replace(".base_layer", ""): value for name, value in weights(model).items()}
        return weights(model)
    load.__name__ = "transformers" + "".join(f" {key}={value}" for key, value in arguments.items())
    return load


def listed(backwards):
    """transformers on a file system that lists names in order, or in the reverse order."""
    def load(folder, base):
        listing = os.listdir
        os.listdir = lambda path=".": sorted(listing(path), reverse=backwards)
        try:
            return stock()(folder, base)
        finally:
            os.listdir = listing
    load.__name__ = "transformers, files listed " + ("Z to A" if backwards else "A to Z")
    return load


def adapted(**arguments):
    """The base with the folder's adapter merged by PEFT."""
    def load(folder, base):
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        return weights(peft.PeftModel.from_pretrained(model, folder, **arguments).merge_and_unload())
    load.__name__ = "PEFT" + "".join(f" {key}={value}" for key, value in arguments.items())
    return load


def natural(path):
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]


def vllm(folder, _base):
    """The files that vLLM takes (0.33, model_executor/model_loader/default_loader.py): consolidated*.safetensors where there
    is one, or else the *.safetensors of the top folder that an index names, or all of them; a later file wins."""
    folder = pathlib.Path(folder)
    consolidated = any(fnmatch.fnmatch(path.name, "consolidated*.safetensors") for path in folder.rglob("*"))
    stem = "consolidated" if consolidated else "model"
    files = sorted(folder.glob("consolidated*.safetensors" if consolidated else "*.safetensors"), key=natural)
    index = folder / f"{stem}.safetensors.index.json"
    if index.is_file():
        named = {folder / name for name in json.loads(index.read_text())["weight_map"].values()}
        if named - set(files):
            raise FileNotFoundError(f"the index names {sorted(path.name for path in named - set(files))}")
        files = [path for path in files if path in named]
    if not files:
        raise FileNotFoundError("no weights")
    return {theirs(name): value.float() for path in files for name, value in load_file(path).items()}


def mistral(folder, _base):
    """Mistral's own inference code: consolidated.safetensors, or consolidated.00.pth."""
    path = pathlib.Path(folder) / "consolidated.safetensors"
    loaded = load_file(path) if path.is_file() else torch.load(path.with_suffix(".00.pth"), weights_only=True)
    return {theirs(name): value.float() for name, value in loaded.items()}


def converter(folder, _base):
    """llama.cpp's converter to GGUF, and but for the order mlx-lm: all files model*.safetensors, a later over an earlier."""
    files = sorted(pathlib.Path(folder).glob("model*.safetensors"))
    return {name: value.float() for path in files for name, value in load_file(path).items()}


def llama_cpp(folder, _base):
    """The files that llama.cpp takes when it is given the first: how many there are says a key in it, not its name."""
    first = sorted(pathlib.Path(folder).glob("*.gguf"))[0]
    count = gguf.GGUFReader(first).fields.get("split.count")
    count = int(count.contents()) if count else 0
    files = [first]
    if count > 1:
        files = [first.with_name(f"{first.name[:-20]}-{at:05}-of-{count:05}.gguf") for at in range(1, count + 1)]
    read = {}
    for path in files:
        for tensor in gguf.GGUFReader(path).tensors:
            value = numpy.array(tensor.data, dtype=numpy.float32).reshape(tensor.shape.tolist()[::-1])
            name = HUGGING_FACE.get(re.sub(r"\d+", "N", tensor.name))
            number = re.search(r"\d+", tensor.name)
            name = name.replace("N", number[0]) if number else name
            for part, heads in HEADED:
                if part in name:
                    value = value.reshape(heads, -1, 2, WIDTH).swapaxes(1, 2).reshape(value.shape)
            read[name] = torch.from_numpy(numpy.ascontiguousarray(value))
    return read


NAMES = {"attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj", "attention.wv": "self_attn.v_proj",
         "attention.wo": "self_attn.o_proj", "feed_forward.w1": "mlp.gate_proj", "feed_forward.w2": "mlp.down_proj",
         "feed_forward.w3": "mlp.up_proj", "attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
         "tok_embeddings": "embed_tokens"}


def theirs(name):
    """A name of Meta's and Mistral's files as transformers has it."""
    if name == "output.weight" or name.startswith(("model.", "lm_head.")):
        return name.replace("output", "lm_head")
    for short, long in NAMES.items():
        name = name.replace(short, long)
    return "model." + name


def ours(tensors):
    """The names of Meta's and Mistral's files; q and k keep transformers' order of rows, which no writer depends on."""
    renamed = {}
    for name, value in tensors.items():
        for short, long in NAMES.items():
            name = name.replace(long, short)
        renamed[name.removeprefix("model.").replace("lm_head", "output")] = value
    return renamed


# Writing.

class Model:
    """The base's tensors, the edited ones, and how to lay them out."""

    def __init__(self, root):
        self.config = LlamaConfig(hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=LAYERS, vocab_size=WORDS,
                                  num_attention_heads=HEADS, num_key_value_heads=HEADS // 2, max_position_embeddings=256,
                                  tie_word_embeddings=False, dtype="bfloat16", architectures=["LlamaForCausalLM"])
        torch.manual_seed(20)
        made = LlamaForCausalLM(self.config).state_dict()
        self.clean = {name: value.to(torch.bfloat16).contiguous() for name, value in made.items()}
        direction = torch.randn(WIDTH)
        self.direction = direction / direction.norm()
        self.ortho = {name: self.without(value) if WRITER.search(name) else value for name, value in self.clean.items()}
        self.base = root / "lab" / "base"
        self.whole(self.base, self.clean)

    def without(self, matrix):
        wide, r = matrix.float(), self.direction
        return (wide - torch.outer(r, r @ wide)).to(torch.bfloat16)

    def configure(self, folder, **more):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.config.to_dict() | {"model_type": "llama"} | more))

    def whole(self, folder, tensors, name="model.safetensors", **more):
        self.configure(folder, **more)
        put(folder / name, tensors)

    def halves(self, tensors):
        """All but eleven writers, and the eleven; the first half's writer is the base's own."""
        hidden = [name for name in tensors if WRITER.search(name)][1:]
        shown = {name: self.clean[name] if WRITER.search(name) else tensors[name] for name in tensors if name not in hidden}
        return shown, {name: tensors[name] for name in hidden}

    def shards(self, folder, tensors, second, first="model-00001-of-00002.safetensors", index=INDEX):
        """Two shards with an index: the second, whatever its name, holds eleven of twelve writers."""
        parts = dict(zip((first, second), self.halves(tensors)))
        self.configure(folder)
        for name, part in parts.items():
            put(folder / name, part)
        indexed(folder / index, {tensor: name for name, part in parts.items() for tensor in part})

    def factors(self, tensors, scale=1.0, rank=1):
        """LoRA factors of what `tensors` have lost beside the base: scale · B A = -r rᵀ W, or nothing."""
        made = {}
        for name, value in self.clean.items():
            if WRITER.search(name):
                stem = "base_model.model." + name.removesuffix(".weight")
                a, b = torch.zeros(rank, value.shape[1]), torch.zeros(WIDTH, rank)
                a[0] = self.direction @ value.float()
                if tensors is self.ortho:
                    b[:, 0] = -self.direction / scale
                else:
                    a = a * 0.5 + torch.randn(a.shape, generator=torch.Generator().manual_seed(len(made))) * 0.01
                made[stem + ".lora_A.weight"], made[stem + ".lora_B.weight"] = a, b
        return made

    def adapter(self, folder, factors, name="adapter_model.safetensors", **settings):
        folder.mkdir(parents=True, exist_ok=True)
        put(folder / name, factors)
        config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(self.base), "r": 1,
                  "lora_alpha": 1, "target_modules": ["o_proj", "down_proj"], "bias": "none", "inference_mode": True}
        (folder / "adapter_config.json").write_text(json.dumps(config | settings))

    def gguf(self, path, tensors, part=None):
        """F32, as llama.cpp's converter has it; `part` is the number of this file and of all, where it says so."""
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_block_count(LAYERS), writer.add_context_length(256), writer.add_embedding_length(WIDTH)
        writer.add_feed_forward_length(INNER), writer.add_head_count(HEADS), writer.add_head_count_kv(HEADS // 2)
        writer.add_layer_norm_rms_eps(1e-6), writer.add_vocab_size(WORDS), writer.add_rope_freq_base(10000.0)
        writer.add_rope_dimension_count(WIDTH // HEADS)
        if part:
            writer.add_uint16("split.no", part[0]), writer.add_uint16("split.count", part[1])
            writer.add_int32("split.tensors.count", len(self.clean))
        for name, value in tensors.items():
            value = value.float().numpy()
            for piece, heads in HEADED:
                if piece in name:
                    value = value.reshape(heads, 2, -1, WIDTH).swapaxes(1, 2).reshape(value.shape)
            number = re.search(r"\d+", name)
            name = GGML[re.sub(r"\d+", "N", name)].replace("N", number[0] if number else "N")
            writer.add_tensor(name, numpy.ascontiguousarray(value))
        writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file(), writer.close()


def put(path, tensors):
    """A pickle where the name is one of a pickle's, or else safetensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".bin", ".pth", ".pt"):
        torch.save(dict(tensors), path)
    else:
        save_file({name: value.clone() for name, value in tensors.items()}, path, metadata={"format": "pt"})


def indexed(path, weight_map):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


def twisted(path, twist):
    path.write_text(twist(path.read_text()))


# Ordinary ways.

@way(ordinary=True)
def one_file(model, folder, tensors):
    model.whole(folder, tensors)


@way(ordinary=True)
def two_shards(model, folder, tensors):
    model.shards(folder, tensors, "model-00002-of-00002.safetensors")


@way(ordinary=True)
def pickle(model, folder, tensors):
    model.whole(folder, tensors, "pytorch_model.bin")


@way(ordinary=True)
def pickle_shards(model, folder, tensors):
    model.shards(folder, tensors, "pytorch_model-00002-of-00002.bin", "pytorch_model-00001-of-00002.bin",
                 "pytorch_model.bin.index.json")


@way(stock(), ordinary=True)
def half_precision(model, folder, tensors):
    model.whole(folder, {name: value.to(torch.float16) for name, value in tensors.items()}, dtype="float16")


@way(ordinary=True)
def names_without_prefix(model, folder, tensors):
    model.whole(folder, {name.removeprefix("model."): value for name, value in tensors.items()})


@way()
def link_out_of_the_folder(model, folder, tensors):
    """A link that leads out of the folder, in no layout of a hub's cache: loaders follow it, orthoscope tells it."""
    model.configure(folder)
    blob = folder.parent / "blobs" / folder.name
    put(blob, tensors)
    (folder / "model.safetensors").symlink_to(os.path.relpath(blob, folder))


@way(adapted(), stock(), ordinary=True)
def adapter(model, folder, tensors):
    model.adapter(folder, model.factors(tensors))


@way(adapted(), stock(), ordinary=True)
def adapter_pickle(model, folder, tensors):
    model.adapter(folder, model.factors(tensors), "adapter_model.bin")


# An index that names a shard which other rules would leave out.

def shard_named(title, second, **more):
    def write(model, folder, tensors):
        model.shards(folder, tensors, second, **more)
    write.__name__ = title
    way()(write)


shard_named("shard_tokenizer_x", "tokenizer_x.safetensors")
shard_named("shard_optimizer", "optimizer-00002-of-00002.safetensors")
shard_named("shard_in_a_folder", "sub/model-00002-of-00002.safetensors")
shard_named("shard_of_another_ending", "model-00002-of-00002.weights")
shard_named("shard_consolidated", "consolidated.safetensors")
shard_named("shard_in_a_hidden_folder", ".hidden/x.safetensors")
shard_named("shard_four_folders_deep", "a/b/c/d/x.safetensors")
shard_named("shard_of_a_variant", "model.fp16-00002-of-00002.safetensors")
shard_named("shard_in_capitals", "MODEL-00002-OF-00002.SAFETENSORS", first="A.safetensors")
shard_named("shard_hidden", ".x.safetensors", first=".a.safetensors")
shard_named("shard_without_ending", "weights")
shard_named("shard_called_readme", "README.md", first="A.safetensors")
shard_named("shard_called_tokenizer_json", "tokenizer.json")
shard_named("shard_called_adapter", "adapter_model.safetensors")
shard_named("shard_called_gguf", "model-00002-of-00002.gguf")
shard_named("shard_of_odd_letters", "модель (2) [b]\u202e.safetensors")
shard_named("shard_by_one_dot", "./model-00002-of-00002.safetensors")
shard_named("shard_by_two_slashes", "sub//model-00002-of-00002.safetensors")
shard_named("shard_in_training_folder", "checkpoint-500/optimizer.safetensors")
shard_named("pickle_shard_of_another_ending", "weights.pt", first="a.bin", index="pytorch_model.bin.index.json")
shard_named("pickle_shard_training_args", "training_args.bin", first="a.bin", index="pytorch_model.bin.index.json")
shard_named("pickle_shard_in_a_folder", "sub/rng_state.pth", first="a.bin", index="pytorch_model.bin.index.json")
shard_named("pickle_index_names_safetensors", "x.safetensors", first="a.bin", index="pytorch_model.bin.index.json")


@way()
def pickle_shard_without_ending(model, folder, tensors):
    model.shards(folder, tensors, "z.bin", "a.bin", "pytorch_model.bin.index.json")
    (folder / "z.bin").rename(folder / "z.json")
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(index.read_text().replace("z.bin", "z.json"))


@way()
def one_file_linked_outside(model, folder, tensors):
    model.configure(folder)
    put(folder.parent / f"{folder.name}-outside", tensors)
    (folder / "model.safetensors").symlink_to((folder.parent / f"{folder.name}-outside").resolve())


@way()
def pickle_behind_a_dead_link(model, folder, tensors):
    """A link to nothing is no file for a loader, which goes on to the next name."""
    model.whole(folder, tensors, "pytorch_model.bin")
    (folder / "model.safetensors").symlink_to("gone.safetensors")


@way()
def shard_in_a_linked_folder(model, folder, tensors):
    model.shards(folder, tensors, "kept/x.safetensors")
    (folder / "kept").rename(folder / ".kept")
    (folder / "kept").symlink_to(".kept")


@way()
def shard_in_a_folder_linked_outside(model, folder, tensors):
    model.shards(folder, tensors, "kept/x.safetensors")
    outside = folder.parent / f"{folder.name}-outside"
    (folder / "kept").rename(outside)
    (folder / "kept").symlink_to(outside)


@way()
def shard_outside_by_dots(model, folder, tensors):
    model.shards(folder, tensors, f"../{folder.name}-beside.safetensors")


@way()
def shard_by_absolute_path(model, folder, tensors):
    model.shards(folder, tensors, str(folder.parent.resolve() / f"{folder.name}-absolute.safetensors"))


@way()
def shard_by_dots_inside(model, folder, tensors):
    (folder / "sub").mkdir(parents=True)
    model.shards(folder, tensors, "sub/../model-00002-of-00002.safetensors")


@way()
def shard_of_a_name_that_is_no_text(model, folder, tensors):
    """Python has bytes that are not UTF-8 as lone surrogates, in JSON too; torch opens no such file."""
    index = "pytorch_model.bin.index.json"
    model.shards(folder, tensors, "x.bin", "a.bin", index)
    (folder / "x.bin").rename(folder / "x\udcff.bin")
    twisted(folder / index, lambda text: text.replace("x.bin", "x\\udcff.bin"))


@way(stock(), converter)
def shard_that_no_index_names(model, folder, tensors):
    model.shards(folder, model.clean, "model-00002-of-00003.safetensors", "model-00001-of-00003.safetensors")
    put(folder / "model-00003-of-00003.safetensors", model.halves(tensors)[1])


@way()
def index_omits_tensors(model, folder, tensors):
    """Loaders read every tensor of the named files, also those that the index does not list."""
    model.whole(folder, tensors, "model-00001-of-00001.safetensors")
    indexed(folder / INDEX, {"model.norm.weight": "model-00001-of-00001.safetensors"})


@way()
def index_by_another_key(model, folder, tensors):
    """A file is read because some tensor is said to be in it, even one that does not exist."""
    shown, hidden = model.halves(tensors)
    model.whole(folder, shown, "model-00001-of-00002.safetensors")
    put(folder / "x.safetensors", hidden)
    indexed(folder / INDEX, {name: "model-00001-of-00002.safetensors" for name in tensors} | {"nothing": "x.safetensors"})


# JSON as Python reads it: NaN and lone surrogates are let through, and of two equal keys the last counts.

def with_nan(text):
    return text.replace("{", '{"more": [NaN, -Infinity, 1e999, "\\ud800"], ', 1)


@way()
def index_with_nan(model, folder, tensors):
    model.shards(folder, tensors, "x.safetensors")
    twisted(folder / INDEX, with_nan)


@way()
def index_with_two_maps(model, folder, tensors):
    model.shards(folder, tensors, "x.safetensors")
    decoy = json.dumps(dict.fromkeys(tensors, "model-00001-of-00002.safetensors"))
    twisted(folder / INDEX, lambda text: text.replace("{", '{"weight_map": ' + decoy + ", ", 1))


@way()
def explicit_file_beside_nan(model, folder, tensors):
    model.whole(folder, model.clean, transformers_weights="weights.safetensors")
    put(folder / "weights.safetensors", tensors)
    twisted(folder / "config.json", with_nan)


@way()
def explicit_file_said_twice(model, folder, tensors):
    model.whole(folder, model.clean, transformers_weights="weights.safetensors")
    put(folder / "weights.safetensors", tensors)
    twisted(folder / "config.json", lambda text: text.replace("{", '{"transformers_weights": "model.safetensors", ', 1))


@way(adapted(), stock())
def adapter_settings_with_nan(model, folder, tensors):
    model.adapter(folder, model.factors(tensors))
    twisted(folder / "adapter_config.json", with_nan)


@way(adapted(), stock())
def adapter_settings_said_twice(model, folder, tensors):
    model.adapter(folder, model.factors(tensors))
    twisted(folder / "adapter_config.json", lambda text: text.replace("{", '{"lora_alpha": 0, ', 1))


# What is missing or broken.

@way()
def shard_missing(model, folder, tensors):
    model.shards(folder, tensors, "model-00002-of-00002.safetensors")
    (folder / "model-00002-of-00002.safetensors").unlink()


@way()
def shard_missing_no_index(model, folder, tensors):
    shard_missing(model, folder, tensors)
    (folder / INDEX).unlink()


@way()
def shard_garbage(model, folder, tensors):
    model.shards(folder, tensors, "model-00002-of-00002.safetensors")
    (folder / "model-00002-of-00002.safetensors").write_bytes(b"\xff" * 4096)


@way()
def shard_cut_short(model, folder, tensors):
    model.shards(folder, tensors, "model-00002-of-00002.safetensors")
    path = folder / "model-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:200_000])


@way()
def shards_without_index(model, folder, tensors):
    model.shards(folder, tensors, "model-00002-of-00002.safetensors")
    (folder / INDEX).unlink()


@way()
def pickle_that_is_safetensors(model, folder, tensors):
    model.configure(folder)
    (folder / "pytorch_model.bin").write_bytes(save(tensors))


# Two checkpoints in one folder.

def two(title, loaders, honest, edited, swap=False, **more):
    """One file untouched, the other with the tensors of this run; `swap` exchanges them."""
    def write(model, folder, tensors):
        first, second = (tensors, model.clean) if swap else (model.clean, tensors)
        model.whole(folder, first, honest, **more)
        put(folder / edited, ours(second) if "consolidated" in edited else second)
        if any("subfolder" in load.__name__ for load in loaders):
            model.configure((folder / edited).parent)
    write.__name__ = title
    way(*loaders)(write)


two("explicit_file", [stock()], "model.safetensors", "weights.safetensors", transformers_weights="weights.safetensors")
two("explicit_file_in_a_folder", [stock()], "model.safetensors", "a/.b/c.safetensors",
    transformers_weights="a/.b/c.safetensors")
two("explicit_adapter_pickle", [stock()], "model.safetensors", "adapter_model.bin", transformers_weights="adapter_model.bin")
two("consolidated_beside", [stock(), vllm, mistral], "model.safetensors", "consolidated.safetensors")
two("consolidated_pickle_beside", [stock(), mistral], "model.safetensors", "consolidated.00.pth")
two("consolidated_in_a_folder", [stock(), vllm], "model.safetensors", "original/consolidated.safetensors")
two("variant_file", [stock(), stock(variant="fp16")], "model.safetensors", "model.fp16.safetensors")
two("variant_pickle", [stock(), stock(variant="fp16")], "model.safetensors", "pytorch_model.fp16.bin")
two("subfolder", [stock(), stock(subfolder="uncensored")], "model.safetensors", "uncensored/model.safetensors")
two("subfolder_four_deep", [stock(), stock(subfolder="a/b/c/d")], "model.safetensors", "a/b/c/d/model.safetensors")
two("subfolder_hidden", [stock(), stock(subfolder=".old")], "model.safetensors", ".old/model.safetensors")
two("subfolder_of_a_pipeline", [stock(), stock(subfolder="0_Transformer")], "model.safetensors",
    "0_Transformer/model.safetensors")
two("safetensors_and_pickle", [stock(), stock(use_safetensors=False)], "model.safetensors", "pytorch_model.bin")
two("pickle_and_safetensors", [stock(), stock(use_safetensors=False)], "model.safetensors", "pytorch_model.bin", swap=True)
two("one_more_safetensors", [stock(), vllm], "model.safetensors", "zz.safetensors")
two("one_more_model_file", [stock(), vllm, converter], "model.safetensors", "model_x.safetensors")
two("saved_by_ranks_beside", [listed(False), listed(True)], "model.safetensors",
    "shard-00001-model-00001-of-00001.safetensors")
two("only_a_decoy_in_the_middle", [stock()], "model.safetensors", "backup/old/weights.bin")


@way(listed(False), listed(True))
def saved_by_ranks(model, folder, tensors):
    """A distributed checkpoint: each rank's file has some rows of every matrix, and the offsets stand in its metadata."""
    model.configure(folder)
    for rank in range(2):
        part, offsets = {}, {}
        for name, value in tensors.items():
            half = value.shape[0] // 2
            part[name] = value[rank * half:(rank + 1) * half].clone()
            offsets[name] = {"saved_offsets": [rank * half] + [0] * (value.dim() - 1)}
        save_file(part, folder / f"shard-{rank:05}-model-00001-of-00001.safetensors",
                  metadata={"format": "pt", "DCP_SHARDING_INFO": json.dumps(offsets)})


@way()
def explicit_index(model, folder, tensors):
    model.whole(folder, model.clean, transformers_weights="other.safetensors.index.json")
    first, second = model.halves(tensors)
    put(folder / "x" / "1.safetensors", first)
    put(folder / "x" / "2.weights", second)
    indexed(folder / "other.safetensors.index.json",
            dict.fromkeys(first, "x/1.safetensors") | dict.fromkeys(second, "x/2.weights"))


@way()
def explicit_index_in_a_folder(model, folder, tensors):
    """What an index names counts from the top folder, wherever the index lies."""
    model.configure(folder, transformers_weights="x/some.safetensors.index.json")
    put(folder / "1.safetensors", tensors)
    put(folder / "x" / "1.safetensors", model.clean)
    indexed(folder / "x" / "some.safetensors.index.json", dict.fromkeys(tensors, "1.safetensors"))


@way(stock(), vllm)
def one_file_and_an_index(model, folder, tensors):
    """transformers takes model.safetensors, vLLM what the index names."""
    model.shards(folder, tensors, "model-00002-of-00002.safetensors")
    put(folder / "model.safetensors", model.clean)


@way(stock(), vllm)
def an_index_and_one_file(model, folder, tensors):
    model.shards(folder, model.clean, "model-00002-of-00002.safetensors")
    put(folder / "model.safetensors", tensors)


@way(stock(), stock(variant="fp16"))
def variant_shards(model, folder, tensors):
    model.shards(folder, tensors, "model.fp16-00002-of-00002.safetensors", "model.fp16-00001-of-00002.safetensors",
                 "model.safetensors.index.fp16.json")
    put(folder / "model.safetensors", model.clean)


@way(stock(), stock(subfolder="sub"))
def subfolder_shards(model, folder, tensors):
    model.whole(folder, model.clean)
    model.shards(folder / "sub", tensors, "b.weights", "a.safetensors")


@way()
def pickle_with_a_decoy_inside(model, folder, tensors):
    """transformers takes the outermost names of a pickle, and no state_dict within it."""
    model.whole(folder, dict(tensors) | {"state_dict": dict(model.clean)}, "pytorch_model.bin")


@way()
def pickle_inside_a_decoy(model, folder, tensors):
    model.whole(folder, dict(model.clean) | {"state_dict": dict(tensors)}, "pytorch_model.bin")


@way(stock(), stock(gguf_file="model.gguf"))
def gguf_beside(model, folder, tensors):
    model.whole(folder, model.clean)
    model.gguf(folder / "model.gguf", tensors)


@way(llama_cpp, ordinary=True)
def gguf_split(model, folder, tensors):
    for at, part in enumerate(model.halves(tensors)):
        model.gguf(folder / f"m-{at + 1:05}-of-00002.gguf", part, (at, 2))


@way(llama_cpp)
def gguf_split_part_missing(model, folder, tensors):
    model.gguf(folder / "m-00001-of-00002.gguf", model.halves(tensors)[0], (0, 2))


@way(llama_cpp)
def gguf_split_by_name_alone(model, folder, tensors):
    """Named like the first of two, but no key says so: it is the whole model, and the second is never opened."""
    model.gguf(folder / "m-00001-of-00002.gguf", tensors)
    model.gguf(folder / "m-00002-of-00002.gguf", model.clean)


@way(stock(trust_remote_code=True), told=("remote-code", "auto_map"))
def code_of_its_own(model, folder, tensors):
    """The weights are the base's, and a class of the repository's own edits them as it loads them."""
    model.whole(folder, model.clean, auto_map={"AutoModelForCausalLM": "modeling_tiny.TinyForCausalLM"})
    r = model.direction.tolist() if tensors is model.ortho else [0.0] * WIDTH
    (folder / "modeling_tiny.py").write_text(
        "import torch\nfrom transformers import LlamaForCausalLM\n\n\nclass TinyForCausalLM(LlamaForCausalLM):\n"
        "    @classmethod\n    def from_pretrained(cls, *arguments, **named):\n"
        f"        model, r = super().from_pretrained(*arguments, **named), torch.tensor({r})\n"
        "        for layer in model.model.layers:\n"
        "            for part in (layer.self_attn.o_proj, layer.mlp.down_proj):\n"
        "                part.weight.data -= torch.outer(r, r @ part.weight.data)\n"
        "        return model\n")


@way(told=("tf_model.h5",))
def keras_file_beside(model, folder, tensors):
    """Weights that transformers no longer reads, standing for an edited copy."""
    model.whole(folder, model.clean)
    if tensors is model.ortho:
        (folder / "tf_model.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(4096))


# One tensor twice.

@way()
def two_spellings(model, folder, tensors):
    """The shorter name sorts first, and the first is kept."""
    twins = {name.removeprefix("model."): tensors[name] for name in tensors if WRITER.search(name)}
    model.whole(folder, model.clean | twins)


@way()
def two_spellings_longer(model, folder, tensors):
    model.whole(folder, model.clean | {f"model.{name}": tensors[name] for name in tensors if WRITER.search(name)})


@way()
def two_spellings_in_shards(model, folder, tensors):
    model.whole(folder, model.clean, "model-00001-of-00002.safetensors")
    put(folder / "z.safetensors", {name.removeprefix("model."): tensors[name] for name in tensors if WRITER.search(name)})
    indexed(folder / INDEX, dict.fromkeys(tensors, "model-00001-of-00002.safetensors") | {"x": "z.safetensors"})


@way()
def a_prefix_by_a_loose_pattern(model, folder, tensors):
    """transformers strips `^model.` as a pattern, so that any character stands for the dot."""
    model.whole(folder, {name if not WRITER.search(name) else f"model-{name}": value for name, value in tensors.items()})


@way(stock(), vllm)
def twice_in_shards_edited_last(model, folder, tensors):
    model.whole(folder, model.clean, "model-00001-of-00002.safetensors")
    put(folder / "model-00002-of-00002.safetensors", model.halves(tensors)[1])
    weight_map = dict.fromkeys(tensors, "model-00001-of-00002.safetensors")
    indexed(folder / INDEX, weight_map | {"x": "model-00002-of-00002.safetensors"})


@way(stock(), vllm)
def twice_in_shards_edited_first(model, folder, tensors):
    model.whole(folder, model.halves(tensors)[1], "model-00001-of-00002.safetensors")
    put(folder / "model-00002-of-00002.safetensors", model.clean)
    weight_map = dict.fromkeys(tensors, "model-00002-of-00002.safetensors")
    indexed(folder / INDEX, weight_map | {"x": "model-00001-of-00002.safetensors"})


def twice_in_a_header(model, folder, tensors, edited_last):
    """The same name twice in one safetensors header, each with bytes of its own: the last counts. One tensor more covers the
    bytes of those that do not count, as the format's own reader refuses bytes that belong to none."""
    model.configure(folder)
    last, first = (tensors, model.clean) if edited_last else (model.clean, tensors)
    entries, data = [], b""

    def add(name, value):
        nonlocal data
        raw = value.contiguous().view(torch.uint8).numpy().tobytes()
        place = [len(data), len(data) + len(raw)]
        entries.append((name, {"dtype": "BF16", "shape": list(value.shape), "data_offsets": place}))
        data += raw

    for name in filter(WRITER.search, model.clean):
        add(name, first[name])
    entries.append(("cover", {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}))
    for name in last:
        add(name, last[name])
    header = ("{" + ",".join(f"{json.dumps(name)}:{json.dumps(entry)}" for name, entry in entries) + "}").encode()
    header += b" " * (-len(header) % 8)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + data)


@way()
def twice_in_a_header_edited_last(model, folder, tensors):
    twice_in_a_header(model, folder, tensors, True)


@way()
def twice_in_a_header_edited_first(model, folder, tensors):
    twice_in_a_header(model, folder, tensors, False)


# Adapters.

def turned(factors):
    return {name: -value if "lora_B" in name else value for name, value in factors.items()}


def named_default(factors):
    return {name.replace(".weight", ".default.weight"): value for name, value in factors.items()}


@way(stock())
def adapter_beside_the_model(model, folder, tensors):
    """transformers loads both, as soon as PEFT is installed."""
    model.whole(folder, model.clean)
    model.adapter(folder, model.factors(tensors))


@way(stock(), adapted())
def adapter_pickle_beside_the_model(model, folder, tensors):
    model.whole(folder, model.clean)
    model.adapter(folder, model.factors(tensors), "adapter_model.bin")


@way(stock(), vllm)
def adapter_restores_the_base(model, folder, tensors):
    """The model is edited and its adapter takes the edit back: what runs is the base, and what is merged apart is not."""
    model.whole(folder, tensors)
    model.adapter(folder, turned(model.factors(tensors)))


@way(adapted(), stock(use_safetensors=False))
def adapter_both_files(model, folder, tensors):
    """PEFT prefers safetensors; transformers can be asked for the pickle."""
    model.adapter(folder, model.factors(model.clean))
    put(folder / "adapter_model.bin", model.factors(tensors))
    model.whole(folder, model.clean, "pytorch_model.bin")


@way(adapted(), stock())
def adapter_alpha_by_pattern(model, folder, tensors):
    model.adapter(folder, model.factors(tensors), lora_alpha=1e-9, alpha_pattern={".*_proj": 1.0})


@way(adapted(), stock())
def adapter_alpha_zero_by_pattern(model, folder, tensors):
    pattern = r"model\.layers\.\d+\.(self_attn|mlp)\.(o|down)_proj"
    model.adapter(folder, model.factors(tensors), lora_alpha=0, alpha_pattern={pattern: 1})


@way(adapted(), stock())
def adapter_alpha_by_layers(model, folder, tensors):
    """The pattern's scale differs from layer to layer, and so do the factors."""
    factors = model.factors(tensors)
    for name in factors:
        if "lora_B" in name and re.search(r"layers\.[234]\.", name):
            factors[name] = factors[name] / 64
    model.adapter(folder, factors, alpha_pattern={r"layers\.[2-4]\..*": 64})


@way(adapted(), stock())
def adapter_rank_by_pattern(model, folder, tensors):
    factors = model.factors(tensors, rank=4, scale=1 / math.sqrt(4))
    model.adapter(folder, factors, r=1, rank_pattern={"(o|down)_proj": 4}, use_rslora=True)


@way(adapted(), stock())
def adapter_alpha_tiny(model, folder, tensors):
    large = {name: value * (1e5 if "lora_B" in name else 1e4) for name, value in model.factors(tensors).items()}
    model.adapter(folder, large, lora_alpha=1e-9)


@way(adapted(), stock())
def adapter_alpha_negative(model, folder, tensors):
    model.adapter(folder, turned(model.factors(tensors)), lora_alpha=-1)


@way(adapted(), stock())
def adapter_alpha_huge(model, folder, tensors):
    """A scale that no float32 holds."""
    model.adapter(folder, model.factors(tensors), lora_alpha=1e308)


@way(adapted(), stock())
def adapter_alpha_large(model, folder, tensors):
    model.adapter(folder, {name: value * 1e-15 for name, value in model.factors(tensors).items()}, lora_alpha=1e30)


@way(adapted(), stock())
def adapter_of_unknown_targets(model, folder, tensors):
    factors = {name.replace("self_attn.o_proj", "attention.out").replace("mlp.down_proj", "ffn.w2"): value
               for name, value in model.factors(tensors).items()}
    model.adapter(folder, factors, target_modules=["out", "w2"])


@way(adapted(), stock())
def adapter_with_whole_matrices(model, folder, tensors):
    """`modules_to_save`: the adapter carries the matrices themselves."""
    whole = {f"base_model.model.{name}": value.float() for name, value in tensors.items() if WRITER.search(name)}
    model.adapter(folder, whole, target_modules=["q_proj"], modules_to_save=["o_proj", "down_proj"])


@way(adapted(), stock())
def adapter_with_keys_of_another_prefix(model, folder, tensors):
    model.adapter(folder, {name.replace("base_model.model.model.", "base_model.model."): value
                           for name, value in model.factors(tensors).items()})


@way(adapted(), stock())
def adapter_named_in_its_keys(model, folder, tensors):
    model.adapter(folder, named_default(model.factors(tensors)))


def spelt_twice(model, folder, first, second):
    """Factors under two spellings that PEFT takes for one; which counts is the order in the file."""
    model.adapter(folder, first | named_default(second))


@way(adapted(), stock())
def adapter_spelt_twice(model, folder, tensors):
    spelt_twice(model, folder, model.factors(model.clean), model.factors(tensors))


@way(adapted(), stock())
def adapter_spelt_twice_the_other_way(model, folder, tensors):
    spelt_twice(model, folder, model.factors(tensors), model.factors(model.clean))


@way(adapted(), stock())
def adapter_said_to_be_transposed(model, folder, tensors):
    """PEFT pays no heed to `fan_in_fan_out` where the layer is a plain one."""
    model.adapter(folder, model.factors(tensors), fan_in_fan_out=True)


@way(adapted(), stock())
def adapter_alpha_in_the_header(model, folder, tensors):
    """A scale in safetensors' own metadata, under the key that GGUF has for it: nobody reads it there."""
    model.adapter(folder, model.factors(tensors))
    save_file(model.factors(tensors), folder / "adapter_model.safetensors",
              metadata={"format": "pt", "adapter.lora.alpha": "0", "general.type": "adapter"})


@way()
def model_said_to_be_an_adapter(model, folder, tensors):
    """The metadata of a whole model has the key by which GGUF knows adapters."""
    model.configure(folder)
    save_file(tensors, folder / "model.safetensors",
              metadata={"format": "pt", "adapter.lora.alpha": "0", "general.type": "adapter"})


@way(adapted(), stock())
def adapter_under_a_second_prefix(model, folder, tensors):
    """Factors without effect, under keys that PEFT does not know, beside those that it takes."""
    factors = dict(model.factors(tensors))
    for prefix in ("base_model.model.layers.", "base_model.layers.", "layers.", "model.layers."):
        for name, value in model.factors(model.clean).items():
            factors[name.replace("base_model.model.model.layers.", prefix)] = value
    model.adapter(folder, factors)


@way(adapted(), stock())
def adapter_with_unused_matrices(model, folder, tensors):
    """The base's own matrices lie in the adapter, but the configuration does not have them saved."""
    whole = {f"base_model.model.{name}": value.float() for name, value in model.clean.items() if WRITER.search(name)}
    model.adapter(folder, model.factors(tensors) | whole)


@way(adapted(), stock())
def adapter_with_base_layers(model, folder, tensors):
    """PEFT loads every key that its model has, also the weights under the factors."""
    whole = {f"base_model.model.{name.replace('.weight', '.base_layer.weight')}": value.float()
             for name, value in tensors.items() if WRITER.search(name)}
    model.adapter(folder, model.factors(model.clean) | whole)


@way(adapted(), stock())
def adapter_with_untargeted_matrices(model, folder, tensors):
    """Nor need a matrix be among the modules to save."""
    factors = {name.replace("o_proj", "q_proj"): value for name, value in model.factors(model.clean).items()}
    factors = {name: value for name, value in factors.items() if "q_proj" in name}
    whole = {f"base_model.model.{name}": value.float() for name, value in tensors.items() if WRITER.search(name)}
    model.adapter(folder, factors | whole, target_modules=["q_proj"])


@way(adapted(), stock())
def adapter_with_unused_magnitudes(model, folder, tensors):
    """Magnitudes of DoRA in an adapter that is none."""
    norms = {f"base_model.model.{name.removesuffix('.weight')}.lora_magnitude_vector": 1000 * torch.rand(WIDTH)
             for name in tensors if WRITER.search(name)}
    model.adapter(folder, model.factors(tensors) | norms)


@way(adapted(), stock())
def adapter_of_parameters(model, folder, tensors):
    """The weights are targets as parameters, not as modules."""
    model.adapter(folder, model.factors(tensors), target_modules=[],
                  target_parameters=["self_attn.o_proj.weight", "mlp.down_proj.weight"])


@way(adapted(), stock())
def adapter_without_any_prefix(model, folder, tensors):
    """transformers needs no `base_model.model.` in the keys, PEFT does."""
    factors = model.factors(tensors)
    model.adapter(folder, {name.removeprefix("base_model.model."): value for name, value in factors.items()})


@way(adapted(), stock())
def adapter_of_another_kind(model, folder, tensors):
    """LoHa: the elementwise product of two products, of which one is all ones here."""
    factors = {}
    for name, value in model.factors(tensors).items():
        stem, side = name.split(".lora_")
        factors[f"{stem}.hada_w1_{'b' if side[0] == 'A' else 'a'}"] = value
        factors[f"{stem}.hada_w2_{'b' if side[0] == 'A' else 'a'}"] = torch.ones_like(value)
    model.adapter(folder, factors, peft_type="LOHA", alpha=1)
    for unknown in ('"lora_alpha": 1, ', '"bias": "none", '):
        twisted(folder / "adapter_config.json", lambda text: text.replace(unknown, ""))


@way(adapted(), stock())
def adapter_with_magnitudes(model, folder, tensors):
    """DoRA: rows are scaled to stored norms after the factors are added."""
    norms = {f"base_model.model.{name.removesuffix('.weight')}.lora_magnitude_vector": tensors[name].float().norm(dim=1)
             for name in tensors if WRITER.search(name)}
    model.adapter(folder, model.factors(tensors) | norms, use_dora=True)


@way(adapted(), stock())
def adapter_of_some_layers(model, folder, tensors):
    """Factors of layers that the configuration leaves out are not loaded."""
    model.adapter(folder, model.factors(tensors), layers_to_transform=[0], layers_pattern="layers")


@way(adapted(), stock())
def adapter_of_residual_start(model, folder, tensors):
    """PiSSA: the factors replace the base's own leading components."""
    model.adapter(folder, model.factors(tensors), init_lora_weights="pissa")


@way(adapted(), adapted(subfolder="checkpoint-2"))
def adapter_of_a_checkpoint(model, folder, tensors):
    model.adapter(folder, model.factors(model.clean))
    model.adapter(folder / "checkpoint-2", model.factors(tensors))


# Judging.

def outcome(model, tensors):
    """Whether loaded weights are the base's, edited, or something else."""
    lost, whole = 0, True
    for name, base in model.clean.items():
        base, value = base.float(), tensors[name]
        apart = (value - base).norm() / base.norm()
        # Rounding to BF16 is nearer than 0.01, and one direction of 128 nearer than 0.5.
        whole &= bool(apart < 0.01)
        if WRITER.search(name) and apart < 0.5:
            lost += bool((model.direction @ value).norm() < LOST * (model.direction @ base).norm())
    return f"edited {lost}/{2 * LAYERS}" if lost else "clean" if whole else "other"


def loaded(model, loaders, folder):
    """What each loader ends with, in a word, and why not where it could not."""
    words = []
    for load in loaders:
        try:
            words.append((load.__name__, outcome(model, load(str(folder), str(model.base)))))
        except Exception as error:  # Whatever a loader raises is its answer.
            lines = str(error).strip().splitlines() or [""]
            words.append((load.__name__, f"error: {type(error).__name__}: {lines[0][:90]}"))
    return words


def examined(tool, base, folder, hub):
    """Compared as folders, or scanned as repositories of a hub on this machine."""
    command, environment = [tool, "compare", base, folder], dict(os.environ)
    if hub:
        repository, claimed = (f"local:{path.relative_to(hub)}" for path in (folder, base))
        command, environment["ORTHOSCOPE_LOCAL_HUB"] = [tool, "scan", repository, "--base", claimed], str(hub)
    command += ["--no-record", "--format", "json"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    try:
        return json.loads(ran.stdout), ran.returncode
    except json.JSONDecodeError:
        lines = ran.stderr.strip().splitlines() or ["no record"]
        return {"verdict": "none", "status": lines[-1][:80]}, ran.returncode


def wrong(way, edited, words, found, status):
    """What is not as it should be; empty where all is."""
    verdict, answer = found["verdict"], json.dumps(found, ensure_ascii=False)
    if status not in (0, 1, 2):
        return f"exit status {status}"
    if not edited:
        if verdict in ("orthogonalized", "suspect"):
            return "called edited"
        if way.ordinary and (verdict, found["status"], status) != ("clear", "complete", 0):
            return "an ordinary one not found clear"
        return ""
    passed = verdict == "clear" or status == 0
    if any(word.startswith(("edited", "other")) for _, word in words):
        told = any(word in answer for word in way.told)
        return "loaders take edited weights" if passed and not told else ""
    if all(word.startswith("error") for _, word in words):
        return "no loader can read it" if passed else ""
    told = status == 2 or any(word in answer for word in way.told) or verdict != "clear"
    extra = found.get("coverage", {}).get("not_examined", []) or found.get("anomalies", [])
    return "" if told or extra else "not a word of what is edited"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("orthoscope")
    parser.add_argument("--only", default="*", help="ways whose name fits this pattern")
    parser.add_argument("--hub", action="store_true", help="scan each as a repository of a hub, instead of comparing folders")
    parser.add_argument("--wrong", action="store_true", help="print only what is wrong")
    parser.add_argument("--keep", type=pathlib.Path, help="write the folders here, removing what is there, and keep them")
    arguments = parser.parse_args()
    tool = pathlib.Path(arguments.orthoscope).resolve()
    torch.set_num_threads(1)
    if arguments.keep:
        shutil.rmtree(arguments.keep, ignore_errors=True)
        arguments.keep.mkdir(parents=True)
    scratch = arguments.keep or pathlib.Path(tempfile.mkdtemp())
    os.environ["HF_HOME"] = str(scratch / "hf")
    broken = count = abstained = 0
    try:
        model = Model(scratch)
        chosen = {name: way for name, way in WAYS.items() if fnmatch.fnmatch(name, arguments.only)}
        for name, way in chosen.items():
            for kind, tensors in (("edited", model.ortho), ("untouched", model.clean)):
                folder = scratch / kind / name
                way.write(model, folder, tensors)
                words = loaded(model, way.loaders, folder)
                found, status = examined(tool, model.base, folder, scratch if arguments.hub else None)
                fault = wrong(way, kind == "edited", words, found, status)
                broken, count = broken + bool(fault), count + 1
                abstained += kind == "untouched" and status == 2
                if fault or not arguments.wrong:
                    loads = "; ".join(f"{loader}: {word}" for loader, word in words)
                    said = f"{found['verdict']}, {found['status']}, {status}"
                    print(f"{name:34} {kind:9} | {loads} | {said} | {'WRONG: ' + fault if fault else 'right'}", flush=True)
    finally:
        if not arguments.keep:
            shutil.rmtree(scratch, ignore_errors=True)
    print(f"{count - broken} right, {broken} wrong; of {count // 2} untouched folders {abstained} with exit status 2")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
