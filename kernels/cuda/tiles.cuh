/* tiles.cuh - how kernels read quantized weights: the tile form (kernels/tile_form.h), which is the CPU's too, from global or shared memory.
 *
 * THE ORDER OF K. A tensor core does not care which columns its sixteen k are, nor which rows its sixteen, as long as both operands and the result
 * agree. In kvrt two k16 steps are a run, and lane 4g + t holds two *quads* of it, four neighbours of a row each: in a gemv quads 2t and 2t + 1
 * (with 8 bits t and 4 + t), of rows 2g and 2g + 1, so that the words of both rows are one load and a word of nibbles serves both steps; in a gemm
 * quads t and 4 + t of rows g and g + 8. So codes need no other order for a tensor core than for the byte products of a CPU, x is read as
 * neighbouring bytes, and a panel of 16 rows is one A operand or two B operands.
 *
 * CODES. Each way to store codes is a struct: `expand` makes f16 of a quad, exactly (codes up to 255 are integers of f16, floats of 8 bits have few
 * enough bits; a table that f16 cannot hold is split in two numbers, `twice`). The factor `unit` belongs to the scale.
 * Integers: a byte under 0x64 is the f16 1024 + code; the zero is taken from it in the same subtraction. By count 1.75 instructions a weight. */
#ifndef KVI_CUDA_TILES_CUH
#define KVI_CUDA_TILES_CUH
#include "tile_params.h"
#include "ptx.cuh"

/* Codes 4q .. 4q + 3 of row `row` of a run, a byte each. */
template <int bits> KVI_DEV uint32_t kvi_tile_quad(const unsigned char *run, uint32_t q, uint32_t row)
{
    const uint32_t *word = (const uint32_t *)run + row; /* a line is 16 words */
    if (bits == 8) return word[16u * q];
    uint32_t codes = 0;
    if (bits >= 4) codes = word[q / 2u * 16u] >> q % 2u * 4u & 0x0f0f0f0fu;
    if (bits == 2 || bits == 3) codes = word[q / 4u * 16u] >> q % 4u * 2u & 0x03030303u;
    if (bits == 6) codes |= (word[64u + q / 4u * 16u] >> q % 4u * 2u & 0x03030303u) << 4;
    if (bits == 5) codes |= (word[64u] >> q & 0x01010101u) << 4;
    if (bits == 3) codes |= (word[32u] >> q & 0x01010101u) << 2;
    return codes;
}
KVI_DEV uint32_t kvi_tile_any_quad(uint32_t bits, const unsigned char *run, uint32_t q, uint32_t row)
{
    return bits == 4u   ? kvi_tile_quad<4>(run, q, row)
           : bits == 8u ? kvi_tile_quad<8>(run, q, row)
           : bits == 5u ? kvi_tile_quad<5>(run, q, row)
           : bits == 6u ? kvi_tile_quad<6>(run, q, row)
           : bits == 2u ? kvi_tile_quad<2>(run, q, row)
                        : kvi_tile_quad<3>(run, q, row);
}

/* The codes of a lane's two quads of a run (gemv), of rows `row` and row + 1, an even one: quads 2t and 2t + 1, or where a step must be half of a
 * run ("halves": groups of 16, and bytes, whose lines are one quad each) t and 4 + t. quad(r, h): quad h of row + r. */
template <int bits, bool halves_> struct kvi_tile_words {
    static constexpr bool halves = halves_ || bits == 8;
    static constexpr bool more_bits = bits == 3 || bits == 5 || bits == 6; /* in lines of their own */
    uint2 low[halves ? 2 : 1], high[halves && bits == 6 ? 2 : 1];
    static KVI_DEV uint2 pair_at(const unsigned char *run, uint32_t word) { return *(const uint2 *)(run + 4u * word); }
    static KVI_DEV uint2 moved(uint2 v, uint32_t by) { return make_uint2(v.x >> by, v.y >> by); }
    KVI_DEV void load(const unsigned char *run, uint32_t t, uint32_t row)
    {
        /* Bits whose place hangs on t come to where those of t = 0 are. */
#pragma unroll
        for (uint32_t h = 0; h < (halves ? 2u : 1u); h++) {
            if (bits == 8) low[h] = pair_at(run, 64u * h + 16u * t + row);
            else if (bits >= 4 && halves) low[h] = moved(pair_at(run, 32u * h + 16u * (t / 2u) + row), t % 2u * 4u);
            else if (bits >= 4) low[h] = pair_at(run, 16u * t + row);
            else if (halves) low[h] = moved(pair_at(run, 16u * h + row), 2u * t);
            else low[h] = moved(pair_at(run, 16u * (t / 2u) + row), t % 2u * 4u);
            if (bits == 6 && halves) high[h] = moved(pair_at(run, 64u + 16u * h + row), 2u * t);
            else if (bits == 6) high[h] = moved(pair_at(run, 64u + 16u * (t / 2u) + row), t % 2u * 4u);
        }
        if (bits == 5) high[0] = moved(pair_at(run, 64u + row), halves ? t : 2u * t);
        if (bits == 3) high[0] = moved(pair_at(run, 32u + row), halves ? t : 2u * t);
    }
    static KVI_DEV uint32_t moved(uint32_t v, int left) { return left >= 0 ? v << left : v >> -left; }
    KVI_DEV uint32_t quad(int r, int h) const
    {
        const uint2 words = low[halves ? h : 0], above = high[halves && bits == 6 ? h : 0];
        const uint32_t w = r ? words.y : words.x, more = r ? above.y : above.x;
        if (bits == 8) return w;
        const int at = halves ? 0 : h; /* how many quads of the word are in front */
        uint32_t codes = bits >= 4 ? moved(w, -4 * at) & 0x0f0f0f0fu : moved(w, -2 * at) & 0x03030303u;
        if (bits == 6) codes = kvi_lop3<0xea>(moved(more, 4 - 2 * at), 0x30303030u, codes); /* (a & b) | c */
        if (bits == 5) codes = kvi_lop3<0xea>(moved(more, 4 - (halves ? 4 * h : h)), 0x10101010u, codes);
        if (bits == 3) codes = kvi_lop3<0xea>(moved(more, 2 - (halves ? 4 * h : h)), 0x04040404u, codes);
        return codes;
    }
};

/* table[code] of four codes below 16, a byte each. A selector of prmt chooses among eight bytes, so both halves are asked. */
KVI_DEV uint32_t kvi_tile_select(uint32_t codes) { return kvi_prmt(codes | codes >> 4, 0u, 0x4420u); }
KVI_DEV uint32_t kvi_tile_look_up(uint32_t selector, const uint32_t *table)
{
    const uint32_t low = selector & 0x7777u, half = 0x3210u | (selector & 0x8888u) >> 1;
    return kvi_prmt_below_8(kvi_prmt_below_8(table[0], table[1], low), kvi_prmt_below_8(table[2], table[3], low), half);
}

/* A quad as f16: pair[0] columns 0 and 1, pair[1] columns 2 and 3. `bias` is 1024 + zero, twice. */
KVI_DEV void kvi_tile_integers(uint32_t quad, uint32_t bias, uint32_t (&pair)[2])
{
    pair[0] = kvi_sub_f16x2(kvi_prmt(quad, 0x64646464u, 0x4140u), bias);
    pair[1] = kvi_sub_f16x2(kvi_prmt(quad, 0x64646464u, 0x4342u), bias);
}
KVI_DEV uint32_t kvi_tile_bias(float zero)
{
    const float biased = 1024.0f + zero;
    return kvi_pack_f16(biased, biased);
}

template <int bits_> struct kvi_codes_integer {
    static constexpr int bits = bits_;
    static constexpr bool twice = false, table = false;
    static constexpr bool powers = false; /* a form of theirs has powers of two as scales, a byte each */
    static constexpr bool apart = false;  /* columns of a pair are two apart, and so must x be */
    static constexpr float unit = 1.0f;
    static KVI_DEV void expand(const kvi_cuda_tile &, uint32_t quad, uint32_t bias, uint32_t (&pair)[2])
    {
        kvi_tile_integers(quad, bias, pair);
    }
    static KVI_DEV void rest(const kvi_cuda_tile &, uint32_t, uint32_t (&)[2]) {}
    /* Both quads of a row of a lane's words, as f16. A whole byte under 0x64 is 1024 + both nibbles; the lower one stays when the upper is masked,
     * and the upper one under 0x54 is 64 + itself. The biases: base + zero of the first, high_base + zero of the second, twice. */
    static constexpr float base = 1024.0f;
    static KVI_DEV constexpr float high_base(bool halves) { return bits == 4 && !halves ? 64.0f : 1024.0f; }
    template <bool halves>
    static KVI_DEV void expand_words(const kvi_cuda_tile &t, const kvi_tile_words<bits, halves> &w, int row,
                                     uint32_t bias, uint32_t high_bias, uint32_t (&pair)[2][2])
    {
        if (bits == 4 && !halves) {
            const uint32_t word = row ? w.low[0].y : w.low[0].x;
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const uint32_t both = kvi_prmt(word, 0x64646464u, i ? 0x4342u : 0x4140u);
                pair[0][i] = kvi_sub_f16x2(both & 0xff0fff0fu, bias);
                pair[1][i] = kvi_sub_f16x2(kvi_lop3<0xea>(both, 0x00f000f0u, 0x54005400u), high_bias);
            }
        } else {
            expand(t, w.quad(row, 0), bias, pair[0]);
            expand(t, w.quad(row, 1), high_bias, pair[1]);
        }
    }
};

/* Four bits that stand for integers: IQ4, E2M1. */
struct kvi_codes_table : kvi_codes_integer<4> {
    static constexpr bool table = true;
    /* A selector of prmt is four nibbles, so half a word is one as it lies: lower nibbles are the first quad, upper ones the second. */
    static KVI_DEV constexpr float high_base(bool) { return 1024.0f; }
    template <bool halves>
    static KVI_DEV void expand_words(const kvi_cuda_tile &t, const kvi_tile_words<4, halves> &w, int row, uint32_t bias,
                                     uint32_t high_bias, uint32_t (&pair)[2][2])
    {
        if (halves) {
            expand(t, w.quad(row, 0), bias, pair[0]);
            expand(t, w.quad(row, 1), high_bias, pair[1]);
            return;
        }
        const uint32_t word = row ? w.low[0].y : w.low[0].x, low = word & 0x77777777u,
                       half = kvi_lop3<0xea>(word >> 1, 0x44444444u, 0x32103210u);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const uint32_t at = 16u * i, first = kvi_prmt_below_8(t.tables[0], t.tables[1], low >> at),
                           second = kvi_prmt_below_8(t.tables[2], t.tables[3], low >> at),
                           of = kvi_prmt_below_8(first, second, half >> at);
            pair[0][i] = kvi_sub_f16x2(kvi_prmt(of, 0x64646464u, 0x4240u), bias);
            pair[1][i] = kvi_sub_f16x2(kvi_prmt(of, 0x64646464u, 0x4341u), high_bias);
        }
    }
    static KVI_DEV void expand(const kvi_cuda_tile &t, uint32_t quad, uint32_t bias, uint32_t (&pair)[2])
    {
        kvi_tile_integers(kvi_tile_look_up(kvi_tile_select(quad), t.tables), bias, pair);
    }
};

/* E2M1: sign, exponent and mantissa moved to where an f16 has them are 2^-14 of the number, small ones too, and 2^-15 of what the scale is
 * for (twice the number). A nibble of either half of a word is a pair as it lies, so the columns of a pair are two apart: k 0 and 2, 1 and 3. */
struct kvi_codes_e2m1 : kvi_codes_integer<4> {
    static constexpr bool powers = true, apart = true;
    static constexpr float unit = 32768.0f;
    /* The numbers of nibble n of both halves. */
    static KVI_DEV uint32_t pair_at(uint32_t word, int n)
    {
        const uint32_t sign = n == 3 ? word : word << (12 - 4 * n);
        const uint32_t rest = n == 3 ? word >> 3 : word << (9 - 4 * n);
        return kvi_lop3<0xea>(sign, 0x80008000u, rest & 0x0e000e00u);
    }
    static KVI_DEV void expand(const kvi_cuda_tile &, uint32_t quad, uint32_t, uint32_t (&pair)[2])
    {
        pair[0] = pair_at(quad, 0);
        pair[1] = pair_at(quad, 2);
    }
    template <bool halves>
    static KVI_DEV void expand_words(const kvi_cuda_tile &t, const kvi_tile_words<4, halves> &w, int row, uint32_t,
                                     uint32_t, uint32_t (&pair)[2][2])
    {
        if (halves) {
            expand(t, w.quad(row, 0), 0u, pair[0]);
            expand(t, w.quad(row, 1), 0u, pair[1]);
            return;
        }
        const uint32_t word = row ? w.low[0].y : w.low[0].x;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            pair[0][i] = pair_at(word, 2 * i);
            pair[1][i] = pair_at(word, 2 * i + 1);
        }
    }
};

/* Four bits that stand for numbers with more bits than an f16 has: NF4 and its like, as the sum of two of them, 1,024 times the number so that
 * the second one has all its bits. */
struct kvi_codes_numbers : kvi_codes_integer<4> {
    static constexpr bool twice = true;
    static constexpr float unit = 1.0f / 1024.0f;
    static KVI_DEV void pairs_of(uint32_t quad, const uint32_t *low_bytes, const uint32_t *high_bytes,
                                 uint32_t (&pair)[2])
    {
        const uint32_t selector = kvi_tile_select(quad), low = kvi_tile_look_up(selector, low_bytes),
                       high = kvi_tile_look_up(selector, high_bytes);
        pair[0] = kvi_prmt(low, high, 0x5140u);
        pair[1] = kvi_prmt(low, high, 0x7362u);
    }
    static KVI_DEV void expand(const kvi_cuda_tile &t, uint32_t quad, uint32_t, uint32_t (&pair)[2])
    {
        pairs_of(quad, t.tables, t.tables + 4, pair);
    }
    static KVI_DEV void rest(const kvi_cuda_tile &t, uint32_t quad, uint32_t (&pair)[2])
    {
        pairs_of(quad, t.tables + 8, t.tables + 12, pair);
    }
    template <bool halves>
    static KVI_DEV void expand_words(const kvi_cuda_tile &t, const kvi_tile_words<4, halves> &w, int row, uint32_t,
                                     uint32_t, uint32_t (&pair)[2][2])
    {
        expand(t, w.quad(row, 0), 0u, pair[0]);
        expand(t, w.quad(row, 1), 0u, pair[1]);
    }
};

/* E5M2 is the upper half of an f16. */
struct kvi_codes_e5m2 : kvi_codes_integer<8> {
    static KVI_DEV void expand(const kvi_cuda_tile &, uint32_t quad, uint32_t, uint32_t (&pair)[2])
    {
        pair[0] = kvi_prmt(quad, 0u, 0x1404u);
        pair[1] = kvi_prmt(quad, 0u, 0x3424u);
    }
    template <bool halves>
    static KVI_DEV void expand_words(const kvi_cuda_tile &t, const kvi_tile_words<8, halves> &w, int row, uint32_t,
                                     uint32_t, uint32_t (&pair)[2][2])
    {
        expand(t, w.quad(row, 0), 0u, pair[0]);
        expand(t, w.quad(row, 1), 0u, pair[1]);
    }
};
/* E4M3 with its exponent where that of an f16 stands is 2^-8 of itself, small numbers too. Its NaN is refused at import. */
struct kvi_codes_e4m3 : kvi_codes_integer<8> {
    static constexpr float unit = 256.0f;
    static KVI_DEV uint32_t moved(uint32_t halves) { return (halves & 0x80008000u) | (halves >> 1 & 0x3f803f80u); }
    static KVI_DEV void expand(const kvi_cuda_tile &, uint32_t quad, uint32_t, uint32_t (&pair)[2])
    {
        pair[0] = moved(kvi_prmt(quad, 0u, 0x1404u));
        pair[1] = moved(kvi_prmt(quad, 0u, 0x3424u));
    }
    template <bool halves>
    static KVI_DEV void expand_words(const kvi_cuda_tile &t, const kvi_tile_words<8, halves> &w, int row, uint32_t,
                                     uint32_t, uint32_t (&pair)[2][2])
    {
        expand(t, w.quad(row, 0), 0u, pair[0]);
        expand(t, w.quad(row, 1), 0u, pair[1]);
    }
};

/* What a code means before zero and scale; exact in f32. */
KVI_DEV float kvi_tile_value(const kvi_cuda_tile &t, uint32_t code)
{
    const uint32_t shift = code % 4u * 8u, word = code / 4u;
    switch (t.form.values) {
    case KVI_TILE_INTEGER: return (float)code;
    case KVI_TILE_OF_E5M2: return kvi_f16_lo(code << 8);
    case KVI_TILE_OF_E4M3: return kvi_f16_lo((code & 127u) << 7 | (code & 128u) << 8) * 256.0f;
    case KVI_TILE_IQ4:
    case KVI_TILE_E2M1: return (float)(t.tables[word] >> shift & 255u);
    default: {
        const uint32_t high = (t.tables[word] >> shift & 255u) | (t.tables[4u + word] >> shift & 255u) << 8,
                       rest = (t.tables[8u + word] >> shift & 255u) | (t.tables[12u + word] >> shift & 255u) << 8;
        return (kvi_f16_lo(high) + kvi_f16_lo(rest)) * kvi_codes_numbers::unit;
    }
    }
}

/* ------------------------------------------------------------------------------------------------------- scales --- */
KVI_DEV float kvi_tile_half(const unsigned char *at) { return kvi_f16_lo(*(const uint16_t *)at); }
KVI_DEV float kvi_tile_plain(const unsigned char *at, uint32_t scale)
{
    if (scale == KVI_TILE_F32) return *(const float *)at;
    const uint32_t half = *(const uint16_t *)at;
    return scale == KVI_TILE_F16 ? kvi_f16_lo(half) : kvi_bf16_lo(half);
}

/* 2^(e - 128); of KVI_TILE_MX 255 is NaN. */
KVI_DEV float kvi_tile_power(const kvi_tile &t, uint32_t e)
{
    return kvi_bits_f32(t.scale == KVI_TILE_MX && e == 255u ? 0x7fc00000u : e < 2u ? 0x00200000u << e : (e - 1u) << 23);
}

/* Scale of group g of a side of n groups for one row, and what belongs to it: the zero as a number, or the min. One IEEE operation at a time,
 * as weight_codec.h has it. */
KVI_DEV void kvi_tile_scale_of(const kvi_tile &t, const unsigned char *panel, const unsigned char *side, uint32_t n,
                               uint32_t g, uint32_t row, float &scale, float &offset)
{
    const uint32_t at = g * KVI_TILE_ROWS + row, each = kvi_tile_scale_bytes(&t);
    const unsigned char *offsets = side + kvi_tile_offsets_at(&t, n),
                        *stored = offsets - n * KVI_TILE_ROWS * each + at * each;
    if (t.scale <= KVI_TILE_F32) scale = kvi_tile_plain(stored, t.scale);
    else if (t.scale == KVI_TILE_SUB)
        scale = kvi_mul_rn(kvi_tile_half(side + 2u * row), (float)(int32_t)(int8_t)*stored);
    else if (t.scale == KVI_TILE_E4M3) {
        const uint32_t code = *stored;
        scale = code == 255u ? kvi_bits_f32(0x7fc00000u)
                             : kvi_mul_rn(kvi_f16_lo((code & 127u) << 7 | (code & 128u) << 8), 128.0f);
    } else scale = kvi_tile_power(t, *stored);
    if (t.global) {
        const float global = *(const float *)panel;
        scale = t.global_divides ? kvi_div_rn(scale, global) : kvi_mul_rn(scale, global);
    }
    if (t.offset == KVI_TILE_CENTRED) offset = (float)t.zero;
    else if (t.offset == KVI_TILE_ZEROS) offset = (float)offsets[at];
    else if (t.scale == KVI_TILE_SUB) offset = -kvi_mul_rn(kvi_tile_half(side + 32u + 2u * row), (float)offsets[at]);
    else offset = kvi_tile_plain(offsets + at * each, t.scale);
}

/* Where the block of column k (any) stands in a panel; its side is there, its codes behind it. */
KVI_DEV const unsigned char *kvi_tile_block_of(const kvi_cuda_tile &t, const unsigned char *panel, uint32_t k)
{
    return panel + t.first_block + (uint64_t)(k / KVI_TILE_BLOCK) * t.block_bytes;
}
KVI_DEV uint32_t kvi_tile_side_of(const kvi_cuda_tile &t, uint32_t k)
{
    return k / KVI_TILE_BLOCK * KVI_TILE_BLOCK == t.last_block ? t.last_side : t.side;
}
KVI_DEV uint32_t kvi_tile_groups_of(const kvi_cuda_tile &t, uint32_t k)
{
    return k / KVI_TILE_BLOCK * KVI_TILE_BLOCK == t.last_block ? t.last_groups : t.groups;
}

#endif
