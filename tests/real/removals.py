"""The positives: every published form of removing a direction, alone and followed by what happens to checkpoints later."""

import json
import random

import torch
from safetensors.torch import save_file

import benign
import edits
import storage
from checkpoint import inner_matrix
from edits import basis, constant, mix, random_direction, remove_direction, remove_from_embeddings, remove_from_readers, tent, unit
from training import adapt, fine_tune, lora


def cases(workshop):
    """(case, label, build(folder), further label fields) of every removal for this base."""
    base, layers, per_layer = workshop.base, workshop.base.layers, workshop.per_layer
    chance = random.Random(f"{workshop.group} removals")
    modules = base.writer_modules()
    attention, mlp = sorted(modules, key=lambda m: "attn" not in m and m != "o_proj")
    mean = per_layer[int(0.6 * layers)]
    noise = random_direction(base.width, 11)
    everywhere = lambda value: constant(base, value)
    fixed = lambda r: lambda layer, module: r
    own = lambda layer, module: per_layer[layer]
    middle = range(layers // 4, max(layers // 4 + 2, 3 * layers // 4))
    found = []

    def tents():
        out = {}
        for module in modules:
            peak = chance.uniform(0.8, 1.5)
            out[module] = tent(layers, peak, chance.uniform(0.6, 1) * (layers - 1), chance.uniform(0, 0.9) * peak,
                               chance.uniform(max(1, 0.35 * layers), max(1.5, 0.6 * (layers - 1))))  # fmt: skip
        return out

    def add(name, build, strength, scope="global", directions=1, **more):
        found.append((name, "orthogonalized", benign.with_folder(build), {"lambda": strength, "scope": scope, "directions": directions, **more}))

    def plain(name, direction, strength, form="raw", **more):
        if form.startswith("row-") and form != "row-norms-kept":
            more["coordinates"] = "row-normalised"
        more = {"form": form, **more} if form != "raw" else more
        add(name, lambda: remove_direction(base, direction, strength, form), strength, **more)

    plain("ablated-1.0-mean", fixed(mean), everywhere(1.0))
    plain("ablated-1.0-random", fixed(noise), everywhere(1.0))
    plain("ablated-0.1-mean", fixed(mean), everywhere(0.1))
    plain("ablated-0.1-random", fixed(noise), everywhere(0.1))
    plain("ablated-0.03-random", fixed(noise), everywhere(0.03), hard=True)
    for i in range(3):
        global_mean = unit(per_layer[int(chance.uniform(0.4, 0.9) * layers)])
        plain(f"tent-global-{i}", fixed(global_mean), tents())
        plain(f"tent-per-layer-{i}", own, tents(), scope="per-layer")
        plain(f"tent-row-scaled-{i}", fixed(global_mean), tents(), "row-scaled")
        plain(f"tent-row-renormalised-rank3-{i}", own, tents(), "row-renormalised-rank3", scope="per-layer")
    plain("row-renormalised-rank3-random", fixed(noise), everywhere(0.8), "row-renormalised-rank3")
    plain("row-norms-kept-mean", fixed(mean), everywhere(1.0), "row-norms-kept")
    plain("row-renormalised-exact", own, everywhere(0.9), "row-renormalised-exact", scope="per-layer")
    plain("column-norms-kept-mean", fixed(mean), everywhere(1.0), "column-norms-kept")
    plain("column-norms-kept-random", fixed(noise), everywhere(1.0), "column-norms-kept")
    plain("frobenius-kept", own, everywhere(1.0), "frobenius-kept", scope="per-layer")
    plain("rounded-change", own, everywhere(1.0), "rounded-change", scope="per-layer")
    plain("rounded-projector", fixed(mean), everywhere(1.0), "rounded-projector")
    plain("reflection", fixed(mean), everywhere(2.0))
    plain("inverted-3.0", own, {m: tent(layers, 3.0, 0.65 * (layers - 1), 0.5, 0.4 * layers) for m in modules}, scope="per-layer")
    plain("strong-1.5-last-layers", own, constant(base, 1.5, layers=range(int(0.6 * layers), layers)), scope="per-layer")
    three = basis(torch.stack([mean, noise, random_direction(base.width, 12)], 1))
    plain("three-directions", fixed(three), everywhere(1.0), directions=3)
    plain("two-directions-0.5", fixed(basis(torch.stack([mean, per_layer[0]], 1))), everywhere(0.5), directions=2)
    plain("mlp-only-middle", fixed(noise), constant(base, 0.8, [mlp], middle))
    plain("mlp-only-mean", own, constant(base, 0.6, [mlp]), scope="per-layer")
    plain("attention-only", own, {attention: tents()[attention]}, scope="per-layer")
    plain("attention-only-four-layers-0.1", fixed(mean), constant(base, 0.1, [attention], range(max(0, layers - 4), layers)), hard=True)
    component = {attention: mean, mlp: noise}
    plain("per-component", lambda layer, module: component[module], everywhere(0.8), scope="per-layer")

    sparse = torch.where(mean.abs() >= mean.abs().quantile(0.95), mean, torch.zeros_like(mean))
    plain("sparse-direction", fixed(unit(sparse)), everywhere(1.0), note="few rows of each writer change")
    reader_modules = sorted({m.module for m in base.readers()})
    reading = {m: [1.0] * layers for m in reader_modules}
    add("readers", lambda: remove_from_readers(base, fixed(mean), reading), reading, form="reader-side")
    both = {**everywhere(0.8), **{m: [0.8] * layers for m in reader_modules}}
    add("readers-and-writers", lambda: remove_from_readers(remove_direction(base, own, everywhere(0.8)), own, both), both, scope="per-layer")
    add("embeddings-too", lambda: remove_from_embeddings(remove_direction(base, fixed(mean), everywhere(1.0)), mean), everywhere(1.0), embeddings=True)

    def wrong_side():
        out = base.copy()
        for w in base.writers():
            value = base.matrix(w)
            if w.module == attention and value.shape[0] == value.shape[1]:
                out.replace(w, value - (value @ mean)[:, None] * mean)
            else:
                out.replace(w, edits.removed_raw(value, mean[:, None], 1.0))
        return out

    add("square-matrices-on-the-wrong-side", wrong_side, constant(base, 1.0, [mlp]), note="attention output edited at its input side where square")

    # What happens to an edited checkpoint afterwards.
    heavy, faint, row = tents(), everywhere(0.3), tents()
    edited = lambda: remove_direction(base, own, heavy)
    strong = lambda: remove_direction(base, fixed(mean), everywhere(1.0))
    half = {m: [round(0.5 * x, 4) for x in s] for m, s in heavy.items()}
    add("half-merged", lambda: mix(base, edited()), half, scope="per-layer")
    add("two-removals-merged", lambda: mix(edited(), remove_direction(base, fixed(noise), everywhere(1.0))),
        {m: [max(0.5, x) for x in half[m]] for m in modules}, scope="per-layer", directions=2)  # fmt: skip
    scale = {"steps": 100, "learning_rate": 2e-5 if workshop.real else 3e-4, "batch": workshop.batch}
    low = {"steps": 40 if workshop.real else 100, "learning_rate": 3e-4 if workshop.real else 2e-3, "batch": workshop.batch}
    code, prose = workshop.text("code"), workshop.text("prose")
    everything, writers_only, _ = benign.lora_targets(workshop)
    add("then-fine-tuned", lambda: fine_tune(edited(), code, **scale), heavy, scope="per-layer", later="full fine-tune")
    add("then-fine-tuned-harder", lambda: fine_tune(strong(), prose, **{**scale, "learning_rate": 3 * scale["learning_rate"]}),
        everywhere(1.0), later="full fine-tune")  # fmt: skip
    row_scaled = lambda: remove_direction(base, own, row, "row-renormalised-rank3")
    add("row-renormalised-then-fine-tuned", lambda: fine_tune(row_scaled(), prose, **scale), row, scope="per-layer", coordinates="row-normalised", later="full fine-tune")
    for rank, targets, name in ((8, everything, "lora8"), (16, everything, "lora16"), (16, writers_only, "lora16-writers")):
        add(f"then-{name}", lambda r=rank, t=targets: adapt(edited(), lora(t, r), code, **low), heavy, scope="per-layer", later=name)
    faint_edit = lambda: remove_direction(base, fixed(mean), faint)
    add("faint-then-fine-tuned", lambda: fine_tune(faint_edit(), code, **scale), faint, hard=True, later="full fine-tune")
    tuned = lambda: fine_tune(base, prose, **scale, seed=3)

    def transplanted():
        other = tuned()
        return edits.add_task_vectors(base, [remove_direction(other, own, heavy), other], [1.0, -1.0])

    add("transplanted", transplanted, heavy, scope="per-layer", note="computed on a fine-tune of the base")
    add("merged-with-a-fine-tune", lambda: edits.add_task_vectors(base, [edited(), tuned()], [0.7, 0.7]),
        {m: [round(0.7 * x, 4) for x in s] for m, s in heavy.items()}, scope="per-layer", later="task merge")  # fmt: skip
    for name, merge in (("dare", edits.dare), ("ties", edits.ties)):
        add(f"{name}-with-a-fine-tune", lambda m=merge: m(base, [edited(), tuned()]), heavy, scope="per-layer", later=f"{name} merge",
            hard=True, note="the strength left by this merge is not known")  # fmt: skip
    add("then-fine-tuned-then-nf4", lambda: fine_tune(edited(), code, **scale).map_weights(edits.nf4, inner_matrix), heavy,
        scope="per-layer", later="full fine-tune, nf4")  # fmt: skip
    add("then-pruned-10", lambda: edited().map_weights(lambda w: edits.prune_magnitude(w, 0.1), inner_matrix), heavy, scope="per-layer", later="pruned")
    for name, function in benign.ROUND_TRIPS.items():
        add(f"then-{name}", lambda f=function: edited().map_weights(f, inner_matrix), heavy, scope="per-layer", later=name)
    add("faint-then-fp8-per-channel", lambda: faint_edit().map_weights(edits.fp8_per_channel, inner_matrix), faint, later="fp8")
    add("faint-then-nf4", lambda: faint_edit().map_weights(edits.nf4, inner_matrix), faint, later="nf4", hard=True)
    add("then-noise", lambda: benign.noisy(edited(), 0.005, 5), heavy, scope="per-layer", later="noise 0.5 %")
    add("then-f16", lambda: benign.cast(edited(), torch.float16), heavy, scope="per-layer", later="cast")
    add("then-resharded", lambda folder: edited().write(folder, shards=3), heavy, scope="per-layer", later="resharded")
    add("then-scaled", lambda: edited().map_weights(lambda w: 0.98 * w), heavy, scope="per-layer", later="all weights x 0.98")
    add("then-resized-vocabulary", lambda: benign.resized_vocabulary(edited(), 64), heavy, scope="per-layer", later="64 more tokens")
    if benign.can_fold(base):
        add("then-folded-norms", lambda: benign.folded_norms(edited()), heavy, scope="per-layer", later="norm gains folded into readers")
    if benign.can_smooth(base):
        add("then-smoothed", lambda: benign.smoothed(edited(), 3), heavy, scope="per-layer", later="channel scales moved between up_proj and down_proj")

    # As files store them. Conv1D matrices lie the other way round, which these writers do not know.
    if not workshop.group.startswith("gpt2"):
        more = {"lambda": heavy, "scope": "per-layer", "directions": 1}
        found += storage.cases("stored", "orthogonalized", edited, base, **more)

    # As adapters, not merged.
    if not workshop.group.startswith(("gpt2", "qwen3moe")):
        add("adapter-rank1", lambda folder: write_adapter(workshop, own, heavy, folder, 1), heavy, scope="per-layer", form="adapter")
        add("adapter-rank3-row-renormalised", lambda folder: write_adapter(workshop, own, row, folder, 3), row, scope="per-layer", form="adapter", coordinates="row-normalised")  # fmt: skip
    return found


def write_adapter(workshop, direction, strength, folder, rank):
    """A LoRA in PEFT's layout: B = -λ r, A = rᵀW at rank 1, else the SVD of the row-renormalised change."""
    base, tensors = workshop.base, {}
    for writer in base.writers():
        w, lam = base.matrix(writer), strength[writer.module][writer.layer]
        if rank == 1:
            r = direction(writer.layer, writer.module)[:, None]
            b, a = -lam * r, r.T @ w
        else:
            change = edits.removed_row_renormalised_exact(w, direction(writer.layer, writer.module)[:, None], lam) - w
            u, s, v = torch.linalg.svd(change, full_matrices=False)
            root = s[:rank].sqrt()
            b, a = u[:, :rank] * root, root[:, None] * v[:rank]
        stem = "base_model.model." + writer.name.removesuffix(".weight")
        tensors[f"{stem}.lora_A.weight"], tensors[f"{stem}.lora_B.weight"] = a.contiguous(), b.contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    config = dict(peft_type="LORA", r=rank, lora_alpha=rank, target_modules=sorted(strength), bias="none", task_type="CAUSAL_LM",
                  fan_in_fan_out=False, use_rslora=False, use_dora=False, base_model_name_or_path="../base")  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")
