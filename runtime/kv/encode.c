/* encode.c - see encode.h. A tile is held with its code rows as matrix rows: K transposed (channels x tokens), V as it is (tokens x
 * channels); from then on both are the same code. Sums run serially, along a column or a row: kernels/cuda/encode.cu gives every column and row a
 * thread and so has the same order and the same bytes. */
#include "encode.h"
#include "elementary.h"

#include <math.h>
#include <string.h>

#define PAPER_ITERATIONS 8

/* ------------------------------------------------------------------------------------------------ normalization --- */
/* Sample standard deviations of the columns and rows of x (n_rows, n_cols), mean removed. */
static void deviations(const float *x, uint32_t n_rows, uint32_t n_cols, float *col, float *row, float *mean)
{
    memset(mean, 0, n_cols * sizeof *mean);
    memset(col, 0, n_cols * sizeof *col);
    for (uint32_t i = 0; i < n_rows; i++)
        for (uint32_t j = 0; j < n_cols; j++) mean[j] += x[i * n_cols + j];
    for (uint32_t j = 0; j < n_cols; j++) mean[j] /= (float)n_rows;
    for (uint32_t i = 0; i < n_rows; i++) {
        const float *line = x + i * n_cols;
        float sum = 0, squares = 0;
        for (uint32_t j = 0; j < n_cols; j++) sum += line[j];
        sum /= (float)n_cols;
        for (uint32_t j = 0; j < n_cols; j++) {
            float a = line[j] - mean[j], b = line[j] - sum;
            col[j] += a * a;
            squares += b * b;
        }
        row[i] = sqrtf(squares / (float)(n_cols - 1));
    }
    for (uint32_t j = 0; j < n_cols; j++) col[j] = sqrtf(col[j] / (float)(n_rows - 1));
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

static float clamp(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

static void divide(const float *tile, uint32_t n_rows, uint32_t n_cols, const float *log_c, const float *log_r, float *x, float *inv_c)
{
    for (uint32_t j = 0; j < n_cols; j++) inv_c[j] = kvi_kv_exp(-log_c[j]);
    for (uint32_t i = 0; i < n_rows; i++) {
        float inv_r = kvi_kv_exp(-log_r[i]);
        for (uint32_t j = 0; j < n_cols; j++) x[i * n_cols + j] = tile[i * n_cols + j] * inv_c[j] * inv_r;
    }
}

void kvi_kv_varnorm_paper(const float *tile, uint32_t n_rows, uint32_t n_cols, float *c, float *r, float *work, int *best, double *imbalance)
{
    float *x = work, *col = x + (size_t)n_rows * n_cols, *row = col + n_cols, *mean = row + n_rows, *log_c = mean + n_cols, *log_r = log_c + n_cols;
    memcpy(x, tile, (size_t)n_rows * n_cols * sizeof *x);
    memset(log_c, 0, n_cols * sizeof *log_c);
    memset(log_r, 0, n_rows * sizeof *log_r);
    memset(c, 0, n_cols * sizeof *c); /* logs of the best iterate until the end */
    memset(r, 0, n_rows * sizeof *r);
    deviations(x, n_rows, n_cols, col, row, mean);
    double least = spread(col, n_cols) + spread(row, n_rows);
    if (imbalance) imbalance[0] = least;
    if (best) *best = 0;
    for (int k = 1; k <= PAPER_ITERATIONS; k++) {
        for (uint32_t j = 0; j < n_cols; j++) log_c[j] = clamp(log_c[j] + kvi_kv_log(clamp(col[j], 1e-3f, 1e3f)), -0.3f, 10.0f);
        divide(tile, n_rows, n_cols, log_c, log_r, x, mean);
        deviations(x, n_rows, n_cols, col, row, mean);
        for (uint32_t i = 0; i < n_rows; i++) log_r[i] = clamp(log_r[i] + kvi_kv_log(clamp(row[i], 1e-3f, 1e3f)), -0.3f, 10.0f);
        divide(tile, n_rows, n_cols, log_c, log_r, x, mean);
        deviations(x, n_rows, n_cols, col, row, mean);
        double now = spread(col, n_cols) + spread(row, n_rows);
        if (imbalance) imbalance[k] = now;
        if (now > least) continue;
        least = now;
        if (best) *best = k;
        memcpy(c, log_c, n_cols * sizeof *c);
        memcpy(r, log_r, n_rows * sizeof *r);
    }
    for (uint32_t j = 0; j < n_cols; j++) c[j] = kvi_kv_exp(c[j]);
    for (uint32_t i = 0; i < n_rows; i++) r[i] = kvi_kv_exp(r[i]);
}

/* Column factors with the tile's own scale taken out and no floor: each pass divides the rows by their deviation and takes the columns'
 * deviations of what remains. Two passes; more change nothing (runtime/kv/README.md). Factors are relative to their geometric mean. */
static void varnorm_kvrt(const float *tile, uint32_t n_rows, uint32_t n_cols, float *c, float *work)
{
    float *x = work, *col = x + (size_t)n_rows * n_cols, *row = col + n_cols, *mean = row + n_rows;
    for (uint32_t j = 0; j < n_cols; j++) c[j] = 1.0f;
    memcpy(x, tile, (size_t)n_rows * n_cols * sizeof *x);
    for (int pass = 0; pass < 2; pass++) {
        deviations(x, n_rows, n_cols, col, row, mean);
        float floor_row = 0;
        for (uint32_t i = 0; i < n_rows; i++) floor_row += row[i];
        floor_row = floor_row / (float)n_rows * 1e-3f;
        if (!(floor_row > 0)) return; /* a constant tile */
        for (uint32_t i = 0; i < n_rows; i++) {
            float inv = 1.0f / (row[i] > floor_row ? row[i] : floor_row);
            for (uint32_t j = 0; j < n_cols; j++) x[i * n_cols + j] *= inv;
        }
        deviations(x, n_rows, n_cols, col, row, mean);
        float log_sum = 0, least = 0;
        for (uint32_t j = 0; j < n_cols; j++) least += col[j];
        least = least / (float)n_cols * 1e-2f;
        for (uint32_t j = 0; j < n_cols; j++) {
            col[j] = col[j] > least ? col[j] : least;
            log_sum += kvi_kv_log(col[j]);
        }
        float scale = kvi_kv_exp(-log_sum / (float)n_cols);
        for (uint32_t j = 0; j < n_cols; j++) {
            c[j] *= col[j] * scale;
            float inv = 1.0f / (col[j] * scale);
            for (uint32_t i = 0; i < n_rows; i++) x[i * n_cols + j] *= inv;
        }
    }
}

/* --------------------------------------------------------------------------------------------------- quantization --- */
static float round_even(float x) { return rintf(x); } /* the default rounding mode, which a library does not change */

static void extremes(const float *line, uint32_t n, float *low, float *high)
{
    *low = *high = line[0];
    for (uint32_t j = 1; j < n; j++) {
        *low = line[j] < *low ? line[j] : *low;
        *high = line[j] > *high ? line[j] : *high;
    }
}

static float squared_error(const float *line, uint32_t n, float low, float step, float top)
{
    float error = 0, inv = 1.0f / step;
    for (uint32_t j = 0; j < n; j++) {
        float q = round_even((line[j] - low) * inv);
        q = q < 0 ? 0 : q > top ? top : q;
        float e = line[j] - (q * step + low);
        error += e * e;
    }
    return error;
}

/* Range of a row: its extremes, or the one of least squared error among shrunken ones about the same middle. */
static void choose_range(const float *line, uint32_t n, uint32_t bits, kvi_range how, float *low, float *step)
{
    static const float factors[8] = {1.0f, 0.94f, 0.88f, 0.82f, 0.76f, 0.70f, 0.64f, 0.58f};
    const float top = (float)((1u << bits) - 1u);
    float high;
    extremes(line, n, low, &high);
    const float middle = 0.5f * (*low + high), half = 0.5f * (high - *low);
    *step = 2.0f * half / top;
    if (!(*step > 1e-10f)) *step = 1e-10f;
    if (how == KVI_RANGE_MINMAX || half <= 0) return;
    float least = squared_error(line, n, *low, *step, top);
    for (int k = 1; k < 8; k++) {
        float l = middle - half * factors[k], s = 2.0f * half * factors[k] / top;
        float error = s > 1e-10f ? squared_error(line, n, l, s, top) : least;
        if (error < least) least = error, *low = l, *step = s;
    }
}

/* Values that survive fp16 side vectors; NaN becomes 0. */
static float tame(float x) { return x != x ? 0.0f : clamp(x, -60000.0f, 60000.0f); }

/* A side value saturates: an infinity would spread over its whole row. */
static uint16_t side_f16(float x) { return kvi_f32_to_f16(clamp(x, -65504.0f, 65504.0f)); }

/* tile (n_rows, n_cols) to n_rows rows of codes with A, Z per row and O per column. */
static void quantize(const float *tile, uint32_t n_rows, uint32_t n_cols, uint32_t bits, bool normalize, const kvi_encode_params *params,
                     float *scratch, uint8_t *codes, uint8_t *a_out, uint8_t *z_out, uint8_t *o_out)
{
    float *c = scratch, *r = c + n_cols, *balanced = r + n_rows, *work = balanced + n_cols;
    const float top = (float)((1u << bits) - 1u);
    for (uint32_t j = 0; j < n_cols; j++) c[j] = 1.0f;
    for (uint32_t i = 0; i < n_rows; i++) r[i] = 1.0f;
    const bool paper = params->varnorm == KVI_VARNORM_PAPER;
    if (paper) kvi_kv_varnorm_paper(tile, n_rows, n_cols, c, r, work, NULL, NULL);
    else if (normalize && params->varnorm == KVI_VARNORM_KVRT) varnorm_kvrt(tile, n_rows, n_cols, c, work);
    for (uint32_t j = 0; j < n_cols; j++) {
        uint16_t stored = side_f16(c[j]);
        kvi_kv_store16(o_out + 2u * j, stored);
        if (!paper) c[j] = kvi_f16_to_f32(stored); /* quantize against what will be read back */
    }
    for (uint32_t i = 0; i < n_rows; i++) {
        float low, step;
        for (uint32_t j = 0; j < n_cols; j++) balanced[j] = tile[i * n_cols + j] / (c[j] * r[i]);
        choose_range(balanced, n_cols, bits, params->range, &low, &step);
        const uint16_t a = side_f16(step * r[i]), z = side_f16(low * r[i]);
        kvi_kv_store16(a_out + 2u * i, a);
        kvi_kv_store16(z_out + 2u * i, z);
        if (!paper) {
            float stored = kvi_f16_to_f32(a);
            step = stored > 0 ? stored : 6e-8f;
            low = kvi_f16_to_f32(z);
        }
        uint8_t *row = codes + (size_t)i * (n_cols / 8u * bits);
        for (uint32_t j = 0; j < n_cols; j++)
            kvi_kv_put_code(row, j, bits, (uint32_t)clamp(round_even((balanced[j] - low) / step), 0, top));
    }
}

static float largest(const float *line, uint32_t n)
{
    float top = 0;
    for (uint32_t j = 0; j < n; j++) {
        float a = fabsf(line[j]);
        top = a > top ? a : top;
    }
    return top;
}

void kvi_kv_encode_k(kvi_kv_code kind, const float *rows, uint32_t d, const kvi_encode_params *params, float *scratch, uint8_t *side)
{
    const kvi_kv_side s = kvi_kv_k_side(kind, d);
    float *tile = scratch, *rest = tile + d * KVI_KV_PAGE;
    memset(side, 0, s.bytes);
    if (kind >= KVI_KV_Q4) {
        for (uint32_t t = 0; t < KVI_KV_PAGE; t++)
            for (uint32_t c = 0; c < d; c++) tile[c * KVI_KV_PAGE + t] = tame(rows[t * d + c]);
        quantize(tile, d, KVI_KV_PAGE, kvi_kv_code_bits(kind), true, params, rest, side + s.codes_off, side + s.a_off, side + s.z_off, side + s.o_off);
        return;
    }
    for (uint32_t t = 0; t < KVI_KV_PAGE; t++) {
        for (uint32_t c = 0; c < d; c++) tile[c] = tame(rows[t * d + c]);
        const uint16_t scale = kvi_f32_to_f16(largest(tile, d) / (kind == KVI_KV_F8 ? 448.0f : 127.0f));
        float stored = kvi_f16_to_f32(scale);
        kvi_kv_store16(side + s.o_off + 2u * t, scale);
        if (!(stored > 0)) stored = 1.0f; /* a zero row: every code is zero */
        for (uint32_t c = 0; c < d; c++) {
            uint8_t *at = side + s.codes_off + c * KVI_KV_PAGE + t;
            *at = kind == KVI_KV_F8 ? kvi_f32_to_e4m3(tile[c] / stored) : (uint8_t)(int)(clamp(round_even(tile[c] / stored), -127, 127) + 128.0f);
        }
    }
}

void kvi_kv_encode_v(kvi_kv_code kind, const float *rows, uint32_t d, const kvi_encode_params *params, float *scratch, uint8_t *side)
{
    const kvi_kv_side s = kvi_kv_v_side(kind, d);
    float *tile = scratch, *rest = tile + d * KVI_KV_PAGE;
    memset(side, 0, s.bytes);
    for (uint32_t i = 0; i < d * KVI_KV_PAGE; i++) tile[i] = tame(rows[i]);
    if (kind >= KVI_KV_Q4) {
        quantize(tile, KVI_KV_PAGE, d, kvi_kv_code_bits(kind), false, params, rest, side + s.codes_off, side + s.a_off, side + s.z_off, side + s.o_off);
        return;
    }
    for (uint32_t t = 0; t < KVI_KV_PAGE; t++) {
        const float *line = tile + t * d;
        uint8_t *codes = side + s.codes_off + t * d;
        if (kind == KVI_KV_F8) {
            const uint16_t scale = kvi_f32_to_f16(largest(line, d) / 448.0f);
            float stored = kvi_f16_to_f32(scale);
            kvi_kv_store16(side + s.a_off + 2u * t, scale);
            if (!(stored > 0)) stored = 1.0f;
            for (uint32_t c = 0; c < d; c++) codes[c] = kvi_f32_to_e4m3(line[c] / stored);
            continue;
        }
        float low, high;
        extremes(line, d, &low, &high);
        const uint16_t a = kvi_f32_to_f16((high - low) / 255.0f), z = kvi_f32_to_f16(low);
        float step = kvi_f16_to_f32(a);
        low = kvi_f16_to_f32(z);
        kvi_kv_store16(side + s.a_off + 2u * t, a);
        kvi_kv_store16(side + s.z_off + 2u * t, z);
        if (!(step > 0)) step = 6e-8f;
        for (uint32_t c = 0; c < d; c++) codes[c] = (uint8_t)clamp(round_even((line[c] - low) / step), 0, 255);
    }
}

void kvi_kv_decode_rows(const uint8_t *side, kvi_kv_code kind, bool is_v, uint32_t d, float *rows)
{
    for (uint32_t t = 0; t < KVI_KV_PAGE; t++)
        for (uint32_t c = 0; c < d; c++) rows[t * d + c] = is_v ? kvi_kv_decode_v(side, kind, d, t, c) : kvi_kv_decode_k(side, kind, d, t, c);
}
