/* plan.h - every byte before it is taken: what a session, a context and an engine need. One accounting for plan, open and info. */
#ifndef KVI_PLAN_H
#define KVI_PLAN_H
#include "../base/options.h"
#include "../kv/format.h"
#include "../../kernels/backend.h"

/* The budget is about one memory: the host's, or that of a device that has its own. What is taken of
 * it: weights + tables + workspace + pool + sessions + context = total, exactly. */
typedef struct kvi_memory_plan {
    kvi_limits limits;     /* limits.pool_bytes is the pool */
    uint64_t weight_bytes; /* imports, and copied or synthetic weights; not what lies in a map */
    uint64_t table_bytes;  /* options, names, tokenizer, template, program, device, bookkeeping of the pool */
    uint64_t workspace_bytes;
    uint64_t
        session_bytes; /* token lists, page tables and samplers of all planned sessions, taken as they are created */
    uint64_t context_bytes;      /* of the device, assumed; 0: the budget is what is free beside it */
    uint64_t host_bytes;         /* beside the budget: what a device with memory of its own leaves in the host's */
    uint64_t budget_bytes;       /* what may be used in all */
    uint64_t session_kv_bytes;   /* pool bytes of one session of ctx_size tokens */
    uint64_t planned_pool_bytes; /* the pool that open takes; limits.pool_bytes may become another (kvrt_mem_limit) */
    uint64_t session_host_bytes; /* what one session takes of the budget beside the pool */
    uint64_t total_bytes;
    uint32_t ctx_size;
    const char *capped_by; /* "memory", "model", "request" */
} kvi_memory_plan;

/* What kv.format says. */
typedef struct kvi_cache_format {
    kvi_kv_format body; /* of encoded pages; elastic: of the last level, which decides how long a context fits */
    kvi_kv_code plain;  /* of unencoded pages */
    bool elastic;
} kvi_cache_format;

/* The parts of a plan that do not change with the context. */
typedef struct kvi_plan_input {
    const kvi_program *program;
    const kvi_backend *backend;
    kvi_device_options device_options;
    kvi_cache_format format;
    uint64_t read_bytes;    /* what the files that were read left in memory, copied weights excluded */
    uint64_t loading_bytes; /* most that was held while they were read, copied weights included */
    uint64_t import_bytes;  /* kvi_model_weights.taken_bytes */
    uint64_t copied_bytes;  /* weights copied from their files, or synthetic */
    uint64_t context_bytes, budget_bytes;
    uint32_t chunk, tail, n_sessions, ctx_model;
    uint64_t draft_bytes;     /* of the engine of draft.model */
    bool drafts;              /* draft.type is on: recurrent layers then need a second state to work on */
    int64_t ctx_request;      /* -1: auto */
    uint64_t pool_most_bytes; /* elastic: 0 or a limit of the pool */
    uint64_t most_bytes;      /* that the budget may become while the engine is open; 0: it does not grow */
} kvi_plan_input;

/* Pool bytes of one session with ctx tokens: sink, body, tail and the pages of a chunk under way; states of recurrent layers. */
uint64_t kvi_plan_session_bytes(const kvi_plan_input *input, uint64_t ctx);
uint32_t kvi_plan_n_states(const kvi_plan_input *input);
uint64_t kvi_plan_state_bytes(const kvi_plan_input *input); /* the states alone */
/* Unencoded pages of a session at most. */
uint64_t kvi_plan_plain_pages(const kvi_plan_input *input);
/* Numbers of a row that is read from the device: of logits, or of a hidden state. */
size_t kvi_plan_row_floats(const kvi_program *program);
/* Host bytes of one session of ctx tokens: what kvrt_session_create and kvrt_generate take. */
uint64_t kvi_plan_session_host_bytes(const kvi_program *program, uint64_t ctx);
/* Pages and states of a pool are never more than this: the smallest of them, of sessions beyond the planned ones too. */
uint32_t kvi_plan_most_pages(const kvi_program *program, const kvi_limits *limits);
/* What a context of ctx tokens takes, whether it fits or not. */
void kvi_plan_at(const kvi_plan_input *input, uint64_t ctx, kvi_memory_plan *out);
bool kvi_plan_fits(const kvi_plan_input *input, const kvi_memory_plan *plan);
/* Decides the context. OVER_BUDGET when the requested context, or no context at all, fits. */
kvrt_status kvi_plan_memory(const kvi_plan_input *input, kvi_memory_plan *out, kvrt_error *error);
/* The pool under another limit, everything else of the plan as it is: what is left of it; beyond what open takes, so much that the sessions that
 * find room in it are within the limit as well. At most limits.pool_most_bytes; 0: there is no room for any. */
uint64_t kvi_plan_pool_under(const kvi_memory_plan *plan, uint64_t limit);
/* The same when the limit is raised to `most`, or is what open takes, where that is more. */
uint64_t kvi_plan_most_pool(const kvi_memory_plan *plan, uint64_t most);
/* Sessions of the plan's context that fit. */
uint64_t kvi_plan_most_sessions(const kvi_plan_input *input, uint32_t ctx);
/* The backend that an open would try first. Never NULL for a known name. */
const kvi_backend *kvi_plan_backend(const kvrt_options *options);
/* mem.most, less what is to be left free; 0: none. */
uint64_t kvi_plan_most(const kvrt_options *options);
/* What the options leave of `available`, the bytes that are free. */
uint64_t kvi_plan_budget(const kvrt_options *options, uint64_t available);
/* A limit, less what is to be left free where that was asked for, whoever has taken of it; 0: none. */
uint64_t kvi_plan_less_reserve(const kvrt_options *options, uint64_t limit);
uint64_t kvi_plan_limit(const kvrt_options *options); /* of mem.limit */
kvi_device_options kvi_device_options_from(const kvrt_options *options);
/* kv.format by name; ARG when unknown. */
kvrt_status kvi_format_named(const char *name, kvi_cache_format *out, kvrt_error *error);
/* As bits over kvi_kv_code: what pages of such a cache may hold. */
uint32_t kvi_format_codes(const kvi_cache_format *format);

#endif
