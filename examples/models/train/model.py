"""The demo model: a small Llama (RMSNorm, half-split RoPE, grouped-query attention, SwiGLU, tied embeddings).

Owns the forward pass used in training and evaluation. Parameter names are the ones of Hugging Face's LlamaForCausalLM, so that
export is a plain copy.
"""
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F


@dataclass
class Shape:
    vocab: int = 4096
    dim: int = 256
    n_layers: int = 8
    n_heads: int = 4
    n_kv_heads: int = 2
    head_dim: int = 64
    ffn: int = 768
    ctx: int = 4096
    theta: float = 50000.0
    eps: float = 1e-5


PRESETS = {
    "8m": Shape(),
    "tiny": Shape(vocab=512, dim=128, n_layers=3, n_heads=2, n_kv_heads=1, ffn=192, ctx=2048),
    "30m": Shape(dim=512, n_layers=10, n_heads=8, n_kv_heads=4, ffn=1408, ctx=8192),
}


def rope_tables(shape: Shape, length: int):
    """cos and sin, (length, head_dim), angles computed in double."""
    inv = shape.theta ** (-torch.arange(0, shape.head_dim, 2, dtype=torch.float64) / shape.head_dim)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * inv[None]
    angle = torch.cat([angle, angle], -1)
    return angle.cos().float(), angle.sin().float()


def apply_rope(x, cos, sin):
    """x (batch, heads, length, head_dim); pairs are (i, i + head_dim/2)."""
    half = x.shape[-1] // 2
    rotated = torch.cat([-x[..., half:], x[..., :half]], -1)
    return (x * cos + rotated * sin).to(x.dtype)


class RMSNorm(nn.Module):
    def __init__(self, dim, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x):
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight, self.eps)


class Attention(nn.Module):
    def __init__(self, s: Shape):
        super().__init__()
        self.s = s
        self.q_proj = nn.Linear(s.dim, s.n_heads * s.head_dim, bias=False)
        self.k_proj = nn.Linear(s.dim, s.n_kv_heads * s.head_dim, bias=False)
        self.v_proj = nn.Linear(s.dim, s.n_kv_heads * s.head_dim, bias=False)
        self.o_proj = nn.Linear(s.n_heads * s.head_dim, s.dim, bias=False)

    def forward(self, x, cos, sin, cache=None):
        b, t, _ = x.shape
        s = self.s
        q = self.q_proj(x).view(b, t, s.n_heads, s.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(b, t, s.n_kv_heads, s.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(b, t, s.n_kv_heads, s.head_dim).transpose(1, 2)
        q, k = apply_rope(q, cos, sin), apply_rope(k, cos, sin)
        if cache is not None:  # (k, v) of earlier positions; generation feeds one token at a time
            if "k" in cache:
                k, v = torch.cat([cache["k"], k], 2), torch.cat([cache["v"], v], 2)
            cache["k"], cache["v"] = k, v
        group = s.n_heads // s.n_kv_heads
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        y = F.scaled_dot_product_attention(q, k, v.to(q.dtype), is_causal=t > 1)
        return self.o_proj(y.transpose(1, 2).reshape(b, t, -1))


class MLP(nn.Module):
    def __init__(self, s: Shape):
        super().__init__()
        self.gate_proj = nn.Linear(s.dim, s.ffn, bias=False)
        self.up_proj = nn.Linear(s.dim, s.ffn, bias=False)
        self.down_proj = nn.Linear(s.ffn, s.dim, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, s: Shape):
        super().__init__()
        self.input_layernorm = RMSNorm(s.dim, s.eps)
        self.self_attn = Attention(s)
        self.post_attention_layernorm = RMSNorm(s.dim, s.eps)
        self.mlp = MLP(s)

    def forward(self, x, cos, sin, cache=None):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    def __init__(self, s: Shape):
        super().__init__()
        self.embed_tokens = nn.Embedding(s.vocab, s.dim)
        self.layers = nn.ModuleList(Block(s) for _ in range(s.n_layers))
        self.norm = RMSNorm(s.dim, s.eps)


class DemoModel(nn.Module):
    def __init__(self, s: Shape):
        super().__init__()
        self.shape = s
        self.model = Decoder(s)
        cos, sin = rope_tables(s, s.ctx)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        std = s.dim ** -0.5
        for name, p in self.named_parameters():
            if p.dim() == 2:
                scale = (2 * s.n_layers) ** -0.5 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
                nn.init.normal_(p, std=std * scale)
        nn.init.normal_(self.model.embed_tokens.weight, std=0.02)

    def hidden(self, ids, start=0, caches=None):
        x = self.model.embed_tokens(ids)
        cos, sin = self.cos[start:start + ids.shape[1]], self.sin[start:start + ids.shape[1]]
        for i, layer in enumerate(self.model.layers):
            x = layer(x, cos, sin, None if caches is None else caches[i])
        return self.model.norm(x)

    def forward(self, ids, start=0, caches=None):
        return F.linear(self.hidden(ids, start, caches), self.model.embed_tokens.weight)

    def loss(self, ids, targets, weights):
        """Weighted mean cross-entropy; logits are made in slices so that they never exist at once."""
        h = self.hidden(ids).flatten(0, 1)
        targets, weights = targets.flatten(), weights.flatten()
        total = h.new_zeros(())
        for i in range(0, h.shape[0], 4096):
            logits = F.linear(h[i:i + 4096], self.model.embed_tokens.weight)
            ce = F.cross_entropy(logits.float(), targets[i:i + 4096], reduction="none")
            total = total + (ce * weights[i:i + 4096]).sum()
        return total / weights.sum()
