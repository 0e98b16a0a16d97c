#!/usr/bin/env bash
# build.sh by itself, on a copy of the tree under an awkward name: CMake is real and configures, only `cmake --build` is played, so this is quick.
# What a machine without packages sees is test_debian12.sh's part.
set -uo pipefail
umask 022 # another user reads what is made here
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tree="$work/kv (1) 'q', ü"
mkdir -p "$tree" "$work/bin"
tar -C "$KVRT_SOURCE_DIR" -c build.sh CMakeLists.txt runtime kernels tools examples/hello.c examples/desktop/desktop.c test/CMakeLists.txt test/emu | tar -C "$tree" -x
real=$(command -v cmake)
cat >"$work/bin/cmake" <<TEXT
#!/bin/sh
[ "\$1" = --build ] || exec "$real" "\$@"
[ ! -e "$work/broken" ] || { printf '[1/40] Building C object a.c.o\nFAILED: b.c.o\nb.c:1:1: error: no\n'; exit 1; }
i=0
while [ \$i -lt 40 ]; do i=\$((i + 1)); echo "[\$i/40] Building C object CMakeFiles/kvrt_part_base.dir/runtime/file\$i.c.o"; done
TEXT
chmod +x "$work/bin/cmake"
export PATH=$work/bin:$PATH KVRT_CUDA=0
unset CC
cd "$tree" || exit 1
failed=0
expect() { # what, then a command that must hold
    local what=$1
    shift
    "$@" >/dev/null || { failed=1; echo "FAIL: $what"; cat "$work/out"; }
}
front_door() { ./build.sh "$@" >"$work/out" 2>&1; }
says() { grep -qF -- "$1" "$work/out"; }
quiet_on() { ! grep -qiE -- "$1" "$work/out"; }
remembers() { grep -q -- "$1" build/CMakeCache.txt; }

expect "a plain build works" front_door
expect "progress by tenths, file names only" says '[ 50%] runtime/file20.c'
expect "ten lines of progress and no more" [ "$(grep -c '^\[' "$work/out")" = 10 ]
expect "tests are off" remembers '^KVRT_TESTS:BOOL=OFF'
expect "warnings are no errors" remembers '^KVRT_WERROR:BOOL=OFF'
expect "CUDA is off" remembers '^KVRT_CUDA:BOOL=OFF'
expect "what tests need is not looked for" bash -c '! grep -q "KVRT_CMOCKA\|CMAKE_CXX_COMPILER:\|_Python" build/CMakeCache.txt'

touch -d 2020-01-01 build/CMakeCache.txt
expect "the second build works" front_door
expect "and does not configure again" [ ! build/CMakeCache.txt -nt "$work/bin/cmake" ]

expect "without KVRT_CUDA=0 the kernels are back" env -u KVRT_CUDA ./build.sh
expect "CUDA is on" remembers '^KVRT_CUDA:BOOL=ON'

touch "$work/broken"
expect "a build that fails, fails" bash -c '! "$@" >"$0" 2>&1' "$work/out" ./build.sh
expect "it shows the error" says 'b.c:1:1: error: no'
expect "and not the steps" quiet_on 'Building C object'
rm "$work/broken"

printf '#!/bin/sh\nexec %s "$@"\n' "$(command -v gcc || command -v cc)" >"$work/bin/othercc"
chmod +x "$work/bin/othercc"
expect "another compiler works" env CC=othercc bash -c '"$@" >"$0" 2>&1' "$work/out" ./build.sh
expect "it is said" says 'CC=othercc: configuring it anew'
expect "and taken" remembers "^CMAKE_C_COMPILER:.*othercc"
expect "without CC it is cc again" front_door
expect "which is said" says 'now CC=cc: configuring it anew'
expect "and taken" bash -c '! grep -q "^CMAKE_C_COMPILER:.*othercc" build/CMakeCache.txt'
expect "a compiler that does not exist fails" bash -c '! CC=nosuchcc "$@" >"$0" 2>&1' "$work/out" ./build.sh
expect "and is named" says "no compiler 'nosuchcc'"
expect "without advice to install something" quiet_on 'apt-get|install'

mv "$tree" "$work/moved"
cd "$work/moved" || exit 1
expect "a moved checkout works" front_door
expect "which is said" says "configuring it anew"
rm -rf build
mv "$work/moved" "$work/a;b"
cd "$work/a;b" || exit 1
expect "a path that CMake cannot handle fails" bash -c '! "$@" >"$0" 2>&1' "$work/out" ./build.sh
expect "and says why" says 'CMake cannot work in'
mv "$work/a;b" "$work/readonly"
cd "$work/readonly" || exit 1
user=()
[ "$(id -u)" != 0 ] || user=(setpriv --reuid 65534 --regid 65534 --clear-groups)
chmod 755 "$work"
chmod a-w .
expect "a read-only checkout fails" bash -c '! "$@" >"$0" 2>&1' "$work/out" "${user[@]}" ./build.sh
expect "and says so" says 'this checkout is read-only'
chmod u+w .
[ $failed = 0 ] && echo "build.sh: all as its usage says"
exit $failed
