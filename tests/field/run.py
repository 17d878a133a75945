#!/usr/bin/env python3
"""Situations out of public bug reports, each built by its own script and held against what is right for it.

    python3 -m venv venv && venv/bin/pip install torch transformers peft gguf numpy
    venv/bin/python tests/field/run.py CASES target/release/orthoscope [--only PATTERN] [--keep FOLDER] [--wrong]

CASES is a folder of cases: in each a `make.py`, which writes its inputs beside itself from a seed, and over them one `lib.py`
that all of them import. The whole folder is copied to a temporary one, every `make.py` that is asked for runs there with this
interpreter, and then the commands of the TABLE below. With `--keep` the copy stays and is used again.

What is right stands in the table: a situation is right when one of its outcomes fits. General rules for all of them: exit
status 0 only with `clear` and `complete`, 1 with a finding, 2 with what was not all examined; `clear` only with `complete`;
what has not been read is never `clear`.

Prints a line for each situation and `N right, N wrong`; exit status 1 where one is wrong.
"""

import argparse
import fnmatch
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

# The case of Meta's slices takes this function out of another case, which need not be there.
BORROWED = "45-stray-quantised-file"
CONSOLIDATED = '''
def consolidated(t):
    names = {"self_attn.q_proj": "attention.wq", "self_attn.k_proj": "attention.wk", "self_attn.v_proj": "attention.wv",
             "self_attn.o_proj": "attention.wo", "mlp.gate_proj": "feed_forward.w1", "mlp.down_proj": "feed_forward.w2",
             "mlp.up_proj": "feed_forward.w3", "post_attention_layernorm": "ffn_norm", "input_layernorm": "attention_norm",
             "model.embed_tokens": "tok_embeddings", "lm_head": "output", "model.norm": "norm", "model.layers": "layers"}
    out = {}
    for k, w in t.items():
        w = permute(w, H) if "q_proj" in k else permute(w, KV) if "k_proj" in k else w
        for long, short in names.items():
            k = k.replace(long, short)
        out[k] = w
    return out
cfg = llama_config
'''


class Answer:
    """What one run said: exit status, the record (or verification), and the text for a reader."""

    def __init__(self, status, record, text):
        self.status, self.record, self.text = status, record, text
        self.verdict, self.state = record.get("verdict"), record.get("status")
        self.relation = record.get("relation")

    def strengths(self):
        return (self.record.get("orthogonalization") or {}).get("strength") or []

    def says(self, word):
        return word.lower() in self.text.lower()

    def __str__(self):
        values = [one["lambda"] for one in self.strengths()]
        spread = f", λ {min(values):.2f} to {max(values):.2f} of {len(values)}" if values else ""
        if "result" in self.record:
            return f"{self.record['result']}, exit {self.status}"
        return f"{self.verdict}, {self.state}, {self.relation}, exit {self.status}{spread}"


# Outcomes: each gives None where the answer fits, or else why it does not.

def edited(strength=1.0, within=0.02, writers=12, modules="", states=("complete", "partial"), words=(), never=("unrelated",)):
    """Orthogonalized, with this λ in every writer of `modules`, so many at least; the relation is none of `never`."""
    def judge(answer):
        if (answer.verdict, answer.status) != ("orthogonalized", 1):
            return f"{answer.verdict}, exit {answer.status}"
        if answer.state not in states:
            return f"status {answer.state}"
        if answer.relation in never:
            return f"relation {answer.relation}"
        values = [one["lambda"] for one in answer.strengths() if re.search(modules, one["module"])]
        off = [value for value in values if not abs(value - strength) <= within]
        if off or len(values) < writers:
            some = sorted({round(value, 2) for value in off})[:4]
            return f"λ of {len(values)} writers, {len(off)} of them not {strength} ± {within}: {some}"
        return missing(answer, words)
    return judge


def unread(*words):
    """Not all was read, and the reader is told: one of each group of words (separated by |)."""
    def judge(answer):
        if answer.status != 2 or answer.verdict not in ("inconclusive", None) or answer.state == "complete":
            return f"{answer.verdict}, {answer.state}, exit {answer.status}"
        return missing(answer, words)
    return judge


def noticed(*words):
    """Anything but `clear` and exit status 0."""
    def judge(answer):
        if answer.verdict in ("clear", None) or answer.status not in (1, 2):
            return f"{answer.verdict}, exit {answer.status}"
        return missing(answer, words)
    return judge


def clear(*relations, words=(), compared=True):
    """Clear and complete, with one of these relations, and every tensor of the base compared."""
    def judge(answer):
        if (answer.verdict, answer.state, answer.status) != ("clear", "complete", 0):
            return f"{answer.verdict}, {answer.state}, exit {answer.status}"
        if relations and answer.relation not in relations:
            return f"relation {answer.relation}"
        coverage = answer.record["coverage"]
        if compared and coverage["compared"] != coverage["tensors"]:
            return f"{coverage['compared']} of {coverage['tensors']} tensors compared"
        return missing(answer, words)
    return judge


def inconclusive(*relations):
    """Not testable, and so exit status 2."""
    def judge(answer):
        if (answer.verdict, answer.status) != ("inconclusive", 2) or relations and answer.relation not in relations:
            return f"{answer.verdict}, {answer.relation}, exit {answer.status}"
    return judge


def verified(statuses, *words, results=(), known=""):
    """A verification that ends so and has these words; the file `known` is of some kind, or odd."""
    def judge(answer):
        result, files = answer.record.get("result"), answer.record.get("files", [])
        if answer.status not in statuses or results and result not in results:
            return f"{result}, exit {answer.status}"
        if known and not any(file["kind"] or file["oddities"] for file in files if file["name"].endswith(known)):
            return f"nothing is said of what {known} is"
        return missing(answer, words)
    return judge


def missing(answer, words):
    for group in words:
        if not any(answer.says(word) for word in group.split("|")):
            return f"not a word of {group!r}"
    return None


def based(outcome, base):
    """The outcome, and the examination was against this base."""
    def judge(answer):
        source = answer.record.get("base", {}).get("source", "")
        return outcome(answer) or (None if base.lower() in source.lower() else f"compared with {source!r}")
    return judge


def compare(base, candidate):
    return ["compare", base, candidate, "--no-record"]


def scan(repository):
    return ["scan", repository, "--no-record"]


def verify(*arguments):
    return ["verify", *arguments]


def listed(name):
    return verify("m", "--manifest", f"{name}.txt")


EDITED = edited()
ROUNDED = edited(within=0.05)
UNREAD = unread()
SOME = {"writers": 1, "states": ("partial",)}
EXPERTS = {"within": 0.05, "writers": 20}
FOUND = based(EDITED, "lab/Tiny-Base")
SLICES = unread("slice|parallel")
MISSING = ("00002-of-00004", "00004-of-00004")
POINTER = "LFS pointer"
FP8 = unread("float8|F8_E4M3|fp8")
PARTS = "part1of2"
AGREES = verified((0,), results=("agrees",))

# Of each case the commands, and the outcomes of which one must fit.
TABLE = {
    "01-adapter-alpha-pattern-regex": [(compare("base", "adapter"), EDITED)],
    "03-adapter-mlx": [(compare("base", "adapter"), EDITED, unread("mlx"))],
    "05-adapter-pissa": [
        (compare("base", "honest"), unread("pissa"), clear(words=("pissa",))),
        (compare("base", "removal"), unread("pissa"), noticed("pissa")),
    ],
    "07-adapter-default-in-keys": [
        (compare("base", "named"), EDITED, UNREAD),
        (compare("base", "whole"), EDITED, unread("lora|adapter|base_layer")),
    ],
    "09-adapter-gpt2-fan-in-fan-out": [
        (compare("base", name), edited(0.8, writers=10))
        for name in ("adapter", "rslora", "adapter-merged", "rslora-merged")
    ],
    "22-gguf-raw-parts": [
        (compare("base", "mradermacher"), EDITED, unread(PARTS)),
        (compare("base", "thebloke"), EDITED, unread("gguf-split-a")),
        (compare("base", "mixed"), edited(words=(PARTS,)), unread(PARTS)),
        ([*compare("base", "mixed"), "--all-variants"], edited(words=(PARTS,)), unread(PARTS)),
        (verify("mixed"), verified((0, 1, 2), "part2of2", known=PARTS)),
    ],
    "23-gguf-unknown-types": [
        (compare("base", "some-156.gguf"),
         edited(writers=6, modules="o_proj", states=("partial",), words=("156", "down"))),
        (compare("base", "i2_s.gguf"), unread("36")),
        (compare("base", "honest-some-156.gguf"), unread("156")),
    ],
    "25-gguf-lora": [(compare("base", f"{name}.gguf"), EDITED) for name in ("alpha16", "norms", "alpha0")],
    "26-gguf-old-experts": [
        (compare("base", "old-same.gguf"), clear("quantized", "recast")),
        (compare("base", "old-removed.gguf"), edited(writers=20)),
        (compare("base", "v5-same"), clear("repackaged")),
        (compare("base", "v5-removed"), edited(writers=20)),
    ],
    "41-bnb-nf4-bf16-storage": [
        *((compare("base", name), clear("quantized")) for name in ("u8", "bf16", "f32-double")),
        (compare("base", "bf16-removed"), ROUNDED),
    ],
    "42-mlx-4bit": [
        (compare("base", "honest"), clear("quantized"), unread("mlx")),
        (compare("base", "removed"), ROUNDED, unread("mlx")),
    ],
    "50-meta-parallel-pth": [
        (compare("base", "same"), clear("repackaged"), SLICES),
        (compare("base", "removed"), EDITED, SLICES),
        (compare("base", "only-one"), edited(**SOME), UNREAD),
    ],
    "51-stale-index": [
        (compare("base", "renamed"), EDITED, unread("00003-of-00004|00004-of-00004")),
        (compare("base", "half-there"), edited(**SOME, words=MISSING), unread(*MISSING)),
        (compare("base", "honest-half-there"), unread(*MISSING)),
        (compare("base", "index-omits"), EDITED, noticed("index")),
        (compare("base", "total-size-odd"), EDITED),
    ],
    "52-cards-and-claims": [
        *((scan(f"local:someone/{name}"), FOUND)
          for name in ("one", "list", "flow", "crlf-bom", "url", "adapter", "v-bom", "v-lead", "v-crlf", "v-no")),
        *((scan(f"local:someone/{name}"), FOUND, UNREAD)
          for name in ("case", "path", "itself", "quoted-null", "v-latin1")),
        (scan("local:someone/two-merge"), FOUND, noticed("Tiny-Base")),
        (scan("local:someone/v-dup"), FOUND, noticed()),
    ],
    "54-lfs-pointers": [
        *((compare("base", name), unread(POINTER)) for name in ("all-pointers", "gguf-pointer", "honest-one-pointer")),
        (compare("base", "one-pointer"), edited(**SOME, words=(POINTER,)), unread(POINTER)),
        *((verify(name), verified((1, 2), POINTER)) for name in ("all-pointers", "one-pointer", "gguf-pointer")),
    ],
    "56-names-case-unicode": [
        (compare("base", "named"), EDITED),
        (compare("base", "upper"), EDITED, unread("TINY.Q8_0.GGUF")),
        (scan("local:用户/微调模型"), FOUND),
    ],
    "60-pickle-views": [
        (compare("base", "views"), clear("repackaged")),
        *((compare("base", name), edited(never=("unrelated", "quantized", "recast")))
          for name in ("views-removed", "legacy", "nested")),
    ],
    "62-bin-that-is-safetensors": [
        (compare("base", "bin-is-st"), EDITED, unread("pytorch_model.bin", "safetensors")),
        (compare("base", "bin-is-gguf"), EDITED, unread("ggml-model-q8_0.bin", "gguf")),
        (compare("base", "pt-is-pickle"), EDITED, unread("model.pt", "pickle")),
        (verify("bin-is-st"), verified((0, 1, 2), "pytorch_model.bin", "safetensors")),
        (verify("bin-is-gguf"), verified((0, 1, 2), "ggml-model-q8_0.bin", "gguf")),
    ],
    "63-fp8-bin": [(compare("base", "same"), clear("quantized"), FP8), (compare("base", "removed"), ROUNDED, FP8)],
    "70-checksum-lists-windows": [
        *((listed(name), AGREES) for name in ("crlf", "bom", "dot")),
        (listed("backslash"), AGREES, verified((2,), "backslash.txt")),
        (listed("utf16"), AGREES, verified((2,), "utf-16|utf-8|encoding")),
        *((listed(name), verified((2,), f"{name}.txt")) for name in ("powershell", "certutil", "gguf-hash")),
        (listed("wrong-crlf"), verified((1,), "model.safetensors", results=("differs",))),
    ],
    "81-gpt-oss-per-expert-bnb": [
        row
        for base in ("base-bf16", "base-mxfp4")
        for row in (
            (compare(base, "linear-same"), clear(), UNREAD),
            (compare(base, "linear-removed"), edited(**EXPERTS)),
            (compare(base, "bf16-removed"), edited(**EXPERTS)),
        )
    ],
    "84-vlm-prefix": [
        (compare("old", "new-same"), clear("repackaged")),
        (compare("old", "new-removed"), EDITED),
        (compare("text-base", "new-removed"), EDITED),
        *((compare(base, f"adapter-{keys}-keys"), EDITED, UNREAD)
          for base in ("old", "new-same") for keys in ("old", "text")),
    ],
    "86-rwkv": [
        (compare("base", "removed"), EDITED, noticed()),
        (compare("base", "tuned"), clear("fine-tuned"), inconclusive("fine-tuned")),
    ],
}


def examined(tool, folder, command, environment):
    """The command twice: for a program and for a reader."""
    runs = [subprocess.run([tool, *command, "--format", kind], cwd=folder, capture_output=True, text=True, timeout=600,
                           env=environment | {"NO_COLOR": "1", "COLUMNS": "400"}) for kind in ("json", "text")]
    try:
        record = json.loads(runs[0].stdout)
    except json.JSONDecodeError:
        record = {}
    first, second = (run.returncode for run in runs)
    return Answer(first if first == second else f"{first} and {second}", record, runs[1].stdout + runs[1].stderr)


def fault(answer, command, outcomes):
    """Why no outcome fits, or nothing."""
    if command[0] != "verify":
        if answer.verdict == "clear" and answer.state != "complete":
            return f"clear with status {answer.state}"
        fitting = {0: answer.verdict == "clear", 1: bool(answer.record.get("findings")), 2: answer.verdict != "clear"}
        if not fitting.get(answer.status):
            return f"exit status {answer.status} with {answer.verdict}, {answer.state}"
    reasons = [outcome(answer) for outcome in outcomes]
    return "" if None in reasons else "; nor: ".join(dict.fromkeys(reasons))


def made(case):
    """Runs a case's script, once."""
    done = case / ".made"
    if not done.exists():
        ran = subprocess.run([sys.executable, "make.py"], cwd=case, capture_output=True, text=True,
                             env=os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""})
        if ran.returncode:
            return f"make.py: {ran.stderr.strip().splitlines()[-1]}"
        done.touch()
    return ""


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cases", type=pathlib.Path)
    parser.add_argument("orthoscope")
    parser.add_argument("--only", default="*", help="cases whose folder's name fits this pattern")
    parser.add_argument("--keep", type=pathlib.Path, help="build the cases here, keep them, and use what is there")
    parser.add_argument("--wrong", action="store_true", help="print only what is wrong")
    arguments = parser.parse_args()
    tool = pathlib.Path(arguments.orthoscope).resolve()
    scratch = arguments.keep or pathlib.Path(tempfile.mkdtemp())
    right = wrong = 0
    try:
        if not (scratch / "lib.py").exists():
            shutil.copytree(arguments.cases, scratch, dirs_exist_ok=True)
        if not (scratch / BORROWED).exists():
            (scratch / BORROWED).mkdir()
            (scratch / BORROWED / "make.py").write_text(CONSOLIDATED)
        # Short names and a wide page, so that no word that is looked for is cut.
        environment = os.environ | {"ORTHOSCOPE_LOCAL_HUB": "hub", "HF_HUB_OFFLINE": "1", "HOME": str(scratch)}
        for case in fnmatch.filter(TABLE, arguments.only):
            failed = made(scratch / case) if (scratch / case).is_dir() else "there is no such case"
            for command, *outcomes in TABLE[case]:
                answer = None if failed else examined(tool, scratch / case, command, environment)
                why = failed or fault(answer, command, outcomes)
                right, wrong = right + (not why), wrong + bool(why)
                if why or not arguments.wrong:
                    shown = " ".join(command).replace(" --no-record", "")
                    said = f"{why}  [{answer}]" if why and answer else why or answer
                    print(f"{'WRONG' if why else 'right'}  {case[:2]} {shown}: {said}", flush=True)
        for path in sorted(scratch.glob("*/make.py")):
            if path.parent.name not in TABLE and path.parent.name != BORROWED:
                wrong += 1
                print(f"WRONG  {path.parent.name}: the table does not know it")
    finally:
        if not arguments.keep:
            shutil.rmtree(scratch, ignore_errors=True)
    print(f"{right} right, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
