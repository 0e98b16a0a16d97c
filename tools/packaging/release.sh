#!/usr/bin/env bash
# Makes a release folder and archive for x86-64 Linux, with CUDA kernels for every architecture that load on drivers from 525 on.
#   KVRT_NVRTC=FILE tools/packaging/release.sh OUT        FILE: libnvrtc.so.12 (12.9 for 50 series cards), or the wheel nvidia-cuda-nvrtc-cu12
# OUT/kvrt-VERSION holds what `./build.sh install` installs, the small model, and owner.sh, by which the owner of a card measures without a compiler.
# It stops unless the machine code is of the interface that such drivers load, without spills, and within the library's size.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ -n "${1:-}" ] || { sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2; }
nvrtc=${KVRT_NVRTC:-} jobs=${JOBS:-$(nproc)} build=$PWD/build-release
mkdir -p "$1"
out=$(cd "$1" && pwd)
unset KVRT_NVRTC
cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DKVRT_TESTS=OFF -DKVRT_CUDA=ON -DKVRT_CUDA_ARCH= ${nvrtc:+"-DKVRT_NVRTC=$nvrtc"} -DCMAKE_INSTALL_LIBDIR=lib
cmake --build "$build" -j "$jobs" --target front_door
export KVRT_BUILD_DIR=$build KVRT_TEST_RELEASE=1
for rule in cuda_images cuda_budget size; do
    python3 -B "test/rules/test_$rule.py" || { echo "release.sh: test/rules/test_$rule.py failed or found no kernels" >&2; exit 1; }
done
version=$(sed -n 's/^CMAKE_PROJECT_VERSION:STATIC=//p' "$build/CMakeCache.txt")
folder=$out/kvrt-$version-linux-x86_64
rm -rf "$folder"
cmake --install "$build" --prefix "$folder" --strip >/dev/null
cp -r examples/models/storyteller-tiny "$folder/"
cp test/gpu/owner.sh LICENSE README.md "$folder/"
tar -czf "$folder.tar.gz" -C "$out" "$(basename "$folder")"
echo "$folder.tar.gz: $(wc -c <"$folder.tar.gz") bytes; backends: $(sed -n 's/^KVRT_BACKENDS:INTERNAL=//p' "$build/CMakeCache.txt")"
