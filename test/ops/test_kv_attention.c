/* test_kv_attention.c - attention of the CPU backend over every kind of cache that a session can have: all head dimensions, 1 to 8 heads per KV
 * head and 1 to 9 rows, contexts of one token and around every page edge, every fill of the open page, windows whose lost pages are gone,
 * sequences of different length in one step. Against double precision on the dequantized values, for every instruction set; what no
 * query may see is NaN or no page at all. */
#include "kernels/cpu/device_cpu.h"
#include "tolerance.h"
#include "runtime/kv/encode.h"
#include "runtime/kv/format.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define TOL_F32_L2 1e-5 /* relative L2 of an output row */
#define TOL_AMX_L2 3e-2 /* on AMX, steps of more than eight rows round to BF16 (test_prefill_attention.c) */
enum { PAGES = 5, MOST_ROWS = 40, PLAIN = 0, MOST_FORMATS = 10 };
static const char *const formats[MOST_FORMATS] = {"f16",  "k4v4", "i8",   "k4v2", "k2v2",
                                                  "k3v3", "f8",   "k8v4", "t3",   "t2"};

static uint32_t random_state = 1;
static float uniform(void)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (float)(random_state >> 8) / 16777216.0f;
}
static uint32_t below(uint32_t n) { return (uint32_t)(uniform() * (float)n) % n; }
static float normal(void) { return (uniform() + uniform() + uniform() + uniform() - 2) * 1.7f; }

/* A device with every page in every format. */
typedef struct shelf {
    kvi_device *device;
    const char *isa;
    kvi_program program;
    kvi_buffer_desc buffers[2];
    kvi_cache_group group;
    kvi_op op;
    uint32_t per_kv;
    kvi_page_ref pages[PAGES][MOST_FORMATS];
    double *k[PAGES][MOST_FORMATS], *v[PAGES][MOST_FORMATS]; /* (n_kv, 128, d) what the page stands for */
} shelf;

static const char *const sets[] = {"portable", "avx2", "avx512", "exact", "amx"};
/* "exact" is AVX-512 without fixed point. */
static kvi_device_options options_of(const char *isa)
{
    const bool amx = strcmp(isa, "amx") == 0, exact = strcmp(isa, "exact") == 0;
    return (kvi_device_options){.n_threads = 2,
                                .isa = amx     ? "auto"
                                       : exact ? "avx512"
                                               : isa,
                                .amx = amx,
                                .exact = exact};
}
static bool has(const char *isa)
{
    kvi_device *device = NULL;
    const kvi_device_options options = options_of(isa);
    const bool there = kvi_backend_cpu.open(&options, &device, NULL) >= KVRT_OK && (!options.amx || device->tiles);
    if (device) kvi_backend_cpu.close(device);
    if (!there) print_message("skipped: this CPU has no %s\n", isa);
    return there;
}

static void make_page(shelf *s, uint32_t p, uint32_t f, float *rows, float *scratch)
{
    const uint32_t d = s->group.shape.head_dim, format = s->pages[p][f].format;
    const kvi_encode_params params = {KVI_VARNORM_KVRT, KVI_RANGE_MINMAX};
    s->k[p][f] = malloc((size_t)s->group.shape.n_kv_heads * KVI_KV_PAGE * d * sizeof(double));
    s->v[p][f] = malloc((size_t)s->group.shape.n_kv_heads * KVI_KV_PAGE * d * sizeof(double));
    for (uint32_t h = 0; h < s->group.shape.n_kv_heads; h++) {
        uint8_t *side = s->device->pool + (uint64_t)s->pages[p][f].unit * KVI_KV_UNIT +
                        kvi_kv_record_off(format, &s->group.shape, 1, h);
        for (int is_v = 0; is_v < 2; is_v++) {
            const kvi_kv_code code = is_v ? KVI_KV_V_CODE(format) : KVI_KV_K_CODE(format);
            double *out = (is_v ? s->v : s->k)[p][f] + (size_t)h * KVI_KV_PAGE * d;
            for (uint32_t i = 0; i < d * KVI_KV_PAGE; i++)
                rows[i] = normal() * (float)(1 + i / d % 3) * 0.6f + (i % d == 3 ? 1.5f : 0.0f);
            if (kvi_kv_code_is_plain(code)) s->device->v->narrow(rows, kvi_kv_plain_dtype(code), d * KVI_KV_PAGE, side);
            else if (is_v) kvi_kv_encode_v(code, rows, d, &params, scratch, side);
            else kvi_kv_encode_k(code, rows, d, &params, scratch, side);
            for (uint32_t t = 0; t < KVI_KV_PAGE; t++)
                for (uint32_t e = 0; e < d; e++)
                    out[t * d + e] =
                        (double)(is_v ? kvi_kv_decode_v(side, code, d, t, e) : kvi_kv_decode_k(side, code, d, t, e));
            side += is_v ? 0 : kvi_kv_k_side(code, d).bytes;
        }
    }
}

static void open_shelf(shelf *s, const char *isa, uint32_t d, uint32_t n_kv, uint32_t per_kv, uint32_t window,
                       uint32_t n_formats)
{
    const kvi_device_options options = options_of(isa);
    memset(s, 0, sizeof *s);
    s->isa = isa;
    s->per_kv = per_kv;
    s->group = (kvi_cache_group){.shape = {2, n_kv, d, 0}, .window = window, .plain = KVI_KV_F16};
    s->buffers[0] = (kvi_buffer_desc){"qkv", n_kv * (per_kv + 2) * d, KVI_ROWS_TOKEN, KVI_PRECISION_OPERAND};
    s->buffers[1] = (kvi_buffer_desc){"out", n_kv * per_kv * d, KVI_ROWS_TOKEN, KVI_PRECISION_OPERAND};
    s->op = (kvi_op){.kind = KVI_OP_ATTENTION,
                     .in = 0,
                     .out = 1,
                     .n_heads = n_kv * per_kv,
                     .scale = (float)(1 / sqrt(d)),
                     .causal = true,
                     .group_layer = 1};
    s->program = (kvi_program){.ops = &s->op,
                               .n_ops = 1,
                               .buffers = s->buffers,
                               .n_buffers = 2,
                               .groups = &s->group,
                               .n_groups = 1,
                               .logits = 1,
                               .vocab_size = 1,
                               .n_layers = 2};
    assert_int_equal(kvi_backend_cpu.open(&options, &s->device, NULL), KVRT_OK);
    uint32_t unit = 0;
    for (uint32_t p = PAGES; p-- > 0;) /* backwards: no page lies behind its predecessor */
        for (uint32_t f = 0; f < n_formats; f++) {
            kvi_kv_format format;
            assert_true(kvi_kv_format_parse(formats[f], strlen(formats[f]), &format));
            s->pages[p][f] = (kvi_page_ref){unit, format};
            unit += kvi_kv_page_units(format, &s->group.shape);
        }
    const kvi_limits limits = {.max_rows = 3 * MOST_ROWS,
                               .max_logit_rows = 1,
                               .max_seqs = 3,
                               .max_ctx = PAGES * KVI_KV_PAGE,
                               .pool_bytes = (uint64_t)unit * KVI_KV_UNIT,
                               .page_formats = (1u << KVI_KV_CODES) - 1u};
    assert_int_equal(kvi_backend_cpu.load(s->device, &s->program, &limits, NULL), KVRT_OK);
    memset(s->device->pool, 0xff, limits.pool_bytes);
    float *rows = malloc(d * 512), *scratch = malloc(kvi_kv_encode_scratch(d) * 4);
    for (uint32_t p = 0; p < PAGES; p++)
        for (uint32_t f = 0; f < n_formats; f++) make_page(s, p, f, rows, scratch);
    free(rows), free(scratch);
}

static void close_shelf(shelf *s)
{
    kvi_backend_cpu.close(s->device);
    for (uint32_t p = 0; p < PAGES; p++)
        for (uint32_t f = 0; f < MOST_FORMATS; f++) free(s->k[p][f]), free(s->v[p][f]);
}

/* A sequence: n_rows queries behind pos positions; format[p] of complete pages, the others are plain. */
typedef struct sequence {
    uint32_t pos, n_rows, format[PAGES];
} sequence;

/* Rows of a plain page from `used` on are NaN in both sides; those before are what they were. */
static void cut_plain_page(const shelf *s, uint32_t p, uint32_t used)
{
    const uint32_t d = s->group.shape.head_dim;
    for (uint32_t h = 0; h < s->group.shape.n_kv_heads; h++)
        for (int is_v = 0; is_v < 2; is_v++) {
            uint8_t *side = s->device->pool + (uint64_t)s->pages[p][PLAIN].unit * KVI_KV_UNIT +
                            kvi_kv_record_off(KVI_KV_FMT_F16, &s->group.shape, 1, h) + (is_v ? KVI_KV_PAGE * d * 2 : 0);
            const double *values = (is_v ? s->v : s->k)[p][PLAIN] + (size_t)h * KVI_KV_PAGE * d;
            for (uint32_t i = 0; i < KVI_KV_PAGE * d; i++) {
                const uint16_t half = i < used * d ? kvi_f32_to_f16((float)values[i]) : 0xffff;
                memcpy(side + 2 * i, &half, 2);
            }
        }
}

/* mass[p] += what page p gets of this query's attention. */
static void expected(const shelf *s, const sequence *q, uint32_t kv_head, uint32_t pos, const float *query, double *out,
                     double *mass)
{
    const uint32_t d = s->group.shape.head_dim, window = s->group.window,
                   first = window && pos + 1 > window ? pos + 1 - window : 0;
    double score[PAGES * KVI_KV_PAGE], top = -INFINITY, sum = 0;
    for (uint32_t t = first; t <= pos; t++) {
        const double *k = s->k[t / 128][q->format[t / 128]] + ((size_t)kv_head * KVI_KV_PAGE + t % 128) * d;
        score[t] = 0;
        for (uint32_t e = 0; e < d; e++) score[t] += (double)query[e] * k[e];
        score[t] *= (double)s->op.scale;
        top = fmax(top, score[t]);
    }
    memset(out, 0, d * sizeof *out);
    for (uint32_t t = first; t <= pos; t++) {
        const double *v = s->v[t / 128][q->format[t / 128]] + ((size_t)kv_head * KVI_KV_PAGE + t % 128) * d,
                     p = exp(score[t] - top);
        sum += p;
        for (uint32_t e = 0; e < d; e++) out[e] += p * v[e];
    }
    for (uint32_t e = 0; e < d; e++) out[e] /= sum;
    for (uint32_t t = first; t <= pos; t++) mass[t / 128] += exp(score[t] - top) / sum;
}

/* Rows from mass_from on, mean over heads: the kernel's sums against those of the formula. */
static void check_mass(const shelf *s, const sequence *q, const double *want, const float *got)
{
    for (uint32_t p = 0; p < PAGES; p++) {
        const double mean = want[p] / s->op.n_heads;
        if (s->group.window ? got[p] != 0 : !(fabs((double)got[p] - mean) <= 1e-4 * (1 + mean)))
            fail_msg("%s, D %u, %u + %u: page %u has %g of the attention, need %g", s->isa, s->group.shape.head_dim,
                     q->pos, q->n_rows, p, (double)got[p], s->group.window ? 0 : mean);
    }
}

/* Runs a step of up to three sequences of different lengths and checks every row. Sequences share the pages of the shelf: of several, no two may
 * have the same page plain. */
static void check_step(shelf *s, sequence *seqs, uint32_t n_seqs)
{
    kvi_page_ref tables[3][PAGES];
    const kvi_page_ref *groups[3][1];
    kvi_seq list[3];
    int32_t ids[3 * MOST_ROWS] = {0};
    float mass[3][PAGES] = {{0}};
    uint32_t n_rows = 0;
    const uint32_t d = s->group.shape.head_dim, window = s->group.window, n_heads = s->op.n_heads,
                   cols = s->buffers[0].cols;
    for (uint32_t i = 0; i < n_seqs; i++) {
        sequence *q = &seqs[i];
        assert_true(q->pos + q->n_rows <= PAGES * KVI_KV_PAGE && q->n_rows <= MOST_ROWS);
        for (uint32_t p = 0; p < PAGES; p++) {
            if ((p + 1) * KVI_KV_PAGE > q->pos) q->format[p] = PLAIN;
            tables[i][p] = s->pages[p][q->format[p]];
            const uint32_t end = q->pos + q->n_rows;
            if (q->format[p] == PLAIN && p * KVI_KV_PAGE < end && end < (p + 1) * KVI_KV_PAGE)
                cut_plain_page(s, p, end - p * KVI_KV_PAGE);
            else if (q->format[p] == PLAIN && n_seqs == 1)
                cut_plain_page(s, p, (p + 1) * KVI_KV_PAGE <= end ? KVI_KV_PAGE : 0);
            if (window && (p + 1) * KVI_KV_PAGE + window <= q->pos + 1)
                tables[i][p].unit = KVI_KV_NO_EXTENT; /* given back */
        }
        groups[i][0] = tables[i];
        list[i] = (kvi_seq){.first_row = n_rows, .n_rows = q->n_rows, .pos = q->pos, .pages = groups[i]};
        /* Every second step is observed: all rows, or the last half of them. */
        if ((q->pos + n_seqs) % 2) list[i].mass = mass[i], list[i].mass_from = q->pos % 3 ? q->n_rows / 2 : 0;
        n_rows += q->n_rows;
    }
    const kvi_step step = {.ids = ids, .n_rows = n_rows, .seqs = list, .n_seqs = n_seqs};
    assert_int_equal(kvi_backend_cpu.step_begin(s->device, &step, NULL), KVRT_OK);
    float *in = s->device->buffers[0];
    for (uint32_t i = 0; i < n_rows * cols; i++) in[i] = normal();
    assert_int_equal(kvi_backend_cpu.run(s->device, 0, 1, NULL), KVRT_OK);
    const bool narrow = n_rows <= KVI_DECODE_ROWS, amx = s->device->tiles;
    const double limit = amx                          ? narrow ? TOL_F32_L2 : TOL_AMX_L2
                         : narrow && s->device->fixed ? OPS_ATTENTION_FIXED
                                                      : TOL_F32_L2;
    for (uint32_t i = 0; i < n_seqs; i++) {
        double want_mass[PAGES] = {0}, unseen[PAGES] = {0};
        for (uint32_t r = 0; r < seqs[i].n_rows; r++)
            for (uint32_t h = 0; h < n_heads; h++) {
                const size_t row = list[i].first_row + r;
                const float *got = s->device->buffers[1] + (row * n_heads + h) * d;
                double want[256], error = 0, norm = 0;
                expected(s, &seqs[i], h / s->per_kv, seqs[i].pos + r, in + row * cols + (size_t)h * d, want,
                         list[i].mass && r >= list[i].mass_from ? want_mass : unseen);
                for (uint32_t e = 0; e < d; e++) error += pow((double)got[e] - want[e], 2), norm += want[e] * want[e];
                if (!(sqrt(error / norm) <= limit))
                    fail_msg("%s, D %u, %u heads of %u, window %u, sequence %u of %u (%u + %u; %s %s %s), row %u, head "
                             "%u: relative L2 %g, need at most %g",
                             s->isa, d, s->per_kv, s->group.shape.n_kv_heads, window, i, n_seqs, seqs[i].pos,
                             seqs[i].n_rows, formats[seqs[i].format[0]], formats[seqs[i].format[1]],
                             formats[seqs[i].format[2]], r, h, sqrt(error / norm), limit);
            }
        check_mass(s, &seqs[i], want_mass, mass[i]);
    }
}

#define FOR_SETS                                                                                                       \
    for (unsigned set = 0; set < 5; set++)                                                                             \
        if (has(sets[set]))

static void every_head_dimension(void **state)
{
    FOR_SETS for (uint32_t d = 16; d <= 256; d += 16)
    {
        shelf s;
        open_shelf(&s, sets[set], d, 2, 2, 0, MOST_FORMATS);
        for (uint32_t f = 1; f < MOST_FORMATS; f++)
            for (uint32_t rows = 1; rows <= 9; rows += 4) {
                sequence q = {2 * 128 + 40, rows, {0, f, 0}},
                         mixed = {4 * 128 + 3, rows, {0, f, 1 + f % 7, 1 + (f + 2) % 7, 0}};
                check_step(&s, &q, 1);
                if (rows == 1) check_step(&s, &mixed, 1);
            }
        close_shelf(&s);
    }
}

static void every_group_of_heads_and_rows(void **state)
{
    FOR_SETS for (uint32_t d = 64; d <= 128; d += 64) for (uint32_t per_kv = 1; per_kv <= 8; per_kv++)
    {
        shelf s;
        open_shelf(&s, sets[set], d, 1, per_kv, 0, 4);
        for (uint32_t rows = 1; rows <= 9; rows++) {
            sequence q = {3 * 128 + 120, rows, {0, 1 + rows % 3, 1 + (rows + per_kv) % 3, 1}};
            check_step(&s, &q, 1);
        }
        close_shelf(&s);
    }
}

/* Contexts that end just before, at and just after every page edge, from the first token of an empty cache on; any pages packed. */
static void every_page_edge(void **state)
{
    static const uint32_t rows[] = {1, 2, 8, 9, 33};
    FOR_SETS for (uint32_t window = 0; window <= 200; window += window < 127 ? 127 : window < 129 ? 1 : 71)
    { /* 0, 127, 128, 129, 200 */
        shelf s;
        open_shelf(&s, sets[set], 64, 1, 4, window, 5);
        for (unsigned k = 0; k < sizeof rows / sizeof rows[0]; k++)
            for (uint32_t edge = 0; edge <= 512; edge += 128)
                for (int32_t by = -1; by <= 1; by++)
                    for (uint32_t of = 0; of < 2; of++) { /* the edge before the first query, and behind the last one */
                        const int32_t pos = (int32_t)edge + by - (of ? (int32_t)rows[k] : 0);
                        if (pos < 0) continue;
                        sequence q = {
                            (uint32_t)pos, rows[k], {below(2) * below(5), below(5), below(5), below(5), below(5)}};
                        check_step(&s, &q, 1);
                    }
        close_shelf(&s);
    }
}

/* The open page holds 0 (it was just begun) to 127 positions before the query, which is the last of it. */
static void every_fill_of_the_open_page(void **state)
{
    FOR_SETS for (uint32_t d = 64; d <= 128; d += 64)
    {
        shelf s;
        open_shelf(&s, sets[set], d, 1, 3, 0, 4);
        for (uint32_t tail = 0; tail < 128; tail++) {
            sequence one = {3 * 128 + tail, 1, {0, 1 + tail % 3, 1}},
                     some = {2 * 128 + tail, 1 + tail % 8, {0, 1 + (tail + 1) % 3}};
            check_step(&s, &one, 1);
            check_step(&s, &some, 1);
        }
        close_shelf(&s);
    }
}

/* Sequences of a step do not touch each other: one token of an empty cache, a long one, a prompt. */
static void sequences_of_different_length(void **state)
{
    FOR_SETS for (uint32_t window = 0; window <= 150; window += 150)
    {
        shelf s;
        open_shelf(&s, sets[set], 64, 2, 4, window, 5);
        for (unsigned round = 0; round < 12; round++) {
            sequence q[3] = {{0, 1, {0}},
                             {512 + below(100), 1 + below(5), {1, 4, 2, 3, 0}},
                             {256 + below(100), 1 + below(2), {2, 1 + below(4), 0}}};
            if (round % 3 == 2) q[0].n_rows = 40; /* a prompt beside two answers */
            check_step(&s, q, 3);
        }
        close_shelf(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_head_dimension),
                                       cmocka_unit_test(every_group_of_heads_and_rows),
                                       cmocka_unit_test(every_page_edge), cmocka_unit_test(every_fill_of_the_open_page),
                                       cmocka_unit_test(sequences_of_different_length)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
