#!/bin/sh
# Speed beside the peers for a mixture of experts and a hybrid, in shapes cut to what fits a small machine:
#   PYTHON=python-with-gguf test/bench/compare_families.sh FOLDER --peer llama.cpp=PATH/llama-bench [options of compare.sh]
# Makes qwen3-30b-a3b:8 and qwen3.8-27b:8 in Q4_K_M in FOLDER (3 GB each) unless they are there, then compares as compare.sh does.
set -e
here=$(dirname "$0")
folder=$1
shift
for shape in qwen3-30b-a3b:8 qwen3.8-27b:8; do
    file=$folder/$(echo "$shape" | tr : -)-q4_k_m.gguf
    if [ ! -f "$file" ]; then
        "${PYTHON:-python3}" "$here/make_shape_gguf.py" "$shape" q4_k_m "$file.part"
        mv "$file.part" "$file"
    fi
    files="$files $file"
done
# shellcheck disable=SC2086
exec "$here/compare.sh" $files --kv k4v4,f16 --peer-kv f16,q8_0 "$@"
