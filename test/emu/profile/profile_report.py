#!/usr/bin/env python3
"""Tables from a profile that emulated kernels left (KVRT_EMU_PROFILE=FILE): one line per kernel, then the costliest places of each in the source.
usage: profile_report.py FILE BINARY [--lines N] [KERNEL...]     BINARY: build/test/emu/emu_profile"""
import argparse
import collections
import os
import subprocess

KEYS = "requests partial accesses bytes unique sectors least lines passes least_passes degree fused fused_passes fused_least".split()
HIDDEN = {"emu_device.h", "half.h", "stdlib.h", "string_fortified.h"}


def symbols(binary, offsets):
    """offset -> [(function, file:line)], innermost first."""
    text = "".join(f"{o - 1:#x}\n" for o in offsets)
    out = subprocess.run(["addr2line", "-a", "-i", "-f", "-C", "-e", binary], input=text, capture_output=True, text=True, check=True).stdout
    table, lines = {}, out.splitlines()
    at = -1
    for i in range(len(lines)):
        if lines[i].startswith("0x"):
            at = int(lines[i], 16) + 1
            table[at] = []
            skip = i
        elif (i - skip) % 2 == 1:
            place = lines[i + 1].split(" (")[0].split("/")[-1] if i + 1 < len(lines) else "?"
            table[at].append((lines[i].split("(")[0].split("::")[-1], place))
    return table


def where(frames):
    """What a reader looks for: the first line outside of the helpers, the helper's name, and who called it."""
    helper = ""
    for i, (function, place) in enumerate(frames):
        if place.split(":")[0] in HIDDEN:
            helper = function
            continue
        caller = next((p for f, p in frames[i + 1:] if p != place), "")
        return place, helper, caller
    return frames[0][1] if frames else "?", helper, ""


def ratio(a, b):
    return f"{a / b:.2f}" if b else "-"


def fused(s):
    return f"{s['fused']}, {s['fused_passes']} ({s['fused_least']})" if s["fused"] != s["requests"] else "="


def main():
    args = argparse.ArgumentParser()
    args.add_argument("profile")
    args.add_argument("binary")
    args.add_argument("kernels", nargs="*")
    args.add_argument("--lines", type=int, default=12)
    args = args.parse_intermixed_args()
    kernels, sites = {}, collections.defaultdict(list)
    for line in open(args.profile):
        f = line.rstrip("\n").split("\t")
        if f[0] == "K":
            kernels[f[1]] = dict(zip("launches blocks warps read_launch write_launch read_block write_block".split(), map(int, f[2:])))
        else:
            sites[f[1]].append(dict(pc=int(f[2], 16), space=f[3], rw=f[4][0], loose="?" in f[4], size=int(f[5]), **dict(zip(KEYS, map(int, f[6:])))))
    table = symbols(args.binary, sorted({s["pc"] for k in sites.values() for s in k}))
    names = args.kernels or sorted(kernels)
    print("| kernel | launches | blocks | global load requests | sectors per request | read MB | least for the requests | block's footprint MB | launch's footprint MB "
          "| store requests | written MB | least | shared requests | passes | least | conflicts | fused requests | passes | least |")
    print("|---|" + "---:|" * 18)
    for name in names:
        k = kernels[name]
        pick = lambda space, rw, key: sum(s[key] for s in sites[name] if s["space"] in space.split() and (s["rw"] in rw))
        mb = lambda sectors: f"{sectors * 32 / 1e6:.3f}"
        r, w = "r", "wa"
        shared = [pick("shared", "rwa", key) for key in ("requests", "passes", "least_passes", "fused", "fused_passes", "fused_least")]
        print(f"| {name} | {k['launches']} | {k['blocks']} | {pick('global', r, 'requests')} | {ratio(pick('global', r, 'sectors'), pick('global', r, 'requests'))} "
              f"| {mb(pick('global', r, 'sectors'))} | {ratio(pick('global', r, 'sectors'), pick('global', r, 'least'))} | {mb(k['read_block'])} | {mb(k['read_launch'])} "
              f"| {pick('global', w, 'requests')} | {mb(pick('global', w, 'sectors'))} | {ratio(pick('global', w, 'sectors'), pick('global', w, 'least'))} "
              f"| {shared[0]} | {shared[1]} | {shared[2]} | {ratio(shared[1], shared[2])} | {shared[3]} | {shared[4]} | {shared[5]} |")
    for name in names:
        merged = {}
        for s in sites[name]:
            place, helper, caller = where(table.get(s["pc"], []))
            key = (s["space"], s["rw"], s["size"], place, helper, caller, s["loose"] and not helper)
            into = merged.setdefault(key, dict.fromkeys(KEYS, 0))
            for x in KEYS:
                into[x] = max(into[x], s[x]) if x == "degree" else into[x] + s[x]
        print(f"\n{name}\n")
        print("| line | from | access | requests | partial | sectors per request (least) or passes (least) | worst | fused requests, passes (least) | total sectors or passes |")
        print("|---|---|---|---:|---:|---:|---:|---:|---:|")
        cost = lambda item: item[1]["sectors"] + item[1]["passes"]
        for (space, rw, size, place, helper, caller, loose), s in sorted(merged.items(), key=cost, reverse=True)[:args.lines]:
            n = s["requests"]
            each = f"{s['sectors'] / n:.2f} ({s['least'] / n:.2f})" if space != "shared" else f"{s['passes'] / n:.2f} ({s['least_passes'] / n:.2f})"
            mark = " !" if max(s["sectors"] / max(1, s["least"]), s["passes"] / max(1, s["least_passes"])) >= 1.5 else ""
            print(f"| {place}{' ' + helper if helper else ''} | {caller} | {space} {dict(r='read', w='write', a='atomic')[rw]} {size}{' loose' if loose else ''} "
                  f"| {n} | {s['partial']} | {each}{mark} | {s['degree'] if space == 'shared' else ''} | {fused(s) if space == 'shared' else ''} | {cost((0, s))} |")


if __name__ == "__main__":
    main()
