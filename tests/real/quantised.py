"""One edit of a real model in every form it is published in, and the untouched model beside it.

usage: quantised.py OUT [--base FOLDER] [--types Q8_0,…] [--check PATH-OF-ORTHOSCOPE]
needs: torch, transformers, peft, safetensors, gguf, llama-cpp-python

SmolLM2-135M (see smollm2.py) loses one random direction from o_proj and down_proj of layers 8 to 24, at λ = 1 and at
λ = 0.3; beside these stand the untouched model and one with an honest LoRA (rank 16, all linear modules, trained on
Python's own library). Each is quantised by llama.cpp's own quantiser to each type (`TYPES` of tests/oracles/forms.py); all but the fainter edit
are also written as a pickle, FP8 (by channel and by block), NF4, GPTQ and AWQ, and the edit and the LoRA as adapters.
OUT/labels.json is for `orthoscope evaluate`.

With --check each pair is compared, a line is printed for each, and the exit status is 1 unless the edit is found in every
form with λ within 0.1 (down to 4 bits; 0.3 down to Q4_K_M), no untouched form is called orthogonalized or suspect, and no
form of the LoRA orthogonalized.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch

# At the end, as one of the scripts there bears the name of a package.
sys.path.append(str(Path(__file__).resolve().parent.parent / "oracles"))

import storage
from forms import EXACT, FAINT, LAYERS, TYPES
from checkpoint import Checkpoint
from edits import constant, remove_direction, unit


def make(out, base_folder, types):
    """Writes every form and OUT/labels.json; what is there already is kept."""
    from quantize import quantize
    from removals import write_adapter

    base = Checkpoint.read(base_folder)
    direction = unit(torch.randn(base.width, generator=torch.Generator().manual_seed(24)))
    labels = []

    def add(case, label, write, **more):
        path = out / case
        if not path.exists():
            write(path)
            print(f"wrote {case}", flush=True)
        labels.append(dict(case=case, path=case, base=str(base_folder.resolve()), label=label, group="smollm2-forms", **more))

    for name, strength in (("untouched", 0.0), ("edited", 1.0), ("faint", 0.3), ("lora", 0.0)):
        lambdas = constant(base, strength, layers=LAYERS)
        if name == "lora":
            made = trained(base, base_folder, out / "lora-adapter")
        else:
            made = base if strength == 0.0 else remove_direction(base, lambda layer, module: direction, lambdas)
        label = "orthogonalized" if strength else "fine-tuned" if name == "lora" else "quantized"
        more = {"scope": "global", "directions": 1, "lambda": lambdas} if strength else {}
        plain = out / f"{name}-F32.gguf"
        for kind in types:
            target = f"{name}-{kind}.gguf"
            if not (out / target).exists() and not plain.exists():
                storage.gguf(made, plain, "F32")

            def quantised(path, kind=kind):
                status = quantize(str(plain), str(path), kind)
                if status:
                    sys.exit(f"llama.cpp refused {kind}: status {status}")

            add(target, label, quantised, form="gguf", **more)
        plain.unlink(missing_ok=True)
        if name == "faint":
            continue
        add(f"{name}-pickled", "repackaged" if name == "untouched" else label, lambda path, m=made: storage.pickled(m, path), form="pickle", **more)
        for method, (pack, config) in storage.METHODS.items():
            add(f"{name}-{method}", label,
                lambda path, m=made, p=pack, c=config: storage.quantised(m, path, p, c), form=method, **more)  # fmt: skip
        if name == "lora":
            add("lora-adapter", "adapter", lambda path: None, form="adapter")
        elif strength:
            workshop = argparse.Namespace(base=base)
            add(f"{name}-adapter", label,
                lambda path: write_adapter(workshop, lambda layer, module: direction, lambdas, path, 1), form="adapter", **more)  # fmt: skip
    (out / "labels.json").write_text(json.dumps(labels, indent=1) + "\n")
    return labels


def trained(base, base_folder, adapter):
    """The base with an honest LoRA merged in; the LoRA itself is left in the folder `adapter`."""
    from training import adapt, lora, plain_text, token_stream
    from transformers import AutoTokenizer

    stream = token_stream(AutoTokenizer.from_pretrained(base_folder), plain_text("code"), 150_000)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    return adapt(base, lora(targets, 16), (stream, stream), 40, 5e-4, batch=1, save_to=adapter)


def check(out, labels, orthoscope):
    """Compares every pair and holds it to what the module's text promises; the number of broken promises."""
    broken = 0
    print(f"{'case':28} {'verdict':15} {'relation':13} {'largest λ error':>16} {'limit':>7}")
    for entry in labels:
        command = [orthoscope, "compare", entry["base"], str(out / entry["path"]), "--no-record", "--format", "json", "--fail-on", "never"]
        found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        evidence = found["orthogonalization"] or {}
        errors = [abs(one["lambda"] - entry["lambda"][one["module"]][one["layer"]])
                  for one in evidence.get("strength", []) if one["module"] in entry.get("lambda", {})]  # fmt: skip
        error = max(errors, default=float("nan"))
        case = entry["case"]
        kind = case.removesuffix(".gguf").split("-", 1)[1]
        wrong = []
        if case.startswith("untouched"):
            wrong += ["called"] if found["verdict"] in ("orthogonalized", "suspect") else []
        elif case.startswith("lora"):
            wrong += ["called"] if found["verdict"] == "orthogonalized" else []
        elif case.startswith("edited"):
            wrong += ["missed"] if found["verdict"] != "orthogonalized" else []
            wrong += ["λ"] if (entry["form"] != "gguf" or kind in EXACT) and not error <= 0.1 else []
        elif kind in FAINT:
            wrong += ["missed"] if found["verdict"] != "orthogonalized" else []
            wrong += ["λ"] if not error <= 0.1 else []
        broken += bool(wrong)
        limit = evidence.get("detection_limit", float("nan"))
        print(f"{case:28} {found['verdict']:15} {found['relation']:13} {error:16.3f} {limit:7.3f}  {'WRONG: ' + ', '.join(wrong) if wrong else ''}", flush=True)
    print(f"{len(labels) - broken} of {len(labels)} as promised")
    return broken


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--base", type=Path, help="the model as a folder of bf16 safetensors; made by smollm2.py if not given")
    parser.add_argument("--types", default=",".join(TYPES))
    parser.add_argument("--check", metavar="ORTHOSCOPE", help="the program to hold to what is promised")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    base = arguments.base
    if base is None:
        base = arguments.out / "base"
        if not (base / "model.safetensors").exists():
            from smollm2 import convert, fetch_gguf

            checkpoint, tokenizer = convert(fetch_gguf(str(arguments.out)))
            checkpoint.write(base)
            tokenizer.save_pretrained(base)
    labels = make(arguments.out, base, arguments.types.split(","))
    if arguments.check and check(arguments.out, labels, arguments.check):
        sys.exit(1)


if __name__ == "__main__":
    main()
