/* weights.cuh - how a kernel reads weights: one struct per stored form, eight neighbouring elements of a row at a time. A new form (8 bits, 4 bits
 * with scales per group) is a new struct here and a line per kernel in kernel_list.h; the kernels do not change.
 *   raw                     what a thread holds between load and use
 *   load(row, k)            elements k .. k + 7 of a row; k is a multiple of 8; past L1, each is used once
 *   unpack(raw, w)          to f32, exact
 *   row(data, pitch, n)     address of row n */
#ifndef KVI_CUDA_WEIGHTS_CUH
#define KVI_CUDA_WEIGHTS_CUH
#include "ptx.cuh"

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
    static KVI_DEV const unsigned char *row(kvi_dptr data, uint32_t pitch, uint32_t n)
    {
        return (const unsigned char *)data + (uint64_t)n * pitch * 2u;
    }
    static KVI_DEV raw load(const unsigned char *row, uint32_t k) { return kvi_load128(row + k * 2u); }
    static KVI_DEV void unpack(const raw &v, float (&w)[8]) { kvi_unpack_f16(v, w); }
};

struct kvi_weight_bf16 : kvi_weight_f16 {
    static KVI_DEV void unpack(const raw &v, float (&w)[8]) { kvi_unpack_bf16(v, w); }
};

/* For tests and tiny models: exact, twice the bytes, and no tensor cores. */
struct kvi_weight_f32 {
    struct raw {
        uint4 a, b;
    };
    static KVI_DEV const unsigned char *row(kvi_dptr data, uint32_t pitch, uint32_t n)
    {
        return (const unsigned char *)data + (uint64_t)n * pitch * 4u;
    }
    static KVI_DEV raw load(const unsigned char *row, uint32_t k)
    {
        return raw{kvi_load128(row + k * 4u), kvi_load128(row + k * 4u + 16u)};
    }
    static KVI_DEV void unpack(const raw &v, float (&w)[8]) { kvi_unpack_f32(v.a, v.b, w); }
};

#endif
