#!/usr/bin/env python3
"""MaskBench (github.com/guidance-ai/jsonschemabench, folder maskbench/data) through test/bench/grammar_probe.c: how many schemas compile and pass, and
what a mask takes. The data has no licence, so it stays outside of the tree.

  grammar_maskbench.py PROBE TOKENIZER_DIR DATA_DIR [EVERY_NTH]

Every text is taken token by token, with a mask before each. Times are of the thread, not of the clock."""
import collections
import json
import subprocess
import sys
from pathlib import Path


def share(sorted_list, part):
    return sorted_list[min(len(sorted_list) - 1, int(len(sorted_list) * part))] if sorted_list else 0


def main():
    probe, tokenizer, data = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    files = sorted(data.glob("*.json"))[:: int(sys.argv[4]) if len(sys.argv) > 4 else 1]
    process = subprocess.Popen([probe, tokenizer], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    refused, compile_us, mask_ns = collections.Counter(), [], []
    passed = wrong_no = wrong_yes = gaps = 0
    for path in files:
        case = json.loads(path.read_text())
        texts = [json.dumps(t["data"], ensure_ascii=False) for t in case["tests"]]
        process.stdin.write(json.dumps({"kind": "schema", "text": json.dumps(case["schema"], ensure_ascii=False), "texts": texts, "masks": True}) + "\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        if "error" in answer:
            refused[answer["error"].split("/")[-1][:70]] += 1
            continue
        compile_us.append(answer["compile_us"])
        good = True
        for test, got in zip(case["tests"], answer["texts"]):
            good = good and got["accepts"] == test["valid"]
            wrong_no += test["valid"] and not got["accepts"]
            wrong_yes += got["accepts"] and not test["valid"]
            gaps += got["refused"]
            mask_ns += got.get("mask_ns", [])
        passed += good
    mask_ns.sort()
    compile_us.sort()
    print(f"{len(files)} schemas: {len(compile_us)} compile, {passed} pass; valid texts refused {wrong_no}, invalid ones accepted {wrong_yes}, "
          f"masks that lack a token which fits {gaps}")
    print(f"compile us: mean {sum(compile_us) / max(1, len(compile_us)):.0f}, half {share(compile_us, .5)}, 99% {share(compile_us, .99)}")
    print(f"mask us, {len(mask_ns)} of them: mean {sum(mask_ns) / max(1, len(mask_ns)) / 1e3:.1f}, half {share(mask_ns, .5) / 1e3:.1f}, "
          f"90% {share(mask_ns, .9) / 1e3:.1f}, 99% {share(mask_ns, .99) / 1e3:.1f}, most {share(mask_ns, 1) / 1e3:.1f}")
    for why, n in refused.most_common(12):
        print(f"{n:6} {why}")


main()
