"""Caches of other projects and papers as reference encoders, for compare.py: written from their descriptions, none of it is their code.

An encoder takes whole pages of one layer, x (KV heads, n, D) after RoPE, and returns what is read back; its bits are those of a number, side
values included. Where a method leaves something open, what was taken stands at its function."""
import math

import torch

from decode import Cache, sealed_in_batches
from encoders import PAGE, affine, balance_paper, f16, hadamard, key, value
from kvrt_codec import viterbi


def rows(f, rotated):
    """f of tiles (heads * pages, 128, D) as an encoder of pages."""
    def encode(x, **_):
        turn = hadamard(x.shape[2]) if rotated else torch.eye(x.shape[2])
        return f((x @ turn).reshape(-1, PAGE, x.shape[2])).reshape(x.shape) @ turn.T
    return encode


def groups(x, n, along_tokens):
    """(tiles * groups of a row, 1, n) for encoders.affine and back: groups of n neighbours along tokens (rows are channels) or along the head."""
    y = x.transpose(1, 2) if along_tokens else x
    return y.reshape(-1, 1, n), lambda z: z.reshape(y.shape).transpose(1, 2) if along_tokens else z.reshape(y.shape)


# ------------------------------------------------------------------------------------------------ llama.cpp and vLLM
def q8_0(x):
    """ggml: blocks of 32 along the head, one F16 scale. 8.5 bits."""
    y, back = groups(x, 32, False)
    scale = f16(y.abs().amax(2, keepdim=True) / 127).clamp_min(1e-8)
    return back((y / scale).round() * scale)


def q4_0(x):
    """ggml: blocks of 32, the number of largest magnitude is code 0 of 0..15, 8 is zero. 4.5 bits."""
    y, back = groups(x, 32, False)
    high = y.gather(2, y.abs().argmax(2, keepdim=True))
    scale = f16(high / -8)
    scale = torch.where(scale.abs() < 1e-8, torch.full_like(scale, 1e-8), scale)
    return back(((y / scale + 8.5).floor().clamp(0, 15) - 8) * scale)


def fp4(x):
    """vLLM's ultraquant_4bit: E2M1, blocks of 32 with a power of two for a scale. 4.25 bits."""
    y, back = groups(x, 32, False)
    scale = torch.exp2((y.abs().amax(2, keepdim=True).clamp_min(1e-30) / 6).log2().ceil())
    levels = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    z = y / scale
    return back(levels[torch.bucketize(z.abs(), (levels[1:] + levels[:-1]) / 2)] * z.sign() * scale)


# --------------------------------------------------------------------------------------------------------------- KIVI
def kivi_key(bits, n=32):
    """arXiv 2402.02750: groups of n tokens of a channel, F16 minimum and step, no rotation. bits + 32 / n."""
    def encode(x):
        y, back = groups(x, n, True)
        return back(affine(y, bits))
    return encode


def kivi_value(bits, n=32):
    """As above, groups of n channels of a token."""
    def encode(x):
        y, back = groups(x, n, False)
        return back(affine(y, bits))
    return encode


# --------------------------------------------------------------------------------------------------------- TurboQuant
def lloyd(bits, n=200000, rounds=120):
    """The 2^bits levels of least squared error on Gaussian numbers."""
    normal = torch.distributions.Normal(torch.tensor(0.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64))
    x = normal.icdf((torch.arange(n, dtype=torch.float64) + 0.5) / n)
    levels = normal.icdf((torch.arange(2 ** bits, dtype=torch.float64) + 0.5) / 2 ** bits)
    for _ in range(rounds):
        cell = torch.bucketize(x, (levels[1:] + levels[:-1]) / 2)
        levels = torch.zeros_like(levels).scatter_add(0, cell, x) / torch.bincount(cell, minlength=2 ** bits)
    return levels.float()


def codebook(bits):
    """arXiv 2504.19874 as engines ship it: rotated, a token's norm in F16, Lloyd-Max levels, the norm set so that the token keeps its length.
    bits + 16 / D. The sketch of residual signs is left out, as engines do."""
    levels = lloyd(bits)
    edges = (levels[1:] + levels[:-1]) / 2
    def encode(x):
        norm = x.norm(dim=2, keepdim=True).clamp_min(1e-12)
        z = levels[torch.bucketize(x / norm * math.sqrt(x.shape[2]), edges)]
        return f16(norm / z.norm(dim=2, keepdim=True)) * z
    return encode


# ------------------------------------------------------------------------------------------------------------ E8 lattice
def nearest_d8(x):
    """The nearest whole numbers with an even sum."""
    y = x.round()
    error = x - y
    worst = error.abs().argmax(-1, keepdim=True)
    moved = y.scatter_add(-1, worst, torch.where(error.gather(-1, worst) < 0, -1.0, 1.0))
    return torch.where(y.sum(-1, keepdim=True) % 2 == 0, y, moved)


def e8_four_bits(x):
    """Rotated tokens on E8 (Conway and Sloane's decoder), coordinates within -8..8, a scale of F16 for each token, the best of six by squared
    error; such as ninfer's rk4v4-e8. 4 + 16 / D bits."""
    best = least = None
    for part in (0.26, 0.30, 0.34, 0.38, 0.42, 0.47):
        scale = f16(x.square().mean(2, keepdim=True).sqrt() * part).clamp_min(1e-8)
        y = (x / scale).reshape(-1, 8).clamp(-7.5, 7.5)
        whole, half = nearest_d8(y), nearest_d8(y - 0.5) + 0.5
        z = torch.where((y - whole).square().sum(-1, keepdim=True) <= (y - half).square().sum(-1, keepdim=True), whole, half)
        z = z.reshape(x.shape) * scale
        error = (z - x).square().sum(2, keepdim=True)
        best = z if best is None else torch.where(error < least, z, best)
        least = error if least is None else torch.minimum(error, least)
    return best


def e8p():
    """Two bits a number: 256 patterns of magnitudes, seven signs and a shift of 1/4 for 8 numbers (QuIP#, arXiv 2402.04396, E8P), rotated, a token's
    norm in F16. 2 + 16 / D bits."""
    half = torch.arange(3) + 0.5
    patterns = torch.cartesian_prod(*[half] * 8)
    size = patterns.square().sum(1)
    order = size.argsort(stable=True)[:256]
    patterns = patterns[order]
    odd = (patterns.sum(1).round() % 2).bool()  # of the signs an even (odd) number are minus where the magnitudes' sum is even (odd)
    def nearest(x):
        best = least = None
        for shift in (-0.25, 0.25):
            y = x - shift
            m = y.abs()
            score = 2 * m @ patterns.T
            flip = torch.full_like(score, math.inf)
            for i in range(8):
                flip = torch.minimum(flip, m[:, i:i + 1] * patterns[:, i])
            wrong = ((y < 0).sum(1, keepdim=True) % 2 == 1) != odd
            cost = patterns.square().sum(1) - score + torch.where(wrong, 4 * flip, torch.zeros(()))
            pick = cost.argmin(1)
            p = patterns[pick] * torch.where(y < 0, -1.0, 1.0)
            cheap = (m * patterns[pick]).argmin(1, keepdim=True)
            p = torch.where(wrong.gather(1, pick[:, None]), p.scatter(1, cheap, -p.gather(1, cheap)), p) + shift
            error = (p - x).square().sum(1, keepdim=True)
            best = p if best is None else torch.where(error < least, p, best)
            least = error if least is None else torch.minimum(error, least)
        return best
    sample = torch.randn(4000, 8, generator=torch.Generator().manual_seed(3))
    unit = min((float((nearest(sample / a) * a - sample).square().mean()), a) for a in (0.8, 0.9, 0.95, 1.0, 1.05, 1.1))[1]
    def encode(x):
        norm = x.norm(dim=2, keepdim=True).clamp_min(1e-12)
        z = (x / norm * math.sqrt(x.shape[2]) / unit).reshape(-1, 8)
        z = torch.cat([nearest(part) for part in z.split(16384)]).reshape(x.shape)
        return f16(norm / z.norm(dim=2, keepdim=True)) * z
    return encode


# -------------------------------------------------------------------------------------------------------------- KVQuant
def levels_of(x, bits, rounds=40):
    """Levels of least squared error of numbers in -1..1."""
    x = x.flatten()[:: max(1, x.numel() // 200000)]
    levels = x.quantile((torch.arange(2 ** bits) + 0.5) / 2 ** bits)
    for _ in range(rounds):
        cell = torch.bucketize(x, (levels[1:] + levels[:-1]) / 2)
        count = torch.bincount(cell, minlength=2 ** bits)
        levels = torch.where(count > 0, torch.zeros_like(levels).scatter_add(0, cell, x) / count.clamp_min(1), levels)
    return levels


def to_levels(x, levels):
    return levels[torch.bucketize(x.contiguous(), (levels[1:] + levels[:-1]) / 2)]


class KVQuant:
    """arXiv 2401.18079, nuq with 1% outliers: keys before RoPE by channel with ranges and levels from calibration, values by token over all heads
    with levels from calibration; outliers stay as they are. Levels by plain k-means, where the paper weighs by Fisher information.
    K: bits + 0.32 (outliers with places); V: bits + 0.32 + 32 / (heads D)."""

    def __init__(self, bits, raw_keys, values, rope):
        """raw_keys, values: by layer, (heads, n, D) of calibration text; rope(x) of (heads, n, D)."""
        self.rope, self.k, self.v = rope, [], []
        for raw, v in zip(raw_keys, values):
            low, high = raw.quantile(0.005, 1, keepdim=True), raw.quantile(0.995, 1, keepdim=True)
            inside = (raw - low) / (high - low).clamp_min(1e-8) * 2 - 1
            self.k.append((low, high, levels_of(inside[inside.abs() <= 1], bits)))
            self.v.append(levels_of(self.token(v)[0].clamp(-1, 1), bits))

    @staticmethod
    def token(v):
        """Numbers of all heads of a token in -1..1 but for the 0.5% on either side, and how to get back."""
        n, flat = v.shape[1], v.transpose(0, 1).flatten(1)
        count = max(1, round(flat.shape[1] * 0.005))
        order = flat.sort(1).values
        low, high = f16(order[:, count:count + 1]), f16(order[:, -count - 1:-count])
        middle, half = (low + high) / 2, ((high - low) / 2).clamp_min(1e-6)
        return (flat - middle) / half, lambda z: (z * half + middle).reshape(n, v.shape[0], -1).transpose(0, 1)

    def key(self, x, raw, layer, **_):
        low, high, levels = self.k[layer]
        inside = (raw - low) / (high - low).clamp_min(1e-8) * 2 - 1
        coded = (to_levels(inside, levels) + 1) / 2 * (high - low) + low
        return self.rope(torch.where(inside.abs() <= 1, coded, f16(raw)))

    def value(self, x, layer, **_):
        y, back = self.token(x)
        return torch.where(back(y).isfinite() & (back(torch.ones_like(y)) >= x) & (back(-torch.ones_like(y)) <= x), back(to_levels(y, self.v[layer])), x)


# ------------------------------------------------------------------------------------------------------------- SJ-KVaRN
_tables = {}


def window_levels(bits, history=6):
    """Levels of windows in units of a row's step, from its minimum: Lloyd's algorithm with Viterbi's search on Gaussian rows. The published tables
    are trained on one model's keys and values; these are not."""
    if (bits, history) not in _tables:
        g = torch.Generator().manual_seed(1)
        size, per = 2 ** (bits + history), 2 ** history
        window = torch.arange(size)
        rank = (window >> history) * per + torch.randperm(per, generator=g)[window & (per - 1)]
        table = (rank + 0.5) / per - 0.5
        for _ in range(25):
            y = torch.randn(768, PAGE, generator=g)
            low, high = y.amin(1, keepdim=True), y.amax(1, keepdim=True)
            y = (y - low) / (high - low) * (2 ** bits - 1)
            w = viterbi(y, bits, history, table).flatten()
            count = torch.bincount(w, minlength=size)
            table = torch.where(count > 3, torch.zeros(size).scatter_add(0, w, y.flatten()) / count.clamp_min(1), table)
        _tables[bits, history] = table.contiguous()
    return _tables[bits, history]


def sj_side(bits, is_v, trellis):
    """One side of an SJ-KVaRN body (README and header of sj-kvarn-codec, 2026-10): KVarN's balance, the 16th iterate, then rows of codes as KVarN's, or a
    trellis of 64 states along the tokens of each channel in the row's units, and rows refitted to their mean and deviation. Bits are KVarN's."""
    balance = lambda x: balance_paper(x, 16, keep_best=False)
    def encode(x):
        y = x if is_v else x.transpose(1, 2)
        if not trellis:
            z = affine(y, bits, balance=balance)
            return z if is_v else z.transpose(1, 2)
        c, r = balance(y)
        b = y / (c * r)
        low = b.amin(2, keepdim=True)
        step = ((b.amax(2, keepdim=True) - low) / (2 ** bits - 1)).clamp_min(1e-10)
        units = (b - low) / step
        table = window_levels(bits)
        level = table[viterbi(units.transpose(1, 2) if is_v else units, bits, 6, table)]
        level = level.transpose(1, 2) if is_v else level
        scale = b.std(2, keepdim=True) / level.std(2, keepdim=True).clamp_min(1e-8)
        offset = b.mean(2, keepdim=True) - scale * level.mean(2, keepdim=True)
        z = (level * f16(scale * r) + f16(offset * r)) * f16(c)
        return z if is_v else z.transpose(1, 2)
    return encode


def six_bits(x):
    """The ring of SJ-KVaRN: 6-bit Lloyd-Max levels and a norm, here of each token (its 128 numbers are two tokens of 64). 6 + 16 / D bits."""
    if "ring" not in _tables:
        _tables["ring"] = codebook(6)
    turn = hadamard(x.shape[2])
    return _tables["ring"](x @ turn) @ turn.T


# ------------------------------------------------------------------------------------------------------------- the table
def affine_bits(k, v, d):
    """KVarN's record and kvrt's: three F16 vectors a side."""
    return (k + v) / 2 + 24 * (d + PAGE) / (d * PAGE)


def methods(d, n_heads, kvquant):
    """name -> (cache, bits of a coded number, bits of a number in the tail). kvquant(bits) -> KVQuant."""
    def both(f, bits, rotated=False):
        return Cache(rows(f, rotated), rows(f, rotated)), bits, 16
    def kvarn(k, v):
        return (Cache(rows(key(k, balance=balance_paper), True), rows(value(v, balance=balance_paper), True)), affine_bits(k, v, d), 16)
    def sj(k, v, ring=False):
        sides = [rows(sj_side(b, is_v, max(k, v) < 4), True) for b, is_v in ((k, False), (v, True))]
        more = {"sealed": sealed_in_batches(1024, 2048), "near": six_bits} if ring else {}
        return Cache(*sides, **more), affine_bits(k, v, d), 6 + 16 / d if ring else 16
    def kivi(bits, n):
        return Cache(rows(kivi_key(bits, n), False), rows(kivi_value(bits, min(n, d)), False)), bits + 16 / n + 16 / min(n, d), 16
    def nuq(bits):
        made = kvquant(bits)
        return Cache(made.key, made.value), bits + 0.32 + 16 / (n_heads * d), 16
    return {
        "KVarN k4v4": lambda: kvarn(4, 4),
        "KVarN k3v3": lambda: kvarn(3, 3),
        "KVarN k2v2": lambda: kvarn(2, 2),
        "SJ-KVaRN 4/4": lambda: sj(4, 4),
        "SJ-KVaRN 3/3 trellis": lambda: sj(3, 3),
        "SJ-KVaRN 2/2 trellis": lambda: sj(2, 2),
        "SJ-KVaRN 4/4, its ring": lambda: sj(4, 4, True),
        "SJ-KVaRN 3/3 trellis, its ring": lambda: sj(3, 3, True),
        "SJ-KVaRN 2/2 trellis, its ring": lambda: sj(2, 2, True),
        "q8_0": lambda: both(q8_0, 8.5),
        "q8_0, rotated": lambda: both(q8_0, 8.5, True),
        "q4_0": lambda: both(q4_0, 4.5),
        "q4_0, rotated": lambda: both(q4_0, 4.5, True),
        "ultraquant: K rotated, FP4": lambda: (Cache(rows(fp4, True), rows(fp4, False)), 4.25, 16),
        "KIVI 4, groups of 32": lambda: kivi(4, 32),
        "KIVI 4, groups of 128": lambda: kivi(4, 128),
        "KIVI 2, groups of 32": lambda: kivi(2, 32),
        "TurboQuant 4": lambda: both(codebook(4), 4 + 16 / d, True),
        "TurboQuant 3": lambda: both(codebook(3), 3 + 16 / d, True),
        "TurboQuant 2": lambda: both(codebook(2), 2 + 16 / d, True),
        "E8, 4 bits": lambda: both(e8_four_bits, 4 + 16 / d, True),
        "E8P, 2 bits": lambda: both(e8p(), 2 + 16 / d, True),
        "KVQuant nuq4-1%": lambda: nuq(4),
        "KVQuant nuq3-1%": lambda: nuq(3),
        "KVQuant nuq2-1%": lambda: nuq(2),
    }
