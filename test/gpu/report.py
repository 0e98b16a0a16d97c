#!/usr/bin/env python3
"""Turns the parts that test/gpu/run.sh left in a folder into report.json and report.md. usage: report.py FOLDER SECONDS

Percentages are of the card's copy bandwidth, measured in the same process. A kernel's time is the sum over an operation's launches in a token
(attention: every page format and the combination), so a launch moves bytes per token / launches; LINEAR_ADD is two launches per layer of
different size (output projection, down projection), of which the mean is taken."""
import json
import sys
from pathlib import Path

BIG = 100e6  # bytes of one launch from which DEMANDED percent are demanded
DEMANDED, LISTED = 70, 50
LAYERS = {"llama-3.2-1b": 16, "llama-3.2-3b": 28, "llama-3.1-8b": 32, "llama-2-7b": 32, "mistral-7b": 32, "qwen2.5-0.5b": 24, "qwen2.5-1.5b": 28,
          "qwen2.5-7b": 28, "qwen2.5-14b": 48, "qwen3-0.6b": 28, "qwen3-1.7b": 28, "qwen3-4b": 36, "qwen3-8b": 36}
HEAD_PARTS = 4  # of a vocabulary above 32,768


def launches(op, shape):
    layers = LAYERS.get(shape, 1)
    return {"embed": 1, "head": HEAD_PARTS, "linear_add": 2 * layers}.get(op, layers)


def read_bench(folder):
    rows = []
    for path in sorted(folder.glob("bench_*.json")) + sorted(folder.glob("prefill4096_*.json")):
        data = json.loads(path.read_text())
        part, shape = path.stem.split("_")[:2]
        form = (path.stem.split("_") + ["", "bf16"])[3 if path.stem.count("_") == 3 else -1]
        copy = data["machine"]["read_gbps"]
        for row in data["rows"]:
            for op in row.get("ops", []):
                op["bytes_per_token"] = round(op["us_per_token"] * op["gbps"] * 1e3)
                op["bytes_per_launch"] = round(op["bytes_per_token"] / launches(op["op"], shape))
                op["copy_pct"] = round(100 * op["gbps"] / copy, 1) if copy else 0.0
            rows.append({"part": part, "shape": shape if form == "bf16" else f"{shape} {form}", "copy_gbps": copy, **row})
    return rows


def summary(rows):
    yield "| shape | kv | depth | prefill t/s | decode t/s | GB/s | % of copy | attention % | gemv % (least) |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|---:|"
    for row in rows:
        ops = row.get("ops", [])
        attention = max((op["copy_pct"] for op in ops if op["op"] == "attention"), default=0)
        gemv = min((op["copy_pct"] for op in ops if op["kernel"].startswith("gemv")), default=0)
        total = 100 * row["decode_gbps"] / row["copy_gbps"] if row["copy_gbps"] else 0
        yield (f"| {row['shape']} | {row['kv']} | {row['depth']} | {row['prefill_tps']:.0f} ({row['n_prompt']}) | {row['decode_tps']:.1f} | "
               f"{row['decode_gbps']:.0f} | {total:.0f} | {attention:.0f} | {gemv:.0f} |")


def kernels(rows):
    """Every operation where its work is largest: the deepest context of each shape and format."""
    deepest = {}
    for row in rows:
        key = (row["shape"], row["kv"])
        if key not in deepest or row["depth"] > deepest[key]["depth"]:
            deepest[key] = row
    yield "| shape | kv | depth | operation | kernel | us a token | MB a token | MB a launch | GB/s | % of copy |"
    yield "|---|---|---:|---|---|---:|---:|---:|---:|---:|"
    for (shape, kv), row in sorted(deepest.items()):
        for op in row.get("ops", []):
            yield (f"| {shape} | {kv} | {row['depth']} | {op['op']} | {op['kernel']} | {op['us_per_token']:.1f} | {op['bytes_per_token'] / 1e6:.1f} | "
                   f"{op['bytes_per_launch'] / 1e6:.1f} | {op['gbps']:.1f} | {op['copy_pct']:.0f} |")


def below(rows, percent, size, of):
    """The worst of each kernel, shape and format that stays below `percent` where it moves `size` bytes or more."""
    worst = {}
    for row in rows:
        for op in row.get("ops", []):
            key = (op["kernel"], row["shape"], row["kv"])
            if row["copy_gbps"] and op[of] >= size and op["copy_pct"] < percent and op["copy_pct"] < worst.get(key, (percent, 0))[0]:
                worst[key] = (op["copy_pct"], row["depth"])
    return [f"- {kernel}: {found:.0f}% ({shape}, {kv}, depth {depth})" for (kernel, shape, kv), (found, depth) in sorted(worst.items())] or ["none"]


def slower(rows):
    """Where k4v4 loses to f16 from 4k on."""
    speed = {(r["shape"], r["kv"], r["depth"]): r["decode_tps"] for r in rows}
    found = []
    for (shape, kv, depth), tps in sorted(speed.items()):
        f16 = speed.get((shape, "f16", depth))
        if kv == "k4v4" and depth >= 4096 and f16 and tps < f16:
            found.append(f"- {shape}, depth {depth}: k4v4 {tps:.1f} t/s, f16 {f16:.1f} t/s")
    return found or ["none"]


def main():
    folder, seconds = Path(sys.argv[1]), int(sys.argv[2])
    card = (folder / "card.csv").read_text().strip()
    parts = {p.stem: {"exit_code": int(p.read_text())} for p in sorted(folder.glob("*.rc"))}
    for path in folder.glob("*.seconds"):
        parts.setdefault(path.stem, {})["seconds"] = int(path.read_text())
    rows = read_bench(folder)
    bench = [row for row in rows if row["part"] == "bench"]
    missed = below(bench, DEMANDED, BIG, "bytes_per_launch")
    lines = ["# kvrt on a card", "", f"card: {card}", "(name, driver, clocks SM and memory, their maxima, memory, power limit, compute)", "",
             f"last run: {seconds} s", "", "| part | exit code | seconds |", "|---|---:|---:|",
             *(f"| {name} | {p.get('exit_code', '')} | {p.get('seconds', '')} |" for name, p in parts.items()), "", *summary(rows), "",
             f"Below {DEMANDED}% where a launch moves 100 MB or more:", "", *missed, "",
             f"Below {LISTED}% where a token moves 100 MB or more:", "", *below(bench, LISTED, BIG, "bytes_per_token"), "",
             "k4v4 slower than f16 from 4k on:", "", *slower(bench), "", "## Kernels", "", *kernels(bench), ""]
    (folder / "report.md").write_text("\n".join(lines))
    (folder / "report.json").write_text(json.dumps({"card": card, "seconds": seconds, "parts": parts, "below_demand": missed, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
