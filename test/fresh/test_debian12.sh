#!/usr/bin/env bash
# A machine that never saw kvrt: a minimal Debian 12 made by debootstrap, the tree as `git archive` gives it, and the commands of the README.
#   user    no privileges, no sudo, a checkout under an awkward name: the line that installs the packages, demo, install, a pkg-config program
#   clang   root, CC=clang, make in place of ninja: build.sh installs what it needs by itself
# Nothing is installed but what build.sh asks for. Skipped (77) where it cannot work.
set -euo pipefail
. "$(dirname "$0")/machine.sh"

demonstrated() { # what the demo must have said: how far the build is, two stories, a table
    grep -q '^\[ *[1-9]0%\] ' "$log" || fail "$1: the build shows no progress"
    [ "$(grep -c '^Once upon a time..' "$log")" = 2 ] || fail "$1: no two stories"
    grep -q 'k4v2' "$log" || fail "$1: no table of exact answers"
}

# ---- a user without privileges -----------------------------------------------------------------------------------------------------------
machine user
as root / "apt-get update -qq" || { tail -n 3 "$log"; skip "the mirror does not answer"; }
tree="/home/newcomer/kv rt (1) 'q' & , ü %{b}=~@:!"
unpack "$tree"
! as newcomer "$tree" "./build.sh demo" || fail "a build without packages succeeds"
line=$(sed -n 's/^  sudo //p' "$log")
[ "$(wc -l <"$log")" = 2 ] && [[ $line == "apt-get install "* ]] || fail "no line that installs the packages"
[[ $line != *cmocka* && $line != *python* && $line != *g++* ]] || fail "packages of the tests are asked for"
installs "the line does not install the packages" root / "$line"
said "user: $line"
! as newcomer "$tree" ./build.sh || fail "a read-only checkout is built"
grep -q 'this checkout is read-only' "$log" || fail "a read-only checkout is not named as one"
chroot "$root" chown -R newcomer: "$tree"
! as newcomer "$tree" "CC=nosuchcc ./build.sh" || fail "CC=nosuchcc builds"
grep -q "no compiler 'nosuchcc'" "$log" && ! grep -q apt-get "$log" || fail "CC=nosuchcc is not named"

as newcomer "$tree" "./build.sh demo" || fail "./build.sh demo"
demonstrated user
! grep -q 'KVRT_CMOCKA\|CMAKE_CXX_COMPILER:\|_Python' "$root$tree/build/CMakeCache.txt" || fail "a plain build looks for what tests need"
said "user: ./build.sh demo"
as newcomer "$tree" './build.sh install "$HOME/usr"' || fail "./build.sh install"
installs pkg-config root / "apt-get install -y -qq --no-install-recommends pkg-config"
as newcomer "$tree" 'export PKG_CONFIG_PATH=$(dirname "$(find "$HOME/usr" -name kvrt.pc)") && cc examples/hello.c -o "$HOME/hello" $(pkg-config --cflags --libs kvrt) &&
    LD_LIBRARY_PATH=$(pkg-config --variable=libdir kvrt) "$HOME/hello" examples/models/storyteller-tiny "Once upon a time" &&
    "$HOME/usr/bin/kvrt" --version' || fail "a program by pkg-config"
[ "$(wc -c <"$log")" -gt 100 ] || fail "the program prints nothing"
said "user: install and a program by pkg-config"

# ---- root, with clang and make -------------------------------------------------------------------------------------------------------------
machine clang
installs make root / "apt-get install -y -qq --no-install-recommends make"
unpack /root/kvrt
as root /root/kvrt "CC=clang ./build.sh demo" || fail "CC=clang ./build.sh demo"
demonstrated clang
grep -q '^CMAKE_C_COMPILER:.*clang' "$root/root/kvrt/build/CMakeCache.txt" || fail "clang was not used"
[ ! -e "$root/usr/bin/gcc" ] && [ ! -e "$root/usr/bin/ninja" ] || fail "gcc or ninja was installed beside clang and make"
said "clang: CC=clang ./build.sh demo"
[ $((SECONDS - started)) -lt 240 ] || echo "slow: the budget of this test is 4 minutes on 2 idle cores"
