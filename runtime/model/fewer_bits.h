/* fewer_bits.h - which weights of a model are rounded to integers and how: one rule for weights.type, which does it at open, and for `kvrt quantize`.
 * All matrices of all layers, but for routers, convolutions and what else is small or delicate (keeps_bits of places.h); the head and the
 * embeddings if that is asked for. The rounding itself is quantize.h. */
#ifndef KVI_FEWER_BITS_H
#define KVI_FEWER_BITS_H
#include "places.h"

typedef struct kvi_fewer_bits {
    uint32_t bits;                  /* 4 or 8, of the matrices of layers; 0: all stay as they are */
    uint32_t group;                 /* neighbours of a row that share a scale; 0: the whole row */
    uint32_t head_bits, embed_bits; /* 8, with a scale for a row; 0: as they are */
} kvi_fewer_bits;

/* Where a weight stands. */
typedef enum kvi_weight_role { KVI_ROLE_LAYER, KVI_ROLE_HEAD, KVI_ROLE_EMBED, KVI_ROLE_OTHER } kvi_weight_role;

/* Bits that the weight of a place is rounded to; 0: it stays. */
uint32_t kvi_fewer_bits_at(const kvi_fewer_bits *want, kvi_weight_role role, const kvi_place *place);
/* The group that a row of n_in gets: the one asked for where it divides the row, else its largest power-of-two divisor that does; 0: the row. */
uint32_t kvi_fewer_group(uint32_t group, uint32_t n_in);
/* That of a place: matrices that must share one (n_in_beside) get a group that divides the rows of both. */
uint32_t kvi_fewer_group_at(uint32_t group, const kvi_place *place);
/* What scales of a weight made from `from` are stored as: its own type, BF16 where that is no plain one. */
kvi_dtype kvi_fewer_scale_type(const kvi_weight_desc *from);
/* The weight that `from` becomes: *to, with `from` as its source. UNSUPPORTED: no group of 8 or more divides its rows. */
kvrt_status kvi_fewer_bits_of(const kvi_weight_desc *from, uint32_t bits, uint32_t group, kvi_weight_desc *to,
                              kvrt_error *error);

#endif
