#!/usr/bin/env bash
# What the built libraries import and export: only kvrt_* leaves, libc and libm alone come in, and nothing that a guest must not call.
set -u
build=${KVRT_BUILD_DIR:-build}
failed=0
fail() { echo "FAIL: $1"; failed=1; }

so=$build/libkvrt.so archive=$build/libkvrt.a
[ -f "$so" ] && [ -f "$archive" ] || { echo "no libraries in $build"; exit 1; }
if nm -u "$so" | grep -qE '__(asan|tsan|ubsan)_'; then echo "skipped: a sanitizer build imports its runtime"; exit 77; fi

public=$(nm -D --defined-only "$so" | awk '{print $NF}')
other=$(grep -v '^kvrt_' <<<"$public")
[ -z "$other" ] || fail "libkvrt.so exports $other"
other=$(nm -g --defined-only "$archive" | awk 'NF==3 {print $3}' | grep -v '^kvrt_')
[ -z "$other" ] || fail "libkvrt.a exports $other"

# Every function of the header is there, and nothing beside the header.
header=$(sed -n 's/^KVRT_API [^(]*[ *]\(kvrt_[a-z0-9_]*\)(.*/\1/p' "${KVRT_SOURCE_DIR:-.}/runtime/kvrt.h" | sort)
difference=$(diff <(echo "$header") <(sort <<<"$public" | sed 's/@.*//' | sort -u))
[ -z "$difference" ] || fail "kvrt.h (<) and libkvrt.so (>) differ: $difference"

needed=$(readelf -d "$so" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | grep -vE '^(libc|libm|libpthread|libdl|ld-linux-x86-64|ld-linux-aarch64)\.so')
[ -z "$needed" ] || fail "libkvrt.so needs $needed"

# realloc, qsort and friends are fine, and pthread_sigmask, with which workers start blocking signals; these are not.
forbidden='abort|exit|_exit|quick_exit|atexit|__cxa_atexit|on_exit|printf|puts|fputs|putchar|fwrite|fprintf|vfprintf|fopen|perror|stdout|stderr'
forbidden+='|__printf_chk|__fprintf_chk|__vfprintf_chk|getenv|secure_getenv|setenv|putenv|setlocale|newlocale|uselocale|localeconv|system|popen'
forbidden+='|fork|vfork|execve|signal|sigaction|sigprocmask|raise|kill|longjmp|siglongjmp|__longjmp_chk|_setjmp'
forbidden+='|strtod|strtof|strtold|atof|rand|srand|strtok|gmtime|localtime|__assert_fail'
for library in "$so" "$archive"; do
    found=$(nm -u "$library" | awk '{print $NF}' | sed 's/@.*//' | grep -xE "$forbidden" | tr '\n' ' ')
    [ -z "$found" ] || fail "$(basename "$library") calls $found"
done
[ $failed = 0 ] && echo "$(wc -l <<<"$public") functions exported, imports clean"
exit $failed
