#!/usr/bin/env python3
"""Turns the parts that test/gpu/run.sh left in a folder into report.json and report.md. usage: report.py FOLDER SECONDS"""
import json
import sys
from pathlib import Path

BIG = 100e6  # bytes of one launch from which 70% of the copy bandwidth is demanded
DEMANDED, LISTED = 70, 50


def read_bench(folder):
    rows = []
    for path in sorted(folder.glob("bench_*.json")) + sorted(folder.glob("prefill4096_*.json")):
        data = json.loads(path.read_text())
        part, shape = path.stem.split("_")[:2]
        for row in data["rows"]:
            rows.append({"part": part, "shape": shape, "copy_gbps": data["machine"]["read_gbps"], **row})
    return rows


def share(gbps, row):
    return 100 * gbps / row["copy_gbps"] if row["copy_gbps"] else 0.0


def table(rows):
    yield "| shape | kv | depth | prefill t/s | decode t/s | GB/s | % of copy | attention % | gemv % (least) |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|---:|"
    for row in rows:
        ops = row.get("ops", [])
        attention = [share(op["gbps"], row) for op in ops if op["op"] == "attention"]
        gemv = [share(op["gbps"], row) for op in ops if op["kernel"].startswith("gemv")]
        yield (f"| {row['shape']} | {row['kv']} | {row['depth']} | {row['prefill_tps']:.0f} ({row['n_prompt']}) | {row['decode_tps']:.1f} | "
               f"{row['decode_gbps']:.0f} | {share(row['decode_gbps'], row):.0f} | {max(attention, default=0):.0f} | {min(gemv, default=0):.0f} |")


def below(rows):
    """Kernels under half of the measured bandwidth, where what they move in a token is enough to matter."""
    worst = {}
    for row in rows:
        for op in row.get("ops", []):
            moved = op["us_per_token"] * op["gbps"] * 1e3  # bytes per token, all layers
            percent = share(op["gbps"], row)
            key = (op["kernel"], row["shape"], row["kv"])
            if moved >= BIG and percent < LISTED and percent < worst.get(key, (100,))[0]:
                worst[key] = (percent, row["depth"])
    for (kernel, shape, kv), (percent, depth) in sorted(worst.items()):
        yield f"- {kernel}: {percent:.0f}% ({shape}, {kv}, depth {depth})"


def slower(rows):
    """Where k4v4 loses to f16 from 4k on."""
    speed = {(r["shape"], r["kv"], r["depth"]): r["decode_tps"] for r in rows if r["part"] == "bench"}
    for (shape, kv, depth), tps in sorted(speed.items()):
        f16 = speed.get((shape, "f16", depth))
        if kv == "k4v4" and depth >= 4096 and f16 and tps < f16:
            yield f"- {shape}, depth {depth}: k4v4 {tps:.1f} t/s, f16 {f16:.1f} t/s"


def main():
    folder, seconds = Path(sys.argv[1]), int(sys.argv[2])
    card = (folder / "card.csv").read_text().strip()
    parts = {p.stem: int(p.read_text()) for p in sorted(folder.glob("*.rc"))}
    rows = read_bench(folder)
    bench = [row for row in rows if row["part"] == "bench"]
    lines = ["# kvrt on a card", "", f"card: {card}", "(name, driver, clocks SM and memory, their maxima, memory, power limit, compute)", "",
             f"last run: {seconds} s", "", "| part | exit code |", "|---|---:|", *(f"| {name} | {rc} |" for name, rc in parts.items()), "",
             *table(rows), "", f"Kernels under {LISTED}% of the copy bandwidth that move 100 MB a token or more:", "", *below(bench), "",
             "k4v4 slower than f16:", "", *slower(bench), ""]
    (folder / "report.md").write_text("\n".join(lines))
    (folder / "report.json").write_text(json.dumps({"card": card, "seconds": seconds, "parts": parts, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
