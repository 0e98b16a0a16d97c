# machine.sh - bare Debian 12 systems for the tests of this folder, made by debootstrap; sourced. The bare system and apt's packages stay in a
# folder of their own under TMPDIR, so that only the first run fetches them, and one test at a time has it. The test that sources this runs a second
# time, in a namespace that ends with it, however it ends; all mounts live there. Exit code 77, skipped, where it cannot work.
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
