#!/usr/bin/env bash
# For the owner of a card, without a compiler: what kvrt does on it, in about five minutes, as one small archive to send back. Nothing is installed and
# nothing is sent; the archive holds text alone (card, driver, speeds, messages), which OUT shows before.
#   owner.sh [OUT]             OUT: kvrt-report in the current folder; OUT.tar.gz is made at the end
# It finds kvrt and the small model beside itself (a release folder), or in build/ and examples/models of a checkout.
# Environment: KVRT (the command), MODEL (a folder), SHAPES ("llama-3.1-8b llama-3.2-1b"), WEIGHTS ("bf16 i4"), FORMATS ("k4v4,f16"), DEPTHS
# ("0,4096,32768"), TOKENS of the texts (200), PEER and PEER_MODEL (llama-bench and a GGUF file, measured beside kvrt on the same file).
# Exit code: 0 all done, 1 something failed (the archive says what), 77 no card.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-kvrt-report}
first() { for path in "$@"; do [ -e "$path" ] && { printf '%s' "$path"; return; }; done; printf '%s' "$1"; }
KVRT_COMMAND=${KVRT:-$(first "$here/kvrt" "$here/bin/kvrt" "$here/../../build-gpu/kvrt" "$here/../../build/kvrt")}
model=${MODEL:-$(first "$here/storyteller-tiny" "$here/../../examples/models/storyteller-tiny")}
shapes=${SHAPES-llama-3.1-8b llama-3.2-1b} weights=${WEIGHTS:-i4 bf16} formats=${FORMATS:-k4v4,f16} depths=${DEPTHS:-0,4096,32768}
peer=${PEER:-} peer_model=${PEER_MODEL:-}
unset KVRT MODEL SHAPES WEIGHTS FORMATS DEPTHS PEER PEER_MODEL # kvrt reads KVRT_* as its own options
command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1 || { echo "owner.sh: no NVIDIA card here (nvidia-smi finds none)" >&2; exit 77; }
[ -x "$KVRT_COMMAND" ] || { echo "owner.sh: no command kvrt at $KVRT_COMMAND; KVRT names it" >&2; exit 1; }
mkdir -p "$out"
failed=0

# step NAME SECONDS COMMAND...: output in OUT/NAME.txt, messages and exit code in OUT/NAME.log, whose end goes to the terminal.
step() {
    local name=$1 limit=$2 rc=0 begin=$SECONDS
    shift 2
    timeout "$limit" "$@" >"$out/$name.txt" 2>"$out/$name.log" || rc=$?
    echo "exit code $rc, $((SECONDS - begin)) s" >>"$out/$name.log"
    printf '%-32s %s\n' "$name" "$(tail -n 1 "$out/$name.log")"
    return "$rc"
}

nvidia-smi --query-gpu=name,driver_version,compute_cap,clocks.max.sm,clocks.max.mem,memory.total,power.limit,pcie.link.gen.current --format=csv \
    >"$out/card.txt" 2>&1
cat "$out/card.txt"
step devices 60 "$KVRT_COMMAND" devices || failed=1

# The same greedy text on both, by every cache format that CUDA has.
text=(run "$model" -p "Once upon a time there was a house at the end of a long road" -n "${TOKENS:-200}" --temp 0 --ignore-eos --ctx 1024 --tail 0)
for format in f16 i8 k4v4 k4v2; do
    step "text_cpu_$format" 120 "$KVRT_COMMAND" "${text[@]}" --backend cpu --kv "$format" || failed=1
    step "text_cuda_$format" 120 "$KVRT_COMMAND" "${text[@]}" --backend cuda --kv "$format" || failed=1
    # Rounding may part two texts at a tie; the first words agree or something is wrong.
    if [ "$(head -c 120 "$out/text_cpu_$format.txt")" != "$(head -c 120 "$out/text_cuda_$format.txt")" ]; then
        echo "text_cuda_$format: not the text of the CPU" | tee -a "$out/differences.txt"
        failed=1
    fi
done

for shape in $shapes; do
    for form in $weights; do
        step "bench_${shape}_$form" 240 "$KVRT_COMMAND" bench --shape "$shape" --weights "$form" --backend cuda --kv "$formats" --depth "$depths" \
            --prompt 512 --gen 32 --reps 3 --ops || {
            rc=$?
            grep -q "does not have it\|not supported\|need [0-9]* MiB\|memory" "$out/bench_${shape}_$form.log" || failed=1
            [ "$rc" != 124 ] || failed=1
        }
    done
done
if [ -n "$peer" ] && [ -n "$peer_model" ]; then
    step peer 300 "$peer" -m "$peer_model" -p 512 -n 32 -d 0,4096,32768 -ngl 99 -fa 1 || true
    step "peer_kvrt" 300 "$KVRT_COMMAND" bench "$peer_model" --backend cuda --kv "$formats" --depth "$depths" --prompt 512 --gen 32 --reps 3 || failed=1
fi
nvidia-smi >"$out/after.txt" 2>&1
tar -czf "$out.tar.gz" -C "$(dirname "$out")" "$(basename "$out")" && echo "send back: $out.tar.gz ($(wc -c <"$out.tar.gz") bytes)"
exit "$failed"
