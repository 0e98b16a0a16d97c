/* config_experts.c - mixtures of experts: which layers have one, its sizes, and how a token's experts are chosen and weighed. Families call the
 * same things by different keys; what a family does not know is absent here. */
#include "config_raw.h"

#include <math.h>
#include <string.h>

#define MOST_EXPERTS 4096

/* Layers without experts are dense: the first ones, those that are listed, or all but every n-th. */
static bool is_dense(const kvi_raw_config *raw, uint32_t layer)
{
    for (uint32_t i = 0; i < raw->n_mlp_only_layers; i++)
        if (raw->mlp_only_layers[i] == layer) return true;
    if (raw->first_k_dense_replace != KVI_NO_INT) return (int64_t)layer < raw->first_k_dense_replace;
    if (raw->decoder_sparse_step > 0) return (layer + 1) % (uint64_t)raw->decoder_sparse_step != 0;
    return false;
}

static kvrt_status mark_layers(const kvi_raw_config *raw, const kvi_family *family, kvi_model_config *c,
                               kvrt_error *error)
{
    const bool by_type = family->mlp_types;
    if (by_type && raw->mlp_type_problem[0])
        return kvi_error_set(error, KVRT_UNSUPPORTED, "config.json: mlp_layer_types has '%s', need dense or sparse",
                             raw->mlp_type_problem);
    if (by_type && raw->has_mlp_layer_types && raw->n_mlp_layer_types != c->n_layers)
        return kvi_error_set(error, KVRT_FORMAT,
                             "config.json: mlp_layer_types has %u entries, need %u (num_hidden_layers)",
                             raw->n_mlp_layer_types, c->n_layers);
    for (uint32_t i = 0; i < c->n_layers; i++) {
        const bool dense = !by_type                   ? is_dense(raw, i)
                           : raw->has_mlp_layer_types ? !raw->sparse_layers[i]
                                                      : i == 0; /* unless it says otherwise */
        c->layers[i].ffn = dense ? KVI_FFN_DENSE : KVI_FFN_ROUTED;
    }
    return KVRT_OK;
}

static kvrt_status derive_sizes(const kvi_raw_config *raw, const kvi_family *family, kvi_experts *e, kvrt_error *error)
{
    const bool own_width = raw->moe_intermediate_size != KVI_NO_INT;
    KVI_TRY(kvi_config_size("num_experts", raw->num_experts, 1, MOST_EXPERTS, &e->n_experts, error));
    KVI_TRY(kvi_config_size(own_width ? "moe_intermediate_size" : "intermediate_size",
                            own_width ? raw->moe_intermediate_size : raw->intermediate_size, 1, 1 << 20, &e->width,
                            error));
    KVI_TRY(kvi_config_size("num_experts_per_tok", raw->num_experts_per_tok, 1,
                            e->n_experts < KVI_MAX_TOP_K ? e->n_experts : KVI_MAX_TOP_K, &e->route.top_k, error));
    e->shared_gate = family->shared_gate;
    if (raw->shared_expert_intermediate_size != KVI_NO_INT)
        return kvi_config_size("shared_expert_intermediate_size", raw->shared_expert_intermediate_size, 1, 1 << 20,
                               &e->shared_width, error);
    if (raw->shared_intermediate_size != KVI_NO_INT)
        return kvi_config_size("shared_intermediate_size", raw->shared_intermediate_size, 0, 1 << 20, &e->shared_width,
                               error);
    if (raw->n_shared_experts == KVI_NO_INT) return KVRT_OK;
    KVI_TRY(kvi_config_size("n_shared_experts", raw->n_shared_experts, 1, 64, &e->shared_width, error));
    e->shared_width *= e->width;
    return KVRT_OK;
}

/* Groups of experts, of which only the best may be chosen. */
static kvrt_status derive_groups(const kvi_raw_config *raw, const kvi_family *family, const kvi_experts *e,
                                 kvi_route *route, kvrt_error *error)
{
    const bool by_method =
        family->experts == KVI_EXPERTS_SOFTMAX; /* the others have one method, whatever it is called */
    const bool greedy = strcmp(raw->topk_method, "greedy") == 0,
               limited = strcmp(raw->topk_method, "group_limited_greedy") == 0;
    if (by_method && raw->topk_method[0] && !greedy && !limited)
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "config.json: topk_method is '%s', need greedy or group_limited_greedy", raw->topk_method);
    if ((by_method && greedy) || raw->n_group == KVI_NO_INT || raw->n_group == 1) return KVRT_OK;
    KVI_TRY(kvi_config_size("n_group", raw->n_group, 1, e->n_experts, &route->n_groups, error));
    KVI_TRY(kvi_config_size("topk_group", raw->topk_group, 1, route->n_groups, &route->top_groups, error));
    route->group_best = by_method ? 1 : 2;
    const uint32_t size = e->n_experts / route->n_groups;
    if (e->n_experts % route->n_groups || size < route->group_best || route->top_groups * size < route->top_k)
        return kvi_error_set(error, KVRT_FORMAT,
                             "config.json: n_group is %u and topk_group %u, need equal groups of the %u experts that "
                             "leave num_experts_per_tok (%u) to choose",
                             route->n_groups, route->top_groups, e->n_experts, route->top_k);
    return KVRT_OK;
}

kvrt_status kvi_config_experts(const kvi_raw_config *raw, const kvi_family *family, kvi_model_config *c,
                               kvrt_error *error)
{
    kvi_experts *e = &c->experts;
    if (family->experts == KVI_EXPERTS_NONE) return KVRT_OK;
    if (raw->use_sliding_window && !raw->has_layer_types)
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "config.json: use_sliding_window is true, need false or layer_types for %s", family->name);
    if (raw->mlp_bias)
        return kvi_error_set(error, KVRT_UNSUPPORTED, "config.json: mlp_bias is true, need false for %s", family->name);
    KVI_TRY(mark_layers(raw, family, c, error));
    KVI_TRY(derive_sizes(raw, family, e, error));
    KVI_TRY(derive_groups(raw, family, e, &e->route, error));
    e->route.score = family->experts == KVI_EXPERTS_SIGMOID          ? KVI_ROUTE_SIGMOID
                     : family->experts == KVI_EXPERTS_CHOSEN_SOFTMAX ? KVI_ROUTE_LOGITS
                                                                     : KVI_ROUTE_SOFTMAX;
    e->route.softmax_chosen = family->experts == KVI_EXPERTS_CHOSEN_SOFTMAX;
    e->route.renormalize = family->renormalize || (raw->norm_topk_prob && !family->ignores_norm_topk);
    e->route.scale = isnan(raw->routed_scaling_factor) ? 1.0f : (float)raw->routed_scaling_factor;
    e->correction = family->experts == KVI_EXPERTS_SIGMOID;
    e->router_bias = e->bias = family->expert_bias;
    if (!(e->route.scale > 0 && isfinite(e->route.scale)))
        return kvi_error_set(error, KVRT_FORMAT, "config.json: routed_scaling_factor is %g, need a number above 0",
                             raw->routed_scaling_factor);
    if (!family->swiglu_limit) return KVRT_OK;
    c->activation = KVI_ACT_SWIGLU_OAI;
    c->activation_limit = (float)raw->swiglu_limit;
    return c->activation_limit > 0 && isfinite(c->activation_limit)
               ? KVRT_OK
               : kvi_error_set(error, KVRT_FORMAT, "config.json: swiglu_limit not found, need a number above 0");
}
