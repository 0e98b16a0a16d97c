#!/usr/bin/env python3
"""The 64 levels of the codes T2 and T3 (runtime/kv/trellis.h): prints them, and their squared error on Gaussian numbers.

State s of a number is six bits of its row's stream, of which the b highest are its own and the others its successors' ... in the order of the stream:
number t reads bits b t to b t + 5, so that s' = s >> b | new << (6 - b). Levels begin as quantiles, the new bits coarse and the others as an
offset between, and are then the means of what Viterbi's search gives them (Lloyd's algorithm, as for QTIP, arXiv 2406.11235). A stream and its
complement give opposite numbers, level(63 - s) = -level(s). Levels are whole 1/32.

    python test/study/kv/trellis_levels.py [--seeds 12]
"""
import argparse

import numpy as np
from statistics import NormalDist


def search(x, bits, level, start=None):
    """Viterbi over rows (rows, n): states (rows, n). start: (rows) the low 6 - b bits of the first state, which the last state's high bits must equal;
    None: free."""
    rows, n = x.shape
    groups, branch = 64 >> bits, 1 << bits
    best = np.zeros((rows, groups))
    if start is not None:
        best += np.where(np.arange(groups)[None] == start[:, None], 0.0, 1e30)
    came = np.empty((n, rows, groups), np.uint8)
    of = np.arange(64) & (groups - 1)
    for t in range(n):
        cost = best[:, of] + (x[:, t, None] - level[None]) ** 2
        cost = cost.reshape(rows, groups, branch)
        came[t] = cost.argmin(2)
        best = cost.min(2)
    group = best.argmin(1) if start is None else start
    states = np.empty((rows, n), np.int64)
    for t in range(n - 1, -1, -1):
        s = group << bits | came[t][np.arange(rows), group]
        states[:, t] = s
        group = s & (groups - 1)
    return states


def closed(x, bits, level):
    """The same with the row as a ring: where it is cut, bits are those of a search over a quarter... of the row around the cut."""
    n = x.shape[1]
    w = min(16, n // 2)
    around = np.concatenate([x[:, n - w:], x[:, :w]], 1)
    cut = search(around, bits, level)[:, w] & (63 >> bits)
    return search(x, bits, level, cut)


def train(bits, seed, rows=768, n=128, rounds=30):
    rng = np.random.default_rng(seed)
    groups, branch = 64 >> bits, 1 << bits
    half = rng.permutation(groups // 2)
    order = np.empty(groups, int)  # an order of the offsets that mirrors: order[G - 1 - g] = G - 1 - order[g]
    side = rng.integers(0, 2, groups // 2)
    for i in range(groups // 2):
        order[i] = half[i] if side[i] else groups - 1 - half[i]
        order[groups - 1 - i] = groups - 1 - order[i]
    s = np.arange(64)
    rank = (s >> (6 - bits)) * groups + order[s & (groups - 1)]
    level = np.array([NormalDist().inv_cdf((r + 0.5) / 64) for r in rank])
    for _ in range(rounds):
        x = rng.standard_normal((rows, n))
        st = search(x, bits, level).ravel()
        count, total = np.bincount(st, minlength=64), np.bincount(st, x.ravel(), minlength=64)
        count, total = count + count[::-1], total - total[::-1]
        level = np.where(count > 3, total / np.maximum(count, 1), level)
    return level


def error(bits, level, n=128, rows=1024, seed=99):
    x = np.random.default_rng(seed).standard_normal((rows, n))
    return ((level[closed(x, bits, level)] - x) ** 2).mean()


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--seeds", type=int, default=12)
    args = args.parse_args()
    for bits in (2, 3):
        found = min(((error(bits, level), seed, level) for seed in range(args.seeds) for level in [train(bits, seed)]), key=lambda f: f[0])
        level = np.round(found[2] * 32).astype(int)
        print(f"{bits} bits: seed {found[1]}, squared error {found[0]:.4f}; in 1/32: {error(bits, level / 32):.4f} (rows of 128), "
              f"{error(bits, level / 32, 64):.4f} (64), {error(bits, level / 32, 16):.4f} (16)")
        print(", ".join(str(v) for v in level))


if __name__ == "__main__":
    main()
