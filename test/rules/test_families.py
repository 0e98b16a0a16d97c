"""README names the models of the table of families (runtime/model/families.c) and the architectures of GGUF files (gguf_config.c), no more and
no fewer. KVRT_UPDATE_GOLDEN=1 writes both lists."""
import os
import re
import sys

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
README = os.path.join(ROOT, "README.md")
# What stands in README between <!-- NAME --> and <!-- /NAME -->: the table, a row of it with one group, what joins them.
LISTS = {
    "families": ("runtime/model/families.c", r'\bX\(\s*"\w+",[\s\\]*"\w+",[\s\\]*"([^"]+)"', "; "),
    "gguf": ("runtime/model/gguf_config.c", r'\{"([\w-]+)", "\w+", (?:true|false)\}', ", "),
}


def main():
    with open(README) as f:
        text = f.read()
    for name, (table, row, between) in LISTS.items():
        with open(os.path.join(ROOT, table)) as f:
            rows = re.findall(row, f.read())
        place = re.compile(rf"(<!-- {name} -->)(.*?)(<!-- /{name} -->)", re.S)
        found, need = place.search(text), between.join(rows)
        if not rows or not found:
            sys.exit(f"{table} has no rows, or README.md no place for them (<!-- {name} -->)")
        if os.environ.get("KVRT_UPDATE_GOLDEN"):
            text = place.sub(lambda m: m[1] + need + m[3], text)
        elif found[2] != need:
            sys.exit(f"README.md says\n  {found[2]}\nand {table}\n  {need}\n(KVRT_UPDATE_GOLDEN=1 writes it)")
        print(f"{name}: {len(rows)}")
    if os.environ.get("KVRT_UPDATE_GOLDEN"):
        with open(README, "w") as f:
            f.write(text)


if __name__ == "__main__":
    main()
