"""README names the models of the table of families (runtime/model/families.c), no more and no fewer.
KVRT_UPDATE_GOLDEN=1 writes the list."""
import os
import re
import sys

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
TABLE, README = os.path.join(ROOT, "runtime/model/families.c"), os.path.join(ROOT, "README.md")
PLACE = re.compile(r"(<!-- families -->)(.*?)(<!-- /families -->)", re.S)


def main():
    with open(TABLE) as f:
        rows = re.findall(r'\bX\(\s*"(\w+)",[\s\\]*"(\w+)",[\s\\]*"([^"]+)"', f.read())
    with open(README) as f:
        text = f.read()
    found = PLACE.search(text)
    need = "; ".join(models for _, _, models in rows)
    if not rows or not found:
        sys.exit("families.c has no rows, or README.md no place for them")
    if os.environ.get("KVRT_UPDATE_GOLDEN"):
        with open(README, "w") as f:
            f.write(PLACE.sub(lambda m: m[1] + need + m[3], text))
    elif found[2] != need:
        sys.exit(f"README.md says of models\n  {found[2]}\nand runtime/model/families.c\n  {need}\n(KVRT_UPDATE_GOLDEN=1 writes it)")
    print(f"{len(rows)} families")


if __name__ == "__main__":
    main()
