/* weights.cuh - how a kernel reads weights of plain numbers: one struct per form, eight neighbouring elements of a row at a time. Quantized weights:
 * tiles.cuh.
 *   row(matrix, n)          where row n stands: its codes, and its scales where the form has some
 *   raw                     what a thread holds between load and use
 *   load(row, k)            elements k .. k + 7; k is a multiple of 8; past L1, each is used once
 *   unpack(raw, w)          to f32, exact
 *   operand                 whether codes are what tensor cores multiply, so that gemm copies them as they are; if so:
 *   offset(k), mma(c, a, b) bytes from the start of a row to element k; c += a b */
#ifndef KVI_CUDA_WEIGHTS_CUH
#define KVI_CUDA_WEIGHTS_CUH
#include "linear_params.h"
#include "ptx.cuh"

struct kvi_weight_row {
    const unsigned char *codes, *scales;
};
KVI_DEV kvi_weight_row kvi_row_of(const kvi_cuda_matrix &m, uint32_t n)
{
    return kvi_weight_row{(const unsigned char *)m.codes + (uint64_t)n * m.pitch,
                          (const unsigned char *)m.scales + (uint64_t)n * m.scale_pitch};
}

KVI_DEV void kvi_unpack_f16(const uint4 &v, float (&w)[8])
{
    w[0] = kvi_f16_lo(v.x), w[1] = kvi_f16_hi(v.x), w[2] = kvi_f16_lo(v.y), w[3] = kvi_f16_hi(v.y);
    w[4] = kvi_f16_lo(v.z), w[5] = kvi_f16_hi(v.z), w[6] = kvi_f16_lo(v.w), w[7] = kvi_f16_hi(v.w);
}
KVI_DEV void kvi_unpack_bf16(const uint4 &v, float (&w)[8])
{
    w[0] = kvi_bf16_lo(v.x), w[1] = kvi_bf16_hi(v.x), w[2] = kvi_bf16_lo(v.y), w[3] = kvi_bf16_hi(v.y);
    w[4] = kvi_bf16_lo(v.z), w[5] = kvi_bf16_hi(v.z), w[6] = kvi_bf16_lo(v.w), w[7] = kvi_bf16_hi(v.w);
}
KVI_DEV void kvi_unpack_f32(const uint4 &a, const uint4 &b, float (&w)[8])
{
    w[0] = kvi_bits_f32(a.x), w[1] = kvi_bits_f32(a.y), w[2] = kvi_bits_f32(a.z), w[3] = kvi_bits_f32(a.w);
    w[4] = kvi_bits_f32(b.x), w[5] = kvi_bits_f32(b.y), w[6] = kvi_bits_f32(b.z), w[7] = kvi_bits_f32(b.w);
}

struct kvi_weight_f16 {
    typedef uint4 raw;
    static constexpr bool operand = true;
    static KVI_DEV kvi_weight_row row(const kvi_cuda_matrix &m, uint32_t n) { return kvi_row_of(m, n); }
    static KVI_DEV uint32_t offset(uint32_t k) { return k * 2u; }
    static KVI_DEV raw load(const kvi_weight_row &row, uint32_t k) { return kvi_load128(row.codes + offset(k)); }
    static KVI_DEV void unpack(const raw &v, float (&w)[8]) { kvi_unpack_f16(v, w); }
    static KVI_DEV void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t *b) { kvi_mma_f16(c, a, b); }
};

struct kvi_weight_bf16 : kvi_weight_f16 {
    static KVI_DEV void unpack(const raw &v, float (&w)[8]) { kvi_unpack_bf16(v, w); }
    static KVI_DEV void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t *b) { kvi_mma_bf16(c, a, b); }
};

/* For tests and tiny models: exact, twice the bytes, and no tensor cores. */
struct kvi_weight_f32 {
    struct raw {
        uint4 a, b;
    };
    static constexpr bool operand = false;
    static KVI_DEV kvi_weight_row row(const kvi_cuda_matrix &m, uint32_t n) { return kvi_row_of(m, n); }
    static KVI_DEV raw load(const kvi_weight_row &row, uint32_t k)
    {
        return raw{kvi_load128(row.codes + k * 4u), kvi_load128(row.codes + k * 4u + 16u)};
    }
    static KVI_DEV void unpack(const raw &v, float (&w)[8]) { kvi_unpack_f32(v.a, v.b, w); }
};

#endif
