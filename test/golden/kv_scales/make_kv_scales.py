#!/usr/bin/env python3
"""Makes folders of tiny random models that bring scales of the KV cache, with the logits that such a cache gives: transformers' own model whose
attention reads K and V as kvrt keeps them in steps of 128 tokens with kv.tail=0 and f16 for plain pages. Page 0 is plain, and so is the page of
the step; those between are code = x / scale with torch's own float8 or by rounding. Scales are small enough to saturate.
  f8      tensors as vLLM has them, one number each
  i8      kv_cache_scheme of compressed-tensors, one number for each KV head
  file    kv_cache_scales.json, vLLM's file of parameters"""
import json
import os
import sys

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AttentionInterface

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
import make_golden  # noqa: E402

PAGE, N = 128, 400
KINDS = {"f8": (1, 0.003), "i8": (2, 0.01), "file": (1, 0.004)}
OVERRIDES = dict(hidden_size=32, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True)
scales = {}  # (layer, side): (KV heads, 1, 1)


def stored(x, scale, kind):
    if kind == "i8":
        return (x / scale).round().clamp(-128, 127) * scale
    return (x / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale


def attention(module, query, key, value, attention_mask, scaling, **kwargs):
    plain = [t.half().float() for t in (key, value)]
    packed = [stored(t, scales[module.layer_idx, side], module.config.kv_kind) for side, t in enumerate(plain)]
    groups, n, out = module.num_key_value_groups, query.shape[2], []
    for begin in range(0, n, PAGE):
        end = min(begin + PAGE, n)
        k, v = ([a[:, :, :PAGE], b[:, :, PAGE:begin], a[:, :, max(begin, PAGE):end]] for a, b in zip(plain, packed))
        k, v = (torch.cat(t, 2).repeat_interleave(groups, 1)[:, :, :end] for t in (k, v))
        scores = query[:, :, begin:end] @ k.transpose(2, 3) * scaling
        scores.masked_fill_(torch.arange(end) > torch.arange(begin, end)[:, None], -torch.inf)
        out.append(scores.softmax(-1) @ v)
    return torch.cat(out, 2).transpose(1, 2), None


@torch.no_grad()
def make(kind, n_scales, size, seed):
    folder = os.path.join(HERE, kind)
    os.makedirs(folder, exist_ok=True)
    model = make_golden.build("Llama", OVERRIDES, seed)
    make_golden.save_weights(model, folder, torch.bfloat16, {})
    for p in model.parameters():
        p.copy_(p.to(torch.bfloat16).float())
    config = model.config
    config.architectures, config.dtype = ["LlamaForCausalLM"], torch.bfloat16
    config.save_pretrained(folder)
    factors, tensors = {}, load_file(os.path.join(folder, "model.safetensors"))
    for layer in range(config.num_hidden_layers):
        for side, name in enumerate("kv"):
            scale = (torch.rand(n_scales) + 0.5) * size
            if kind == "file":
                scale = factors.setdefault(str(layer), scale)
            else:
                tensors[f"model.layers.{layer}.self_attn.{name}_scale"] = scale if n_scales > 1 else scale[0].clone()
            scales[layer, side] = scale.half().float().expand(config.num_key_value_heads).view(-1, 1, 1)
    save_file(tensors, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    if kind == "file":
        with open(os.path.join(folder, "kv_cache_scales.json"), "w") as f:
            json.dump({"model_type": "llama", "kv_cache": {"dtype": "float8_e4m3fn", "scaling_factor": {
                "0": {k: float(v) for k, v in factors.items()}}}}, f)
    if kind == "i8":
        path = os.path.join(folder, "config.json")
        with open(path) as f:
            text = json.load(f)
        text["quantization_config"] = {"quant_method": "compressed-tensors", "format": "dense", "config_groups": {}, "ignore": [], "kv_cache_scheme": {
            "num_bits": 8, "type": "int", "strategy": "attn_head", "symmetric": True, "dynamic": False}}
        with open(path, "w") as f:
            json.dump(text, f, indent=1)
    make_golden.tokenizer().save(os.path.join(folder, "tokenizer.json"))
    config.kv_kind = kind
    model.set_attn_implementation("kv_scales")
    ids = torch.randint(2, make_golden.VOCAB, (N,), generator=torch.Generator().manual_seed(seed))
    rows = [0, 127, 128, 255, 256, 257, 300, 383, 384, N - 1]
    logits = model(ids[None]).logits[0][rows].numpy().astype(np.float32)
    logits.tofile(os.path.join(folder, "golden.bin"))
    with open(os.path.join(folder, "golden.json"), "w") as f:
        json.dump({"vocab": make_golden.VOCAB, "std": float(logits.std()), "prompts": [{"n": N, "ids": ids.tolist(), "rows": rows}]}, f,
                  separators=(",", ":"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    AttentionInterface.register("kv_scales", attention)
    for i, (kind, (n_scales, size)) in enumerate(KINDS.items()):
        make(kind, n_scales, size, 70 + i)
