#!/usr/bin/env bash
# The static model of decode knows every instruction of the shipped machine code, finds the loops it weighs, and says a time for every kernel and token.
set -uo pipefail
root=${KVRT_SOURCE_DIR:-$(cd "$(dirname "$0")/../.." && pwd)}
text=$(python3 -B "$root/test/gpu/timing/model.py" "${KVRT_BUILD_DIR:-$root/build}")
rc=$?
printf '%s\n' "$text"
[ "$rc" = 0 ] || exit "$rc"
for card in rtx3090 rtx4090; do grep -q "^$card, machine code" <<<"$text" || { echo "no line of $card"; exit 1; }; done
[ "$(grep -c 'tokens per second' <<<"$text")" = 32 ] || { echo "not 32 predictions of a token"; exit 1; }
