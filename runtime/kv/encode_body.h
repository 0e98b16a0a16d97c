/* encode_body.h - the source of the encoder, compiled once per instruction set by encode.c, encode_avx2.c and encode_avx512.c, which define
 * ENCODER, the name of its table, and VB, the bytes of a vector. All of them write the same bytes: sums run serially along a column or a row, a
 * vector of columns or rows at a time, and nothing contracts. kernels/cuda/encode.cu gives every column and row a thread and so has the same order
 * and the same bytes, too.
 *
 * A tile has its code rows as matrix rows: K transposed (channels x tokens), V as it is (tokens x channels); from then on both are the same.
 * It is held by rows, x (n_rows, n_cols), for sums along columns, and by columns, xt (n_cols, n_rows), for sums along rows. */
#include "encode.h"
#include "elementary.h"
#include "ranges.h"
#include "../../kernels/cpu/lanes.h"

#include <math.h>

#define PAPER_ITERATIONS 8
#define BLOCK 16u /* every side of a tile is a multiple of it */
static float clamp(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

/* To the nearest whole number, ties to even, for |x| < 2^22: adding 1.5 * 2^23 rounds so. */
INLINE vf nearest(vf x) { return (x + splat(12582912.0f)) - splat(12582912.0f); }
INLINE vf to_code(vf x, float top) { return nearest_code(least(most(x, splat(0.0f)), splat(top))); }

typedef uint8_t vb __attribute__((vector_size(VB / 4)));
/* Codes of 0..255, or -128..127, as bytes. */
INLINE void store_bytes(void *out, vf codes)
{
    const vb bytes = __builtin_convertvector(__builtin_convertvector(codes, vi), vb);
    memcpy(out, &bytes, sizeof bytes);
}
INLINE vf tame_all(vf x)
{
    const vf y = least(most(x, splat(-60000.0f)), splat(60000.0f));
    return choose(x == x, y, splat(0.0f));
}
INLINE vf magnitude(vf x) { return most(x, -x); }

/* A side value saturates: an infinity would spread over its whole row. */
static uint16_t side_f16(float x) { return kvi_f32_to_f16(clamp(x, -65504.0f, 65504.0f)); }

typedef float quad __attribute__((vector_size(16)));
#define PICK __builtin_shufflevector

/* to (n_cols, n_rows) = transpose of from (n_rows, n_cols), both multiples of 16: by blocks of 16 rows for the cache, of 4 x 4 within them */
static void transpose(const float *from, uint32_t n_rows, uint32_t n_cols, float *to)
{
    for (uint32_t i = 0; i < n_rows; i += BLOCK)
        for (uint32_t j = 0; j < n_cols; j += 4)
            for (uint32_t a = i; a < i + BLOCK; a += 4) {
                quad row[4], out[4];
                for (uint32_t k = 0; k < 4; k++) memcpy(&row[k], from + (size_t)(a + k) * n_cols + j, sizeof row[k]);
                const quad low = PICK(row[0], row[1], 0, 4, 1, 5), high = PICK(row[0], row[1], 2, 6, 3, 7),
                           low_2 = PICK(row[2], row[3], 0, 4, 1, 5), high_2 = PICK(row[2], row[3], 2, 6, 3, 7);
                out[0] = PICK(low, low_2, 0, 1, 4, 5), out[1] = PICK(low, low_2, 2, 3, 6, 7);
                out[2] = PICK(high, high_2, 0, 1, 4, 5), out[3] = PICK(high, high_2, 2, 3, 6, 7);
                for (uint32_t k = 0; k < 4; k++) memcpy(to + (size_t)(j + k) * n_rows + a, &out[k], sizeof out[k]);
            }
}

/* ------------------------------------------------------------------------------------------------ normalization --- */
typedef struct tile {
    uint32_t n_rows, n_cols;
    float *origin_t;  /* (n_cols, n_rows) what is to be encoded */
    float *x, *xt;    /* (n_rows, n_cols), (n_cols, n_rows) the same, normalized */
    float *c, *r;     /* (n_cols), (n_rows) factors of the normalization */
    float *col, *row; /* deviations */
    float *log_c, *log_r;
    float *metric, *queries; /* of feedback.h: (n, n) and (QUERY_BLOCK, n), n being n_rows, or 128 where that is more */
} tile;

/* Sample standard deviations, mean removed, of the `width` columns of x (n, width). */
static void deviations(const float *x, uint32_t n, uint32_t width, float *out)
{
    for (uint32_t w = 0; w < width; w += VW) {
        vf mean = splat(0.0f), squares = mean;
        for (uint32_t k = 0; k < n; k++) mean += load(x + (size_t)k * width + w);
        mean /= splat((float)n);
        for (uint32_t k = 0; k < n; k++) {
            const vf a = load(x + (size_t)k * width + w) - mean;
            squares += a * a;
        }
        store(out + w, squares / splat((float)(n - 1)));
    }
    for (uint32_t w = 0; w < width; w++) out[w] = sqrtf(out[w]);
}
static void deviations_of(const tile *t)
{
    deviations(t->x, t->n_rows, t->n_cols, t->col);
    deviations(t->xt, t->n_cols, t->n_rows, t->row);
}

static double spread(const float *values, uint32_t n)
{
    float low = values[0], high = values[0];
    for (uint32_t i = 1; i < n; i++) {
        if (values[i] < low) low = values[i];
        if (values[i] > high) high = values[i];
    }
    return (double)high / (low > 1e-8f ? (double)low : 1e-8);
}
static double imbalance_of(const tile *t) { return spread(t->col, t->n_cols) + spread(t->row, t->n_rows); }

/* x = origin * exp(-log_c) * exp(-log_r), and its deviations */
static void divide(const tile *t)
{
    float inv_r[KVI_KV_MAX_HEAD_DIM];
    for (uint32_t i = 0; i < t->n_rows; i++) inv_r[i] = kvi_kv_exp(-t->log_r[i]);
    for (uint32_t j = 0; j < t->n_cols; j++) {
        const float inv_c = kvi_kv_exp(-t->log_c[j]);
        const size_t at = (size_t)j * t->n_rows;
        for (uint32_t i = 0; i < t->n_rows; i++) t->xt[at + i] = t->origin_t[at + i] * inv_c * inv_r[i];
    }
    transpose(t->xt, t->n_cols, t->n_rows, t->x);
    deviations_of(t);
}

static void varnorm_paper(const tile *t, int *best, double *imbalance)
{
    memcpy(t->xt, t->origin_t, (size_t)t->n_rows * t->n_cols * sizeof(float));
    transpose(t->xt, t->n_cols, t->n_rows, t->x);
    memset(t->log_c, 0, t->n_cols * sizeof(float));
    memset(t->log_r, 0, t->n_rows * sizeof(float));
    memset(t->c, 0, t->n_cols * sizeof(float)); /* logs of the best iterate until the end */
    memset(t->r, 0, t->n_rows * sizeof(float));
    deviations_of(t);
    double smallest = imbalance_of(t);
    if (imbalance) imbalance[0] = smallest;
    if (best) *best = 0;
    for (int k = 1; k <= PAPER_ITERATIONS; k++) {
        for (uint32_t j = 0; j < t->n_cols; j++)
            t->log_c[j] = clamp(t->log_c[j] + kvi_kv_log(clamp(t->col[j], 1e-3f, 1e3f)), -0.3f, 10.0f);
        divide(t);
        for (uint32_t i = 0; i < t->n_rows; i++)
            t->log_r[i] = clamp(t->log_r[i] + kvi_kv_log(clamp(t->row[i], 1e-3f, 1e3f)), -0.3f, 10.0f);
        divide(t);
        const double now = imbalance_of(t);
        if (imbalance) imbalance[k] = now;
        if (now > smallest) continue;
        smallest = now;
        if (best) *best = k;
        memcpy(t->c, t->log_c, t->n_cols * sizeof(float));
        memcpy(t->r, t->log_r, t->n_rows * sizeof(float));
    }
    for (uint32_t j = 0; j < t->n_cols; j++) t->c[j] = kvi_kv_exp(t->c[j]);
    for (uint32_t i = 0; i < t->n_rows; i++) t->r[i] = kvi_kv_exp(t->r[i]);
}

/* Column factors with the tile's own scale taken out and no floor: each pass divides the rows by their deviation and takes the columns'
 * deviations of what remains. Factors are relative to their geometric mean; rows need none, they have ranges of their own. */
static void varnorm_kvrt(const tile *t)
{
    memcpy(t->xt, t->origin_t, (size_t)t->n_rows * t->n_cols * sizeof(float));
    transpose(t->xt, t->n_cols, t->n_rows, t->x);
    float inv_r[KVI_KV_MAX_HEAD_DIM], inv_c[KVI_KV_MAX_HEAD_DIM];
    for (int pass = 0; pass < 2; pass++) {
        deviations(t->xt, t->n_cols, t->n_rows, t->row);
        float floor_row = 0, floor_col = 0, log_sum = 0;
        for (uint32_t i = 0; i < t->n_rows; i++) floor_row += t->row[i];
        floor_row = floor_row / (float)t->n_rows * 1e-3f;
        if (!(floor_row > 0)) return; /* a constant tile */
        for (uint32_t i = 0; i < t->n_rows; i++) {
            inv_r[i] = 1.0f / (t->row[i] > floor_row ? t->row[i] : floor_row);
            for (uint32_t j = 0; j < t->n_cols; j++) t->x[(size_t)i * t->n_cols + j] *= inv_r[i];
        }
        deviations(t->x, t->n_rows, t->n_cols, t->col);
        for (uint32_t j = 0; j < t->n_cols; j++) floor_col += t->col[j];
        floor_col = floor_col / (float)t->n_cols * 1e-2f;
        for (uint32_t j = 0; j < t->n_cols; j++) {
            t->col[j] = t->col[j] > floor_col ? t->col[j] : floor_col;
            log_sum += kvi_kv_log(t->col[j]);
        }
        const float scale = kvi_kv_exp(-log_sum / (float)t->n_cols);
        for (uint32_t j = 0; j < t->n_cols; j++) {
            t->c[j] *= t->col[j] * scale;
            inv_c[j] = 1.0f / (t->col[j] * scale);
        }
        if (pass) return;
        for (uint32_t i = 0; i < t->n_rows; i++)
            for (uint32_t j = 0; j < t->n_cols; j++) t->x[(size_t)i * t->n_cols + j] *= inv_c[j];
        for (uint32_t j = 0; j < t->n_cols; j++)
            for (uint32_t i = 0; i < t->n_rows; i++) {
                float *at = &t->xt[(size_t)j * t->n_rows + i];
                *at = *at * inv_r[i] * inv_c[j];
            }
    }
}

/* --------------------------------------------------------------------------------------------------- quantization --- */
/* A vector of rows: codes are to_code((x - low) * inv) or, with inv 0, to_code((x - low) / step); a row reads back as q * out_step + out_low. */
typedef struct ranges {
    vf low, step, inv, out_low, out_step;
} ranges;

/* Offset and step of the k-th range about the same middle; number 0 is the row's own. */
INLINE void shrink(uint32_t k, vf middle, vf half, float top, vf *low, vf *step)
{
    *low = middle - half * splat(kvi_kv_range_factor(k));
    *step = splat(2.0f) * half * splat(kvi_kv_range_factor(k)) / splat(top);
}

/* The shrunken range about the same middle that loses least, by squared error. x: column 0 of the rows, `stride` from column to column. */
INLINE void search_error(const float *x, uint32_t n, uint32_t stride, vf middle, vf half, float top, ranges *out)
{
    vf smallest = splat(INFINITY), low = out->low, step = out->step;
    for (uint32_t k = 0; k < KVI_KV_RANGES; k++) {
        vf l = low, s = step;
        if (k) shrink(k, middle, half, top, &l, &s);
        const vf inv = splat(1.0f) / s;
        vf error = splat(0.0f);
        for (uint32_t j = 0; j < n; j++) {
            const vf v = load(x + (size_t)j * stride), q = to_code((v - l) * inv, top), e = v - (q * s + l);
            error += e * e;
        }
        const vi better = (error < smallest) & (half > splat(0.0f)) & (s > splat(1e-10f));
        smallest = choose(better, error, smallest);
        out->low = choose(better, l, out->low);
        out->step = choose(better, s, out->step);
    }
}

/* The shrunken range whose codes make the smallest angle with the row, and the scale and offset that keep the row's
 * mean and its length along itself: with x and q less their means, step = |x|^2 / <x, q>. The result is not shrunk as
 * one of least squares is; attention averages over many rows, in which errors without a bias vanish and a bias stays.
 * The scale is the one of EDEN (Vargaftik et al., ICML 2022). */
INLINE void search_angle(const float *x, uint32_t n, uint32_t stride, vf middle, vf half, float top, uint32_t n_tries,
                         ranges *out)
{
    const vf count = splat((float)n);
    vf mean = splat(0.0f), length = mean, smallest = splat(INFINITY), best_dot = mean, best_sum = mean, best_inv = mean;
    for (uint32_t j = 0; j < n; j++) mean += load(x + (size_t)j * stride);
    mean /= count;
    for (uint32_t j = 0; j < n; j++) {
        const vf a = load(x + (size_t)j * stride) - mean;
        length += a * a;
    }
    const vf low = out->low, step = out->step;
    for (uint32_t k = 0; k < n_tries; k++) {
        vf l = low, s = step;
        if (k) shrink(k, middle, half, top, &l, &s);
        const vf inv = splat(1.0f) / s;
        vf sum = splat(0.0f), squares = sum, dot = sum;
        for (uint32_t j = 0; j < n; j++) {
            const vf v = load(x + (size_t)j * stride), q = to_code((v - l) * inv, top);
            sum += q;
            squares += q * q;
            dot += q * (v - mean);
        }
        const vf angle = (squares - sum * sum / count) / (dot * dot);
        const vi better = (angle < smallest) & (dot > splat(0.0f)) & (half > splat(0.0f)) & (s > splat(1e-10f));
        smallest = choose(better, angle, smallest);
        out->low = choose(better, l, out->low);
        best_inv = choose(better, inv, best_inv);
        best_dot = choose(better, dot, best_dot);
        best_sum = choose(better, sum, best_sum);
    }
    const vi found = best_dot > splat(0.0f);
    out->inv = best_inv;
    out->out_step = choose(found, length / choose(found, best_dot, splat(1.0f)), out->step);
    out->out_low = choose(found, mean - out->out_step * (best_sum / count), out->low);
}

INLINE ranges choose_ranges(const float *x, uint32_t n, uint32_t stride, uint32_t bits, bool is_v, kvi_range how)
{
    const float top = (float)((1u << bits) - 1u);
    vf low = load(x), high = low;
    for (uint32_t j = 1; j < n; j++) {
        const vf v = load(x + (size_t)j * stride);
        low = least(v, low);
        high = most(v, high);
    }
    const vf middle = splat(0.5f) * (low + high), half = splat(0.5f) * (high - low);
    ranges out = {.low = low, .step = most(splat(2.0f) * half / splat(top), splat(1e-10f)), .inv = splat(0.0f)};
    if (how == KVI_RANGE_SEARCH) search_error(x, n, stride, middle, half, top, &out);
    if (how == KVI_RANGE_UNBIASED) search_angle(x, n, stride, middle, half, top, kvi_kv_range_tries(is_v), &out);
    else out.out_low = out.low, out.out_step = out.step;
    return out;
}

/* A vector of rows of codes, LSB first; codes: the first row, `row_bytes` from row to row. */
INLINE void put_codes(const float *x, uint32_t n, uint32_t stride, uint32_t bits, const ranges *range, uint8_t *codes,
                      uint32_t row_bytes)
{
    const float top = (float)((1u << bits) - 1u);
    const vi multiply = range->inv > splat(0.0f);
    for (uint32_t j = 0; j < n; j += 8) {
        vu packed = {0};
        for (uint32_t k = 0; k < 8; k++) {
            const vf a = load(x + (size_t)(j + k) * stride) - range->low;
            packed |= __builtin_convertvector(to_code(choose(multiply, a * range->inv, a / range->step), top), vu)
                      << (k * bits);
        }
        for (uint32_t i = 0; i < VW; i++)
            for (uint32_t b = 0; b < bits; b++)
                codes[i * row_bytes + j / 8u * bits + b] = (uint8_t)(packed[i] >> (8u * b));
    }
}

#include "feedback.h"

/* A tile whose origin_t is set, to n_rows rows of codes with A, Z per row and O per column. queries: NULL, or of the metric in which rows
 * are rounded; the published procedure knows none. */
static void quantize(const tile *t, bool is_v, uint32_t bits, const kvi_encode_params *params,
                     const kvi_kv_queries *queries, uint8_t *codes, uint8_t *a_out, uint8_t *z_out, uint8_t *o_out)
{
    const uint32_t n_rows = t->n_rows, n_cols = t->n_cols, row_bytes = n_cols / 8u * bits;
    const bool paper = params->varnorm == KVI_VARNORM_PAPER;
    bool feedback = queries && !paper;
    if (feedback && is_v) feedback = attention_moments(queries, n_cols, t->x, t->queries, t->metric);
    else if (feedback) second_moments(queries, n_rows, t->queries, t->metric);
    if (feedback) feedback = factor(t->metric, n_rows, is_v ? KVI_KV_VALUE_DAMPING : KVI_KV_KEY_DAMPING);
    for (uint32_t j = 0; j < n_cols; j++) t->c[j] = 1.0f;
    for (uint32_t i = 0; i < n_rows; i++) t->r[i] = 1.0f;
    if (paper) varnorm_paper(t, NULL, NULL);
    else if (params->varnorm == KVI_VARNORM_KVRT) varnorm_kvrt(t);
    for (uint32_t j = 0; j < n_cols; j++) {
        const uint16_t stored = side_f16(t->c[j]);
        kvi_kv_store16(o_out + 2u * j, stored);
        if (!paper) t->c[j] = kvi_f16_to_f32(stored); /* quantize against what will be read back */
    }
    for (uint32_t j = 0; j < n_cols; j++)
        for (uint32_t i = 0; i < n_rows; i++)
            t->xt[(size_t)j * n_rows + i] = t->origin_t[(size_t)j * n_rows + i] / (t->c[j] * t->r[i]);
    if (feedback) {
        transpose(t->xt, n_cols, n_rows, t->x);
        round_with_feedback(t->x, n_rows, n_cols, t->metric, bits, t->origin_t, t->queries, codes, a_out, z_out);
        return;
    }
    for (uint32_t i = 0; i < n_rows; i += VW) {
        ranges range = choose_ranges(t->xt + i, n_cols, n_rows, bits, is_v, params->range);
        for (uint32_t k = 0; k < VW; k++) {
            const uint16_t a = side_f16(range.out_step[k] * t->r[i + k]), z = side_f16(range.out_low[k] * t->r[i + k]);
            kvi_kv_store16(a_out + 2u * (i + k), a);
            kvi_kv_store16(z_out + 2u * (i + k), z);
            if (paper) continue;
            const float stored = kvi_f16_to_f32(a);
            range.step[k] = stored > 0 ? stored : 6e-8f;
            if (!(range.inv[k] > 0)) range.low[k] = kvi_f16_to_f32(z);
        }
        put_codes(t->xt + i, n_cols, n_rows, bits, &range, codes + (size_t)i * row_bytes, row_bytes);
    }
}

#include "normal_form.h"

/* The parts of a tile in scratch (kvi_kv_encode_scratch). */
static tile tile_in(float *scratch, uint32_t n_rows, uint32_t n_cols)
{
    const size_t n = (size_t)n_rows * n_cols;
    float *rest = scratch + 3 * n;
    const size_t metric = n_rows > KVI_KV_PAGE ? n_rows : KVI_KV_PAGE;
    return (tile){.n_rows = n_rows,
                  .n_cols = n_cols,
                  .origin_t = scratch,
                  .x = scratch + n,
                  .xt = scratch + 2 * n,
                  .c = rest,
                  .r = rest + n_cols,
                  .col = rest + n_cols + n_rows,
                  .row = rest + 2 * n_cols + n_rows,
                  .log_c = rest + 2 * (n_cols + n_rows),
                  .log_r = rest + 3 * n_cols + 2 * n_rows,
                  .metric = rest + 6 * (n_cols + n_rows),
                  .queries = rest + 6 * (n_cols + n_rows) + metric * metric};
}

/* K of 8 bits: one scale for each token. Rows of codes run along tokens, and so do vectors here. */
static void encode_k_by_token(kvi_kv_code kind, const float *rows, uint32_t d, float *scratch, uint8_t *codes,
                              uint8_t *scales)
{
    float *x = scratch, *tokens = scratch + (size_t)d * KVI_KV_PAGE, *high = tokens + (size_t)d * KVI_KV_PAGE;
    for (uint32_t i = 0; i < d * KVI_KV_PAGE; i += VW) store(tokens + i, tame_all(load(rows + i)));
    transpose(tokens, KVI_KV_PAGE, d, x);
    for (uint32_t t = 0; t < KVI_KV_PAGE; t += VW) {
        vf top = splat(0.0f);
        for (uint32_t c = 0; c < d; c++) top = most(magnitude(load(x + (size_t)c * KVI_KV_PAGE + t)), top);
        store(high + t, top);
    }
    for (uint32_t t = 0; t < KVI_KV_PAGE; t++) {
        const uint16_t scale = kvi_f32_to_f16(high[t] / (kind == KVI_KV_F8 ? 448.0f : 127.0f));
        kvi_kv_store16(scales + 2u * t, scale);
        high[t] = kvi_f16_to_f32(scale);
        if (!(high[t] > 0)) high[t] = 1.0f; /* a zero row: every code is zero */
    }
    for (uint32_t c = 0; c < d; c++)
        for (uint32_t t = 0; t < KVI_KV_PAGE; t += VW) {
            const vf y = load(x + (size_t)c * KVI_KV_PAGE + t) / load(high + t);
            uint8_t *out = codes + (size_t)c * KVI_KV_PAGE + t;
            if (kind == KVI_KV_F8)
                for (uint32_t k = 0; k < VW; k++) out[k] = kvi_f32_to_e4m3(y[k]);
            else store_bytes(out, least(most(nearest(y), splat(-127.0f)), splat(127.0f)) + splat(128.0f));
        }
}

static void encode_k(kvi_kv_code kind, const float *rows, uint32_t d, const kvi_encode_params *params,
                     const kvi_kv_queries *queries, float *scratch, uint8_t *side)
{
    const kvi_kv_side s = kvi_kv_k_side(kind, d);
    memset(side, 0, s.bytes);
    if (kind >= KVI_KV_Q4) {
        const tile t = tile_in(scratch, d, KVI_KV_PAGE);
        for (uint32_t i = 0; i < d * KVI_KV_PAGE; i += VW) store(t.origin_t + i, tame_all(load(rows + i)));
        if (kvi_kv_code_is_trellis(kind)) encode_k_trellis(&t, kvi_kv_code_bits(kind), queries, side, s);
        else
            quantize(&t, false, kvi_kv_code_bits(kind), params, queries, side + s.codes_off, side + s.a_off,
                     side + s.z_off, side + s.o_off);
        return;
    }
    encode_k_by_token(kind, rows, d, scratch, side + s.codes_off, side + s.o_off);
}

/* A row of 0 where nothing can be said: a query of zeros, or with an infinity. */
static void encode_query(const float *q, uint32_t d, int8_t *out)
{
    vf high = splat(0.0f);
    float top = 0;
    for (uint32_t j = 0; j < d; j += VW) {
        high = most(magnitude(load(q + j)), high);
    }
    for (uint32_t k = 0; k < VW; k++) top = high[k] > top ? high[k] : top;
    const vf inverse = splat(top > 1e-30f ? 127.0f / top : 0.0f);
    for (uint32_t j = 0; j < d; j += VW) {
        const vf x = load(q + j) * inverse;
        store_bytes(out + j, nearest(choose(x == x, x, splat(0.0f))));
    }
}

/* A token of V of 8 bits: F8 with a scale, I8 with a scale and an offset. */
static void encode_v_row(kvi_kv_code kind, const float *row, uint32_t d, float *line, uint8_t *codes, uint8_t *scale,
                         uint8_t *offset)
{
    vf least_of = tame_all(load(row)), most_of = least_of;
    for (uint32_t c = 0; c < d; c += VW) {
        const vf x = tame_all(load(row + c));
        least_of = least(x, least_of);
        most_of = most(x, most_of);
        store(line + c, x);
    }
    float low = least_of[0], high = most_of[0];
    for (uint32_t k = 1; k < VW; k++) {
        low = least_of[k] < low ? least_of[k] : low;
        high = most_of[k] > high ? most_of[k] : high;
    }
    if (kind == KVI_KV_F8) {
        const uint16_t a = kvi_f32_to_f16((-low > high ? -low : high) / 448.0f);
        float stored = kvi_f16_to_f32(a);
        kvi_kv_store16(scale, a);
        if (!(stored > 0)) stored = 1.0f;
        for (uint32_t c = 0; c < d; c++) codes[c] = kvi_f32_to_e4m3(line[c] / stored);
        return;
    }
    const uint16_t a = kvi_f32_to_f16((high - low) / 255.0f), z = kvi_f32_to_f16(low);
    float step = kvi_f16_to_f32(a);
    kvi_kv_store16(scale, a);
    kvi_kv_store16(offset, z);
    if (!(step > 0)) step = 6e-8f;
    for (uint32_t c = 0; c < d; c += VW)
        store_bytes(codes + c, to_code((load(line + c) - splat(kvi_f16_to_f32(z))) / splat(step), 255.0f));
}

static void encode_v(kvi_kv_code kind, const float *rows, uint32_t d, const kvi_encode_params *params,
                     const kvi_kv_queries *queries, float *scratch, uint8_t *side)
{
    const kvi_kv_side s = kvi_kv_v_side(kind, d);
    memset(side, 0, s.bytes);
    if (kvi_kv_code_is_trellis(kind)) {
        const tile t = tile_in(scratch, d, KVI_KV_PAGE);
        for (uint32_t i = 0; i < d * KVI_KV_PAGE; i += VW) store(t.origin_t + i, tame_all(load(rows + i)));
        encode_v_trellis(&t, kvi_kv_code_bits(kind), queries, side, s);
        return;
    }
    if (kind >= KVI_KV_Q4) {
        const tile t = tile_in(scratch, KVI_KV_PAGE, d);
        for (uint32_t i = 0; i < d * KVI_KV_PAGE; i += VW) store(t.x + i, tame_all(load(rows + i)));
        transpose(t.x, KVI_KV_PAGE, d, t.origin_t);
        quantize(&t, true, kvi_kv_code_bits(kind), params, queries, side + s.codes_off, side + s.a_off, side + s.z_off,
                 side + s.o_off);
        return;
    }
    for (uint32_t t = 0; t < KVI_KV_PAGE; t++)
        encode_v_row(kind, rows + (size_t)t * d, d, scratch, side + s.codes_off + (size_t)t * d,
                     side + s.a_off + 2u * t, side + s.z_off + 2u * t);
}

const kvi_kv_encoder ENCODER = {.k = encode_k, .v = encode_v, .query = encode_query};
