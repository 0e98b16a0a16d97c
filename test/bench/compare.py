#!/usr/bin/env python3
"""Speed of kvrt beside peers that have llama.cpp's `llama-bench`, on the same GGUF files. compare.sh has the usage.

Machines are shared and drift, so every round asks every runtime once, in an order that turns, and what is printed is the median of the rounds with its range
and the ratio of each round's pair. Decode at a depth is each runtime's own way: kvrt fills the cache with synthetic rows, llama.cpp reads a prompt of that
length (-d), ik_llama.cpp too (-gp). Each cache setting of a peer is a row of its own, so that "the best peer at any setting" can be read off."""
import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout


class Kvrt:
    def __init__(self, binary, cache, flags):
        self.binary, self.cache, self.flags = binary, cache, flags
        self.name = f"kvrt {cache}" + (" " + " ".join(flags) if flags else "")

    def measure(self, model, args):
        """{"prefill": tok/s, depth: tok/s}"""
        depths = ",".join(map(str, args.depth))
        rows = json.loads(run([self.binary, "bench", model, "--kv", self.cache, "-d", depths, "-p", args.prompt, "-g", args.gen, "-r", "1", "-t", args.threads,
                               "--json", *self.flags]))["rows"]
        result = {row["depth"]: row["decode_tps"] for row in rows}
        result["prefill"] = rows[0]["prefill_tps"]
        return result


class LlamaBench:
    def __init__(self, name, binary, cache):
        self.binary, self.cache, self.name = binary, cache, f"{name} {cache}"
        usage = subprocess.run([binary, "--help"], capture_output=True, text=True)
        self.usage = usage.stdout + usage.stderr

    def measure(self, model, args):
        common = [self.binary, "-m", model, "-t", args.threads, "-r", "1", "-o", "json", "-fa", "1", "-ctk", self.cache, "-ctv", self.cache]
        if "--run-time-repack" in self.usage:
            common += ["-rtr", "1"]
        rows = json.loads(run([*common, "-p", args.prompt, "-n", args.gen]))
        result = {("prefill" if row["n_prompt"] else 0): row["avg_ts"] for row in rows}
        for depth in (d for d in args.depth if d):
            if "--n-depth" in self.usage:
                out = run([*common, "-p", "0", "-n", args.gen, "-d", str(depth)])
            else:
                out = run([*common, "-p", "0", "-n", "0", "-gp", f"{depth},{args.gen}"])
            result[depth] = json.loads(out)[-1]["avg_ts"]
        return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("models", nargs="+", help="GGUF files")
    parser.add_argument("--kvrt", default=os.environ.get("KVRT", str(ROOT / "build" / "kvrt")))
    parser.add_argument("--kv", default="k4v4", help="cache formats of kvrt, comma-separated")
    parser.add_argument("--flags", default="", help="more options for kvrt, such as '--isa avx2 --no-amx'")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=LLAMA_BENCH")
    parser.add_argument("--peer-kv", default="f16", help="cache types of the peers, comma-separated (f16,q8_0,q4_0)")
    parser.add_argument("--depth", default="0,4096", type=lambda text: [int(d) for d in text.split(",")])
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--gen", type=int, default=64)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    args = argparse.Namespace(**{k: v if k not in ("prompt", "gen", "threads") else str(v) for k, v in vars(args).items()})
    runtimes = [Kvrt(args.kvrt, cache, args.flags.split()) for cache in args.kv.split(",")]
    for peer in args.peer:
        name, _, binary = peer.partition("=")
        runtimes += [LlamaBench(name, binary, cache) for cache in args.peer_kv.split(",")]
    columns = ["prefill", *args.depth]
    for model in args.models:
        seen = {r.name: {c: [] for c in columns} for r in runtimes}
        for round_ in range(args.rounds):
            turn = round_ % len(runtimes)
            for r in runtimes[turn:] + runtimes[:turn]:
                for column, value in r.measure(model, args).items():
                    if column in seen[r.name]:
                        seen[r.name][column].append(value)
                print(f"\r{Path(model).name}: round {round_ + 1} of {args.rounds}, {r.name}\033[K", end="", file=sys.stderr, flush=True)
        print("\r\033[K", end="", file=sys.stderr)
        print(f"{Path(model).name}, {args.threads} threads, tokens per second: median of {args.rounds} (range), kvrt's first row over it")
        first = seen[runtimes[0].name]
        for name, row in seen.items():
            cells = []
            for c in columns:
                ratio = statistics.median(a / b for a, b in zip(first[c], row[c]))
                cells.append(f"{statistics.median(row[c]):8.1f} ({min(row[c]):.1f}..{max(row[c]):.1f}) {ratio:5.2f}x")
            print(f"  {name:28} " + "  ".join(f"{'prefill ' + args.prompt if c == 'prefill' else 'decode at ' + str(c)} {cell}" for c, cell in zip(columns, cells)))
        print()


main()
