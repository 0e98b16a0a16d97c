"""The card: what an instruction costs, how long one warp is on its way, and what a launch takes by the largest of its terms.
Nothing here knows a kernel of kvrt; model.py and dynamic.py do.

FROZEN. calibration.tsv says what this file, byte for byte (digest()), says of published kernels and how far off it is. A change
makes all predictions those of another model: it needs the calibration anew (calibrate.py) and predicted.tsv's record of what was
first predicted loses its meaning, so change it for a measurement, never for a kernel. rules.cuda_timing holds both tables to the
digest."""
import hashlib
import re
from pathlib import Path

LINE = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)([^;]*);\s+/\* (0x[0-9a-f]+) \*/")
SECOND = re.compile(r"^\s+/\* (0x[0-9a-f]{16}) \*/")

# SMs, GHz, DRAM GB/s, DRAM latency (clocks), cycles of HMMA.16816.F32 per sub-core, launch inside a graph (us), architecture. GB/s: what
# the published decode of a BF16 8B by llama.cpp takes, 58.3 and 65.2 tokens of 15 GB a second; of the A10, which is here for its
# published kernels alone, the same share of what its memory can as of a 3090's. GeForce cards take f32-accumulating tensor products
# at half of an A10's rate.
CARDS = {
    "rtx3090": dict(sms=82, ghz=1.75, gbps=875.0, dram=470, hmma=32.0, launch=1.5, arch=86),
    "rtx4090": dict(sms=128, ghz=2.6, gbps=980.0, dram=625, hmma=32.0, launch=1.3, arch=89),
    "a10": dict(sms=72, ghz=1.695, gbps=560.0, dram=470, hmma=16.0, launch=1.5, arch=86),
}
ALU = set("LOP3 IADD3 SHF PRMT LEA ISETP SEL FSEL FMNMX FSETP MOV IMNMX F2FP I2FP PLOP3 CS2R P2R R2P BMSK IABS VOTE NOP".split())
UNIFORM = set("UMOV UIADD3 ULDC UISETP USHF UIMAD ULOP3 USEL ULEA S2UR R2UR UPLOP3".split())
CONTROL = set("BRA EXIT BSSY BSYNC CALL RET BREAK BRX BRXU WARPSYNC BAR DEPBAR LDGDEPBAR YIELD MEMBAR ERRBAR".split())
MEMORY = set("LDG LD STG ST LDS STS LDSM SHFL LDGSTS ATOM ATOMG RED S2R LDC".split())
DOUBLE = set("DADD DMUL DFMA DSETP".split())
# Measured cycles of every pipe but the tensor cores' over those of the tables: the largest launch of llama.cpp's product of 1.125
# bits, see calibration.tsv.
PIPE = 1.5


class Instruction:
    def __init__(self, at, opcode, operands):
        self.at, self.opcode, self.operands = at, opcode, operands
        self.base, self.mods = opcode.split(".")[0], opcode.split(".")[1:]
        self.stall, self.write, self.wait = 1, 7, 0

    def control(self, word):
        bits = word >> 41
        self.stall, self.write, self.wait = bits & 15, bits >> 5 & 7, bits >> 11 & 63

    def bytes(self):
        if self.base == "LDSM":
            return 16
        return 16 if "128" in self.mods else 8 if "64" in self.mods else 4

    def pipe(self, card):
        """(pipe, cycles of a sub-core)"""
        if self.base in ("FADD", "FMUL", "FFMA"):
            return "fp32", 1.0
        if self.base in ("IMAD", "HADD2", "HMUL2", "HFMA2", "IDP"):
            return "fma", 2.0
        if self.base in ALU:
            return "alu", 2.0
        if self.base in ("MUFU", "I2F", "F2I", "F2F", "FCHK", "MOVM", "POPC", "FLO"):
            return "xu", 8.0
        if self.base == "HMMA":
            return "tensor", card["hmma"]
        if self.base == "IMMA":
            return "tensor", card["hmma"] / 2
        if self.base in MEMORY:
            return "lsu", {"SHFL": 4.0, "S2R": 2.0, "LDC": 2.0}.get(self.base, float(self.bytes()))
        if self.base in UNIFORM or self.base.startswith("U"):
            return "uniform", 2.0
        if self.base in CONTROL:
            return "control", 2.0
        if self.base in DOUBLE:
            return "fp64", 64.0
        raise SystemExit(f"unknown opcode {self.opcode}: the tables of {Path(__file__).name} lack it")

    def latency(self, card):
        if self.base in ("LDG", "LD"):
            return card["dram"] if "CONSTANT" in self.mods or "NA" in self.mods else 33
        if self.base == "LDGSTS":
            return card["dram"]
        return {"LDS": 30, "LDSM": 33, "SHFL": 24, "MUFU": 23, "MOVM": 20, "I2F": 20, "F2I": 20, "LDC": 28, "S2R": 28}.get(self.base, 14)


def walk(body, card):
    """(cycles of one warp alone, cycles by pipe) of instructions in a row."""
    now, ready, pipes = 0.0, {}, {"issue": float(len(body))}
    for i in body:
        for k in range(6):
            if i.wait >> k & 1:
                now = max(now, ready.get(k, 0.0))
        pipe, cost = i.pipe(card)
        pipes[pipe] = pipes.get(pipe, 0.0) + cost
        if i.write != 7:
            ready[i.write] = max(ready.get(i.write, 0.0), now + i.latency(card))
        now += max(1, i.stall)
    return now, pipes


def weighted(parts, card):
    """parts: (instructions, times). Sums of walk."""
    total, pipes = 0.0, {}
    for body, times in parts:
        cycles, by = walk(body, card)
        total += cycles * times
        for pipe, n in by.items():
            pipes[pipe] = pipes.get(pipe, 0.0) + n * times
    return total, pipes


def executed(pipes):
    """What a mean warp took of the pipes, as measured cycles."""
    return {pipe: n if pipe == "tensor" else PIPE * n for pipe, n in pipes.items()}


def resident(threads, registers, shared):
    """Blocks of a multiprocessor of sm_86 and sm_89."""
    return max(1, min(1536 // threads, 65536 // (threads * max(8, -(-registers // 8) * 8)), 100 * 1024 // (shared + 1024), 16))


def estimate(card, warp, pipes, blocks, warps, per_sm, size):
    """(us, terms by name) of a launch of `blocks` blocks of `warps` equal warps that moves `size` bytes."""
    busiest = -(-blocks // card["sms"])
    clock = card["ghz"] * 1e3
    terms = {pipe: n * busiest * warps / 4 / clock for pipe, n in pipes.items()}
    terms["memory"] = size / card["gbps"] / 1e3
    terms["warp"] = warp * -(-busiest // per_sm) / clock
    largest_pipe = max(v for k, v in terms.items() if k not in ("memory", "warp"))
    return sum(x ** 4 for x in (largest_pipe, terms["memory"], terms["warp"])) ** 0.25 + card["dram"] / clock, terms


def digest():
    """Which card.py this is."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
