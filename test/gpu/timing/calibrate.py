#!/usr/bin/env python3
"""What card.py says of kernels that others published times of, and how far off it is: calibration.tsv. Of kvrt's kernels nothing has
been measured.

    test/gpu/timing/calibrate.py [--freeze]                  every prediction beside what was published; --freeze: writes them and card.py's digest
    test/gpu/timing/calibrate.py --weigh TRACE FOLDER CARD   the line of each launch of a trace, for a new row; FOLDER: of disassemblies

Their sources were compiled outside of this repository by nvcc 13.0 to sm_86 and executed by test/sass (a driver of a few lines loads the
cubin into libkvrt-emu-cuda.so and launches it with the published shape, KVRT_SASS_TRACE=FILE). Blocks that do the same are executed once
and counted as often as the shape has them; of a matrix too large for that two depths are executed, and what grows with depth is drawn out
to the whole. Bytes are those of weights or pages, once.

  published  ID  CARD  us  fit|held  small  what, and its source
             fit: a number of card.py is from it; held: nothing is. small: launches beside the kernels, each a launch and one memory
             latency; -1 takes one off where the published time is a difference of two tokens.
  kernel     ID  times  blocks  warps  blocks per SM  bytes  cycles of the longest warp  pipe:cycles of a mean warp, by the tables
  predicted  ID  us  error (%)

A row that is held and 25% off or more fails (rules.cuda_timing)."""
import sys
from pathlib import Path

import card

TABLE = Path(__file__).with_name("calibration.tsv")
WORST = 25.0


def read():
    published, kernels, predicted = {}, {}, {}
    lines = TABLE.read_text().splitlines()
    for line in lines[1:]:
        kind, name, *rest = line.split("\t")
        if kind == "published":
            published[name] = (rest[0], float(rest[1]), rest[2], int(rest[3]), rest[4])
        elif kind == "kernel":
            numbers = [float(v) for v in rest[:6]]
            kernels.setdefault(name, []).append((*numbers, {p: float(n) for p, n in (pair.split(":") for pair in rest[6].split())}))
        else:
            predicted[name] = float(rest[0])
    return lines[0], published, kernels, predicted


def predict(on, small, kernels):
    us = small * (on["launch"] + on["dram"] / on["ghz"] / 1e3)
    for times, blocks, warps, per_sm, size, way, pipes in kernels:
        us += times * (card.estimate(on, way, card.executed(pipes), int(blocks), int(warps), int(per_sm), size)[0] + on["launch"])
    return us


def weigh(trace, folder, name):
    import dynamic
    code, on = dynamic.disassemblies(folder), card.CARDS[name]
    for kernel, grid, blocks, threads, registers, shared, rows, way in dynamic.launches(trace):
        pipes = {"issue": 0.0}
        for at, times, _ in rows:
            pipe, cost = code[kernel][at].pipe(on)
            pipes["issue"] += times
            pipes[pipe] = pipes.get(pipe, 0.0) + times * cost
        warps = -(-threads // 32)
        each = " ".join(f"{p}:{n / blocks / warps:.1f}" for p, n in pipes.items())
        print(f"kernel\t{kernel} {grid}\t1\t{blocks}\t{warps}\t{card.resident(threads, registers, shared)}\tBYTES\t"
              f"{card.walk([code[kernel][at] for at in way], on)[0]:.0f}\t{each}")


def check(shows=True):
    """Problems of the calibration."""
    first, published, kernels, predicted = read()
    problems = [] if first == f"# card.py {card.digest()}" else [
        f"{TABLE.name} is of {first[2:]}, this card.py is {card.digest()}: the model was frozen (see its head; --freeze after a calibration)"]
    if shows:
        print(f"\npublished times of other kernels, model {card.digest()}\n{'':24} {'card':8} {'us':>9} {'published':>9} {'error':>6}")
    for name, (on, us, kind, small, what) in published.items():
        now = predict(card.CARDS[on], small, kernels.get(name, []))
        error = 100 * (now / us - 1)
        if shows:
            print(f"{name:24} {on:8} {now:9.1f} {us:9.1f} {error:+5.0f}%  {'(fitted) ' if kind == 'fit' else ''}{what}")
        if not abs(error) < WORST and kind == "held":
            problems.append(f"{name}: {now:.1f} us predicted, {us:.1f} published, {error:+.0f}%")
        if not abs(now - predicted.get(name, -1)) <= 0.006 * now:
            problems.append(f"{name}: {now:.1f} us predicted, {TABLE.name} says {predicted.get(name)}")
    held = [abs(100 * (predict(card.CARDS[on], small, kernels.get(n, [])) / us - 1))
            for n, (on, us, kind, small, _) in published.items() if kind == "held"]
    if shows and held:
        print(f"{len(held)} that nothing was fitted to: mean error {sum(held) / len(held):.0f}%, largest {max(held):.0f}%")
    return problems


def freeze():
    _, published, kernels, _ = read()
    rows = [line for line in TABLE.read_text().splitlines()[1:] if not line.startswith("predicted\t")]
    for name, (on, us, _, small, _) in published.items():
        now = predict(card.CARDS[on], small, kernels[name])
        rows.append(f"predicted\t{name}\t{now:.2f}\t{100 * (now / us - 1):+.1f}")
    TABLE.write_text(f"# card.py {card.digest()}\n" + "\n".join(rows) + "\n")


if __name__ == "__main__":
    if len(sys.argv) == 5 and sys.argv[1] == "--weigh":
        weigh(*sys.argv[2:])
        sys.exit(0)
    if sys.argv[1:] == ["--freeze"]:
        freeze()
    found = check()
    print(*found, sep="\n")
    sys.exit(1 if found else 0)
