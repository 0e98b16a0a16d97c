/* encode.cu - pages from any format to any other: the same bytes as runtime/kv/encode_body.h, record for record. Why it can be: every sum of the
 * CPU encoder runs along one column or one row of the tile, so a thread per column and row has the CPU's order; elements are independent;
 * logarithm and exponential are elementary.h; no operation contracts (-fmad=false). Speed comes from the number of records (all layers and heads
 * of a page at once), and needs no more: a page is encoded once in 128 tokens. The tile lies in scratch memory twice, by rows (x) and by columns
 * (xt), so that both kinds of threads read neighbours. Of a page that shrinks in place, as many records as there are blocks are converted to
 * staging, then copied to the page's front, which by then has all been read. */
#include "encode_feedback.cuh"
#include "encode_trellis.cuh"

enum { VARNORM_OFF, VARNORM_PAPER, VARNORM_KVRT };   /* kvi_varnorm */
enum { RANGE_MINMAX, RANGE_SEARCH, RANGE_UNBIASED }; /* kvi_range */

/* ------------------------------------------------------------------------------------------------- normalization --- */
/* x = original * inv_c * inv_r, both copies; NULL: without factors. */
KVI_DEV void fill_tile(const tile &t, const vectors &v, const float *inv_c, const float *inv_r)
{
    for (uint32_t k = threadIdx.x; k < t.n_rows * t.n_cols; k += THREADS) {
        const uint32_t i = k / t.n_cols, j = k % t.n_cols;
        float value = original(t, v, i, j);
        if (inv_c) value = value * inv_c[j] * inv_r[i];
        t.x[k] = value;
        t.xt[j * t.n_rows + i] = value;
    }
    kvi_sync_block();
}

/* Sample standard deviations of columns (v.col) and rows (v.row). */
KVI_DEV void deviations(const tile &t, const vectors &v)
{
    for (uint32_t k = threadIdx.x; k < t.n_cols + t.n_rows; k += THREADS) {
        const bool rows = k >= t.n_cols;
        const uint32_t me = rows ? k - t.n_cols : k, n = rows ? t.n_cols : t.n_rows,
                       stride = rows ? t.n_rows : t.n_cols;
        const float *line = (rows ? t.xt : t.x) + me;
        float mean = 0.0f, squares = 0.0f;
#pragma unroll 8
        for (uint32_t i = 0; i < n; i++) mean += line[i * stride];
        mean /= (float)n;
#pragma unroll 8
        for (uint32_t i = 0; i < n; i++) {
            const float a = line[i * stride] - mean;
            squares += a * a;
        }
        (rows ? v.row : v.col)[me] = kvi_sqrt_rn(squares / (float)(n - 1u));
    }
    kvi_sync_block();
}

KVI_DEV double spread(const float *values, uint32_t n)
{
    float low = values[0], high = values[0];
    for (uint32_t i = 1; i < n; i++) {
        if (values[i] < low) low = values[i];
        if (values[i] > high) high = values[i];
    }
    return (double)high / (low > 1e-8f ? (double)low : 1e-8);
}

/* What fill_tile divides by: exp(-log_c), exp(-log_r). */
KVI_DEV void divide(const tile &t, const vectors &v, float *inv_c, float *inv_r)
{
    const uint32_t me = threadIdx.x;
    if (me < t.n_cols) inv_c[me] = kvi_kv_exp(-v.log_c[me]);
    if (me < t.n_rows) inv_r[me] = kvi_kv_exp(-v.log_r[me]);
    kvi_sync_block();
    fill_tile(t, v, inv_c, inv_r);
    deviations(t, v);
}

KVI_DEV void varnorm_paper(const tile &t, const vectors &v)
{
    const uint32_t me = threadIdx.x;
    double least = 0;
    v.log_c[me] = v.log_r[me] = v.best_c[me] = v.best_r[me] = 0.0f;
    fill_tile(t, v, nullptr, nullptr);
    deviations(t, v);
    if (me == 0) least = spread(v.col, t.n_cols) + spread(v.row, t.n_rows);
    for (int k = 1; k <= 8; k++) {
        if (me < t.n_cols) v.log_c[me] = clamp(v.log_c[me] + kvi_kv_log(clamp(v.col[me], 1e-3f, 1e3f)), -0.3f, 10.0f);
        kvi_sync_block();
        divide(t, v, v.mean, v.errors);
        if (me < t.n_rows) v.log_r[me] = clamp(v.log_r[me] + kvi_kv_log(clamp(v.row[me], 1e-3f, 1e3f)), -0.3f, 10.0f);
        kvi_sync_block();
        divide(t, v, v.mean, v.errors);
        if (me == 0) {
            const double now = spread(v.col, t.n_cols) + spread(v.row, t.n_rows);
            v.words[0] = now > least ? 0.0f : 1.0f;
            if (!(now > least)) least = now;
        }
        kvi_sync_block();
        if (v.words[0] != 0.0f) v.best_c[me] = v.log_c[me], v.best_r[me] = v.log_r[me];
        kvi_sync_block();
    }
    if (me < t.n_cols) v.c[me] = kvi_kv_exp(v.best_c[me]);
    if (me < t.n_rows) v.r[me] = kvi_kv_exp(v.best_r[me]);
    kvi_sync_block();
}

/* Both copies times a factor per row (`rows`) or per column. */
KVI_DEV void scale_tile(const tile &t, const float *factor, bool rows)
{
    for (uint32_t k = threadIdx.x; k < t.n_rows * t.n_cols; k += THREADS) {
        t.x[k] *= factor[rows ? k / t.n_cols : k % t.n_cols];
        t.xt[k] *= factor[rows ? k % t.n_rows : k / t.n_rows];
    }
    kvi_sync_block();
}

KVI_DEV void varnorm_kvrt(const tile &t, const vectors &v)
{
    const uint32_t me = threadIdx.x;
    fill_tile(t, v, nullptr, nullptr);
    for (int pass = 0; pass < 2; pass++) {
        deviations(t, v);
        if (me == 0) {
            float sum = 0.0f;
            for (uint32_t i = 0; i < t.n_rows; i++) sum += v.row[i];
            v.words[0] = sum / (float)t.n_rows * 1e-3f;
        }
        kvi_sync_block();
        const float floor_row = v.words[0];
        if (!(floor_row > 0.0f)) return; /* a constant tile; the same for all threads */
        if (me < t.n_rows) v.mean[me] = 1.0f / (v.row[me] > floor_row ? v.row[me] : floor_row);
        kvi_sync_block();
        scale_tile(t, v.mean, true);
        deviations(t, v);
        if (me == 0) {
            float sum = 0.0f;
            for (uint32_t j = 0; j < t.n_cols; j++) sum += v.col[j];
            v.words[0] = sum / (float)t.n_cols * 1e-2f;
        }
        kvi_sync_block();
        const float least = v.words[0];
        if (me < t.n_cols) {
            v.col[me] = v.col[me] > least ? v.col[me] : least;
            v.log_c[me] = kvi_kv_log(v.col[me]);
        }
        kvi_sync_block();
        if (me == 0) {
            float sum = 0.0f;
            for (uint32_t j = 0; j < t.n_cols; j++) sum += v.log_c[j];
            v.words[0] = kvi_kv_exp(-sum / (float)t.n_cols);
        }
        kvi_sync_block();
        const float scale = v.words[0];
        if (me < t.n_cols) {
            v.c[me] *= v.col[me] * scale;
            v.mean[me] = 1.0f / (v.col[me] * scale);
        }
        kvi_sync_block();
        scale_tile(t, v.mean, false);
    }
}

/* --------------------------------------------------------------------------------------------------- quantization --- */
KVI_DEV float squared_error(const float *column, uint32_t n, uint32_t stride, float low, float step, float top)
{
    const float inv = 1.0f / step;
    float error = 0.0f;
#pragma unroll 4
    for (uint32_t j = 0; j < n; j++) {
        const float value = column[j * stride], q = to_code((value - low) * inv, top), e = value - (q * step + low);
        error += e * e;
    }
    return error;
}

/* A row's codes in a range, against the row less its mean. */
struct match {
    float sum, squares, dot;
};
KVI_DEV match match_of(const float *column, uint32_t n, uint32_t stride, float low, float step, float mean, float top)
{
    const float inv = 1.0f / step;
    match m = {0.0f, 0.0f, 0.0f};
#pragma unroll 4
    for (uint32_t j = 0; j < n; j++) {
        const float value = column[j * stride], q = to_code((value - low) * inv, top);
        m.sum += q;
        m.squares += q * q;
        m.dot += q * (value - mean);
    }
    return m;
}

/* Offset and step of all rows as they will be stored, into v.col and v.mean, from the balanced tile; codes are (x - v.best_c) * v.best_r or, where
 * v.best_r is 0, (x - offset) / step. */
KVI_DEV void choose_ranges(const tile &t, const vectors &v, uint32_t bits, uint32_t how)
{
    const uint32_t me = threadIdx.x;
    const float top = (float)((1u << bits) - 1u);
    float *low = v.log_c, *high = v.log_r; /* their logs are no longer needed */
    if (me < t.n_rows) {
        float l = t.xt[me], h = l;
        for (uint32_t j = 1; j < t.n_cols; j++) {
            const float value = t.xt[j * t.n_rows + me];
            l = value < l ? value : l;
            h = value > h ? value : h;
        }
        low[me] = l, high[me] = h;
        float mean = 0.0f;
        for (uint32_t j = 0; j < t.n_cols; j++) mean += t.xt[j * t.n_rows + me];
        v.row[me] = mean / (float)t.n_cols;
    }
    kvi_sync_block();
    const uint32_t tries = how == RANGE_MINMAX     ? 0u
                           : how == RANGE_UNBIASED ? kvi_kv_range_tries(t.is_v)
                                                   : KVI_KV_RANGES;
    for (uint32_t k = me; k < tries * t.n_rows; k += THREADS) {
        const uint32_t i = k % t.n_rows, f = k / t.n_rows;
        const float factor = kvi_kv_range_factor(f);
        const float middle = 0.5f * (low[i] + high[i]), half = 0.5f * (high[i] - low[i]);
        float l = low[i], s = 2.0f * half / top, error = kvi_bits_f32(0x7f800000u);
        if (f == 0 && !(s > 1e-10f)) s = 1e-10f;
        if (f) l = middle - half * factor, s = 2.0f * half * factor / top;
        if (how == RANGE_UNBIASED) {
            const match m = match_of(t.xt + i, t.n_cols, t.n_rows, l, s, v.row[i], top);
            if (half > 0.0f && s > 1e-10f && m.dot > 0.0f)
                error = (m.squares - m.sum * m.sum / (float)t.n_cols) / (m.dot * m.dot);
        } else if (half > 0.0f && s > 1e-10f) error = squared_error(t.xt + i, t.n_cols, t.n_rows, l, s, top);
        v.errors[f * MOST + i] = error;
    }
    kvi_sync_block();
    if (me < t.n_rows) {
        const float middle = 0.5f * (low[me] + high[me]), half = 0.5f * (high[me] - low[me]);
        float l = low[me], s = 2.0f * half / top;
        if (!(s > 1e-10f)) s = 1e-10f;
        float least = kvi_bits_f32(0x7f800000u), inv = 0.0f;
        uint32_t best = KVI_KV_RANGES;
        for (uint32_t f = 0; f < tries; f++)
            if (v.errors[f * MOST + me] < least) least = v.errors[f * MOST + me], best = f;
        if (best > 0u && best < tries)
            l = middle - half * kvi_kv_range_factor(best), s = 2.0f * half * kvi_kv_range_factor(best) / top;
        if (how == RANGE_UNBIASED && best < tries) {
            const float mean = v.row[me], n = (float)t.n_cols;
            float length = 0.0f;
            for (uint32_t j = 0; j < t.n_cols; j++) {
                const float a = t.xt[j * t.n_rows + me] - mean;
                length += a * a;
            }
            const match m = match_of(t.xt + me, t.n_cols, t.n_rows, l, s, mean, top);
            v.best_c[me] = l;
            inv = 1.0f / s;
            s = length / m.dot;
            l = mean - s * (m.sum / n);
        }
        v.best_r[me] = inv;
        v.col[me] = l;
        v.mean[me] = s;
    }
    kvi_sync_block();
}

/* The whole of quantize() in encode_body.h. Everything of the source has been read when the first byte is written. */
KVI_DEV void quantize(const tile &t, const vectors &v, const kvi_cuda_convert_params &p, bool feedback, uint32_t bits,
                      uint8_t *codes, uint8_t *a_out, uint8_t *z_out, uint8_t *o_out)
{
    const uint32_t me = threadIdx.x;
    const float top = (float)((1u << bits) - 1u);
    const bool paper = p.varnorm == VARNORM_PAPER;
    v.c[me] = v.r[me] = 1.0f;
    kvi_sync_block();
    if (paper) varnorm_paper(t, v);
    else if (p.varnorm == VARNORM_KVRT) varnorm_kvrt(t, v);
    kvi_sync_block();
    uint16_t o = 0, a = 0, z = 0;
    if (me < t.n_cols) {
        o = side_f16(v.c[me]);
        if (!paper) v.c[me] = kvi_f16_to_f32(o); /* quantize against what will be read back */
    }
    kvi_sync_block();
    for (uint32_t k = me; k < t.n_rows * t.n_cols; k += THREADS) {
        const uint32_t i = k / t.n_cols, j = k % t.n_cols;
        const float balanced = original(t, v, i, j) / (v.c[j] * v.r[i]);
        t.x[k] = balanced;
        t.xt[j * t.n_rows + i] = balanced;
    }
    kvi_sync_block();
    if (me < t.n_cols) kvi_kv_store16(o_out + 2u * me, o);
    if (feedback) {
        round_with_feedback(t, v, bits, codes, a_out, z_out);
        return;
    }
    choose_ranges(t, v, bits, p.range);
    if (me < t.n_rows) {
        a = side_f16(v.mean[me] * v.r[me]), z = side_f16(v.col[me] * v.r[me]);
        kvi_kv_store16(a_out + 2u * me, a);
        kvi_kv_store16(z_out + 2u * me, z);
        if (!paper) {
            const float stored = kvi_f16_to_f32(a);
            v.mean[me] = stored > 0.0f ? stored : 6e-8f;
            v.col[me] = kvi_f16_to_f32(z);
        }
    }
    kvi_sync_block();
    for (uint32_t k = me; k < t.n_rows * t.n_cols / 8u; k += THREADS) { /* eight codes are `bits` bytes */
        const uint32_t i = k / (t.n_cols / 8u);
        const float inv = v.best_r[i], low = inv > 0.0f ? v.best_c[i] : v.col[i], step = v.mean[i],
                    *line = t.x + 8u * k;
        uint64_t packed = 0;
        for (uint32_t e = 0; e < 8u; e++) {
            const float a = line[e] - low;
            packed |= (uint64_t)(uint32_t)to_code(inv > 0.0f ? a * inv : a / step, top) << (e * bits);
        }
        for (uint32_t b = 0; b < bits; b++) codes[k * bits + b] = (uint8_t)(packed >> (8u * b));
    }
}

/* One scale per token: 8-bit formats, and plain ones. x holds rows = tokens here for K as well; is_v tells V's vectors. */
KVI_DEV void per_token(const tile &t, const vectors &v, kvi_kv_code kind, bool is_v, uint8_t *side)
{
    const uint32_t me = threadIdx.x, d = t.d;
    const kvi_kv_side at = is_v ? kvi_kv_v_side(kind, d) : kvi_kv_k_side(kind, d);
    if (me < KVI_KV_PAGE && !kvi_kv_code_is_plain(kind)) {
        float low = t.xt[me], high = low, most = 0.0f, offset = 0.0f;
        for (uint32_t c = 0; c < d; c++) {
            const float value = t.xt[c * KVI_KV_PAGE + me], size = value < 0.0f ? -value : value;
            low = value < low ? value : low;
            high = value > high ? value : high;
            most = size > most ? size : most;
        }
        uint16_t scale;
        if (is_v && kind == KVI_KV_I8) {
            const uint16_t z = kvi_f32_to_f16(low);
            scale = kvi_f32_to_f16((high - low) / 255.0f);
            offset = kvi_f16_to_f32(z);
            kvi_kv_store16(side + at.z_off + 2u * me, z);
        } else scale = kvi_f32_to_f16(most / (kind == KVI_KV_F8 ? 448.0f : 127.0f));
        kvi_kv_store16(side + (is_v ? at.a_off : at.o_off) + 2u * me, scale);
        float step = kvi_f16_to_f32(scale);
        if (!(step > 0.0f)) step = is_v && kind == KVI_KV_I8 ? 6e-8f : 1.0f;
        v.mean[me] = step;
        v.col[me] = offset;
    }
    kvi_sync_block();
    for (uint32_t k = me; k < KVI_KV_PAGE * d; k += THREADS) {
        const uint32_t token = k / d, c = k % d;
        const float value = t.x[k];
        if (kind == KVI_KV_F32) {
            kvi_kv_store16(side + 4u * k, (uint16_t)kvi_f32_bits(value));
            kvi_kv_store16(side + 4u * k + 2u, (uint16_t)(kvi_f32_bits(value) >> 16));
        } else if (kvi_kv_code_is_plain(kind))
            kvi_kv_store16(side + 2u * k, kind == KVI_KV_F16 ? kvi_f32_to_f16(value) : kvi_f32_to_bf16(value));
        else if (kind == KVI_KV_F8)
            side[at.codes_off + (is_v ? k : c * KVI_KV_PAGE + token)] = kvi_f32_to_e4m3(value / v.mean[token]);
        else if (is_v) side[at.codes_off + k] = (uint8_t)to_code((value - v.col[token]) / v.mean[token], 255.0f);
        else {
            const float q = clamp(value / v.mean[token], -127.0f, 127.0f);
            side[at.codes_off + c * KVI_KV_PAGE + token] = (uint8_t)(int)(((q + 12582912.0f) - 12582912.0f) + 128.0f);
        }
    }
}

/* One side, from `from` (whole, and no longer needed once its values are in the tile) to `to`. */
KVI_DEV void convert_side(const kvi_cuda_convert_params &p, const vectors &v, uint8_t *scratch, const queries &q,
                          const uint8_t *from, kvi_kv_code from_code, uint8_t *to, kvi_kv_code to_code, bool is_v,
                          uint32_t d)
{
    tile t;
    t.x = (float *)scratch;
    t.xt = t.x + d * KVI_KV_PAGE;
    t.metric = t.xt + d * KVI_KV_PAGE;
    t.side = from;
    t.from = from_code;
    t.is_v = is_v;
    t.d = d;
    const kvi_kv_side at = is_v ? kvi_kv_v_side(to_code, d) : kvi_kv_k_side(to_code, d);
    /* The published procedure knows no feedback. Before the tile holds anything, as V's metric is made in it. */
    const bool feedback = to_code >= KVI_KV_Q4 && (kvi_kv_code_is_trellis(to_code) || p.varnorm != VARNORM_PAPER) &&
                          factor_metric(t, v, q);
    if (to_code >= KVI_KV_Q4 && !kvi_kv_code_is_trellis(to_code)) {
        t.n_rows = is_v ? KVI_KV_PAGE : d;
        t.n_cols = is_v ? d : KVI_KV_PAGE;
        quantize(t, v, p, feedback, kvi_kv_code_bits(to_code), to + at.codes_off, to + at.a_off, to + at.z_off,
                 to + at.o_off);
    } else {
        const bool plain = kvi_kv_code_is_plain(to_code), trellis = kvi_kv_code_is_trellis(to_code);
        t.n_rows = d; /* of the trellis: both sides alike; per_token has rows of its own */
        t.n_cols = KVI_KV_PAGE;
        for (uint32_t k = threadIdx.x; k < KVI_KV_PAGE * d; k += THREADS) {
            const uint32_t token = k / d, c = k % d;
            float value = decode(from, from_code, d, is_v, token, c, v.levels);
            if (!plain) value = tame(value);
            (trellis ? t.xt : t.x)[k] = value;
            (trellis ? t.x : t.xt)[c * KVI_KV_PAGE + token] = value;
        }
        kvi_sync_block();
        if (trellis) encode_trellis(t, v, feedback, kvi_kv_code_bits(to_code), to, at);
        else per_token(t, v, to_code, is_v, to);
    }
    kvi_sync_block();
}

/* Sides are multiples of 16 bytes and start at multiples of 16. */
KVI_DEV void copy(uint8_t *to, const uint8_t *from, uint32_t bytes)
{
    for (uint32_t k = threadIdx.x; k < bytes / 16u; k += THREADS) ((uint4 *)to)[k] = ((const uint4 *)from)[k];
    kvi_sync_block();
}

/* `from` and `to` do not overlap. A side whose code stays is copied: it would lose a second time otherwise. */
KVI_DEV void convert_record(const kvi_cuda_convert_params &p, const vectors &v, uint8_t *scratch, const queries &q,
                            const uint8_t *from, uint32_t from_format, uint8_t *to, uint32_t to_format,
                            const kvi_kv_shape &shape)
{
    const uint32_t d = shape.head_dim, d_v = kvi_kv_v_dim(&shape);
    const kvi_kv_code from_k = KVI_KV_K_CODE(from_format), from_v = KVI_KV_V_CODE(from_format);
    const kvi_kv_code to_k = KVI_KV_K_CODE(to_format), to_v = KVI_KV_V_CODE(to_format);
    const uint8_t *values = from + kvi_kv_k_side(from_k, d).bytes;
    uint8_t *to_values = to + kvi_kv_k_side(to_k, d).bytes;
    queries of_v = q;
    of_v.keys = from;
    of_v.keys_code = from_k;
    if (shape.rope_dim) of_v.n = 0;
    if (from_k != to_k) convert_side(p, v, scratch, q, from, from_k, to, to_k, false, d);
    else copy(to, from, kvi_kv_k_side(from_k, d).bytes);
    if (from_v != to_v) convert_side(p, v, scratch, of_v, values, from_v, to_values, to_v, true, d_v);
    else copy(to_values, values, kvi_kv_v_side(from_v, d_v).bytes);
}

KVI_KERNEL(kv_convert, kvi_cuda_convert_params, KVI_CONVERT_THREADS, 1)
{
    KVI_SHARED(float, shared);
    vectors v;
    v.col = shared, v.row = v.col + MOST, v.mean = v.row + MOST, v.log_c = v.mean + MOST, v.log_r = v.log_c + MOST;
    v.best_c = v.log_r + MOST, v.best_r = v.best_c + MOST, v.c = v.best_r + MOST, v.r = v.c + MOST,
    v.words = v.r + MOST, v.errors = v.words + MOST, v.levels = v.errors + 8u * MOST;
    if (threadIdx.x < 2u * KVI_KV_STATES) v.levels[threadIdx.x] = ((const float *)p.levels)[threadIdx.x];
    kvi_sync_block();
    uint8_t *scratch = (uint8_t *)(p.scratch + blockIdx.x * p.scratch_bytes);
    for (uint32_t task = p.first + blockIdx.x; task < p.first + p.n_tasks; task += gridDim.x) {
        uint32_t job = 0;
        while (job + 1u < p.n_jobs && task >= p.first_task[job + 1u]) job++;
        const kvi_kv_shape &shape = p.shapes[p.groups[job]];
        const uint32_t d = shape.head_dim, i = task - p.first_task[job];
        const uint8_t *from = (const uint8_t *)(p.pool + (uint64_t)p.from[job].unit * KVI_KV_UNIT) +
                              (uint64_t)i * kvi_kv_shape_record_bytes(p.from[job].format, &shape);
        uint8_t *to = (uint8_t *)(p.pool + (uint64_t)p.to[job].unit * KVI_KV_UNIT) +
                      (uint64_t)i * kvi_kv_shape_record_bytes(p.to[job].format, &shape);
        if (p.from[job].unit == p.to[job].unit) {
            const uint32_t first = p.first > p.first_task[job] ? p.first : p.first_task[job];
            to = (uint8_t *)p.staged[job] +
                 (uint64_t)(task - first) * kvi_kv_shape_record_bytes(p.to[job].format, &shape);
        }
        const uint32_t n_queries = p.n_queries[p.groups[job]];
        queries q = {{nullptr, nullptr}, 0, nullptr, KVI_KV_F16};
        if (n_queries && p.from[job].format == p.plain[p.groups[job]]) {
            const uint64_t at = p.queries_off[p.groups[job]] + (uint64_t)i * n_queries * d;
            q.n = n_queries;
            q.rows[0] = (const int8_t *)(p.pool + (uint64_t)p.from[job].unit * KVI_KV_UNIT + at);
            if (p.next[job] != KVI_KV_NO_EXTENT)
                q.rows[1] = (const int8_t *)(p.pool + (uint64_t)p.next[job] * KVI_KV_UNIT + at);
        }
        convert_record(p, v, scratch, q, from, p.from[job].format, to, p.to[job].format, shape);
    }
}
