#!/usr/bin/env bash
# The front door of kvrt: builds, demonstrates, tests, installs. CMakeLists.txt is the build description behind it.
set -euo pipefail
cd "$(dirname "$0")"

usage() {
    cat <<'TEXT'
usage: ./build.sh [COMMAND]

  (none)          build the library and the command into build/
  demo            build, then let the bundled model tell a story
  test [NAME]     build and run all tests, or only those whose name matches NAME (a regular expression)
  install PREFIX  build and install under PREFIX
  asan [NAME]     the tests under AddressSanitizer and UBSan, in build-asan/
  tsan [NAME]     the tests under ThreadSanitizer, in build-tsan/
  clean           remove the build folders
  --help          this text

Environment: CC chooses the compiler, JOBS the number of parallel jobs (default: all cores).
TEXT
}

jobs=${JOBS:-$(nproc 2>/dev/null || echo 2)}

# ---- what must be installed --------------------------------------------------------------------------------------------------------
build_packages=(cmake libpcre2-dev libutf8proc-dev libedit-dev)
test_packages=(libcmocka-dev python3 g++)

missing_packages() { # package...
    command -v dpkg-query >/dev/null || return 0 # not Debian: CMake names what it does not find
    local p
    command -v "${CC:-cc}" >/dev/null || echo gcc
    command -v ninja >/dev/null || command -v make >/dev/null || echo ninja-build
    for p in "$@"; do
        case $p in
            cmake | python3) command -v "$p" >/dev/null || echo "$p" ;;
            *) dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || echo "$p" ;;
        esac
    done
}

ensure_packages() { # package...
    local missing sudo=()
    missing=$(missing_packages "$@" | tr '\n' ' ')
    [ -n "${missing// /}" ] || return 0
    if [ "$(id -u)" != 0 ]; then
        sudo=(sudo -n)
        if ! sudo -n true 2>/dev/null; then
            printf 'missing packages; this line installs them:\n  sudo apt-get install -y %s\n' "$missing" >&2
            exit 1
        fi
    fi
    echo "installing: $missing"
    # shellcheck disable=SC2086
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $missing >/dev/null 2>&1 || {
        "${sudo[@]}" apt-get update -qq >/dev/null
        "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $missing >/dev/null
    }
}

# ---- building ------------------------------------------------------------------------------------------------------------------------
quietly() { # command...; shows its output only when it fails
    local log rc=0
    log=$(mktemp)
    "$@" >"$log" 2>&1 || rc=$?
    [ $rc = 0 ] || cat "$log" >&2
    rm -f "$log"
    return $rc
}

configure() { # folder, cmake arguments...
    local dir=$1
    shift
    if [ ! -f "$dir/CMakeCache.txt" ] && command -v ninja >/dev/null; then set -- -G Ninja "$@"; fi
    quietly cmake -S . -B "$dir" -DKVRT_WERROR=ON "$@"
}

compile() { # folder, target...
    local dir=$1 target arguments=()
    shift
    for target in "$@"; do arguments+=(--target "$target"); done
    quietly cmake --build "$dir" -j "$jobs" "${arguments[@]}"
}

say_build() { sed -n 's/^KVRT_BACKENDS:INTERNAL=/backends: /p' build/CMakeCache.txt; }

build() {
    ensure_packages "${build_packages[@]}"
    configure build
    compile build front_door
    say_build
    echo "built: build/kvrt build/libkvrt.so build/libkvrt.a"
}

# ---- tests ---------------------------------------------------------------------------------------------------------------------------
# The build targets behind the tests that match a name, so that an edit of one part does not wait for the others.
targets_of() { # folder, filter
    ctest --test-dir "$1" -N -R "$2" 2>/dev/null | sed -n 's/^ *Test *#[0-9]*: //p' | while read -r name; do
        case $name in
            unit.* | ops.* | golden.* | fault.*) echo "test_${name#*.}" ;;
            fuzz.*) echo "fuzz_${name#*.}" ;;
            emu.selftest_*) echo "emu_${name#*.}" ;;
            emu.ops_*) echo test_ops_cuda ;;
            emu.models_* | emu.guest_*) name=${name%_*} && echo "test_cuda_${name#*.}" ;;
            cli.*) echo front_door ;;
            *) echo all ;;
        esac
    done | sort -u
}

run_tests() { # folder, filter
    local dir=$1 filter=${2:-} targets=() log rc=0 total failed skipped
    if [ -n "$filter" ]; then
        mapfile -t targets < <(targets_of "$dir" "$filter")
        if [ ${#targets[@]} = 0 ]; then
            printf "no test matches '%s'; the names are:\n" "$filter" >&2
            ctest --test-dir "$dir" -N | sed -n 's/^ *Test *#[0-9]*: /  /p' >&2
            echo "0 passed, 0 failed"
            return 1
        fi
    fi
    compile "$dir" "${targets[@]}"
    log=$(mktemp)
    ctest --test-dir "$dir" --output-on-failure -j "$jobs" ${filter:+-R "$filter"} | tee "$log" || rc=$?
    total=$(sed -n 's/.* tests failed out of \([0-9]*\)$/\1/p' "$log" | tail -n 1)
    failed=$(sed -n 's/.*, \([0-9]*\) tests failed out of.*/\1/p' "$log" | tail -n 1)
    skipped=$(grep -c '\*\*\*Skipped' "$log" || true)
    rm -f "$log"
    [ "$skipped" = 0 ] || echo "$skipped skipped, listed above"
    echo "$((${total:-0} - ${failed:-0} - skipped)) passed, ${failed:-0} failed"
    [ -n "$total" ] && [ "$rc" = 0 ]
}

tests() { # folder, filter, cmake arguments...
    local dir=$1 filter=$2
    shift 2
    ensure_packages "${build_packages[@]}" "${test_packages[@]}"
    configure "$dir" "$@"
    [ "$dir" != build ] || say_build
    run_tests "$dir" "$filter"
}

# ---- demo ----------------------------------------------------------------------------------------------------------------------------
demo() {
    build
    local model=examples/models/storyteller-8m kv
    for kv in f16 k4v4; do
        printf '\n--- %s, the cache as --kv %s\n\nOnce upon a time' "$model" $kv
        build/kvrt run "$model" -p "Once upon a time" -n 500 --temp 0.9 --min-p 0.1 --repeat-penalty 1.1 --seed 1 --kv $kv --stats </dev/null
    done
    printf '\n--- the same model looks up a line of text that lies 1,000 to 3,000 tokens back: exact answers by cache format\n'
    awk '/"distance": (1000|2000|3000)/ && seen[$NF]++ < 2' "$model/retrieval.jsonl" >build/demo.jsonl
    build/kvrt eval "$model" --retrieval build/demo.jsonl --kv k4v4,k4v2
    printf '\ntry: build/kvrt chat %s\n     build/kvrt run %s -p "Your words"\n     build/kvrt plan --shape llama-3.1-8b --card rtx4090\n' "$model" "$model"
}

case ${1:-} in
    "") build ;;
    demo) demo ;;
    test) tests build "${2:-}" ;;
    asan) tests build-asan "${2:-}" -DKVRT_SANITIZE=address,undefined ;;
    tsan) tests build-tsan "${2:-unit|ops}" -DKVRT_SANITIZE=thread ;;
    install)
        [ -n "${2:-}" ] || { usage >&2; exit 2; }
        build
        quietly cmake --install build --prefix "$2"
        echo "installed under $2"
        ;;
    clean) rm -rf build build-asan build-tsan ;;
    -h | --help | help) usage ;;
    *) usage >&2; exit 2 ;;
esac
