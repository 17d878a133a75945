#!/usr/bin/env python3
"""Edits that something else hides, and the same something alone: what orthoscope says of each.

    python3 -m venv venv && venv/bin/pip install numpy scipy safetensors ml_dtypes gguf
    venv/bin/python tests/real/hiding.py target/release/orthoscope MODEL.gguf WORK [--only 'decoys*,axis*'] [--json FILE]

Groups (a case is GROUP/NAME, `edited` or `honest` its label):
  plain     global and per-layer directions, raw, row-normalised and norm-preserving, whole and faint; edits of few writers
  axis      directions that lie by 50 to 99 % (squared) on the loudest residual channel, in the same forms
  decoys    under swapped neurons and value channels, signs, outliers, noisy columns, louder changes of rank 1 to 16; each
            with λ of 0.3 and 1, and alone
  honest    noise, LoRAs of rank 1 to 64, a change of full rank, rank reduction, pruned channels, scales
  swapped   base and candidate the wrong way round
  operators  oblique removals (30 to 85 degrees, per layer, faint, three layers), LEACE's form, kept out of a subspace, rotations, removals
            fitted on captured inputs, a damped pair of channels, λ from 2 to 8
  grid      an FP8 base (E4M3, blocks of 128), six writers edited at λ = 0.05 to 0.3 and encoded again

With `--through Q4_K_M` (or another of llama.cpp's types; needs llama-cpp-python) every candidate but those of the groups swapped and grid
is a GGUF made by llama.cpp's quantiser, compared with the bf16 base.

One line a case: verdict, c, λ, limit. Exit status 1 where an edited one is clear, or an honest one is called or suspect (a decoy alone
may be suspect: a change of rank 16 in the writers and nowhere else is). With `--depth screen` the two are a hub of folders, the
screen alone judges, and an edited one may also be inconclusive: it is then looked at deeper.
"""

import argparse
import fnmatch
import json
import os
import pathlib
import shutil
import subprocess
import sys

import ml_dtypes
import numpy

from arrays import layer, load_gguf, save, save_gguf, writers

QUANTIZE = pathlib.Path(__file__).resolve().parent.parent / "oracles" / "quantize.py"
FORMS = ["raw", "row-normalised", "row-norms-kept"]


def unit(vector):
    return vector / numpy.linalg.norm(vector)


def removed(w, r, strength, form="raw"):
    """W with the direction r taken out, in one of the published forms."""
    w = w.astype(numpy.float64)
    norms = numpy.maximum(numpy.linalg.norm(w, axis=1, keepdims=True), 1e-12)
    if form == "row-normalised":
        return w - strength * norms * numpy.outer(r, r @ (w / norms))
    out = w - strength * numpy.outer(r, r @ w)
    return out * norms / numpy.linalg.norm(out, axis=1, keepdims=True) if form == "row-norms-kept" else out


def edit(base, direction, strength, form="raw", only=lambda name: True):
    """`direction(name)` taken out of the writers; a constant λ or λ by name."""
    out = dict(base)
    for name in filter(only, writers(base)):
        value = strength(name) if callable(strength) else strength
        if value:
            out[name] = removed(base[name], direction(name), value, form).astype(numpy.float32)
    return out


def heads(config):
    size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return size, config["num_attention_heads"], config["num_key_value_heads"]


def swap_neurons(weights, config, rng, pairs):
    """Pairs of MLP neurons of every layer change places: outputs stay."""
    for at in range(config["num_hidden_layers"]):
        mlp = f"model.layers.{at}.mlp."
        chosen = rng.permutation(config["intermediate_size"])[: 2 * pairs]
        order = numpy.arange(config["intermediate_size"])
        order[chosen[:pairs]], order[chosen[pairs:]] = chosen[pairs:], chosen[:pairs]
        for name in ("gate_proj", "up_proj"):
            weights[f"{mlp}{name}.weight"] = weights[f"{mlp}{name}.weight"][order]
        weights[f"{mlp}down_proj.weight"] = weights[f"{mlp}down_proj.weight"][:, order]


def swap_channels(weights, config, rng, pairs):
    """Pairs of value channels of one key-value head of every layer change places."""
    size, queries, keys = heads(config)
    for at in range(config["num_hidden_layers"]):
        attention, head = f"model.layers.{at}.self_attn.", int(rng.integers(keys))
        chosen = rng.permutation(size)[: 2 * pairs]
        order = numpy.arange(size)
        order[chosen[:pairs]], order[chosen[pairs:]] = chosen[pairs:], chosen[:pairs]
        v = weights[f"{attention}v_proj.weight"].copy()
        v[head * size : (head + 1) * size] = v[head * size : (head + 1) * size][order]
        weights[f"{attention}v_proj.weight"] = v
        o = weights[f"{attention}o_proj.weight"].copy()
        for query in range(head * queries // keys, (head + 1) * queries // keys):
            o[:, query * size : (query + 1) * size] = o[:, query * size : (query + 1) * size][:, order]
        weights[f"{attention}o_proj.weight"] = o


def flip_signs(weights, config, rng, count):
    """Neurons' up rows and down columns change their sign together."""
    for at in range(config["num_hidden_layers"]):
        mlp = f"model.layers.{at}.mlp."
        sign = numpy.ones(config["intermediate_size"], numpy.float32)
        sign[rng.permutation(len(sign))[:count]] = -1
        weights[f"{mlp}up_proj.weight"] = weights[f"{mlp}up_proj.weight"] * sign[:, None]
        weights[f"{mlp}down_proj.weight"] = weights[f"{mlp}down_proj.weight"] * sign


def outliers(weights, config, rng, count):
    """Single elements of every writer are set far out."""
    for name in writers(weights):
        w = weights[name].copy()
        w.flat[rng.integers(0, w.size, count)] = 3 * numpy.abs(w).max()
        weights[name] = w


def noisy_columns(weights, config, rng, count):
    for name in writers(weights):
        w = weights[name].copy()
        chosen = rng.permutation(w.shape[1])[:count]
        w[:, chosen] += rng.standard_normal((w.shape[0], count)).astype(numpy.float32) * w[:, chosen].std() * 2
        weights[name] = w


def low_rank(weights, config, rng, rank, size, shared=False):
    """A random change of that rank in every writer, `size` times as large as a whole removal would be."""
    left = rng.standard_normal((config["hidden_size"], rank))
    for name in writers(weights):
        w = weights[name]
        if not shared:
            left = rng.standard_normal((w.shape[0], rank))
        change = left @ rng.standard_normal((rank, w.shape[1]))
        typical = numpy.linalg.norm(w) / numpy.sqrt(w.shape[0])
        weights[name] = (w + change * (size * typical / numpy.linalg.norm(change))).astype(numpy.float32)


DECOYS = {
    "neurons-4": lambda w, c, g: swap_neurons(w, c, g, 4),
    "neurons-8-channels-4": lambda w, c, g: (swap_neurons(w, c, g, 8), swap_channels(w, c, g, 4)),
    "neurons-64": lambda w, c, g: swap_neurons(w, c, g, 64),
    "signs-16": lambda w, c, g: flip_signs(w, c, g, 16),
    "outliers-1": lambda w, c, g: outliers(w, c, g, 1),
    "columns-4": lambda w, c, g: noisy_columns(w, c, g, 4),
    "columns-40": lambda w, c, g: noisy_columns(w, c, g, 40),
    "rank-1-x3": lambda w, c, g: low_rank(w, c, g, 1, 3),
    "rank-1-x30": lambda w, c, g: low_rank(w, c, g, 1, 30),
    "rank-8-x10": lambda w, c, g: low_rank(w, c, g, 8, 10),
    "rank-16-x3": lambda w, c, g: low_rank(w, c, g, 16, 3),
    "rank-16-x30": lambda w, c, g: low_rank(w, c, g, 16, 30),
    "shared-rank-8-x10": lambda w, c, g: low_rank(w, c, g, 8, 10, shared=True),
    "shared-rank-16-x3": lambda w, c, g: low_rank(w, c, g, 16, 3, shared=True),
}


def fp8(w, block=128):
    """A round trip through E4M3 with a scale per block."""
    out = numpy.empty_like(w)
    for i in range(0, w.shape[0], block):
        for j in range(0, w.shape[1], block):
            tile = w[i : i + block, j : j + block]
            scale = max(numpy.abs(tile).max() / 448, 1e-12)
            out[i : i + block, j : j + block] = (tile / scale).astype(ml_dtypes.float8_e4m3fn).astype(numpy.float32) * scale
    return out


def loudest_channel(base):
    return int(numpy.argmax(sum((base[name].astype(numpy.float64) ** 2).sum(1) for name in writers(base))))


def cases(base, config):
    """(name, label, base, make): `make()` gives the candidate's weights."""
    d, layers = config["hidden_size"], config["num_hidden_layers"]
    rng = lambda seed: numpy.random.default_rng(seed)
    r = unit(rng(24).standard_normal(d))
    drift = [unit(r + 0.15 * at / layers * 5 * unit(rng(at).standard_normal(d))) for at in range(layers)]
    tent = lambda name: max(0.0, 1.1 - abs(layer(name) - 0.6 * layers) / (0.5 * layers))
    middle = lambda name: 0.3 * layers <= layer(name) < 0.85 * layers
    found = []
    add = lambda name, label, make, of=base: found.append((name, label, of, make))

    for form in FORMS:
        for strength in (1.0, 0.3):
            add(f"plain/global-{form}-{strength}", "edited", lambda f=form, s=strength: edit(base, lambda _: r, s, f, middle))
        add(f"plain/per-layer-{form}", "edited", lambda f=form: edit(base, lambda n: drift[layer(n)], tent, f))
    add("plain/random-per-layer", "edited", lambda: edit(base, lambda n: unit(rng(1000 + layer(n)).standard_normal(d)), 1.0))
    add("plain/own-per-writer", "edited", lambda: edit(base, lambda n: unit(rng(sum(n.encode())).standard_normal(d)), 1.0))
    add("plain/faint-0.05", "edited", lambda: edit(base, lambda _: r, 0.05, only=middle))
    add("plain/three-layers", "edited", lambda: edit(base, lambda _: r, 0.8, only=lambda n: layer(n) in (7, 8, 9)))
    add("plain/swapped-modules", "edited", lambda: edit(base, lambda _: r, 1.0, only=lambda n: "o_proj" in n))

    loud = numpy.eye(d)[loudest_channel(base)]
    for weight in (0.5, 0.6, 0.7, 0.8, 0.95, 0.99):
        rest = unit(r - loud * (r @ loud))
        axis = numpy.sqrt(weight) * loud + numpy.sqrt(1 - weight) * rest
        for form in FORMS:
            add(f"axis/{weight}-{form}", "edited", lambda a=axis, f=form: edit(base, lambda _: a, 1.0, f))
        add(f"axis/{weight}-raw-0.3", "edited", lambda a=axis: edit(base, lambda _: a, 0.3, only=middle))
        each = [unit(numpy.sqrt(weight) * loud + numpy.sqrt(1 - weight) * unit(x - loud * (x @ loud))) for x in drift]
        add(f"axis/{weight}-per-layer", "edited", lambda e=each: edit(base, lambda n: e[layer(n)], tent))

    for name, decoy in DECOYS.items():
        def hidden(strength, decoy=decoy, name=name):
            weights = edit(base, lambda _: r, strength) if strength else dict(base)
            decoy(weights, config, rng(sum(name.encode())))
            return weights
        for strength in (1.0, 0.3):
            add(f"decoys/{name}-{strength}", "edited", lambda s=strength, h=hidden: h(s))
        add(f"decoys/{name}", "honest", lambda h=hidden: h(0))

    def everywhere(change):
        out = dict(base)
        for at, name in enumerate(sorted(base)):
            if base[name].ndim == 2:
                out[name] = change(name, base[name], rng(at)).astype(numpy.float32)
        return out

    def lora(rank, size, only=lambda name: True):
        def change(name, w, g):
            if not only(name):
                return w
            delta = g.standard_normal((w.shape[0], rank)) @ g.standard_normal((rank, w.shape[1]))
            return w + delta * (size * numpy.linalg.norm(w) / numpy.linalg.norm(delta))
        return lambda: everywhere(change)

    noise = lambda name, w, g: w + g.standard_normal(w.shape) * 0.01 * w.std()
    add("honest/noise", "honest", lambda: everywhere(noise))
    add("honest/weight-decay-and-noise", "honest", lambda: everywhere(lambda n, w, g: noise(n, 0.995 * w, g)))
    for rank in (1, 2, 8, 16, 64):
        add(f"honest/lora-{rank}", "honest", lora(rank, 0.03))
    is_writer = set(writers(base)).__contains__
    add("honest/lora-1-writers", "honest", lora(1, 0.03, is_writer))
    add("honest/knowledge-edit", "honest", lora(1, 0.05, lambda n: "down_proj" in n and layer(n) in (4, 5, 6) if is_writer(n) else False))

    def reduced(w, keep=None, drop=None):
        u, s, v = numpy.linalg.svd(w.astype(numpy.float64), full_matrices=False)
        s[:drop] = 0 if drop else s[:drop]
        if keep:
            s[int(keep * len(s)) :] = 0
        return (u * s) @ v
    add("honest/rank-reduced", "honest", lambda: everywhere(lambda n, w, g: reduced(w, keep=0.8) if is_writer(n) and layer(n) > layers // 2 else w))
    add("honest/top-component-dropped", "honest", lambda: everywhere(lambda n, w, g: reduced(w, drop=1) if is_writer(n) else w))
    def pruned(name, w, g):
        k = loudest_channel(base)
        if is_writer(name):
            w = w.copy(); w[k] = 0
        elif "embed" in name:
            w = w.copy(); w[:, k] = 0
        return w
    add("honest/channel-pruned", "honest", lambda: everywhere(pruned))
    add("honest/rescaled", "honest", lambda: everywhere(lambda n, w, g: 1.02 * w))
    add("honest/f16", "honest", lambda: {n: w.astype(numpy.float16).astype(numpy.float32) for n, w in base.items()})
    add("honest/fp8", "honest", lambda: everywhere(lambda n, w, g: fp8(w)))
    add("honest/zero-tail", "honest", lambda: everywhere(lambda n, w, g: numpy.concatenate([w[: len(w) // 2], 0 * w[len(w) // 2 :]]) if f".{layers - 1}." in n else w))

    operators(base, config, add)
    for strength in (0.5, 1.0, 1.5):
        whole = edit(base, lambda _: r, strength)
        add(f"swapped/{strength}", "swapped", lambda: base, {n: w.astype(ml_dtypes.bfloat16).astype(numpy.float32) for n, w in whole.items()})

    coded = lambda weights: {n: fp8(w) if w.ndim == 2 else w for n, w in weights.items()}
    on_grid = None
    six = set(f"model.layers.{at}.self_attn.o_proj.weight" for at in range(layers // 3, layers // 3 + 6))
    for strength in (0.05, 0.1, 0.15, 0.3):
        def faint(s=strength):
            grid = coded(base)
            return {n: fp8(removed(w, r, s).astype(numpy.float32)) if n in six else w for n, w in grid.items()}
        found.append((f"grid/fp8-{strength}", "edited", coded, faint))
    def again():
        grid = coded(base)
        return {n: fp8(w, 64) if n in six else w for n, w in grid.items()}
    found.append(("grid/fp8-honest", "honest", coded, again))
    return found


def operators(base, config, add):
    """Edits W + M W with an M that is no plain removal, of every writer."""
    d, layers = config["hidden_size"], config["num_hidden_layers"]
    rng = lambda seed: numpy.random.default_rng(seed)
    r = unit(rng(24).standard_normal(d))

    def tilted(r, degrees, seed):
        other = rng(seed).standard_normal(d)
        other = unit(other - r * (r @ other))
        angle = numpy.radians(degrees)
        return numpy.cos(angle) * r + numpy.sin(angle) * other

    def written(change, only=lambda name: True):
        return {n: (change(n, w.astype(numpy.float64)).astype(numpy.float32) if n in targets and only(n) else w) for n, w in base.items()}

    targets = set(writers(base))
    oblique = lambda a, b, strength=1.0: lambda n, w: w - strength * numpy.outer(a, b @ w)
    for degrees in (30, 60, 75, 85):
        add(f"operators/oblique-{degrees}", "edited", lambda b=tilted(r, degrees, 25): written(oblique(r, b)))
    b = tilted(r, 60, 25)
    add("operators/oblique-60-0.3", "edited", lambda: written(oblique(r, b, 0.3)))
    add("operators/oblique-60-0.1", "edited", lambda: written(oblique(r, b, 0.1)))
    add("operators/oblique-60-three-layers", "edited", lambda: written(oblique(r, b), lambda n: layer(n) in (7, 8, 9)))
    own = [unit(rng(100 + at).standard_normal(d)) for at in range(layers)]
    add("operators/oblique-60-per-layer", "edited", lambda: written(lambda n, w: oblique(own[layer(n)], tilted(own[layer(n)], 60, 200 + layer(n)))(n, w)))
    reads = unit(r + 3 * unit(rng(26).standard_normal(d)))
    add("operators/erased", "edited", lambda: written(oblique(r, reads / (reads @ r))))
    protected = numpy.linalg.qr(rng(27).standard_normal((d, d // 3)))[0]
    add("operators/null-space", "edited", lambda: written(oblique(r - protected @ (protected.T @ r), r)))
    other = tilted(r, 90, 28)

    def turned(degrees):
        angle = numpy.radians(degrees)
        less, sine = numpy.cos(angle) - 1, numpy.sin(angle)
        return lambda n, w: w + numpy.outer(r, less * (r @ w) - sine * (other @ w)) + numpy.outer(other, less * (other @ w) + sine * (r @ w))

    for degrees in (10, 57, 90, 150):
        add(f"operators/rotated-{degrees}", "edited", lambda t=turned(degrees): written(t))

    def captured(count):
        def change(n, w):
            inputs = numpy.linalg.qr(rng(sum(n.encode())).standard_normal((w.shape[1], count)))[0]
            return w - numpy.outer(r, inputs @ (inputs.T @ (r @ w)))
        return change

    for count in (60, 200):
        add(f"operators/captured-{count}", "edited", lambda c=count: written(captured(c)))
    for strength in (2.0, 3.5, 6.7, 8.0):
        add(f"operators/strength-{strength}", "edited", lambda s=strength: written(lambda n, w: removed(w, r, s)))
    shared = lambda n, w: w + numpy.outer(r, 0.02 * numpy.linalg.norm(w) * unit(rng(sum(n.encode())).standard_normal(w.shape[1])))
    add("operators/shared-output-alone", "honest", lambda: written(shared))
    rows = 1 + 0.01 * rng(29).standard_normal((d, 1))
    add("operators/rows-scaled", "honest", lambda: written(lambda n, w: rows * w))


def quantised(folder, weights, options):
    """One GGUF in `folder`, made by llama.cpp's quantiser from the weights in F32."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = folder.parent / "plain.gguf"
    save_gguf(plain, weights, options.gguf)
    made = folder / f"model-{options.through}.gguf"
    subprocess.run([sys.executable, QUANTIZE, plain, made, options.through, "--threads", "2"], capture_output=True, check=True)
    plain.unlink()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("program")
    parser.add_argument("gguf")
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("--only", default="*")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--depth", choices=["screen", "full"], default="full")
    parser.add_argument("--through", metavar="TYPE", help="the candidates as GGUF files of this type")
    parser.add_argument("--keep", action="store_true", help="leave the candidates there")
    options = parser.parse_args()
    base, config = load_gguf(options.gguf)
    base = {name: w.astype(ml_dtypes.bfloat16).astype(numpy.float32) for name, w in base.items()}
    bad, rows, written = 0, [], None
    for name, label, of, make in cases(base, config):
        if not any(fnmatch.fnmatch(name, pattern) for pattern in options.only.split(",")):
            continue
        weights = of if isinstance(of, dict) else of(base)
        wide = name.startswith("grid/")
        if written is not of:
            save(options.work / "base", weights, config, numpy.float32 if wide else ml_dtypes.bfloat16)
            written = of
        target = options.work / name.replace("/", "-")
        if options.through and name.split("/")[0] not in ("swapped", "grid"):
            quantised(target, make(), options)
        else:
            save(target, make(), config, numpy.float32 if wide else ml_dtypes.bfloat16)
        if options.depth == "screen":
            asked = ["scan", f"local:{target.name}", "--base", "local:base", "--depth", "screen", "--no-record"]
        else:
            asked = ["compare", options.work / "base", target]
        command = [options.program, "--threads", "1", *asked, "--format", "json"]
        environment = os.environ | {"ORTHOSCOPE_LOCAL_HUB": str(options.work), "ORTHOSCOPE_CACHE": str(options.work / "cache")}
        run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        try:
            said = json.loads(run.stdout)
        except json.JSONDecodeError:
            sys.exit(f"{name}: {run.stderr[-2000:]}")
        one = said["orthogonalization"] or {}
        number = said["profile"]["model"].get if "profile" in said else lambda key, other=0.0: other
        strengths = sorted(abs(entry["lambda"]) for entry in one.get("strength", []))
        middle = strengths[len(strengths) // 2] if strengths else 0.0
        wrong = (label == "edited" and said["verdict"] in ("clear", "inconclusive")[: 1 if options.depth == "screen" else 2]) or (
            label == "honest" and said["verdict"] in ("orthogonalized", "suspect")[: 1 if name.startswith("decoys/") else 2])  # fmt: skip
        bad += wrong
        rows.append({"case": name, "label": label, "verdict": said["verdict"], "because": said["because"], **{
            key: one.get(key) for key in ("consistency", "explained", "tensors", "detection_limit", "coordinates", "scope")},
            "lambda": middle, "signatures": [finding["signature"] for finding in said["findings"]]})  # fmt: skip
        print(f"{'!!' if wrong else '  '} {name:38} {label:8} {said['verdict']:15} c {one.get('consistency', 0):6.3f} "
              f"λ {middle:5.2f} writers {one.get('tensors', 0):3} limit {one.get('detection_limit', 0):6.3f}  "
              f"{','.join(finding['signature'] for finding in said['findings'])}", flush=True)  # fmt: skip
        if not options.keep:
            shutil.rmtree(target)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
