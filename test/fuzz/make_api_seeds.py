#!/usr/bin/env python3
"""Writes test/fuzz/corpus/api: sequences of calls for fuzz_api.c, a call in three bytes (session, no failing allocation, kind) and its arguments. All
open both engines and three sessions; what follows is drawn from a seed."""
import random
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "corpus" / "api"
OPEN, CREATE, SYNC, GENERATE, REPEAT = 0, 2, 5, 7, 11


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    for number in range(12):
        draw = random.Random(number)
        data = []
        for engine in range(2):
            data += [0, 255, OPEN, engine, draw.randrange(3), draw.randrange(6), draw.randrange(2), draw.randrange(2), draw.randrange(2), draw.randrange(2)]
        for session in range(3):
            data += [session, 255, CREATE, session % 2, 1]
            data += [session, 255, SYNC, 1, draw.randrange(20), draw.randrange(96), draw.randrange(7), 255, 255]
            data += [session, 255, GENERATE, 0, session % 3]
        data += [0, 255, REPEAT, 0, draw.randrange(4), draw.randrange(2)]
        data += [draw.randrange(256) for _ in range(160)]
        (FOLDER / f"{number:02d}").write_bytes(bytes(data))


main()
