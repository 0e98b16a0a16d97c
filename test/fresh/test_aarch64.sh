#!/usr/bin/env bash
# 64-bit ARM, which nobody here has: a bare Debian 12 gets Debian's cross compiler, compiles the library, the command and tests without a warning,
# and qemu runs them. The tests are those whose results are bytes or have a golden record: every cache format, weights of every form, models. The
# command must say what the command of this machine says with the same portable kernels. Skipped (77) where it cannot work.
set -euo pipefail
. "$(dirname "$0")/machine.sh"

tests=(versions weights gguf_blocks kv_codec kv_trellis golden_odd tiles)
build="cmake -S . -B build -G Ninja -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc \
    -DCMAKE_LIBRARY_ARCHITECTURE=aarch64-linux-gnu -DCMAKE_CROSSCOMPILING_EMULATOR=/usr/bin/qemu-aarch64-static -DKVRT_CUDA=OFF -DKVRT_WERROR=ON \
    -DKVRT_TESTS=ON && ninja -C build kvrt_command ${tests[*]/#/test_}"

machine arm
as root / "dpkg --add-architecture arm64 && apt-get update -qq" || { tail -n 3 "$log"; skip "the mirror does not answer"; }
packages="cmake ninja-build python3 gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static \
    libutf8proc-dev:arm64 libxxhash-dev:arm64 libcmocka-dev:arm64"
as root / "apt-get install -y -qq --no-install-recommends $packages" || { # no line of ours, and not every mirror has them
    tail -n 3 "$log"
    skip "Debian's cross compiler and libraries for ARM do not come"
}
said "cross compiler and qemu"
unpack /root/kvrt
as root /root/kvrt "$build" || fail "the cross build"
said "built"
as root /root/kvrt "ctest --test-dir build --output-on-failure --no-tests=error -R '^[a-z]*[.]($(IFS='|'; echo "${tests[*]}"))\$'" || fail "tests on ARM"
! grep -q Skipped "$log" || fail "a test was skipped"
said "$(grep -c Passed "$log") tests"
[ "$(grep -c Passed "$log")" = ${#tests[@]} ] || fail "not all tests ran"
for kv in f16 k4v4 t2; do
    say="run examples/models/storyteller-tiny 'Once upon a time' -n 200 --temp 0 --kv $kv"
    as root /root/kvrt "qemu-aarch64-static build/kvrt $say" || fail "kvrt $say"
    cp "$log" "$work/there"
    (cd "$source_dir" && eval "'${KVRT:-$source_dir/build/kvrt}' $say --isa portable") >"$log" 2>&1 </dev/null || fail "kvrt $say --isa portable here"
    [ "$(wc -c <"$log")" -gt 300 ] && cmp "$log" "$work/there" || fail "$kv: other text than here: $(cat "$work/there")"
done
said "the same text for three caches"
