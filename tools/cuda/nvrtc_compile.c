/* nvrtc_compile.c - compiles kernels without a CUDA toolkit: NVRTC is one shared library (PyPI: nvidia-cuda-nvrtc-cu12) opened at run time. A program
 * of the build, which is no part of kvrt; it stands in for `nvcc -cubin`.
 *
 *   nvrtc_compile LIBRARY                                     prints "12.9: 80 86 89", its version and the architectures it knows
 *   nvrtc_compile LIBRARY SOURCE OUT ARCH [OPTION...]         ARCH sm_86: machine code; compute_80: PTX with a zero at its end
 *
 * Beside OUT it leaves OUT.ptxas, what the compiler said (registers, spills), and OUT.d, which files were read. One thing to know: NVRTC has no
 * headers of its own, so <stdint.h> and <stdbool.h> are given here; anything else of the host's fails to compile, as it should in device code. */
#include <dlfcn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_FILES 200
#define MAX_OPTIONS 60
#define MAX_PATH 4096

typedef struct nvrtc_program *program;
static struct {
    int (*version)(int *major, int *minor);
    int (*n_archs)(int *n);
    int (*archs)(int *list);
    int (*create)(program *out, const char *source, const char *name, int n_headers, const char *const *headers,
                  const char *const *header_names);
    int (*compile)(program p, int n_options, const char *const *options);
    int (*log_size)(program p, size_t *bytes);
    int (*log)(program p, char *text);
    int (*cubin_size)(program p, size_t *bytes);
    int (*cubin)(program p, char *bytes);
    int (*ptx_size)(program p, size_t *bytes);
    int (*ptx)(program p, char *text);
    const char *(*error_text)(int code);
} rtc;

static const char stdint_text[] =
    "typedef signed char int8_t; typedef short int16_t; typedef int int32_t; typedef long long int64_t;\n"
    "typedef unsigned char uint8_t; typedef unsigned short uint16_t; typedef unsigned int uint32_t;\n"
    "typedef unsigned long long uint64_t; typedef unsigned long long uintptr_t;\n"
    "#define INT8_MIN (-128)\n#define INT8_MAX 127\n#define UINT8_MAX 255\n"
    "#define INT32_MIN (-2147483647 - 1)\n#define INT32_MAX 2147483647\n"
    "#define UINT32_MAX 4294967295u\n";

static void die(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)fprintf(stderr, "nvrtc_compile: ");
    (void)vfprintf(stderr, format, args);
    (void)fputc('\n', stderr);
    va_end(args);
    exit(1);
}

static void find(void *library, const char *symbol, void *member)
{
    void *address = dlsym(library, symbol);
    if (!address) die("no %s in this library; need NVRTC 11.2 or newer", symbol);
    memcpy(member, &address, sizeof address);
}

static void open_library(const char *path)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) die("%s", dlerror());
    find(library, "nvrtcVersion", &rtc.version);
    find(library, "nvrtcGetNumSupportedArchs", &rtc.n_archs);
    find(library, "nvrtcGetSupportedArchs", &rtc.archs);
    find(library, "nvrtcCreateProgram", &rtc.create);
    find(library, "nvrtcCompileProgram", &rtc.compile);
    find(library, "nvrtcGetProgramLogSize", &rtc.log_size);
    find(library, "nvrtcGetProgramLog", &rtc.log);
    find(library, "nvrtcGetCUBINSize", &rtc.cubin_size);
    find(library, "nvrtcGetCUBIN", &rtc.cubin);
    find(library, "nvrtcGetPTXSize", &rtc.ptx_size);
    find(library, "nvrtcGetPTX", &rtc.ptx);
    find(library, "nvrtcGetErrorString", &rtc.error_text);
}

static void check(int code, const char *what)
{
    if (code) die("%s: %s", what, rtc.error_text(code));
}

static int say_version(void)
{
    int major = 0, minor = 0, n = 0, archs[100];
    check(rtc.version(&major, &minor), "version");
    check(rtc.n_archs(&n), "architectures");
    if (n < 0 || n > 100) die("%d architectures", n);
    check(rtc.archs(archs), "architectures");
    (void)printf("%d.%d:", major, minor);
    for (int i = 0; i < n; i++) (void)printf(" %d", archs[i]);
    (void)printf("\n");
    return 0;
}

/* ------------------------------------------------------------------------------------------------------- files --- */
static char *read_text(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file) return NULL;
    size_t used = 0, cap = 1 << 16;
    char *text = malloc(cap);
    while (text) {
        used += fread(text + used, 1, cap - used - 1, file);
        if (used + 1 < cap) break;
        text = realloc(text, cap *= 2);
    }
    (void)fclose(file);
    if (!text) die("out of memory");
    text[used] = 0;
    return text;
}

static void write_file(const char *path, const char *suffix, const char *bytes, size_t n)
{
    char name[MAX_PATH];
    if (snprintf(name, sizeof name, "%s%s", path, suffix) >= (int)sizeof name) die("%s: the path is too long", path);
    FILE *file = fopen(name, "wb");
    if (!file || fwrite(bytes, 1, n, file) != n || fclose(file) != 0) die("%s cannot be written", name);
}

/* PTX without comments and indentation, a tenth of it: nobody but a driver reads it. Returns its length with the zero at its end. */
static size_t without_margins(char *text)
{
    char *to = text;
    for (const char *at = text; *at;) {
        const char *line = at + strspn(at, " \t\n"), *comment, *end;
        end = line + strcspn(line, "\n");
        comment = strstr(line, "//");
        const size_t n = (size_t)((comment && comment < end ? comment : end) - line);
        memmove(to, line, n);
        if (n) to += n, *to++ = '\n';
        at = end;
    }
    *to = 0;
    return (size_t)(to - text) + 1;
}

/* Files that a source includes by "name", its own folder first, as the compiler looks for them. Branches of #if are not told apart: a file too
 * many costs a compilation, a file too few would leave old machine code in the library. */
static char *seen[MAX_FILES];
static int n_seen;

static void add_file(const char *path)
{
    for (int i = 0; i < n_seen; i++)
        if (strcmp(seen[i], path) == 0) return;
    char *text = read_text(path);
    if (!text) return;
    if (n_seen == MAX_FILES || !(seen[n_seen] = malloc(strlen(path) + 1))) die("%s: too many files", path);
    strcpy(seen[n_seen++], path);
    const char *slash = strrchr(path, '/');
    const int folder = slash ? (int)(slash - path) + 1 : 0;
    for (char *line = text; line; line = strchr(line, '\n')) {
        line += strspn(line, "\n \t");
        char included[MAX_PATH], at[2 * MAX_PATH];
        if (sscanf(line, "# include \"%4000[^\"\n]\"", included) != 1 &&
            sscanf(line, "#include \"%4000[^\"\n]\"", included) != 1)
            continue;
        (void)snprintf(at, sizeof at, "%.*s%s", folder, path, included);
        add_file(at);
    }
    free(text);
}

/* As make reads it: blanks and dollars of a path are escaped. */
static void write_dependencies(const char *out, const char *source)
{
    char name[MAX_PATH];
    add_file(source);
    (void)snprintf(name, sizeof name, "%s.d", out);
    FILE *file = fopen(name, "wb");
    if (!file) die("%s cannot be written", name);
    for (int i = -1; i < n_seen; i++) {
        for (const char *p = i < 0 ? out : seen[i]; *p; p++) {
            if (*p == ' ' || *p == '#') (void)fputc('\\', file);
            if (*p == '$') (void)fputc('$', file);
            (void)fputc(*p, file);
        }
        (void)fputs(i < 0 ? ":" : "", file);
        (void)fputs(i + 1 < n_seen ? " \\\n  " : "\n", file);
    }
    if (fclose(file) != 0) die("%s cannot be written", name);
}

/* ----------------------------------------------------------------------------------------------------- compile --- */
static int compile(const char *source, const char *out, const char *arch, int n_more, char **more)
{
    const bool ptx = strncmp(arch, "compute_", 8) == 0;
    char folder[MAX_PATH], include[MAX_PATH + 3], target[100];
    const char *options[MAX_OPTIONS] = {include, target, "--std=c++17", "-default-device", "--ptxas-options=-v"};
    const char *headers[] = {stdint_text, ""}, *names[] = {"stdint.h", "stdbool.h"}; /* C++ has bool */
    int n = ptx ? 4 : 5;
    char *text = read_text(source);
    if (!text) die("%s cannot be read", source);
    const char *slash = strrchr(source, '/');
    (void)snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - source) : 1, slash ? source : ".");
    (void)snprintf(include, sizeof include, "-I%s", folder);
    (void)snprintf(target, sizeof target, "--gpu-architecture=%s", arch);
    for (int i = 0; i < n_more; i++) {
        if (n == MAX_OPTIONS) die("too many options");
        options[n++] = more[i];
    }
    program p = NULL;
    size_t bytes = 0;
    check(rtc.create(&p, text, source, 2, headers, names), source);
    const int code = rtc.compile(p, n, options);
    check(rtc.log_size(p, &bytes), source);
    char *log = calloc(1, bytes + 1);
    if (!log) die("out of memory");
    check(rtc.log(p, log), source);
    if (code) {
        (void)fprintf(stderr, "%s\n", log);
        die("%s for %s: %s", source, arch, rtc.error_text(code));
    }
    write_file(out, ".ptxas", log, strlen(log));
    check((ptx ? rtc.ptx_size : rtc.cubin_size)(p, &bytes), source);
    if (bytes == 0) die("%s for %s: the compiler made nothing", source, arch);
    char *image = calloc(1, bytes + 1);
    if (!image) die("out of memory");
    check((ptx ? rtc.ptx : rtc.cubin)(p, image), source);
    if (ptx) bytes = without_margins(image);
    write_dependencies(out, source);
    write_file(out, "", image, bytes);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc != 2 && argc < 5) die("usage: nvrtc_compile LIBRARY [SOURCE OUT ARCH [OPTION...]]");
    open_library(argv[1]);
    return argc == 2 ? say_version() : compile(argv[2], argv[3], argv[4], argc - 5, argv + 5);
}
