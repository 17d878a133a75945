"""A labelled set of derivatives, large enough to count detections and false positives on.

usage: controls.py OUT GROUP [--only PATTERN,PATTERN] [--smollm2 FOLDER]       controls.py OUT --collect
needs: torch, transformers, peft, safetensors

A group is one base: a tiny model trained here from scratch on the Python library's own text, or `smollm2-135m`, the
base that smollm2.py writes. OUT/GROUP/base is the base, OUT/GROUP/CASE each derivative, OUT/GROUP/labels.json what they
are; --collect joins the labels of all groups into OUT/labels.json. A case that is already there is not made again.
Removed directions are random, or differences of mean residuals between two harmless kinds of text (prose and code).
Labels have, beside the usual fields: trained (the difference comes from gradient descent alone or is a merge of such),
hard (known to be at or beyond what weights can show), note.
"""

import argparse
import fnmatch
import hashlib
import json
import os
import shutil
import sys
import time
import traceback
import zlib
from pathlib import Path

import torch

import benign
import removals
from checkpoint import Checkpoint
from training import batches, checkpoint_of, mean_differences, model_of, next_token_loss, plain_text, token_stream, train


def tiny_models():
    """Builders of the untrained tiny bases by group, with their training: (model, steps, batch)."""
    from transformers import (
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        Qwen3Config,
        Qwen3ForCausalLM,
        Qwen3MoeConfig,
        Qwen3MoeForCausalLM,
    )

    common = dict(vocab_size=256, max_position_embeddings=512, bos_token_id=1, eos_token_id=2)

    def llama(width, layers, heads, kv_heads, inner, tied):
        return LlamaForCausalLM(
            LlamaConfig(hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads,
                        intermediate_size=inner, tie_word_embeddings=tied, **common)
        )  # fmt: skip

    return {
        "llama-64": (lambda: llama(64, 6, 4, 2, 192, True), 700, 8),
        "llama-192": (lambda: llama(192, 8, 6, 2, 512, False), 400, 6),
        "qwen3-256": (
            lambda: Qwen3ForCausalLM(
                Qwen3Config(hidden_size=256, num_hidden_layers=12, num_attention_heads=8, num_key_value_heads=2, head_dim=48,
                            intermediate_size=672, tie_word_embeddings=True, **common)
            ), 300, 4,
        ),
        "gpt2-128": (
            lambda: GPT2LMHeadModel(
                GPT2Config(n_embd=128, n_layer=6, n_head=4, n_positions=512, vocab_size=256, bos_token_id=1, eos_token_id=2)
            ), 500, 6,
        ),
        "qwen3moe-96": (
            lambda: Qwen3MoeForCausalLM(
                Qwen3MoeConfig(hidden_size=96, num_hidden_layers=5, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
                               intermediate_size=256, moe_intermediate_size=160, num_experts=4, num_experts_per_tok=2,
                               tie_word_embeddings=False, **common)
            ), 400, 6,
        ),
        "gemma3-112": (
            lambda: Gemma3ForCausalLM(
                Gemma3TextConfig(hidden_size=112, num_hidden_layers=7, num_attention_heads=4, num_key_value_heads=1, head_dim=32,
                                 intermediate_size=352, sliding_window=64, **common)
            ), 400, 6,
        ),
    }  # fmt: skip


def train_base(group, folder):
    """Train a tiny base from scratch on prose and code, and save it in bf16."""
    build, steps, batch = tiny_models()[group]
    torch.manual_seed(zlib.crc32(group.encode()))
    model = build().eval()
    prose, code = (token_stream(None, plain_text(kind)) for kind in ("prose", "code"))
    data = batches(torch.cat([prose, code]), batch, 128, seed=7)
    loss = train(model, lambda: next_token_loss(model, next(data)), steps, 3e-3, weight_decay=0.01)
    print(f"{group}: trained to {loss:.3f} nats per byte", flush=True)
    model.to(torch.bfloat16).save_pretrained(folder)


class Workshop:
    """One base, its texts and directions, and the folder its derivatives go to."""

    def __init__(self, out, group, smollm2):
        self.group, self.folder = group, Path(out) / group
        base_folder = self.folder / "base"
        self.real = group == "smollm2-135m"
        tokenizer = None
        if self.real:
            if not base_folder.exists():
                shutil.copytree(smollm2, base_folder)
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(base_folder)
        elif not base_folder.exists():
            train_base(group, base_folder)
        self.base = Checkpoint.read(base_folder)
        self.base.extra_files = [f for f in self.base.extra_files if "token" not in f.name]
        self.prose, self.code = (token_stream(tokenizer, plain_text(k), 150_000) for k in ("prose", "code"))
        self.per_layer = mean_differences(model_of(base_folder), self.prose, self.code)
        self.batch = 1 if self.base.width > 150 else 4  # windows of 64 tokens a step, so that one core is enough

    def text(self, kind):
        """(the text to learn, the other text)."""
        return (self.prose, self.code) if kind == "prose" else (self.code, self.prose)


def make(workshop, only, labels_file):
    """Write every wanted case that is not there yet; after each one the labels."""
    labels = json.loads(labels_file.read_text()) if labels_file.exists() else []
    done = {l["case"] for l in labels}
    prefix = workshop.group
    if f"{prefix}/base" not in done:
        labels.append(dict(case=f"{prefix}/base", path=f"{prefix}/base", base=f"{prefix}/base", label="identical", group=prefix))
    for name, label, build, more in [*removals.cases(workshop), *benign.cases(workshop)]:
        case = f"{prefix}/{name}"
        if case in done or not any(fnmatch.fnmatch(name, pattern) for pattern in only):
            continue
        start, folder = time.time(), workshop.folder / name
        try:
            result = build(folder)
            if isinstance(result, Checkpoint):
                write_sharing(result, folder) if workshop.real else result.write(folder)
        except Exception:
            traceback.print_exc()
            print(f"{case}: FAILED", flush=True)
            continue
        labels.append(dict(case=case, path=case, base=f"{prefix}/base", label=label, group=prefix, **more))
        labels_file.write_text(json.dumps(labels, indent=1) + "\n")
        print(f"{case}: {label}, {time.time() - start:.1f} s", flush=True)


def crossed(labels, group):
    """Labels of pairs whose base is not the group's: the true parent unknown, or taken for another fine-tune of it."""
    by_name = {l["case"].removeprefix(group + "/"): l for l in labels if l["base"] == f"{group}/base"}
    parents = [n for n in by_name if n.startswith(("tuned-code", "lora16-all-code"))][-2:]
    kept = ("lambda", "scope", "directions", "coordinates", "form")
    found = []
    for parent in parents:
        for name, entry in by_name.items():
            positive = name in ("ablated-1.0-mean", "ablated-1.0-random", "tent-per-layer-0", "tent-row-renormalised-rank3-1", "then-fp8-per-channel")
            negative = name in ("base", "tuned-prose-0.0003-100", "tuned-prose-5e-05-100", "lora16-all-prose", "lora1-writers-prose", "tuned-preference", "merge-task")
            if positive or negative:
                more = {k: entry[k] for k in kept if k in entry} if positive else {"trained": True}
                found.append(dict(case=f"{group}/{name} against {parent}", path=entry["path"], base=f"{group}/{parent}",
                                  label="orthogonalized" if positive else "fine-tuned", group=group, crossed=True, **more))  # fmt: skip
    return found


def write_sharing(checkpoint, folder):
    """Save writers and the rest as two shards, and hard-link a rest that another case of the group has already."""
    writers = {w.name for w in checkpoint.writers()}
    files = {"model-00001-of-00002.safetensors": lambda n: n not in writers, "model-00002-of-00002.safetensors": writers.__contains__}
    weight_map = {}
    for file, chosen in files.items():
        part = {n: t for n, t in checkpoint.tensors.items() if chosen(n)}
        Checkpoint(part, checkpoint.config).write(folder)
        (folder / "model.safetensors").rename(folder / file)
        weight_map.update({n: file for n in part})
    total = sum(t.numel() * t.element_size() for t in checkpoint.tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
    rest = folder / "model-00001-of-00002.safetensors"
    with rest.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    pool = folder.parent / ".shared"
    pool.mkdir(exist_ok=True)
    if (pool / digest).exists():
        rest.unlink()
        os.link(pool / digest, rest)
    else:
        os.link(rest, pool / digest)


def collect(out):
    """Join the labels of all groups."""
    labels = []
    for file in sorted(out.glob("*/labels.json")):
        group = json.loads(file.read_text())
        if group and group[0]["case"].startswith(file.parent.name + "/"):
            labels += group + crossed(group, file.parent.name)
    scratch = out / "labels.json.new"
    scratch.write_text(json.dumps(labels, indent=1) + "\n")
    os.replace(scratch, out / "labels.json")
    print(f"{len(labels)} cases, {sum(l['label'] == 'orthogonalized' for l in labels)} orthogonalized, "
          f"{sum(bool(l.get('trained')) and l['label'] != 'orthogonalized' for l in labels)} benign and trained")  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("group", nargs="*")
    parser.add_argument("--only", default="*")
    parser.add_argument("--smollm2", default="smollm2/base", help="the folder of smollm2.py's base")
    parser.add_argument("--collect", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for group in arguments.group:
        workshop = Workshop(arguments.out, group, arguments.smollm2)
        make(workshop, arguments.only.split(","), arguments.out / group / "labels.json")
        collect(arguments.out)
    if arguments.collect:
        collect(arguments.out)


if __name__ == "__main__":
    sys.exit(main())
