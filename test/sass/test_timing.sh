#!/usr/bin/env bash
# The model of time over what kernels executed: a trace of the interpreter has a line per launch, and every one of them gets a time.
set -uo pipefail
root=${KVRT_SOURCE_DIR:-$(cd "$(dirname "$0")/../.." && pwd)} build=${KVRT_BUILD_DIR:-build}
arch=${KVRT_SASS_ARCH:-86}
case $arch in 86 | 87) card=rtx3090 ;; 89) card=rtx4090 ;; *) echo "skipped: the model has no card of sm_$arch" && exit 77 ;; esac
folder=$(mktemp -d) && trap 'rm -rf "$folder"' EXIT
KVRT_SASS_TRACE=$folder/trace python3 -B "$root/test/sass/run_sass.py" "$build/test/ops/test_ops_cuda" test_tail >"$folder/log" 2>&1
rc=$?
[ "$rc" = 0 ] || { tail -20 "$folder/log"; exit "$rc"; }
python3 -B "$root/test/gpu/timing/dynamic.py" "$folder/trace" "$card" "$build/test/sass/cache/sm_$arch" | tee "$folder/said" || exit 1
for kernel in embed attn_decode_f16_d64 attn_decode_k4v4_d64 attn_combine_d64; do
    grep -q "^$kernel " "$folder/said" || { echo "no line of $kernel"; exit 1; }
done
