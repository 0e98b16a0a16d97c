#!/usr/bin/env python3
"""kvrt.h: compiles in every language and compiler it promises, and its ABI only grows. The golden file test/golden/abi.txt holds offset
and size of every field and the value of every constant; a line that changes or vanishes is a break, a new line must be added to it
(KVRT_UPDATE_GOLDEN=1 writes it, for review)."""
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(os.environ.get("KVRT_SOURCE_DIR", Path(__file__).resolve().parents[2]))
HEADER = ROOT / "runtime/kvrt.h"
GOLDEN = ROOT / "test/golden/abi.txt"
LANGUAGES = [("c", "c99", ["gcc", "clang"]), ("c", "c11", ["gcc", "clang"]), ("c++", "c++17", ["g++", "clang++"])]


def compiles():
    ok, tried = True, 0
    with tempfile.TemporaryDirectory() as folder:
        for language, standard, compilers in LANGUAGES:
            source = Path(folder) / ("a.c" if language == "c" else "a.cc")
            source.write_text('#include "kvrt.h"\nint main(void) { return kvrt_version() == 0; }\n')
            for compiler in compilers:
                if not shutil.which(compiler):
                    continue
                command = [compiler, "-x", language, f"-std={standard}", "-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror",
                           "-fsyntax-only", "-I", str(HEADER.parent), str(source)]
                result = subprocess.run(command, capture_output=True, text=True)
                tried += 1
                if result.returncode:
                    print(f"{compiler} -std={standard}:\n{result.stderr}")
                    ok = False
    print(f"header compiled {tried} ways")
    return ok and tried > 0


def description():
    """Compiles a program that prints the layout, from the structs and enums found in the header."""
    text = re.sub(r"/\*.*?\*/|//[^\n]*", "", HEADER.read_text(), flags=re.S)
    lines = []
    for body, name in re.findall(r"typedef struct \w+ \{(.*?)\} (kvrt_\w+);", text, flags=re.S):
        lines.append(f'printf("struct {name} %zu\\n", sizeof({name}));')
        for declaration in body.split(";"):
            for declarator in declaration.split(","):
                match = re.search(r"(\w+)\s*(?:\[\w+\])?\s*$", declarator.strip())
                if not match:
                    continue
                field = match.group(1)
                lines.append(f'printf("{name}.{field} %zu %zu\\n", offsetof({name}, {field}), sizeof((({name} *)0)->{field}));')
    for value in re.findall(r"\b(KVRT_[A-Z0-9_]+)\s*=\s*-?\d+", text) + re.findall(r"#define (KVRT_(?:TOKENIZE|DETOKENIZE)_\w+)", text):
        lines.append(f'printf("{value} %d\\n", (int){value});')
    for name in re.findall(r"\bX\((\w+), -?\d+,", text):
        lines.append(f'printf("KVRT_{name} %d\\n", (int)KVRT_{name});')
    source = "#include <stdio.h>\n#include <stddef.h>\n#include \"kvrt.h\"\nint main(void) {\n" + "\n".join(lines) + "\nreturn 0; }\n"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "abi.c"
        path.write_text(source)
        program = Path(folder) / "abi"
        subprocess.run([os.environ.get("CC", "cc"), "-std=c11", "-I", str(HEADER.parent), str(path), "-o", str(program)], check=True)
        return subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout.splitlines()


def abi_is_golden():
    found = description()
    if os.environ.get("KVRT_UPDATE_GOLDEN"):
        GOLDEN.write_text("\n".join(found) + "\n")
    golden = GOLDEN.read_text().splitlines()
    changed = [line for line in golden if line not in found]
    new = [line for line in found if line not in golden]
    for line in changed:
        print(f"changed or gone: {line}")
    for line in new:
        print(f"not in the golden file: {line}")
    print(f"{len(golden)} lines of ABI, {len(changed)} changed, {len(new)} new")
    return bool(golden) and not changed and not new


sys.exit(0 if compiles() & abi_is_golden() else 1)
