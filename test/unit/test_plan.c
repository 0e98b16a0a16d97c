/* test_plan.c - the plan against what is then held on the CPU, for every golden and demo model, with sessions filled
 * to their end. Three limits. The promise of the API: resident bytes within max(2%, 64 MiB), which small models
 * cannot break. Therefore also: what the library has taken, allocation by allocation and the KV pool, is never below
 * the plan's total and at most 1%, EXTRA and 4 times tokenizer.json above it; and with a pool of up to 128 MiB what
 * the system counts as resident is within 2% and NOISE. Not in a plan, and so in EXTRA: tokenizer, tensor names, page
 * tables, token lists, one row of logits. Weights are in the file's map, which the CPU does not copy. */
#include "golden_model.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/stat.h>
#include <cmocka.h>

#define EXTRA (768u << 10) /* bytes */
#define NOISE (4u << 20)   /* bytes; the system counts in batches and gives pages of 2 MiB */

typedef struct plan_case {
    const char *dir, *kv;
    uint32_t ctx, n_sessions;
    bool resident; /* large enough that the system's count tells something */
} plan_case;

static uint64_t held(void)
{
    uint64_t bytes = 0;
    kvrt_debug_mem(&bytes, NULL, NULL);
    return bytes;
}

/* Anonymous resident memory of this process in bytes, 0 when the system does not tell. */
static uint64_t resident(void)
{
    unsigned long long kib = 0;
    char line[128];
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status))
        if (sscanf(line, "RssAnon: %llu kB", &kib) == 1) break;
    if (status) fclose(status);
    return kib << 10;
}

static kvrt_options *options_for(const plan_case *c)
{
    kvrt_options *o = NULL;
    assert_int_equal(kvrt_options_create(&o, NULL), KVRT_OK);
    assert_int_equal(kvrt_options_set_string(o, "model.path", c->dir, -1, NULL), KVRT_OK);
    assert_int_equal(kvrt_options_set_string(o, "kv.format", c->kv, -1, NULL), KVRT_OK);
    assert_int_equal(kvrt_options_set_string(o, "device.backend", "cpu", -1, NULL), KVRT_OK);
    assert_int_equal(kvrt_options_set_i64(o, "ctx.size", c->ctx, NULL), KVRT_OK);
    assert_int_equal(kvrt_options_set_i64(o, "ctx.sessions", c->n_sessions, NULL), KVRT_OK);
    return o;
}

/* A session that holds ctx tokens, the last of them computed by a step. */
static void fill_session(const plan_case *c, kvrt_engine engine, uint32_t vocab)
{
    kvrt_error error = {.size = sizeof error};
    kvrt_session s;
    float *logits = calloc(vocab, sizeof *logits);
    const int32_t id = 1;
    assert_non_null(logits);
    if (kvrt_session_create(engine, NULL, &s, &error) < KVRT_OK ||
        kvrt_measure_fill(s, c->ctx - 1, 1, &error) < KVRT_OK ||
        kvrt_session_eval(s, &id, 1, NULL, 1, logits, &error) < KVRT_OK)
        fail_msg("%s %s: %s", c->dir, c->kv, error.message);
    free(logits);
}

static uint64_t apart(uint64_t a, uint64_t b) { return a > b ? a - b : b - a; }

/* Bytes; the tables of a tokenizer are a few times as large. */
static uint64_t tokenizer_file(const char *dir)
{
    char path[1024];
    struct stat st;
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    return stat(path, &st) == 0 ? (uint64_t)st.st_size : 0;
}

static void compare(const plan_case *c)
{
    kvrt_error error = {.size = sizeof error};
    kvrt_plan_row row = {.size = sizeof row};
    kvrt_engine_info opened = {.size = sizeof opened};
    kvrt_engine engine = NULL;
    kvrt_options *o = options_for(c);
    uint64_t n = 0;
    if (kvrt_plan(o, c->kv, NULL, &row, 1, &n, &error) != KVRT_OK || n != 1)
        fail_msg("%s %s: %s", c->dir, c->kv, error.message);
    const uint64_t total = row.total_bytes, held_before = held(), resident_before = resident();
    if (kvrt_engine_open(o, NULL, NULL, &engine, &error) < KVRT_OK) fail_msg("%s %s: %s", c->dir, c->kv, error.message);
    assert_int_equal(kvrt_engine_get_info(engine, &opened, NULL), KVRT_OK);
    for (unsigned i = 0; i < c->n_sessions; i++) fill_session(c, engine, opened.vocab_size);
    const uint64_t taken =
        held() - held_before + opened.kv_pool_bytes; /* the pool comes from the system, page by page */
    const uint64_t seen = resident() - resident_before;
    assert_int_equal(row.ctx, c->ctx);
    assert_int_equal(opened.kv_pool_bytes, row.kv_bytes);
    assert_int_equal(opened.resident_bytes, total);
    if (taken < total || taken > total + total / 100 + EXTRA + 4 * tokenizer_file(c->dir))
        fail_msg("%s %s: took %llu bytes, planned %llu", c->dir, c->kv, (unsigned long long)taken,
                 (unsigned long long)total);
    if (resident_before && apart(seen, total) > (total / 50 > 64u << 20 ? total / 50 : 64u << 20))
        fail_msg("%s %s: %llu bytes resident, planned %llu", c->dir, c->kv, (unsigned long long)seen,
                 (unsigned long long)total);
#ifndef __SANITIZE_ADDRESS__
    if (c->resident && resident_before && apart(seen, total) > total / 50 + NOISE)
        fail_msg("%s %s: %llu bytes resident, planned %llu", c->dir, c->kv, (unsigned long long)seen,
                 (unsigned long long)total);
    if (c->resident)
        print_message("%s: planned %llu, taken %llu, resident %llu bytes\n", c->kv, (unsigned long long)total,
                      (unsigned long long)taken, (unsigned long long)seen);
#endif
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
    kvrt_options_destroy(o);
}

static const char *golden_dir(const char *name)
{
    static char dir[600];
    snprintf(dir, sizeof dir, "%s/golden/models/%s", KVRT_TEST_DIR, name);
    return dir;
}

static void golden_models(void **state)
{
    for (unsigned i = 0; golden_name(i); i++) {
        compare(&(plan_case){golden_dir(golden_name(i)), "f16", 4096, 2, false});
        compare(&(plan_case){golden_dir(golden_name(i)), "k4v4", 4096, 2, false});
    }
}

static void every_format(void **state)
{
    static const char *const formats[] = {"f32", "bf16", "f8", "i8", "k4v2", "k3v3", "k2v2"};
    for (unsigned k = 0; k < sizeof formats / sizeof formats[0]; k++)
        compare(&(plan_case){golden_dir("llama_d128"), formats[k], 4096, 1, false});
}

static void large_pool(void **state)
{
    compare(&(plan_case){golden_dir("llama_d128"), "f16", 131072, 1, true});
    compare(&(plan_case){golden_dir("llama_d128"), "k4v4", 131072, 1, true});
}

static void demo_models(void **state)
{
    unsigned n = 0;
    DIR *folder = opendir(KVRT_TEST_DIR "/../examples/models");
    for (struct dirent *e; folder && (e = readdir(folder)) != NULL;) {
        char dir[900];
        if (e->d_name[0] == '.') continue;
        snprintf(dir, sizeof dir, "%s/../examples/models/%s", KVRT_TEST_DIR, e->d_name);
        char config[960];
        snprintf(config, sizeof config, "%s/config.json", dir);
        if (access(config, R_OK) != 0) continue; /* a folder of scripts */
        compare(&(plan_case){dir, "f16", 4096, 2, false});
        compare(&(plan_case){dir, "k4v4", 4096, 2, false});
        n++;
    }
    if (folder) closedir(folder);
    if (!n) skip();
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(large_pool), cmocka_unit_test(golden_models),
                                       cmocka_unit_test(every_format), cmocka_unit_test(demo_models)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
