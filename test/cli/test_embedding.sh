#!/usr/bin/env bash
# The ways into a host program: pkg-config (shared and static), find_package and add_subdirectory, each with examples/hello.c running.
set -euo pipefail
root=$KVRT_SOURCE_DIR
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
model=$root/test/golden/models/llama_gqa2
if grep -q '^KVRT_SANITIZE:STRING=.' "$KVRT_BUILD_DIR/CMakeCache.txt"; then echo "skipped: a sanitizer build is not for embedding"; exit 77; fi

for example in hello small_chat; do
    lines=$(wc -l <"$root/examples/$example.c")
    [ "$lines" -le 40 ] || { echo "FAIL: $example.c has $lines lines, 40 suffice"; exit 1; }
done

check() { # name, program...
    local name=$1 out
    shift
    out=$("$@" "$model" "Hello" </dev/null) || { echo "FAIL: $name exits with $?"; exit 1; }
    [ -n "$out" ] || { echo "FAIL: $name prints nothing"; exit 1; }
    echo "ok    $name"
}
check "built example" "$KVRT_BUILD_DIR/examples/hello"
if "$KVRT_BUILD_DIR/examples/hello" /nonexistent x 2>"$work/err"; then echo "FAIL: hello ignores errors"; exit 1; fi
grep -q '/nonexistent' "$work/err"

# A conversation: the second answer begins as that of the command, given the first exchange; quotes and backslashes survive the way.
story=$root/examples/models/storyteller-tiny
printf 'Say "fox\\bear".\nGo on, \303\274ber!\n' | "$KVRT_BUILD_DIR/examples/small_chat" "$story" 0 >"$work/chat" || { echo "FAIL: small_chat"; exit 1; }
if "$KVRT_BUILD_DIR/examples/small_chat" 2>"$work/err"; then echo "FAIL: small_chat without a model"; exit 1; fi
grep -q 'usage: small_chat' "$work/err"
if "$KVRT_BUILD_DIR/examples/small_chat" /nonexistent </dev/null 2>"$work/err"; then echo "FAIL: small_chat ignores errors"; exit 1; fi
grep -q '/nonexistent' "$work/err"
python3 - "$work/chat" "${KVRT:-$KVRT_BUILD_DIR/kvrt}" "$story" <<'TEXT' || { echo "FAIL: small_chat answers differently"; exit 1; }
import json, subprocess, sys
said = open(sys.argv[1], encoding="utf-8").read()
def answer(*messages):
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(messages)]
    return subprocess.run([*sys.argv[2:3], "run", sys.argv[3], "--no-amx", "--temp", "0", "-n", "256", "--messages", "-"], input=json.dumps(messages).encode(),
                          stdout=subprocess.PIPE, check=True).stdout.decode()
first = answer('Say "fox\\bear".')
second = answer('Say "fox\\bear".', first, "Go on, \u00fcber!")
# Pages that the first answer filled are encoded later in one long prompt: the beginning is what must agree.
assert said.startswith(f"{first}\n{second[:60]}") and said.endswith("\n"), (said, first, second)
TEXT

cmake --install "$KVRT_BUILD_DIR" --prefix "$work/usr" >/dev/null
for file in bin/kvrt include/kvrt.h share/man/man1/kvrt.1 share/bash-completion/completions/kvrt share/zsh/site-functions/_kvrt \
    share/fish/vendor_completions.d/kvrt.fish; do
    [ -s "$work/usr/$file" ] || { echo "FAIL: install lacks $file"; exit 1; }
done
[ "$(find "$work/usr/include" -type f | wc -l)" = 1 ] || { echo "FAIL: more than one header is installed"; exit 1; }
libdir=$(dirname "$(find "$work/usr" -name libkvrt.a)")

if command -v pkg-config >/dev/null; then
    export PKG_CONFIG_PATH=$libdir/pkgconfig
    # shellcheck disable=SC2046
    cc -std=c11 "$root/examples/hello.c" -o "$work/shared" $(pkg-config --cflags --libs kvrt) -Wl,-rpath,"$libdir"
    check "pkg-config, shared" "$work/shared"
    # shellcheck disable=SC2046
    cc -std=c11 "$root/examples/hello.c" -o "$work/static" $(pkg-config --cflags kvrt) "$libdir/libkvrt.a" $(sed -n 's/^Libs.private: //p' "$libdir/pkgconfig/kvrt.pc")
    check "pkg-config, static" "$work/static"
fi

consumer() { # name, the line that finds kvrt, targets...
    local name=$1 find=$2
    mkdir -p "$work/$name"
    cat >"$work/$name/CMakeLists.txt" <<TEXT
cmake_minimum_required(VERSION 3.21)
project(host C)
set(before "\${CMAKE_C_FLAGS}|\${CMAKE_BUILD_TYPE}|\${BUILD_SHARED_LIBS}")
$find
if(NOT before STREQUAL "\${CMAKE_C_FLAGS}|\${CMAKE_BUILD_TYPE}|\${BUILD_SHARED_LIBS}")
    message(FATAL_ERROR "kvrt changed the host's settings")
endif()
add_executable(hello_shared "$root/examples/hello.c")
target_link_libraries(hello_shared PRIVATE kvrt::kvrt)
add_executable(hello_static "$root/examples/hello.c")
target_link_libraries(hello_static PRIVATE kvrt::kvrt_static)
TEXT
    # Kernels for cards take minutes to compile and are the same as in the build that is tested.
    cmake -S "$work/$name" -B "$work/$name/build" -DCMAKE_PREFIX_PATH="$work/usr" -DKVRT_CUDA=OFF >"$work/log" 2>&1 &&
        cmake --build "$work/$name/build" -j 2 >>"$work/log" 2>&1 || { cat "$work/log"; echo "FAIL: $name"; exit 1; }
    check "$name, shared" "$work/$name/build/hello_shared"
    check "$name, static" "$work/$name/build/hello_static"
}
consumer find_package "find_package(kvrt 0.1 REQUIRED)"
consumer add_subdirectory "add_subdirectory(\"$root\" kvrt)"
[ ! -e "$work/add_subdirectory/build/kvrt/kvrt" ] || { echo "FAIL: an embedder got the command built"; exit 1; }
