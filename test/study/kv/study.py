"""The study behind the default encoder: which step of it earns its place, on trained weights and on tiles with outliers.

    study.py --model FOLDER --text FILE [--windows 4] [--length 4096] [--tail 128] [--out study.json]
Prints Markdown tables; runtime/kv/README.md holds them. All rows of a table have equal bytes (but for the last) and equal tail.
"""
import argparse
import json

import torch

from encoders import PAGE, f16, hadamard, variants
from simulate import compare, evaluate, logits


def deviations(model, ids):
    """Markdown rows of standard deviations of rotated K and V tiles by layer: what the floor of the published method meets."""
    rows = []
    def tap(layer, k, v):
        cell = lambda x: "{:.3f} ({:.3f} to {:.3f})".format(x.median(), x.min(), x.max())
        dev = [t.flatten(1).std(1) for t in (k, v)]
        ratio = k.std(1)
        rows.append(f"| {layer} | {cell(dev[0])} | {cell(dev[1])} | {(ratio.amax(1) / ratio.amin(1)).median():.1f} | "
                    f"{(k.std(2).amax(1) / k.std(2).amin(1)).median():.1f} |")
    logits(model, ids, tap=tap)
    return rows


def on_text(model, windows, tail, kb, vb):
    """{variant: {kld_mean, kld_p50, kld_p999, top1, ppl_change}} over the windows."""
    base = [logits(model, ids) for ids in windows]
    table = {}
    for name, variant in variants(kb, vb).items():
        parts = [compare(b, logits(model, ids, variant, tail), ids) for b, ids in zip(base, windows)]
        kld, top1 = torch.cat([p["kld"] for p in parts]), torch.cat([p["top1"] for p in parts])
        change = sum(p["ppl"][1] / p["ppl"][0] for p in parts) / len(parts) - 1
        table[name] = {"kld_mean": float(kld.mean()), "kld_p50": float(kld.median()), "kld_p999": float(kld.quantile(0.999)),
                       "top1": float(top1.mean()), "ppl_change": change}
    return table


# ------------------------------------------------------------------------------------------------------------ outliers
def outlier_tiles(kind, n, d, seed=7):
    """(K, V) tiles, not rotated, (n, 128, D), with the statistics that the literature reports and the demo model does not have.
    bias: 4 channels with a constant offset of 20 deviations (keys of models with QKV biases, as Qwen2.5);
    channels: 4 channels with 10 times the deviation (keys before rotation: KIVI, KVQuant);
    tokens: 2 tokens with 15 times the norm (attention sinks inside a tile, delimiter tokens);
    small: deviation 0.03 throughout (normed keys and values, where a floor of exp(-0.3) bites)."""
    g = torch.Generator().manual_seed(seed)
    k, v = (torch.randn(n, PAGE, d, generator=g) for _ in range(2))
    # Neighbouring tokens resemble each other; a quarter of the variance is common to the tile.
    k = 0.87 * k + 0.5 * torch.randn(n, 1, d, generator=g)
    if kind == "bias":
        k[:, :, :4] += 20 * torch.sign(torch.randn(n, 1, 4, generator=g))
    elif kind == "channels":
        k[:, :, :4] *= 10
    elif kind == "tokens":
        k[:, 17:19] *= 15
        v[:, 17:19] *= 15
    elif kind == "small":
        k, v = k * 0.03, v * 0.03
    return k, v


def attention_error(kind, kb, vb, d=128, n=24):
    """{variant: relative L2 error of softmax(q K^T / sqrt(D)) V}: queries resemble the keys, so that attention is not flat."""
    k, v = outlier_tiles(kind, n, d)
    g = torch.Generator().manual_seed(8)
    typical = k.std((0, 1))
    q = torch.randn(n, 16, d, generator=g) / typical + 0.5 * (k[:, ::8] - k.mean(1, keepdim=True)) / typical ** 2
    table = {}
    for name, (key_encoder, value_encoder, rotated) in variants(kb, vb).items():
        turn = hadamard(d) if rotated else torch.eye(d)
        kq, vq = key_encoder(f16(k @ turn)) @ turn.T, value_encoder(f16(v @ turn)) @ turn.T
        attend = lambda a, b: (q @ a.transpose(1, 2) / d ** 0.5).softmax(-1) @ b
        want, got = attend(k, v), attend(kq, vq)
        table[name] = float((got - want).norm() / want.norm())
    return table


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True)
    p.add_argument("--text", required=True)
    p.add_argument("--windows", type=int, default=4)
    p.add_argument("--length", type=int, default=4096)
    p.add_argument("--tail", type=int, default=128)
    p.add_argument("--formats", default="4,4 4,2 2,2")
    p.add_argument("--out")
    args = p.parse_args()
    model, shape, tokenizer = evaluate.load_folder(args.model)
    ids = evaluate.validation_ids(tokenizer, args.text)
    length = min(args.length, shape.ctx)
    windows = [ids[s:s + length].tolist() for s in evaluate.windows_of(ids, length, args.windows)]
    result = {"tail": args.tail, "length": length, "windows": len(windows), "text": {}, "outliers": {}}
    print("| layer | K: deviation of tiles (range) | V | K: largest / smallest channel | K: largest / smallest token |\n|---|---|---|---|---|")
    print("\n".join(deviations(model, windows[0])), flush=True)
    for pair in args.formats.split():
        kb, vb = (int(x) for x in pair.split(","))
        name = f"k{kb}v{vb}"
        result["text"][name] = table = on_text(model, windows, args.tail, kb, vb)
        print(f"\n{name}, {len(windows)} windows of {length} tokens, tail {args.tail}\n\n| encoder | mean KLD | median | 99.9% | top-1 | ppl |\n|---|---|---|---|---|---|")
        for row, r in table.items():
            print(f"| {row.strip()} | {r['kld_mean']:.2e} | {r['kld_p50']:.2e} | {r['kld_p999']:.2e} | {100 * r['top1']:.2f}% | {100 * r['ppl_change']:+.3f}% |")
        kinds = ("bias", "channels", "tokens", "small")
        result["outliers"][name] = tables = {kind: attention_error(kind, kb, vb) for kind in kinds}
        print(f"\n{name}, relative error of attention on tiles with outliers\n\n| encoder | " + " | ".join(kinds) + " |\n" + "|---" * 5 + "|")
        for row in tables["bias"]:
            print(f"| {row.strip()} | " + " | ".join(f"{tables[kind][row]:.4f}" for kind in kinds) + " |", flush=True)
    if args.out:
        with open(args.out, "w", encoding="utf-8") as f:
            json.dump(result, f, indent=1)


if __name__ == "__main__":
    main()
