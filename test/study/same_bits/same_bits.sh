#!/usr/bin/env bash
# Compares the bits of two builds: same_bits.sh BEFORE AFTER, folders that hold include/kvrt.h, libkvrt.so and (for CUDA)
# libkvrt-emu-cuda.so, as a build folder does. Prints what differs and exits 1; what is refused by both is equal.
# A redesign that does not change the shape of a computation must not change a bit of its result.
set -euo pipefail
before=$(realpath "$1") after=$(realpath "$2")
cd "$(dirname "$0")/../../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for side in before after; do
    build=${!side}
    cc -O1 -o "$work/$side" test/study/same_bits/dump_bits.c -I"$build/include" "$build/libkvrt.so" -Wl,-rpath,"$build"
done

equal=0 different=0
compare() { # what, arguments...
    local what=$1 a b
    shift
    a=$("$work/before" "${@//@DRIVER@/$before/libkvrt-emu-cuda.so}" 2>/dev/null | tail -n 1 || true)
    b=$("$work/after" "${@//@DRIVER@/$after/libkvrt-emu-cuda.so}" 2>/dev/null | tail -n 1 || true)
    if [ "$a" = "$b" ]; then equal=$((equal + 1)); else
        different=$((different + 1))
        printf 'differs: %s\n  before %s\n  after  %s\n' "$what" "$a" "$b"
    fi
}

for model in test/golden/models/*/; do
    for kv in f32 f16 i8 k4v4 k3v3 k4v2 elastic; do
        for isa in portable avx2 avx512; do
            compare "$model $kv $isa" "$model" 300 20 kv.format $kv cpu.isa $isa cpu.threads 2 device.backend cpu
        done
    done
done
for kv in f16 i8 k4v4 k2v2; do
    for amx in false true; do
        compare "storyteller-8m $kv amx=$amx" examples/models/storyteller-8m 900 20 kv.format $kv cpu.amx $amx device.backend cpu
    done
done
if [ -f "$before/libkvrt-emu-cuda.so" ] && [ -f "$after/libkvrt-emu-cuda.so" ]; then
    for model in llama_gqa8_d64 llama_d128 qwen2_window qwen3; do
        for kv in f16 i8 k4v4 k4v2; do
            compare "cuda $model $kv" "test/golden/models/$model" 480 5 kv.format $kv device.backend cuda mem.reserve 0 debug.cuda_driver @DRIVER@
        done
    done
fi
echo "$equal equal, $different different"
[ "$different" = 0 ]
