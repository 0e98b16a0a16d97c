"""Makes test/golden/models/: tiny random models of every family and variant that kvrt computes, with logits and greedy continuations
by PyTorch and transformers (versions in requirements.txt).  Usage: make_golden.py [NAME ...]

Each folder is a normal Hugging Face folder plus golden.json:
    prompts[] = {n, rows, greedy, margin}   rows: positions whose logits are in golden.bin, one after the other, float32
    std                                     standard deviation of all golden logits
Weights are drawn with a standard deviation of 0.1 to 0.2, so that every part of the model matters. For F16 and BF16 folders the
reference computes in float32 on the rounded weights.
"""
import json
import os
import sys
import zlib

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "models")
PROMPTS = [1, 17, 130, 300]
GREEDY = 16
VOCAB = 96

LLAMA3_ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 64}
BASE = dict(vocab_size=VOCAB, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            head_dim=16, max_position_embeddings=512, rms_norm_eps=1e-5, rope_theta=10000.0, bos_token_id=0, eos_token_id=1,
            tie_word_embeddings=False)

DELTA = dict(num_hidden_layers=4, linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=16, linear_value_head_dim=16,
             hidden_size=32, intermediate_size=48, rope_parameters=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.25,
                                                                        mrope_section=[1, 1, 0], mrope_interleaved=True))

GAINS_LESS_ONE = {"Qwen3_5", "Qwen3_5Moe", "Qwen3Next"}  # their norms multiply by 1 + w

# name: (family, dtype, changes to BASE, flags)
VARIANTS = {
    "llama_mha": ("Llama", "float32", dict(num_key_value_heads=4), {}),
    "llama_gqa2": ("Llama", "float32", dict(tie_word_embeddings=True), {}),
    "llama_gqa4_d32": ("Llama", "bfloat16", dict(num_key_value_heads=1, head_dim=32), {}),
    "llama_gqa8_d64": ("Llama", "bfloat16", dict(num_attention_heads=8, num_key_value_heads=1, head_dim=64), {}),
    "llama_d80": ("Llama", "float32", dict(num_attention_heads=2, num_key_value_heads=1, head_dim=80), {}),
    "llama_d128": ("Llama", "float16", dict(num_attention_heads=2, num_key_value_heads=1, head_dim=128), {}),
    "llama_rope3": ("Llama", "float32", dict(rope_scaling=LLAMA3_ROPE, rope_theta=500000.0), {}),
    "llama_bias": ("Llama", "float32", dict(attention_bias=True), {}),
    "llama_head_only": ("Llama", "float32", dict(tie_word_embeddings=True), {"tied_as_head": True}),
    "llama_sharded": ("Llama", "bfloat16", {}, {"shards": 3}),
    "mistral": ("Mistral", "bfloat16", dict(sliding_window=None), {}),
    "mistral_window": ("Mistral", "float32", dict(sliding_window=40), {}),
    "qwen2": ("Qwen2", "bfloat16", dict(tie_word_embeddings=True), {}),
    "qwen2_window": ("Qwen2", "float32", dict(use_sliding_window=True, sliding_window=33, max_window_layers=1), {}),
    "qwen3": ("Qwen3", "float32", dict(num_key_value_heads=1), {}),
    "qwen3_bf16": ("Qwen3", "bfloat16", dict(head_dim=32, tie_word_embeddings=True), {}),
    "llama_mlp_bias": ("Llama", "float32", dict(mlp_bias=True), {}),
    "qwen3_5": ("Qwen3_5", "bfloat16", DELTA, {}),
    "qwen3_5_nested": ("Qwen3_5", "bfloat16", {**DELTA, "tie_word_embeddings": True, "linear_num_value_heads": 2, "head_dim": 64},
                       {"nested": True}),
    "qwen3_5_odd": ("Qwen3_5", "float16",
                    {**DELTA, "layer_types": ["full_attention", "linear_attention", "linear_attention"], "num_hidden_layers": 3,
                     "linear_conv_kernel_dim": 3, "linear_num_key_heads": 1, "linear_num_value_heads": 3, "linear_key_head_dim": 24,
                     "linear_value_head_dim": 8, "num_key_value_heads": 1, "attention_bias": True, "head_dim": 32,
                     "partial_rotary_factor": 0.5, "rope_parameters": None}, {}),
    "qwen3_5_d64": ("Qwen3_5", "float16", {**DELTA, "linear_num_value_heads": 2, "head_dim": 64}, {}),
}


def tokenizer() -> Tokenizer:
    """Byte-level, no merges: ids 2.. are the printable ASCII characters; the rest of the bytes is unknown to these models."""
    vocab = {"<s>": 0, "</s>": 1}
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    for c in alphabet:
        if len(vocab) < VOCAB and (c.isascii() or c in "ĠĊ"):
            vocab[c] = len(vocab)
    tok = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token=None))
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens(["<s>", "</s>"])
    return tok


def build(family, overrides, seed):
    Config = getattr(transformers, family + "TextConfig", None) or getattr(transformers, family + "Config")
    config = Config(**{k: v for k, v in {**BASE, **overrides}.items() if v is not None})
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    model = getattr(transformers, family + "ForCausalLM")(config).float().eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                one = 0 if family in GAINS_LESS_ONE and "linear_attn" not in name else 1
                p.copy_(one + 0.2 * torch.randn_like(p))
            elif name.endswith("A_log"):  # decays from nearly nothing to nearly all in a step
                p.copy_(torch.linspace(-4, 2, p.numel()))
            elif "conv1d" in name:
                p.copy_(0.5 * torch.randn_like(p))
            elif name.endswith("bias"):
                p.copy_(0.3 * torch.randn_like(p))
            else:
                p.copy_((0.15 if p.dim() == 2 else 0.1) * torch.randn_like(p))
    return model


def save_weights(model, folder, dtype, flags):
    tied = model.config.tie_word_embeddings
    tensors = {n: p.detach().to(dtype).contiguous().clone() for n, p in model.state_dict().items() if not (tied and n == "lm_head.weight")}
    if flags.get("tied_as_head"):
        tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    if flags.get("nested"):  # as in a model that also sees, with a tensor of what kvrt does not read
        tensors = {n.replace("model.", "model.language_model.", 1): t for n, t in tensors.items()}
        tensors["model.visual.patch_embed.proj.bias"] = torch.zeros(3, dtype=dtype)
    shards = flags.get("shards", 1)
    if shards == 1:
        save_file(tensors, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
        return
    names = sorted(tensors)
    weight_map = {}
    for i in range(shards):
        name = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = {n: tensors[n] for n in names[i::shards]}
        save_file(part, os.path.join(folder, name), metadata={"format": "pt"})
        weight_map.update({n: name for n in part})
    with open(os.path.join(folder, "model.safetensors.index.json"), "w") as f:
        json.dump({"metadata": {"total_size": 0}, "weight_map": weight_map}, f, indent=1)


def rows_of(n):
    """First, last and the positions around page and window edges."""
    return sorted({r for r in (0, 1, 15, 16, 31, 32, 33, 39, 40, 41, 63, 126, 127, 128, 129, 200, 255, 256, 257, n - 2, n - 1) if 0 <= r < n})


def nest(path, family):
    """The text model's config inside that of the model that also sees."""
    with open(path) as f:
        text = json.load(f)
    outer = {"architectures": [family + "ForConditionalGeneration"], "model_type": text["model_type"].removesuffix("_text"),
             "image_token_id": 5, "tie_word_embeddings": text["tie_word_embeddings"], "text_config": text, "vision_config": {"depth": 2}}
    del text["architectures"]
    with open(path, "w") as f:
        json.dump(outer, f, indent=2)


@torch.no_grad()
def golden(model, folder):
    generator = torch.Generator().manual_seed(99)
    prompts, blob = [], []
    for n in PROMPTS:
        ids = torch.randint(2, VOCAB, (n,), generator=generator)
        rows = rows_of(n)
        logits = model(ids[None]).logits[0]
        blob.append(logits[rows].numpy().astype(np.float32))
        greedy, margins, seq = [], [], ids
        for _ in range(GREEDY):
            last = model(seq[None]).logits[0, -1]
            top = last.topk(2)
            greedy.append(int(top.indices[0]))
            margins.append(round(float(top.values[0] - top.values[1]), 5))
            seq = torch.cat([seq, top.indices[:1]])
        prompts.append({"n": n, "ids": ids.tolist(), "rows": rows, "greedy": greedy, "margin": margins})
    blob = np.concatenate(blob)
    blob.tofile(os.path.join(folder, "golden.bin"))
    with open(os.path.join(folder, "golden.json"), "w") as f:
        json.dump({"vocab": VOCAB, "std": float(blob.std()), "prompts": prompts}, f, separators=(",", ":"))


def main():
    torch.set_num_threads(1)
    for i, (name, (family, dtype, overrides, flags)) in enumerate(VARIANTS.items()):
        if len(sys.argv) > 1 and name not in sys.argv[1:]:
            continue
        folder = os.path.join(HERE, name)
        os.makedirs(folder, exist_ok=True)
        dtype = getattr(torch, dtype)
        # Places in the list seeded the first ones; names stay when others are added.
        model = build(family, overrides, 1000 + i if i < 16 else zlib.crc32(name.encode()))
        save_weights(model, folder, dtype, flags)
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(p.to(dtype).float())
        model.config.dtype = dtype
        model.config.architectures = [family + "ForCausalLM"]
        model.config.save_pretrained(folder)
        if flags.get("nested"):
            nest(os.path.join(folder, "config.json"), family)
        tokenizer().save(os.path.join(folder, "tokenizer.json"))
        with open(os.path.join(folder, "tokenizer_config.json"), "w") as f:
            json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}, f)
        golden(model, folder)
        print(name, sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder)))


if __name__ == "__main__":
    main()
