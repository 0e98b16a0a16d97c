/* engine.h - what the files of runtime/engine share: the engine, the session, the plan. Everything public enters through kvi_engine_enter or
 * kvi_session_enter and leaves through the matching call. */
#ifndef KVI_ENGINE_H
#define KVI_ENGINE_H
#include "generation.h"
#include "handle.h"
#include "../base/options.h"
#include "../base/mem.h"
#include "../base/os.h"
#include "../kv/elastic.h"
#include "../kv/format.h"
#include "../model/forward.h"
#include "../../kernels/backend.h"

#include <stdatomic.h>

#define KVI_COMMIT_BATCH 8u     /* pages encoded by one call of the backend */
#define KVI_BOUNCE_BYTES 65536u /* pages are moved in pieces of this size */

/* ------------------------------------------------------------------------------------------------------- plan --- */
/* One accounting for plan, open and info. The budget is about one memory: the host's, or that of a device that has its own. What is taken of
 * it: weights + tables + workspace + pool + sessions + context = total, exactly. */
typedef struct kvi_memory_plan {
    kvi_limits limits;     /* limits.pool_bytes is the pool */
    uint64_t weight_bytes; /* imports, and copied or synthetic weights; not what lies in a map */
    uint64_t table_bytes;  /* options, names, tokenizer, template, program, device, bookkeeping of the pool */
    uint64_t workspace_bytes;
    uint64_t
        session_bytes; /* token lists, page tables and samplers of all planned sessions, taken as they are created */
    uint64_t context_bytes;    /* of the device, assumed; 0: the budget is what is free beside it */
    uint64_t host_bytes;       /* beside the budget: what a device with memory of its own leaves in the host's */
    uint64_t budget_bytes;     /* what may be used in all */
    uint64_t session_kv_bytes; /* pool bytes of one session of ctx_size tokens */
    uint64_t total_bytes;
    uint32_t ctx_size;
    const char *capped_by; /* "memory", "model", "request" */
} kvi_memory_plan;

/* What kv.format says. */
typedef struct kvi_cache_format {
    kvi_kv_format body; /* of committed pages; elastic: of the last level, which decides how long a context fits */
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
    int64_t ctx_request;      /* -1: auto */
    uint64_t pool_most_bytes; /* elastic: 0 or a limit of the pool */
} kvi_plan_input;

/* Pool bytes of one session with ctx tokens: sink, body, tail and the pages of a chunk under way. */
uint64_t kvi_plan_session_bytes(const kvi_plan_input *input, uint64_t ctx);
/* Unencoded pages of a session at most. */
uint64_t kvi_plan_plain_pages(const kvi_plan_input *input);
/* Host bytes of one session of ctx tokens: what kvrt_session_create and kvrt_generate take. */
uint64_t kvi_plan_session_host_bytes(const kvi_program *program, uint64_t ctx);
/* Extents of a pool never exceed this: its smallest pages, of sessions beyond the planned ones too. */
uint32_t kvi_plan_most_extents(const kvi_program *program, const kvi_limits *limits);
/* What a context of ctx tokens takes, whether it fits or not. */
void kvi_plan_at(const kvi_plan_input *input, uint64_t ctx, kvi_memory_plan *out);
bool kvi_plan_fits(const kvi_plan_input *input, const kvi_memory_plan *plan);
/* Decides the context. OVER_BUDGET when the requested context, or no context at all, fits. */
kvrt_status kvi_plan_memory(const kvi_plan_input *input, kvi_memory_plan *out, kvrt_error *error);
/* Sessions of the plan's context that fit. */
uint64_t kvi_plan_most_sessions(const kvi_plan_input *input, uint32_t ctx);
/* The backend that an open would try first. Never NULL for a known name. */
const kvi_backend *kvi_plan_backend(const kvrt_options *options);
/* What the options leave of `available`, the bytes that are free. */
uint64_t kvi_plan_budget(const kvrt_options *options, uint64_t available);
kvi_device_options kvi_device_options_from(const kvrt_options *options);
/* kv.format by name; ARG when unknown. */
kvrt_status kvi_format_named(const char *name, kvi_cache_format *out, kvrt_error *error);
/* As bits over kvi_kv_code: what pages of such a cache may hold. */
uint32_t kvi_format_codes(const kvi_cache_format *format);

/* ------------------------------------------------------------------------------------------------------ engine --- */
typedef struct kvi_engine {
    kvrt_engine handle;
    kvrt_options *options;
    kvi_model_config config;
    kvi_checkpoint *checkpoint;     /* NULL for a synthetic shape */
    kvi_tokenizer *tokenizer;       /* NULL for a synthetic shape */
    kvi_marks marks;                /* of reasoning sections */
    struct kvi_chat_template *chat; /* NULL: none, or a broken one; kvrt_chat_render then tells which */
    kvi_model_weights weights;
    kvi_model_program program;
    const kvi_backend *backend;
    kvi_device *device;
    kvi_account *account;                 /* what the engine and its sessions hold in the host's memory */
    uint64_t device_bytes, loading_bytes; /* of it: taken by opening the device; most of it while files were read */
    kvi_memory_plan plan;
    kvi_cache_format format;
    kvi_pool pool;
    kvi_elastic_extent *extents; /* (cap_extents) scratch of room.c */
    uint32_t cap_extents;
    uint8_t *bounce; /* (KVI_BOUNCE_BYTES) likewise */
    kvi_encode_params encode;
    float *logits;        /* (vocab) host copy of one row */
    uint32_t *logit_rows; /* (max_logit_rows) of the step that an evaluation asks for */
    struct kvi_session *sessions;
    uint32_t n_sessions;
    atomic_bool driving;
    atomic_bool lost; /* after DEVICE_LOST or INTERNAL only close works */
} kvi_engine;

typedef struct kvi_session {
    kvrt_session handle;
    kvi_requests *requests; /* in the handle table */
    kvi_engine *engine;
    struct kvi_session *next;
    kvrt_options *options; /* the engine's, overridden by those of create */
    int32_t *tokens;       /* (ctx_size) */
    uint32_t n_tokens;
    uint32_t n_cached; /* leading tokens whose K/V are in the pages */
    uint32_t ctx_size;
    kvi_pages pages;
    struct {
        uint32_t n_pages;
        uint64_t bytes;
    } demoted[KVI_ELASTIC_LEVELS]; /* to each level by the last step */
    kvi_generation gen;
} kvi_session;

/* An engine that holds nothing but its account, which the calling thread then uses (hand `before` back with kvi_account_use), and its end. */
kvrt_status kvi_engine_new(const kvrt_options *options, kvi_engine **out, kvi_account **before, kvrt_error *error);
void kvi_engine_free(kvi_engine *engine);
/* Reads config, tensor names, tokenizer and template, weights too when they are to be copied. Events as in kvrt_engine_open. */
kvrt_status kvi_engine_read(kvi_engine *engine, bool copy, kvrt_event_fn fn, void *user, kvrt_error *error);
/* Counts the weights and records the program for `engine->backend` without importing anything: what a plan is made from. Repeatable. */
kvrt_status kvi_engine_outline(kvi_engine *engine, kvi_kv_code plain, kvrt_error *error);
/* What the plan asks about an outlined engine. `copied`: the weights were copied while it was read, if they are to be (model.io); a plan maps
 * them. `available`: bytes free on the device or in the host's memory. */
void kvi_engine_plan_input(const kvi_engine *engine, bool copied, uint64_t available, kvi_plan_input *out);

/* Entering: a held object, or a status. To drive is to take the engine's driving seat too (BUSY, REENTRANT, DEVICE_LOST); to close does so even
 * when the device is lost. */
typedef enum kvi_entry { KVI_LOOK, KVI_DRIVE, KVI_CLOSE } kvi_entry;
kvrt_status kvi_engine_enter(kvrt_engine handle, kvi_entry entry, kvi_engine **out, kvrt_error *error);
void kvi_engine_leave(kvi_engine *engine, kvi_entry entry);
kvrt_status kvi_session_enter(kvrt_session handle, kvi_entry entry, kvi_session **out, kvrt_error *error);
void kvi_session_leave(kvi_session *session, kvi_entry entry);
/* Instead of leaving handles[0], entered to close: closes all n handles, of this engine and its sessions, and keeps the seat; or closes none and
 * leaves: BUSY when another thread is inside one of them. */
kvrt_status kvi_close_handles(const void *const *handles, uint32_t n, kvi_engine *engine, kvrt_error *error);

/* The library's mode of arithmetic (os.h), for calls that enter no engine; the others are in it from entering to leaving. */
void kvi_arithmetic_enter(void);
void kvi_arithmetic_leave(void);

/* Calls the host's callback; while it runs, driving calls on this engine answer REENTRANT. NULL fn continues. */
int32_t kvi_engine_event(kvi_engine *engine, kvrt_event_fn fn, void *user, kvrt_event *event);

bool kvi_is_eos(const kvi_engine *engine, int32_t id);
/* Which marks the model puts around its reasoning, into engine->marks; and whether a text that begins now begins inside such a section. */
void kvi_reasoning_find_marks(kvi_engine *engine);
kvrt_status kvi_reasoning_begins(const kvi_session *session, bool *inside, kvrt_error *error);

/* Closes a session that is out of the handle table. */
void kvi_session_destroy(kvi_session *session);

/* ------------------------------------------------------------------------------------------------------- steps --- */
/* Computes tokens [n_cached, n_cached + n) of the session, in the wide or the narrow form (backend.h); logits of the given rows (relative,
 * increasing) stay readable on the device until the next step. Looks at the cancel flag between slices. n <= limits.max_rows. Errors: CTX_FULL,
 * CANCELLED, ... */
kvrt_status kvi_step_tokens(kvi_session *session, uint32_t n, bool wide, const uint32_t *rows, uint32_t n_rows,
                            kvrt_error *error);
/* Tokens of the next step on the way to `end` > n_cached: where steps are cut is part of what kvrt.h promises (rule 8). Wide ones end at multiples
 * of the chunk, counted from position 0, so that what is computed again after a rewind sees its pages as it did. Narrow ones also end where a page
 * begins or may be encoded, so that each of several rows sees the pages as it would alone. */
uint32_t kvi_step_length(const kvi_session *session, uint32_t end, bool wide);
/* Makes the page tables cover positions [0, n), n > n_cached; pages may move for that, and those of an elastic session be demoted. CTX_FULL when
 * there is no room: then no page was added. Allocates nothing. */
kvrt_status kvi_session_reserve(kvi_session *session, uint32_t n, kvrt_error *error);
/* Cuts the cache to at most n tokens (page-rounded where pages are encoded). */
void kvi_session_cut_cache(kvi_session *session, uint32_t n);
/* Encodes the pages that are due. */
kvrt_status kvi_session_commit(kvi_session *session, kvrt_error *error);

#endif
