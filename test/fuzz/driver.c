/* driver.c - runs a fuzz target without libFuzzer: replays a corpus folder, then a bounded number of seeded
 * mutations of it. usage: fuzz_X [CORPUS_FOLDER] [RUNS] [SEED]. The same arguments do the same work on every
 * machine; KVRT_FUZZ_RUNS overrides RUNS, KVRT_TEST_QUICK takes a fifth of them. The input of the run that crashes stays as fuzz-last.bin in the working
 * directory when KVRT_FUZZ_KEEP is set. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MAX_SEEDS 1024u
#define MAX_INPUT (1u << 20)
#define MAX_MUTANT (1u << 16) /* mutants stay small so that a run is fast */
#define MAX_SECONDS 60u       /* of one input: longer is a hang, and ends by SIGALRM */

typedef struct seed {
    uint8_t *data; /* (size) */
    size_t size;
    char name[256];
} seed;

static seed seeds[MAX_SEEDS];
static size_t n_seeds;
static uint64_t random_state = 1;

static uint64_t random_next(void)
{
    uint64_t z = (random_state += 0x9e3779b97f4a7c15u); /* splitmix64 */
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static size_t random_below(size_t n) { return n ? (size_t)(random_next() % n) : 0; }

static int by_name(const void *a, const void *b) { return strcmp(((const seed *)a)->name, ((const seed *)b)->name); }

static void load_seed(const char *folder, const char *name)
{
    char path[1024];
    if (n_seeds == MAX_SEEDS || strlen(name) >= sizeof seeds[0].name) return;
    int len = snprintf(path, sizeof path, "%s/%s", folder, name);
    if (len < 0 || (size_t)len >= sizeof path) return;
    FILE *file = fopen(path, "rb");
    if (!file) return;
    uint8_t *data = malloc(MAX_INPUT);
    size_t size = data ? fread(data, 1, MAX_INPUT, file) : 0;
    fclose(file);
    if (!data) return;
    seeds[n_seeds] = (seed){.data = data, .size = size};
    memcpy(seeds[n_seeds].name, name, strlen(name) + 1);
    n_seeds++;
}

static void load_folder(const char *folder)
{
    DIR *dir = opendir(folder);
    if (!dir) return;
    for (struct dirent *entry; (entry = readdir(dir));)
        if (entry->d_name[0] != '.') load_seed(folder, entry->d_name);
    closedir(dir);
    qsort(seeds, n_seeds, sizeof seeds[0], by_name); /* the order of a folder differs between machines */
}

/* Runs one input from a heap block of exactly its size, so that one byte too far is seen. */
static void run_one(const uint8_t *data, size_t size)
{
    if (getenv("KVRT_FUZZ_KEEP")) {
        FILE *keep = fopen("fuzz-last.bin", "wb");
        if (keep) {
            fwrite(data, 1, size, keep);
            fclose(keep);
        }
    }
    uint8_t *exact = malloc(size ? size : 1);
    if (!exact) return;
    if (size) memcpy(exact, data, size);
    (void)alarm(MAX_SECONDS);
    LLVMFuzzerTestOneInput(exact, size);
    (void)alarm(0);
    free(exact);
}

static const uint8_t interesting[] = {0x00, 0x01, 0x7f, 0x80, 0xff, '"', '\\', '{',
                                      '}',  '[',  ']',  '0',  '9',  '-', '%',  '\n'};

/* One random edit in place; returns the new size. */
static size_t mutate(uint8_t *data, size_t size, size_t cap)
{
    size_t at = random_below(size);
    size_t span = 1 + random_below(1u << random_below(8));
    switch (random_below(8)) {
    case 0:
        if (size) data[at] ^= (uint8_t)(1u << random_below(8));
        break;
    case 1:
        if (size) data[at] = (uint8_t)random_next();
        break;
    case 2:
        if (size) data[at] = interesting[random_below(sizeof interesting)];
        break;
    case 3: /* delete a span */
        if (span > size - at) span = size - at;
        memmove(data + at, data + at + span, size - at - span);
        return size - span;
    case 4: /* insert a span of one byte */
        if (span > cap - size) span = cap - size;
        memmove(data + at + span, data + at, size - at);
        memset(data + at, interesting[random_below(sizeof interesting)], span);
        return size + span;
    case 5: /* repeat a span */
        if (span > size - at) span = size - at;
        if (span > cap - size) span = cap - size;
        memmove(data + at + span, data + at, size - at);
        return size + span;
    case 6: return at; /* cut */
    default: {         /* splice in a part of another seed */
        const seed *other = n_seeds ? &seeds[random_below(n_seeds)] : NULL;
        if (!other || !other->size) break;
        size_t from = random_below(other->size);
        if (span > other->size - from) span = other->size - from;
        if (span > size - at) span = size - at;
        memcpy(data + at, other->data + from, span);
    }
    }
    return size;
}

static uint64_t number(const char *text, uint64_t fallback) { return text ? strtoull(text, NULL, 10) : fallback; }

int main(int argc, char **argv)
{
    uint64_t runs = number(getenv("KVRT_FUZZ_RUNS"),
                           number(argc > 2 ? argv[2] : NULL, 100000) / (getenv("KVRT_TEST_QUICK") ? 5 : 1));
    random_state = number(argc > 3 ? argv[3] : NULL, 1);
    if (argc > 1) load_folder(argv[1]);
    run_one((const uint8_t *)"", 0);
    for (size_t i = 0; i < n_seeds; i++) run_one(seeds[i].data, seeds[i].size);
    uint8_t *mutant = malloc(MAX_MUTANT);
    if (!mutant) return 1;
    /* A byte budget bounds the time where seeds are large: about a GiB of input in all. */
    uint64_t byte_budget = (uint64_t)1 << 30, done = 0;
    for (; done < runs && byte_budget > MAX_MUTANT; done++) {
        const seed *from = n_seeds ? &seeds[random_below(n_seeds)] : NULL;
        size_t size = from ? (from->size < MAX_MUTANT ? from->size : MAX_MUTANT) : 0;
        if (size) memcpy(mutant, from->data, size);
        for (size_t edits = 1 + random_below(6); edits; edits--) size = mutate(mutant, size, MAX_MUTANT);
        run_one(mutant, size);
        byte_budget -= size;
    }
    printf("%zu seeds, %llu mutations, no failure\n", n_seeds, (unsigned long long)done);
    free(mutant);
    for (size_t i = 0; i < n_seeds; i++) free(seeds[i].data);
    return 0;
}
