/* recurrent.cu - layers that keep a state instead of pages: the short convolution and the gated delta rule (program.h, CONV_STATE and DELTA).
 *
 * conv_state: a thread is a channel and walks sixteen rows. Rows need inputs alone, so blocks of later rows run beside the first one, which is the
 * only one that reads the state, and writes the new one when it has.
 *
 * delta: columns of the state never meet, so a block has 32 columns of one head, a warp eight of them, four lanes a column, a quarter of it each in
 * registers from the first token to the last. Tokens come in batches of 16 through shared memory, q and k normalized once for all columns. With
 * a = k . S and b = q . S of the state before the token,
 *     d = beta (v - decay a),   o = decay b + (q . k) d,   S = decay S + k d,
 * so that both sums are taken in one pass and the state is touched twice per token: four multiply-adds an element. What a token gets does not depend
 * on how the text was cut.
 * A chunked form, which would turn this into matrix products, is not here: by count, 512 tokens of a 27B's layer (48 heads of 128 x 128) take 0.12 ms
 * of an RTX 3090, a hundredth of the layer's products.
 * Unproven: no card has timed these kernels. */
#include "linear.cuh"
#include "recurrent_params.h"
#include "warp.cuh"

KVI_DEV float value_at(kvi_dptr x, uint32_t type, uint64_t i)
{
    if (type == KVI_CUDA_F32) return ((const float *)x)[i];
    const uint32_t raw = ((const uint16_t *)x)[i];
    return type == KVI_CUDA_F16 ? kvi_f16_lo(raw) : kvi_bf16_lo(raw);
}
KVI_DEV void put_at(kvi_dptr y, uint32_t type, uint64_t i, float v)
{
    if (type == KVI_CUDA_F32) ((float *)y)[i] = v;
    else
        ((uint16_t *)y)[i] =
            (uint16_t)(type == KVI_CUDA_BF16 ? kvi_pack_bf16(v, 0.0f) : kvi_pack_f16(kvi_saturated(v), 0.0f));
}

KVI_DEV float *state_of(const kvi_cuda_state &state, const kvi_cuda_seq &seq)
{
    return (float *)(state.pool + (uint64_t)seq.state_unit * KVI_KV_UNIT + state.off);
}

/* --------------------------------------------------------------------------------------------------- conv_state --- */
/* Block: channels, rows of a sequence, sequence. */
KVI_KERNEL(conv_state, kvi_cuda_conv_params, 128, 8)
{
    const uint32_t c = blockIdx.x * KVI_CONV_CHANNELS + threadIdx.x, first = blockIdx.y * KVI_CONV_ROWS;
    if (blockIdx.z >= ((const kvi_cuda_step *)p.step.step)->n_seqs || c >= p.cols) return; /* no barrier follows */
    const kvi_cuda_seq seq = ((const kvi_cuda_seq *)p.step.seqs)[blockIdx.z];
    if (first >= seq.n_rows) return;
    const uint32_t past = p.taps - 1u;
    float *state = state_of(p.state, seq) + c;
    float w[KVI_CONV_TAPS], v[KVI_CONV_TAPS]; /* the last ones are in use */
#pragma unroll
    for (uint32_t j = 0; j < KVI_CONV_TAPS; j++) {
        const uint32_t behind = KVI_CONV_TAPS - 1u - j; /* rows before the current one */
        w[j] = behind < p.taps ? value_at(p.w.codes + (uint64_t)c * p.w.pitch, p.w_type, past - behind) : 0.0f;
        v[j] = 0.0f;
    }
#pragma unroll
    for (uint32_t j = 1; j < KVI_CONV_TAPS; j++) { /* v[j] is the input KVI_CONV_TAPS - j rows before the first row */
        const uint32_t before = KVI_CONV_TAPS - j;
        if (before > past) continue;
        if (first) v[j] = value_at(p.x, p.x_type, (uint64_t)(seq.first_row + first - before) * p.x_pitch + c);
        else if (seq.pos) v[j] = state[(uint64_t)(past - before) * p.cols];
    }
    const float bias = p.bias ? ((const float *)p.bias)[c] : 0.0f;
    const uint32_t end = first + KVI_CONV_ROWS < seq.n_rows ? first + KVI_CONV_ROWS : seq.n_rows;
#pragma unroll 4
    for (uint32_t r = first; r < end; r++) {
        float sum = bias;
#pragma unroll
        for (uint32_t j = 0; j + 1u < KVI_CONV_TAPS; j++) v[j] = v[j + 1u];
        v[KVI_CONV_TAPS - 1u] = value_at(p.x, p.x_type, (uint64_t)(seq.first_row + r) * p.x_pitch + c);
#pragma unroll
        for (uint32_t j = 0; j < KVI_CONV_TAPS; j++) sum = kvi_fma(w[j], v[j], sum);
        put_at(p.y, p.y_type, (uint64_t)(seq.first_row + r) * p.y_pitch + c, kvi_silu(sum));
    }
    if (first) return;
    for (uint32_t j = 0; j < past; j++) { /* ascending: what is read has not been written */
        float kept = 0.0f;
        if (seq.n_rows + j >= past)
            kept = value_at(p.x, p.x_type, (uint64_t)(seq.first_row + seq.n_rows + j - past) * p.x_pitch + c);
        else if (seq.pos) kept = state[(uint64_t)(seq.n_rows + j) * p.cols];
        state[(uint64_t)j * p.cols] = kept;
    }
}

/* -------------------------------------------------------------------------------------------------------- delta --- */
/* log(1 + e), e >= 0, to f32: small ones would be lost in the sum. */
KVI_DEV float log_of_1_and(float e)
{
    if (e > 0.03125f) return kvi_log(1.0f + e);
    return e * (1.0f - e * (0.5f - e * (0.33333333f - e * (0.25f - 0.2f * e))));
}
/* e^x, x <= 0: near one to its last bit, since a state keeps it for thousands of tokens. */
KVI_DEV float decay_of(float x)
{
    if (x < -0.0625f) return kvi_exp(x);
    return kvi_fma(x, 1.0f + x * (0.5f + x * (0.16666667f + x * (0.041666667f + x * 0.0083333333f))), 1.0f);
}

template <int quads> struct delta {
    static constexpr uint32_t keys = 16 * quads, token_floats = 2 * keys + KVI_DELTA_COLUMNS + 4;

    /* q, k, values and scalars of the token in row `row`, by one warp. */
    static KVI_DEV void stage(const kvi_cuda_delta_params &p, uint32_t row, uint32_t head, uint32_t first_column,
                              uint32_t lane, float *to)
    {
        const uint32_t key_head = p.tiled ? head % p.n_key_heads : head / (p.n_heads / p.n_key_heads);
        const uint64_t q_at = (uint64_t)row * p.x_pitch + key_head * p.key_dim, k_at = q_at + p.n_key_heads * p.key_dim,
                       v_at = (uint64_t)row * p.x_pitch + 2u * p.n_key_heads * p.key_dim + head * p.value_dim;
        float q[quads / 2], k[quads / 2], qq = 0.0f, kk = 0.0f, qk = 0.0f;
#pragma unroll
        for (uint32_t i = 0; i < quads / 2; i++) {
            const uint32_t e = lane + 32u * i;
            q[i] = e < p.key_dim ? value_at(p.x, p.x_type, q_at + e) : 0.0f;
            k[i] = e < p.key_dim ? value_at(p.x, p.x_type, k_at + e) : 0.0f;
            qq = kvi_fma(q[i], q[i], qq), kk = kvi_fma(k[i], k[i], kk);
        }
        const float q_unit = kvi_div_rn(1.0f, kvi_sqrt_rn((warp_sum(qq) + 1e-6f) * (float)p.key_dim)),
                    k_unit = kvi_div_rn(1.0f, kvi_sqrt_rn(warp_sum(kk) + 1e-6f));
#pragma unroll
        for (uint32_t i = 0; i < quads / 2; i++) {
            q[i] *= q_unit, k[i] *= k_unit;
            qk = kvi_fma(q[i], k[i], qk);
            to[lane + 32u * i] = q[i];
            to[keys + lane + 32u * i] = k[i];
        }
        qk = warp_sum(qk);
        const uint32_t c = first_column + lane;
        to[2u * keys + lane] = c < p.value_dim ? value_at(p.x, p.x_type, v_at + c) : 0.0f;
        if (lane) return;
        const uint64_t side = (uint64_t)row * p.side_pitch + head;
        float g = 0.0f;
        if (p.decay) {
            const float a = value_at(p.side, p.side_type, side + p.n_heads) + ((const float *)p.shift)[head];
            const float soft = a > 20.0f ? a : log_of_1_and(kvi_exp(a));
            g = -kvi_exp(((const float *)p.decay)[head]) * soft;
        }
        to[2u * keys + KVI_DELTA_COLUMNS] = decay_of(g);
        to[2u * keys + KVI_DELTA_COLUMNS + 1u] = kvi_sigmoid(value_at(p.side, p.side_type, side));
        to[2u * keys + KVI_DELTA_COLUMNS + 2u] = qk;
    }

    /* One token; o of this lane's column. */
    static KVI_DEV float step(const float *token, uint32_t part, uint32_t column, float (&s)[4 * quads])
    {
        const float4 *q = (const float4 *)token + part, *k = (const float4 *)(token + keys) + part;
        const float *rest = token + 2u * keys;
        const float decay = rest[KVI_DELTA_COLUMNS], beta = rest[KVI_DELTA_COLUMNS + 1u],
                    qk = rest[KVI_DELTA_COLUMNS + 2u];
        float a[4] = {0.0f, 0.0f, 0.0f, 0.0f}, b[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
        for (int j = 0; j < quads; j++) {
            const float4 k4 = k[4 * j], q4 = q[4 * j];
            a[0] = kvi_fma(k4.x, s[4 * j], a[0]), b[0] = kvi_fma(q4.x, s[4 * j], b[0]);
            a[1] = kvi_fma(k4.y, s[4 * j + 1], a[1]), b[1] = kvi_fma(q4.y, s[4 * j + 1], b[1]);
            a[2] = kvi_fma(k4.z, s[4 * j + 2], a[2]), b[2] = kvi_fma(q4.z, s[4 * j + 2], b[2]);
            a[3] = kvi_fma(k4.w, s[4 * j + 3], a[3]), b[3] = kvi_fma(q4.w, s[4 * j + 3], b[3]);
        }
        float ks = (a[0] + a[1]) + (a[2] + a[3]), qs = (b[0] + b[1]) + (b[2] + b[3]);
        ks += kvi_shfl_xor(ks, 8), qs += kvi_shfl_xor(qs, 8);
        ks += kvi_shfl_xor(ks, 16), qs += kvi_shfl_xor(qs, 16);
        const float d = beta * (rest[column] - decay * ks);
#pragma unroll
        for (int j = 0; j < quads; j++) {
            const float4 k4 = k[4 * j];
            s[4 * j] = kvi_fma(k4.x, d, decay * s[4 * j]);
            s[4 * j + 1] = kvi_fma(k4.y, d, decay * s[4 * j + 1]);
            s[4 * j + 2] = kvi_fma(k4.z, d, decay * s[4 * j + 2]);
            s[4 * j + 3] = kvi_fma(k4.w, d, decay * s[4 * j + 3]);
        }
        return kvi_fma(qk, d, decay * qs);
    }

    /* Block: columns, head, sequence. */
    static KVI_DEV void run(const kvi_cuda_delta_params &p)
    {
        KVI_SHARED(float, shared);                                              /* (KVI_DELTA_TOKENS, token_floats) */
        if (blockIdx.z >= ((const kvi_cuda_step *)p.step.step)->n_seqs) return; /* the whole block */
        const kvi_cuda_seq seq = ((const kvi_cuda_seq *)p.step.seqs)[blockIdx.z];
        const uint32_t lane = threadIdx.x % 32u, warp = threadIdx.x / 32u, head = blockIdx.y, part = lane / 8u,
                       first_column = blockIdx.x * KVI_DELTA_COLUMNS, column = warp * 8u + lane % 8u,
                       c = first_column + column;
        const bool there = c < p.value_dim;
        float *state = state_of(p.state, seq) + (uint64_t)head * p.key_dim * p.value_dim + c, s[4 * quads];
#pragma unroll
        for (uint32_t i = 0; i < 4 * quads; i++) {
            const uint32_t key = i / 4u * 16u + part * 4u + i % 4u;
            s[i] = there && seq.pos && key < p.key_dim ? state[(uint64_t)key * p.value_dim] : 0.0f;
        }
        for (uint32_t first = 0; first < seq.n_rows; first += KVI_DELTA_TOKENS) {
            const uint32_t left = seq.n_rows - first, n = left < KVI_DELTA_TOKENS ? left : KVI_DELTA_TOKENS;
            for (uint32_t t = warp; t < n; t += 4u)
                stage(p, seq.first_row + first + t, head, first_column, lane, shared + t * token_floats);
            kvi_sync_block();
            for (uint32_t t = 0; t < n; t++) {
                const float o = step(shared + t * token_floats, part, column, s);
                if (part == 0u && there)
                    ((float *)p.o)[(uint64_t)(seq.first_row + first + t) * p.o_pitch + head * p.value_dim + c] = o;
            }
            kvi_sync_block(); /* all are done with these tokens */
        }
#pragma unroll
        for (uint32_t i = 0; i < 4 * quads; i++) {
            const uint32_t key = i / 4u * 16u + part * 4u + i % 4u;
            if (there && key < p.key_dim) state[(uint64_t)key * p.value_dim] = s[i];
        }
    }
};

KVI_KERNEL(delta_k64, kvi_cuda_delta_params, 128, 6) { delta<4>::run(p); }
KVI_KERNEL(delta_k128, kvi_cuda_delta_params, 128, 5) { delta<8>::run(p); }
KVI_KERNEL(delta_k256, kvi_cuda_delta_params, 128, 3) { delta<16>::run(p); }

/* A warp per row and head. */
KVI_KERNEL(delta_norm, kvi_cuda_delta_norm_params, 128, 8)
{
    const uint32_t lane = threadIdx.x % 32u, row = blockIdx.x, head = blockIdx.y * 4u + threadIdx.x / 32u;
    if (row >= ((const kvi_cuda_step *)p.step.step)->n_rows || head >= p.n_heads) return; /* whole warps */
    const float *o = (const float *)p.o + (uint64_t)row * p.o_pitch + head * p.value_dim, *gain = (const float *)p.gain;
    float inv = 1.0f;
    if (p.norm) {
        float squares = 0.0f;
        for (uint32_t i = lane; i < p.value_dim; i += 32u) squares = kvi_fma(o[i], o[i], squares);
        inv = kvi_div_rn(1.0f, kvi_sqrt_rn(warp_sum(squares) / (float)p.value_dim + p.eps));
    }
    for (uint32_t i = lane; i < p.value_dim; i += 32u) {
        float v = o[i] * inv * (p.norm && gain ? gain[i] : 1.0f);
        const uint32_t at = head * p.value_dim + i;
        if (p.gate) v *= kvi_silu(value_at(p.gate, p.gate_type, (uint64_t)row * p.gate_pitch + at));
        put_at(p.y, p.y_type, (uint64_t)row * p.y_pitch + at, v);
    }
}
