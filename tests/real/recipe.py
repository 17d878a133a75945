#!/usr/bin/env python3
"""The recipe of a published tool, recovered: derivatives made by heretic-llm's own code with stated parameters, λ̂ held to its kernel.

    venv/bin/pip install torch transformers peft safetensors numpy && venv/bin/pip install --no-deps heretic-llm
    venv/bin/python tests/real/recipe.py target/release/orthoscope BASE WORK

BASE is a folder that transformers opens (smollm2.py writes one). Directions are random: what is tested is strength and place. For each
set of parameters (`reproduce.json`'s `abliteration_parameters`: max_weight, max_weight_position, min_weight, min_weight_distance per
component, a direction's index or one per layer, and row normalisation none, pre or full) the tool's `Model.abliterate` edits the model,
the adapter is merged, saved in bf16 and compared. Exit status 1 where a case is not called, where the median error of λ̂ over
the writers is above 0.02, or the largest above 0.05.
"""

import argparse
import importlib
import json
import pathlib
import shutil
import subprocess
import sys
import types

import numpy
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM


def tool():
    """The tool's module of models. What it imports beside and `abliterate` does not use is stood in for where it is missing."""
    package = pathlib.Path(importlib.util.find_spec("heretic").origin).parent
    parent = types.ModuleType("heretic")
    parent.__path__ = [str(package)]
    sys.modules["heretic"] = parent

    class Anything(types.ModuleType):
        def __getattr__(self, name):
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (), {"__init__": lambda self, *a, **k: None, "__class_getitem__": classmethod(lambda c, i: c)})

    def is_there(name):
        try:
            return importlib.util.find_spec(name) is not None
        except (ImportError, ValueError):
            return False

    for name in ("bitsandbytes", "heretic.system", "heretic.utils"):
        if name.startswith("heretic.") or not is_there(name):
            sys.modules[name] = Anything(name)
    if not is_there("pydantic_settings"):
        config = Anything("heretic.config")
        config.RowNormalization = types.SimpleNamespace(NONE="none", PRE="pre", FULL="full")
        sys.modules["heretic.config"] = config
    found = importlib.import_module("heretic.model")
    # peft asks whether it is there.
    if isinstance(sys.modules.get("bitsandbytes"), Anything):
        del sys.modules["bitsandbytes"]
    return found


def kernel(parameters, layer):
    distance = abs(layer - parameters["max_weight_position"])
    if distance > parameters["min_weight_distance"]:
        return 0.0
    share = distance / parameters["min_weight_distance"]
    return parameters["max_weight"] + share * (parameters["min_weight"] - parameters["max_weight"])


def cases(layers):
    """(name, row normalisation, index of the direction or None for one per layer, parameters per component)."""
    def of(peak, at, floor, reach):
        return {"max_weight": peak, "max_weight_position": at * (layers - 1), "min_weight": floor, "min_weight_distance": reach * layers}

    narrow, wide, flat = of(1.1, 0.62, 0.05, 0.35), of(0.85, 0.7, 0.4, 0.6), of(1.45, 0.5, 1.2, 0.9)
    faint = of(0.3, 0.6, 0.1, 0.4)
    return [
        (f"{norms}-{scope}-{name}", norms, index, {"attn.o_proj": first, "mlp.down_proj": second})
        for norms in ("none", "pre", "full")
        for scope, index in (("global", 0.6 * layers), ("per-layer", None))
        for name, first, second in (("tents", narrow, wide), ("flat-and-faint", flat, faint))
    ]


def edited(module, folder, case, directions):
    """The model as the tool edits it, its adapter merged."""
    _, norms, index, parameters = case
    rank = 1 if norms != "full" else 3
    made = object.__new__(module.Model)
    targets = ["o_proj", "down_proj"]
    made.peft_config = LoraConfig(r=rank, target_modules=targets, lora_alpha=rank, lora_dropout=0, bias="none", task_type="CAUSAL_LM")
    made.model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16), made.peft_config)
    kinds = module.RowNormalization
    made.settings = types.SimpleNamespace(row_normalization={"none": kinds.NONE, "pre": kinds.PRE, "full": kinds.FULL}[norms], seed=1)
    given = {part: module.AbliterationParameters(**values) for part, values in parameters.items()}
    made.abliterate(directions, index, given)
    return made.model.merge_and_unload()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("program")
    parser.add_argument("base", type=pathlib.Path)
    parser.add_argument("work", type=pathlib.Path)
    options = parser.parse_args()
    module = tool()
    config = json.loads((options.base / "config.json").read_text())
    layers, width = config["num_hidden_layers"], config["hidden_size"]
    random = numpy.random.default_rng(7)
    shared = random.standard_normal(width)
    # Directions of neighbouring layers are alike in real models, and not the same.
    directions = numpy.stack([shared + 0.4 * random.standard_normal(width) for _ in range(layers + 1)])
    directions = torch.tensor(directions / numpy.linalg.norm(directions, axis=1, keepdims=True), dtype=torch.float32)
    bad = 0
    for case in cases(layers):
        target = options.work / case[0]
        edited(module, options.base, case, directions).save_pretrained(target)
        command = [options.program, "--threads", "2", "compare", options.base, target, "--format", "json", "--no-record"]
        said = json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
        found = (said["orthogonalization"] or {}).get("strength", [])
        part = {"o_proj": "attn.o_proj", "down_proj": "mlp.down_proj"}
        errors = sorted(abs(one["lambda"] - kernel(case[3][part[one["module"]]], one["layer"])) for one in found)
        median, most = (errors[len(errors) // 2], errors[-1]) if errors else (1.0, 1.0)
        wrong = said["verdict"] != "orthogonalized" or median > 0.02 or most > 0.05
        bad += wrong
        print(f"{'!!' if wrong else '  '} {case[0]:28} {said['verdict']:15} {len(errors)} writers, error of λ {median:.4f} median, {most:.4f} at most", flush=True)
        for line in said["orthogonalization"]["recipe"] if said["orthogonalization"] else []:
            print(f"      {line}")
        shutil.rmtree(target)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
