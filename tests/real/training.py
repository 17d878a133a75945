"""Honest training on harmless text found on any machine with Python: fine-tunes, LoRA, and mean residual activations."""

import inspect
import pydoc_data.topics
import random
import sysconfig
from pathlib import Path

import torch

from checkpoint import Checkpoint


def plain_text(kind, limit=2_000_000):
    """A deterministic text: "prose" (Python's language reference and docstrings) or "code" (the library's sources)."""
    library = Path(sysconfig.get_path("stdlib"))
    files = sorted(p for folder in ("", "json", "email", "asyncio", "logging", "unittest") for p in (library / folder).glob("*.py"))
    if kind == "code":
        return "\n\n".join(f.read_text(errors="replace") for f in files)[:limit]
    topics = pydoc_data.topics.topics
    return "\n\n".join(inspect.cleandoc(topics[name]) for name in sorted(topics))[:limit]


def token_stream(tokenizer, text, limit=400_000):
    """Token ids of a text as one long tensor. `tokenizer` None means bytes."""
    if tokenizer is None:
        return torch.tensor(list(text.encode()[:limit]))
    return torch.tensor(tokenizer(text[: 4 * limit], add_special_tokens=False)["input_ids"][:limit])


def load_model(folder):
    """The model of a folder in float32, ready to train."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def evaluate_loss(model, stream):
    model.eval()
    with torch.no_grad():
        return model(input_ids=stream[None], labels=stream[None]).loss.item()


def batches(stream, batch, length, seed):
    """Endless random windows of a token stream as (batch, length)."""
    chance = random.Random(seed)
    while True:
        starts = [chance.randrange(len(stream) - length) for _ in range(batch)]
        yield torch.stack([stream[s : s + length] for s in starts])


def train(model, parameters, data, steps, learning_rate, optimizer="adam", ascent=False, weight_decay=0.0, clip=1.0):
    """Plain next-token training of the given parameters, with a short linear warm-up; ascent turns the sign."""
    torch.manual_seed(0)
    kind = {"adam": torch.optim.AdamW, "sgd": torch.optim.SGD}[optimizer]
    stepper = kind(parameters, lr=learning_rate, weight_decay=weight_decay)
    model.train()
    for step in range(steps):
        for group in stepper.param_groups:
            group["lr"] = learning_rate * min(1.0, (step + 1) / max(1, min(10, steps // 5)))
        window = next(data)
        loss = model(input_ids=window, labels=window).loss
        (-loss if ascent else loss).backward()
        torch.nn.utils.clip_grad_norm_(parameters, clip)
        stepper.step()
        stepper.zero_grad()
    return loss.item()


def restored(base, state):
    """A checkpoint with a trained state, each tensor rounded to the base's dtype."""
    out = base.copy()
    for name, tensor in base.tensors.items():
        if name in state:
            out.tensors[name] = state[name].detach().to(tensor.dtype).clone()
    return out


def load_weights(model, checkpoint):
    """Put a checkpoint's weights into an already built model of the same shape."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(checkpoint.tensors[name])


def fine_tune(base, model, stream, steps, learning_rate, batch, length, seed, only=None, **how):
    """Train all parameters (or those whose name passes `only`) of `model`, starting at `base`."""
    load_weights(model, base)
    chosen = []
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(only is None or only(name))
        if parameter.requires_grad:
            chosen.append(parameter)
    train(model, chosen, batches(stream, batch, length, seed), steps, learning_rate, **how)
    return restored(base, dict(model.named_parameters()))


def lora(base, model, stream, steps, learning_rate, batch, length, seed, rank, targets, adapter_folder=None, **how):
    """Train a LoRA with PEFT on the modules named `targets`, merge it, and give the merged checkpoint."""
    from peft import LoraConfig, get_peft_model

    load_weights(model, base)
    torch.manual_seed(seed)
    wrapped = get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, lora_dropout=0.0))
    chosen = [p for p in wrapped.parameters() if p.requires_grad]
    train(wrapped, chosen, batches(stream, batch, length, seed), steps, learning_rate, **how)
    if adapter_folder:
        wrapped.save_pretrained(adapter_folder)
    merged = wrapped.merge_and_unload()
    return restored(base, dict(merged.named_parameters()))


def mean_residuals(model, stream, windows=24, length=64, seed=0):
    """Mean residual activation at the last position after each layer, as (layers, width)."""
    model.eval()
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
