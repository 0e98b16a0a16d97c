"""Teacher-forced decoding of a Llama folder with any quantized cache, page by page, whole windows at once.

In decode a query of page p sees page 0 (the sink) and its tail exact, and coded pages between. Layer l at a position depends only on K and V of
layer l before it, so one causal pass that gives each page of queries the keys and values it would see computes what token-by-token decoding does.

A cache is a function (layer, q, k, v, raw_k) -> view; view(page, end) -> keys and values of positions 0 to end as that page of queries sees them.
q (heads, n, D) and k are after RoPE, raw_k is before it; k and v (KV heads, n, D) have been rounded to f16."""
import math

import torch
import torch.nn.functional as F

from encoders import PAGE
from simulate import apply_rope


def sealed_behind(page):
    """Pages 1 to this one (exclusive) are coded for queries of `page`: a tail of 128 positions and the open page."""
    return max(1, page - 1)


def sealed_in_batches(tail, longest):
    """The tail grows to `longest` positions and then loses all but `tail` of them at once (SJ-KVaRN)."""
    def sealed(page):
        done = 1
        for p in range(page + 1):
            if (p - done) * PAGE >= longest:
                done = p - tail // PAGE
        return done
    return sealed


class Cache:
    """key, value: functions (x, q=, raw=, layer=, key=) of whole pages (KV heads, n, D) to what is read back; None: exact. near: as key and value, of what
    stands in the tail."""

    def __init__(self, key, value, sealed=sealed_behind, near=None):
        self.key, self.value, self.sealed, self.near = key, value, sealed, near

    def __call__(self, layer, q, k, v, raw):
        n = k.shape[1] // PAGE * PAGE
        def coded(side, x, raw=None):
            return x[:, :n] if side is None else side(x[:, :n], q=q[:, :n], raw=raw, layer=layer, key=kn[:, :n])
        kn, vn = (self.near(k), self.near(v)) if self.near else (k, v)
        kq, vq = coded(self.key, kn, raw[:, :n]), coded(self.value, vn)
        def view(page, end):
            b = self.sealed(page) * PAGE
            mixed = lambda x, y, z: torch.cat([x[:, :PAGE], y[:, PAGE:b], z[:, max(b, PAGE):end]], 1)[:, :end]
            return mixed(k, kq, kn), mixed(v, vq, vn)
        return view


@torch.no_grad()
def hidden(model, ids, cache=None, tap=None):
    """(n, dim), normalized, before the head."""
    s, n = model.shape, len(ids)
    x = model.model.embed_tokens(torch.as_tensor(ids))
    cos, sin = model.cos[:n], model.sin[:n]
    heads = lambda y: y.view(n, -1, s.head_dim).transpose(0, 1)
    for i, layer in enumerate(model.model.layers):
        a, h = layer.self_attn, layer.input_layernorm(x)
        raw = heads(a.k_proj(h))
        q, k = apply_rope(heads(a.q_proj(h)), cos, sin), apply_rope(raw, cos, sin).half().float()
        v = heads(a.v_proj(h)).half().float()
        if tap:
            tap(i, q, k, v, raw)
        y = torch.empty(s.n_kv_heads, s.n_heads // s.n_kv_heads, n, s.head_dim)
        if cache is None:
            y = F.scaled_dot_product_attention(q[None], *(t.repeat_interleave(y.shape[1], 0)[None] for t in (k, v)), is_causal=True)[0]
        else:
            view = cache(i, q, k, v, raw)
            grouped = q.view(*y.shape) / math.sqrt(s.head_dim)
            for page, at in enumerate(range(0, n, PAGE)):
                end = min(n, at + PAGE)
                kk, vv = view(page, end)
                score = grouped[:, :, at:end] @ kk[:, None].transpose(2, 3)
                score[..., at:] += torch.full((end - at, end - at), -math.inf).triu(1)
                y[:, :, at:end] = score.softmax(-1) @ vv[:, None]
        x = x + a.o_proj(y.reshape(s.n_heads, n, s.head_dim).transpose(0, 1).reshape(n, -1))
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    return model.model.norm(x)


@torch.no_grad()
def log_probabilities(model, x):
    out = torch.empty(len(x), model.shape.vocab)
    for i in range(0, len(x), 256):
        out[i:i + 256] = F.linear(x[i:i + 256], model.model.embed_tokens.weight).log_softmax(-1)
    return out


@torch.no_grad()
def divergence(model, base, x, ids):
    """base: log_probabilities without quantization. {kld, top1 (n - 1) by position, nll of both} of the hidden states x."""
    kld, same, nll = [], [], [0.0, 0.0]
    target = torch.as_tensor(ids[1:])
    for i in range(0, len(x) - 1, 256):
        end = min(i + 256, len(x) - 1)
        a, b = base[i:end], F.linear(x[i:end], model.model.embed_tokens.weight).log_softmax(-1)
        kld.append((a.exp() * (a - b)).sum(-1))
        same.append(a.argmax(-1) == b.argmax(-1))
        for j, p in enumerate((a, b)):
            nll[j] -= float(p.gather(1, target[i:end, None]).sum())
    return {"kld": torch.cat(kld).double(), "top1": torch.cat(same).double(), "nll": [v / (len(x) - 1) for v in nll]}
