#!/usr/bin/env bash
# Everything that needs a card, what matters most first, as if the card were lent for ten minutes: build, does it load and say what the CPU says, an 8B model
# with 4- and 16-bit weights by k4v4 and f16, real shapes and operations against double precision, models, guest; then the other shapes, formats and
# depths, and compute-sanitizer where it works. Each part leaves a file in OUT; a part whose file is there is not repeated, so that a run that
# was interrupted, or stopped by itself for lack of time, goes on where it stopped. At the end of every run OUT/report.json and OUT/report.md say
# what is known so far, and OUT.tar.gz holds all of it. Exit code: 0 all done and good, 1 something failed, 75 run it again, 77 no card.
#   test/gpu/run.sh [OUT]      OUT: build-gpu/report
# Environment: KVRT_BUILD_DIR (build-gpu), JOBS, KVRT_CUDA_ARCH (the card's own), KVRT_NVRTC, SHAPES, FORMATS, DEPTHS, LIMIT (seconds of a run, 570),
# PEER and PEER_MODEL (llama-bench and a GGUF file, measured beside kvrt on the same file). owner.sh is the short version, without a compiler.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
export KVRT_BUILD_DIR=${KVRT_BUILD_DIR:-$PWD/build-gpu}
out=${1:-$KVRT_BUILD_DIR/report}
jobs=${JOBS:-$(nproc)}
shapes=${SHAPES:-llama-3.2-1b llama-3.1-8b qwen2.5-7b qwen3-8b}
formats=${FORMATS:-k4v4 f16 i8 k4v2}
depths=${DEPTHS:-0,4096,16384,32768,65536,131072}
limit=${LIMIT:-570}
mkdir -p "$out"
started=$SECONDS
failed=0
waiting=0

if ! command -v nvidia-smi >/dev/null || ! nvidia-smi >/dev/null 2>&1; then
    echo "test/gpu/run.sh: no NVIDIA card here (nvidia-smi finds none)" >&2
    exit 77
fi
card_arch=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d '. ')

# left SECONDS: how long a part may take now, its own limit or what is left of the run's.
left() {
    local rest=$((limit - SECONDS + started))
    [ "$rest" -lt "$1" ] && echo "$rest" || echo "$1"
}

# part NAME SECONDS COMMAND...: runs once, its output in OUT/NAME.log, its exit code in OUT/NAME.rc; not at all when time is short.
part() {
    local name=$1 own=$2 now begin=$SECONDS rc=0
    shift 2
    [ -e "$out/$name.rc" ] && { echo "$name: done before ($(cat "$out/$name.rc"))"; [ "$(cat "$out/$name.rc")" = 0 ] || failed=1; return; }
    now=$(left "$own")
    [ "$now" -gt 5 ] || { waiting=1; return; }
    timeout "$now" "$@" >"$out/$name.log" 2>&1 || rc=$?
    [ "$rc" = 124 ] && [ "$now" -lt "$own" ] && { waiting=1; return; }
    echo "$rc" >"$out/$name.rc"
    echo "$((SECONDS - begin))" >"$out/$name.seconds"
    echo "$name: exit code $rc, $((SECONDS - begin)) s"
    [ "$rc" = 0 ] || failed=1
}

# bench NAME SHAPE FORMAT DEPTHS [PROMPT [GEN [WEIGHTS]]]: one engine. What does not fit the card (exit code 4) is tried again without the deepest context.
bench() {
    local name=$1 shape=$2 format=$3 list=$4 rc=4 now begin=$SECONDS
    [ -e "$out/$name.json" ] && return
    [ -e "$out/$name.rc" ] && { echo "$name: done before ($(cat "$out/$name.rc"))"; failed=1; return; }
    while [ "$rc" = 4 ] && [ -n "$list" ]; do
        now=$(left 120)
        [ "$now" -gt 10 ] || { waiting=1; return; }
        rc=0
        timeout "$now" "$KVRT_BUILD_DIR/kvrt" bench --shape "$shape" --weights "${7:-bf16}" --backend cuda --kv "$format" --depth "$list" \
            --prompt "${5:-512}" --gen "${6:-32}" --reps 1 --ops --json >"$out/$name.tmp" 2>"$out/$name.log" || rc=$?
        [ "$rc" = 124 ] && [ "$now" -lt 120 ] && { waiting=1; return; }
        [ "$rc" = 4 ] && case $list in *,*) list=${list%,*} ;; *) list= ;; esac
    done
    echo "$name: exit code $rc, depths ${list:-none}, $((SECONDS - begin)) s"
    if [ "$rc" = 0 ]; then mv "$out/$name.tmp" "$out/$name.json"; return; fi
    echo "$rc" >"$out/$name.rc"
    failed=1
}

nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,memory.total,power.limit,compute_cap \
    --format=csv,noheader >"$out/card.csv"
# shellcheck disable=SC2016
part build 600 bash -c 'cmake -S . -B "$1" -DKVRT_CUDA_ARCH="$2" ${KVRT_NVRTC:+"-DKVRT_NVRTC=$KVRT_NVRTC"} -DKVRT_TESTS=ON -DKVRT_EXAMPLES=OFF &&
    cmake --build "$1" -j "$3" --target kvrt_command test_cuda_shapes test_ops_cuda test_cuda_models test_cuda_guest test_cuda_pool' \
    build "$KVRT_BUILD_DIR" "${KVRT_CUDA_ARCH-$card_arch}" "$jobs"
if [ ! -e "$out/build.rc" ]; then echo "not built yet; run it again"; exit 75; fi
[ "$(cat "$out/build.rc")" = 0 ] || { tail -20 "$out/build.log"; exit 1; }
export KVRT_TEST_CARD=1
# shellcheck disable=SC2016
part first 60 bash -c '"$1" devices && for backend in cpu cuda; do "$1" run examples/models/storyteller-tiny --backend $backend --kv k4v4 --tail 0 \
    --ctx 1024 -p "Once upon a time there was a house" -n 300 --temp 0 --ignore-eos >"$2.$backend" || exit 1; done
    cmp -n 200 "$2.cpu" "$2.cuda"' first "$KVRT_BUILD_DIR/kvrt" "$out/text"
part shapes 120 "$KVRT_BUILD_DIR/test/ops/test_cuda_shapes"
for weights in i4 bf16; do
    for format in k4v4 f16; do bench "bench_llama-3.1-8b_${format}_$weights" llama-3.1-8b "$format" 0,4096,32768 512 32 "$weights"; done
done
part predicted 60 python3 test/gpu/timing/model.py "$KVRT_BUILD_DIR" # for 3090 and 4090, beside what was measured
part ops 180 "$KVRT_BUILD_DIR/test/ops/test_ops_cuda"
part models 180 "$KVRT_BUILD_DIR/test/unit/test_cuda_models"
part guest 180 "$KVRT_BUILD_DIR/test/unit/test_cuda_guest"
part pool 120 "$KVRT_BUILD_DIR/test/unit/test_cuda_pool"
if [ -n "${PEER:-}" ] && [ -n "${PEER_MODEL:-}" ]; then
    part peer 240 "$PEER" -m "$PEER_MODEL" -p 512 -n 32 -d 0,4096,32768 -ngl 99 -fa 1
    part peer_kvrt 240 "$KVRT_BUILD_DIR/kvrt" bench "$PEER_MODEL" --backend cuda --kv k4v4,f16 --depth 0,4096,32768 --prompt 512 --gen 32 --reps 3
fi
for format in k4v4 f16; do
    for shape in $shapes; do case " $formats " in *" $format "*) bench "bench_${shape}_$format" "$shape" "$format" "$depths" ;; esac; done
done
for shape in $shapes; do bench "prefill4096_$shape" "$shape" k4v4 0 4096 8; done
for format in $formats; do # the formats that matter most came first
    for shape in $shapes; do bench "bench_${shape}_$format" "$shape" "$format" "$depths"; done
done
# On virtual machines the tool itself may not work, which says nothing of the kernels.
if command -v compute-sanitizer >/dev/null && timeout 60 compute-sanitizer --error-exitcode 9 "$KVRT_BUILD_DIR/kvrt" run examples/models/storyteller-tiny \
    --backend cuda --kv f16 --ctx 256 -n 1 -p x >"$out/sanitizer_works.log" 2>&1; then
    story=(--error-exitcode 9 "$KVRT_BUILD_DIR/kvrt" run examples/models/storyteller-tiny --backend cuda --kv k4v4 --ctx 1024 --tail 0
           --temp 0 --ignore-eos -n 8 -p "$(printf 'Once upon a time there was a fox. %.0s' $(seq 40))")
    for tool in memcheck racecheck synccheck initcheck; do part "sanitizer_$tool" 120 compute-sanitizer --tool "$tool" "${story[@]}"; done
fi
python3 test/gpu/report.py "$out" "$((SECONDS - started))" && echo "$out/report.md"
tar -czf "$out.tar.gz" -C "$(dirname "$out")" "$(basename "$out")" && echo "$out.tar.gz"
[ "$failed" = 0 ] || exit 1
[ "$waiting" = 0 ] || { echo "stopped after $((SECONDS - started)) s; run it again for the rest"; exit 75; }
