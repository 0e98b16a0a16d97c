/* engine.h - one loaded model on one device, with the pool that its sessions live in. How a call gets in: seat.h. What lives on it: session.h. */
#ifndef KVI_ENGINE_H
#define KVI_ENGINE_H
#include "constraint.h"
#include "events.h"
#include "model_files.h"
#include "pace.h"
#include "plan.h"
#include "budget.h"
#include "seat.h"
#include "spill.h"
#include "tool_calls.h"
#include "worker_thread.h"
#include "../base/mem.h"
#include "../base/os.h"
#include "../kv/store.h"
#include "../model/forward.h"
#include "../model/kv_scales.h"
#include "../text/channels.h"
#include "../text/sections.h"

#include <stdatomic.h>

/* What a snapshot belongs to: the weights (names, forms, shapes, a sample of each), the vocabulary, what pages mean besides their format. */
typedef struct kvi_fingerprints {
    bool are_known; /* computed when they are first asked for */
    uint64_t model, tokenizer, cache;
} kvi_fingerprints;

/* The hidden state that stands in row 0 of the device's residual (look_ahead.c). */
typedef struct kvi_ahead_at {
    struct kvi_session *session; /* NULL: of nobody */
    uint32_t position;           /* that it is of */
    int32_t next;                /* token that the layer was given behind it last, -1: none yet */
    uint32_t depth;              /* tokens predicted from it so far */
} kvi_ahead_at;

typedef struct kvi_engine {
    kvrt_engine handle;
    kvrt_options *options;
    kvi_model_config config;
    kvi_model_files files;          /* zeroes for a synthetic shape */
    kvi_checkpoint *checkpoint;     /* NULL for a synthetic shape */
    kvi_tokenizer *tokenizer;       /* NULL for a synthetic shape */
    kvi_marks marks;                /* of reasoning sections */
    kvi_channels channels;          /* of models that have those instead */
    kvi_call_format call_format;    /* of calls of tools */
    struct kvi_chat_template *chat; /* NULL: none, or a broken one; kvrt_chat_render then tells which */
    kvi_model_weights weights;
    kvi_weight_cache cache; /* of model.cache; zeroes without it */
    bool has_cache;
    kvi_model_program program;
    const kvi_backend *backend;
    kvi_device *device;
    kvi_account *account;                 /* what the engine and its sessions hold in the host's memory */
    uint64_t device_bytes, loading_bytes; /* of it: taken by opening the device; most of it while files were read */
    kvi_memory_plan plan;
    uint64_t mem_limit;       /* in force: mem.limit, or what kvrt_mem_limit has made of it; 0: none */
    struct kvi_engine *draft; /* of draft.model; NULL: none */
    uint64_t draft_bytes;     /* its plan's total */
    kvi_share share;          /* of a limit that several engines have together */
    kvi_cache_format format;
    kvi_store store;
    kvi_encode_params encode;
    kvi_kv_scales kv_scales; /* of the checkpoint; empty: none that the format honours */
    float *logits;           /* (kvi_plan_row_floats) host copy of one row */
    uint32_t *logit_rows;    /* (max_logit_rows) of the step that an evaluation asks for */
    int32_t *step_ids;       /* (max_rows) tokens of a step of several sessions, when it begins */
    bool mixes;              /* steps may have rows of both forms */
    struct kvi_session *sessions;
    uint32_t n_sessions;
    kvi_seat seat;
    atomic_bool lost; /* after DEVICE_LOST or INTERNAL only close works */
    /* Driving (drive.h). */
    uint64_t turn, last_wide_turn,
        n_served; /* steps so far; the last one with rows of a prompt; places in steps given out */
    kvi_pace pace;
    kvi_events events;
    struct kvi_session **submitted; /* (n_submitted) sessions with a submitted request */
    uint32_t n_submitted;
    size_t cap_submitted;
    kvi_ahead_at ahead;       /* what the device holds for looking ahead */
    struct kvi_batch *flight; /* the step under way, if in_flight */
    bool in_flight;
    kvi_worker worker;
    kvi_fingerprints fingerprints; /* of snapshots */
    kvi_spill spill;               /* where pages of idle sessions go */
    kvi_grammars grammars;
    struct {
        uint8_t *bytes;  /* (n) of the pool's objects, by id; NULL: not suspended */
        uint32_t *units; /* (n_ids) of each */
        uint64_t n;
    } suspended;
} kvi_engine;

/* An engine that holds nothing but its account, which the calling thread then uses (hand `before` back with kvi_account_use), and its end. */
kvrt_status kvi_engine_new(const kvrt_options *options, kvi_engine **out, kvi_account **before, kvrt_error *error);
void kvi_engine_free(kvi_engine *engine);
/* Reads config, tensor names, tokenizer and template, weights too when they are to be copied. Events as in kvrt_engine_open. */
kvrt_status kvi_engine_read(kvi_engine *engine, bool copy, kvrt_event_fn fn, void *user, kvrt_error *error);
/* Gives weights, workspace and pool back, and takes the same again. A failure of the latter leaves it without. */
kvrt_status kvi_engine_leave_device(kvi_engine *engine, kvrt_error *error);
kvrt_status kvi_engine_take_device(kvi_engine *engine, kvrt_error *error);
/* Counts the weights and records the program for `engine->backend` without importing anything: what a plan is made from. Repeatable. */
kvrt_status kvi_engine_outline(kvi_engine *engine, kvi_kv_code plain, kvrt_error *error);
/* Calls fn with every weight as the engine would import it. */
kvrt_status kvi_engine_each_weight(kvi_engine *engine, kvi_weight_fn fn, void *user, kvrt_error *error);
/* What the plan asks about an outlined engine. `copied`: the weights were copied while it was read, if they are to be (model.io); a plan maps
 * them. `available`: bytes free on the device or in the host's memory. */
/* Looks for the file of model.cache that belongs to the outlined weights; a plan trusts its tables, an open compares every byte (`check`). Found or
 * to be made: the engine is outlined anew with it. */
kvrt_status kvi_engine_find_cache(kvi_engine *engine, bool check, kvrt_error *error);
void kvi_engine_plan_input(const kvi_engine *engine, bool copied, uint64_t available, kvi_plan_input *out);

uint64_t kvi_engine_host_bytes(const kvi_engine *engine); /* with that of draft.model */
bool kvi_is_eos(const kvi_engine *engine, int32_t id);
/* Which marks the model puts around its reasoning, into engine->marks. */
void kvi_reasoning_find_marks(kvi_engine *engine);

#endif
