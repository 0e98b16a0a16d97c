#!/usr/bin/env bash
# Everything that needs a card, in one go of under ten minutes: build, operation and model tests on the card, compute-sanitizer on a subset,
# copy bandwidth and `kvrt bench` over shapes, formats and depths. Each part leaves a file in OUT; a part whose file is there is not repeated,
# so an interrupted run goes on where it stopped. At the end OUT/report.json and OUT/report.md.
#   test/gpu/run.sh [OUT]      OUT: build-gpu/report
# Environment: KVRT_BUILD_DIR (build-gpu), JOBS, KVRT_CUDA_ARCH (the card's own), SHAPES, FORMATS, DEPTHS.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
export KVRT_BUILD_DIR=${KVRT_BUILD_DIR:-$PWD/build-gpu}
out=${1:-$KVRT_BUILD_DIR/report}
jobs=${JOBS:-$(nproc)}
shapes=${SHAPES:-llama-3.2-1b llama-3.1-8b qwen2.5-7b qwen3-8b}
formats=${FORMATS:-k4v4 f16 i8 k4v2}
depths=${DEPTHS:-0,4096,16384,32768,65536,131072}
mkdir -p "$out"
started=$SECONDS
failed=0

if ! command -v nvidia-smi >/dev/null || ! nvidia-smi >/dev/null 2>&1; then
    echo "test/gpu/run.sh: no NVIDIA card here (nvidia-smi finds none)" >&2
    exit 77
fi
card_arch=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d '. ')

# part NAME SECONDS COMMAND...: runs once, its output in OUT/NAME.log, its exit code in OUT/NAME.rc
part() {
    local name=$1 limit=$2
    shift 2
    [ -e "$out/$name.rc" ] && { echo "$name: done before ($(cat "$out/$name.rc"))"; return; }
    local begin=$SECONDS rc=0
    timeout "$limit" "$@" >"$out/$name.log" 2>&1 || rc=$?
    echo "$rc" >"$out/$name.rc"
    echo "$((SECONDS - begin))" >"$out/$name.seconds"
    echo "$name: exit code $rc, $((SECONDS - begin)) s"
    [ "$rc" = 0 ] || failed=1
}

# One engine per shape and format. What does not fit the card (exit code 4) is tried again without the deepest context.
bench() { # name shape format
    local name=$1 shape=$2 format=$3 list=$depths rc=4
    [ -e "$out/$name.json" ] && return
    while [ "$rc" = 4 ] && [ -n "$list" ]; do
        rc=0
        timeout 120 "$KVRT_BUILD_DIR/kvrt" bench --shape "$shape" --weights bf16 --backend cuda --kv "$format" --depth "$list" \
            --prompt "${4:-512}" --gen "${5:-32}" --reps 1 --ops --json >"$out/$name.tmp" 2>"$out/$name.log" || rc=$?
        [ "$rc" = 4 ] && case $list in *,*) list=${list%,*} ;; *) list= ;; esac
    done
    echo "$name: exit code $rc, depths ${list:-none}"
    if [ "$rc" = 0 ]; then mv "$out/$name.tmp" "$out/$name.json"; else failed=1; fi
}

nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,memory.total,power.limit,compute_cap \
    --format=csv,noheader >"$out/card.csv"
# shellcheck disable=SC2016
part build 600 bash -c 'cmake -S . -B "$1" -DKVRT_CUDA_ARCH="$2" -DKVRT_EXAMPLES=OFF &&
    cmake --build "$1" -j "$3" --target kvrt_command test_ops_cuda test_cuda_models' build "$KVRT_BUILD_DIR" "${KVRT_CUDA_ARCH-$card_arch}" "$jobs"
[ "$(cat "$out/build.rc")" = 0 ] || { tail -20 "$out/build.log"; exit 1; }
export KVRT_TEST_CARD=1
part ops 180 "$KVRT_BUILD_DIR/test/ops/test_ops_cuda"
part models 180 "$KVRT_BUILD_DIR/test/unit/test_cuda_models"
if command -v compute-sanitizer >/dev/null; then
    story=(--error-exitcode 9 "$KVRT_BUILD_DIR/kvrt" run examples/models/storyteller-tiny --backend cuda --kv k4v4 --ctx 512 --tail 0
           --temp 0 --ignore-eos -n 8 -p "$(printf 'Once upon a time there was a fox. %.0s' $(seq 40))")
    for tool in memcheck racecheck synccheck initcheck; do part "sanitizer_$tool" 120 compute-sanitizer --tool "$tool" "${story[@]}"; done
fi
for shape in $shapes; do
    for format in $formats; do bench "bench_${shape}_$format" "$shape" "$format"; done
done
depths=0
for shape in $shapes; do bench "prefill4096_$shape" "$shape" k4v4 4096 8; done
python3 test/gpu/report.py "$out" "$((SECONDS - started))" && echo "$out/report.md"
exit $failed
