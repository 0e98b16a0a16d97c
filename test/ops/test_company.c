/* test_company.c - narrow attention of sequences that share pages: each has the bits that it has alone, in every format of pages and on every
 * instruction set, whoever is beside it, wherever their pages part, cut into pieces or not, on any number of threads. */
#include "kernels/cpu/device_cpu.h"
#include "runtime/kv/format.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { N_SEQS = 8, MOST_PAGES = 21, MOST_ROWS = KVI_BATCH_ROWS };

typedef struct company_case {
    uint32_t d, n_kv, per_kv, window, n_pages; /* of the longest sequence */
    bool sinks;
    float softcap;
} company_case;

static const company_case cases[] = {
    {64, 2, 4, 0, 16, false, 0}, /* two splits, as behind 2,000 tokens */
    {64, 1, 1, 0, 3, true, 0},        {80, 1, 5, 300, 12, true, 0},
    {128, 3, 2, 1100, 21, false, 30}, {64, 2, 17, 0, 9, false, 0}, /* staged, and more queries than keep company */
    {16, 1, 8, 129, 5, true, 0},      {256, 1, 3, 0, 4, false, 0},
};
static const char *const formats[] = {"f16", "f8",   "i8",    "k4v4",  "k3v3",  "k2v2",  "t3",
                                      "t2",  "k4v2", "k8v16", "k16v4", "kt3v4", "k4vt2", "k3v8"};

static uint32_t random_state;
static uint32_t below(uint32_t n)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (uint32_t)((uint64_t)(random_state >> 8) * n >> 24);
}

typedef struct sequence {
    kvi_page_ref pages[MOST_PAGES];
    const kvi_page_ref *tables[1];
    uint32_t pos, n_rows;
    float *qkv, *alone; /* (n_rows, columns), (n_rows, heads * d) */
} sequence;

typedef struct company_rig {
    kvi_device *device;
    kvi_program program;
    kvi_buffer_desc buffers[2];
    kvi_cache_group group;
    kvi_op op;
    kvi_weight sinks;
    float sink_of[64];
    uint32_t next_unit;
    sequence seqs[N_SEQS];
} company_rig;

static void open_rig(company_rig *r, const company_case *c, kvi_kv_format body, const kvi_device_options *options)
{
    const uint32_t n_heads = c->n_kv * c->per_kv;
    memset(r, 0, sizeof *r);
    r->group =
        (kvi_cache_group){.shape = {2, c->n_kv, c->d, 0}, .window = c->window, .rotate = true, .plain = KVI_KV_F16};
    r->buffers[0] = (kvi_buffer_desc){"qkv", (n_heads + 2 * c->n_kv) * c->d, KVI_ROWS_TOKEN, KVI_PRECISION_OPERAND};
    r->buffers[1] = (kvi_buffer_desc){"out", n_heads * c->d, KVI_ROWS_TOKEN, KVI_PRECISION_OPERAND};
    r->op = (kvi_op){.kind = KVI_OP_ATTENTION,
                     .out = 1,
                     .n_heads = n_heads,
                     .group_layer = 1,
                     .scale = (float)(1 / sqrt(c->d)),
                     .softcap = c->softcap,
                     .sinks = c->sinks ? &r->sinks : NULL,
                     .causal = true};
    for (uint32_t i = 0; i < n_heads; i++) r->sink_of[i] = (float)below(100) / 50 - 1;
    r->sinks.f32 = r->sink_of;
    r->program = (kvi_program){.ops = &r->op,
                               .n_ops = 1,
                               .buffers = r->buffers,
                               .n_buffers = 2,
                               .groups = &r->group,
                               .n_groups = 1,
                               .logits = 1,
                               .vocab_size = 1,
                               .n_layers = 2};
    assert_int_equal(kvi_backend_cpu.open(options, &r->device, NULL), KVRT_OK);
    const uint32_t n_units = N_SEQS * c->n_pages * kvi_kv_page_units(KVI_KV_FMT_F16, &r->group.shape);
    const kvi_limits limits = {.max_rows = MOST_ROWS,
                               .max_logit_rows = 1,
                               .max_seqs = N_SEQS,
                               .max_ctx = MOST_PAGES * KVI_KV_PAGE,
                               .pool_bytes = (uint64_t)n_units * KVI_KV_UNIT,
                               .page_formats = (1u << KVI_KV_CODES) - 1u,
                               .body = body};
    assert_int_equal(kvi_backend_cpu.load(r->device, &r->program, &limits, NULL), KVRT_OK);
    /* Numbers below 1 where a record has halves, codes of all values, and no NaN where it has bytes of FP8. */
    for (uint64_t i = 0; i < limits.pool_bytes; i += 2) {
        r->device->pool[i] = (uint8_t)(below(256) & 0xbfu);
        r->device->pool[i + 1] = (uint8_t)(below(0x3c) | (below(2) ? 0x80u : 0u));
    }
}

/* A sequence is a fork of an earlier one: it has that one's pages up to some place, and its own from there on. Mostly its last page is its own, as
 * in an engine, where nobody writes to a page that others hold; who only reads may look at different parts of one. */
static void make_sequences(company_rig *r, const company_case *c, kvi_kv_format body)
{
    uint32_t left = MOST_ROWS;
    for (uint32_t i = 0; i < N_SEQS; i++) {
        sequence *s = &r->seqs[i];
        const sequence *of = &r->seqs[i ? below(i) : 0];
        const uint32_t most = c->n_pages * KVI_KV_PAGE, others = N_SEQS - i - 1;
        s->n_rows = 1 + (below(3) ? 0 : below(left - others > 8 ? 8 : left - others));
        left -= s->n_rows;
        s->pos = below(4) ? most - s->n_rows - below(100) : below(most - s->n_rows);
        const uint32_t n_pages = (s->pos + s->n_rows + KVI_KV_PAGE - 1) / KVI_KV_PAGE,
                       of_pages = i ? (of->pos + of->n_rows) / KVI_KV_PAGE : 0;
        uint32_t shared = i == 0 ? 0 : below(3) ? of_pages : below(of_pages + 1);
        if (shared > s->pos / KVI_KV_PAGE) shared = s->pos / KVI_KV_PAGE;
        if (i && below(4) == 0 && of->pos / KVI_KV_PAGE >= n_pages - 1) shared = n_pages;
        for (uint32_t p = 0; p < n_pages; p++) {
            const kvi_kv_format f = p == 0 || p + 1 == n_pages || below(6) == 0 ? KVI_KV_FMT_F16 : body;
            if (p < shared) s->pages[p] = of->pages[p];
            else {
                s->pages[p] = (kvi_page_ref){r->next_unit, f};
                r->next_unit += kvi_kv_page_units(f, &r->group.shape);
            }
        }
        s->tables[0] = s->pages;
        s->qkv = malloc((size_t)s->n_rows * r->buffers[0].cols * 4);
        s->alone = malloc((size_t)s->n_rows * r->buffers[1].cols * 4);
        for (uint32_t k = 0; k < s->n_rows * r->buffers[0].cols; k++) s->qkv[k] = (float)below(2001) / 500 - 2;
    }
    /* What no row sees has been given back. */
    for (uint32_t i = 0; i < N_SEQS; i++) {
        sequence *s = &r->seqs[i];
        for (uint32_t p = 0; c->window && (p + 1) * KVI_KV_PAGE + c->window <= s->pos + 1; p++)
            s->pages[p] = (kvi_page_ref){KVI_KV_NO_EXTENT, 0};
    }
}

/* Sequences order[0..n) in one step; `piece`: rounds at a time, 0: whole. Results are those of each alone. */
static void run_step(company_rig *r, const uint32_t *order, uint32_t n, uint32_t piece, bool is_alone)
{
    int32_t ids[MOST_ROWS] = {0};
    kvi_seq seqs[N_SEQS];
    const uint32_t cols = r->buffers[0].cols, out_cols = r->buffers[1].cols;
    uint32_t n_rows = 0, done = 0;
    for (uint32_t i = 0; i < n; i++) {
        const sequence *s = &r->seqs[order[i]];
        seqs[i] = (kvi_seq){.first_row = n_rows, .n_rows = s->n_rows, .pos = s->pos, .pages = s->tables};
        n_rows += s->n_rows;
    }
    const kvi_step step = {.ids = ids, .n_rows = n_rows, .seqs = seqs, .n_seqs = n, .narrow = true};
    assert_int_equal(kvi_backend_cpu.step_begin(r->device, &step, NULL), KVRT_OK);
    for (uint32_t i = 0; i < n; i++)
        memcpy(r->device->buffers[0] + (size_t)seqs[i].first_row * cols, r->seqs[order[i]].qkv,
               (size_t)seqs[i].n_rows * cols * 4);
    memset(r->device->buffers[1], 0xff, (size_t)n_rows * out_cols * 4);
    for (bool over = piece == 0; !over;) {
        uint32_t n_run;
        assert_int_equal(kvi_backend_cpu.run_some(r->device, 0, done, piece, &n_run, &over, NULL), KVRT_OK);
        done += n_run;
    }
    if (piece == 0) assert_int_equal(kvi_backend_cpu.run(r->device, 0, 1, NULL), KVRT_OK);
    for (uint32_t i = 0; i < n; i++) {
        sequence *s = &r->seqs[order[i]];
        const float *got = r->device->buffers[1] + (size_t)seqs[i].first_row * out_cols;
        const uint32_t n_values = s->n_rows * out_cols;
        if (is_alone) memcpy(s->alone, got, n_values * sizeof *got);
        for (uint32_t k = 0; k < n_values; k++)
            if (!(fabsf(got[k]) < 1e6f) || memcmp(&got[k], &s->alone[k], sizeof *got) != 0)
                fail_msg("sequence %u at %u, %u rows, d %u, %u heads for each of %u, %u at a time: value %u is %.9g, "
                         "alone %.9g",
                         order[i], s->pos, s->n_rows, r->group.shape.head_dim,
                         r->op.n_heads / r->group.shape.n_kv_heads, r->group.shape.n_kv_heads, piece, k, (double)got[k],
                         (double)s->alone[k]);
    }
}

static void run_case(const company_case *c, const char *format, uint32_t seed, const kvi_device_options *options)
{
    company_rig r;
    kvi_kv_format body;
    random_state = seed;
    assert_true(kvi_kv_format_parse(format, strlen(format), &body));
    open_rig(&r, c, body, options);
    make_sequences(&r, c, body);
    uint32_t order[N_SEQS];
    for (uint32_t i = 0; i < N_SEQS; i++) run_step(&r, &i, 1, 0, true);
    for (uint32_t round = 0; round < 4; round++) {
        for (uint32_t i = 0; i < N_SEQS; i++) order[i] = i;
        for (uint32_t i = N_SEQS; round && i > 1; i--) {
            const uint32_t k = below(i), other = order[k];
            order[k] = order[i - 1], order[i - 1] = other;
        }
        run_step(&r, order, round < 2 ? N_SEQS : 1 + below(N_SEQS), round % 2 ? 1 + below(3) : 0, false);
    }
    for (uint32_t i = 0; i < N_SEQS; i++) free(r.seqs[i].qkv), free(r.seqs[i].alone);
    kvi_backend_cpu.close(r.device);
}

static void bits_are_those_alone(void **state)
{
    (void)state;
    static const char *const sets[] = {"portable", "avx2", "avx512", "amx"};
    for (unsigned k = 0; k < 4; k++) {
        char text[256];
        kvi_device *device;
        const bool amx = k == 3;
        kvi_device_options options = {.isa = amx ? "avx512" : sets[k], .amx = amx, .n_threads = 2};
        if (!kvi_backend_cpu.probe(&options, text, sizeof text)) {
            print_message("skipped: this CPU has no %s\n", sets[k]);
            continue;
        }
        assert_int_equal(kvi_backend_cpu.open(&options, &device, NULL), KVRT_OK);
        const bool has_tiles = device->tiles != NULL;
        kvi_backend_cpu.close(device);
        if (amx && !has_tiles) {
            print_message("skipped: this CPU has no AMX\n");
            continue;
        }
        for (unsigned f = 0; f < sizeof formats / sizeof *formats; f++)
            for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
                options.n_threads = 1 + (f + i) % 3;
                run_case(&cases[i], formats[f], 1 + 100 * f + i, &options);
            }
    }
}

/* Seven sequences behind fifteen pages, and one among them that has nothing to do with them. */
static void who_shares_keeps_company(void **state)
{
    (void)state;
    company_rig r;
    const company_case c = {64, 2, 4, 0, 16, false, 0};
    const kvi_device_options options = {.isa = "auto", .n_threads = 2};
    random_state = 5;
    open_rig(&r, &c, KVI_KV_FMT_K4V4, &options);
    int32_t ids[N_SEQS] = {0};
    kvi_seq seqs[N_SEQS];
    for (uint32_t i = 0; i < N_SEQS; i++) {
        sequence *s = &r.seqs[i];
        for (uint32_t p = 0; p < 16; p++) {
            const bool own = p == 15 || i == 3;
            s->pages[p] = (kvi_page_ref){(own ? 16 * i + p : p) * 40u, KVI_KV_FMT_K4V4};
        }
        s->tables[0] = s->pages;
        seqs[i] = (kvi_seq){.first_row = i, .n_rows = 1, .pos = 15 * KVI_KV_PAGE + i, .pages = s->tables};
    }
    assert_true(kvi_kv_page_units(KVI_KV_FMT_K4V4, &r.group.shape) <= 40 * 4);
    const kvi_step step = {.ids = ids, .n_rows = N_SEQS, .seqs = seqs, .n_seqs = N_SEQS, .narrow = true};
    assert_int_equal(kvi_backend_cpu.step_begin(r.device, &step, NULL), KVRT_OK);
    assert_int_equal(kvi_backend_cpu.run(r.device, 0, 1, NULL), KVRT_OK);
    uint32_t n[2] = {0}, alone = 0;
    for (uint32_t i = 0; i < 4; i++) {
        const kvi_cpu_company *company = &r.device->companies[i];
        assert_true(company->split < 2);
        if (company->n == 1) alone += r.device->parts[company->first].seq == 3;
        else n[company->split] = company->n;
    }
    assert_int_equal(alone, 2);
    assert_int_equal(n[0], N_SEQS - 1);
    assert_int_equal(n[1], N_SEQS - 1);
    kvi_backend_cpu.close(r.device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(bits_are_those_alone),
                                       cmocka_unit_test(who_shares_keeps_company)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
