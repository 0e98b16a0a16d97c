#!/usr/bin/env python3
"""Checks rules of the tree that a compiler does not: who may include whom, calls a library must not make, unique file names, and that every page
that is cited is in the tree."""
import os
import re
import sys
from pathlib import Path

ROOT = Path(os.environ.get("KVRT_SOURCE_DIR", Path(__file__).resolve().parents[2]))

# folder -> what its files may include, as prefixes of paths from the root. A file may always include its own folder.
ALLOWED = {
    "tools": ["runtime/kvrt.h", "tools/serve/serve.h"],
    "tools/serve": ["runtime/kvrt.h"],
    "examples": ["runtime/kvrt.h"],
    "runtime/base": ["runtime/kvrt.h"],
    "runtime/text": ["runtime/kvrt.h", "runtime/base/"],
    "runtime/tokenizer": ["runtime/kvrt.h", "runtime/base/", "runtime/text/unicode.h"],
    "runtime/template": ["runtime/kvrt.h", "runtime/base/", "runtime/text/unicode.h", "runtime/tokenizer/tokenizer.h"],
    # The encoder is made of vectors; what only instructions say of them is in lanes.h.
    "runtime/kv": ["runtime/kvrt.h", "runtime/base/", "kernels/cpu/lanes.h"],
    # Patterns speak of code points by property; masks are made over the vocabulary.
    "runtime/grammar": ["runtime/kvrt.h", "runtime/base/", "runtime/tokenizer/tokenizer.h", "runtime/tokenizer/regex_set.h"],
    # Configurations name modules by regular expressions.
    "runtime/model/quantization": ["runtime/kvrt.h", "runtime/base/", "runtime/model/", "runtime/tokenizer/regex.h"],
    "runtime/model": ["runtime/model/quantization/quantization.h", "runtime/kvrt.h", "runtime/base/", "runtime/kv/", "kernels/backend.h"],
    "runtime/engine": ["runtime/", "kernels/backend.h"],
    "kernels": ["runtime/kvrt.h", "runtime/base/", "runtime/kv/page.h", "runtime/model/weight_form.h", "runtime/model/weight_codec.h", "runtime/model/quantize.h"],
    # What a weight is: forms and their codec, shared as the cache's are.
    # The folder's record format is layout.h, codec.h and the 16-bit conversions they are built on.
    "kernels/cpu": ["kernels/backend.h", "kernels/program.h", "kernels/tile_form.h", "kernels/weight.h", "runtime/model/weight_codec.h", "runtime/model/quantize.h", "runtime/base/", "runtime/kv/page.h", "runtime/kv/layout.h", "runtime/kv/codec.h", "runtime/kv/half.h", "runtime/kv/elementary.h", "runtime/kv/ranges.h",
                    "runtime/kv/encode.h"],
    # The emulator's side of ptx.cuh, which stands for the device when a host compiler builds the kernels.
    "kernels/cuda": ["kernels/backend.h", "kernels/program.h", "kernels/tile_form.h", "kernels/weight.h", "runtime/model/weight_codec.h", "runtime/base/", "runtime/kv/page.h", "runtime/kv/format.h", "runtime/kv/layout.h", "runtime/kv/codec.h", "runtime/kv/trellis.h", "runtime/kv/half.h", "runtime/kv/elementary.h", "runtime/kv/ranges.h",
                     "test/emu/emu_device.h"],
}
LIBRARY = ("runtime/", "kernels/")
FORBIDDEN_CALLS = re.compile(
    r"(?<![\w.>])(abort|exit|_exit|quick_exit|atexit|printf|fprintf|vprintf|vfprintf|puts|fputs|putchar|fwrite|fopen|perror|"
    r"getenv|setenv|setlocale|localeconv|strtod|strtof|strtold|atof|system|fork|signal|sigaction|pthread_sigmask|longjmp|setjmp|"
    r"rand|srand|strerror|gmtime|localtime|strtok)\s*\(")
HEAP_CALLS = re.compile(r"(?<![\w.>])(malloc|calloc|realloc|free|strdup|strndup|aligned_alloc|posix_memalign|alloca)\s*\(")
ASM_HOMES = {"kernels/cuda/ptx.cuh", "kernels/cpu/amx.h", "kernels/cpu/lines_avx2.h", "runtime/base/os_posix.c"}  # the last one asks XGETBV
# Worker threads are started with every signal blocked, which needs the caller's mask for the length of one call.
CALL_HOMES = {"pthread_sigmask": "runtime/base/os_posix.c"}
COMMENTS = re.compile(r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|/\*.*?\*/|//[^\n]*', re.S)

# A reader has the repository and nothing else: a page that is cited must be in it.
PAGE = re.compile(r"(?<![\w*{}$])((?:[\w.-]+/)*[\w.-]*\w\.md)\b")
CITING = (".c", ".h", ".cu", ".cuh", ".cpp", ".py", ".sh", ".md", ".txt", ".cmake", ".in")
WRITTEN = {"report.md", "OUT/report.md", "FOLDER/MODEL_CARD.md"}  # what scripts of the tree write

problems = []


def files(*suffixes):
    for top in ("runtime", "kernels", "tools", "examples"):
        for path in sorted((ROOT / top).rglob("*")):
            if path.suffix in suffixes and path.is_file():
                yield path, path.relative_to(ROOT).as_posix()


def code_of(text):
    """The text without comments and string contents; line numbers stay."""
    def blank(match):
        token = match.group(0)
        return '""' if token[0] in "\"'" else "\n" * token.count("\n")
    return COMMENTS.sub(blank, text)


def check_includes(path, name, text):
    folder = Path(name).parent.as_posix()
    if name == "runtime/kvrt.h":
        rules = []
    else:
        rules = next((ALLOWED[f] for f in sorted(ALLOWED, key=len, reverse=True) if folder == f or folder.startswith(f + "/")), None)
        if rules is None:
            problems.append(f"{name}: folder {folder} has no include rule")
            return
    for number, line in enumerate(text.splitlines(), 1):
        match = re.match(r'\s*#\s*include\s*([<"])([^>"]+)[>"]', line)
        if not match:
            continue
        kind, target = match.groups()
        if folder.startswith("runtime") and re.match(r"(cuda|immintrin|x86intrin|arm_neon)", target):
            problems.append(f"{name}:{number}: {target} inside runtime/; device and vector code belongs in kernels/")
        if kind == "<":
            continue
        resolved = (path.parent / target).resolve()
        if not resolved.exists() and target == "kvrt.h":
            resolved = ROOT / "runtime/kvrt.h"
        if not resolved.exists():
            continue  # generated by the build
        inner = resolved.relative_to(ROOT).as_posix()
        own = inner.startswith(folder + "/") and "/" not in inner[len(folder) + 1:]
        if not own and not any(inner == rule or (rule.endswith("/") and inner.startswith(rule)) for rule in rules):
            problems.append(f"{name}:{number}: includes {inner}; {folder} may include {', '.join(rules) or 'nothing of ours'}")


def check_calls(name, code):
    if not name.startswith(LIBRARY):
        return
    for number, line in enumerate(code.splitlines(), 1):
        for match in FORBIDDEN_CALLS.finditer(line):
            if CALL_HOMES.get(match.group(1)) == name:
                continue
            problems.append(f"{name}:{number}: calls {match.group(1)}; the library is a guest in the process")
        if name != "runtime/base/mem.c":
            for match in HEAP_CALLS.finditer(line):
                problems.append(f"{name}:{number}: calls {match.group(1)}; memory comes from base/mem.h")
        if re.search(r"\b(__asm__|asm)\b", line) and name not in ASM_HOMES:
            problems.append(f"{name}:{number}: inline assembly; it belongs in {' or '.join(sorted(ASM_HOMES))}")


def check_citations():
    """A cited path counts from the citing file, from the root, or is the end of a path in the tree. Returns how many citations there were."""
    tops = ("runtime", "kernels", "tools", "examples", "test")
    citing = [p for top in tops for p in sorted((ROOT / top).rglob("*")) if p.suffix in CITING and p.is_file()]
    citing += [p for p in sorted(ROOT.glob("*")) if p.suffix in CITING and p.is_file()]
    pages = ["/" + p.relative_to(ROOT).as_posix() for p in citing if p.suffix == ".md"]
    count = 0
    for path in citing:
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            for cited in PAGE.findall(line):
                count += 1
                if not ((path.parent / cited).exists() or any(page.endswith("/" + cited) for page in pages) or cited in WRITTEN):
                    problems.append(f"{path.relative_to(ROOT).as_posix()}:{number}: cites {cited}, which is not in the repository")
    return count


def main():
    seen = {}
    count = 0
    for path, name in files(".c", ".h", ".cu", ".cuh"):
        text = path.read_text(encoding="utf-8")
        code = code_of(text)
        count += 1
        check_includes(path, name, re.sub(r"/\*.*?\*/", lambda m: "\n" * m.group(0).count("\n"), text, flags=re.S))
        check_calls(name, code)
        if path.suffix in (".c", ".cu"):
            other = seen.setdefault(path.name, name)
            if other != name:
                problems.append(f"{name}: a file named {path.name} exists as {other}")
        lines = text.count("\n")
        for number, line in enumerate(text.splitlines(), 1):
            if len(line) > 150:
                problems.append(f"{name}:{number}: {len(line)} columns, at most 150")
        if lines > 900 and "generated" not in text[:400]:
            problems.append(f"{name}: {lines} lines, the limit is 900")
        if re.search(r"\b(TODO|FIXME|XXX)\b", text):
            problems.append(f"{name}: an unfinished mark (TODO, FIXME, XXX)")
    citations = check_citations()
    for problem in problems:
        print(problem)
    print(f"{count} files, {citations} citations of pages, {len(problems)} problems")
    return 1 if problems or not count or not citations else 0


sys.exit(main())
