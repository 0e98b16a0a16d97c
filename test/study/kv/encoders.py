"""The encoders under study, in PyTorch, as functions from tiles to reconstructed tiles.

A tile is 128 positions of one head, already rotated unless the variant says otherwise: x (n_tiles, 128, D) float32 -> (n_tiles, 128, D).
Side values are rounded to fp16 where they are stored. The ones that kvrt ships are also in runtime/kv/encode.c; study.py compares both.
Names: K rows are channels (128 codes each), V rows are tokens (D codes each), columns the other axis.
"""
import math

import torch

PAGE = 128


def f16(x):
    return x.clamp(-65504, 65504).half().float()


def f8(x):
    """E4M3 relative to one fp16 scale per tile: what smaller side vectors would store."""
    scale = f16(x.abs().amax((1, 2), keepdim=True) / 448).clamp_min(1e-12)
    return (x / scale).to(torch.float8_e4m3fn).float() * scale


def hadamard(d):
    """Orthonormal, over the largest power of two that divides d, block-diagonal."""
    block = d & -d
    h = torch.ones(1, 1)
    while h.shape[0] < block:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)], 0)
    return torch.block_diag(*[h / math.sqrt(block)] * (d // block))


# ----------------------------------------------------------------------------------------------------- normalization
def balance_off(x):
    return x.new_ones(x.shape[0], 1, x.shape[2]), x.new_ones(x.shape[0], x.shape[1], 1)


def balance_paper(x, iterations=8, keep_best=True):
    """arXiv 2606.03458 as released: logs clamped to [-0.3, 10], best of 8 iterates. x (n, rows, columns) -> column and row factors.
    keep_best=False: the last iterate."""
    log_c, log_r = (torch.zeros_like(f) for f in balance_off(x))
    best_c, best_r = log_c, log_r
    def spread(y):
        c, r = y.std(1, keepdim=True), y.std(2, keepdim=True)
        return c, r, c.amax(2) / c.amin(2).clamp_min(1e-8) + r.amax(1) / r.amin(1).clamp_min(1e-8)
    col, _, least = spread(x)
    for _ in range(iterations):
        log_c = (log_c + col.clamp(1e-3, 1e3).log()).clamp(-0.3, 10)
        row = (x / log_c.exp() / log_r.exp()).std(2, keepdim=True)
        log_r = (log_r + row.clamp(1e-3, 1e3).log()).clamp(-0.3, 10)
        col, _, now = spread(x / log_c.exp() / log_r.exp())
        better = (now <= least)[..., None]
        least = torch.minimum(now, least)
        if not keep_best:
            better = torch.ones_like(better)
        best_c, best_r = torch.where(better, log_c, best_c), torch.where(better, log_r, best_r)
    return best_c.exp(), best_r.exp()


def balance_scale_free(x, passes=2):
    """The tile's own scale removed, no floor; relative column factors only (rows have ranges of their own)."""
    c = x.new_ones(x.shape[0], 1, x.shape[2])
    for _ in range(passes):
        row = x.std(2, keepdim=True)
        x = x / torch.maximum(row, row.mean(1, keepdim=True) * 1e-3 + 1e-30)
        col = x.std(1, keepdim=True)
        col = torch.maximum(col, col.mean(2, keepdim=True) * 1e-2 + 1e-30)
        col = col / col.log().mean(2, keepdim=True).exp()
        c, x = c * col, x / col
    return c, x.new_ones(x.shape[0], x.shape[1], 1)


# ------------------------------------------------------------------------------------------------------ quantization
FACTORS = [1.0, 0.94, 0.88, 0.82, 0.76, 0.70, 0.64, 0.58]


def quantized(x, low, step, top):
    return ((x - low) / step).round().clamp(0, top)


def unbiased(x, q):
    """(low, step) of the rows with codes q such that the mean is kept and the reconstruction, projected on x, is x: slope
    |x - m|^2 / <x - m, q - mean q>. The scale of EDEN (Vargaftik et al., ICML 2022, and DRIVE before it), here for an affine row."""
    dx, dq = x - x.mean(2, keepdim=True), q - q.mean(2, keepdim=True)
    dot = (dx * dq).sum(2, keepdim=True)
    step = torch.where(dot > 0, (dx * dx).sum(2, keepdim=True) / dot.clamp_min(1e-30), torch.zeros_like(dot))
    return x.mean(2, keepdim=True) - step * q.mean(2, keepdim=True), step


def affine(x, bits, balance=balance_off, search="", unbias=False, side=f16):
    """Rows quantized with a range of their own after division by column factors.
    search: "" the extremes; "error" the best of 8 shrunken ranges by squared error; "angle" by the angle to the row, which is the squared
    error once the scale is made unbiased. unbias: step and low by `unbiased` afterwards."""
    top = 2 ** bits - 1
    c, r = balance(x)
    c, y = side(c), x / (side(c) * r)
    low, high = y.amin(2, keepdim=True), y.amax(2, keepdim=True)
    middle, half = (low + high) / 2, (high - low) / 2
    best, least = None, None
    for factor in FACTORS if search else FACTORS[:1]:
        l, s = middle - half * factor, (2 * half * factor / top).clamp_min(1e-10)
        q = quantized(y, l, s, top)
        if search == "angle":
            dq, dy = q - q.mean(2, keepdim=True), y - y.mean(2, keepdim=True)
            e = (dq * dq).sum(2, keepdim=True) / (dq * dy).sum(2, keepdim=True).clamp_min(1e-30) ** 2
        else:
            e = ((q * s + l - y) ** 2).sum(2, keepdim=True)
        if least is None:
            best, least = (l, s, q), e
        else:
            better = e < least
            best, least = tuple(torch.where(better, n, o) for n, o in zip((l, s, q), best)), torch.minimum(e, least)
    low, step, q = best
    if unbias:
        low, step = unbiased(y, q)
        step, low = side(step * r) / r, side(low * r) / r
    else:
        step, low = side(step * r) / r, side(low * r) / r
        q = quantized(y, low, step.clamp_min(1e-10), top)  # against what will be read back
    return (q * step + low) * c * r


def transpose(x):
    return x.transpose(1, 2).contiguous()


def key(bits, **how):
    return lambda x: transpose(affine(transpose(x), bits, **how))


def value(bits, **how):
    return lambda x: affine(x, bits, **how)


def key_mean_per_token(bits, **how):
    """The tile's mean per channel is stored, tokens are quantized by themselves (needs a per-token offset in the format)."""
    def encode(x):
        mean = f16(x.mean(1, keepdim=True))
        return affine(x - mean, bits, **how) + mean
    return encode


# name -> (K encoder of bits, V encoder of bits, rotated). Each line differs from an earlier one in one thing.
def variants(kb, vb):
    free, paper = balance_scale_free, balance_paper
    best = {"search": "angle", "unbias": True}
    return {
        "kivi: no rotation, no balance": (key(kb), value(vb), False),
        "rotation only": (key(kb), value(vb), True),
        "paper": (key(kb, balance=paper), value(vb, balance=paper), True),
        "paper, V not balanced": (key(kb, balance=paper), value(vb), True),
        "paper, range by error": (key(kb, balance=paper, search="error"), value(vb, balance=paper, search="error"), True),
        "paper, range by angle, unbiased": (key(kb, balance=paper, **best), value(vb, balance=paper, **best), True),
        "scale-free K": (key(kb, balance=free), value(vb), True),
        "scale-free K and V": (key(kb, balance=free), value(vb, balance=free), True),
        "scale-free K and V, one pass": (key(kb, balance=lambda x: free(x, 1)), value(vb, balance=lambda x: free(x, 1)), True),
        "scale-free K and V, unbiased": (key(kb, balance=free, unbias=True), value(vb, balance=free, unbias=True), True),
        "scale-free K and V, range by error": (key(kb, balance=free, search="error"), value(vb, balance=free, search="error"), True),
        "scale-free K and V, range by error, unbiased": (key(kb, balance=free, search="error", unbias=True),
                                                         value(vb, balance=free, search="error", unbias=True), True),
        "scale-free K and V, range by angle, unbiased": (key(kb, balance=free, **best), value(vb, balance=free, **best), True),
        "kvrt: scale-free, unbiased, V by angle": (key(kb, balance=free, unbias=True), value(vb, balance=free, **best), True),
        "kvrt, V not balanced": (key(kb, balance=free, unbias=True), value(vb, **best), True),
        "kvrt, not balanced": (key(kb, unbias=True), value(vb, **best), True),
        "kvrt, not rotated": (key(kb, balance=free, unbias=True), value(vb, balance=free, **best), False),
        "kvrt, K as mean + per token (0.06 bit more)": (key_mean_per_token(kb, unbias=True), value(vb, balance=free, **best), True),
        "kvrt, side vectors in FP8 (0.2 bit less)": (key(kb, balance=free, side=f8, unbias=True),
                                                    value(vb, balance=free, side=f8, **best), True),
    }
