/* sass_driver.cpp - the emulated driver (test/emu) with cubins behind it: takes images, and executes the blocks of a launch by their machine code.
 * It stands in place of emu_block.cpp and emu_image.cpp, and the rest of test/emu is as it is: memory, streams, graphs, refusals. So
 * a program that loads build/test/sass/libkvrt-emu-cuda.so runs the kernels of the images that it was built with. See README.md. */
#include "../emu/emu_driver.h"
extern "C" {
#include "sass_image.h"
}

#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string>
#include <sys/stat.h>
#include <unistd.h>

namespace kvi_emu
{

__thread lane_view *self; /* nobody: there are no threads of the source here */

/* ------------------------------------------------------------------------------------------------------ disassembly --- */
static bool read_file(const std::string &path, std::string *out)
{
    FILE *f = fopen(path.c_str(), "rb");
    if (!f) return false;
    char piece[1 << 16];
    out->clear();
    for (size_t n; (n = fread(piece, 1, sizeof piece, f)) > 0;) out->append(piece, n);
    return fclose(f) == 0;
}
static bool write_file(const std::string &path, const void *data, size_t bytes)
{
    FILE *f = fopen(path.c_str(), "wb");
    if (!f) return false;
    const bool good = fwrite(data, 1, bytes, f) == bytes;
    return fclose(f) == 0 && good;
}
static uint64_t digest(const void *data, size_t bytes) /* FNV-1a, by words */
{
    uint64_t h = 0xcbf29ce484222325u ^ bytes;
    for (size_t i = 0; i < bytes; i += 8) {
        uint64_t word = 0;
        memcpy(&word, static_cast<const char *>(data) + i, bytes - i < 8 ? bytes - i : 8);
        h = (h ^ word) * 0x100000001b3u;
        h ^= h >> 29;
    }
    return h;
}
/* cuobjdump's text of an image, kept in KVRT_SASS_CACHE under the digest of both. */
static bool disassemble(const void *image, size_t bytes, bool keeps, std::string *text)
{
    const char *tool = getenv("KVRT_SASS_CUOBJDUMP"), *cache = getenv("KVRT_SASS_CACHE");
    if (!keeps) cache = nullptr;
    if (!tool || !*tool) {
        report("kvrt-sass: KVRT_SASS_CUOBJDUMP does not name a disassembler (cuobjdump of a CUDA toolkit or of PyPI's "
               "triton)\n");
        return false;
    }
    char name[80], unique[40];
    snprintf(name, sizeof name, "/%016llx", (unsigned long long)(digest(image, bytes) ^ digest(tool, strlen(tool))));
    snprintf(unique, sizeof unique, ".%ld", (long)getpid());
    const std::string base = std::string(cache && *cache ? cache : "/tmp") + name, kept = base + ".sass";
    if (cache && *cache) mkdir(cache, 0777);
    if (read_file(kept, text) && text->find("Function : ") != std::string::npos) return true;
    const std::string cubin = base + unique + ".cubin", fresh = base + unique + ".sass";
    const std::string command = std::string("\"") + tool + "\" -sass \"" + cubin + "\" >\"" + fresh + "\" 2>&1";
    bool good = write_file(cubin, image, bytes) && system(command.c_str()) == 0;
    good = read_file(fresh, text) && good;
    if (!good) report("kvrt-sass: %s says of an image of %zu bytes: %.300s\n", tool, bytes, text->c_str());
    remove(cubin.c_str());
    if (!good || !cache || !*cache || rename(fresh.c_str(), kept.c_str()) != 0) remove(fresh.c_str());
    return good;
}

/* ----------------------------------------------------------------------------------------------------------- images --- */
struct interpreted : kernel { /* never destroyed: handles outlive libraries */
    sass_kernel *code;
    std::vector<uint64_t> counts; /* per instruction, over all launches */
    uint64_t launches, blocks;
    bool decoded;
    interpreted(sass_kernel *k, uint32_t min_blocks)
        : kernel(k->function.name, "cubin", nullptr, k->param_bytes, k->max_threads ? k->max_threads : 1024,
                 min_blocks),
          code(k), counts(), launches(0), blocks(0), decoded(false)
    {
    }
};
static std::vector<interpreted *> &kernels()
{
    static auto *all = new std::vector<interpreted *>;
    return *all;
}
/* KVRT_SASS_FLIP=KERNEL:ADDRESS:BIT turns one bit of an instruction over: whether tests notice (test_mutants.py). */
static bool damage(uint8_t *image, size_t bytes)
{
    const char *wanted = getenv("KVRT_SASS_FLIP");
    char name[128];
    unsigned at, bit;
    size_t offset, size;
    if (!wanted || sscanf(wanted, "%127[^:]:%x:%u", name, &at, &bit) != 3) return false;
    if (!sass_image_section(image, bytes, ".text.", name, &offset, &size) || at + 16u > size || bit > 127) return false;
    image[offset + at + bit / 8] ^= static_cast<uint8_t>(1u << bit % 8);
    return true;
}
static std::vector<const sass_image *> &images()
{
    static auto *all = new std::vector<const sass_image *>;
    return *all;
}
static bool take(const void *image, size_t bytes)
{
    static auto *known = new std::set<uint64_t>;
    if (!known->insert(digest(image, bytes)).second) return true; /* a device that is opened again */
    auto *copy = static_cast<uint8_t *>(malloc(bytes));
    if (!copy) abort();
    memcpy(copy, image, bytes);
    const bool damaged = damage(copy, bytes);
    std::string text;
    if (!disassemble(copy, bytes, !damaged, &text)) return false;
    auto *sass = static_cast<char *>(malloc(text.size() + 1));
    auto *read = new sass_image{};
    char error[500];
    if (!sass) abort();
    memcpy(sass, text.c_str(), text.size() + 1);
    if (!sass_image_read(copy, bytes, sass, text.size(), read, error, sizeof error)) {
        report("kvrt-sass: %s\n", error);
        return false;
    }
    images().push_back(read);
    for (uint32_t i = 0; i < read->n; i++) {
        sass_kernel *k = &read->kernels[i];
        const uint32_t threads = k->max_threads ? k->max_threads : 1024, registers = (k->registers + 7u) & ~7u;
        const uint32_t fit = registers ? 65536u / (threads * registers) : 1;
        kernels().push_back(new interpreted(k, fit ? fit : 1));
    }
    return true;
}
/* The image itself, or where the build has none the cubins of a folder: KVRT_SASS_CUBINS, for the architecture of the emulated device. */
kvi_cu_result image_take(const void *image)
{
    const uint32_t own = driver().set.capability;
    if (const uint32_t arch = image_architecture(image)) {
        if (arch / 10 != own / 10 || arch > own) return KVI_CU_NO_BINARY_FOR_GPU;
        return take(image, sass_elf_bytes(image)) ? KVI_CU_SUCCESS : KVI_CU_INVALID_IMAGE;
    }
    const char *folder = getenv("KVRT_SASS_CUBINS");
    if (!folder || !*folder) {
        report("kvrt-sass: this build has no machine code for sm_%u, and KVRT_SASS_CUBINS names no folder of cubins\n",
               own);
        return KVI_CU_INVALID_IMAGE;
    }
    glob_t found = {};
    char pattern[4200];
    snprintf(pattern, sizeof pattern, "%s/*.sm_%u.cubin", folder, own);
    bool good = glob(pattern, 0, nullptr, &found) == 0;
    if (!good) report("kvrt-sass: no %s\n", pattern);
    for (size_t i = 0; good && i < found.gl_pathc; i++) {
        std::string bytes;
        good = read_file(found.gl_pathv[i], &bytes) && take(bytes.data(), bytes.size());
        if (!good) report("kvrt-sass: %s cannot be taken\n", found.gl_pathv[i]);
    }
    globfree(&found);
    return good ? KVI_CU_SUCCESS : KVI_CU_INVALID_IMAGE;
}

/* ----------------------------------------------------------------------------------------------------------- blocks --- */
struct sass_worker : machine {
    sass_block block;
    uint64_t n_blocks;
};
static bool reach(uint64_t at, uint32_t bytes, uint64_t *from, uint64_t *to)
{
    const auto &table = driver().device;
    auto after = table.upper_bound((uintptr_t)at);
    if (after != table.begin()) {
        --after;
        *from = after->first, *to = after->first + after->second.bytes;
        if (at < *to && bytes <= *to - at) return true;
    }
    for (const sass_image *image : images()) {
        *from = reinterpret_cast<uintptr_t>(image->variables), *to = *from + image->n_variables;
        if (image->variables && at >= *from && at < *to && bytes <= *to - at) return true;
    }
    return false;
}
static const char *trace_path()
{
    const char *path = getenv("KVRT_SASS_TRACE");
    return path && *path ? path : nullptr;
}
/* A line per launch: kernel, grid, threads, registers, shared memory, address:count:sectors of all warps, and the longest warp as runs "from-to" of
 * addresses. */
static void write_trace(const interpreted *k, const launch *job, const sass_block *b, uint64_t n_blocks)
{
    FILE *f = fopen(trace_path(), "ab");
    if (!f) return;
    fprintf(f, "%s\t%u,%u,%u\t%llu\t%u\t%u\t%u\t", k->name, job->grid.x, job->grid.y, job->grid.z,
            (unsigned long long)n_blocks, job->threads.x * job->threads.y * job->threads.z, k->code->registers,
            b->shared_bytes);
    for (size_t i = 0; i < k->code->function.n; i++)
        if (b->counts[i])
            fprintf(f, "%zx:%llu:%llu ", i * 16, (unsigned long long)b->counts[i], (unsigned long long)b->sectors[i]);
    fputc('\t', f);
    for (uint32_t i = 0; i < b->longest.n;) {
        const uint32_t from = b->longest.at[i];
        uint32_t to = from;
        for (i++; i < b->longest.n && b->longest.at[i] == to + 1; i++) to++;
        fprintf(f, "%x-%x ", from * 16, to * 16);
    }
    fputc('\n', f);
    fclose(f);
}
machine *machine_create() { return new sass_worker{}; }

void machine_prepare(machine *m, launch *job)
{
    auto *w = static_cast<sass_worker *>(m);
    auto *k = static_cast<interpreted *>(const_cast<kernel *>(job->code));
    m->job = job;
    m->fault = 0;
    m->report[0] = 0;
    w->n_blocks = 0;
    static pthread_mutex_t decoding = PTHREAD_MUTEX_INITIALIZER;
    char error[600] = "out of memory";
    pthread_mutex_lock(&decoding);
    if (!k->decoded && sass_kernel_decode(k->code, error, sizeof error)) {
        k->decoded = true;
        k->counts.assign(k->code->function.n, 0);
    }
    pthread_mutex_unlock(&decoding);
    const uint32_t grid[3] = {job->grid.x, job->grid.y, job->grid.z},
                   threads[3] = {job->threads.x, job->threads.y, job->threads.z};
    if (!k->decoded || !sass_block_prepare(&w->block, k->code, grid, threads, job->shared_bytes, job->params)) {
        snprintf(m->report, sizeof m->report, "kvrt-sass: %s\n", error);
        m->fault = KVI_CU_LAUNCH_FAILED;
    }
    w->block.reach = reach;
    w->block.traces = trace_path() != nullptr;
    w->block.seed = job->seed;
}
bool machine_run(machine *m, const uint3 &index)
{
    auto *w = static_cast<sass_worker *>(m);
    const uint32_t at[3] = {index.x, index.y, index.z};
    if (m->fault) return false;
    w->n_blocks++;
    if (sass_block_run(&w->block, at, m->job->seed)) return true;
    snprintf(m->report, sizeof m->report, "kvrt-sass: %s\n", w->block.fault);
    m->fault = w->block.misaligned ? KVI_CU_MISALIGNED_ADDRESS : KVI_CU_ILLEGAL_ADDRESS;
    return false;
}
void machine_finish(machine *m)
{
    static pthread_mutex_t adding = PTHREAD_MUTEX_INITIALIZER;
    auto *w = static_cast<sass_worker *>(m);
    auto *k = static_cast<interpreted *>(const_cast<kernel *>(m->job->code));
    pthread_mutex_lock(&adding);
    for (size_t i = 0; i < k->counts.size(); i++) k->counts[i] += w->block.counts[i];
    k->blocks += w->n_blocks;
    k->launches++;
    if (w->block.traces) write_trace(k, m->job, &w->block, w->n_blocks);
    pthread_mutex_unlock(&adding);
}

/* KVRT_SASS_COUNTS: a file to which every kernel that ran adds a line "kernel, launches, blocks, address:count ..." when the process ends. */
__attribute__((destructor)) static void write_counts()
{
    const char *path = getenv("KVRT_SASS_COUNTS");
    FILE *f = path && *path ? fopen(path, "ab") : nullptr;
    if (!f) return;
    for (const interpreted *k : kernels()) {
        if (!k->launches) continue;
        fprintf(f, "%s\t%llu\t%llu\t%u\t", k->name, (unsigned long long)k->launches, (unsigned long long)k->blocks,
                k->code->function.n);
        for (size_t i = 0; i < k->counts.size(); i++)
            if (k->counts[i]) fprintf(f, "%zx:%llu ", i * 16, (unsigned long long)k->counts[i]);
        fputc('\n', f);
    }
    fclose(f);
}

} // namespace kvi_emu
