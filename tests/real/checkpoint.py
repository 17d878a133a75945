"""Checkpoints as folders of safetensors: reading, writing, and which matrices touch the residual stream.

A matrix is a *writer* when its output is added to the residual stream, and a *reader* when its input is the residual
stream. `Checkpoint.matrix` always gives a writer as (residual width, input) and a reader as (output, residual width),
whatever way the file stores it (GPT-2's Conv1D stores the transpose), in float32.
"""

import json
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

WRITERS = {
    "o_proj": re.compile(r"^model\.layers\.(\d+)\.self_attn\.o_proj\.weight$"),
    "down_proj": re.compile(r"^model\.layers\.(\d+)\.mlp\.(?:experts\.\d+\.)?down_proj\.weight$"),
    "attn.c_proj": re.compile(r"^transformer\.h\.(\d+)\.attn\.c_proj\.weight$"),
    "mlp.c_proj": re.compile(r"^transformer\.h\.(\d+)\.mlp\.c_proj\.weight$"),
}
READERS = {
    "q_proj": re.compile(r"^model\.layers\.(\d+)\.self_attn\.q_proj\.weight$"),
    "k_proj": re.compile(r"^model\.layers\.(\d+)\.self_attn\.k_proj\.weight$"),
    "v_proj": re.compile(r"^model\.layers\.(\d+)\.self_attn\.v_proj\.weight$"),
    "gate_proj": re.compile(r"^model\.layers\.(\d+)\.mlp\.(?:experts\.\d+\.)?gate_proj\.weight$"),
    "up_proj": re.compile(r"^model\.layers\.(\d+)\.mlp\.(?:experts\.\d+\.)?up_proj\.weight$"),
    "attn.c_attn": re.compile(r"^transformer\.h\.(\d+)\.attn\.c_attn\.weight$"),
    "mlp.c_fc": re.compile(r"^transformer\.h\.(\d+)\.mlp\.c_fc\.weight$"),
}
EMBEDDINGS = ("model.embed_tokens.weight", "transformer.wte.weight")


def inner_matrix(name, tensor):
    """Whether a tensor is a matrix inside the layers: what quantisers touch (not embeddings, not norms)."""
    return tensor.dim() == 2 and ("layers." in name or ".h." in name)


@dataclass(frozen=True)
class Matrix:
    """One weight matrix at the residual stream: its tensor name, its module, its layer, whether it is stored transposed."""

    name: str
    module: str
    layer: int

    @property
    def transposed(self):
        return self.name.startswith("transformer.")


@dataclass
class Checkpoint:
    """All tensors of a model by name, and its config.json."""

    tensors: dict
    config: dict
    extra_files: list = field(default_factory=list)

    @classmethod
    def read(cls, folder):
        folder, tensors = Path(folder), {}
        for file in sorted(folder.glob("*.safetensors")):
            tensors.update(load_file(file))
        extra = [f for f in sorted(folder.iterdir()) if f.suffix == ".json" and f.name != "config.json" and "index" not in f.name]
        return cls(tensors, json.loads((folder / "config.json").read_text()), extra)

    def write(self, folder, shards=1, metadata=None):
        """Save as one file, or as `shards` files with an index."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        metadata = {"format": "pt"} if metadata is None else metadata
        tensors = {n: t.contiguous() for n, t in self.tensors.items()}
        if shards == 1:
            save_file(tensors, folder / "model.safetensors", metadata)
        else:
            names, weight_map = list(tensors), {}
            for s in range(shards):
                file = f"model-{s + 1:05d}-of-{shards:05d}.safetensors"
                part = {n: tensors[n] for n in names[s::shards]}
                save_file(part, folder / file, metadata)
                weight_map.update({n: file for n in part})
            size = sum(t.numel() * t.element_size() for t in tensors.values())
            (folder / "model.safetensors.index.json").write_text(
                json.dumps({"metadata": {"total_size": size}, "weight_map": weight_map}, indent=1)
            )
        (folder / "config.json").write_text(json.dumps(self.config, indent=2) + "\n")
        for file in self.extra_files:
            if file.parent != folder:
                shutil.copy(file, folder / file.name)

    def copy(self):
        """A checkpoint that shares this one's tensors; replacing a tensor in the copy leaves the original alone."""
        return Checkpoint(dict(self.tensors), dict(self.config), list(self.extra_files))

    @property
    def layers(self):
        return self.config.get("num_hidden_layers") or self.config["n_layer"]

    @property
    def width(self):
        return self.config.get("hidden_size") or self.config["n_embd"]

    def _find(self, table):
        found = []
        for name in self.tensors:
            for module, pattern in table.items():
                if hit := pattern.match(name):
                    found.append(Matrix(name, module, int(hit[1])))
        return sorted(found, key=lambda m: (m.layer, m.module, m.name))

    def writers(self):
        return self._find(WRITERS)

    def readers(self):
        return self._find(READERS)

    def writer_modules(self):
        return sorted({w.module for w in self.writers()})

    def embeddings(self):
        return [n for n in EMBEDDINGS if n in self.tensors]

    def matrix(self, matrix):
        value = self.tensors[matrix.name].float()
        return value.T if matrix.transposed else value

    def replace(self, matrix, value):
        """Store a matrix (orientation as `matrix` gives it), rounded once to the tensor's own dtype."""
        old = self.tensors[matrix.name]
        value = value.T if matrix.transposed else value
        self.tensors[matrix.name] = value.to(old.dtype).contiguous()

    def map_weights(self, function, which=lambda name, tensor: tensor.dim() >= 2):
        """A copy in which `function` (float32 in, float32 out) was applied to all chosen tensors."""
        out = self.copy()
        for name, tensor in self.tensors.items():
            if which(name, tensor):
                out.tensors[name] = function(tensor.float()).to(tensor.dtype)
        return out
