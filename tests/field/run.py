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
        return f"{self.verdict}, {self.state}, {self.relation}, exit {self.status}{spread}"


# Outcomes: each gives None where the answer fits, or else why it does not.

def edited(strength=1.0, within=0.02, writers=12, modules="", states=("complete", "partial"), words=(), not_relations=("unrelated",)):
    """Orthogonalized, with this λ in so many writers at least, and in every one of `modules`."""
    def judge(answer):
        if (answer.verdict, answer.status) != ("orthogonalized", 1):
            return f"{answer.verdict}, exit {answer.status}"
        if answer.state not in states:
            return f"status {answer.state}"
        if answer.relation in not_relations:
            return f"relation {answer.relation}"
        values = [one["lambda"] for one in answer.strengths() if re.search(modules, one["module"])]
        off = [value for value in values if not abs(value - strength) <= within]
        if off or len(values) < writers:
            return f"λ of {len(values)} writers, {len(off)} of them not {strength} ± {within}: {sorted(set(round(v, 2) for v in off))[:4]}"
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


def verified(statuses, *words, results=(), absent=()):
    """A verification that ends so, with these words and without those."""
    def judge(answer):
        result = answer.record.get("result")
        if answer.status not in statuses or results and result not in results:
            return f"{result}, exit {answer.status}"
        said = [word for word in absent if answer.says(word)]
        return f"says {said[0]!r}" if said else missing(answer, words)
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


EDITED = edited()
QUANTISED = edited(within=0.05)
UNREAD = unread()
SLICES = "slice|parallel|shard of a|consolidated.01"
FOUND = based(EDITED, "lab/Tiny-Base")

# Case, command, the outcomes of which one must fit.
TABLE = [
    ("01-adapter-alpha-pattern-regex", compare("base", "adapter"), [EDITED]),
    ("03-adapter-mlx", compare("base", "adapter"), [EDITED, unread("mlx")]),
    ("05-adapter-pissa", compare("base", "honest"), [unread("pissa"), clear(words=("pissa",))]),
    ("05-adapter-pissa", compare("base", "removal"), [unread("pissa"), noticed("pissa")]),
    ("07-adapter-default-in-keys", compare("base", "named"), [EDITED, UNREAD]),
    ("07-adapter-default-in-keys", compare("base", "whole"), [EDITED, unread("lora|adapter|base_layer")]),
    ("09-adapter-gpt2-fan-in-fan-out", compare("base", "adapter"), [edited(0.8, writers=10)]),
    ("09-adapter-gpt2-fan-in-fan-out", compare("base", "rslora"), [edited(0.8, writers=10)]),
    ("09-adapter-gpt2-fan-in-fan-out", compare("base", "adapter-merged"), [edited(0.8, writers=10)]),
    ("09-adapter-gpt2-fan-in-fan-out", compare("base", "rslora-merged"), [edited(0.8, writers=10)]),
    ("22-gguf-raw-parts", compare("base", "mradermacher"), [EDITED, unread("part1of2")]),
    ("22-gguf-raw-parts", compare("base", "thebloke"), [EDITED, unread("gguf-split-a")]),
    ("22-gguf-raw-parts", compare("base", "mixed"), [edited(words=("part1of2",)), unread("part1of2")]),
    ("22-gguf-raw-parts", compare("base", "mixed") + ["--all-variants"], [edited(words=("part1of2",)), unread("part1of2")]),
    ("22-gguf-raw-parts", verify("mixed"), [verified((0, 1, 2), "part1of2", "part2of2")]),
    ("23-gguf-unknown-types", compare("base", "some-156.gguf"), [edited(writers=6, modules="o_proj", states=("partial",), words=("156", "down"))]),
    ("23-gguf-unknown-types", compare("base", "i2_s.gguf"), [unread("36")]),
    ("23-gguf-unknown-types", compare("base", "honest-some-156.gguf"), [unread("156")]),
    ("25-gguf-lora", compare("base", "alpha16.gguf"), [EDITED]),
    ("25-gguf-lora", compare("base", "norms.gguf"), [EDITED]),
    ("25-gguf-lora", compare("base", "alpha0.gguf"), [EDITED]),
    ("26-gguf-old-experts", compare("base", "old-same.gguf"), [clear("quantized", "recast")]),
    ("26-gguf-old-experts", compare("base", "old-removed.gguf"), [edited(writers=20)]),
    ("26-gguf-old-experts", compare("base", "v5-same"), [clear("repackaged")]),
    ("26-gguf-old-experts", compare("base", "v5-removed"), [edited(writers=20)]),
    ("41-bnb-nf4-bf16-storage", compare("base", "u8"), [clear("quantized")]),
    ("41-bnb-nf4-bf16-storage", compare("base", "bf16"), [clear("quantized")]),
    ("41-bnb-nf4-bf16-storage", compare("base", "f32-double"), [clear("quantized")]),
    ("41-bnb-nf4-bf16-storage", compare("base", "bf16-removed"), [QUANTISED]),
    ("42-mlx-4bit", compare("base", "honest"), [clear("quantized"), unread("mlx")]),
    ("42-mlx-4bit", compare("base", "removed"), [QUANTISED, unread("mlx")]),
    ("50-meta-parallel-pth", compare("base", "same"), [clear("repackaged"), unread(SLICES)]),
    ("50-meta-parallel-pth", compare("base", "removed"), [EDITED, unread(SLICES)]),
    ("50-meta-parallel-pth", compare("base", "only-one"), [UNREAD, edited(writers=1, states=("partial",))]),
    ("51-stale-index", compare("base", "renamed"), [EDITED, unread("00003-of-00004|00004-of-00004")]),
    ("51-stale-index", compare("base", "half-there"),
     [edited(writers=1, states=("partial",), words=("00002-of-00004", "00004-of-00004")), unread("00002-of-00004", "00004-of-00004")]),
    ("51-stale-index", compare("base", "honest-half-there"), [unread("00002-of-00004", "00004-of-00004")]),
    ("51-stale-index", compare("base", "index-omits"), [EDITED, noticed("index")]),
    ("51-stale-index", compare("base", "total-size-odd"), [EDITED]),
    *(("52-cards-and-claims", scan(f"local:someone/{name}"), [FOUND])
      for name in ("one", "list", "flow", "crlf-bom", "url", "adapter", "v-bom", "v-lead", "v-crlf", "v-no")),
    *(("52-cards-and-claims", scan(f"local:someone/{name}"), [FOUND, UNREAD]) for name in ("case", "path", "itself", "quoted-null")),
    ("52-cards-and-claims", scan("local:someone/two-merge"), [FOUND, noticed("Tiny-Base")]),
    ("52-cards-and-claims", scan("local:someone/v-dup"), [FOUND, noticed()]),
    ("52-cards-and-claims", scan("local:someone/v-latin1"), [FOUND, UNREAD]),
    ("54-lfs-pointers", compare("base", "all-pointers"), [unread("LFS pointer")]),
    ("54-lfs-pointers", compare("base", "gguf-pointer"), [unread("LFS pointer")]),
    ("54-lfs-pointers", compare("base", "one-pointer"), [edited(writers=1, states=("partial",), words=("LFS pointer",)), unread("LFS pointer")]),
    ("54-lfs-pointers", compare("base", "honest-one-pointer"), [unread("LFS pointer")]),
    *(("54-lfs-pointers", verify(name), [verified((1, 2), "LFS pointer")]) for name in ("all-pointers", "one-pointer", "gguf-pointer")),
    ("56-names-case-unicode", compare("base", "named"), [EDITED]),
    ("56-names-case-unicode", compare("base", "upper"), [EDITED, unread("TINY.Q8_0.GGUF")]),
    ("56-names-case-unicode", scan("local:用户/微调模型"), [FOUND]),
    ("60-pickle-views", compare("base", "views"), [clear("repackaged")]),
    *(("60-pickle-views", compare("base", name), [edited(not_relations=("unrelated", "quantized", "recast"))])
      for name in ("views-removed", "legacy", "nested")),
    ("62-bin-that-is-safetensors", compare("base", "bin-is-st"), [EDITED, unread("pytorch_model.bin", "safetensors")]),
    ("62-bin-that-is-safetensors", compare("base", "bin-is-gguf"), [EDITED, unread("ggml-model-q8_0.bin", "gguf")]),
    ("62-bin-that-is-safetensors", compare("base", "pt-is-pickle"), [EDITED, unread("model.pt", "pickle")]),
    ("62-bin-that-is-safetensors", verify("bin-is-st"), [verified((0, 1, 2), "pytorch_model.bin", "safetensors")]),
    ("62-bin-that-is-safetensors", verify("bin-is-gguf"), [verified((0, 1, 2), "ggml-model-q8_0.bin", "gguf")]),
    ("63-fp8-bin", compare("base", "same"), [clear("quantized"), unread("float8|F8_E4M3|fp8")]),
    ("63-fp8-bin", compare("base", "removed"), [QUANTISED, unread("float8|F8_E4M3|fp8")]),
    *(("70-checksum-lists-windows", verify("m", "--manifest", f"{name}.txt"), [verified((0,), results=("agrees",))])
      for name in ("crlf", "bom", "dot")),
    ("70-checksum-lists-windows", verify("m", "--manifest", "backslash.txt"), [verified((0,), results=("agrees",)), verified((2,), "backslash.txt")]),
    ("70-checksum-lists-windows", verify("m", "--manifest", "utf16.txt"), [verified((0,), results=("agrees",)), verified((2,), "utf-16|utf16|encoding")]),
    *(("70-checksum-lists-windows", verify("m", "--manifest", f"{name}.txt"), [verified((2,), f"{name}.txt")])
      for name in ("powershell", "certutil", "gguf-hash")),
    ("70-checksum-lists-windows", verify("m", "--manifest", "wrong-crlf.txt"), [verified((1,), "model.safetensors", results=("differs",))]),
    *(("81-gpt-oss-per-expert-bnb", compare(base, "linear-same"), [clear(), UNREAD]) for base in ("base-bf16", "base-mxfp4")),
    *(("81-gpt-oss-per-expert-bnb", compare(base, "linear-removed"), [edited(within=0.05, writers=20)]) for base in ("base-bf16", "base-mxfp4")),
    *(("81-gpt-oss-per-expert-bnb", compare(base, "bf16-removed"), [edited(within=0.05, writers=20)]) for base in ("base-bf16", "base-mxfp4")),
    ("84-vlm-prefix", compare("old", "new-same"), [clear("repackaged")]),
    ("84-vlm-prefix", compare("old", "new-removed"), [EDITED]),
    ("84-vlm-prefix", compare("text-base", "new-removed"), [EDITED]),
    *(("84-vlm-prefix", compare(base, adapter), [EDITED, UNREAD])
      for base, adapter in (("old", "adapter-old-keys"), ("new-same", "adapter-old-keys"), ("old", "adapter-text-keys"), ("new-same", "adapter-text-keys"))),
    ("86-rwkv", compare("base", "removed"), [edited(modules="output|value|o_proj|down_proj|out"), noticed()]),
    ("86-rwkv", compare("base", "tuned"), [clear("fine-tuned"), inconclusive("fine-tuned")]),
]


def examined(tool, folder, command, environment):
    """The command twice: for a program and for a reader."""
    runs = [subprocess.run([tool, *command, "--format", kind], cwd=folder, capture_output=True, text=True, timeout=600,
                           env=environment | {"NO_COLOR": "1", "COLUMNS": "400"}) for kind in ("json", "text")]
    try:
        record = json.loads(runs[0].stdout)
    except json.JSONDecodeError:
        record = {}
    status = runs[0].returncode if runs[0].returncode == runs[1].returncode else f"{runs[0].returncode} and {runs[1].returncode}"
    return Answer(status, record, runs[1].stdout + runs[1].stderr)


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
        known = {case for case, _, _ in TABLE} | {BORROWED}
        unknown = sorted(path.parent.name for path in scratch.glob("*/make.py") if path.parent.name not in known)
        failed = {}
        for case, command, outcomes in TABLE:
            folder = scratch / case
            if not fnmatch.fnmatch(case, arguments.only):
                continue
            if case not in failed:
                failed[case] = made(folder) if folder.is_dir() else "there is no such case"
            # Short, so that no name that is looked for is cut.
            environment = os.environ | {"ORTHOSCOPE_LOCAL_HUB": "hub", "HF_HUB_OFFLINE": "1", "HOME": str(scratch)}
            if failed[case]:
                answer, why = "", failed[case]
            else:
                answer = examined(tool, folder, command, environment)
                why = fault(answer, command, outcomes)
            right, wrong = right + (not why), wrong + bool(why)
            if why or not arguments.wrong:
                shown = " ".join(command).replace(" --no-record", "")
                said = answer if answer and answer.verdict else answer and f"{answer.record.get('result')}, exit {answer.status}"
                print(f"{'WRONG' if why else 'right'}  {case[:2]} {shown}: {why or said}{f'  [{said}]' if why and said else ''}", flush=True)
        for case in unknown:
            wrong += 1
            print(f"WRONG  {case}: the table does not know it")
    finally:
        if not arguments.keep:
            shutil.rmtree(scratch, ignore_errors=True)
    print(f"{right} right, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
