/* kvrt.h - an embeddable runtime for one language model on one workstation GPU (or CPU).
 *
 * THE MODEL IN YOUR HEAD
 *   An *engine* is what was loaded: one model folder, mapped from disk, on one device, with a planned amount of
 *   memory. A *session* is one timeline of tokens that moves forward on an engine; it owns a page table into the
 *   engine's KV pool. You make a session equal to a list of tokens (sync) and let it continue (generate); text comes
 *   back as events on the thread that called. Memory is computed before it is taken (plan), taken once (open), and
 *   never during generation.
 *
 *       options -> engine -> session -> sync prompt -> generate -> events -> close
 *
 * GROUND RULES
 *   1. No function aborts, exits, throws, longjmps, forks, prints, reads the environment or the locale, changes signal
 *      masks or handlers, or registers atexit.
 *   2. Text is UTF-8 as (pointer, length); length -1 means NUL-terminated. Invalid bytes are accepted in prompts (they
 *      become byte tokens or U+FFFD as the tokenizer defines) and rejected in paths and keys.
 *   3. A returned pointer is owned by the named object until the named event, or released by the named function.
 *   4. Thread rule: an engine and its sessions may be used from any thread, one call at a time per engine; a second
 *      concurrent call that would drive the engine returns KVRT_BUSY at once. Functions marked [any thread] may be
 *      called while another thread drives. Functions marked [callback] may be called from an event callback; every
 *      other function called there on the same engine returns KVRT_REENTRANT.
 *   5. Device memory is taken in kvrt_engine_open and kvrt_resume and nowhere else.
 *   6. Options go in by key; results come out in caller-allocated structs that begin with their size and only ever grow
 *      at the end: set `size = sizeof(the struct)` before the call. A program built with an older or newer header than the library works:
 *      what both know is read and written, nothing past the caller's size. No struct by value, no variadics.
 *   7. Errors travel in the caller's optional kvrt_error, never in thread-local state. A failing call leaves the object
 *      as it was, except DEVICE_LOST and INTERNAL, after which only close works.
 *   8. The same binary, options, device and calls give the same bits, with any number of threads, whatever other sessions
 *      do, and in whatever mode of arithmetic (rounding, FTZ, DAZ, traps) the host's thread is; its mode is kept. On the CPU:
 *      - A token is computed in one of two forms, which sum in different orders. *Narrow*: the last token before a
 *        generation, every generated token but the last (the next call computes that one), and the tokens of a
 *        kvrt_session_eval of up to 8. *Wide*: all others, that is, prompts. Within a form bits do not depend on how
 *        many tokens are computed at once. Between the forms logits differ by rounding: up to 2e-4 of their standard
 *        deviation, with cpu.amx up to 1e-1 (BF16 activations).
 *      - So generating again after a sync or rewind to the same prompt has the same bits; so has a session that read
 *        more and came back; and 2 to 8 tokens in one eval have those of as many evals. Generated tokens that another
 *        session reads as its prompt are wide there. An eval's logits are narrow if up to 8 rows of a step are wanted.
 *      - A format below 16 bits encodes a page of 128 positions when it has ended and kv.tail more are there, for good.
 *        Pages encoded after the last sync, rewind or eval of more than 8 tokens are held at 16 bits too, and return
 *        with a rewind to where that call ended, unless the pool was too full for both (a planned one is not, with
 *        ctx.chunk >= kv.tail + 256 as by default). Any other way back over such a point finds its page encoded, and
 *        differs from a session that never went further by what the format loses. A sliding window that has moved on
 *        makes a rewind read everything again, as a prompt.
 *      - kv.format=elastic: demoted pages stay demoted, and the size of the KV pool is one of the inputs: kv.pool pins it.
 *   9. Stack: a call takes at most 48 KiB of the caller's thread, so that threads of 64 KiB will do; a chat template that
 *      nests to the limit of 250 evaluations takes about 200 KiB in kvrt_chat_render.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVRT_H
#define KVRT_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#if defined(KVRT_BUILD)
#define KVRT_API __declspec(dllexport)
#elif defined(KVRT_STATIC)
#define KVRT_API
#else
#define KVRT_API __declspec(dllimport)
#endif
#else
#define KVRT_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define KVRT_VERSION_MAJOR 0
#define KVRT_VERSION_MINOR 1
#define KVRT_VERSION_PATCH 0
#define KVRT_ABI_VERSION 2 /* bumped on any incompatible change while 0.x */

/* ------------------------------------------------------------------------------------------------ status codes --- */
/* X(name, value, text). 0 is success, positive values are not errors, negative values are. Values never change. */
#define KVRT_STATUS_LIST(X)                                                                                            \
    X(OK, 0, "ok")                                                                                                     \
    X(MORE, 1, "work remains")                                                                                         \
    X(DONE, 2, "finished")                                                                                             \
    X(PAUSED, 3, "paused by the callback")                                                                             \
    X(PARTIAL, 4, "partial result")                                                                                    \
    X(ARG, -1, "invalid argument")                                                                                     \
    X(HANDLE, -2, "invalid or closed handle")                                                                          \
    X(STATE, -3, "not possible in this state")                                                                         \
    X(BUSY, -4, "another thread is driving this engine")                                                               \
    X(REENTRANT, -5, "not allowed inside a callback")                                                                  \
    X(CANCELLED, -6, "cancelled")                                                                                      \
    X(IO, -7, "input/output error")                                                                                    \
    X(FORMAT, -8, "malformed file")                                                                                    \
    X(UNSUPPORTED, -9, "not supported")                                                                                \
    X(NO_DEVICE, -10, "no usable device")                                                                              \
    X(DRIVER_TOO_OLD, -11, "device driver too old")                                                                    \
    X(NOMEM_HOST, -12, "out of host memory")                                                                           \
    X(NOMEM_DEVICE, -13, "out of device memory")                                                                       \
    X(OVER_BUDGET, -14, "does not fit the memory budget")                                                              \
    X(CTX_FULL, -15, "context full")                                                                                   \
    X(TEMPLATE, -16, "chat template error")                                                                            \
    X(GRAMMAR, -17, "grammar error")                                                                                   \
    X(GRAMMAR_DEAD_END, -18, "no token satisfies the grammar")                                                         \
    X(SNAPSHOT_MISMATCH, -19, "snapshot belongs to another model or format")                                           \
    X(SNAPSHOT_CORRUPT, -20, "snapshot damaged")                                                                       \
    X(DEVICE_LOST, -21, "device lost")                                                                                 \
    X(INTERNAL, -22, "internal error")                                                                                 \
    X(ABI, -23, "header and library do not match")

typedef enum kvrt_status {
#define KVRT_STATUS_ENUM(name, value, text) KVRT_##name = value,
    KVRT_STATUS_LIST(KVRT_STATUS_ENUM)
#undef KVRT_STATUS_ENUM
} kvrt_status;

/* "KVRT_CTX_FULL" and "context full"; "KVRT_?" for an unknown value. Static strings. [any thread] [callback] */
KVRT_API const char *kvrt_status_name(int32_t status);
KVRT_API const char *kvrt_status_text(int32_t status);

/* The caller's error record. Initialize `size`; every field is written by a failing call, none by a succeeding one. */
typedef struct kvrt_error {
    uint32_t size;
    int32_t code;             /* a kvrt_status */
    int32_t extended;         /* refinement of code, 0 if none */
    int32_t system_code;      /* errno or CUresult, 0 if none */
    uint64_t needed_bytes;    /* for memory errors */
    uint64_t available_bytes; /* for memory errors */
    char message[512];        /* what, which object, found, needed, hint; NUL-terminated UTF-8 */
} kvrt_error;

/* 0x00MMmmpp, and "0.1.0". [any thread] [callback] */
KVRT_API uint32_t kvrt_version(void);
KVRT_API const char *kvrt_version_string(void);
/* Call once with KVRT_ABI_VERSION; returns KVRT_ABI when the library cannot serve programs built with this header. */
KVRT_API kvrt_status kvrt_abi_check(uint32_t header_abi);

/* ----------------------------------------------------------------------------------------------------- options --- */
/* A bag of typed key/values. The same keys are command-line flags and configuration-file entries. Owned by the caller;
 * not thread-safe. An unset key has its default. */
typedef struct kvrt_options kvrt_options;

typedef enum kvrt_option_type {
    KVRT_OPTION_BOOL = 1,
    KVRT_OPTION_I64 = 2,
    KVRT_OPTION_F64 = 3,
    KVRT_OPTION_STRING = 4,
    KVRT_OPTION_CHOICE = 5, /* a string out of `choices` */
    KVRT_OPTION_BYTES = 6,  /* an amount of memory; text such as "24GiB" is understood */
    KVRT_OPTION_LIST = 7    /* strings; setting appends, kvrt_options_clear empties */
} kvrt_option_type;

/* What an option belongs to. kvrt_session_create and kvrt_generate refuse, by name, options of a wider scope that are set to another
 * value than the engine (the session) has: they could not follow them. */
typedef enum kvrt_option_scope { KVRT_SCOPE_ENGINE = 1, KVRT_SCOPE_SESSION = 2, KVRT_SCOPE_CALL = 3 } kvrt_option_scope;

typedef struct kvrt_option_info {
    uint32_t size;
    int32_t type;         /* kvrt_option_type */
    const char *key;      /* "sample.temperature" */
    const char *flag;     /* "temp" for --temp, or NULL: no flag of its own */
    const char *defaults; /* the default as text */
    const char *range;    /* "0..100", "auto|cpu|cuda" or "" */
    const char *help;     /* one line */
    const char *group;    /* "model", "sample", ... */
    double min, max;      /* for I64 and F64 */
    int32_t scope;        /* kvrt_option_scope */
} kvrt_option_info;       /* all strings static */

KVRT_API kvrt_status kvrt_options_create(kvrt_options **out, kvrt_error *error);
KVRT_API kvrt_status kvrt_options_clone(const kvrt_options *options, kvrt_options **out, kvrt_error *error);
KVRT_API void kvrt_options_destroy(kvrt_options *options); /* NULL is fine */
/* Errors: KVRT_ARG for an unknown key (the message names the nearest), a wrong type or a value out of range. */
KVRT_API kvrt_status kvrt_options_set_bool(kvrt_options *options, const char *key, int32_t value, kvrt_error *error);
KVRT_API kvrt_status kvrt_options_set_i64(kvrt_options *options, const char *key, int64_t value, kvrt_error *error);
KVRT_API kvrt_status kvrt_options_set_f64(kvrt_options *options, const char *key, double value, kvrt_error *error);
KVRT_API kvrt_status kvrt_options_set_string(kvrt_options *options, const char *key, const char *text, int64_t len,
                                             kvrt_error *error);
/* Any type from its text form, as on a command line: "0.7", "true", "24GiB", "auto". */
KVRT_API kvrt_status kvrt_options_set_text(kvrt_options *options, const char *key, const char *text, kvrt_error *error);
KVRT_API kvrt_status kvrt_options_clear(kvrt_options *options, const char *key,
                                        kvrt_error *error); /* back to default */
/* 1 when the key was set and not cleared since. */
KVRT_API int32_t kvrt_options_is_set(const kvrt_options *options, const char *key);
/* Effective values. The string belongs to `options` until the next change of that key. I64 "auto" values read as -1. */
KVRT_API kvrt_status kvrt_options_get_bool(const kvrt_options *options, const char *key, int32_t *out,
                                           kvrt_error *error);
KVRT_API kvrt_status kvrt_options_get_i64(const kvrt_options *options, const char *key, int64_t *out,
                                          kvrt_error *error);
KVRT_API kvrt_status kvrt_options_get_f64(const kvrt_options *options, const char *key, double *out, kvrt_error *error);
KVRT_API kvrt_status kvrt_options_get_string(const kvrt_options *options, const char *key, const char **out,
                                             kvrt_error *error);
/* The table itself: index 0 .. count-1. [any thread] [callback] */
KVRT_API uint32_t kvrt_option_count(void);
KVRT_API kvrt_status kvrt_option_at(uint32_t index, kvrt_option_info *out, kvrt_error *error);

/* ------------------------------------------------------------------------------------------------------ events --- */
typedef enum kvrt_event_type {
    KVRT_EVENT_LOAD_PROGRESS = 1,    /* done, total (bytes or stages); text names the stage */
    KVRT_EVENT_PREFILL_PROGRESS = 2, /* done, total (tokens) */
    KVRT_EVENT_TEXT = 3,             /* text: whole code points, never part of a stop string */
    KVRT_EVENT_REASONING = 4,        /* text of a reasoning section, see kvrt_generate */
    KVRT_EVENT_TOKEN = 5,            /* opt-in by gen.token_events: token, text = its raw bytes, logprob */
    KVRT_EVENT_WARNING = 6,          /* while loading: text says what was found odd */
    KVRT_EVENT_DONE = 7,       /* finish; the last event of a generation. text: what is withheld, see kvrt_generate */
    KVRT_EVENT_ERROR = 8,      /* status and text; the call then returns that status */
    KVRT_EVENT_KV_DEMOTED = 9, /* kv.format=elastic: the step before it needed room. done = pages of 128 positions that
                                        lost precision, total = bytes returned to the pool, text = their new format; one
                                        event per format. STOP ends the generation, PAUSE pauses it (not during prefill) */
    KVRT_EVENT_CTX_SHIFTED =
        10,                    /* ctx.full=shift: the context was full. done = tokens dropped behind the first 128 since
                                        the last such event, total = in all (kvrt_session_info.n_dropped); answers as above */
    KVRT_EVENT_TOOL_CALL = 11, /* gen.tools: a call begins; text is the tool's name, done the call's number from 0 on */
    KVRT_EVENT_TOOL_ARGUMENTS = 12, /* more of the JSON text of its arguments */
    KVRT_EVENT_TOOL_END = 13,       /* it is over; text "cut": the generation ended within it */
    KVRT_EVENT_ALTERNATIVE =
        14 /* behind a TOKEN, with gen.top_logprobs: one of the likeliest tokens, the chosen one among them or not:
                                        token, text, logprob; done counts from 0. Those that a grammar forces have none */
} kvrt_event_type;

typedef enum kvrt_finish {
    KVRT_FINISH_NONE = 0,
    KVRT_FINISH_EOS = 1,
    KVRT_FINISH_STOP = 2,   /* a stop string */
    KVRT_FINISH_LENGTH = 3, /* gen.max_tokens reached */
    KVRT_FINISH_CTX_FULL = 4,
    KVRT_FINISH_CANCELLED = 5,
    KVRT_FINISH_CALLBACK = 6, /* the callback answered STOP */
    KVRT_FINISH_PAUSED = 7,
    KVRT_FINISH_GRAMMAR = 8 /* the text is all that the grammar allows: nothing can follow */
} kvrt_finish;

typedef enum kvrt_answer { KVRT_CONTINUE = 0, KVRT_STOP = 1, KVRT_PAUSE = 2 } kvrt_answer;

typedef struct kvrt_event {
    uint32_t size;
    int32_t type;     /* kvrt_event_type */
    uint64_t request; /* 0 while loading */
    const char *text; /* valid during the callback; NUL-terminated as well */
    uint64_t text_len;
    uint64_t done, total;
    int32_t token;
    int32_t finish; /* kvrt_finish */
    int32_t status; /* kvrt_status */
    float logprob;  /* of a TOKEN: natural log, from the raw logits (before penalties, biases and temperature) */
} kvrt_event;

/* Called on the thread that called the function. Answers KVRT_CONTINUE, KVRT_STOP or KVRT_PAUSE. */
typedef int32_t (*kvrt_event_fn)(const kvrt_event *event, void *user);

/* Log lines, silent unless set. level: 1 error, 2 warning, 3 info, 4 debug, 5 kernels. May be called on any thread that
 * is inside a kvrt call; must only record. Process-wide; set before open. NULL switches logging off. */
typedef void (*kvrt_log_fn)(int32_t level, const char *message, void *user);
KVRT_API void kvrt_log_set(kvrt_log_fn fn, void *user, int32_t max_level);

/* ------------------------------------------------------------------------------------------------------ engine --- */
/* Handles encode an index and a generation and are never dereferenced: use after close gives KVRT_HANDLE, safely. They belong to the
 * process that opened them: in a forked child every call on them, close included, gives KVRT_HANDLE at once (the child has no worker
 * threads), and its copy of their memory goes with it. A child may open an engine of its own. */
typedef struct kvrt_engine_handle *kvrt_engine;
typedef struct kvrt_session_handle *kvrt_session;

/* Opens `model.path` (a Hugging Face folder, or a GGUF file) or `model.shape` (synthetic weights). Takes all memory of the engine; all or
 * nothing. With model.load=tokenizer only the tokenizer and the chat template are opened: no weights, no device, and what needs them
 * answers STATE. Sampling options that are not set take what the folder's generation_config.json says (temperature, top_k, top_p, min_p,
 * repetition_penalty; do_sample false: greedy). model.io=map (the default) reads weights from the files as they are
 * needed: replacing or deleting them does no harm, but whoever shortens one in place, or takes its medium away, ends the process with
 * SIGBUS at the next read; model.io=copy reads them once. Blocks; `fn` (may be NULL) gets LOAD_PROGRESS, whose STOP cancels, and
 * WARNING. `options` are copied.
 * Errors: IO, FORMAT, UNSUPPORTED (the exact tensor or config key), OVER_BUDGET, NOMEM_*, NO_DEVICE, CANCELLED. */
KVRT_API kvrt_status kvrt_engine_open(const kvrt_options *options, kvrt_event_fn fn, void *user, kvrt_engine *out,
                                      kvrt_error *error);
/* Closes the sessions of the engine, then the engine. BUSY while another thread is inside any call on one of them: then nothing was
 * closed. From the moment it succeeds, calls of other threads get HANDLE. Works after DEVICE_LOST, as kvrt_session_close does. */
KVRT_API kvrt_status kvrt_engine_close(kvrt_engine engine, kvrt_error *error);

typedef struct kvrt_engine_info {
    uint32_t size;
    uint32_t n_layers, n_heads, n_kv_heads, head_dim, hidden_size, ffn_size, vocab_size;
    uint32_t ctx_size;  /* tokens granted to a session */
    uint32_t ctx_model; /* tokens the model was trained for (max_position_embeddings) */
    uint64_t n_params, weight_bytes, workspace_bytes, kv_pool_bytes, kv_pool_used_bytes;
    double kv_bytes_per_token; /* body pages, asymptotic; elastic: at its lowest precision */
    const char *architecture;  /* "llama", "qwen3", ...   Strings belong to the engine. */
    const char *backend;       /* "cpu", "cuda" */
    const char *device;        /* "AVX-512 + AMX, 2 threads" */
    const char *kv_format;     /* "k4v4" */
    const char *weight_dtype;  /* of most bytes: "bf16" */
    int32_t bos_id, eos_id;    /* -1: none */
    uint32_t n_sessions;
    uint64_t resident_bytes;    /* what engine and sessions hold now, in host and device memory, maps excluded */
    uint64_t weight_read_bytes; /* weights read per decoded token: all but the rows of an untied embedding */
    uint64_t mapped_bytes; /* weights used where they lie in the file's map: pages the system may drop and read again */
    uint64_t host_bytes;   /* of resident_bytes: what kvrt_debug_mem counts */
    uint64_t planned_bytes; /* the plan's total: what engine and planned sessions take of the budget at most */
    uint64_t budget_bytes;  /* what they might have taken (mem.limit, or what was free less mem.reserve) */
    uint64_t
        kv_pool_cached_bytes; /* beside kv_pool_used_bytes: kept for whoever can use it, given up when room is needed */
} kvrt_engine_info;
/* BUSY while another thread drives (the worker is waited for). [callback] */
KVRT_API kvrt_status kvrt_engine_get_info(kvrt_engine engine, kvrt_engine_info *out, kvrt_error *error);

/* Memory for others. What the engine takes, now: */
typedef struct kvrt_memory {
    uint32_t size;
    int32_t suspended;
    uint64_t host_bytes, device_bytes; /* in all: of the host's memory (maps excluded), of a card's */
    uint64_t workspace_bytes, kv_pool_bytes;
    uint64_t kv_used_bytes, kv_cached_bytes; /* of the pool: held by sessions; kept for whoever can use it */
    uint64_t kv_saved_bytes;                 /* while suspended: what sessions hold, in host_bytes */
    uint64_t planned_bytes, budget_bytes;    /* as in kvrt_engine_info */
    uint64_t available_bytes;                /* free in the memory that the engine is in */
    uint64_t kv_away_bytes; /* of sessions whose pages left the pool (kv.spill); in memory, they are in host_bytes */
    uint64_t kv_pool_most_bytes;             /* of the pool, when the limit is raised to mem.most */
    uint64_t kv_used_pages, kv_cached_pages; /* pages of 128 positions of a group of layers, and states: held, kept */
} kvrt_memory;
/* BUSY while another thread drives (the worker is waited for). [callback] */
KVRT_API kvrt_status kvrt_mem_info(kvrt_engine engine, kvrt_memory *out, kvrt_error *error);
/* Gives back what is only kept in case: cached pages (*freed, may be NULL: their bytes in the pool), and on the CPU the memory behind what is
 * free in the pool, which comes back when it is needed. */
KVRT_API kvrt_status kvrt_trim(kvrt_engine engine, uint64_t *freed, kvrt_error *error);
/* Changes mem.limit of an open engine, 0: none. Its KV pool becomes what the limit leaves beside everything else that was planned; *pool (may be
 * NULL) is its size now. Where it becomes smaller, what is only kept goes; then, if kv.spill is a directory, the pages of idle sessions; then
 * elastic sessions give up precision; the memory goes back to the system. Where it becomes larger, memory is taken as it is used, for more
 * sessions, kept prefixes, or the precision of elastic ones, up to what mem.most has planned for. A step under way is ended first; requests that
 * run go on, with the same tokens. With mem.shared the pool is what the others leave of the limit, which each engine is told. Errors: OVER_BUDGET
 * (what sessions hold does not fit; needed_bytes is the least limit that would do; nothing else has changed), UNSUPPORTED (on CUDA the pool of an
 * engine that was opened without mem.most is fixed; with it, it changes by 2 MiB), NOMEM_HOST, NOMEM_DEVICE. */
KVRT_API kvrt_status kvrt_mem_limit(kvrt_engine engine, uint64_t bytes, uint64_t *pool, kvrt_error *error);
/* Gives back weights, workspace and pool; what sessions hold waits in the host's memory. Until kvrt_resume, whatever computes or changes a session
 * answers STATE; tokenizing, polling, facts and closing work. Sessions go on as if nothing had happened, with the same bits. Errors: NOMEM_HOST,
 * STATE (the worker runs). kvrt_resume takes the same memory again, or fails (NOMEM_*, OVER_BUDGET where mem.shared has others, NO_DEVICE, IO) and
 * may be tried again. */
KVRT_API kvrt_status kvrt_suspend(kvrt_engine engine, kvrt_error *error);
KVRT_API kvrt_status kvrt_resume(kvrt_engine engine, kvrt_error *error);

/* ------------------------------------------------------------------------------------------------------ tokens --- */
#define KVRT_TOKENIZE_ADD_SPECIAL 1u   /* what the post-processor adds (BOS, EOS) */
#define KVRT_TOKENIZE_PARSE_SPECIAL 2u /* text that spells a special token becomes that token; off for user text */
/* Writes at most cap ids and sets *n to the number needed (KVRT_PARTIAL when n > cap). Pure. [any thread] [callback] */
KVRT_API kvrt_status kvrt_tokenize(kvrt_engine engine, const char *text, int64_t len, uint32_t flags, int32_t *ids,
                                   uint64_t cap, uint64_t *n, kvrt_error *error);
#define KVRT_DETOKENIZE_KEEP_SPECIAL 1u /* special tokens appear as their text instead of vanishing */
/* Bytes of the ids; *len is the number needed (KVRT_PARTIAL when above cap); not NUL-terminated. [any thread] [callback] */
KVRT_API kvrt_status kvrt_detokenize(kvrt_engine engine, const int32_t *ids, uint64_t n, uint32_t flags, char *text,
                                     uint64_t cap, uint64_t *len, kvrt_error *error);

/* ----------------------------------------------------------------------------------------------------- session --- */
/* `options` (may be NULL: the engine's) supplies ctx.size, kv.format, kv.tail, gen.* and sample.* of this session. Takes pages lazily
 * from the engine's pool; allocates host memory for token list and page tables. Errors: ARG (an option that belongs to the engine);
 * OVER_BUDGET: more sessions than planned (ctx.sessions), and mem.limit has no room for this one. */
KVRT_API kvrt_status kvrt_session_create(kvrt_engine engine, const kvrt_options *options, kvrt_session *out,
                                         kvrt_error *error);
/* BUSY while another thread is inside a call on it, or drives its engine. */
KVRT_API kvrt_status kvrt_session_close(kvrt_session session, kvrt_error *error);

typedef struct kvrt_session_info {
    uint32_t size;
    uint32_t ctx_size;       /* tokens that fit */
    uint32_t n_tokens;       /* tokens the session is equal to */
    uint32_t n_cached;       /* of these, tokens whose K/V is in the cache */
    uint64_t kv_bytes;       /* pool bytes held by this session */
    uint32_t n_pages;        /* pages held */
    uint32_t n_packed_pages; /* of these, encoded below 16 bits */
    uint32_t n_shared_pages; /* of these, held by other sessions too: in kv_bytes of each, in the pool once */
    uint64_t n_computed;     /* tokens that were computed for this session since it was created */
    uint64_t n_found;        /* tokens that it took instead from what other sessions had computed */
    uint64_t n_dropped;      /* tokens that are no longer in it, behind its first 128 (ctx.full=shift) */
    uint64_t kv_away_bytes;  /* of its pages, while they are not in the pool (kv.spill) */
    uint64_t n_drafted;      /* tokens that were guessed, see Guesses at kvrt_generate */
    uint64_t n_accepted;     /* of these, those that came true */
} kvrt_session_info;
/* BUSY while another thread drives (the worker is waited for). [callback] */
KVRT_API kvrt_status kvrt_session_get_info(kvrt_session session, kvrt_session_info *out, kvrt_error *error);
/* The token list; *n is the number needed (KVRT_PARTIAL when above cap). BUSY as above. [callback] */
KVRT_API kvrt_status kvrt_session_tokens(kvrt_session session, int32_t *ids, uint64_t cap, uint64_t *n,
                                         kvrt_error *error);

/* Makes the session equal to this full list, reusing the longest cached prefix; nothing is computed yet. *n_reused (may be
 * NULL) tells how many tokens stay cached or are there to be taken. Errors: ARG (n = 0 or an id outside the vocabulary), CTX_FULL.
 *
 * Shared prefixes. What the session lacks it takes, when it comes to computing it, from any session of the engine with the same cache
 * settings, closed ones too as long as nobody needed the room: the same pages, held by each, copied before one of them writes. So ten
 * characters on one description compute and store it once; if they begin together, each computes a part. Only what a prompt gives is taken,
 * so results do not change (rule 8): not what was generated, nor what was read after it. Of closed sessions whole pages of 128 positions are
 * found; with recurrent layers the last saved
 * state decides. kv.share=false: takes and gives nothing.
 *
 * A full context. ctx.full=stop: a generation ends (finish CTX_FULL), and a longer prompt is refused. ctx.full=demote: the same behind what
 * kv.format=elastic does anyhow. ctx.full=shift: whole pages of 128 positions behind the first page go, a quarter of the context, and the newest
 * stay (StreamingLLM); so the token list is shorter, an event tells (CTX_SHIFTED), and n_tokens counts on from there. The same when the pool is
 * full in the middle of an answer. Positions are those in the list: what comes later sees the first page as close as if nothing had ever stood
 * between. The first page is computed anew for that, others stay to the bit. It is not what a fresh session over the shorter list gives: the
 * newest pages saw what is gone. sync takes the host's whole list, in which what was dropped still stands, as well as the shorter one, and drops
 * more if the new list has no room otherwise; so does eval. A rewind into the first page ends it, and a list is whole again. A context below 384
 * tokens has nothing to drop: stop. ctx.full=h2o and ctx.full=snapkv (studies, on the CPU) choose instead of the oldest the pages that got least
 * attention: of all queries of the session (H2O), or of the last 64 of the prompt (SnapKV, which also cuts a session down to ctx.keep positions
 * where a prompt ends). Pages keep their places in the whole text, and what comes later goes on there; nothing is computed anew, and a
 * list with what was dropped is read anew, as is all behind a rewind in front of a gap. */
KVRT_API kvrt_status kvrt_session_sync(kvrt_session session, const int32_t *ids, uint64_t n, uint64_t *n_reused,
                                       kvrt_error *error);
/* A second session that is equal to this one: its options, tokens, text in progress and random numbers; a paused request is over in it. It holds
 * the same pages, which are copied before one of the two writes. Continued alike, both have the same bits. Errors: as kvrt_session_create;
 * CTX_FULL (recurrent layers: no room for a second state). */
KVRT_API kvrt_status kvrt_session_fork(kvrt_session session, kvrt_session *out, kvrt_error *error);
/* Pages of sessions that nobody uses may leave the pool (kv.spill=memory, or a directory) when another session has no room otherwise, those of
 * the session used longest ago first; or now, by this call (*moved, may be NULL: bytes). They come back, with checksums, by the next call that
 * needs them: the session goes on with the same bits. What is lost or damaged there is computed again from the tokens, as behind a rewind. What
 * sessions share goes once and comes back once. Errors: STATE (a submitted request; no kv.spill), IO, NOMEM_HOST, OVER_BUDGET (kv.spill_limit):
 * nothing moved. A session that cannot come back for want of room answers CTX_FULL to whatever needs its pages, and is still whole. */
KVRT_API kvrt_status kvrt_session_spill(kvrt_session session, uint64_t *moved, kvrt_error *error);
/* Shortens the session to its first n tokens. Exact inside the 16-bit pages, page-rounded below: then up to 127 tokens are
 * computed again by the next call that needs them. */
KVRT_API kvrt_status kvrt_session_rewind(kvrt_session session, uint64_t n, kvrt_error *error);

/* --------------------------------------------------------------------------------------------------- snapshots --- */
/* A session as bytes: tokens, cache, text in progress, random numbers. Saved and loaded it goes on as if nothing had happened, without computing
 * a token again, with the same bits; on another device too. Every part has a checksum, and loading looks at all of it before it changes the
 * session: SNAPSHOT_CORRUPT (damaged, cut off), SNAPSHOT_MISMATCH (another model, tokenizer, kv.format or kv.tail), CTX_FULL (more tokens than
 * ctx.size, or no room in the pool) leave it as it was. A session whose request runs is saved between two tokens. What is not in it: pages held at
 * 16 bits for a rewind to the last prompt (rule 8). It is not for files of strangers: they could make a session believe that it read what it
 * did not; others never take pages from a loaded session, unless KVRT_SNAPSHOT_OWN says that the file may be believed. What the engine has of the
 * same prompt, computed or loaded so, a loaded session holds with the others instead of once more. */
#define KVRT_SNAPSHOT_TOKENS                                                                                           \
    1u /* tokens and text alone: small, for any weights and cache with this tokenizer; computed again when needed */
#define KVRT_SNAPSHOT_OWN                                                                                              \
    2u /* to load: the file is the host's own. Others may take what it holds of a prompt, as if it had been computed here */
/* Replaces the file as a whole, or not at all: written beside it, brought to the disk, renamed. Errors: IO (system_code is errno). */
KVRT_API kvrt_status kvrt_session_save(kvrt_session session, const char *path, uint32_t flags, kvrt_error *error);
KVRT_API kvrt_status kvrt_session_load(kvrt_session session, const char *path, uint32_t flags, kvrt_error *error);
/* To memory: at most cap bytes; *n is the number needed (KVRT_PARTIAL when above cap). */
KVRT_API kvrt_status kvrt_session_save_bytes(kvrt_session session, uint32_t flags, void *bytes, uint64_t cap,
                                             uint64_t *n, kvrt_error *error);
KVRT_API kvrt_status kvrt_session_load_bytes(kvrt_session session, const void *bytes, uint64_t n, uint32_t flags,
                                             kvrt_error *error);
/* Through the host's functions, which take or fill exactly n bytes and return 0, or anything else to stop (IO). They are called with parts of up
 * to a page, one after the other, and must not call kvrt. */
typedef int32_t (*kvrt_write_fn)(void *user, const void *bytes, uint64_t n);
typedef int32_t (*kvrt_read_fn)(void *user, void *bytes, uint64_t n);
KVRT_API kvrt_status kvrt_session_save_to(kvrt_session session, uint32_t flags, kvrt_write_fn fn, void *user,
                                          kvrt_error *error);
KVRT_API kvrt_status kvrt_session_load_from(kvrt_session session, uint32_t flags, kvrt_read_fn fn, void *user,
                                            kvrt_error *error);

/* -------------------------------------------------------------------------------------------------- generation --- */
typedef struct kvrt_result {
    uint32_t size;
    int32_t finish; /* kvrt_finish */
    uint64_t request;
    uint32_t n_prompt; /* tokens before generation */
    uint32_t n_reused; /* of these, already cached */
    uint32_t n_generated;
    uint64_t prefill_us, decode_us, first_token_us;
    uint64_t kv_bytes;   /* pool bytes held at the end */
    uint64_t seed;       /* that the session's random stream began with, see Random choices */
    uint32_t n_drafted;  /* tokens that were guessed, */
    uint32_t n_accepted; /* and those of them that came true, see Guesses */
} kvrt_result;

/* Computes what the session still lacks, then samples until a stop condition. `options` (NULL: the session's) may override
 * gen.* and sample.* for this call. Blocks; `fn` gets the events; `out` may be NULL. Generated ids are part of the session.
 * A pause (callback answer) returns KVRT_PAUSED; calling again continues. Never allocates device memory.
 * Errors: STATE (session is empty), ARG (an option that belongs to the engine or the session), CTX_FULL (prompt does
 * not fit), CANCELLED (during prefill), GRAMMAR (what is wrong with it, where), GRAMMAR_DEAD_END, DEVICE_LOST, INTERNAL.
 *
 * Text over calls. Whatever cuts a generation into calls (a pause, gen.max_tokens, a cancel, a STOP), the TEXT of them all is the same:
 * an incomplete code point, the beginning of a stop string and the window of the penalties wait in the session for the next call, as long
 * as nothing but kvrt_generate changed the tokens (a sync or rewind to the same tokens is no change). At the end of such a call the DONE
 * event's text is what waits, with U+FFFD for an incomplete code point: a host that does not go on appends it. At an end-of-text token
 * and with a full context nothing waits: it was given out as TEXT.
 *
 * Reasoning. What a model writes between its marks (<think> and </think>, and others) comes as REASONING events, and TEXT is the rest; the
 * marks are in neither, white space around them stays. Marks are tokens when the vocabulary has both, else what the chat template spells;
 * a text may begin inside (templates that open the section themselves). Stop strings work in both, never across a mark. Of models whose messages
 * have headers (gpt-oss, Gemma 4) the channels "analysis" and "thought" are reasoning, all others text; headers vanish.
 * gen.reasoning=false: everything is TEXT, marks included unless they are special tokens.
 *
 * Tools. With gen.tools (the array that kvrt_chat_render is given too) calls of tools are told by TOOL_CALL, TOOL_ARGUMENTS and TOOL_END while
 * they are written, and are not in TEXT: of Llama 3, Hermes and Qwen, Qwen3-Coder, Mistral, gpt-oss, Gemma 4, GLM. Arguments are JSON text,
 * whatever the model writes itself. What only looks like a call is TEXT. Which format a model has is seen by its tokens and its chat template.
 * gen.tool_choice says what holds: auto: text is free, but a call that is begun names a tool and its arguments satisfy the tool's schema (of a
 * tool without "strict": true whose schema has a keyword that is not supported they are an object, and a WARNING says so); required: the
 * text is one call or several; name:TOOL: one call of this tool; free: calls are as the model writes them. With grammar.schema a text without
 * calls satisfies that; with grammar.gbnf or grammar.regex these alone count.
 *
 * Grammar. With grammar.schema, grammar.gbnf or grammar.regex (one of them) the text is what the grammar allows, whatever is sampled: tokens
 * that do not
 * fit are out before anything else looks at the logits. End-of-text is allowed where the text is complete; where nothing can follow, the call
 * ends with
 * finish GRAMMAR. What has no choice is not sampled but taken, several tokens at a time (logprob 0). Reasoning is free, and the text begins
 * behind it.
 * A call goes on with the text of the one before where it gives the same grammar and the tokens are those that it left, or were cut by a rewind
 * since;
 * else it begins a new text. Compiling and following take host memory, within limits: a grammar that needs more is an error (GRAMMAR), never a hang.
 * GRAMMAR_DEAD_END: no token of the vocabulary fits, or sample.logit_bias bans them all; the session is what it was before that token.
 *
 * Guesses. With draft.type the next tokens are guessed, and computed together in one step: lookup, by what followed the same words earlier in the
 * session; model, by a smaller model with the same tokenizer (draft.model), which reads what the session has a chunk per step; mtp, by the layer that
 * Qwen3.5 to 3.8 bring for it, while one session generates. What is sampled does not change, greedy or not, to the bit (rule 8), nor do events;
 * several tokens come at a time where guesses come true. Wrong ones cost time: so there are fewer of them then, and none for up to 64 steps. Nobody
 * guesses while more than four sessions generate at once. With recurrent layers sessions guess if the engine was opened with a draft.type, as it
 * then plans a second state.
 *
 * Random choices. A session has one stream of random numbers, and each sampled token (temperature above 0) takes one of it. With
 * sample.seed the stream begins with the first call that gives this seed and then goes on over calls, whatever happens to the tokens:
 * one token per call chooses as one call does, and generating again after a rewind chooses anew. Only another seed begins it again.
 * Without sample.seed (auto) it begins with a random seed at every call that starts a new text, that is, unless the tokens are as the
 * call before left them. kvrt_result.seed tells which (below 2^53). So: a new session, the same tokens, options and seed give the same
 * text. */
KVRT_API kvrt_status kvrt_generate(kvrt_session session, const kvrt_options *options, kvrt_event_fn fn, void *user,
                                   kvrt_result *out, kvrt_error *error);
/* Cancelling. A generation has a request number, unique in the process and never reused: kvrt_result and every event tell it. Reserve
 * it before the call where a cancel may come first (another thread, a queue): the next new generation of the session takes it. A
 * session has one reservation; reserving again replaces it. [any thread] [callback] */
KVRT_API kvrt_status kvrt_request_reserve(kvrt_session session, uint64_t *request, kvrt_error *error);
/* Cancels this request, at any time: reserved (kvrt_generate then returns KVRT_CANCELLED before it computes), in prefill (KVRT_CANCELLED),
 * in decoding (the call returns OK with finish CANCELLED) or paused (the call that continues does), within one slice. Harmless for a
 * request that is over. [any thread] [callback] [async-signal-safe] */
KVRT_API void kvrt_cancel_request(kvrt_session session, uint64_t request);
/* Cancels whatever the session has: the running or paused request, the reserved one, or a running kvrt_session_eval. When there is
 * none it does nothing: a generation that begins later without a reservation is not affected. [any thread] [callback] [async-signal-safe] */
KVRT_API void kvrt_cancel(kvrt_session session);

/* --------------------------------------------------------------------------------------------- several at a time --- */
/* Submitted requests are computed by kvrt_step, or by the worker thread, for all sessions together: the rows of up to 16 that decode (on a
 * card: 8) in one step, chunks of prompts between. Nobody waits for longer than a chunk and one step of the others; sched.priority is for
 * those who should wait less. Events are polled; what a session gets is to the bit what kvrt_generate would give it. One driver at a time:
 * while the worker runs, kvrt_step, kvrt_generate and kvrt_session_eval answer BUSY; all other calls wait for it to leave, which it does
 * within one operation of the model. kvrt_generate and kvrt_session_eval first end the step that kvrt_step has left under way.
 *
 * Begins a request as kvrt_generate does, and returns. *request (may be NULL) is its number. The session cannot be changed until its DONE or
 * ERROR event (STATE), but may be forked, and closed: then no event follows. There is no pause. Errors: as kvrt_generate, before it
 * computes. */
KVRT_API kvrt_status kvrt_submit(kvrt_session session, const kvrt_options *options, uint64_t *request,
                                 kvrt_error *error);
/* Works for about budget_us, at least one range of rows of a matrix, and stops where the next one is expected to take longer than what is left: the
 * middle of a token too. What operations take is learned, so that the first tokens may overshoot. Returns MORE; DONE: no request is left;
 * PARTIAL: the event queue is full, poll first. While limits demand a rest it returns MORE at once. Errors: BUSY, DEVICE_LOST. */
KVRT_API kvrt_status kvrt_step(kvrt_engine engine, uint64_t budget_us, kvrt_error *error);
/* The oldest event of submitted requests; its text is valid until the next kvrt_poll. DONE: there is none. The queue holds 128 KiB: sessions wait
 * while there is no room for what they would say. One thread polls at a time. Set out->size. [any thread] [callback] */
KVRT_API kvrt_status kvrt_poll(kvrt_engine engine, kvrt_event *out, kvrt_error *error);
/* kvrt_session_save and kvrt_session_load in pieces of 256 KiB, by kvrt_step or the worker, between the steps of other requests and within their
 * budgets; bringing a file to the disk at the end is one call of the system. Until the DONE (done = total = bytes) or ERROR event the session
 * cannot be used otherwise (STATE). A cancel ends them, a load only as long as it has changed nothing. The path is opened at once (IO). */
KVRT_API kvrt_status kvrt_submit_save(kvrt_session session, const char *path, uint32_t flags, uint64_t *request,
                                      kvrt_error *error);
KVRT_API kvrt_status kvrt_submit_load(kvrt_session session, const char *path, uint32_t flags, uint64_t *request,
                                      kvrt_error *error);
/* The figures of the session's last request. BUSY while another thread drives (the worker is waited for). [callback] */
KVRT_API kvrt_status kvrt_session_result(kvrt_session session, kvrt_result *out, kvrt_error *error);
/* Cancels a request by its number alone, whatever session it is of. Harmless for any value. [any thread] [callback] [async-signal-safe] */
KVRT_API void kvrt_cancel_id(uint64_t request);

/* Starts the engine's own thread, which drives submitted requests until kvrt_worker_stop or the engine is closed. `wakeup` (may be NULL) is
 * called on it after events have come, and may only signal: write to an eventfd, post a message. What of kvrt is not [callback] answers REENTRANT
 * there. */
typedef void (*kvrt_wakeup_fn)(void *user);
KVRT_API kvrt_status kvrt_worker_start(kvrt_engine engine, kvrt_wakeup_fn wakeup, void *user, kvrt_error *error);
KVRT_API kvrt_status kvrt_worker_stop(kvrt_engine engine, kvrt_error *error);

/* --------------------------------------------------------------------------------------------------- embeddings --- */
/* Hidden states of a session's tokens, read as a prompt: what the last layer leaves, behind the final norm, as the head gets it (the
 * last_hidden_state of transformers), in f32. */
typedef enum kvrt_pooling {
    KVRT_POOL_TOKENS = 1, /* of every token: (n_tokens, hidden_size) */
    KVRT_POOL_MEAN = 2,   /* the mean over all tokens: (hidden_size) */
    KVRT_POOL_LAST = 3    /* of the last token: (hidden_size) */
} kvrt_pooling;
typedef struct kvrt_embed_params {
    uint32_t size;
    int32_t pooling;   /* kvrt_pooling */
    int32_t normalize; /* 1: each row is divided by its L2 norm, behind pooling */
    float *out;   /* of the host, who keeps it until the request is over or the session closed; complete with DONE */
    uint64_t cap; /* numbers that fit into out */
} kvrt_embed_params;

/* A request like any other: kvrt_embed blocks as kvrt_generate does, kvrt_submit_embed is driven with what else was submitted, chunk by chunk; both
 * are cancelled alike, and end with DONE (finish LENGTH) or ERROR. The session's tokens stay, and are cached afterwards. LAST uses what the session
 * and others have of them; TOKENS and MEAN compute all of them, as hidden states are not kept. Nothing is generated: n_generated is 0. Generated
 * tokens are read as a prompt is (rule 8). Allocates nothing.
 * Errors: STATE (session is empty), ARG (out is NULL, cap is too small, pooling is unknown), CTX_FULL (no room in the pool), CANCELLED,
 * DEVICE_LOST, INTERNAL. */
KVRT_API kvrt_status kvrt_embed(kvrt_session session, const kvrt_embed_params *params, kvrt_event_fn fn, void *user,
                                kvrt_result *out, kvrt_error *error);
KVRT_API kvrt_status kvrt_submit_embed(kvrt_session session, const kvrt_embed_params *params, uint64_t *request,
                                       kvrt_error *error);

/* How much of the machine submitted requests may have, changeable at any moment. */
typedef enum kvrt_mode {
    KVRT_MODE_GRAPHICS = 1, /* the worker computes for 1 ms at a time, at most half of the time */
    KVRT_MODE_BALANCED = 2, /* 4 ms at a time, nine tenths of the time */
    KVRT_MODE_COMPUTE = 3   /* as much as there is to do (the default) */
} kvrt_mode;
typedef struct kvrt_limits {
    uint32_t size;
    int32_t mode;             /* kvrt_mode; 0: as it is */
    double tokens_per_second; /* of all requests together; 0: no limit. Prompts are not slowed down */
    double duty_percent;      /* share of the time, kvrt_step included; 0: that of the mode */
} kvrt_limits;
/* [any thread] [callback] */
KVRT_API kvrt_status kvrt_engine_limit(kvrt_engine engine, const kvrt_limits *limits, kvrt_error *error);

/* Appends n ids to the session, computes them and writes the logits of the chosen rows: rows[i] in 0..n-1 selects ids[rows[i]],
 * logits is (n_rows, vocab_size). rows = NULL with n_rows = 1 means the last row. n_rows = 0 computes the cache only. */
KVRT_API kvrt_status kvrt_session_eval(kvrt_session session, const int32_t *ids, uint64_t n, const uint32_t *rows,
                                       uint64_t n_rows, float *logits, kvrt_error *error);

/* --------------------------------------------------------------------------------------------------------- chat --- */
/* Structured messages in, tokens out, by the chat template of the model folder. Only what the template itself writes may
 * become a special token; text of messages never does, whatever it spells. {"allow_special": true} in a message lifts
 * that for this message. With tools the folder's template "tool_use" is taken, if it has one. Content in parts stays a list
 * for a template that walks over it; other templates get the texts joined. Parts that are not text need a template that
 * names their type. */
typedef struct kvrt_chat_input {
    uint32_t size;
    int32_t add_generation_prompt; /* end with the opening of an assistant message */
    const char *messages;          /* JSON: [{"role": "user", "content": "..."}, ...]; content may be a list of parts */
    int64_t messages_len;          /* -1: NUL-terminated, as the lengths below */
    const char *tools;             /* JSON array of tools; NULL: none */
    int64_t tools_len;
    const char *variables; /* JSON object of template variables (enable_thinking, documents, ...); NULL: none */
    int64_t variables_len;
    int64_t local_time; /* seconds since 1970, time zone applied, for templates that print the date */
    uint64_t text_from; /* ids only for the text from this byte on: the session already holds what is before */
} kvrt_chat_input;

/* Writes at most cap ids and text_cap bytes (either may be 0) and sets *n and *text_len (may be NULL) to the numbers
 * needed; KVRT_PARTIAL when something did not fit. Pure: sync the session with the ids. Errors: TEMPLATE with line and
 * column; ARG for malformed messages; UNSUPPORTED: no chat template, or parts that are not text. [any thread] [callback] */
KVRT_API kvrt_status kvrt_chat_render(kvrt_engine engine, const kvrt_chat_input *input, int32_t *ids, uint64_t cap,
                                      uint64_t *n, char *text, uint64_t text_cap, uint64_t *text_len,
                                      kvrt_error *error);

/* --------------------------------------------------------------------------------------------------------- plan --- */
/* ------------------------------------------------------------------------------------------------- quantization --- */
#define KVRT_QUANTIZE_RTN 0    /* every weight to its nearest code */
#define KVRT_QUANTIZE_SEARCH 1 /* scales of least squared error */
#define KVRT_QUANTIZE_GPTQ 2   /* and errors made good by the columns that follow; needs a calibration text */
typedef struct kvrt_quantize_params {
    uint32_t size;
    uint32_t bits; /* 4 or 8, of the matrices of all layers */
    uint32_t
        group; /* weights of a row that share a scale, 0: the whole row; where it does not divide a row, its largest power-of-two
                         * divisor that does */
    uint32_t
        head_bits; /* 8: the head too, a row to a scale (shared embeddings then get a head of their own); 0: as it is */
    int32_t method;     /* KVRT_QUANTIZE_* */
    const int32_t *ids; /* (n_ids) a text like those that the model will see; NULL where the method needs none */
    uint64_t n_ids;
} kvrt_quantize_params;

/* LIST names all tensors to come, without data; LEARN counts tokens of the calibration text; TENSOR brings the same tensors in the same order with
 * their data; CONFIG brings the config.json of the new folder as `data`. Pointers are valid during the callback. */
#define KVRT_QUANTIZE_LIST 1
#define KVRT_QUANTIZE_LEARN 2
#define KVRT_QUANTIZE_TENSOR 3
#define KVRT_QUANTIZE_CONFIG 4
typedef struct kvrt_quantize_event {
    uint32_t size;
    int32_t kind;
    uint64_t done, total;     /* LEARN: tokens. TENSOR: bytes of tensors, this one included */
    const char *name, *dtype; /* "model.layers.0.mlp.up_proj.weight_packed", "I32" */
    uint64_t shape[8], n_dims, bytes;
    const void *data; /* (bytes) */
} kvrt_quantize_event;
typedef int32_t (*kvrt_quantize_fn)(const kvrt_quantize_event *event,
                                    void *user); /* 0 goes on, anything else cancels */

/* The weights of an engine's model as integers, in the layout of compressed-tensors (pack-quantized): what to write into a folder that
 * transformers, vLLM and kvrt load. The engine was opened from a Hugging Face folder, or from a GGUF file of Llama, Qwen2 or Qwen3 (of which
 * tensors and config.json come, no tokenizer), on a backend that shows its inputs (the CPU) if there is a text; it computes, so nobody else
 * may use it meanwhile. Blocks; allocates. [not from a callback]
 * Errors: ARG; UNSUPPORTED (other GGUF files, a folder that is quantized already, experts that transformers has no modules for: the tensor is
 * named), NOMEM_HOST, CANCELLED. */
KVRT_API kvrt_status kvrt_quantize(kvrt_engine engine, const kvrt_quantize_params *params, kvrt_quantize_fn fn,
                                   void *user, kvrt_error *error);

/* What fits, before weights and cache are taken: reads config.json, safetensors headers and the tokenizer, or model.shape. One row per KV
 * format of `formats` (comma-separated, NULL: all), for device.backend (auto: the one that an open would try first), by the functions that
 * decide an open: what is planned is what is taken.
 * A plan is about one memory, the host's or the card's, and its budget: mem.limit, or what is free less mem.reserve. A total is what an
 * engine and its planned sessions take of it; it is the sum of its parts, to the byte. On the CPU that is what kvrt_debug_mem counts; mapped
 * weights are not taken and not in it. mem.limit with device.backend=cuda plans for a card that need not be here: a context of mem.context
 * bytes is then assumed on it. Without a limit the card is opened and asked; its context is then no part of what is free. */
typedef struct kvrt_plan_row {
    uint32_t size;
    const char *kv; /* format name, static. "elastic": max_ctx is what its lowest precision allows, kv_bytes what an
                       engine takes to keep more where the budget allows */
    double bits_per_element;
    double bytes_per_token;  /* body, asymptotic, all layers */
    uint64_t fixed_kv_bytes; /* sink and tail beyond what the body would take */
    uint64_t max_ctx;        /* tokens; up to what the model was trained for, or to ctx.size where that is more */
    const char
        *capped_by; /* what ends max_ctx: "memory", "model", "request", "nothing fits", "backend" (see problem) */
    uint64_t ctx;   /* the context the totals below are for: ctx.size, or max_ctx when auto; 128 where nothing fits */
    uint64_t kv_bytes;     /* at ctx, of all sessions (ctx.sessions) */
    uint64_t total_bytes;  /* kv + weight + table + workspace + session + context + draft bytes */
    int32_t fits;          /* ctx fits the budget: an open with these options and this format succeeds */
    uint64_t max_sessions; /* sessions of ctx tokens that fit */
    uint64_t weight_bytes; /* taken: on a card, copied (model.io) or synthetic; beside a map only handles and vectors */
    uint64_t table_bytes;  /* tokenizer, names, template, program, bookkeeping */
    uint64_t workspace_bytes;
    uint64_t session_bytes; /* token lists, page tables, samplers: taken when sessions are created and generate */
    uint64_t context_bytes; /* assumed for a card */
    uint64_t host_bytes;    /* of a card: what is taken of the host's memory beside the total */
    char problem[200];      /* why the backend does not take this format: then nothing fits. Empty: it does */
    uint64_t draft_bytes;   /* in the total: what the engine of draft.model takes */
    uint64_t kv_most_bytes; /* kv_bytes when kvrt_mem_limit raises the limit to mem.most */
} kvrt_plan_row;

typedef struct kvrt_plan_info {
    uint32_t size;
    uint64_t weight_bytes;    /* of the model, wherever they lie */
    uint64_t workspace_bytes; /* with f16 at ctx.size or the model's context; rows have their own */
    uint64_t device_context_bytes, budget_bytes, reserve_bytes;
    uint32_t ctx_model;
    uint64_t n_params;
    char architecture[32];
    uint64_t mapped_bytes;  /* weights that stay in the file's map, outside of every total */
    uint64_t loading_bytes; /* most that is held while files are read; more than the budget: nothing fits */
    char backend[16];       /* what the plan is for */
    uint64_t expert_bytes;  /* of weight_bytes: experts, of which a token chooses some */
    uint64_t
        state_bytes; /* of each session's part of kv_bytes: states of recurrent layers, the live one and its checkpoints */
    uint32_t n_states; /* so many of one size */
    char forms
        [400]; /* of the matrices, most bytes first: "i4 4.125 bits (tiles, avx512vnni) 6979 M; bf16 16 bits (rows, avx512) 1051 M" */
} kvrt_plan_info;
KVRT_API kvrt_status kvrt_plan(const kvrt_options *options, const char *formats, kvrt_plan_info *info,
                               kvrt_plan_row *rows, uint64_t cap, uint64_t *n, kvrt_error *error);

/* ---------------------------------------------------------------------------------------- measurement, unstable --- */
/* What `kvrt bench`, `eval` and `inspect` need. May change in any release; not for applications. */

/* Devices and why a backend is absent: fn is called once per backend with a line of text. */
typedef void (*kvrt_line_fn)(const char *name, const char *text, int32_t usable, void *user);
KVRT_API void kvrt_measure_devices(kvrt_line_fn fn, void *user);
/* What multiplies which forms of weights on a usable backend: fn is called with the forms ("q4_0 q4_1 i4") as name and the kernel as text.
 * ARG: no such backend; NO_DEVICE: it is not usable. */
KVRT_API kvrt_status kvrt_measure_forms(const char *backend, kvrt_line_fn fn, void *user, kvrt_error *error);

/* The folder as found: never fails on an unsupported model, it reports. */
typedef struct kvrt_inspect_tensor {
    uint32_t size;
    const char *name, *dtype, *file; /* valid during the callback */
    uint64_t shape[8], n_dims, bytes;
    const char *form;   /* of a weight whose codes these are: "i4", "bf16"; else "" */
    uint64_t n_weights; /* parameters that are read from it; 0: not a tensor of codes */
    double bits;        /* of each of them, scales and zeros included */
    uint32_t group;     /* neighbours of a row that share a scale; 0: the whole row, or no scales */
    const char
        *kernel; /* what multiplies it on this machine: "tiles, avx512vnni", "decoded row by row, avx2"; else "" */
} kvrt_inspect_tensor;
typedef struct kvrt_inspect_info {
    uint32_t size;
    char architecture[64], family[32], problem[512]; /* problem: empty when the model is supported */
    uint32_t n_layers, n_heads, n_kv_heads, head_dim, hidden_size, ffn_size, vocab_size, ctx_model;
    int32_t tied_embeddings, qkv_bias, qk_norm;
    uint32_t sliding_window;
    double rope_theta;
    char rope_scaling[32], tokenizer[96];
    uint64_t n_params, bytes, n_tensors, n_files;
    int32_t eos_ids[16]; /* tokens that end a text */
    uint32_t n_eos;
    int32_t eos_of_generation; /* 1: from generation_config.json; 0: from config.json or the tokenizer */
    char warning[256];         /* keys of config.json that are ignored because nobody knows them; empty: none */
    char quantization[48];     /* quant_method of the folder; empty: none */
    uint64_t n_weights,
        weight_bytes; /* parameters of the model and what they take, once it is known how they lie; else 0 */
    char layers
        [200]; /* kinds of layers: "16 attention, 48 gated DeltaNet; 64 dense"; empty when the config is not known */
} kvrt_inspect_info;
typedef void (*kvrt_tensor_fn)(const kvrt_inspect_tensor *tensor, void *user);
KVRT_API kvrt_status kvrt_inspect(const char *path, kvrt_inspect_info *out, kvrt_tensor_fn fn, void *user,
                                  kvrt_error *error);

/* Sets in `options` what generation_config.json of the folder says about sampling and `options` does not, as kvrt_engine_open does with
 * its own copy. No such file: nothing. Errors: IO; FORMAT names the key. */
KVRT_API kvrt_status kvrt_inspect_defaults(const char *path, kvrt_options *options, kvrt_error *error);

/* Known shapes for model.shape: NULL past the end. */
KVRT_API const char *kvrt_shape_name(uint32_t index);

/* Appends n positions of synthetic, distinct K/V records (no prefill), as if n tokens had been processed. */
KVRT_API kvrt_status kvrt_measure_fill(kvrt_session session, uint64_t n, uint64_t seed, kvrt_error *error);

/* Per-operation times, collected while enabled; reset by enabling. */
typedef struct kvrt_op_time {
    uint32_t size;
    const char *op;     /* "attention" */
    const char *kernel; /* the kernel that ran; lives as long as the engine */
    uint64_t calls, total_us, bytes;
} kvrt_op_time;
KVRT_API kvrt_status kvrt_measure_ops(kvrt_engine engine, int32_t enable, kvrt_error *error);
KVRT_API kvrt_status kvrt_measure_op_at(kvrt_engine engine, uint32_t index, kvrt_op_time *out, kvrt_error *error);

/* Copy bandwidth of a CUDA engine's device in GB/s, bytes read plus bytes written, measured over its KV pool: STATE while sessions
 * are open. UNSUPPORTED on the CPU (see below) and for pools under 128 MiB. */
KVRT_API kvrt_status kvrt_measure_copy(kvrt_engine engine, double *gbps, kvrt_error *error);

/* Read bandwidth of this machine in GB/s: best of 1 and 8 streams per thread over a buffer of `bytes`. Owns the buffer between
 * open and close so that rounds are short. In a forked child the probe reads 0 and is not closed. */
typedef struct kvrt_bandwidth kvrt_bandwidth;
KVRT_API kvrt_status kvrt_bandwidth_open(uint32_t n_threads, uint64_t bytes, kvrt_bandwidth **out, kvrt_error *error);
KVRT_API double kvrt_bandwidth_read_gbps(kvrt_bandwidth *probe);
KVRT_API void kvrt_bandwidth_close(kvrt_bandwidth *probe);

/* Host-memory test hooks: let the n-th allocation from now fail (0: off); bytes and blocks now held by kvrt. */
KVRT_API void kvrt_debug_fail_alloc(uint64_t nth);
KVRT_API void kvrt_debug_mem(uint64_t *bytes, uint64_t *blocks, uint64_t *allocations);

#ifdef __cplusplus
}
#endif
#endif /* KVRT_H */
