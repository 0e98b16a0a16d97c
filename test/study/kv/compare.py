"""What caches cost on a real model at equal bytes: kvrt's own encoder, and those of other projects and papers, in one run.

    compare.py --model FOLDER --text NAME=FILE ... [--length 4096] [--windows 1] [--methods NAME ...] [--rows N]
FOLDER: a Llama in f32 (dequantize.py). Every method has a sink of one page and a tail of 128 positions in 16 bits, if not said otherwise: what is
compared is the body. Windows stand one behind the other from the start of a text; what calibrates KVQuant is read behind them. Divergence in nats from
the cache without quantization, over all positions. Prints a Markdown table; runtime/kv/README.md holds it."""
import argparse
import time

import torch

from decode import Cache, divergence, hidden, log_probabilities
from encoders import PAGE
from kvrt_codec import Side
from peers import KVQuant, affine_bits, methods
from simulate import apply_rope, evaluate


def kvrt(d, n_rows):
    """name -> as peers.methods. Bits of the normal form: three F16 vectors a side, of which the mean is one."""
    def row(k, v, queries, bits):
        return lambda: (Cache(Side(k, False, queries), Side(v, True, queries if v != "8" else 0)), bits, 16 + (8 * n_rows / (2 * PAGE) if queries else 0))
    normal = 8 * (2 * d + PAGE) * 2 / (d * PAGE)
    return {
        "kvrt i8": row("8", "8", 0, 8 + (16 + 32) / 2 / d),
        "kvrt k4v4, plain": row("4", "4", 0, affine_bits(4, 4, d)),
        "kvrt k4v4": row("4", "4", n_rows, affine_bits(4, 4, d)),
        "kvrt kt3v4": row("t3", "4", n_rows, (affine_bits(4, 4, d) + 3 + normal) / 2),
        "kvrt t3": row("t3", "t3", n_rows, 3 + normal),
        "kvrt k2v2, plain": row("2", "2", 0, affine_bits(2, 2, d)),
        "kvrt t2": row("t2", "t2", n_rows, 2 + normal),
    }


def allocated(cache, body, near, length):
    """Bits of a number at the end of a window: sink, coded pages, tail."""
    pages = length // PAGE
    coded = cache.sealed(pages) - 1
    return (16 + coded * body + (pages - 1 - coded) * near) / pages


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True)
    p.add_argument("--text", required=True, nargs="+")
    p.add_argument("--length", type=int, default=4096)
    p.add_argument("--windows", type=int, default=1)
    p.add_argument("--methods", nargs="+", default=[], help="names of rows, in the order wanted; all")
    p.add_argument("--rows", type=int, default=64, help="queries that a plain page of kvrt keeps of each KV head")
    p.add_argument("--threads", type=int, default=1)
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    model, shape, tokenizer = evaluate.load_folder(args.model)
    texts, windows, calibration = dict(t.split("=", 1) for t in args.text), {}, []
    for name, file in texts.items():
        ids = evaluate.validation_ids(tokenizer, file)[:args.length * args.windows + 2048].tolist()
        windows[name] = [ids[i * args.length:(i + 1) * args.length] for i in range(args.windows)]
        calibration += ids[args.length * args.windows:][:512]
    bases = {name: [log_probabilities(model, hidden(model, ids)) for ids in w] for name, w in windows.items()}
    taps = []
    hidden(model, calibration, tap=lambda i, q, k, v, raw: taps.append((raw, v)))
    rope = lambda x: apply_rope(x, model.cos[:x.shape[1]], model.sin[:x.shape[1]])
    kvquant = lambda bits: KVQuant(bits, [t[0] for t in taps], [t[1] for t in taps], rope)
    every = {**kvrt(shape.head_dim, args.rows), **methods(shape.head_dim, shape.n_kv_heads, kvquant)}
    print(f"{args.windows} windows of {args.length} tokens; mean KLD / median / top-1 by text\n")
    print("| cache | bits | allocated | " + " | ".join(windows) + " | s |\n" + "|---" * (len(windows) + 4) + "|", flush=True)
    for name in args.methods or every:
        make = every[name]
        start = time.time()
        cache, body, near = make()
        cells = []
        for text, several in windows.items():
            found = [divergence(model, base, hidden(model, ids, cache), ids) for base, ids in zip(bases[text], several)]
            kld, top1 = (torch.cat([f[key] for f in found]) for key in ("kld", "top1"))
            cells.append(f"{kld.mean():.2e} / {kld.median():.1e} / {100 * top1.mean():.1f}%")
        print(f"| {name} | {body:.2f} | {allocated(cache, body, near, args.length):.2f} | " + " | ".join(cells) + f" | {time.time() - start:.0f} |", flush=True)


if __name__ == "__main__":
    main()
