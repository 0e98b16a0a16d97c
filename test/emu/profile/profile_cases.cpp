/* profile_cases.cpp - holds the memory traffic of kernels to limits: planted kernels must show exactly the numbers that are known by hand, or the
 * profile itself is wrong; kvrt's kernels, on shapes of real models, stay near the least sectors and bank passes that their data
 * takes. Contents are of no matter: a profile depends on addresses alone. usage: emu_profile [FAMILY...] */
#include "emu_profile.h"
#include "../emu_driver.h"
#include "../selftest/selftest_params.h"
#include "../../../kernels/cuda/attention_params.h"
#include "../../../kernels/cuda/best_params.h"
#include "../../../kernels/cuda/encode_params.h"
#include "../../../kernels/cuda/latent_params.h"
#include "../../../kernels/cuda/linear_params.h"
#include "../../../kernels/cuda/recurrent_params.h"

#include <initializer_list>
#include <stdio.h>
#include <stdlib.h>

using kvi_emu::profile_totals;

static kvi_cu_library library;
static int failed;

static void must(kvi_cu_result r, const char *what)
{
    if (r == KVI_CU_SUCCESS) return;
    fprintf(stderr, "%s: %d\n", what, (int)r);
    exit(1);
}
#define MUST(call) must(call, #call)

/* NULL: 0x3c in every byte, which is 1.06 as F16. */
static std::vector<kvi_cu_dptr> taken; /* by the case that runs */
static kvi_cu_dptr put(const void *data, size_t bytes)
{
    kvi_cu_dptr at;
    MUST(cuMemAlloc_v2(&at, bytes));
    taken.push_back(at);
    if (data) MUST(cuMemcpyHtoDAsync_v2(at, data, bytes, NULL));
    else MUST(cuMemsetD8Async(at, 0x3c, bytes, NULL));
    MUST(cuStreamSynchronize(NULL));
    return at;
}
static kvi_cu_dptr streamed(size_t bytes)
{
    const kvi_cu_dptr at = put(NULL, bytes);
    kvi_emu::profile_streamed((uintptr_t)at);
    return at;
}

static profile_totals launch(const char *name, dim3 grid, uint32_t threads, uint32_t shared, const void *params)
{
    kvi_cu_kernel kernel;
    kvi_cu_function function;
    void *list[1] = {const_cast<void *>(params)};
    MUST(cuLibraryGetKernel(&kernel, library, name));
    MUST(cuKernelGetFunction(&function, kernel));
    MUST(cuLaunchKernel(function, grid.x, grid.y, grid.z, threads, 1, 1, shared, NULL, list, NULL));
    MUST(cuStreamSynchronize(NULL));
    return kvi_emu::profile_take(name);
}

/* ------------------------------------------------------------------------------------------------------ planted --- */
/* In this order: requests and sectors read, least; sectors written, least; requests, passes of shared memory, least, passes without fusion. */
static void expect(const char *name, const profile_totals &t, std::initializer_list<uint64_t> want)
{
    const uint64_t got[] = {t.other[0].requests, t.other[0].cost, t.other[0].least, t.other[1].cost, t.other[1].least,
                            t.shared.requests,   t.shared.cost,   t.shared.least,   t.shared.plain};
    size_t i = 0;
    for (uint64_t w : want) {
        if (got[i] != w) {
            printf("%s: number %zu is %llu, need %llu\n", name, i, (unsigned long long)got[i], (unsigned long long)w);
            failed = 1;
        }
        i++;
    }
}

static void planted()
{
    selftest_params p = {put(NULL, 1 << 20), 0, put(NULL, 1 << 20), 1000, 0};
    expect("p_copy", launch("p_copy", 8, 128, 0, &p), {32, 125, 125, 125, 125, 0, 0, 0, 0});
    expect("p_shifted", launch("p_shifted", 8, 128, 0, &p), {32, 160, 128, 128, 128, 0, 0, 0, 0});
    expect("p_strided", launch("p_strided", 8, 128, 0, &p), {32, 1024, 128, 128, 128, 0, 0, 0, 0});
    expect("p_conflict", launch("p_conflict", 1, 128, 4096, &p), {32, 128, 128, 128, 128, 64, 1056, 64, 1056});
    expect("p_padded", launch("p_padded", 1, 128, 4224, &p), {32, 128, 128, 128, 128, 64, 64, 64, 64});
    /* Four warps: 4 + 16 + 2 + 4 passes written, 4 read; least 4 + 4 + 2 + 2 + 4. */
    expect("p_wide", launch("p_wide", 1, 128, 2048, &p), {0, 0, 0, 64, 64, 20, 4 * 30, 4 * 16, 4 * 30});
    const profile_totals matrix = launch("p_matrix", 1, 32, 1024, &p);
    expect("p_matrix", matrix, {1, 16, 16, 4, 4});
    if (matrix.shared.cost <= matrix.shared.least)
        printf("p_matrix: conflicts of ldmatrix were not seen\n"), failed = 1;
    expect("p_skips", launch("p_skips", 1, 32, 0, &p), {32, 256, 128});
    expect("p_fused", launch("p_fused", 1, 32, 2048, &p), {0, 0, 0, 4, 4, 5, 65, 17, 257});
}

/* ------------------------------------------------------------------------------------------------- kvrt's kernels --- */
/* Most times the least: sectors of weights and pages, sectors of the rest (activations, tables, results), passes of shared memory. */
struct limits {
    double streamed, rest, passes;
};
static const limits usual = {1.05, 1.3, 1.1};
/* gemv of f32 activations: a lane's eight columns are two loads of 16 bytes, 32 apart from lane to lane, so that L1 hands out twice the sectors. */
static const limits columns = {1.05, 2.05, 1.1};
/* Exchanges of a sorting network at distances of 1 to 8 keys: pairs of lanes in one bank. 0.5 MB of logits, once a token. */
static const limits sorting = {1.05, 1.3, 1.5};
/* Codes are read byte by byte, the transposed copy at a stride: nearly all of it out of L1, 1 to 3% of a prefill. */
static const limits conversion = {15, 4, 1.1};
/* gemm stores pairs of f32 outputs as two words (their address may be odd). */
static const limits words = {1.05, 1.4, 1.1};
/* Side vectors of 4-bit pages: a lane's 16 factors are two loads of 16 bytes, each with half of the sectors' bytes; the codes are at the least. */
static const limits factors = {1.1, 1.3, 1.1};
/* Four rows: m and l of sixteen columns, 8 bytes in a sector each, are a larger part of little else. */
static const limits four_rows = {1.1, 1.4, 1.1};
/* Values of 2 bits at D = 64: rows of 16 bytes, so that a load has half of a sector; the next row's comes out of L1, where these loads go. */
static const limits short_rows = {1.45, 1.3, 1.1};
/* Prefill reads its queries as fragments, half sectors, once for a whole pass over the context; and takes 32 tokens of each channel at a time, 16 bytes
 * of 4-bit keys, half a sector. It is bound by its products, not by these bytes. */
static const limits fragments = {1.05, 1.6, 1.1}, staged = {2.05, 1.6, 1.1};

/* A few dozen numbers at single addresses. */
static const limits few_pairs = {1.05, 2.5, 1.1};
/* Taps of a channel are 8 of the 16 bytes of its row, once for sixteen rows. */
static const limits taps = {1.05, 2.0, 1.1};

/* Butterflies at distances of 1 to 16 put pairs of lanes in one bank; of a row of 512, once a head and token. */
static const limits turned = {1.05, 1.3, 1.5};
static const limits absorbed = {1.05, 1.1, 1.2}, left = {1.05, 1.3, 1.1};
/* Queries as fragments, half sectors, once for all positions of a block. */
static const limits attended = {1.05, 1.4, 1.1};
/* attn_any: see there. */
static const limits any_plain = {1.05, 1.4, 1.1}, any_codes = {4.2, 1.4, 1.1}, any_threes = {6.2, 1.4, 1.1},
                    any_trellis = {12, 1.4, 2.5};

static double times(uint64_t cost, uint64_t least) { return least ? (double)cost / (double)least : 1; }

/* bytes: of weights or pages that the launch has to read; each comes in `reads` times at most (blocks that share them find them in L2). */
static void hold(const char *name, const profile_totals &t, const limits &most, uint64_t bytes, double reads)
{
    const double streamed = times(t.streamed.cost, t.streamed.least),
                 rest = times(t.other[0].cost + t.other[1].cost, t.other[0].least + t.other[1].least),
                 passes = times(t.shared.cost, t.shared.least), again = bytes ? times(t.streamed.cost * 32, bytes) : 0;
    const bool good = streamed <= most.streamed && rest <= most.rest && passes <= most.passes &&
                      (!bytes || (again >= 0.99 * reads && again <= most.streamed * reads));
    printf("%-24s %8.3f MB of weights or pages: %.2f of the least, read %.2f times (%.0f); the rest %8.3f MB: %.2f; "
           "%9llu passes: %.2f%s\n",
           name, (double)t.streamed.cost * 32 / 1e6, streamed, again, reads,
           (double)(t.other[0].cost + t.other[1].cost) * 32 / 1e6, rest, (unsigned long long)t.shared.cost, passes,
           good ? "" : "  <-- beyond its limits");
    if (!good) {
        printf("    limits: %.2f, %.2f, %.2f\n", most.streamed, most.rest, most.passes);
        failed = 1;
    }
    if (!t.streamed.requests && bytes)
        printf("    no weight or page was read: the profile measures nothing\n"), failed = 1;
}

/* A step of n rows: one sequence at pos. */
static kvi_cuda_step_map step_of(uint32_t n_rows, uint32_t pos, uint32_t units_per_page, uint32_t format)
{
    const uint32_t n_pages = (pos + n_rows + 127) / 128;
    std::vector<uint32_t> zeros(n_rows, 0), rows(n_rows);
    std::vector<kvi_page_ref> pages(n_pages);
    for (uint32_t i = 0; i < n_rows; i++) rows[i] = i;
    for (uint32_t i = 0; i < n_pages; i++) pages[i] = {i * units_per_page, format};
    const kvi_cuda_step step = {n_rows, 1, n_rows, 0};
    const kvi_cuda_seq seq = {0, n_rows, pos, n_pages, 0, 0};
    kvi_cuda_step_map map = {};
    map.step = put(&step, sizeof step);
    map.ids = put(zeros.data(), 4 * n_rows);
    map.row_seq = put(zeros.data(), 4 * n_rows);
    map.logit_rows = put(rows.data(), 4 * n_rows);
    map.seqs = put(&seq, sizeof seq);
    map.pages = put(pages.data(), 8 * n_pages);
    map.n_groups = 1, map.max_pages = n_pages;
    return map;
}

static void norm()
{
    kvi_cuda_norm_params p = {};
    p.step = step_of(8, 0, 0, 0);
    p.n_cols = p.x_pitch = p.y_pitch = 4096;
    p.x = put(NULL, 8 * 4096 * 4), p.gain = put(NULL, 4096 * 4), p.y = put(NULL, 8 * 4096 * 2);
    p.y_type = KVI_CUDA_BF16, p.eps = 1e-5f;
    hold("norm_rows", launch("norm_rows", 8, 256, 32, &p), usual, 0, 0);
    kvi_cuda_embed_params e = {};
    e.step = p.step;
    e.table.codes = streamed(64 * 4096 * 2), e.table.pitch = 4096 * 2, e.y = p.x;
    e.type = KVI_CUDA_BF16, e.n_cols = e.y_pitch = 4096, e.scale = 1;
    hold("embed", launch("embed", 8, 256, 0, &e), usual, 0, 0);
}

static kvi_cuda_linear_params linear(uint32_t rows, uint32_t n_in, uint32_t n_out, uint32_t x_type)
{
    kvi_cuda_linear_params p = {};
    p.step = step_of(rows, 0, 0, 0);
    p.x = put(NULL, (size_t)rows * n_in * 4), p.y = put(NULL, (size_t)rows * n_out * 4);
    p.w[0].codes = streamed((size_t)n_in * n_out * 2), p.w[0].pitch = n_in * 2;
    p.end[0] = p.end[1] = p.end[2] = n_out, p.n_in = p.x_pitch = n_in, p.y_pitch = n_out;
    p.x_type = x_type, p.y_type = KVI_CUDA_F32, p.action = KVI_CUDA_STORE, p.eps = 1e-5f;
    return p;
}

static void gemv()
{
    static const struct {
        const char *name;
        uint32_t rows, type;
    } kernels[] = {{"gemv_f16_n1", 1, KVI_CUDA_F32},
                   {"gemv_bf16_n2", 2, KVI_CUDA_F32},
                   {"gemv_bf16_n4", 4, KVI_CUDA_BF16},
                   {"gemv_bf16_n8", 8, KVI_CUDA_F32}};
    for (const auto &k : kernels) {
        kvi_cuda_linear_params p = linear(k.rows, 4096, 256, k.type);
        if (k.type == KVI_CUDA_F32) p.gain = put(NULL, 4096 * 4);
        hold(k.name, launch(k.name, 32, 128, 0, &p), k.type == KVI_CUDA_F32 ? columns : usual, 4096 * 256 * 2, 1);
    }
}

static void gemm()
{
    kvi_cuda_linear_params p = linear(256, 512, 256, KVI_CUDA_F16);
    hold("gemm_f16_m128", launch("gemm_f16_m128", dim3(2, 2), 256, 3 * 256 * 64, &p), words, 512 * 256 * 2, 2);
    kvi_cuda_linear_params q = linear(64, 512, 256, KVI_CUDA_F16);
    hold("gemm_f16_m32", launch("gemm_f16_m32", dim3(2, 4), 128, 4 * 96 * 64, &q), usual, 512 * 256 * 2, 2);
}

/* A token of a mixture of 128 experts, 8 of which it chose: those are read, once, and no others. */
static void experts()
{
    const uint32_t n_experts = 128, k = 8, n_in = 2048, width = 64, rows = 2;
    std::vector<float> chosen(rows * 2 * k, 0.125f);
    for (uint32_t i = 0; i < rows; i++)
        for (uint32_t j = 0; j < k; j++) chosen[i * 2 * k + j] = (float)(j * 13 + i); /* no expert is chosen twice */
    kvi_cuda_linear_params p = linear(rows, n_in, width, KVI_CUDA_F32);
    kvi_cuda_sort_params s = {};
    s.step = p.step, s.chosen = put(chosen.data(), chosen.size() * 4), s.pitch = 2 * k, s.top_k = k;
    s.n_experts = n_experts, s.max_tiles = rows * k, s.tile_rows = 2;
    s.list = put(NULL, KVI_CUDA_LIST_HEAD + s.max_tiles * (sizeof(kvi_cuda_tile_pairs) + 4));
    hold("sort_pairs", launch("sort_pairs", 1, 256, 3 * 4 * n_experts, &s), few_pairs, 0, 0);
    p.w[0].codes = streamed((size_t)n_experts * width * n_in * 2);
    p.y = put(NULL, (size_t)rows * k * width * 4);
    p.mixture = {s.list, (uint64_t)width * n_in * 2, s.max_tiles, k};
    hold("gemv_bf16_n2", launch("gemv_bf16_n2", dim3(width / 8, s.max_tiles), 128, 0, &p), columns,
         (uint64_t)rows * k * width * n_in * 2, 1);
    kvi_cuda_add_pairs_params a = {};
    a.step = p.step, a.x = put(NULL, (size_t)rows * k * n_in * 4), a.chosen = s.chosen,
    a.y = put(NULL, rows * n_in * 4);
    a.n_cols = a.x_pitch = a.y_pitch = n_in, a.pitch = 2 * k, a.top_k = k, a.scale = 1;
    hold("add_pairs", launch("add_pairs", rows, 256, 32, &a), usual, 0, 0);
    kvi_cuda_route_params r = {};
    r.step = p.step, r.logits = put(NULL, rows * n_experts * 4), r.chosen = s.chosen, r.pitch = n_experts;
    r.chosen_pitch = 2 * k, r.n_experts = n_experts, r.top_k = k, r.scale = 1;
    hold("route", launch("route", 1, 128, 4 * 4 * kvi_cuda_route_floats(n_experts, 0, k), &r), few_pairs, 0, 0);
}

/* A layer of Qwen3.5-27B's kind: 16 heads of keys for 48 of values, 128 wide; the state is read once and written once, however many tokens there are. */
static void recurrent()
{
    const uint32_t keys = 16, heads = 4, dim = 128, rows = 20, cols = (2 * keys + heads) * dim;
    kvi_cuda_conv_params c = {};
    c.step = step_of(rows, 128, 0, 0);
    c.state.pool = put(NULL, (size_t)3 * cols * 4), c.x = put(NULL, (size_t)rows * cols * 2),
    c.y = put(NULL, (size_t)rows * cols * 2);
    c.w.codes = put(NULL, (size_t)cols * 16), c.w.pitch = 16;
    c.x_type = c.y_type = KVI_CUDA_F16, c.w_type = KVI_CUDA_BF16, c.x_pitch = c.y_pitch = c.cols = cols, c.taps = 4;
    hold("conv_state", launch("conv_state", dim3((cols + 127) / 128, 2), 128, 0, &c), taps, 0, 0);
    kvi_cuda_delta_params d = {};
    d.step = c.step, d.state.pool = streamed((size_t)heads * dim * dim * 4), d.x = c.y;
    d.side = put(NULL, rows * 2 * heads * 2), d.decay = put(NULL, heads * 4), d.shift = put(NULL, heads * 4);
    d.o = put(NULL, (size_t)rows * heads * dim * 4);
    d.x_type = d.side_type = KVI_CUDA_F16, d.x_pitch = cols, d.side_pitch = 2 * heads, d.o_pitch = heads * dim;
    d.n_heads = heads, d.n_key_heads = keys < heads ? keys : heads, d.key_dim = d.value_dim = dim;
    hold("delta_k128", launch("delta_k128", dim3(dim / 32, heads), 128, kvi_cuda_delta_shared(128), &d), usual,
         2ull * heads * dim * dim * 4, 1);
    kvi_cuda_delta_norm_params n = {};
    n.step = c.step, n.o = d.o, n.gain = put(NULL, dim * 4), n.gate = put(NULL, (size_t)rows * heads * dim * 2);
    n.y = put(NULL, (size_t)rows * heads * dim * 2), n.o_pitch = n.gate_pitch = n.y_pitch = heads * dim;
    n.gate_type = n.y_type = KVI_CUDA_F16, n.n_heads = heads, n.value_dim = dim, n.norm = 1;
    hold("delta_norm", launch("delta_norm", dim3(rows, heads / 4), 128, 0, &n), usual, 0, 0);
}

static kvi_cuda_attention_params attention(uint32_t rows, uint32_t pos, uint32_t format, uint32_t d)
{
    const uint32_t n_heads = 32, n_kv = 8, record = kvi_kv_record_bytes(format, d), units = (n_kv * record + 255) / 256;
    kvi_cuda_attention_params p = {};
    p.step = step_of(rows, pos, units, format);
    p.kv.pool = streamed((size_t)p.step.max_pages * units * 256);
    p.kv.n_kv_heads = n_kv, p.kv.head_dim = d, p.kv.rotate = 1;
    p.q_pitch = (n_heads + 2 * n_kv) * d, p.out_pitch = n_heads * d;
    p.q = put(NULL, (size_t)rows * p.q_pitch * 2), p.out = put(NULL, (size_t)rows * p.out_pitch * 2);
    p.n_splits = p.n_parts = 3;
    p.ml = put(NULL, (size_t)rows * n_heads * p.n_parts * 8);
    p.acc = put(NULL, (size_t)rows * n_heads * p.n_parts * d * 4);
    p.n_heads = n_heads, p.format = format, p.causal = 1, p.scale_log2 = 0.1f;
    p.n_rows = rows, p.col_groups = (rows * 4 + 31) / 32, p.levels = put(NULL, KVI_ANY_LEVELS), p.n_ranges = 1,
    p.ranges[0].end = p.n_parts;
    return p;
}

static void decode()
{
    static const struct {
        const char *name;
        uint32_t format;
    } formats[] = {
        {"f16", KVI_KV_FMT_F16}, {"i8", KVI_KV_FMT_I8}, {"k4v4", KVI_KV_FMT_K4V4}, {"k4v2", KVI_KV_FMT_K4V2}};
    for (uint32_t d : {64u, 128u, 256u})
        for (const auto &f : formats) {
            char name[40];
            snprintf(name, sizeof name, "attn_decode_%s_d%u", f.name, d);
            kvi_cuda_attention_params p = attention(1, 1023, f.format, d);
            const limits &most = f.format == KVI_KV_FMT_K4V2 && d == 64 ? short_rows
                                 : f.format == KVI_KV_FMT_F16           ? usual
                                                                        : factors;
            hold(name, launch(name, dim3(3, 8), 128, kvi_cuda_decode_shared(d), &p), most,
                 8ull * 8 * kvi_kv_record_bytes(f.format, d), 1);
            if (f.format != KVI_KV_FMT_K4V4) continue;
            snprintf(name, sizeof name, "attn_combine_d%u", d);
            hold(name, launch(name, dim3(1, 32), 256, 8 * (d + 1) * 4, &p), usual, 0, 0);
        }
    /* Four rows: two eights of columns, two warps of a block that read the same pages. */
    kvi_cuda_attention_params p = attention(4, 1020, KVI_KV_FMT_K4V4, 128);
    hold("attn_decode_k4v4_d128", launch("attn_decode_k4v4_d128", dim3(3, 8), 128, kvi_cuda_decode_shared(128), &p),
         four_rows, 8ull * 8 * kvi_kv_record_bytes(KVI_KV_FMT_K4V4, 128), 2);
}

/* DeepSeek-V2-Lite: one token of 16 heads over 512 positions, which are read once for all heads; then 16 rows, sixteen times. */
static void latent()
{
    const uint32_t heads = 16, key = 128, value = 128, pos = 511, splits = 2;
    const uint32_t record = 128 * KVI_LATENT_WIDTH * 2, units = record / KVI_KV_UNIT, pages = 4;
    for (uint32_t rows : {1u, 16u}) {
        kvi_cuda_latent_absorb_params a = {};
        a.step = step_of(rows, pos + 1 - rows, units, KVI_KV_FMT_F16);
        a.w.rows.codes = streamed((size_t)heads * (key + value) * 1024), a.w.rows.pitch = 1024;
        a.w.type = KVI_CUDA_BF16, a.w.n_in = KVI_LATENT_RANK;
        a.q_pitch = heads * (key + 64), a.q = put(NULL, (size_t)rows * a.q_pitch * 2), a.q_type = KVI_CUDA_F16;
        a.queries = put(NULL, (size_t)rows * heads * KVI_LATENT_WIDTH * 2);
        a.n_heads = heads, a.key_dim = key, a.value_dim = value, a.rank = 512, a.rope = 64, a.rotate = 1, a.scale = 1;
        hold("latent_absorb",
             launch("latent_absorb", dim3(heads, (rows + 7) / 8), 512, kvi_cuda_absorb_shared(512, key), &a), absorbed,
             (uint64_t)heads * key * 1024, (rows + 7) / 8);
        kvi_emu::profile_forget_streamed();
        kvi_cuda_latent_attend_params t = {};
        t.step = a.step, t.latent.pool = streamed((size_t)pages * units * KVI_KV_UNIT), t.latent.rank = 512,
        t.latent.rope = 64;
        t.queries = a.queries, t.n_heads = heads, t.n_splits = splits, t.causal = 1;
        t.ml = put(NULL, (size_t)rows * heads * splits * 8), t.acc = put(NULL, (size_t)rows * heads * splits * 2048);
        hold("latent_attend", launch("latent_attend", dim3(rows, splits), 128, KVI_LATENT_SHARED, &t), attended,
             (uint64_t)pages * record, rows);
        kvi_emu::profile_forget_streamed();
        kvi_cuda_latent_leave_params l = {};
        l.step = a.step, l.w = a.w, l.ml = t.ml, l.acc = t.acc, l.out = put(NULL, (size_t)rows * heads * value * 2);
        l.out_pitch = heads * value, l.out_type = KVI_CUDA_BF16, l.n_heads = heads, l.value_dim = value, l.rank = 512;
        l.rotate = 1, l.n_splits = splits, l.first_row = key, l.head_rows = key + value;
        hold("latent_leave", launch("latent_leave", dim3(heads, (rows + 7) / 8), 256, KVI_LEAVE_SHARED, &l), left, 0,
             0);
    }
    kvi_cuda_latent_append_params p = {};
    std::vector<double> turns(32, 0.01);
    p.step = step_of(8, 200, units, KVI_KV_FMT_F16), p.latent.pool = put(NULL, (size_t)2 * units * KVI_KV_UNIT);
    p.latent.rank = 512, p.latent.rope = 64, p.latent.rotate = 1, p.turns = put(turns.data(), 256);
    p.kv_pitch = KVI_LATENT_WIDTH, p.kv = put(NULL, 8 * KVI_LATENT_WIDTH * 2), p.kv_type = p.q_type = KVI_CUDA_F16;
    p.q_pitch = heads * (key + 64), p.q = put(NULL, 8 * p.q_pitch * 2), p.n_heads = heads, p.key_dim = key, p.norm = 1;
    p.n_dims = 64, p.apart = 1, p.next = 2, p.magnitude = 1, p.eps = 1e-6f;
    hold("latent_append", launch("latent_append", dim3(8, 5), 128, 4 * 512 * 4, &p), turned, 0, 0);
}

/* Every format, and heads of odd sizes. A warp takes 16 tokens of each channel: 4 to 16 bytes of packed keys, which L1 has for the next stage and for the
 * warp beside it; the levels of the trellis lie where they are looked up. */
static void any()
{
    static const struct {
        uint32_t format, d;
        limits most;
    } cases[] = {{KVI_KV_FORMAT(KVI_KV_F16, KVI_KV_F16), 80, any_plain},
                 {KVI_KV_FORMAT(KVI_KV_BF16, KVI_KV_BF16), 128, any_plain},
                 {KVI_KV_FORMAT(KVI_KV_Q4, KVI_KV_Q4), 96, any_codes},
                 {KVI_KV_FORMAT(KVI_KV_Q3, KVI_KV_Q3), 128, any_threes},
                 {KVI_KV_FORMAT(KVI_KV_F8, KVI_KV_F8), 192, any_codes},
                 {KVI_KV_FORMAT(KVI_KV_T2, KVI_KV_T2), 128, any_trellis}};
    for (const auto &c : cases) {
        kvi_cuda_attention_params p = attention(4, 1020, c.format, c.d);
        char name[40];
        snprintf(name, sizeof name, "attn_any_d%u", c.d <= 128 ? 128u : 256u);
        p.format = KVI_CUDA_EVERY_FORMAT, p.col_groups = 1;
        hold(name, launch(name, dim3(3, 8), 128, kvi_cuda_any_shared(c.d, c.d <= 128 ? 128 : 256), &p), c.most, 0, 0);
        hold("attn_combine_any", launch("attn_combine_any", dim3(4, 32), 256, 8 * 513 * 4, &p), usual, 0, 0);
    }
}

static void prefill()
{
    for (uint32_t format : {(uint32_t)KVI_KV_FMT_F16, (uint32_t)KVI_KV_FMT_K4V4}) {
        kvi_cuda_attention_params p = attention(32, 224, format, 128);
        const bool f16 = format == KVI_KV_FMT_F16; /* of packed pages the factors are read again by every stage */
        hold("attn_prefill_d128", launch("attn_prefill_d128", dim3(1, 8), 256, kvi_cuda_prefill_shared(128), &p),
             f16 ? fragments : staged, f16 ? 2ull * 8 * kvi_kv_record_bytes(format, 128) : 0, 1);
    }
}

static void append()
{
    kvi_cuda_attention_params a = attention(8, 200, KVI_KV_FMT_F16, 128);
    kvi_cuda_rope_params p = {};
    std::vector<double> turns(64, 0.01);
    p.step = a.step, p.kv = a.kv;
    p.qkv = put(NULL, 8 * 48 * 128 * 2), p.turns = put(turns.data(), turns.size() * 8);
    p.pitch = 48 * 128, p.n_heads = 32, p.n_dims = 128, p.apart = 64, p.next = 1, p.magnitude = 1, p.eps = 1e-5f;
    hold("rope_append_d128", launch("rope_append_d128", dim3(8, 12), 128, 4 * 128 * 4, &p), usual, 0, 0);
}

static void best()
{
    const uint32_t n = 20000, parts = (n + KVI_CUDA_BEST_PART - 1) / KVI_CUDA_BEST_PART;
    std::vector<float> logits(n);
    for (uint32_t i = 0; i < n; i++) logits[i] = (float)(i * 2654435761u >> 8) * 1e-6f;
    kvi_cuda_best_params p = {};
    p.logits = put(logits.data(), n * 4), p.runs = put(NULL, parts * 64 * 8),
    p.sums = put(NULL, parts * sizeof(kvi_cuda_best_sum));
    p.out = put(NULL, sizeof(kvi_cuda_best)), p.n = n, p.n_parts = parts;
    hold("best_part", launch("best_part", parts, 256, KVI_CUDA_BEST_PART * 8 + 32, &p), sorting, 0, 0);
}

static void convert()
{
    kvi_cuda_convert_params p = {};
    const kvi_kv_shape shape = {1, 8, 128, 0};
    const uint32_t from = kvi_kv_page_units(KVI_KV_FMT_F16, &shape), to = kvi_kv_page_units(KVI_KV_FMT_K4V4, &shape);
    p.pool = streamed((size_t)(from + to) * 256), p.scratch_bytes = kvi_cuda_convert_scratch(128, false),
    p.levels = put(NULL, 512), p.scratch = put(NULL, 8 * p.scratch_bytes);
    p.n_jobs = 1, p.n_tasks = 8, p.varnorm = 0, p.range = 0, p.shapes[0] = shape;
    p.from[0] = {0, KVI_KV_FMT_F16}, p.to[0] = {from, KVI_KV_FMT_K4V4};
    hold("kv_convert", launch("kv_convert", 8, KVI_CONVERT_THREADS, KVI_CONVERT_SHARED, &p), conversion, 0, 0);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)();
    } families[] = {{"planted", planted}, {"norm", norm},       {"gemv", gemv},       {"gemm", gemm},
                    {"decode", decode},   {"any", any},         {"experts", experts}, {"recurrent", recurrent},
                    {"latent", latent},   {"prefill", prefill}, {"append", append},   {"best", best},
                    {"convert", convert}};
    kvi_cu_context context;
    MUST(cuInit(0));
    MUST(cuDevicePrimaryCtxRetain(&context, 0));
    MUST(cuCtxPushCurrent_v2(context));
    MUST(cuLibraryLoadData(&library, KVI_CU_PLACEHOLDER_IMAGE, NULL, NULL, 0, NULL, NULL, 0));
    for (const auto &f : families) {
        bool asked = argc < 2;
        for (int i = 1; i < argc; i++) asked = asked || strcmp(argv[i], f.name) == 0;
        if (asked) f.run();
        for (kvi_cu_dptr at : taken) MUST(cuMemFree_v2(at));
        taken.clear();
        kvi_emu::profile_forget_streamed();
    }
    MUST(cuLibraryUnload(library));
    MUST(cuCtxPopCurrent_v2(&context));
    MUST(cuDevicePrimaryCtxRelease_v2(0));
    return failed;
}
