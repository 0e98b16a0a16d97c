#!/usr/bin/env bash
# A machine that never saw kvrt: a minimal Debian 12 made by debootstrap, the tree as `git archive` gives it, and the commands of the README.
#   user    no privileges, no sudo, a checkout under an awkward name: the line that installs the packages, demo, install, a pkg-config program
#   clang   root, CC=clang, make in place of ninja: build.sh installs what it needs by itself
# Nothing is installed but what build.sh asks for. The bare system and apt's packages stay in a folder of their own under TMPDIR, so that only
# the first run fetches them. All mounts live in a namespace that ends with this script, however it ends. Skipped (77) where it cannot work.
set -euo pipefail
umask 022 # another user reads what is made here
source_dir=${KVRT_SOURCE_DIR:-$(cd "$(dirname "$0")/../.." && pwd)}
suite=bookworm
cache=${TMPDIR:-/tmp}/kvrt-fresh-root-$suite-1 # the number changes with what is kept in it
skip() { echo "skipped: $*"; exit 77; }

# ---- may it run here? ------------------------------------------------------------------------------------------------------------------
# The Debian mirror that this machine itself uses; read here, written nowhere.
mirror() {
    sed -n 's/#.*//; s/^URIs: *\(http[^ ]*\/debian\/*\)\( .*\)*$/\1/p; s/^deb \(\[.*\] *\)*\(http[^ ]*\/debian\/*\) .*/\2/p' \
        /etc/apt/sources.list /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list 2>/dev/null | head -n 1
}
if [ "${1:-}" != inside ]; then
    [ "$(id -u)" = 0 ] || skip "needs root, for debootstrap and chroot"
    for tool in debootstrap unshare setpriv flock git tar; do command -v $tool >/dev/null || skip "$tool is not installed"; done
    [ -n "$(mirror)" ] || skip "no Debian mirror among this machine's apt sources"
    git -c safe.directory='*' -C "$source_dir" rev-parse HEAD >/dev/null 2>&1 || skip "the tree is not a git checkout"
    unshare --mount --pid --fork true 2>/dev/null || skip "mounts are not permitted here"
    mkdir -m 700 "$cache" 2>/dev/null || true # there from an earlier run; where TMPDIR is shared, perhaps of somebody else's making
    [ ! -L "$cache" ] && [ "$(stat -c %u:%a "$cache")" = 0:700 ] || skip "$cache is not a folder of root's alone"
    exec flock "$cache" unshare --mount --propagation private --pid --fork --kill-child "$0" inside
fi

# ---- the bare system, once ---------------------------------------------------------------------------------------------------------------
started=$SECONDS
said() { printf '%4d s  %s\n' $((SECONDS - started)) "$1"; }
fail() { echo "FAIL: $1"; [ ! -f "${log:-}" ] || tail -n 60 "$log"; exit 1; }
work=$cache/work
trap 'umount -lR "$work"/*/proc "$work"/*/var/cache/apt/archives 2>/dev/null; rm -rf --one-file-system "$work"' EXIT
rm -rf --one-file-system "$work" # of a run that was killed; its mounts ended with it
mkdir -p "$work" "$cache/archives/partial"
log=$work/log
if [ ! -f "$cache/root.tar" ]; then
    debootstrap --variant=minbase "$suite" "$work/bare" "$(mirror)" >"$log" 2>&1 || { tail -n 3 "$log"; skip "debootstrap does not get a Debian 12 from this machine's mirror"; }
    cp "$work/bare"/var/cache/apt/archives/*.deb "$cache/archives/" 2>/dev/null || true
    rm -f "$work/bare"/var/cache/apt/archives/*.deb
    tar -C "$work/bare" -cf "$cache/root.tar.part" . && mv "$cache/root.tar.part" "$cache/root.tar"
    rm -rf "$work/bare"
    said "debootstrap"
fi

# A machine: the bare system with this host's way to the network.
machine() { # name
    root=$work/$1
    mkdir "$root"
    tar -C "$root" -xf "$cache/root.tar"
    cp /etc/resolv.conf "$root/etc/resolv.conf"
    apt-config dump | grep -E '^Acquire::(http|https|Retries|Check)' >"$root/etc/apt/apt.conf.d/90host" || true
    echo 'Acquire::Retries "5";' >"$root/etc/apt/apt.conf.d/91patience"
    mount -t proc proc "$root/proc"
    mount --bind "$cache/archives" "$root/var/cache/apt/archives"
    chroot "$root" useradd --create-home newcomer
}
as() { # user, folder, shell command...; what it prints lands in the log as well
    local user=$1 folder=$2 home=/root
    [ "$user" = root ] || home=/home/$user
    shift 2
    chroot "$root" setpriv --reuid "$user" --regid "$user" --init-groups --reset-env env -C "$folder" HOME=$home PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        ${http_proxy:+http_proxy="$http_proxy"} sh -c "$1" >"$log" 2>&1 </dev/null
}
# Packages of the bare system that do not come are a fault of the network, unless the mirror answers and they still do not.
installs() { # what, then as above
    local what=$1
    shift
    as "$@" && return 0
    cp "$log" "$log.first"
    as root / "apt-get update -qq" || { tail -n 3 "$log.first"; skip "the mirror no longer answers"; }
    as "$@" || fail "$what"
}
unpack() { # folder inside the root
    local commit
    commit=$(git -c safe.directory='*' -C "$source_dir" stash create 2>/dev/null || true) # with edits that are not committed
    mkdir -p "$root/$1"
    git -c safe.directory='*' -C "$source_dir" archive "${commit:-HEAD}" | tar -C "$root/$1" -x
}
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
