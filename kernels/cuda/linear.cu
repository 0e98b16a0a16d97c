/* linear.cu - embedding rows, RMSNorm, and the matrix-vector products of decode steps.
 *
 * gemv: a warp owns two outputs, its lanes walk along their rows of W with 16-byte loads, several in flight. x is read from
 * global memory: it is small, so it comes from L1, and no barrier is needed anywhere. The norm in front costs no pass of its own:
 *     y = (sum over k of W[k] g[k] x[k]) / sqrt(mean(x^2) + eps)
 * and the mean is summed along the way. All sums are f32 fused multiply-adds in one fixed order, the same for every number of rows, so
 * that a row's result does not depend on its neighbours. Two outputs per warp because gate and up of one column are two rows.
 *
 * Unproven: no card has timed these kernels. By count, 8 weights cost about 20 instructions where an RTX 3090 has 300 to spare. */
#include "linear.cuh"
#include "warp.cuh"

/* -------------------------------------------------------------------------------------------------------- embed --- */
/* A block per row. */
KVI_KERNEL(embed, kvi_cuda_embed_params, 256, 4)
{
    const kvi_cuda_step *step = (const kvi_cuda_step *)p.step.step;
    const uint32_t r = blockIdx.x;
    if (r >= step->n_rows) return;
    const unsigned char *from = kvi_row_of(p.table, (uint32_t)((const int32_t *)p.step.ids)[r]).codes;
    for (uint32_t i = threadIdx.x; i < p.n_cols; i += blockDim.x) {
        float v;
        if (p.type == KVI_CUDA_F32) v = ((const float *)from)[i];
        else {
            const uint32_t raw = ((const uint16_t *)from)[i];
            v = p.type == KVI_CUDA_F16 ? kvi_f16_lo(raw) : kvi_bf16_lo(raw);
        }
        kvi_put_value(p.y, p.y_type, (uint64_t)r * p.y_pitch + i, p.scale * v);
    }
}

/* ---------------------------------------------------------------------------------------------------- norm_rows --- */
KVI_DEV float4 four_of(const void *x, uint32_t type, uint32_t i)
{
    if (type == KVI_CUDA_F32) return *(const float4 *)((const float *)x + i);
    const uint2 v = *(const uint2 *)((const uint16_t *)x + i);
    if (type == KVI_CUDA_F16) return make_float4(kvi_f16_lo(v.x), kvi_f16_hi(v.x), kvi_f16_lo(v.y), kvi_f16_hi(v.y));
    return make_float4(kvi_bf16_lo(v.x), kvi_bf16_hi(v.x), kvi_bf16_lo(v.y), kvi_bf16_hi(v.y));
}
KVI_DEV float one_of(const void *x, uint32_t type, uint32_t i)
{
    if (type == KVI_CUDA_F32) return ((const float *)x)[i];
    const uint32_t v = ((const uint16_t *)x)[i];
    return type == KVI_CUDA_F16 ? kvi_f16_lo(v) : kvi_bf16_lo(v);
}

/* A block of 256 per row; four columns per thread and turn. Makes the 16-bit operand of a product: normalized, in another order of columns,
 * or just of another type. */
KVI_KERNEL(norm_rows, kvi_cuda_norm_params, 256, 4)
{
    KVI_SHARED(float, part); /* (8) */
    const kvi_cuda_step *step = (const kvi_cuda_step *)p.step.step;
    const uint32_t r = blockIdx.x;
    if (r >= (p.logits ? step->n_logit_rows : step->n_rows)) return; /* the whole block */
    const uint32_t from = p.logits ? ((const uint32_t *)p.step.logit_rows)[r] : r;
    const unsigned char *x =
        (const unsigned char *)p.x + (uint64_t)from * p.x_pitch * (p.x_type == KVI_CUDA_F32 ? 4u : 2u);
    const float *gain = (const float *)p.gain;
    const uint32_t *order = (const uint32_t *)p.order;
    uint32_t *y = (uint32_t *)((uint16_t *)p.y + (uint64_t)r * p.y_pitch);
    float inv = 1.0f;
    if (p.norm) {
        float squares = 0.0f;
        for (uint32_t i = threadIdx.x * 4u; i < p.n_cols; i += blockDim.x * 4u) { /* x is zero beyond n_cols */
            const float4 v = four_of(x, p.x_type, i);
            squares = kvi_fma(v.x, v.x, kvi_fma(v.y, v.y, kvi_fma(v.z, v.z, kvi_fma(v.w, v.w, squares))));
        }
        squares = warp_sum(squares);
        if (threadIdx.x % 32u == 0u) part[threadIdx.x / 32u] = squares;
        kvi_sync_block();
        squares = 0.0f;
        for (uint32_t i = 0; i < blockDim.x / 32u; i++) squares += part[i];
        inv = kvi_div_rn(1.0f, kvi_sqrt_rn(squares / (float)p.n_cols + p.eps));
    }
    const uint32_t end = (p.n_cols + 7u) / 8u * 8u; /* products take eight columns at a time */
    for (uint32_t i = threadIdx.x * 4u; i < end; i += blockDim.x * 4u) {
        float4 v = four_of(x, p.x_type, i),
               g = make_float4(1.0f, 1.0f, 1.0f, 1.0f); /* zero beyond n_cols, x and gain */
        if (gain) g = *(const float4 *)(gain + i);
        if (order) {
            float *v4 = &v.x, *g4 = &g.x;
            for (uint32_t j = 0; j < 4u && i + j < p.n_cols; j++) {
                v4[j] = one_of(x, p.x_type, order[i + j]);
                if (gain) g4[j] = gain[order[i + j]];
            }
        }
        const float a = v.x * inv * g.x, b = v.y * inv * g.y, c = v.z * inv * g.z, d = v.w * inv * g.w;
        const bool bf16 = p.y_type == KVI_CUDA_BF16;
        y[i / 2u] = bf16 ? kvi_pack_bf16(a, b) : kvi_pack_f16(kvi_saturated(a), kvi_saturated(b));
        y[i / 2u + 1u] = bf16 ? kvi_pack_bf16(c, d) : kvi_pack_f16(kvi_saturated(c), kvi_saturated(d));
    }
}

/* ----------------------------------------------------------------------------------------------------- last_row --- */
/* One block. */
KVI_KERNEL(last_row, kvi_cuda_last_params, 256, 4)
{
    const uint64_t last = ((const kvi_cuda_step *)p.step.step)->n_rows - 1u;
    const uint32_t *x = (const uint32_t *)((const unsigned char *)p.x + last * p.pitch_bytes);
    for (uint32_t i = threadIdx.x; i < (p.row_bytes + 3u) / 4u; i += blockDim.x) ((uint32_t *)p.y)[i] = x[i];
}

/* ----------------------------------------------------------------------------------------------------- add_rows --- */
/* A block of 256 per row: what a product leaves for the residual, where that is more than a sum. */
KVI_KERNEL(add_rows, kvi_cuda_add_params, 256, 4)
{
    KVI_SHARED(float, part); /* (8) */
    const uint32_t r = blockIdx.x, bytes = p.x_type == KVI_CUDA_F32 ? 4u : 2u;
    if (r >= ((const kvi_cuda_step *)p.step.step)->n_rows) return; /* the whole block */
    const unsigned char *x = (const unsigned char *)p.x + (uint64_t)r * p.x_pitch * bytes;
    const float *gain = (const float *)p.gain;
    const uint64_t at = (uint64_t)r * p.y_pitch;
    const float *y = (const float *)p.y + at;
    float scale = p.scale;
    if (p.gate) {
        const uint64_t own = (uint64_t)r * p.gate_pitch * (p.gate_type == KVI_CUDA_F32 ? 4u : 2u);
        scale *= kvi_sigmoid(one_of((const unsigned char *)p.gate + own, p.gate_type, 0u));
    }
    const float factor = p.factor ? *(const float *)p.factor : 1.0f;
    for (uint32_t first = 0; first < p.n_cols; first += p.run) {
        float inv = 1.0f;
        if (p.norm) {
            float squares = 0.0f;
            for (uint32_t i = threadIdx.x; i < p.run; i += blockDim.x) {
                const float v = one_of(x, p.x_type, first + i);
                squares = kvi_fma(v, v, squares);
            }
            squares = warp_sum(squares);
            kvi_sync_block(); /* the sums of the run before were read */
            if (threadIdx.x % 32u == 0u) part[threadIdx.x / 32u] = squares;
            kvi_sync_block();
            squares = 0.0f;
            for (uint32_t i = 0; i < blockDim.x / 32u; i++) squares += part[i];
            inv = kvi_div_rn(1.0f, kvi_sqrt_rn(squares / (float)p.run + p.eps));
        }
        for (uint32_t i = threadIdx.x; i < p.run; i += blockDim.x) {
            const float v = one_of(x, p.x_type, first + i) * inv * (gain ? gain[i] : 1.0f);
            kvi_put_value(p.y, p.y_type, at + first + i, factor * ((p.fresh ? 0.0f : y[first + i]) + scale * v));
        }
    }
}

/* --------------------------------------------------------------------------------------------------------- gemv --- */
KVI_DEV void load_x(const unsigned char *x, uint32_t type, uint32_t k, float (&v)[8])
{
    if (type == KVI_CUDA_F32) {
        const uint4 a = *(const uint4 *)(x + k * 4u), b = *(const uint4 *)(x + k * 4u + 16u);
        kvi_unpack_f32(a, b, v);
        return;
    }
    const uint4 a = *(const uint4 *)(x + k * 2u);
    if (type == KVI_CUDA_F16) kvi_unpack_f16(a, v);
    else kvi_unpack_bf16(a, v);
}

/* Sums of one warp: two outputs by `rows` rows of x. */
template <int rows> struct gemv_sums {
    float dot[rows][2], squares[rows];
};

/* Eight columns: both weight rows against every row of x. */
template <class weight, int rows>
KVI_DEV void gemv_step(const kvi_cuda_linear_params &p, const unsigned char *const (&x)[rows], uint32_t k,
                       const typename weight::raw &raw0, const typename weight::raw &raw1, gemv_sums<rows> &s)
{
    float w0[8], w1[8], gain[8] = {1.0f, 1.0f, 1.0f, 1.0f, 1.0f, 1.0f, 1.0f, 1.0f};
    weight::unpack(raw0, w0);
    weight::unpack(raw1, w1);
    if (p.gain) load_x((const unsigned char *)p.gain, KVI_CUDA_F32, k, gain);
#pragma unroll
    for (int r = 0; r < rows; r++) {
        float v[8];
        load_x(x[r], p.x_type, k, v);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            if (p.norm) {
                s.squares[r] = kvi_fma(v[i], v[i], s.squares[r]);
                v[i] = kvi_mul_rn(v[i], gain[i]);
            }
            s.dot[r][0] = kvi_fma(w0[i], v[i], s.dot[r][0]);
            s.dot[r][1] = kvi_fma(w1[i], v[i], s.dot[r][1]);
        }
    }
}

template <class weight, int rows, int ahead> KVI_DEV void gemv(const kvi_cuda_linear_params &p)
{
    const uint32_t own = p.rows_first ? blockIdx.y : blockIdx.x, others = p.rows_first ? blockIdx.x : blockIdx.y;
    const uint32_t lane = threadIdx.x % 32u, task = own * (blockDim.x / 32u) + threadIdx.x / 32u;
    const kvi_block_rows block = kvi_block_rows_of(p, others, rows);
    const bool pair = p.action == KVI_CUDA_GATED;
    const uint32_t n_out = pair ? p.end[0] : p.end[2], o0 = pair ? task : 2u * task;
    if (o0 >= n_out || !block.n) return; /* whole warps, and no barrier follows */
    const uint32_t o1 = pair ? o0 + p.end[0] : o0 + 1u < n_out ? o0 + 1u : o0;
    const kvi_weight_row w0 = kvi_row_at<weight>(p, o0, block.expert), w1 = kvi_row_at<weight>(p, o1, block.expert);
    const unsigned char *x[rows];
    gemv_sums<rows> s;
#pragma unroll
    for (uint32_t r = 0; r < rows; r++) {
        const uint32_t at = block.of_x(p, r < block.n ? r : 0u); /* rows that are not there repeat the first, unused */
        const uint32_t from = p.gather ? ((const uint32_t *)p.step.logit_rows)[at] : at;
        x[r] = (const unsigned char *)p.x + (uint64_t)from * p.x_pitch * (p.x_type == KVI_CUDA_F32 ? 4u : 2u);
        s.dot[r][0] = s.dot[r][1] = s.squares[r] = 0.0f;
    }
    uint32_t k = lane * 8u;
    for (; (k - lane * 8u) + 256u * ahead <= p.n_in; k += 256u * ahead) {
        typename weight::raw raw0[ahead], raw1[ahead];
#pragma unroll
        for (int i = 0; i < ahead; i++)
            raw0[i] = weight::load(w0, k + 256u * i), raw1[i] = weight::load(w1, k + 256u * i);
#pragma unroll
        for (int i = 0; i < ahead; i++) gemv_step<weight, rows>(p, x, k + 256u * i, raw0[i], raw1[i], s);
    }
    for (; k < p.n_in; k += 256u) gemv_step<weight, rows>(p, x, k, weight::load(w0, k), weight::load(w1, k), s);
#pragma unroll
    for (uint32_t r = 0; r < rows; r++) {
        float a = warp_sum(s.dot[r][0]), b = warp_sum(s.dot[r][1]);
        if (p.norm) {
            const float inv = kvi_div_rn(1.0f, kvi_sqrt_rn(kvi_div_rn(warp_sum(s.squares[r]), (float)p.n_in) + p.eps));
            a *= inv, b *= inv;
        }
        if (lane != r || r >= block.n) continue; /* lane r writes row r; nothing collective follows in this turn */
        const uint32_t row = block.of_y(r);
        a += kvi_bias_of(p, o0, block.expert), b += kvi_bias_of(p, o1, block.expert);
        if (pair) kvi_put(p, row, o0, kvi_gated(p, a, b));
        else {
            kvi_put(p, row, o0, a);
            if (o1 != o0) kvi_put(p, row, o1, b);
        }
    }
}

KVI_KERNEL(gemv_f16_n1, kvi_cuda_linear_params, 128, 5) { gemv<kvi_weight_f16, 1, 4>(p); }
KVI_KERNEL(gemv_f16_n2, kvi_cuda_linear_params, 128, 4) { gemv<kvi_weight_f16, 2, 4>(p); }
KVI_KERNEL(gemv_f16_n4, kvi_cuda_linear_params, 128, 4) { gemv<kvi_weight_f16, 4, 4>(p); }
KVI_KERNEL(gemv_f16_n8, kvi_cuda_linear_params, 128, 4) { gemv<kvi_weight_f16, 8, 2>(p); }
KVI_KERNEL(gemv_bf16_n1, kvi_cuda_linear_params, 128, 5) { gemv<kvi_weight_bf16, 1, 4>(p); }
KVI_KERNEL(gemv_bf16_n2, kvi_cuda_linear_params, 128, 4) { gemv<kvi_weight_bf16, 2, 4>(p); }
KVI_KERNEL(gemv_bf16_n4, kvi_cuda_linear_params, 128, 4) { gemv<kvi_weight_bf16, 4, 4>(p); }
KVI_KERNEL(gemv_bf16_n8, kvi_cuda_linear_params, 128, 4) { gemv<kvi_weight_bf16, 8, 2>(p); }
KVI_KERNEL(gemv_f32_n1, kvi_cuda_linear_params, 128, 5) { gemv<kvi_weight_f32, 1, 2>(p); }
KVI_KERNEL(gemv_f32_n4, kvi_cuda_linear_params, 128, 4) { gemv<kvi_weight_f32, 4, 2>(p); }
