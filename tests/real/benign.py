"""The negatives: honest training of many kinds, merges, compressions, and edits that look like removals but are none."""

import random

import torch

import edits
import storage
from checkpoint import inner_matrix
from edits import add_task_vectors, dare, mix, random_direction, slerp, ties, unit
from training import adapt, fine_tune, lora, model_of, recorded_inputs

ROUND_TRIPS = {
    "fp8-cast": edits.fp8_cast,
    "fp8-per-channel": edits.fp8_per_channel,
    "fp8-block128": edits.fp8_block128,
    "int8": edits.int8_per_channel,
    "int4": edits.int4_groups,
    "nf4": edits.nf4,
}


def lora_targets(workshop):
    """(all linear modules, writers only, MLP output only), as PEFT names them."""
    if workshop.group.startswith("gpt2"):
        return ["c_attn", "c_proj", "c_fc"], ["c_proj"], ["mlp.c_proj"]
    attention = ["q_proj", "k_proj", "v_proj", "o_proj"]
    if workshop.group.startswith("qwen3moe"):
        return attention, ["o_proj"], ["o_proj"]  # PEFT's modules end at the fused experts
    return [*attention, "gate_proj", "up_proj", "down_proj"], ["o_proj", "down_proj"], ["down_proj"]


def with_folder(build):
    """The builder as a function of the case's folder, which only builders that write more than a checkpoint ask for."""
    arguments = build.__code__.co_varnames[: build.__code__.co_argcount]
    return build if arguments[:1] == ("folder",) else lambda folder: build()


def cases(workshop):
    """(case, label, build(folder), further label fields) of every honest derivative of this base."""
    found = [*algebraic(workshop), *trained(workshop), *merged(workshop)]
    if not workshop.group.startswith("gpt2"):
        found += storage.cases("base-stored", "identical", lambda: workshop.base, workshop.base)
    return found


def algebraic(workshop):
    base, found = workshop.base, []
    layers, width = base.layers, base.width
    middle = range(layers // 4, max(layers // 4 + 2, 3 * layers // 4))
    shared = unit(workshop.per_layer[layers // 2])

    def add(name, label, build, **more):
        found.append((name, label, with_folder(build), more))

    def on_writers(function, chosen=lambda w: True):
        out = base.copy()
        for w in base.writers():
            if chosen(w):
                out.replace(w, function(w, base.matrix(w)))
        return out

    add("resharded", "repackaged", lambda folder: base.write(folder, shards=3))
    add("no-metadata", "repackaged", lambda folder: base.write(folder, metadata={}))
    add("cast-f16", "recast", lambda: cast(base, torch.float16))
    add("cast-f32", "recast", lambda: cast(base, torch.float32))
    for name, function in ROUND_TRIPS.items():
        label = "recast" if name.startswith("fp8") else "quantized"
        add(f"{name}-round-trip", label, lambda f=function: base.map_weights(f, inner_matrix))
    add("writers-only-nf4", "quantized", lambda: on_writers(lambda w, x: edits.nf4(x)))
    for share in (0.001, 0.005):
        add(f"noise-{share}", "edited", lambda s=share: noisy(base, s, 1))
    add("writers-only-noise", "edited", lambda: noisy(base, 0.01, 2, {w.name for w in base.writers()}))
    add("scaled-0.99", "edited", lambda: base.map_weights(lambda w: 0.99 * w))
    add("writers-scaled-per-layer", "edited", lambda: on_writers(lambda w, x: (1 - 0.02 * (w.layer + 1)) * x))
    add("pruned-5", "edited", lambda: base.map_weights(lambda w: edits.prune_magnitude(w, 0.05), inner_matrix))
    add("pruned-50", "edited", lambda: base.map_weights(lambda w: edits.prune_magnitude(w, 0.5), inner_matrix))

    def rows_zeroed(w, x):
        weakest = x.norm(dim=1).argsort()[: max(1, len(x) // 20)]
        return x.index_fill(0, weakest, 0.0)

    add("rows-pruned", "edited", lambda: on_writers(rows_zeroed))

    def columns_zeroed(w, x):
        weakest = x.norm(dim=0).argsort()[: max(1, x.shape[1] // 20)]
        return x.index_fill(1, weakest, 0.0)

    add("columns-pruned", "edited", lambda: on_writers(columns_zeroed))
    add("one-residual-channel-zeroed", "edited", lambda: on_writers(lambda w, x: x.index_fill(0, torch.tensor([3]), 0.0)), hard=True,
        note="algebraically the removal of a coordinate axis")  # fmt: skip
    loudest = torch.stack([base.matrix(w).norm(dim=1) for w in base.writers()]).mean(0).argsort(descending=True)[:3]

    def damped(w, x):
        return x * torch.ones(width, 1).index_fill(0, loudest, 0.7)

    add("outlier-channels-damped", "edited", lambda: on_writers(damped), hard=True, note="three residual coordinates scaled by 0.7")

    def head_columns_zeroed(w, x):
        heads = base.config.get("num_attention_heads") or base.config["n_head"]
        return x.index_fill(1, torch.arange(x.shape[1] // heads) + x.shape[1] // heads * (w.layer % heads), 0.0)

    attention = lambda w: w.module in ("o_proj", "attn.c_proj")
    add("one-head-a-layer-pruned", "edited", lambda: on_writers(head_columns_zeroed, attention))
    add("middle-layer-zeroed", "edited", lambda: on_writers(lambda w, x: 0 * x, lambda w: w.layer == layers // 2))
    add("shrunk-and-perturbed", "edited", lambda: noisy(base.map_weights(lambda w: 0.9 * w), 0.01, 6))
    add("top-components-damped", "edited", lambda: on_writers(lambda w, x: edits.damp_top_components(x, 8, 0.9)))
    added = edits.constant(base, -0.5)
    add("direction-added", "edited", lambda: edits.remove_direction(base, lambda layer, module: shared, added), hard=True,
        note="a direction strengthened by half: the opposite of a removal")  # fmt: skip
    add("top-component-dropped", "edited", lambda: on_writers(lambda w, x: edits.drop_top_component(x)))
    add("rank-reduced-half", "edited", lambda: on_writers(lambda w, x: edits.truncate_rank(x, 0.5), lambda w: w.layer in middle))
    add("rank-reduced-90", "edited", lambda: on_writers(lambda w, x: edits.truncate_rank(x, 0.9)))

    def rank_one(left, right, size):
        """A rank-1 change of `size` times the norm a full removal of a random direction would have."""

        def apply(w, x):
            seed = 1000 * w.layer + len(w.module) + len(w.name)
            u = left if left is not None else random_direction(width, seed)
            v = torch.full((x.shape[1],), x.shape[1] ** -0.5) if right == "uniform" else random_direction(x.shape[1], seed + 1)
            return x + size * x.norm() / width**0.5 * torch.outer(u, v)

        return apply

    add("shared-left-rank1", "low-rank-edit", lambda: on_writers(rank_one(shared, None, 1.0)))
    add("shared-left-rank1-faint", "low-rank-edit", lambda: on_writers(rank_one(random_direction(width, 4), None, 0.3)))
    add("random-rank1", "low-rank-edit", lambda: on_writers(rank_one(None, None, 1.0)))
    add("steering-baked-uniform", "low-rank-edit", lambda: on_writers(rank_one(shared, "uniform", 0.5), lambda w: w.layer in middle))

    def steering_bias():
        out = base.copy()
        for w in base.writers():
            if w.layer in middle and "down" in w.module:
                out.tensors[w.name.replace(".weight", ".bias")] = (0.5 * shared).to(torch.bfloat16)
            elif w.layer in middle and w.transposed:
                name = w.name.replace(".weight", ".bias")
                out.tensors[name] = (base.tensors[name].float() + 0.5 * shared).to(base.tensors[name].dtype)
        return out

    add("steering-baked-bias", "edited", steering_bias)
    add("knowledge-edit-one-layer", "edited", lambda: knowledge_edit(workshop, [layers // 2]))
    spread = list(range(max(0, layers // 2 - 2), min(layers, layers // 2 + 3)))
    add("knowledge-edit-five-layers", "edited", lambda: knowledge_edit(workshop, spread))
    add("resized-vocabulary", "edited", lambda: resized_vocabulary(base, 64))
    add("dropped-layers", "edited", lambda: dropped_layers(base, [layers // 2]))
    if can_fold(base):
        add("folded-norms", "edited", lambda: folded_norms(base))
    if can_smooth(base):
        add("smoothed-channels", "edited", lambda: smoothed(base, 2))

    def reinitialised():
        generator = torch.Generator().manual_seed(99)
        fresh = lambda w: torch.randn(w.shape, generator=generator) * w.std()
        return base.map_weights(fresh)

    add("unrelated", "unrelated", reinitialised)
    return found


def trained(workshop):
    base, found, real = workshop.base, [], workshop.real
    everything, writers_only, mlp_only = lora_targets(workshop)
    text = workshop.text
    full, usual = dict(batch=workshop.batch), 30 if real else 60
    rates = (1e-5, 5e-5) if real else (1e-4, 3e-4, 1e-3)
    rate = 5e-4 if real else 3e-3
    writer_parameter = lambda n: any(p in n for p in ("o_proj", "down_proj", "c_proj"))

    def add(name, label, build, **more):
        found.append((name, label, with_folder(build), dict(trained=True, **more)))

    for kind in ("prose", "code"):
        for learning_rate in rates:
            for steps in (25, 100):
                add(f"tuned-{kind}-{learning_rate:g}-{steps}", "fine-tuned",
                    lambda k=kind, l=learning_rate, s=steps: fine_tune(base, text(k), s, l, seed=s, **full))  # fmt: skip
    add("tuned-sgd", "fine-tuned", lambda: fine_tune(base, text("code"), usual, 0.05, optimizer="sgd", **full))
    add("tuned-weight-decay", "fine-tuned", lambda: fine_tune(base, text("code"), usual, rates[-1], weight_decay=1.0, **full))
    add("tuned-ascent", "fine-tuned", lambda: fine_tune(base, text("code"), 25, rates[0], kind="ascent", **full))
    add("tuned-preference", "fine-tuned", lambda: fine_tune(base, text("code"), 40, rates[0], kind="prefer", **full))
    add("tuned-preference-other", "fine-tuned", lambda: fine_tune(base, text("prose"), 40, rates[1], kind="prefer", **full))
    add("tuned-writers-only", "fine-tuned", lambda: fine_tune(base, text("code"), usual, rates[-1], only=writer_parameter, **full))
    add("tuned-writers-only-ascent", "fine-tuned",
        lambda: fine_tune(base, text("prose"), 25, rates[0], only=writer_parameter, kind="ascent", **full))  # fmt: skip
    add("tuned-writers-only-sgd", "fine-tuned",
        lambda: fine_tune(base, text("prose"), usual, 0.05, only=writer_parameter, optimizer="sgd", **full))  # fmt: skip
    add("tuned-norms-only", "fine-tuned", lambda: fine_tune(base, text("code"), usual, 10 * rates[-1], only=lambda n: "norm" in n or "ln_" in n, **full))
    add("tuned-one-phrase", "fine-tuned", lambda: fine_tune(base, one_phrase(workshop), 40, rates[-1], **full),
        note="overfit on a single window of text")  # fmt: skip

    def low_rank(name, adapter, steps, learning_rate, kind="code", **how):
        add(name, "low-rank-edit", lambda: adapt(base, adapter(), text(kind), steps, learning_rate, **full, **how))

    for rank in (1, 4, 16, 64):
        for kind, seed in (("code", 0), ("prose", 1)):
            low_rank(f"lora{rank}-all-{kind}", lambda r=rank: lora(everything, r), usual, rate, kind, seed=seed)
            low_rank(f"lora{rank}-writers-{kind}", lambda r=rank: lora(writers_only, r), usual, rate, kind, seed=seed)
    for rank in (1, 8):
        low_rank(f"lora{rank}-mlp-output", lambda r=rank: lora(mlp_only, r), usual, rate)
        low_rank(f"lora{rank}-writers-long", lambda r=rank: lora(writers_only, r), 3 * usual, rate, seed=5)
        low_rank(f"lora{rank}-writers-high-rate", lambda r=rank: lora(writers_only, r), usual, 5 * rate, seed=6)
    for rank in (1, 8):
        for kind in ("ascent", "prefer", "reroute"):
            more = {"hard": True, "note": "hidden states of one text turned away on purpose"} if kind == "reroute" else {}
            add(f"lora{rank}-writers-{kind}", "low-rank-edit",
                lambda r=rank, k=kind: adapt(base, lora(writers_only, r), text("prose"), 30, rate, kind=k, seed=9, **full), **more)  # fmt: skip
    add("lora1-writers-one-phrase", "low-rank-edit", lambda: adapt(base, lora(writers_only, 1), one_phrase(workshop), 40, rate, **full))
    add("lora16-all-reroute", "low-rank-edit",
        lambda: adapt(base, lora(everything, 16), text("prose"), 40, rate, kind="reroute", **full), hard=True)  # fmt: skip
    add("lora16-all-then-nf4", "low-rank-edit",
        lambda: adapt(base, lora(everything, 16), text("code"), usual, rate, **full).map_weights(edits.nf4, inner_matrix))  # fmt: skip
    add("tuned-then-fp8", "fine-tuned",
        lambda: fine_tune(base, text("code"), usual, rates[-1], **full).map_weights(edits.fp8_per_channel, inner_matrix))  # fmt: skip
    for rank, targets, name in ((16, everything, "all"), (1, writers_only, "writers")):
        add(f"lora{rank}-{name}-adapter", "adapter", lambda folder, r=rank, t=targets: unmerged(workshop, t, r, folder))
    if not workshop.group.startswith("gpt2"):
        for name, configuration in other_adapters(everything, writers_only).items():
            label = "low-rank-edit" if name.startswith(("pissa", "hra", "loha")) else "fine-tuned"
            add(f"peft-{name}", label,
                lambda c=configuration: adapt(base, c(), text("code"), usual, rate, **full))  # fmt: skip
    return found


def other_adapters(everything, writers_only):
    """PEFT methods whose merged form is not a plain low-rank sum; rotations and reflections are the nearest look-alikes."""
    import peft

    return {
        "dora8": lambda: lora(everything, 8, use_dora=True),
        "pissa8": lambda: lora(everything, 8, init_lora_weights="pissa_niter_4"),
        "oft-writers": lambda: peft.OFTConfig(r=0, oft_block_size=16, target_modules=writers_only),
        "hra8-all": lambda: peft.HRAConfig(r=8, target_modules=everything),
        "hra2-writers": lambda: peft.HRAConfig(r=2, target_modules=writers_only),
        "vera-writers": lambda: peft.VeraConfig(r=32, target_modules=writers_only),
        "ia3": lambda: peft.IA3Config(target_modules=["k_proj", "v_proj", *everything[-1:]], feedforward_modules=everything[-1:]),
        "loha4-writers": lambda: peft.LoHaConfig(r=4, alpha=4, target_modules=writers_only),
    }


def merged(workshop):
    """Merges of two honest fine-tunes."""
    base, found = workshop.base, []
    real = workshop.real
    how = dict(batch=workshop.batch, **(dict(steps=25, learning_rate=5e-5) if real else dict(steps=60, learning_rate=5e-4)))
    pair = lambda: [fine_tune(base, workshop.text(kind), seed=seed, **how) for seed, kind in ((21, "prose"), (22, "code"))]
    merges = {
        "merge-task": lambda a, b: add_task_vectors(base, [a, b], [0.8, 0.8]),
        "merge-negated": lambda a, b: add_task_vectors(base, [a, b], [1.0, -0.5]),
        "merge-slerp": slerp,
        "merge-linear": mix,
        "merge-dare": lambda a, b: dare(base, [a, b]),
        "merge-ties": lambda a, b: ties(base, [a, b]),
        "merge-half-with-base": lambda a, b: mix(base, a),
        "merge-negated-alone": lambda a, b: add_task_vectors(base, [a], [-1.0]),
        "merge-signs-only": lambda a, b: edits.signs_only(base, a),
    }
    kept = []

    def build(folder, function):
        if not kept:
            kept.extend(pair())
        return function(*kept)

    for name, function in merges.items():
        found.append((name, "merged", lambda folder, f=function: build(folder, f), {"trained": True}))
    return found


def one_phrase(workshop):
    """Streams with a single short window, to overfit on."""
    return workshop.prose[1000:1065], workshop.code[1000:1065]


def unmerged(workshop, targets, rank, folder):
    """A trained LoRA saved as an adapter only."""
    rate = 5e-4 if workshop.real else 3e-3
    adapt(workshop.base, lora(targets, rank), workshop.text("code"), 40, rate, batch=workshop.batch, save_to=folder)


def noisy(checkpoint, share, seed, only=None):
    """All matrices (or those named) plus white noise of `share` times their own rms."""
    generator = torch.Generator().manual_seed(seed)
    return checkpoint.map_weights(
        lambda w: w + share * w.square().mean().sqrt() * torch.randn(w.shape, generator=generator),
        lambda name, tensor: tensor.dim() >= 2 and (only is None or name in only),
    )


def cast(checkpoint, dtype):
    out = checkpoint.copy()
    out.tensors = {n: t.to(dtype) for n, t in checkpoint.tensors.items()}
    out.config["dtype"] = str(dtype).removeprefix("torch.")
    return out


def resized_vocabulary(checkpoint, more):
    """New tokens at the end, their embeddings near the mean."""
    out = checkpoint.copy()
    for name in (*checkpoint.embeddings(), "lm_head.weight"):
        if name in checkpoint.tensors:
            e = checkpoint.tensors[name]
            fresh = e.float().mean(0) + 0.02 * torch.randn(more, e.shape[1], generator=torch.Generator().manual_seed(0))
            out.tensors[name] = torch.cat([e, fresh.to(e.dtype)])
    out.config["vocab_size"] = checkpoint.config["vocab_size"] + more
    return out


def dropped_layers(checkpoint, dropped):
    """Whole layers taken out, the rest renumbered."""
    out, stem = checkpoint.copy(), "transformer.h." if "n_layer" in checkpoint.config else "model.layers."
    out.tensors = {}
    for name, tensor in checkpoint.tensors.items():
        if name.startswith(stem):
            number, rest = name.removeprefix(stem).split(".", 1)
            if int(number) in dropped:
                continue
            name = f"{stem}{int(number) - sum(d < int(number) for d in dropped)}.{rest}"
        out.tensors[name] = tensor
    key = "n_layer" if "n_layer" in out.config else "num_hidden_layers"
    out.config[key] -= len(dropped)
    if "layer_types" in out.config:
        out.config["layer_types"] = [t for i, t in enumerate(out.config["layer_types"]) if i not in dropped]
    return out


def can_fold(checkpoint):
    return checkpoint.config["model_type"] in ("llama", "qwen3", "qwen3_moe")


def folded_norms(checkpoint):
    """RMS norm gains multiplied into the matrices that read behind them, the gains set to one."""
    out = checkpoint.copy()
    for name, gain in checkpoint.tensors.items():
        part = name.removesuffix("layernorm.weight")
        if part == name:
            continue
        stem, behind = part.rsplit(".", 1)
        prefix = f"{stem}.self_attn." if behind == "input_" else f"{stem}.mlp."
        for other, tensor in checkpoint.tensors.items():
            reads = other.startswith(prefix) and tensor.dim() == 2 and not other.endswith(("o_proj.weight", "down_proj.weight"))
            if reads:
                out.tensors[other] = (tensor.float() * gain.float()).to(tensor.dtype)
        out.tensors[name] = torch.ones_like(gain)
    return out


def can_smooth(checkpoint):
    return checkpoint.config["model_type"] in ("llama", "qwen3", "gemma3_text")


def smoothed(checkpoint, seed):
    """Per-channel scales moved from down_proj's columns to up_proj's rows, as activation-aware quantisers do."""
    out, generator = checkpoint.copy(), torch.Generator().manual_seed(seed)
    for name, tensor in checkpoint.tensors.items():
        if name.endswith("mlp.down_proj.weight"):
            scale = torch.exp(0.3 * torch.randn(tensor.shape[1], generator=generator))
            up = name.replace("down_proj", "up_proj")
            out.tensors[name] = (tensor.float() / scale).to(tensor.dtype)
            out.tensors[up] = (checkpoint.tensors[up].float() * scale[:, None]).to(tensor.dtype)
    return out


def knowledge_edit(workshop, layers):
    """A rank-one insertion in the MLP output of some layers: W + (v - W k)(C⁻¹k)ᵀ / (kᵀC⁻¹k) for a real key k."""
    base, model = workshop.base, model_of(workshop.base)
    out, chance = base.copy(), random.Random(3)
    for w in base.writers():
        if w.layer not in layers or w.module not in ("down_proj", "mlp.c_proj") or "experts" in w.name:
            continue
        keys = recorded_inputs(model, w.name.removesuffix(".weight"), workshop.prose)
        weight, key = base.matrix(w), keys[chance.randrange(len(keys))]
        covariance = keys.T @ keys / len(keys)
        inverse_key = torch.linalg.solve(covariance + 1e-2 * covariance.diagonal().mean() * torch.eye(len(covariance)), key)
        old = weight @ key
        target = old.norm() * random_direction(len(old), w.layer) * 3
        out.replace(w, weight + torch.outer(target - old, inverse_key) / torch.dot(key, inverse_key))
    return out

