/* tile_form.h - the kernel form of quantized weights, of the CPU and of CUDA: what the kernels read. Codes and scales of the file, moved and not
 * changed, so that the numbers of weight_codec.h come out of it bit for bit (ops.tiles).
 *
 *   weight = experts; expert = panels of 16 rows; panel = [row side] blocks of 256 k; block = side, codes
 *
 *   codes: runs of 32 k, each `bits` lines of 64 bytes. A line is 16 rows x 4 bytes, row r at byte 4 r:
 *     bits 8      line i: k = 4 i .. 4 i + 3                                    (8 lines)
 *     nibbles     line i: low halves k = 8 i .. + 3, high halves 8 i + 4 .. + 7 (4 lines)
 *     pairs       line i: bits 2 j, 2 j + 1 of a byte k = 16 i + 4 j ..  + 3    (2 lines)
 *     single bits bit j of a byte k = 4 j .. + 3                                (1 line)
 *     5 = nibbles, then single bits for bit 4; 6 = nibbles, then pairs; 3 = pairs, then single bits
 *   side: 16 of each, row by row, for every group of the block; the whole rounded up to 64 bytes
 *     plain scales (F16, BF16, F32) of all groups, then mins of the same type or zeros, a byte each
 *     small scales (E8M0, E4M3), a byte each
 *     sub-scales: d (F16), dmin (F16) once, then a signed byte for every group, then a byte for every min
 *   A group that is the whole row has its side in front of the blocks, and so has an f32 that belongs to all scales.
 *
 * Why so: a line, split into halves, is the operand of one 8-bit dot product (vpdpbusd: 16 rows x 4 k) against four activations that all rows
 * share, so that nothing is summed across lanes and a scale is applied to 16 rows at once; two runs, expanded to bytes, are the B operand of
 * an AMX product (64 k x 16 columns, four k interleaved). A panel is also the A operand of a CUDA tensor core, and half of it two B operands: a
 * quad, four neighbours of a row, is what a lane holds of 16 k (kernels/cuda/tiles.cuh). One order serves gemv, gemm and every instruction set. */
#ifndef KVI_TILE_FORM_H
#define KVI_TILE_FORM_H
#ifndef __CUDACC__ /* device code sees the form alone, and NVRTC has no <stddef.h> */
#include "../runtime/base/status.h"
#endif
#include "weight.h"

#include <stdbool.h>

#define KVI_TILE_VERSION 1u /* one more whenever the bytes of a panel change: files keep them (model.cache) */
#define KVI_TILE_ROWS 16u
#define KVI_TILE_RUN 32u
#define KVI_TILE_BLOCK 256u
#define KVI_TILE_LINE 64u
#define KVI_TILE_STEP 128u /* k of an integer sum, at most: activations have one scale for that many */

/* What a code means before zero and scale. Tables are stored so that no entry is negative; `zero` takes that back. */
typedef enum kvi_tile_values {
    KVI_TILE_INTEGER, /* itself */
    KVI_TILE_IQ4,     /* 128 + the table of IQ4_NL */
    KVI_TILE_E2M1,    /* 12 + twice the number */
    /* No integers: multiplied by f32 activations only, code * scale. */
    KVI_TILE_FLOATS, /* from here on */
    KVI_TILE_OF_E4M3 = KVI_TILE_FLOATS,
    KVI_TILE_OF_E5M2,
    KVI_TILE_NF4,
    KVI_TILE_BNB_FP4
} kvi_tile_values;

typedef enum kvi_tile_scale {
    KVI_TILE_F16,
    KVI_TILE_BF16,
    KVI_TILE_F32,
    KVI_TILE_E8M0, /* 2^(code - 128) */
    KVI_TILE_MX,   /* the same, but 255 is NaN */
    KVI_TILE_E4M3, /* half of the number; 0x7f is 480, 0xff NaN */
    KVI_TILE_SUB   /* d * signed byte */
} kvi_tile_scale;

typedef enum kvi_tile_offset {
    KVI_TILE_CENTRED, /* (code - zero) * scale */
    KVI_TILE_ZEROS,   /* (code - byte) * scale */
    KVI_TILE_MINS     /* code * scale + min; with sub-scales code * scale - dmin * byte */
} kvi_tile_offset;

typedef struct kvi_tile {
    uint8_t bits; /* of a stored code: 2, 3, 4, 5, 6, 8; 0: the weight has no tile form */
    uint8_t values, scale, offset;
    uint8_t zero;   /* of KVI_TILE_CENTRED */
    bool whole_row; /* one scale for a row */
    bool global;    /* an f32 that scales are multiplied with, or divided by, stands in the first line of every panel */
    bool global_divides;
    uint16_t group; /* k of a scale: 16, 32, 64, 128 or 256 */
    uint16_t step;  /* k of an integer sum: min(group, KVI_TILE_STEP) */
    uint16_t ahead,
        ahead_of_several; /* bytes that a gemv of one row, of more asks for in advance: of the CPU, not of the form */
    uint32_t n_out, n_in, n_experts;
    uint64_t panel_bytes;
} kvi_tile;

KVI_HD static inline uint64_t kvi_tile_line_round(uint64_t bytes) { return (bytes + 63u) & ~(uint64_t)63u; }

/* The tile form of a weight; false when it has none, and rows of it are decoded instead. Of the shape alone. */
bool kvi_tile_of(const kvi_weight_desc *desc, kvi_tile *out);

KVI_HD static inline uint32_t kvi_tile_scale_bytes(const kvi_tile *t)
{
    return t->scale == KVI_TILE_F32 ? 4u : t->scale <= KVI_TILE_BF16 ? 2u : 1u;
}
/* Where mins or zeros begin behind the scales of n groups; with sub-scales behind d, dmin and them. */
KVI_HD static inline uint32_t kvi_tile_offsets_at(const kvi_tile *t, uint32_t n_groups)
{
    const uint32_t heads = t->scale != KVI_TILE_SUB ? 0 : t->offset == KVI_TILE_MINS ? 64u : 32u;
    return heads + n_groups * KVI_TILE_ROWS * kvi_tile_scale_bytes(t);
}
KVI_HD static inline uint32_t kvi_tile_side_bytes(const kvi_tile *t, uint32_t n_groups)
{
    const uint32_t each = t->offset == KVI_TILE_CENTRED ? 0
                          : t->offset == KVI_TILE_ZEROS ? 1u
                                                        : kvi_tile_scale_bytes(t);
    return (uint32_t)kvi_tile_line_round(kvi_tile_offsets_at(t, n_groups) + n_groups * KVI_TILE_ROWS * each);
}
/* Columns of the block that begins at k, and its groups, 0 when they are the row's. */
KVI_HD static inline uint32_t kvi_tile_block_columns(const kvi_tile *t, uint32_t k)
{
    return t->n_in - k < KVI_TILE_BLOCK ? t->n_in - k : KVI_TILE_BLOCK;
}
KVI_HD static inline uint32_t kvi_tile_block_groups(const kvi_tile *t, uint32_t k)
{
    return t->whole_row ? 0 : (kvi_tile_block_columns(t, k) + t->group - 1u) / t->group;
}
KVI_HD static inline uint32_t kvi_tile_block_side(const kvi_tile *t, uint32_t k)
{
    return t->whole_row ? 0 : kvi_tile_side_bytes(t, kvi_tile_block_groups(t, k));
}
KVI_HD static inline uint32_t kvi_tile_run_bytes(const kvi_tile *t) { return t->bits * KVI_TILE_LINE; }
KVI_HD static inline uint64_t kvi_tile_block_bytes(const kvi_tile *t, uint32_t k)
{
    const uint32_t runs = (kvi_tile_block_columns(t, k) + KVI_TILE_RUN - 1u) / KVI_TILE_RUN;
    return kvi_tile_block_side(t, k) + (uint64_t)runs * kvi_tile_run_bytes(t);
}
/* Start of the block at k, a multiple of 256, from the start of its panel. */
KVI_HD static inline uint64_t kvi_tile_block_at(const kvi_tile *t, uint32_t k)
{
    return (t->global      ? KVI_TILE_LINE
            : t->whole_row ? kvi_tile_side_bytes(t, 1)
                           : 0) +
           (k ? k / KVI_TILE_BLOCK * kvi_tile_block_bytes(t, 0) : 0);
}
KVI_HD static inline uint32_t kvi_tile_panels(const kvi_tile *t)
{
    return (t->n_out + KVI_TILE_ROWS - 1u) / KVI_TILE_ROWS;
}
KVI_HD static inline uint64_t kvi_tile_bytes(const kvi_tile *t)
{
    return t->panel_bytes * kvi_tile_panels(t) * (t->n_experts > 1u ? t->n_experts : 1u);
}

/* The same panel of a weight that is to be rounded from its source (desc->source, quantize.h), never standing anywhere as rows. scratch:
 * kvi_tile_round_scratch floats. */
uint64_t kvi_tile_round_scratch(const kvi_weight_desc *desc);
void kvi_tile_round(const kvi_tile *tile, const kvi_weight_desc *desc, uint32_t expert, uint32_t panel, float *scratch,
                    uint8_t *to);
/* Lays panel `panel` of an expert anew from the source. `to` has panel_bytes. order: column that comes to each place; NULL: its own. */
void kvi_tile_lay(const kvi_tile *t, const kvi_weight_desc *desc, uint32_t expert, uint32_t panel,
                  const uint32_t *order, uint8_t *to);

/* Row `row` of a weight of I4 or I8 without zeros, from its panels: (n_in). What is rounded at open has no other rows. */
void kvi_tile_read_row(const kvi_tile *t, const uint8_t *panels, uint32_t row, float *out);

/* Columns sorted by their groups (KVI_PART_GROUPS), of all experts: order (n_experts, n_in); *out: what holds of the worst of them. FORMAT: a
 * group that does not exist. */
typedef enum kvi_tile_order {
    KVI_TILE_ORDER_SORTED,  /* they are already */
    KVI_TILE_ORDER_GATHERS, /* activations are brought into this order first */
    KVI_TILE_ORDER_UNEVEN   /* groups differ in size: no tile form, and no order */
} kvi_tile_order;
#ifndef __CUDACC__
kvrt_status kvi_tile_sort_columns(const kvi_weight_desc *desc, uint32_t *order, kvi_tile_order *out, kvrt_error *error);
#endif

#endif
