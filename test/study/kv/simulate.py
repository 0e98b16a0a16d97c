"""Teacher-forced decoding of a Hugging Face Llama folder with a quantized cache, simulated in PyTorch, whole windows at once.

In decode a token at position p sees page j exact while p - 128 (j + 1) < tail (and page 0, the sink, for ever), quantized afterwards.
Layer l at p depends only on K and V of layer l at earlier positions, so one causal pass with two versions of K and V and a mask that
chooses between them computes exactly what token-by-token decoding does.
"""
import importlib.util
import math
import os
import sys

import torch
import torch.nn.functional as F

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "..", "examples", "models", "train"))
spec = importlib.util.spec_from_file_location("train_evaluate", os.path.join(HERE, "..", "..", "..", "examples", "models", "train", "evaluate.py"))
evaluate = importlib.util.module_from_spec(spec)
spec.loader.exec_module(evaluate)
from encoders import PAGE, hadamard  # noqa: E402
from model import apply_rope  # noqa: E402


def tiles_of(x):
    """(1, heads, length, D) -> (heads * pages, 128, D) of the complete pages."""
    _, heads, length, d = x.shape
    return x[0, :, :length // PAGE * PAGE].reshape(-1, PAGE, d)


def encode(x, encoder, turn):
    """Complete pages through the encoder; page 0 and the incomplete end stay as they are."""
    y = x.clone()
    n = x.shape[2] // PAGE * PAGE
    if n > PAGE:
        coded = encoder(tiles_of(x @ turn)) @ turn.T
        y[0, :, PAGE:n] = coded.reshape(x.shape[1], n, x.shape[3])[:, PAGE:]
    return y


def visible(length, tail):
    """Masks (length, length): causal and exact; causal and quantized."""
    p, t = torch.arange(length)[:, None], torch.arange(length)[None]
    committed = (p - PAGE * (t // PAGE + 1) >= tail) & (t >= PAGE)
    causal = t <= p
    return causal & ~committed, causal & committed


@torch.no_grad()
def logits(model, ids, variant=None, tail=128, tap=None):
    """(length, vocab). variant: (K encoder, V encoder, rotated) or None for a 16-bit cache. tap(layer, k, v) sees rotated tiles."""
    s = model.shape
    x = model.model.embed_tokens(torch.tensor(ids)[None])
    cos, sin = model.cos[:len(ids)], model.sin[:len(ids)]
    turn = hadamard(s.head_dim) if variant is None or variant[2] else torch.eye(s.head_dim)
    exact, coded = visible(len(ids), tail)
    for i, layer in enumerate(model.model.layers):
        a, h = layer.self_attn, layer.input_layernorm(x)
        q = a.q_proj(h).view(1, -1, s.n_heads, s.head_dim).transpose(1, 2)
        k = a.k_proj(h).view(1, -1, s.n_kv_heads, s.head_dim).transpose(1, 2)
        v = a.v_proj(h).view(1, -1, s.n_kv_heads, s.head_dim).transpose(1, 2)
        q, k = apply_rope(q, cos, sin), apply_rope(k, cos, sin)
        k, v = k.half().float(), v.half().float()
        if tap:
            tap(i, tiles_of(k @ turn), tiles_of(v @ turn))
        group = s.n_heads // s.n_kv_heads
        wide = lambda y: y.repeat_interleave(group, 1)
        scale = 1 / math.sqrt(s.head_dim)
        if variant is None:
            y = F.scaled_dot_product_attention(q, wide(k), wide(v), is_causal=True)
        else:
            kq, vq = encode(k, variant[0], turn), encode(v, variant[1], turn)
            score = torch.where(coded, q @ wide(kq).transpose(2, 3), q @ wide(k).transpose(2, 3)) * scale
            p = score.masked_fill(~(exact | coded), -math.inf).softmax(-1)
            y = (p * exact) @ wide(v) + (p * coded) @ wide(vq)
        x = x + a.o_proj(y.transpose(1, 2).reshape(1, len(ids), -1))
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    return F.linear(model.model.norm(x), model.model.embed_tokens.weight)[0]


def compare(base, other, ids):
    """Mean, median, 99.9% KL(f16 || other) in nats over positions that see a quantized page, top-1 agreement, change of perplexity."""
    first = 3 * PAGE  # the first committed page besides the sink
    a, b = base[first:-1].log_softmax(-1), other[first:-1].log_softmax(-1)
    kld = (a.exp() * (a - b)).sum(-1)
    target = torch.tensor(ids[first + 1:])[:, None]
    ppl = [math.exp(-x.gather(1, target).mean()) for x in (a, b)]
    return {"kld": kld, "top1": (a.argmax(-1) == b.argmax(-1)).float(), "ppl": ppl}
