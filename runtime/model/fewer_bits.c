/* fewer_bits.c - see fewer_bits.h. */
#include "fewer_bits.h"

uint32_t kvi_fewer_bits_at(const kvi_fewer_bits *want, kvi_weight_role role, const kvi_place *place)
{
    if (role == KVI_ROLE_HEAD) return want->head_bits;
    if (role == KVI_ROLE_EMBED) return want->embed_bits;
    return role == KVI_ROLE_LAYER && place->n_in && place->n_out > 1 && !place->keeps_bits ? want->bits : 0;
}

uint32_t kvi_fewer_group(uint32_t group, uint32_t n_in)
{
    if (!group || group >= n_in) return 0;
    if (n_in % group == 0) return group;
    uint32_t power = 1;
    while (power * 2 <= group && n_in % (power * 2) == 0) power *= 2;
    return power;
}

uint32_t kvi_fewer_group_at(uint32_t group, const kvi_place *place)
{
    uint32_t common = place->n_in, other = place->n_in_beside;
    if (!group || !other || other == place->n_in) return kvi_fewer_group(group, place->n_in);
    while (other) {
        const uint32_t rest = common % other;
        common = other;
        other = rest;
    }
    const uint32_t fits = kvi_fewer_group(group, common);
    return fits ? fits : common;
}

kvi_dtype kvi_fewer_scale_type(const kvi_weight_desc *from)
{
    return kvi_form_is_plain(from->form) ? kvi_form_dtype(from->form) : KVI_BF16;
}

kvrt_status kvi_fewer_bits_of(const kvi_weight_desc *from, uint32_t bits, uint32_t group, kvi_weight_desc *to,
                              kvrt_error *error)
{
    *to = (kvi_weight_desc){.name = from->name,
                            .form = bits == 4 ? KVI_FORM_I4 : KVI_FORM_I8,
                            .n_out = from->n_out,
                            .n_in = from->n_in,
                            .n_experts = from->n_experts,
                            .group = kvi_fewer_group(group, from->n_in),
                            .scale_type = kvi_fewer_scale_type(from),
                            .is_unsigned = true,
                            .looked_up = from->looked_up,
                            .source = from};
    if (!to->group || to->group >= 8) return KVRT_OK;
    return kvi_error_set(error, KVRT_UNSUPPORTED, "tensor %s: rows of %u, no group of 8 or more divides them",
                         from->name, from->n_in);
}
