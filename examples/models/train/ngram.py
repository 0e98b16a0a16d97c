"""The baseline that the model must beat: a 5-gram model with interpolated, modified Kneser-Ney smoothing (Chen and Goodman, 1999),
trained on the whole training corpus, scored on the same validation tokens as evaluate.py scores.

    ngram.py --model FOLDER --corpus TRAIN.txt --valid fiction_valid.txt --out RESULT.json
An n-gram of n tokens below 4096 is one 64-bit integer of 12-bit fields, the newest token lowest: sorting and searching are numpy's.
"""
import argparse
import json
import os
import tempfile

import numpy as np

from evaluate import load_folder, validation_ids, windows_of
from train import load_corpus

ORDER, BITS = 5, 12


def grams(ids, n):
    """Keys of all n-grams of ids; entry i ends at token i + n - 1."""
    ids = ids.astype(np.int64)
    keys = np.zeros(len(ids) - n + 1, np.int64)
    for k in range(n):
        keys = (keys << BITS) | ids[k:len(ids) - n + 1 + k]
    return keys


class Order:
    """Counts of one order: sorted keys, their counts, and per context the total and the back-off weight."""

    def __init__(self, keys, counts):
        self.keys, self.counts = keys, counts
        n1, n2, n3, n4 = (int((counts == k).sum()) for k in (1, 2, 3, 4))
        y = n1 / (n1 + 2 * n2) if n1 else 0.5
        self.discount = np.array([0, *(k - (k + 1) * y * b / max(1, a) for k, a, b in ((1, n1, n2), (2, n2, n3), (3, n3, n4)))])
        self.discount = np.clip(self.discount, 0, [0, 1, 2, 3])
        self.contexts, first = np.unique(keys >> BITS, return_index=True)
        taken = self.discount[np.minimum(counts, 3)]
        self.total = np.add.reduceat(counts.astype(np.float64), first)
        self.backoff = np.add.reduceat(taken, first) / self.total

    def probability(self, query, lower):
        """Of the keys in query; lower: probabilities of the next lower order."""
        at = np.minimum(np.searchsorted(self.contexts, query >> BITS), len(self.contexts) - 1)
        known = self.contexts[at] == query >> BITS
        pos = np.minimum(np.searchsorted(self.keys, query), len(self.keys) - 1)
        count = np.where(self.keys[pos] == query, self.counts[pos], 0)
        own = (count - self.discount[np.minimum(count, 3)]) / self.total[at]
        return np.where(known, own + self.backoff[at] * lower, lower)


def build(ids):
    """Orders 1..ORDER; below the highest, a count is the number of different tokens seen before the n-gram."""
    keys, counts = np.unique(grams(ids, ORDER), return_counts=True)
    orders = [Order(keys, counts)]
    for n in range(ORDER - 1, 0, -1):
        keys, counts = np.unique(keys & ((1 << (BITS * n)) - 1), return_counts=True)
        orders.insert(0, Order(keys, counts))
    return orders


def score(orders, ids, vocab):
    """Natural-log likelihood of every token of ids from index ORDER - 1 on."""
    p = np.full(len(ids) - ORDER + 1, 1.0 / vocab)
    for n, order in enumerate(orders, 1):
        p = order.probability(grams(ids, n)[ORDER - n:], p)
    return np.log(p)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True)
    p.add_argument("--corpus", required=True)
    p.add_argument("--valid", required=True)
    p.add_argument("--cache", help="corpus.npy of a training run: spares tokenizing the corpus")
    p.add_argument("--out")
    args = p.parse_args()
    _, shape, tokenizer = load_folder(args.model)
    with tempfile.TemporaryDirectory() as scratch:
        corpus = load_corpus(args.corpus, tokenizer, args.cache or os.path.join(scratch, "corpus.npy"))
        orders = build(np.asarray(corpus))
    # The distribution after any context sums to 1, or the comparison means nothing.
    context = np.asarray(corpus[1000:1000 + ORDER - 1])
    every = np.arange(shape.vocab, dtype=np.uint16)
    total = sum(float(np.exp(score(orders, np.append(context, w), shape.vocab))[0]) for w in every)
    if not abs(total - 1) < 1e-6:
        raise SystemExit(f"the probabilities after a context sum to {total}")
    ids = validation_ids(tokenizer, args.valid)
    ll, n = score(orders, ids, shape.vocab), shape.ctx
    # Every scored token is one that evaluate.py scores; only the baseline sees text from before the window.
    parts = [ll[max(0, s + 1 - (ORDER - 1)):s + n - (ORDER - 1)] for s in windows_of(ids, n)]
    nats = -float(np.concatenate(parts).mean())
    result = {"order": ORDER, "corpus_tokens": len(corpus), "ngrams": [len(o.keys) for o in orders],
              "tokens": sum(map(len, parts)), "nats_per_token": round(nats, 4), "perplexity": round(float(np.exp(nats)), 2)}
    print(json.dumps(result))
    if args.out:
        with open(args.out, "w", encoding="utf-8") as f:
            json.dump(result, f, indent=1)


if __name__ == "__main__":
    main()
