#!/usr/bin/env bash
# The front door of kvrt: builds, demonstrates, tests, installs. CMakeLists.txt is the build description behind it.
set -euo pipefail
cd "$(dirname "$0")"

usage() {
    cat <<'TEXT'
usage: ./build.sh [COMMAND]

  (none)          build the library and the command into build/
  demo            build, then let the bundled model tell a story
  test [NAME]     build and run all tests, or only those whose name matches NAME (a regular expression); long sweeps and fuzz targets take
                  a sample then, unless NAME begins with ^ or fuzz
  install PREFIX  build and install under PREFIX
  asan [NAME]     the tests under AddressSanitizer and UBSan, in build-asan/
  tsan [NAME]     the tests under ThreadSanitizer, in build-tsan/
  soak [PART]     everything at length, a line for each part. engine: a million tokens over random sessions, twice; 20,000 random calls for
                  each of three seeds under both sanitizers, and 200 kills of a process that saves. cuda: the emulated device in four
                  orders and under the sanitizers, models of every family, and machine code of every architecture of this build, executed
  clean           remove the build folders
  --help          this text

Environment: CC chooses the compiler, JOBS the number of parallel jobs (default: all cores), KVRT_CUDA=0 leaves the CUDA kernels out,
KVRT_NVRTC names a libnvrtc.so.12, or the wheel that has it, to compile them by, KVRT_CUDA_ARCH=86 compiles them for one kind of card alone.
Packages that are missing are installed as root or with sudo; otherwise one line says which. Tests compile with warnings as errors, so the
first test run after a plain build compiles the library again.
TEXT
}

jobs=${JOBS:-$(nproc 2>/dev/null || echo 2)}
compiler=${CC:-cc}
compiler=${compiler%% *} # CC may carry options
cuda=${KVRT_CUDA:-} nvrtc=${KVRT_NVRTC:-} cuda_arch=${KVRT_CUDA_ARCH:-}
unset KVRT_CUDA KVRT_NVRTC KVRT_CUDA_ARCH # the command reads KVRT_* as its own options

die() {
    printf '%s\n' "$@" >&2
    exit 1
}

# ---- what must be installed --------------------------------------------------------------------------------------------------------
build_packages=(cmake libutf8proc-dev libxxhash-dev libedit-dev libmicrohttpd-dev)
test_packages=(libcmocka-dev python3 g++ clang-format)

missing_packages() { # package...
    command -v dpkg-query >/dev/null || return 0 # not Debian: CMake names what it does not find
    local p
    command -v "$compiler" >/dev/null || echo "${compiler/#cc/gcc} libc6-dev"
    command -v ninja >/dev/null || command -v make >/dev/null || echo ninja-build
    for p in "$@"; do
        case $p in
            cmake | python3 | g++ | clang-format) command -v "$p" >/dev/null || echo "$p" ;;
            *) dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || echo "$p" ;;
        esac
    done
}

check_compiler() {
    ! command -v "$compiler" >/dev/null || return 0
    case $compiler in
        gcc | clang | gcc-[0-9]* | clang-[0-9]*) command -v dpkg-query >/dev/null && return 0 ;; # the name of a package
        cc) [ -n "${CC:-}" ] || ! command -v dpkg-query >/dev/null || return 0 ;;
    esac
    die "CC=${CC:-}: there is no compiler '$compiler' in PATH; CC names a C compiler, such as gcc or clang, and without CC it is cc"
}

ensure_packages() { # package...
    local missing sudo=()
    check_compiler
    missing=$(missing_packages "$@" | tr '\n' ' ')
    [ -n "${missing// /}" ] || return 0
    missing=${missing% }
    if [ "$(id -u)" != 0 ]; then
        sudo=(sudo -n)
        sudo -n true 2>/dev/null ||
            die "missing packages; this line installs them:" "  sudo apt-get install -y --no-install-recommends $missing"
    fi
    echo "installing: $missing"
    # shellcheck disable=SC2086
    set -- "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
    "$@" >/dev/null 2>&1 || {
        "${sudo[@]}" apt-get update -qq >/dev/null
        "$@" >/dev/null
    }
}

# ---- building ------------------------------------------------------------------------------------------------------------------------
cached() { sed -n "s/^$2:[A-Z]*=//p" "$1/CMakeCache.txt" 2>/dev/null || true; } # folder, name: what CMake remembers

# A folder that was configured for something else would be used as it is, without a word; so it is configured anew, with one.
forget_if_stale() { # folder
    local dir=$1 home was
    [ -f "$dir/CMakeCache.txt" ] || return 0
    home=$(cached "$dir" CMAKE_HOME_DIRECTORY)
    was=$(cached "$dir" CMAKE_C_COMPILER)
    if [ "$home" != "$PWD" ]; then
        echo "$dir/ was made for $home: configuring it anew"
    elif ! command -v "$was" >/dev/null; then
        echo "$dir/ was made with $was, which is gone: configuring it anew"
    elif ! command -v "$(cached "$dir" CMAKE_MAKE_PROGRAM)" >/dev/null; then
        echo "$dir/ was made for a build tool that is gone: configuring it anew"
    elif [ -f "$dir/front_door" ] && [ "$(head -n 1 "$dir/front_door")" != "CC=${CC:-cc}" ]; then
        echo "$dir/ was made with $(head -n 1 "$dir/front_door"), now CC=${CC:-cc}: configuring it anew"
    elif [ ! -f "$dir/front_door" ] && [ -n "${CC:-}" ] && [ "$(command -v "$compiler")" != "$was" ]; then
        echo "$dir/ was made with $was, now CC=$CC: configuring it anew"
    else
        return 0
    fi
    rm -rf "$dir/CMakeCache.txt" "$dir/CMakeFiles" "$dir/front_door"
}

# The file front_door in a build folder holds what it was configured with; while that stays, the build itself notices changed files.
configure() { # folder, cmake arguments...
    local dir=$1 wanted
    shift
    { mkdir -p "$dir" 2>/dev/null && [ -w "$dir" ]; } ||
        die "cannot write to $PWD/$dir: this checkout is read-only for you. Copy it to a folder of yours, or build outside of it:" \
            "  cmake -S '$PWD' -B FOLDER && cmake --build FOLDER"
    case $PWD in # CMake writes such paths into its own files unquoted, or takes them for patterns
        *[][\"\;\#\<\>\\\$\`*?]* | *$'\n'*) die "CMake cannot work in $PWD: it has one of \" ; # < > [ ] * ? \\ \$ \`. Move the checkout." ;;
    esac
    forget_if_stale "$dir"
    case $cuda in
        0 | OFF | off | no) set -- "$@" -DKVRT_CUDA=OFF ;;
        ?*) set -- "$@" -DKVRT_CUDA=ON ;;
        "") ! grep -qs KVRT_CUDA=OFF "$dir/front_door" || set -- "$@" -DKVRT_CUDA=ON ;; # it was off for this variable's sake
    esac
    [ -z "$nvrtc" ] && ! grep -qs '^-DKVRT_NVRTC=.' "$dir/front_door" || set -- "$@" "-DKVRT_NVRTC=$nvrtc"
    [ -z "$cuda_arch" ] && ! grep -qs '^-DKVRT_CUDA_ARCH=.' "$dir/front_door" || set -- "$@" "-DKVRT_CUDA_ARCH=$cuda_arch"
    wanted=$(printf '%s\n' "CC=${CC:-cc}" "$@")
    [ ! -f "$dir/build.ninja" ] && [ ! -f "$dir/Makefile" ] || [ "$(cat "$dir/front_door" 2>/dev/null)" != "$wanted" ] || return 0
    if [ ! -f "$dir/CMakeCache.txt" ] && command -v ninja >/dev/null; then set -- -G Ninja "$@"; fi
    cmake -S . -B "$dir" "$@" >"$dir/build.log" 2>&1 || { cat "$dir/build.log" >&2; return 1; }
    printf '%s\n' "$wanted" >"$dir/front_door"
}

# Reads what ninja or make says, keeps all of it in a log and shows how far the build is: in place on a terminal, a line per tenth otherwise.
show_progress() { # log
    local line percent last=0 step tenths='^\[ *([0-9]+)(/([0-9]+)|%)\] (.*)$'
    while IFS= read -r line; do
        printf '%s\n' "$line" >&3
        [[ $line =~ $tenths ]] || continue
        percent=${BASH_REMATCH[1]} step=${BASH_REMATCH[4]}
        if [ -n "${BASH_REMATCH[3]}" ]; then
            [ -t 1 ] || [ "${BASH_REMATCH[3]}" -ge 20 ] || continue # not worth a line
            percent=$((100 * percent / BASH_REMATCH[3]))
        fi
        step=${step#Building * object } step=${step#CMakeFiles/*.dir/} step=${step%.o}
        if [ -t 1 ]; then
            printf '\r\033[K[%3d%%] %.90s' "$percent" "$step"
        elif [ "$percent" -ge $((last + 10)) ]; then
            last=$percent
            printf '[%3d%%] %s\n' "$percent" "$step"
        fi
    done 3>"$1"
    [ ! -t 1 ] || printf '\r\033[K'
}

compile() { # folder, target...
    local dir=$1 target arguments=()
    shift
    for target in "$@"; do arguments+=(--target "$target"); done
    NINJA_STATUS='[%f/%t] ' cmake --build "$dir" -j "$jobs" "${arguments[@]}" 2>&1 | show_progress "$dir/build.log" || {
        grep -v '^\[ *[0-9]*[/%]' "$dir/build.log" >&2
        die "the build failed; all of its output is in $dir/build.log"
    }
}

say_build() {
    local backends
    backends=$(cached build KVRT_BACKENDS)
    echo "backends: $backends"
    case $backends in *"need driver 580"*)
        echo "  kernels for older drivers (525 on): pip install nvidia-cuda-nvrtc-cu12, or KVRT_NVRTC=FILE names its library or wheel" ;;
    esac
}

# Once tests were asked for, the folder keeps them, so that a plain build between two test runs costs nothing; unless what they need is gone.
build() {
    local tests=OFF
    ensure_packages "${build_packages[@]}"
    if [ "$(cached build KVRT_TESTS)" = ON ] && [ -z "$(missing_packages "${test_packages[@]}")" ]; then tests=ON; fi
    configure build -DKVRT_TESTS=$tests -DKVRT_WERROR=$tests
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
            emu.selftest_* | emu.profile) echo "emu_${name#*.}" ;;
            emu.ops_*) echo test_ops_cuda ;;
            emu.models_* | emu.guest_*) name=${name%_*} && echo "test_cuda_${name#*.}" ;;
            rules.cuda_*) printf 'front_door\nkvrt_emu\n' ;;
            cli.* | rules.* | fresh.*) echo front_door ;;
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
    case $filter in "" | ^* | fuzz*) ;; *) export KVRT_TEST_QUICK=1 ;; esac # the loop of an edit is short
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

configure_tests() { # folder, cmake arguments...
    ensure_packages "${build_packages[@]}" "${test_packages[@]}"
    configure "$1" -DKVRT_TESTS=ON -DKVRT_WERROR=ON "${@:2}"
}

tests() { # folder, filter, cmake arguments...
    local dir=$1 filter=$2
    shift 2
    configure_tests "$dir" "$@"
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
    printf '\ntry: build/kvrt chat %s\n     build/kvrt run %s -p "Your words"\n' "$model" "$model"
    printf '     build/kvrt plan --shape llama-3.1-8b --card rtx4090\n'
}

# ---- soak ----------------------------------------------------------------------------------------------------------------------------
# Runs a part in a shell of its own and says in a line how it went; its output stays in build/soak/, and the end of it is shown if it failed.
part() { # name, command...
    local name=$1 log rc=0 from=$SECONDS word=passed
    log=build/soak/${name//[^a-z0-9]/_}.log
    shift
    mkdir -p build/soak
    (set -e; "$@") >"$log" 2>&1 & # in the background: as a condition it would not end at the first failure
    wait $! || rc=$?
    [ $rc = 0 ] || word=FAILED soak_failed=1
    if grep -q '\*\*\*Skipped' "$log"; then word="$word, $(grep -c '\*\*\*Skipped' "$log") skipped"; fi
    printf '%-58s %s, %d s\n' "$name" "$word" $((SECONDS - from))
    [ $rc = 0 ] || tail -n 30 "$log" | sed 's/^/    /' >&2
}
pick() { ctest --test-dir build --output-on-failure -j "$jobs" --no-tests=error -R "$1"; }

soak_engine() {
    local -x KVRT_TEST_OPS=20000 KVRT_TEST_KILLS=200
    KVRT_TEST_TOKENS=1000000 part "engine: a million tokens" tests build '^unit.soak$'
    part "engine: calls, kills (address, undefined)" tests build-asan '^unit.(soak|snapshot|transfer)$' -DKVRT_SANITIZE=address,undefined
    part "engine: calls (thread)" tests build-tsan '^unit.soak$' -DKVRT_SANITIZE=thread
}
prepare_soak() {
    configure_tests build
    compile build
}
soak_cuda() {
    local seed arch archs
    part "cuda: build" prepare_soak
    [ -z "$soak_failed" ] || return 0
    for seed in 0 1 2 3; do
        KVRT_EMU_SEED=$seed part "cuda: emulated operations, order $seed" pick '^ops.(.*_cuda|cuda_.*)$'
    done
    part "cuda: models of every family" pick '^unit.cuda_'
    part "cuda: self-test and memory profile of the emulator" pick '^emu.(selftest_|profile)'
    part "cuda: emulated (address, undefined)" pick '^emu.*_asan$'
    part "cuda: emulated (thread)" pick '^emu.*_tsan$'
    part "cuda: registers, spills, interface, times" pick '^rules.cuda_'
    part "cuda: opcodes, damaged machine code" pick '^sass.(opcodes|mutants)$'
    archs=$({ ls build/cuda 2>/dev/null || true; } | sed -n 's/.*\.sm_\([0-9]*\)\.cubin$/\1/p' | sort -nu)
    [ -n "$archs" ] || echo "cuda: this build has no machine code: neither nvcc nor NVRTC"
    for arch in $archs; do
        KVRT_SASS_ARCH=$arch part "cuda: machine code of sm_$arch, executed" pick '^sass.(kernels|timing)$'
    done
}
soak() { # part
    soak_failed=""
    case $1 in
        "") soak_engine; soak_cuda ;;
        engine | cuda) "soak_$1" ;;
        *) usage >&2; exit 2 ;;
    esac
    [ -z "$soak_failed" ]
}

case ${1:-} in
    "") build ;;
    demo) demo ;;
    test) tests build "${2:-}" ;;
    asan) tests build-asan "${2:-}" -DKVRT_SANITIZE=address,undefined ;;
    tsan) tests build-tsan "${2:-unit|ops}" -DKVRT_SANITIZE=thread ;;
    soak) soak "${2:-}" ;;
    install)
        [ -n "${2:-}" ] || { usage >&2; exit 2; }
        build
        cmake --install build --prefix "$2" >build/install.log || die "nothing is complete under $2; what was done is in build/install.log"
        echo "installed under $2"
        ;;
    clean) rm -rf build build-asan build-tsan ;;
    -h | --help | help) usage ;;
    *) usage >&2; exit 2 ;;
esac
