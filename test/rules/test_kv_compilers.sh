#!/usr/bin/env bash
# The codec's bytes do not depend on who compiled it: runtime/kv and its tests by every C compiler here, with little optimization
# for the plain instruction set and with all of it for this machine's own.
set -euo pipefail
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
cd "$KVRT_SOURCE_DIR"
flags=(-std=c11 -ffp-contract=off -fno-math-errno -I. -Wno-psabi)
avx2=(-mavx2 -mfma -mf16c)
avx512=("${avx2[@]}" -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512cd)
tried=0
for cc in gcc clang; do
    command -v "$cc" >/dev/null || continue
    for level in "-O1" "-O3 -march=native"; do
        # shellcheck disable=SC2086
        compile() { "$cc" "${flags[@]}" $level "$@"; }
        compile -c runtime/kv/encode.c -o "$out/encode.o" 2>"$out/log" || { cat "$out/log"; exit 1; }
        objects=("$out/encode.o")
        if [ "$(uname -m)" = x86_64 ]; then
            compile "${avx2[@]}" -c runtime/kv/encode_avx2.c -o "$out/avx2.o"
            compile "${avx512[@]}" -c runtime/kv/encode_avx512.c -o "$out/avx512.o"
            objects+=("$out/avx2.o" "$out/avx512.o")
        fi
        for test in test_kv_codec test_kv_feedback test_kv_trellis; do
            compile runtime/kv/format.c "test/unit/$test.c" "${objects[@]}" -lcmocka -lm -o "$out/$test"
            if ! "$out/$test" >"$out/log" 2>&1; then
                echo "$cc $level:"
                grep -v -e 'RUN' -e ' OK ' "$out/log"
                exit 1
            fi
        done
        echo "ok    $cc $level"
        tried=$((tried + 1))
    done
done
[ "$tried" -gt 0 ] || { echo "no compiler found"; exit 77; }
