#!/usr/bin/env bash
# The front door of kvrt: builds, demonstrates, tests, installs. ./build.sh --help
set -euo pipefail
cd "$(dirname "$0")"

usage() {
    cat <<'TEXT'
usage: ./build.sh [COMMAND]

  (none)          build the library and the command into build/
  demo            build, then let the bundled model tell a story
  test [NAME]     build and run all tests, or only those whose name contains NAME
  install PREFIX  build and install under PREFIX
  asan | tsan     the same tests under AddressSanitizer+UBSan or ThreadSanitizer [NAME]
  clean           remove the build folders
  --help          this text

Environment: CC chooses the compiler, JOBS the number of compile jobs.
TEXT
}

packages=(gcc cmake make libpcre2-dev libutf8proc-dev libcmocka-dev libedit-dev)

missing_packages() {
    command -v dpkg-query >/dev/null || return 0
    for p in "${packages[@]}"; do
        [ "$p" = gcc ] && command -v "${CC:-cc}" >/dev/null && continue
        dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' || echo "$p"
    done
}

ensure_packages() {
    local missing
    missing=$(missing_packages | tr '\n' ' ')
    [ -z "${missing// }" ] && return 0
    local sudo=""
    [ "$(id -u)" = 0 ] || sudo="sudo -n"
    if [ -z "$sudo" ] || sudo -n true 2>/dev/null; then
        echo "installing: $missing"
        # shellcheck disable=SC2086
        $sudo apt-get install -y -qq $missing >/dev/null 2>&1 || {
            $sudo apt-get update -qq >/dev/null 2>&1 || true
            # shellcheck disable=SC2086
            $sudo apt-get install -y -qq $missing >/dev/null
        }
    else
        echo "missing packages; this line installs them:" >&2
        echo "  sudo apt-get install -y $missing" >&2
        exit 1
    fi
}

configure_and_build() { # folder, cmake arguments...
    local dir=$1
    shift
    if ! cmake -S . -B "$dir" -DKVRT_WERROR=ON "$@" >"$dir.log" 2>&1; then
        cat "$dir.log" >&2
        exit 1
    fi
    rm -f "$dir.log"
    cmake --build "$dir" -j "${JOBS:-$(nproc)}" >"$dir.log" 2>&1 || { cat "$dir.log" >&2; exit 1; }
    rm -f "$dir.log"
}

say_backends() {
    local cuda="not built yet (CPU only)"
    [ -f kernels/cuda/CMakeLists.txt ] && cuda="nvcc not found" && command -v nvcc >/dev/null && cuda="$(nvcc --version | tail -n 1)"
    echo "backends: cpu; cuda: $cuda"
}

build() {
    ensure_packages
    configure_and_build build
    ln -sf libkvrt.so.0.1.0 build/libkvrt.so.0
    say_backends
    echo "built: build/kvrt build/libkvrt.so build/libkvrt.a"
}

run_tests() { # folder, filter
    local dir=$1 filter=${2:-} log
    log=$(mktemp)
    local args=(--test-dir "$dir" --output-on-failure -j 1)
    [ -n "$filter" ] && args+=(-R "$filter")
    local rc=0
    ctest "${args[@]}" | tee "$log" || rc=$?
    local total failed
    total=$(sed -n 's/.* out of \([0-9][0-9]*\)$/\1/p' "$log" | tail -n 1)
    failed=$(sed -n 's/.*, \([0-9][0-9]*\) tests\{0,1\} failed out of.*/\1/p' "$log" | tail -n 1)
    rm -f "$log"
    if [ -z "$total" ]; then
        echo "no test matches '$filter'" >&2
        echo "0 passed, 1 failed"
        return 1
    fi
    echo "$((total - failed)) passed, $failed failed"
    return "$rc"
}

demo_model() {
    for dir in examples/models/storyteller-8m examples/models/*/ test/golden/models/llama_gqa2; do
        [ -f "$dir/config.json" ] && { echo "${dir%/}"; return; }
    done
}

demo() {
    build
    local model
    model=$(demo_model)
    case "$model" in
        test/*) echo "note: the bundled trained model is not in this tree yet; a tiny random model shows that everything works" ;;
    esac
    echo
    ./build/kvrt run "$model" -p "Once upon a time there was a little girl who" -n 200 --temp 0.7 --seed 7 --stats
}

case "${1:-}" in
    "") build ;;
    demo) demo ;;
    test) build; run_tests build "${2:-}" ;;
    asan) ensure_packages; configure_and_build build-asan -DKVRT_SANITIZE=address,undefined; run_tests build-asan "${2:-}" ;;
    tsan) ensure_packages; configure_and_build build-tsan -DKVRT_SANITIZE=thread; run_tests build-tsan "${2:-unit|ops}" ;;
    install) [ -n "${2:-}" ] || { usage >&2; exit 2; }
             build; cmake --install build --prefix "$2" ;;
    clean) rm -rf build build-asan build-tsan ;;
    -h|--help|help) usage ;;
    *) usage >&2; exit 2 ;;
esac
