/* attention_decode.cuh - split-K decode attention over pages of one format; attention_decode.cu has the instantiations.
 *
 * Work. Page p of a sequence belongs to block p mod splits, in it to slot (p / splits) mod 4, so that few pages spread over all multiprocessors,
 * the grid depends on the card alone, and a recorded launch stays right while the context grows. A slot's pages are one warp's, one after the
 * other, and what the four slots say is joined in one order. Where a page is depends on nothing but its number, so a row has the same bits
 * whatever rows are with it. Pages of another format are another launch's; a block without pages says so and ends. attn_combine joins
 * blocks and formats. Nothing waits for anybody.
 *
 * Columns. A warp has 8 columns of the tensor cores at a time: column = query row * heads per KV head + head. A step of more than eight has its
 * groups of eight side by side in a block: with one group each warp has a slot; with two, two warps have the same pages and a group each,
 * and two slots after another; with three or four every warp has its own group and goes through all slots. Warps of a block meet in L1 what the first
 * of them brought, so four to eight rows read the cache once. Tokens (then channels) are the
 * 16 rows: with 4 heads per KV head that wastes half, the other way round would waste three quarters, and a 3090's tensor cores
 * (one m16n8k16 per 8 cycles and SM with f32 sums) could then barely keep up with its memory.
 *
 * Codes to numbers without a shuffle. Lane (g, t) = (lane / 4, lane % 4) needs, of every product, rows g and g + 8 at depths 2t, 2t+1, 2t+8,
 * 2t+9. Rows and depths may be permuted freely, so they are chosen such that a lane's codes are contiguous in the record:
 *   K (row of codes = channel): row g, g+8 of product j = tokens 16g + 2j, 16g + 2j + 1;  depths of step s = channels 32(s/2) + 8t + 4(s%2) + 0..3
 *   V (row of codes = token):   depths of product j = tokens 32t + 2j, 32t + 16 + 2j | 32t + 2j + 1, 32t + 17 + 2j: what a transpose of the
 *                               score fragments gives;  rows g, g+8 of product i = channels D/8 g + 2i, D/8 g + 2i + 1
 * Two rows of codes are interleaved by PRMT, and one LOP3 makes the pair of F16 numbers (bias + code, bias + code'), where the bias is the power of
 * two whose mantissa starts at those bits: 1024 for the lowest four (two, eight) bits, 256, 64, 16 for those at 2, 4, 6.
 * The biases leave with Z (K), or by the start value of the sum (V), times the sum of what the codes meet, as it was rounded.
 *
 * Scales leave the sums: score = O[t] * (sum (q A) code + sum q Z), out = C[d] * (sum (p A) code + sum p Z). q A and p A are rounded to F16;
 * p A is taken times the power of two that brings the page's largest A to 1024 .. 2048, so that small values do not leave F16's range. */
#ifndef KVI_ATTENTION_DECODE_CUH
#define KVI_ATTENTION_DECODE_CUH
#include "attention_columns.cuh"
#include "rotation.cuh"
#include "warp.cuh"

#define DECODE_WARPS KVI_DECODE_WARPS
#define DECODE_COLS KVI_DECODE_COLS

/* ------------------------------------------------------------------------------------------------------- numbers --- */
KVI_DEV uint32_t take(uint32_t codes, uint32_t mask, uint32_t bias)
{
    return kvi_lop3<0xea>(codes, mask, bias);
} /* (a & b) | c */
KVI_DEV uint32_t word_of(uint4 v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }
KVI_DEV uint32_t word_of(uint2 v, int i) { return i == 0 ? v.x : v.y; }
KVI_DEV uint32_t word_of(uint32_t v, int) { return v; }

/* n bytes of a lane; 32 are two runs of 16, eight lanes' runs apart. */
template <int bytes> struct run;
template <> struct run<2> {
    uint32_t v;
    KVI_DEV void load(const uint8_t *at) { v = *(const uint16_t *)at; }
};
template <> struct run<4> {
    uint32_t v;
    KVI_DEV void load(const uint8_t *at) { v = kvi_load32_l1(at); }
};
template <> struct run<8> {
    uint2 v;
    KVI_DEV void load(const uint8_t *at) { v = kvi_load64_l1(at); }
};
template <> struct run<16> {
    uint4 v;
    KVI_DEV void load(const uint8_t *at) { v = kvi_load128_l1(at); }
};
template <> struct run<32> {
    uint4 v, w;
    KVI_DEV void load(const uint8_t *at) { v = kvi_load128_l1(at), w = kvi_load128_l1(at + 128); }
};
template <int bytes> KVI_DEV uint32_t word_of(const run<bytes> &r, int i) { return word_of(r.v, i); }
template <> KVI_DEV uint32_t word_of<32>(const run<32> &r, int i)
{
    return i < 4 ? word_of(r.v, i) : word_of(r.w, i - 4);
}

/* Fragments of two products from the codes of two rows: lower 16 bits of `p` from one row, upper from the other.
 * frag[i][h]: product i, row half h. */
template <int bits> struct codes;
template <> struct codes<8> { /* 16 bits: one product */
    static constexpr int products = 1;
    KVI_DEV static float bias(int, int) { return 1024.0f; }
    KVI_DEV static uint32_t pair(uint32_t p, int, int half)
    {
        return half ? kvi_prmt(p, 0x64646464u, 0x4341u) : take(p, 0x00ff00ffu, 0x64006400u);
    }
};
template <> struct codes<4> { /* two products */
    static constexpr int products = 2;
    KVI_DEV static float bias(int, int half) { return half ? 64.0f : 1024.0f; }
    KVI_DEV static uint32_t pair(uint32_t p, int i, int half)
    {
        if (i) p >>= 8;
        return half ? take(p, 0x00f000f0u, 0x54005400u) : take(p, 0x000f000fu, 0x64006400u);
    }
};
template <> struct codes<2> { /* four products */
    static constexpr int products = 4;
    KVI_DEV static float bias(int i, int half) { return i & 1 ? (half ? 16.0f : 64.0f) : (half ? 256.0f : 1024.0f); }
    KVI_DEV static uint32_t pair(uint32_t p, int i, int half)
    {
        if (i >= 2) p >>= 8;
        if (i & 1) return half ? take(p, 0x00c000c0u, 0x4c004c00u) : take(p, 0x00300030u, 0x54005400u);
        return half ? take(p, 0x000c000cu, 0x5c005c00u) : take(p, 0x00030003u, 0x64006400u);
    }
};

/* acc[i] += (codes of four rows, pairs of rows in the two halves of a fragment) b; n_acc products of 16 rows each. */
template <int bits, class Run, int n_acc>
KVI_DEV void multiply_codes(const Run (&row)[4], const uint32_t (&b)[2], float (&acc)[n_acc][4])
{
    constexpr int n = codes<bits>::products;
#pragma unroll
    for (int k = 0; k < n_acc / n; k++) {
        const int w = k / 2;
        const uint32_t p = kvi_prmt(word_of(row[0], w), word_of(row[1], w), k % 2 ? 0x7632u : 0x5410u);
        const uint32_t u = kvi_prmt(word_of(row[2], w), word_of(row[3], w), k % 2 ? 0x7632u : 0x5410u);
#pragma unroll
        for (int i = 0; i < n; i++) {
            const uint32_t f[4] = {codes<bits>::pair(p, i, 0), codes<bits>::pair(p, i, 1), codes<bits>::pair(u, i, 0),
                                   codes<bits>::pair(u, i, 1)};
            kvi_mma_f16(acc[k * n + i], f, b);
        }
    }
}

/* ------------------------------------------------------------------------------------------------------------ keys --- */
/* What every token of a page has of a column: zero, in the rows of its fragments; for codes with scales made of sums q Z and q A of the lane's
 * channels. Those are no products of matrices, whose 16 rows would all be alike: of 152 for a page and warp they were 24. */
struct key_sums {
    float zero[4], q_z, q_a;
};

/* Each gives s[j][0..3]: scores of tokens 16g + 2j (0, 1) and 16g + 2j + 1 (2, 3) for columns 2t, 2t + 1, and the factors `o` of the lane's 16
 * tokens. q: shared memory, fragments (D/16 steps, 32 lanes) of 8 bytes. Rows from n_tokens on hold no data. */
template <int D, int bits> struct key_codes {
    static constexpr uint32_t row_bytes = KVI_KV_PAGE * bits / 8;
    static constexpr uint32_t a_off = D * row_bytes, z_off = a_off + 2 * D, o_off = bits == 8 ? a_off : z_off + 2 * D;
    static constexpr uint32_t bytes = o_off + 2 * KVI_KV_PAGE;
    struct stage {
        run<2 * bits> row[4];
    };
    KVI_DEV static void load(const uint8_t *side, uint32_t step, uint32_t g, uint32_t t, stage &r)
    {
        const uint8_t *at = side + (32u * (step / 2u) + 8u * t + 4u * (step % 2u)) * row_bytes + 2u * bits * g;
#pragma unroll
        for (int i = 0; i < 4; i++) r.row[i].load(at + i * row_bytes);
    }
    KVI_DEV static void step(const stage &r, uint2 q, uint2 a, uint2 z, float (&s)[8][4], key_sums &sums)
    {
        uint32_t b[2] = {q.x, q.y};
        if (bits == 8) { /* A = 1, Z = -128: with the bias of 1024, -1152 */
            const uint32_t f[4] = {0xe480e480u, 0xe480e480u, 0xe480e480u, 0xe480e480u};
            kvi_mma_f16(sums.zero, f, b);
        } else {
            sums.q_z = kvi_fma(kvi_f16_lo(z.x), kvi_f16_lo(q.x), kvi_fma(kvi_f16_hi(z.x), kvi_f16_hi(q.x), sums.q_z));
            sums.q_z = kvi_fma(kvi_f16_lo(z.y), kvi_f16_lo(q.y), kvi_fma(kvi_f16_hi(z.y), kvi_f16_hi(q.y), sums.q_z));
            b[0] = kvi_mul_f16x2(b[0], a.x);
            b[1] = kvi_mul_f16x2(b[1], a.y);
            sums.q_a += (kvi_f16_lo(b[0]) + kvi_f16_hi(b[0])) + (kvi_f16_lo(b[1]) + kvi_f16_hi(b[1]));
        }
        multiply_codes<bits>(r.row, b, s);
    }
    /* From the lane's column, g, to those of its scores, 2t and 2t + 1. */
    KVI_DEV static void gather(key_sums &sums, uint32_t t)
    {
        if (bits == 8) return;
#pragma unroll
        for (uint32_t lanes = 1; lanes < 4; lanes *= 2) {
            sums.q_z += kvi_shfl_xor(sums.q_z, lanes);
            sums.q_a += kvi_shfl_xor(sums.q_a, lanes);
        }
#pragma unroll
        for (uint32_t e = 0; e < 4; e++)
            sums.zero[e] = kvi_fma(-codes<bits>::bias(0, e / 2), kvi_shfl(sums.q_a, 8u * t + 4u * (e % 2)),
                                   kvi_shfl(sums.q_z, 8u * t + 4u * (e % 2)));
    }
    KVI_DEV static void scores(const uint8_t *side, const uint2 *q, uint32_t, uint32_t g, uint32_t t, float (&s)[8][4],
                               float (&o)[16])
    {
        key_sums sums = {{0.0f, 0.0f, 0.0f, 0.0f}, 0.0f, 0.0f};
        stage even, odd;
        uint4 a, z, next_a, next_z;
        a = z = next_a = next_z = make_uint4(0, 0, 0, 0);
        const uint8_t *a_at = side + a_off + 16u * t, *z_at = side + z_off + 16u * t;
        const uint2 *q_at = q + 4u * g + t;
        load(side, 0, g, t, even);
        if (bits != 8) a = kvi_load128_l1(a_at), z = kvi_load128_l1(z_at);
        load(side, 1, g, t, odd);
#pragma unroll 1
        for (uint32_t i = 0; i < D / 32; i++) {
            const bool more = i + 1 < D / 32;
            step(even, q_at[64u * i], make_uint2(a.x, a.y), make_uint2(z.x, z.y), s, sums);
            if (more) load(side, 2u * i + 2u, g, t, even);
            if (bits != 8 && more)
                next_a = kvi_load128_l1(a_at + 64u * (i + 1u)), next_z = kvi_load128_l1(z_at + 64u * (i + 1u));
            step(odd, q_at[64u * i + 32u], make_uint2(a.z, a.w), make_uint2(z.z, z.w), s, sums);
            if (more) load(side, 2u * i + 3u, g, t, odd);
            a = next_a, z = next_z;
        }
        gather(sums, t);
        const uint4 o0 = kvi_load128_l1(side + o_off + 32u * g), o1 = kvi_load128_l1(side + o_off + 32u * g + 16u);
#pragma unroll
        for (int j = 0; j < 8; j++) {
#pragma unroll
            for (int e = 0; e < 4; e++) s[j][e] += sums.zero[e];
            const uint32_t pair = j < 4 ? word_of(o0, j) : word_of(o1, j - 4);
            o[2 * j] = kvi_f16_lo(pair);
            o[2 * j + 1] = kvi_f16_hi(pair);
        }
    }
};

template <int D> struct key_f16 {
    static constexpr uint32_t bytes = 2 * D * KVI_KV_PAGE;
    static constexpr int batch =
        D == 256 ? 4 : 8; /* rows in flight: twice this; registers are short where sums take 64 */
    /* Behind the last token stands what nobody wrote, perhaps NaN, which a probability of 0 would not silence: the last token again instead. */
    KVI_DEV static uint4 row(const uint8_t *side, uint32_t token, uint32_t n_tokens, uint32_t at)
    {
        return kvi_load128_l1(side + (token < n_tokens ? token : n_tokens - 1u) * (2u * D) + at);
    }
    KVI_DEV static void scores(const uint8_t *side, const uint2 *q, uint32_t n_tokens, uint32_t g, uint32_t t,
                               float (&s)[8][4], float (&o)[16])
    {
        const uint2 *q_at = q + 4u * g + t;
        uint4 x[batch], y[batch]; /* 32 channels of so many of the lane's 16 tokens, and of the next */
        load(side, 0, n_tokens, g, t, x);
#pragma unroll 1
        for (uint32_t i = 0; i < D / 32; i++) {
            const uint2 even = q_at[64u * i], odd = q_at[64u * i + 32u];
#pragma unroll
            for (int first = 0; first < 16; first += 2 * batch) {
                load(side + 64u * i, first + batch, n_tokens, g, t, y);
                step(x, even, odd, s, first / 2);
                if (first + 2 * batch < 16) load(side + 64u * i, first + 2 * batch, n_tokens, g, t, x);
                else if (i + 1 < D / 32) load(side + 64u * i + 64u, 0, n_tokens, g, t, x);
                step(y, even, odd, s, (first + batch) / 2);
            }
        }
#pragma unroll
        for (int j = 0; j < 16; j++) o[j] = 1.0f;
    }
    KVI_DEV static void load(const uint8_t *side, uint32_t first, uint32_t n_tokens, uint32_t g, uint32_t t,
                             uint4 (&x)[batch])
    {
#pragma unroll
        for (uint32_t i = 0; i < batch; i++) x[i] = row(side, 16u * g + first + i, n_tokens, 16u * t);
    }
    KVI_DEV static void step(const uint4 (&x)[batch], uint2 even, uint2 odd, float (&s)[8][4], int first)
    {
        const uint32_t b[2] = {even.x, even.y}, c[2] = {odd.x, odd.y};
#pragma unroll
        for (int j = 0; j < batch / 2; j++) {
            const uint32_t f[4] = {x[2 * j].x, x[2 * j + 1].x, x[2 * j].y, x[2 * j + 1].y},
                           h[4] = {x[2 * j].z, x[2 * j + 1].z, x[2 * j].w, x[2 * j + 1].w};
            kvi_mma_f16(s[first + j], f, b);
            kvi_mma_f16(s[first + j], h, c);
        }
    }
};

/* ---------------------------------------------------------------------------------------------------------- values --- */
/* Each turns the probabilities p (laid out as the scores) into acc = acc * alpha + p V for columns 2t, 2t + 1; channel(i, g): of acc[i][0..1], the
 * one of acc[i][2..3] is the next. */

/* Fragments of product j for both halves of the depth. */
KVI_DEV void transpose(const float (&p)[8][4], uint32_t (&b)[8][2])
{
#pragma unroll
    for (int j = 0; j < 8; j++) {
        b[j][0] = kvi_transpose8x8(kvi_pack_f16(p[j][0], p[j][1]));
        b[j][1] = kvi_transpose8x8(kvi_pack_f16(p[j][2], p[j][3]));
    }
}

/* A warp's sums over the pages, acc[i][e] of the comments. For head dimension 256 they rest in shared memory between pages, or else 64 registers of a
 * lane would hold them while the page at hand needs those for its own sums. */
template <int D> struct sums_in_registers {
    static constexpr bool in_registers = true;
    float a[D / 16][4];
    KVI_DEV float get(int i, int e) const { return a[i][e]; }
    KVI_DEV void set(int i, int e, float x) { a[i][e] = x; }
};
template <int D> struct sums_in_shared {
    static constexpr bool in_registers = false;
    float *a; /* (D / 16, 4, 32 lanes), the lane's own */
    KVI_DEV float get(int i, int e) const { return a[32 * (4 * i + e)]; }
    KVI_DEV void set(int i, int e, float x) { a[32 * (4 * i + e)] = x; }
};
template <int D> struct sums_of {
    typedef sums_in_registers<D> type;
};
template <> struct sums_of<256> {
    typedef sums_in_shared<256> type;
};

/* Sum over the lanes that share t. */
KVI_DEV float sum_over_rows(float x)
{
    x += kvi_shfl_xor(x, 4);
    x += kvi_shfl_xor(x, 8);
    return x + kvi_shfl_xor(x, 16);
}
KVI_DEV float max_over_rows(float x)
{
    x = kvi_max(x, kvi_shfl_xor(x, 4));
    x = kvi_max(x, kvi_shfl_xor(x, 8));
    return kvi_max(x, kvi_shfl_xor(x, 16));
}

template <int D, int bits> struct value_codes {
    static constexpr uint32_t row_bytes = D * bits / 8, lane_bytes = row_bytes / 8;
    static constexpr uint32_t o_off = KVI_KV_PAGE * row_bytes, a_off = o_off + (bits == 8 ? 0 : 2 * D),
                              z_off = a_off + 2 * KVI_KV_PAGE;
    /* 32 bytes of a lane are two runs, each beside those of the other lanes, or each load would touch twice the sectors. */
    static constexpr uint32_t load_bytes = lane_bytes > 16 ? 16 : lane_bytes;
    KVI_DEV static uint32_t channel(int i, uint32_t g)
    {
        constexpr uint32_t each = 8 * load_bytes / bits; /* channels of a run */
        return 8u * each * (2u * i / each) + each * g + 2u * i % each;
    }
    /* Where merge() keeps the four sums of channels 4 c .. 4 c + 3: lanes that store together, g and g + 1 for all t, fall into different banks. */
    KVI_DEV static uint32_t place(uint32_t c)
    {
        if (D == 64) return (c & ~6u) | (c & 2u) << 1 | (c & 4u) >> 1;
        if (D == 256 && load_bytes == lane_bytes) return c ^ (c >> 3 & 1u) << 2;
        return c;
    }
    struct stage {
        run<lane_bytes> row[4];
    };
    KVI_DEV static void load(const uint8_t *side, int j, uint32_t g, uint32_t t, stage &r)
    {
        const uint8_t *at = side + (32u * t + 2u * j) * row_bytes + load_bytes * g;
        r.row[0].load(at);
        r.row[1].load(at + 16 * row_bytes);
        r.row[2].load(at + row_bytes);
        r.row[3].load(at + 17 * row_bytes);
    }
    template <class Sums>
    KVI_DEV static void blend(const uint8_t *side, uint32_t, uint32_t g, uint32_t t, float (&p)[8][4],
                              const float (&alpha)[2], Sums &acc)
    {
        stage r[2];
        load(side, 0, g, t, r[0]);
        load(side, 1, g, t, r[1]);
        const uint4 a0 = kvi_load128_l1(side + a_off + 32u * g), a1 = kvi_load128_l1(side + a_off + 32u * g + 16u);
        const uint4 z0 = kvi_load128_l1(side + z_off + 32u * g), z1 = kvi_load128_l1(side + z_off + 32u * g + 16u);
        float top = 0.0f, zero[2] = {0.0f, 0.0f};
#pragma unroll
        for (int j = 0; j < 8; j++) {
            const uint32_t a = j < 4 ? word_of(a0, j) : word_of(a1, j - 4);
            top = kvi_max(top, kvi_max(kvi_f16_lo(a), kvi_f16_hi(a)));
        }
        /* 2^(10 - floor(log2 top)), and its inverse */
        uint32_t exponent = kvi_f32_to_bits(max_over_rows(top)) & 0x7f800000u;
        exponent = exponent < (103u << 23) ? 103u << 23 : exponent;
        const float up = kvi_bits_f32((264u << 23) - exponent), down = kvi_bits_f32(exponent - (10u << 23));
#pragma unroll
        for (int j = 0; j < 8; j++) {
            const uint32_t a = j < 4 ? word_of(a0, j) : word_of(a1, j - 4),
                           z = j < 4 ? word_of(z0, j) : word_of(z1, j - 4);
            const float al = kvi_f16_lo(a) * up, ah = kvi_f16_hi(a) * up, zl = kvi_f16_lo(z), zh = kvi_f16_hi(z);
#pragma unroll
            for (int e = 0; e < 2; e++) {
                zero[e] += p[j][e] * zl + p[j][e + 2] * zh;
                p[j][e] *= al;
                p[j][e + 2] *= ah;
            }
        }
        uint32_t b[8][2];
        float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f}, part[D / 16][4];
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const uint32_t pair = kvi_pack_f16(p[j][2 * half], p[j][2 * half + 1]);
                if (bits != 8) sum[0] += kvi_f16_lo(pair), sum[1] += kvi_f16_hi(pair);
                b[j][half] = kvi_transpose8x8(pair);
            }
        if (bits == 8) { /* one row of them; of four bits tensor cores have enough to do */
            const uint32_t ones[4] = {0x3c003c00u, 0x3c003c00u, 0x3c003c00u, 0x3c003c00u};
#pragma unroll
            for (int j = 0; j < 8; j++) kvi_mma_f16(sum, ones, b[j]);
        }
#pragma unroll
        for (int e = 0; e < 2; e++) {
            zero[e] = sum_over_rows(zero[e]) * up;
            if (bits != 8) sum[e] = sum_over_rows(sum[e]);
        }
        constexpr int n = codes<bits>::products;
#pragma unroll
        for (int i = 0; i < D / 16; i++)
#pragma unroll
            for (int e = 0; e < 4; e++) part[i][e] = zero[e & 1] - codes<bits>::bias(i % n, e / 2) * sum[e & 1];
#pragma unroll
        for (int j = 0; j < 8; j++) {
            const stage &x = r[j % 2];
            multiply_codes<bits>(x.row, b[j], part);
            if (j + 2 < 8) load(side, j + 2, g, t, r[j % 2]);
        }
#pragma unroll
        for (int k = 0; k < D / 64; k++) { /* a lane's factors lie side by side */
            uint4 c = make_uint4(0x3c003c00u, 0x3c003c00u, 0x3c003c00u, 0x3c003c00u);
            if (bits != 8) c = kvi_load128_l1(side + o_off + D / 4u * g + 16u * k);
#pragma unroll
            for (int n_th = 0; n_th < 4; n_th++) {
                const int i = 4 * k + n_th;
                const uint32_t pair = word_of(c, n_th);
                const float lo = kvi_f16_lo(pair) * down, hi = kvi_f16_hi(pair) * down;
#pragma unroll
                for (int e = 0; e < 4; e++)
                    acc.set(i, e, acc.get(i, e) * alpha[e & 1] + part[i][e] * (e < 2 ? lo : hi));
            }
        }
    }
};

template <int D> struct value_f16 {
    /* Of the page's eight products how many start their loads together. ptxas starts all that it can; for sm_90 it makes room for eight by spills. */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 900
    static constexpr uint32_t at_once = 4;
#else
    static constexpr uint32_t at_once = 8;
#endif
    KVI_DEV static uint32_t channel(int i, uint32_t g) { return 64u * (i / 4) + 8u * g + 2u * (i % 4); }
    KVI_DEV static uint32_t place(uint32_t c)
    {
        return (c & ~6u) | (c & 2u) << 1 | (c & 4u) >> 1;
    } /* as in value_codes */
    template <class Sums>
    KVI_DEV static void blend(const uint8_t *side, uint32_t n_tokens, uint32_t g, uint32_t t, float (&p)[8][4],
                              const float (&alpha)[2], Sums &acc)
    {
        uint32_t b[8][2];
        transpose(p, b);
        if constexpr (Sums::in_registers) {
#pragma unroll
            for (int i = 0; i < D / 16; i++) {
#pragma unroll
                for (int e = 0; e < 4; e++) acc.a[i][e] *= alpha[e & 1];
            }
#pragma unroll 1
            for (uint32_t first = 0; first < 8u; first += at_once) {
#pragma unroll
                for (uint32_t j = 0; j < at_once; j++)
#pragma unroll
                    for (uint32_t block = 0; block < D / 64; block++)
                        product(side, n_tokens, g, t, first + j, block, b[j], &acc.a[4 * block]);
#pragma unroll
                for (uint32_t j = 0; j < 8u - at_once; j++) b[j][0] = b[j + at_once][0], b[j][1] = b[j + at_once][1];
            }
        } else {
#pragma unroll 1 /* 64 channels at a time, or ptxas starts more loads than there are registers for */
            for (int block = 0; block < D / 64; block++) {
                float part[4][4] = {};
#pragma unroll
                for (uint32_t j = 0; j < 8; j++) product(side, n_tokens, g, t, j, block, b[j], part);
#pragma unroll
                for (int i = 0; i < 4; i++)
#pragma unroll
                    for (int e = 0; e < 4; e++)
                        acc.set(4 * block + i, e, acc.get(4 * block + i, e) * alpha[e & 1] + part[i][e]);
            }
        }
    }
    KVI_DEV static void product(const uint8_t *side, uint32_t n_tokens, uint32_t g, uint32_t t, uint32_t j,
                                uint32_t block, const uint32_t (&b)[2], float (*acc)[4])
    {
        uint4 r[4];
#pragma unroll
        for (uint32_t k = 0; k < 4; k++)
            r[k] =
                key_f16<D>::row(side, 32u * t + 2u * j + 16u * (k & 1u) + (k >> 1), n_tokens, 128u * block + 16u * g);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t w0 = word_of(r[0], i), w1 = word_of(r[1], i), w2 = word_of(r[2], i), w3 = word_of(r[3], i);
            const uint32_t f[4] = {kvi_prmt(w0, w1, 0x5410u), kvi_prmt(w0, w1, 0x7632u), kvi_prmt(w2, w3, 0x5410u),
                                   kvi_prmt(w2, w3, 0x7632u)};
            kvi_mma_f16(acc[i], f, b);
        }
    }
};

/* ---------------------------------------------------------------------------------------------------------- kernel --- */
/* Queries of the block's columns as fragments in shared memory, F16: (groups, D / 16 steps, 32 lanes). */
template <int D>
KVI_DEV void stage_queries(const kvi_cuda_attention_params &p, uint2 *q, const kvi_cuda_seq &seq, uint32_t kv_head,
                           uint32_t first_col, uint32_t n_cols, uint32_t groups)
{
    const uint32_t per_kv = p.n_heads / p.kv.n_kv_heads;
    for (uint32_t i = threadIdx.x; i < groups * (D / 16 * 32u); i += blockDim.x) {
        const uint32_t step = i / 32u % (D / 16), g = i % 32u / 4u, t = i % 4u,
                       col = first_col + i / (D / 16 * 32u) * DECODE_COLS + g;
        uint2 v = make_uint2(0, 0);
        if (col < n_cols) {
            const uint64_t row = seq.first_row + col / per_kv, head = kv_head * per_kv + col % per_kv;
            v = *(const uint2 *)(p.q +
                                 2u * (row * p.q_pitch + head * D + 32u * (step / 2u) + 8u * t + 4u * (step % 2u)));
            if (p.bf16) {
                v.x = kvi_pack_f16(kvi_bf16_lo(v.x), kvi_bf16_hi(v.x));
                v.y = kvi_pack_f16(kvi_bf16_lo(v.y), kvi_bf16_hi(v.y));
            }
        }
        q[i] = v;
    }
}

/* Minus infinity where columns `col` and the next must not look; `first`: position of the lane's first token. */
KVI_DEV void hide(const kvi_cuda_attention_params &p, const kvi_cuda_seq &seq, uint32_t per_kv, uint32_t col,
                  uint32_t last_col, uint32_t n_pos, uint32_t first, float (&s)[8][4])
{
#pragma unroll
    for (uint32_t e = 0; e < 2; e++) {
        const uint32_t pos = seq.pos + (col + e <= last_col ? col + e : last_col) / per_kv,
                       to = p.causal ? pos + 1u : n_pos;
        const uint32_t from = p.kv.window && pos + 1u > p.kv.window ? pos + 1u - p.kv.window : 0u;
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
            for (uint32_t k = 0; k < 2; k++)
                if (first + 2u * j + k < from || first + 2u * j + k >= to) s[j][e + 2u * k] = NEGATIVE_INFINITY;
    }
}

/* The softmax step of one page: scores in powers of two become probabilities relative to the new maximum m. */
KVI_DEV void softmax(float (&s)[8][4], float (&m)[2], float (&l)[2], float (&alpha)[2])
{
    float top[2] = {NEGATIVE_INFINITY, NEGATIVE_INFINITY};
#pragma unroll
    for (int j = 0; j < 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) top[e & 1] = kvi_max(top[e & 1], s[j][e]);
#pragma unroll
    for (int e = 0; e < 2; e++) {
        const float now = kvi_max(m[e], max_over_rows(top[e])), base = now == NEGATIVE_INFINITY ? 0.0f : now;
        alpha[e] = kvi_exp2(m[e] - base);
        m[e] = now;
        float sum = 0.0f;
#pragma unroll
        for (int j = 0; j < 8; j++) {
            s[j][e] = kvi_exp2(s[j][e] - base);
            s[j][e + 2] = kvi_exp2(s[j][e + 2] - base);
            sum += s[j][e] + s[j][e + 2];
        }
        l[e] = l[e] * alpha[e] + sum;
    }
}

/* The columns of a block, and how many groups of eight they are for the block's warps: 1, 2 or 4. */
struct decode_place {
    kvi_columns cols;
    uint32_t groups;
};
template <int D> KVI_DEV bool place_of(const kvi_cuda_attention_params &p, decode_place &out)
{
    const bool found = kvi_columns_of(p, DECODE_COLS * kvi_cuda_decode_groups(D), blockIdx.x % p.col_groups, out.cols);
    const uint32_t n = (out.cols.end - out.cols.first + DECODE_COLS - 1u) / DECODE_COLS;
    out.groups = kvi_cuda_decode_groups(D) == 1u ? 1u : n < 3u ? n : 4u;
    return found;
}
KVI_DEV uint32_t split_of(const kvi_cuda_attention_params &p) { return blockIdx.x / p.col_groups; }

/* The slot that is joined as the `turn`th: 0, 2, 1, 3. With two groups a warp has 0 and 2, or 1 and 3, so that two pages are two warps'. */
KVI_DEV uint32_t slot_place(uint32_t turn) { return turn >> 1 | (turn & 1u) << 1; }

/* What pages before have said, and what (m, l) says, as one: the factors of the sums of either. */
KVI_DEV void join(float &m, float &l, float now_m, float now_l, float &before, float &now)
{
    before = 1.0f, now = 0.0f;
    if (now_m == NEGATIVE_INFINITY) return; /* it has seen nothing */
    const float top = kvi_max(m, now_m);
    before = m == NEGATIVE_INFINITY ? 0.0f : kvi_exp2(m - top);
    now = kvi_exp2(now_m - top);
    l = kvi_fma(now_l, now, kvi_mul_rn(l, before));
    m = top;
}
KVI_DEV float joined(float sum, float before, float more, float now)
{
    return kvi_fma(more, now, kvi_mul_rn(sum, before));
}

/* Results of a block in shared memory: per warp m and l of its eight columns, then its sums (pairs of columns, KVI_DECODE_PAIR). */
template <int D> struct results {
    float *ml, *sums;
    KVI_DEV explicit results(unsigned char *shared)
        : ml((float *)(shared + kvi_cuda_decode_results(D))), sums(ml + 2 * DECODE_WARPS * DECODE_COLS)
    {
    }
    KVI_DEV float *ml_of(uint32_t warp, uint32_t col) const { return ml + 2u * (warp * DECODE_COLS + col); }
    KVI_DEV float *sums_of(uint32_t warp, uint32_t col) const
    {
        return sums + (warp * (DECODE_COLS / 2u) + col / 2u) * KVI_DECODE_PAIR(D) + col % 2u * D;
    }
};

/* The sums of a warp's slot join what the warp holds already; `fresh`: nothing yet. */
template <int D, class Value>
KVI_DEV void put(const results<D> &r, bool fresh, const float (&acc)[D / 16][4], const float (&m)[2],
                 const float (&l)[2])
{
    const uint32_t lane = threadIdx.x % 32u, warp = threadIdx.x / 32u, g = lane / 4u, t = lane % 4u;
#pragma unroll
    for (uint32_t e = 0; e < 2; e++) {
        float *ml = r.ml_of(warp, 2u * t + e), *sums = r.sums_of(warp, 2u * t + e);
        const float mine = sum_over_rows(l[e]);
        if (fresh) {
            if (g == 0) ml[0] = m[e], ml[1] = mine;
#pragma unroll
            for (int i = 0; i < D / 16; i += 2)
                *(float4 *)(sums + 4u * Value::place(Value::channel(i, g) / 4u)) =
                    make_float4(acc[i][e], acc[i][e + 2], acc[i + 1][e], acc[i + 1][e + 2]);
            continue;
        }
        float top = ml[0], total = ml[1], before, now;
        join(top, total, m[e], mine, before, now);
        kvi_sync_warp(); /* all lanes have read what one of them writes */
        if (g == 0) ml[0] = top, ml[1] = total;
#pragma unroll
        for (int i = 0; i < D / 16; i += 2) {
            float4 *at = (float4 *)(sums + 4u * Value::place(Value::channel(i, g) / 4u)), x = *at;
            *at = make_float4(joined(x.x, before, acc[i][e], now), joined(x.y, before, acc[i][e + 2], now),
                              joined(x.z, before, acc[i + 1][e], now), joined(x.w, before, acc[i + 1][e + 2], now));
        }
    }
    kvi_sync_warp();
}

/* What the warp holds joins what warp `from` does. */
template <int D> KVI_DEV void put_behind(const results<D> &r, uint32_t from)
{
    const uint32_t lane = threadIdx.x % 32u, warp = threadIdx.x / 32u;
#pragma unroll 1
    for (uint32_t col = 0; col < DECODE_COLS; col++) {
        float *ml = r.ml_of(warp, col), *into = r.sums_of(warp, col);
        const float *held = r.sums_of(from, col);
        float top = r.ml_of(from, col)[0], total = r.ml_of(from, col)[1], before, now;
        join(top, total, ml[0], ml[1], before, now);
        kvi_sync_warp();
        if (lane == 0) ml[0] = top, ml[1] = total;
#pragma unroll
        for (uint32_t d = lane; d < D; d += 32u) into[d] = joined(held[d], before, into[d], now);
    }
    kvi_sync_warp();
}

/* One partial result per column of the block, from the warps that hold it: all four slots of one group, or a warp for each group. The place in the
 * batch is read again: registers are short in the loop. */
template <int D, class Value> KVI_DEV void leave(const kvi_cuda_attention_params &p, const results<D> &r)
{
    decode_place at;
    (void)place_of<D>(p, at);
    const uint32_t n_cols = at.cols.end - at.cols.first, first_warp = at.groups == 1u ? 0u : DECODE_WARPS - at.groups;
    const bool one = at.groups == 1u;
    if (threadIdx.x < n_cols) { /* the column's place takes that of m and l, factors of further slots theirs */
        const uint32_t col = threadIdx.x;
        float *ml = r.ml_of(first_warp + col / DECODE_COLS, col % DECODE_COLS), top = ml[0], total = ml[1];
#pragma unroll
        for (uint32_t turn = 1; turn < DECODE_WARPS; turn++) {
            if (!one) break;
            float *of = r.ml_of(slot_place(turn), col), before, now;
            join(top, total, of[0], of[1], before, now);
            of[0] = before, of[1] = now;
        }
        const kvi_cuda_seq seq = ((const kvi_cuda_seq *)p.step.seqs)[at.cols.seq];
        const uint64_t slot = kvi_slot_of(p, seq, blockIdx.y, at.cols.first + col, split_of(p));
        *(uint32_t *)ml = (uint32_t)slot; /* slots are fewer than bytes of memory that they take */
        *(float2 *)(p.ml + 8u * slot) = make_float2(top, total);
    }
    kvi_sync_block();
#pragma unroll 4
    for (uint32_t i = threadIdx.x; i < n_cols * D; i += 32u * DECODE_WARPS) {
        const uint32_t col = i / D, d = i % D, place = 4u * Value::place(d / 4u) + d % 4u,
                       warp = first_warp + col / DECODE_COLS;
        float sum = r.sums_of(warp, col % DECODE_COLS)[place];
        if (one)
#pragma unroll
            for (uint32_t turn = 1; turn < DECODE_WARPS; turn++) {
                const float2 factors = *(const float2 *)r.ml_of(slot_place(turn), col);
                sum = joined(sum, factors.x, r.sums_of(slot_place(turn), col)[place], factors.y);
            }
        const uint64_t slot = *(const uint32_t *)r.ml_of(warp, col % DECODE_COLS);
        ((float *)p.acc)[slot * D + d] = sum;
    }
}

/* The first page at or behind `least` of those that are `stride` apart. */
KVI_DEV uint32_t not_before(uint32_t page, uint32_t least, uint32_t stride)
{
    return page < least ? page + (least - page + stride - 1u) / stride * stride : page;
}

/* Whether one of the warp's pages is of the launch's format; all lanes get the answer. With more groups than one all pages of the block are looked
 * at. */
KVI_DEV uint32_t has_pages(const kvi_cuda_attention_params &p, const kvi_page_ref *pages, uint32_t slot,
                           uint32_t first_seen, uint32_t end, uint32_t groups)
{
    const uint32_t stride = groups == 1u ? p.n_splits * DECODE_WARPS : p.n_splits;
    const uint32_t first = not_before(split_of(p) + (groups == 1u ? slot * p.n_splits : 0u), first_seen, stride);
    uint32_t found = 0;
    for (uint32_t page = first + threadIdx.x % 32u * stride; page < end; page += 32u * stride) {
        const kvi_page_ref ref = pages[page];
        found |= ref.format == p.format && ref.unit != KVI_KV_NO_EXTENT;
    }
#pragma unroll
    for (uint32_t mask = 16; mask; mask /= 2) found |= kvi_shfl_xor(found, mask);
    return found;
}

/* Shared memory: queries (groups, D / 16, 32, 2), with D = 256 the warps' sums; results, see kvi_cuda_decode_results. Behind all a word per warp. */
template <int D, class Key, class Value> KVI_DEV void attn_decode(const kvi_cuda_attention_params &p)
{
    KVI_SHARED(unsigned char, shared);
    const uint32_t lane = threadIdx.x % 32u, warp = threadIdx.x / 32u, g = lane / 4u, t = lane % 4u;
    const uint32_t n_kv = p.kv.n_kv_heads, per_kv = p.n_heads / n_kv, kv_head = blockIdx.y;
    decode_place at;
    if (!place_of<D>(p, at)) return;
    const kvi_cuda_seq seq = ((const kvi_cuda_seq *)p.step.seqs)[at.cols.seq];
    const kvi_page_ref *pages =
        (const kvi_page_ref *)p.step.pages + ((uint64_t)at.cols.seq * p.step.n_groups + p.kv.group) * p.step.max_pages;

    /* The warp's group, and the first of as many turns at slots as there are groups. Behind the last group a warp has no pages. */
    const uint32_t groups = at.groups, group = warp % groups,
                   first_turn = groups == 1u ? slot_place(warp) : warp - group;
    const uint32_t first_col = at.cols.first + group * DECODE_COLS,
                   last_col = first_col + DECODE_COLS < at.cols.end ? first_col + DECODE_COLS - 1u : at.cols.end - 1u;
    const uint32_t low = seq.pos + first_col / per_kv,
                   high = seq.pos + last_col / per_kv; /* positions of the warp's queries */
    const uint32_t n_pos = p.causal ? high + 1u : seq.pos + seq.n_rows;
    const uint32_t first_seen = (p.kv.window && low + 1u > p.kv.window ? low + 1u - p.kv.window : 0u) / KVI_KV_PAGE;
    const uint32_t end = first_col < at.cols.end ? (n_pos + KVI_KV_PAGE - 1u) / KVI_KV_PAGE : 0u;
    const uint32_t stride = p.n_splits * DECODE_WARPS;
    uint2 *q = (uint2 *)shared;
    uint32_t *flags = (uint32_t *)(shared + kvi_cuda_decode_flags(D));
    stage_queries<D>(p, q, seq, kv_head, at.cols.first, at.cols.end, groups);
    const uint32_t found = has_pages(p, pages, warp, first_seen, end, groups);
    if (lane == 0) flags[warp] = found;
    kvi_sync_block();
    if ((flags[0] | flags[1] | flags[2] | flags[3]) == 0) {
        if (at.cols.first + threadIdx.x < at.cols.end) {
            float *ml = (float *)p.ml + 2u * kvi_slot_of(p, seq, kv_head, at.cols.first + threadIdx.x, split_of(p));
            ml[0] = NEGATIVE_INFINITY;
            ml[1] = 0.0f;
        }
        return;
    }
    const results<D> result(shared);
    typename sums_of<D>::type acc;
    if constexpr (D == 256) acc.a = (float *)(q + D / 16 * 32) + warp * (D / 4 * 32) + lane;
    q += group * (D / 16 * 32);
    const uint32_t record_bytes = kvi_kv_record_bytes(p.format, D);
#pragma unroll 1
    for (uint32_t turn = 0; turn < groups; turn++) {
        float m[2] = {NEGATIVE_INFINITY, NEGATIVE_INFINITY}, l[2] = {0.0f, 0.0f};
#pragma unroll
        for (int i = 0; i < D / 16; i++)
#pragma unroll
            for (int e = 0; e < 4; e++) acc.set(i, e, 0.0f);
        const uint32_t first = split_of(p) + slot_place(first_turn + turn) * p.n_splits;
        for (uint32_t page = not_before(first, first_seen, stride); page < end; page += stride) {
            const kvi_page_ref ref = pages[page];
            if (ref.format != p.format || ref.unit == KVI_KV_NO_EXTENT) continue;
            const uint8_t *side = (const uint8_t *)(p.kv.pool + (uint64_t)ref.unit * KVI_KV_UNIT +
                                                    (uint64_t)(p.kv.layer * n_kv + kv_head) * record_bytes);
            const uint32_t first_pos = page * KVI_KV_PAGE,
                           n_tokens = n_pos - first_pos < KVI_KV_PAGE ? n_pos - first_pos : KVI_KV_PAGE;
            const bool all = first_pos + KVI_KV_PAGE <= (p.causal ? low + 1u : n_pos) &&
                             (!p.kv.window || first_pos + p.kv.window > high);
            float s[8][4], o[16], alpha[2];
#pragma unroll
            for (int j = 0; j < 8; j++) s[j][0] = s[j][1] = s[j][2] = s[j][3] = 0.0f;
            Key::scores(side, q, n_tokens, g, t, s, o);
#pragma unroll
            for (int j = 0; j < 8; j++)
#pragma unroll
                for (int e = 0; e < 4; e++) s[j][e] *= o[2 * j + e / 2] * p.scale_log2;
            if (p.cap > 0.0f)
#pragma unroll
                for (int j = 0; j < 8; j++)
#pragma unroll
                    for (int e = 0; e < 4; e++) s[j][e] = kvi_capped_score(s[j][e], p.cap, p.cap_inv);
            if (!all) hide(p, seq, per_kv, first_col + 2u * t, last_col, n_pos, first_pos + 16u * g, s);
            softmax(s, m, l, alpha);
            Value::blend(side + Key::bytes, n_tokens, g, t, s, alpha, acc);
        }
        float sums[D / 16][4];
#pragma unroll
        for (int i = 0; i < D / 16; i++)
#pragma unroll
            for (int e = 0; e < 4; e++) sums[i][e] = acc.get(i, e);
        if (D == 256) kvi_sync_block(); /* results begin where queries and sums stand */
        /* Of two groups the warps with the later slots wait for what the others say of the same group. */
        const bool last = turn + 1u == groups, late = last && groups == 2u && first_turn != 0u;
#pragma unroll 1
        for (uint32_t phase = 0; phase < 2u; phase++) {
            if (phase == (late ? 1u : 0u)) {
                if (late) put_behind<D>(result, group);
                put<D, Value>(result, turn == 0u, sums, m, l);
            }
            if (last) kvi_sync_block();
        }
    }
    leave<D, Value>(p, result);
}

#endif
