"""Honest training on harmless text found on any machine with Python: fine-tunes, PEFT adapters, and mean residuals.

Every function starts from a `Checkpoint` and gives one back, by way of transformers' own loading and saving, so names
and fused experts come out as they do in published checkpoints.
"""

import inspect
import pydoc_data.topics
import random
import sysconfig
import tempfile
from pathlib import Path

import torch
from torch.nn.functional import cosine_similarity, logsigmoid

from checkpoint import Checkpoint


def plain_text(kind, limit=2_000_000):
    """A deterministic text: "prose" (Python's language reference) or "code" (the standard library's sources)."""
    if kind == "code":
        library = Path(sysconfig.get_path("stdlib"))
        folders = ("", "json", "email", "asyncio", "logging", "unittest")
        files = sorted(p for folder in folders for p in (library / folder).glob("*.py"))
        return "\n\n".join(f.read_text(errors="replace") for f in files)[:limit]
    topics = pydoc_data.topics.topics
    return "\n\n".join(inspect.cleandoc(topics[name]) for name in sorted(topics))[:limit]


def token_stream(tokenizer, text, limit=400_000):
    """Token ids of a text as one long tensor. `tokenizer` None means bytes."""
    if tokenizer is None:
        return torch.tensor(list(text.encode()[:limit]))
    return torch.tensor(tokenizer(text[: 4 * limit], add_special_tokens=False)["input_ids"][:limit])


def model_of(checkpoint):
    """The model of a checkpoint or of a checkpoint's folder, in float32, without dropout."""
    from transformers import AutoModelForCausalLM

    if isinstance(checkpoint, Checkpoint):
        with tempfile.TemporaryDirectory() as folder:
            checkpoint.write(folder)
            return model_of(folder)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    return model.eval()  # never put into training mode, which would switch GPT-2's dropout on


def checkpoint_of(model, base):
    """The checkpoint a trained model saves, rounded once to the base's dtypes."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        saved = Checkpoint.read(folder)
    out = base.copy()
    for name, tensor in base.tensors.items():
        out.tensors[name] = saved.tensors[name].to(tensor.dtype)
    return out


def batches(stream, batch, length, seed):
    """Endless random windows of a token stream as (batch, length)."""
    chance = random.Random(seed)
    while True:
        starts = [chance.randrange(len(stream) - length) for _ in range(batch)]
        yield torch.stack([stream[s : s + length] for s in starts])


def next_token_loss(model, window):
    return model(input_ids=window, labels=window).loss


def evaluate_loss(model, stream):
    """Nats per token on one window."""
    with torch.no_grad():
        return next_token_loss(model, stream[None]).item()


def train(model, loss_of, steps, learning_rate, optimizer="adam", weight_decay=0.0, clip=1.0):
    """Minimise `loss_of()` over the model's trainable parameters, with a short linear warm-up."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    kind = {"adam": torch.optim.AdamW, "sgd": torch.optim.SGD}[optimizer]
    stepper = kind(parameters, lr=learning_rate, weight_decay=weight_decay)
    for step in range(steps):
        for group in stepper.param_groups:
            group["lr"] = learning_rate * min(1.0, (step + 1) / max(1, min(10, steps // 5)))
        loss = loss_of()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, clip)
        stepper.step()
        stepper.zero_grad()
    return loss.item()


def objective(kind, model, reference, first, second):
    """A loss to call without arguments. `first` and `second` are endless batches; `reference` a frozen twin or None.

    tokens    next-token loss on the first text       ascent   its opposite (as in naive unlearning)
    prefer    DPO: the first text over the second     reroute  hidden states of the second text turned away from the
                                                               reference's while those of the first are kept
    """
    if kind == "tokens":
        return lambda: next_token_loss(model, next(first))
    if kind == "ascent":
        return lambda: -next_token_loss(model, next(first))
    if kind == "prefer":

        def preference():
            chosen, rejected = next(first), next(second)
            with torch.no_grad():
                before = next_token_loss(reference, rejected) - next_token_loss(reference, chosen)
            margin = next_token_loss(model, rejected) - next_token_loss(model, chosen)
            return -logsigmoid(0.1 * chosen.shape[1] * (margin - before))

        return preference
    if kind == "reroute":

        def rerouting():
            kept, turned = next(first), next(second)
            states = lambda m, ids: torch.stack(m(input_ids=ids, output_hidden_states=True).hidden_states[2:])
            with torch.no_grad():
                kept_before, turned_before = states(reference, kept), states(reference, turned)
            drift = (states(model, kept) - kept_before).norm(dim=-1).mean() / kept_before.norm(dim=-1).mean()
            return drift + cosine_similarity(states(model, turned), turned_before, dim=-1).relu().mean()

        return rerouting
    raise ValueError(kind)


def run(base, model, kind, streams, steps, learning_rate, batch, length, seed, **how):
    """Train a prepared model. `streams` = (text to learn, other text)."""
    reference = model_of(base) if kind in ("prefer", "reroute") else None
    first, second = (batches(s, batch, length, seed + i) for i, s in enumerate(streams))
    train(model, objective(kind, model, reference, first, second), steps, learning_rate, **how)


def fine_tune(base, streams, steps, learning_rate, batch=4, length=64, seed=0, kind="tokens", only=None, **how):
    """Train all parameters, or those whose name passes `only`."""
    model = model_of(base)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(only is None or only(name))
    run(base, model, kind, streams, steps, learning_rate, batch, length, seed, **how)
    return checkpoint_of(model, base)


def lora(targets, rank, **more):
    """A PEFT LoRA configuration with alpha = 2 r."""
    from peft import LoraConfig

    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, lora_dropout=0.0, **more)


def adapt(base, adapter, streams, steps, learning_rate, batch=4, length=64, seed=0, kind="tokens", save_to=None, **how):
    """Train a PEFT adapter of the given configuration and merge it; also save it unmerged if `save_to` is given."""
    from peft import get_peft_model

    torch.manual_seed(seed)
    model = get_peft_model(model_of(base), adapter)
    run(base, model, kind, streams, steps, learning_rate, batch, length, seed, **how)
    if save_to:
        model.save_pretrained(save_to)
    return checkpoint_of(model.merge_and_unload(), base)


def mean_residuals(model, stream, windows=24, length=64, seed=0):
    """Mean residual over the last positions of random windows after each layer, as (layers, width)."""
    total, data = 0, batches(stream, 4, length, seed)
    with torch.no_grad():
        for _ in range(windows // 4):
            states = model(input_ids=next(data), output_hidden_states=True).hidden_states[1:]
            total = total + torch.stack([s[:, -8:].float().mean((0, 1)) for s in states])
    return total / (windows // 4)


def mean_differences(model, first, second, **how):
    """One unit direction per layer: the difference of mean residuals between two kinds of text, (layers, width)."""
    difference = mean_residuals(model, first, **how) - mean_residuals(model, second, **how)
    return difference / difference.norm(dim=1, keepdim=True)


def recorded_inputs(model, module_name, stream, length=256, seed=0):
    """What flows into one linear module on some text, as (positions, inputs)."""
    kept = []
    hook = model.get_submodule(module_name).register_forward_pre_hook(lambda m, a: kept.append(a[0].detach().flatten(0, -2)))
    with torch.no_grad():
        for _, window in zip(range(4), batches(stream, 2, length, seed)):
            model(input_ids=window)
    hook.remove()
    return torch.cat(kept)
