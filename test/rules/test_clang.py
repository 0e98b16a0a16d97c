#!/usr/bin/env python3
"""Every C file of the library, the command and the tests is clean under clang as well: same flags, same warnings, syntax pass only."""
import json
import os
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

BUILD = Path(os.environ.get("KVRT_BUILD_DIR", "build"))
WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror"]
DROP = {"-o", "-c", "-MF", "-MT", "-MQ"}


def check(entry):
    arguments, skip = [], False
    for word in shlex.split(entry["command"])[1:]:
        if skip or word in DROP or word in ("-MD", "-Werror") or word.startswith("-fsanitize") or word == entry["file"]:
            skip = word in ("-o", "-MF", "-MT", "-MQ") and not skip
            continue
        arguments.append(word)
    cmocka = ["-Wno-unused-parameter"] if "/test/" in entry["file"] else []  # it hands every test a state
    command = ["clang", "-fsyntax-only", *WARNINGS, *arguments, *cmocka, entry["file"]]
    result = subprocess.run(command, cwd=entry["directory"], capture_output=True, text=True)
    return entry["file"], result.returncode, result.stderr


def main():
    database = BUILD / "compile_commands.json"
    if not shutil.which("clang"):
        print("skipped: clang is not installed")
        return 77
    entries = {e["file"]: e for e in json.loads(database.read_text()) if e["file"].endswith(".c") and Path(e["file"]).exists()}
    failed = 0
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for name, code, errors in pool.map(check, entries.values()):
            if code:
                failed += 1
                print(f"{name}:\n{errors}")
    print(f"{len(entries)} files, {failed} with warnings")
    return 1 if failed or not entries else 0


sys.exit(main())
