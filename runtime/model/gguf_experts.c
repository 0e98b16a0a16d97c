/* gguf_experts.c - mixtures of experts in GGUF files. What llama.cpp knows of an architecture without a key stands here or in families.c.
 * To know: which layers have experts is seen by their routers, so that a file converted with a wrong leading_dense_block_count is right all the
 * same; widths without a key are those of the tensors. */
#include "gguf_reading.h"

#include <math.h>
#include <string.h>

#define MOST_EXPERTS 4096u

static bool is(const kvi_gguf_reading *r, const char *name) { return strcmp(r->family->name, name) == 0; }

/* A tensor that only layers with experts have, of the first of these. */
static const kvi_gguf_tensor *first_tensor(const kvi_gguf_reading *r, const char *name)
{
    const kvi_gguf_tensor *t = NULL;
    for (uint32_t i = 0; !t && i < r->c->n_layers; i++) t = kvi_gguf_layer_tensor(r, i, name);
    return t;
}

/* DeepSeek-V2's files and GLM-4.7-Flash's have no key for it, and only the latter correct their scores. */
kvrt_status kvi_gguf_sigmoid(const kvi_gguf_reading *r, bool *out)
{
    uint32_t function = 0;
    KVI_TRY(kvi_gguf_read_u32(r, "expert_gating_func", KVI_GGUF_OPTIONAL, &function));
    *out = function == 2 || (function == 0 && first_tensor(r, "exp_probs_b.bias"));
    return KVRT_OK;
}

static kvrt_status check_function(const kvi_gguf_reading *r)
{
    enum { NONE, SOFTMAX, SIGMOID, SOFTMAX_CHOSEN };
    static const uint32_t functions[] = {[KVI_EXPERTS_NONE] = SOFTMAX,
                                         [KVI_EXPERTS_SOFTMAX] = SOFTMAX,
                                         [KVI_EXPERTS_SIGMOID] = SIGMOID,
                                         [KVI_EXPERTS_CHOSEN_SOFTMAX] = SOFTMAX_CHOSEN};
    const uint32_t need = functions[r->family->experts];
    uint32_t function = need;
    KVI_TRY(kvi_gguf_read_u32(r, "expert_gating_func", KVI_GGUF_OPTIONAL, &function));
    /* A softmax over all, renormalized, is one over the chosen. */
    if (function == need || function == NONE || (need == SOFTMAX_CHOSEN && function == SOFTMAX)) return KVRT_OK;
    return kvi_error_set(r->error, KVRT_UNSUPPORTED, "%s: expert_gating_func: is %u, need %u for %s", r->file, function,
                         need, r->family->name);
}

static kvrt_status sizes(const kvi_gguf_reading *r)
{
    kvi_experts *e = &r->c->experts;
    const kvi_gguf_tensor *down = first_tensor(r, "ffn_down_exps.weight"),
                          *shared = first_tensor(r, "ffn_gate_shexp.weight");
    uint32_t n_shared = 0;
    if (down && down->n_dims == 3 && down->shape[2] <= 1 << 22) e->width = (uint32_t)down->shape[2];
    KVI_TRY(kvi_gguf_read_u32(r, "expert_count", KVI_GGUF_REQUIRED, &e->n_experts));
    KVI_TRY(kvi_gguf_read_u32(r, "expert_used_count", KVI_GGUF_REQUIRED, &e->route.top_k));
    KVI_TRY(kvi_gguf_read_u32(r, "expert_feed_forward_length", KVI_GGUF_OPTIONAL, &e->width));
    if (e->n_experts == 0 || e->n_experts > MOST_EXPERTS || e->route.top_k == 0 || e->route.top_k > e->n_experts ||
        e->route.top_k > KVI_MAX_TOP_K || e->width == 0 || e->width > 1 << 22)
        return kvi_error_set(
            r->error, KVRT_UNSUPPORTED,
            "%s: expert_count is %u, expert_used_count %u and expert_feed_forward_length %u, need 1 to "
            "%u, at most as many up to %u, and 1 or more",
            r->file, e->n_experts, e->route.top_k, e->width, MOST_EXPERTS, KVI_MAX_TOP_K);
    KVI_TRY(kvi_gguf_read_u32(r, "expert_shared_count", KVI_GGUF_OPTIONAL, &n_shared));
    if (n_shared > 64)
        return kvi_error_set(r->error, KVRT_UNSUPPORTED, "%s: expert_shared_count: is %u, need at most 64", r->file,
                             n_shared);
    if (shared && shared->n_dims == 2 && shared->shape[0] <= 1 << 22) e->shared_width = (uint32_t)shared->shape[0];
    if (n_shared) e->shared_width = n_shared * e->width;
    KVI_TRY(kvi_gguf_read_u32(r, "expert_shared_feed_forward_length", KVI_GGUF_OPTIONAL, &e->shared_width));
    return KVRT_OK;
}

/* As config_experts.c: families of softmax take the best expert of a group for its worth, those of sigmoid the best two. */
static kvrt_status groups(const kvi_gguf_reading *r)
{
    const kvi_experts *e = &r->c->experts;
    kvi_route *route = &r->c->experts.route;
    KVI_TRY(kvi_gguf_read_u32(r, "expert_group_count", KVI_GGUF_OPTIONAL, &route->n_groups));
    if (route->n_groups <= 1) {
        route->n_groups = 0;
        return KVRT_OK;
    }
    KVI_TRY(kvi_gguf_read_u32(r, "expert_group_used_count", KVI_GGUF_REQUIRED, &route->top_groups));
    route->group_best = r->family->experts == KVI_EXPERTS_SOFTMAX ? 1 : 2;
    const uint32_t size = e->n_experts / route->n_groups;
    if (e->n_experts % route->n_groups == 0 && size >= route->group_best && route->top_groups >= 1 &&
        route->top_groups <= route->n_groups && route->top_groups * size >= route->top_k)
        return KVRT_OK;
    return kvi_error_set(r->error, KVRT_FORMAT,
                         "%s: expert_group_count is %u and expert_group_used_count %u, need equal groups of the %u "
                         "experts that leave expert_used_count (%u) to choose",
                         r->file, route->n_groups, route->top_groups, e->n_experts, route->top_k);
}

kvrt_status kvi_gguf_experts(const kvi_gguf_reading *r)
{
    const kvi_family *family = r->family;
    kvi_experts *e = &r->c->experts;
    double scale = 1;
    /* llama.cpp weighs the chosen experts of these to a sum of one, whatever the model was trained with. */
    bool renormalize = family->renormalize || family->gemma4 || is(r, "qwen3_moe") || is(r, "qwen3_next");
    KVI_TRY(check_function(r));
    KVI_TRY(sizes(r));
    KVI_TRY(groups(r));
    KVI_TRY(kvi_gguf_read_bool(r, "expert_weights_norm", &renormalize));
    KVI_TRY(kvi_gguf_read_f64(r, "expert_weights_scale", &scale));
    if (scale == 0) scale = 1; /* llama.cpp's word for none */
    if (!(scale > 0 && isfinite(scale)))
        return kvi_error_set(r->error, KVRT_FORMAT, "%s: expert_weights_scale: is %g, need a number above 0", r->file,
                             scale);
    e->route.score = family->experts == KVI_EXPERTS_SIGMOID          ? KVI_ROUTE_SIGMOID
                     : family->experts == KVI_EXPERTS_CHOSEN_SOFTMAX ? KVI_ROUTE_LOGITS
                                                                     : KVI_ROUTE_SOFTMAX;
    e->route.softmax_chosen = family->experts == KVI_EXPERTS_CHOSEN_SOFTMAX;
    e->route.renormalize = renormalize && !family->ignores_norm_topk;
    e->route.scale = (float)scale;
    e->shared_gate = family->shared_gate;
    e->correction = family->experts == KVI_EXPERTS_SIGMOID;
    e->router_bias = e->bias = family->expert_bias;
    e->interleaved = false; /* gate and up are tensors of their own, or one above the other */
    e->beside_dense = family->gemma4;
    for (uint32_t i = 0; i < r->c->n_layers; i++)
        r->c->layers[i].ffn = kvi_gguf_layer_tensor(r, i, "ffn_gate_inp.weight") ? KVI_FFN_ROUTED : KVI_FFN_DENSE;
    if (!family->swiglu_limit) return KVRT_OK;
    r->c->activation = KVI_ACT_SWIGLU_OAI;
    r->c->activation_limit = 7; /* gpt-oss's; no key says it */
    return KVRT_OK;
}
