#!/usr/bin/env python3
"""What f16 sums inside a page would do to decode attention (DESIGN.md, CUDA): one page of 128 tokens and channels, 4-bit codes as
attention_decode.cuh multiplies them, in double precision but for the sums, which are rounded once per product of 16 (the least that a tensor
core may round). Errors of the page's result, relative, and of a score in natural units, beside that of rounding to four bits itself.

    test/study/kv/f16_sums.py"""
import numpy as np
rng = np.random.default_rng(15)
WAYS = (("f32, biased", 1024, False), ("f16, biased by 1024", 1024, True), ("f16, biased by 64", 64, True), ("f16, centred", -7.5, True))
def mma(a, b, acc, f16):
    """acc (m,) += a (m, k16 steps*16) b (k): exact products, added in double within a step, rounded once a step to the accumulator's type"""
    for s in range(0, a.shape[1], 16):
        acc = acc + (a[:, s:s+16] * b[s:s+16]).sum(1)
        acc = acc.astype(np.float16).astype(np.float64) if f16 else acc.astype(np.float32).astype(np.float64)
    return acc
def page(temp, D=128, T=128):
    """relative L2 of the page's output; temp: spread of the scores"""
    out = {}
    v = rng.standard_normal((T, D)); lo, hi = v.min(1, keepdims=True), v.max(1, keepdims=True)
    A = (hi - lo) / 15; codes = np.rint((v - lo) / A); A = A[:, 0].astype(np.float16).astype(float)
    p = np.exp(temp * rng.standard_normal(T)); p /= p.max()
    b = (p * A * 2.0 ** (10 - np.floor(np.log2(A.max())))).astype(np.float16).astype(float)
    exact = codes.T @ b
    for name, bias, f16 in WAYS:
        scale = 1.0
        if f16: # f16 ends at 65504
            m = ((codes.T + bias) @ b).max() if bias > 0 else np.abs((codes.T + bias)) .dot(b).max()
            scale = 2.0 ** np.floor(np.log2(60000 / m))
        bs = (b * scale).astype(np.float16).astype(float) if f16 else b
        got = mma(codes.T + bias, bs, np.zeros(D), f16) - bias * bs.sum()
        ref_out = v.T @ p
        err = (got / scale - exact) / (2.0 ** (10 - np.floor(np.log2(A.max()))))
        out[name] = np.sqrt((err ** 2).sum() / (ref_out ** 2).sum())
    q = (lo + A[:, None] * codes)
    out["rounding to 4 bits"] = np.sqrt((((q - v).T @ p) ** 2).sum() / ((v.T @ p) ** 2).sum())
    return out
def score(D=128, T=128, s=1.0):
    k = rng.standard_normal((D, T)); lo, hi = k.min(1, keepdims=True), k.max(1, keepdims=True)
    A = (hi - lo) / 15; codes = np.rint((k - lo) / A); A = A[:, 0].astype(np.float16).astype(float)
    q = rng.standard_normal(D) * s
    b = (q * A).astype(np.float16).astype(float); exact = codes.T @ b; ref = k.T @ q; out = {}
    for name, bias, f16 in WAYS:
        got = mma((codes + bias).T, b, np.zeros(T), f16) - bias * b.sum()
        out[name] = np.sqrt(np.mean(((got - exact) / np.sqrt(D)) ** 2))
    out["rounding to 4 bits"] = np.sqrt(np.mean((((lo + A[:, None] * codes).T @ q - ref) / np.sqrt(D)) ** 2))
    return out
for t in (0.5, 2.0, 5.0):
    r = [page(t) for _ in range(40)]; print("values, spread", t, {k: float("%.2g" % np.mean([x[k] for x in r])) for k in r[0]})
r = [score() for _ in range(40)]; print("scores (natural units)", {k: float("%.2g" % np.mean([x[k] for x in r])) for k in r[0]})
