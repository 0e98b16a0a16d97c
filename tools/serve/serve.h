/* serve.h - what the files of `kvrt serve` share. THE MODEL IN YOUR HEAD
 *
 *   connection thread (libmicrohttpd, one per client)       pump thread                 the engine's worker
 *   reads a request, renders it to tokens, waits for   <--  polls events, puts each  <-- computes all submitted
 *   seats, submits a job per answer, formats what comes     into its job                 sessions together
 *
 * A *call* is one HTTP request that generates; it has a *job* per answer (n, or several prompts), and a job sits on a *seat*: a
 * session that stays when the answer is over, so that the next turn of the conversation finds it again (serve_seats.c). A *shape* is
 * what an API looks like: functions that write a call's news as JSON or as server-sent events. A call belongs to its connection's
 * thread; what the pump touches of it lies in the job, under `server.lock`. Calls on the engine that it allows one at a time are made
 * under `server.engine_lock`; both locks are never held together. */
#ifndef KVRT_SERVE_H
#define KVRT_SERVE_H
#include "kvrt.h"
#include "serve_json.h"
#include "serve_text.h"

#include <pthread.h>

#define SERVE_STOPS 16u
#define SERVE_PENDING (1u << 20) /* bytes of an answer that wait for a client: one that reads slower is given up */

struct MHD_Connection;
typedef struct serve_call serve_call;
typedef struct serve_server serve_server;

/* ---- serve_jobs.c: answers that are computed, and the news of them */
/* CALL: a tool's name, which begins a call; ARGUMENTS: more of its JSON. */
typedef enum serve_kind {
    SERVE_TEXT,
    SERVE_REASONING,
    SERVE_TOKEN,
    SERVE_CALL,
    SERVE_ARGUMENTS,
    SERVE_ALTERNATIVE
} serve_kind;
typedef struct serve_delta {
    serve_kind kind;
    size_t at, len; /* in the bytes beside it */
    int32_t token;
    float logprob;
} serve_delta;
typedef struct serve_news {
    serve_text bytes;
    serve_delta *deltas; /* (n) */
    size_t n, cap;
} serve_news;
typedef struct serve_job {
    uint64_t request; /* 0: none */
    struct serve_job *next;
    pthread_cond_t *changed; /* of its call */
    serve_news news;
    bool done, too_slow;
    uint64_t since_us, token_us;    /* when its request came, 0: it is not measured; when its last token did */
    const kvrt_embed_params *embed; /* what is submitted; NULL: an answer */
    bool one_call, enough;          /* the answer ends behind its first call of a tool; it has */
    int32_t finish, status;         /* kvrt_finish, kvrt_status of an ERROR event */
    char message[256];
    /* What was generated, for the seat: ids, and the end of each one's bytes. */
    int32_t *ids;
    size_t *ends;
    size_t n_ids, cap_ids;
    serve_text pieces;
} serve_job;
bool serve_pump_start(serve_server *s);
void serve_pump_stop(serve_server *s); /* behind the worker */
void serve_wake(void *server);         /* the worker's kvrt_wakeup_fn */
/* Submits and waits for nothing. Only a failing submit forgets the job again. */
int32_t serve_job_start(serve_server *s, serve_job *job, kvrt_session session, const kvrt_options *options,
                        kvrt_error *error);
void serve_job_wait(serve_server *s, serve_job *job); /* until it is done */
void serve_job_free(serve_job *job);

/* ---- serve_seats.c: sessions, who may have them, and finding them again */
typedef struct serve_seat {
    kvrt_session session; /* NULL: none yet */
    bool taken;
    uint64_t used; /* when, by server.clock */
    int64_t seed;  /* that its random stream began with, -1: a random one */
    int32_t *ids;  /* (n_ids) the session's tokens: a prompt, and what was generated */
    size_t n_ids, n_prompt;
    serve_text prompt; /* the prompt as the chat template spelled it; empty for other prompts */
    serve_text pieces; /* bytes of the generated tokens, and where each one's end */
    size_t *ends;      /* (n_ids - n_prompt) */
} serve_seat;
typedef struct serve_prompt {
    int32_t *ids; /* (n) */
    size_t n;
    serve_text text;                /* of a chat, as rendered */
    serve_text messages, variables; /* JSON; empty: not a chat */
    serve_text tools;
    int64_t local_time;
} serve_prompt;
typedef struct serve_waiter {
    unsigned need;
    struct serve_waiter *next;
} serve_waiter;
/* Waits until the call may have a seat for each job. An HTTP status: 200, 429 (too many wait), 503 (the server ends), 499 (the client has gone). */
int serve_seats_wait(serve_call *call);
/* Tokens of the prompt that a seat without a session would keep if it had one (serve_segments.c). */
size_t serve_seat_would_keep(const serve_seat *seat, const serve_prompt *prompt);
/* The session of `len` bytes gets a free seat, which knows what `seat` does; that is taken over, or freed. False: it cannot be loaded. */
bool serve_seat_import(serve_server *s, serve_seat *seat, const void *session, uint64_t len);
/* Chooses a seat for a prompt and makes its session equal to it. */
int32_t serve_seat_take(serve_server *s, const serve_prompt *prompt, int64_t seed, serve_seat **out, kvrt_error *error);
/* One with a new session for something else than a conversation, and giving it back. */
int32_t serve_seat_borrow(serve_server *s, serve_seat **out, kvrt_error *error);
void serve_seat_drop(serve_server *s, serve_seat *seat);
/* The seat remembers what it holds now (or forgets it when the answer failed) and is free. */
void serve_seat_return(serve_server *s, serve_seat *seat, const serve_prompt *prompt, serve_job *job);
void serve_seats_give_back(serve_server *s, unsigned n); /* what serve_seats_wait granted */
void serve_seats_free(serve_server *s);
void serve_seat_forget(serve_seat *seat); /* closes its session */

/* ---- serve_keep.c: conversations over a restart */
void serve_keep_save(serve_server *s);
bool serve_keep_can(const serve_seat *seat); /* it holds a conversation that can be written */
/* To and from two files, under engine_lock; a seat that could not be loaded must be forgotten. */
int32_t serve_keep_save_seat(const serve_seat *seat, const char *session, const char *text, kvrt_error *error);
int32_t serve_keep_load_seat(serve_server *s, serve_seat *seat, const char *session, const char *text,
                             kvrt_error *error);
bool serve_keep_load(serve_server *s); /* false, with a message: there is no such directory */

/* ---- serve_segments.c: conversations in a store that others share (--store) */
typedef enum serve_role {
    SERVE_BOTH,
    SERVE_PREFILL, /* computes prompts for others: an answer is one token, and told when the store has its prompt */
    SERVE_DECODE   /* takes prompts from the store and writes none */
} serve_role;
typedef struct serve_store_counts {
    uint64_t lookups, hits, tokens, read_bytes, written_bytes, written, dropped, errors, damaged;
} serve_store_counts;
struct serve_store;
struct serve_segment;
bool serve_store_start(serve_server *s); /* false, with a message */
void serve_store_stop(serve_server *s);  /* what waits is written */
/* What the seat holds, under engine_lock; NULL: nothing, or no store. Then, outside of it, on its way. */
struct serve_segment *serve_store_take(serve_server *s, const serve_seat *seat);
void serve_store_put(serve_server *s, struct serve_segment *segment);
/* Looks for more of the prompt than the `kept` tokens that a seat has; what is found gets a seat. */
void serve_store_find(serve_server *s, const serve_prompt *prompt, size_t kept);
serve_store_counts serve_store_get_counts(serve_server *s);

/* ---- serve_prompt.c: requests to tokens */
int32_t serve_render(serve_server *s, const serve_prompt *prompt, uint64_t from, int32_t **ids, size_t *n,
                     serve_text *text, kvrt_error *error);
int32_t serve_tokenize(serve_server *s, const char *text, size_t len, uint32_t flags, int32_t **ids, size_t *n,
                       kvrt_error *error);
void serve_prompt_free(serve_prompt *prompt);
/* OpenAI's messages as the template wants them, appended as JSON. False: the call has an error. */
bool serve_messages(serve_call *call, const serve_node *messages, serve_text *out);
/* A member that is a text, a list of texts, a list of ids, or a list of such lists; up to `most`, which `why` names. */
bool serve_prompts(serve_call *call, const char *name, unsigned most, const char *why);
/* What is left of a chat once `prompt.messages` stand: tokens. */
bool serve_chat_prompt(serve_call *call, serve_prompt *prompt);

/* ---- serve_call.c: a request from beginning to end */
typedef struct serve_token {
    size_t at, len; /* in answer.token_bytes */
    int32_t id;
    float logprob;
    size_t first, n_others; /* in answer.others: the likeliest tokens at its place */
} serve_token;
typedef struct serve_part {
    serve_kind kind;          /* TEXT, REASONING or CALL */
    size_t at, len;           /* in the answer's text, its reasoning, or its arguments */
    size_t name_at, name_len; /* of a call, in the answer's names */
    unsigned call;            /* its number among the calls */
} serve_part;
typedef struct serve_answer {
    serve_job job;
    serve_seat *seat;
    const serve_prompt *prompt;
    serve_text arguments, names;
    serve_text blanks; /* text behind a call that may be nothing */
    unsigned n_calls;
    serve_text text, reasoning; /* so far; of a stream too, for shapes that repeat it at the end */
    serve_text token_bytes;
    serve_token *tokens; /* (n_tokens) with logprobs: those that no chunk has told yet */
    size_t n_tokens, cap_tokens;
    serve_token *others;                 /* (n_others) of those tokens */
    size_t n_others, cap_others, n_next; /* n_next: of a token that is still to come */
    size_t token_text;                   /* bytes of text that told tokens had */
    bool ended;
    int finish;
    kvrt_result result;
    serve_part *parts; /* (n_parts) of text and reasoning, in their order */
    size_t n_parts, cap_parts;
    size_t n_reasoned, n_unsorted; /* tokens of reasoning; those that no text has come from yet */
} serve_answer;

typedef struct serve_shape {
    const char *name; /* "chat", in metrics */
    bool (*parse)(serve_call *call);
    bool (*compute)(serve_call *call); /* NULL: answers are generated. Else all into call->out; false: call->status */
    void (*begin)(serve_call *call);   /* of a stream, as the others */
    void (*part_begin)(serve_call *call, serve_answer *a); /* of the last part; may be NULL, as part_end */
    void (*text)(serve_call *call, serve_answer *a, serve_kind kind, const char *text, size_t len);
    void (*part_end)(serve_call *call, serve_answer *a);
    void (*finish)(serve_call *call, serve_answer *a);
    void (*end)(serve_call *call);
    void (*failed)(serve_call *call); /* an error behind the beginning of a stream */
    void (*whole)(serve_call *call);  /* not a stream: all of it into call->out */
    void (*error)(serve_text *out, int status, const char *type, const char *message, const char *param,
                  const char *code);
} serve_shape;
extern const serve_shape serve_chat_shape, serve_completions_shape, serve_anthropic_shape, serve_responses_shape,
    serve_compact_shape, serve_embeddings_shape;

struct serve_call {
    serve_server *server;
    const serve_shape *shape;
    struct MHD_Connection *connection;
    serve_json json;
    const serve_node *body; /* root of json */
    kvrt_options *options;
    bool stream, include_usage, logprobs;
    bool one_call;
    int32_t pooling; /* of an embedding, and what is done to it */
    bool normalize, base64;
    bool counts;           /* wants to know how many tokens the prompt has, and no answer */
    int64_t seed;          /* -1: random */
    unsigned n;            /* answers per prompt */
    serve_prompt *prompts; /* (n_prompts) */
    unsigned n_prompts;
    serve_answer *answers; /* (n_prompts * n); prompt i has those from i * n on */
    unsigned n_answers, n_seats;
    serve_text echo; /* of the request, for shapes that repeat it */
    serve_text stops[SERVE_STOPS];
    unsigned n_stops;
    char id[40];
    int64_t created;
    pthread_cond_t changed;
    serve_text out;
    size_t sent;
    bool begun, over, broken;
    uint64_t sequence;           /* of events */
    uint64_t since_us;           /* when it came */
    uint64_t told_ms, looked_ms; /* when the client heard something last, and was looked for */
    /* What is wrong with it: an HTTP status, 0 while nothing is. */
    int status;
    char message[640], param[64], code[40];
};
/* Notes what is wrong; the first one counts. Always false. */
__attribute__((format(printf, 4, 5))) bool serve_fail(serve_call *call, int status, const char *param,
                                                      const char *format, ...);
bool serve_client_left(serve_call *call); /* looked at now and then, also while there is news all the time */
bool serve_fail_kvrt(serve_call *call, int32_t status, const char *param, const kvrt_error *error);
/* Runs a request whose body was read: queues an answer to the connection. An MHD_Result. */
int serve_call_run(serve_server *s, struct MHD_Connection *connection, const serve_shape *shape, const char *body,
                   size_t len);
const char *serve_part_text(const serve_answer *a, const serve_part *part);
const char *serve_finish_openai(const serve_answer *a); /* "stop", "length", "tool_calls" */

/* ---- serve_tools.c: tools, and forms of text */
typedef enum serve_tools_of { SERVE_TOOLS_CHAT, SERVE_TOOLS_ANTHROPIC, SERVE_TOOLS_RESPONSES } serve_tools_of;
bool serve_tools(serve_call *call, serve_prompt *prompt, serve_tools_of form);
bool serve_format(serve_call *call, const serve_node *format, const char *param); /* format NULL: none */
bool serve_grammar(serve_call *call); /* members of llama-server: grammar (GBNF), json_schema */
/* An item of a list: an object whose `type` is a string, if it has one. False: the call has an error. */
bool serve_is_item(serve_call *call, const serve_node *item, const char *param);
/* "messages: blocks of type 'image' are not supported". Always false. */
bool serve_fail_type(serve_call *call, const char *param, const char *items, const serve_node *item);
bool serve_put_calls(serve_call *call, const serve_node *calls, serve_text *out);
/* The members `name` and `arguments` of a call, as templates want them: {"name":...,"arguments":{...}}. */
bool serve_put_function(serve_call *call, const serve_node *of, const char *arguments, const char *param,
                        serve_text *out);

/* ---- serve_params.c: members of a request that several shapes have */
bool serve_params(serve_call *call, const char *const *known); /* NULL at the end; known NULL: others are ignored */
/* A member of an object, where it is there, is of this type (SERVE_TRUE: a boolean); `param`: what the object belongs to. */
bool serve_param_is(serve_call *call, const serve_node *of, const char *name, serve_json_type type, const char *param);
bool serve_param_bool(serve_call *call, const char *name, bool *out);
bool serve_param_i64(serve_call *call, const char *name, int64_t min, int64_t max, int64_t *out);
bool serve_param_stops(serve_call *call, const char *name);
bool serve_set_i64(serve_call *call, const char *param, const char *key, int64_t value);
/* Members that would change the answer and that this server cannot honour: true when there are none. */
bool serve_refuse(serve_call *call, const char *const *names);

/* ---- serve_http.c: connections */
int serve_http_start(serve_server *s);
void serve_http_refuse(serve_server *s); /* takes no new connections */
void serve_http_stop(serve_server *s);
bool serve_client_gone(struct MHD_Connection *connection);
int serve_reply(serve_server *s, struct MHD_Connection *connection, int status, const char *type, serve_text *body);
int serve_reply_error(serve_server *s, struct MHD_Connection *connection, const serve_shape *shape, int status,
                      const char *param, const char *code, const char *message);
void serve_count_stream(serve_server *s); /* the request of this thread is answered by a stream */
void serve_count_left(serve_server *s);   /* the request of this thread: its client has gone */
uint64_t serve_now_us(void);
static inline uint64_t serve_now_ms(void) { return serve_now_us() / 1000; }

/* ---- serve_info.c: what can be asked beside answers */
typedef int (*serve_info_fn)(serve_server *s, struct MHD_Connection *connection, const char *body, size_t len);
int serve_health(serve_server *s, struct MHD_Connection *connection, const char *body, size_t len);
int serve_models(serve_server *s, struct MHD_Connection *connection, const char *body, size_t len);
int serve_model(serve_server *s, struct MHD_Connection *connection,
                const char *name); /* the one of that name, or 404 */
int serve_props(serve_server *s, struct MHD_Connection *connection, const char *body, size_t len);
int serve_tokenize_text(serve_server *s, struct MHD_Connection *connection, const char *body, size_t len);
int serve_detokenize_ids(serve_server *s, struct MHD_Connection *connection, const char *body, size_t len);
int serve_count_tokens(serve_server *s, struct MHD_Connection *connection, const char *body, size_t len);

int serve_slots(serve_server *s, struct MHD_Connection *connection, const char *body, size_t len); /* serve_slots.c */
/* POST /slots/N?action=save|restore|erase; `number` is N as the path has it. */
int serve_slot(serve_server *s, struct MHD_Connection *connection, const char *number, const char *body, size_t len);
int serve_page(serve_server *s, struct MHD_Connection *connection, const char *body, size_t len); /* serve_page.c */

/* ---- serve_metrics.c: what is counted */
#define SERVE_BUCKETS 16u
#define SERVE_ROUTES 24u   /* the last one: what is no route */
#define SERVE_STATUSES 12u /* that are told apart */
typedef enum serve_ending {
    SERVE_STOPPED,
    SERVE_LENGTH,
    SERVE_CALLED,
    SERVE_CANCELLED,
    SERVE_FAILED,
    SERVE_ENDINGS
} serve_ending;
typedef struct serve_histogram {
    uint64_t n[SERVE_BUCKETS + 1];
    double sum;
} serve_histogram;
typedef struct serve_counts {
    uint64_t requests, refused, failed, prompt_tokens, cached_tokens, generated_tokens, drafted_tokens, accepted_tokens,
        embedded_tokens;
    uint64_t replies[SERVE_ROUTES][SERVE_STATUSES], endings[SERVE_ENDINGS];
    serve_histogram queue, first_token, next_token, whole;
} serve_counts;
void serve_observe(serve_histogram *h, uint64_t us); /* under server.lock */
void serve_count_reply(serve_server *s, unsigned route, int status);
const char *serve_route_name(unsigned route); /* serve_http.c */
int serve_metrics(serve_server *s, struct MHD_Connection *connection, const char *body, size_t len);

/* How tokens are chosen where a request does not say: member of a request, option. */
#define SERVE_SAMPLING 4u
static const char *const serve_sampling[SERVE_SAMPLING][2] = {{"temperature", "sample.temperature"},
                                                              {"top_p", "sample.top_p"},
                                                              {"presence_penalty", "sample.presence_penalty"},
                                                              {"frequency_penalty", "sample.frequency_penalty"}};

struct serve_server {
    /* settings */
    const char *host, *api_key, *cors, *keep, *model; /* api_key, cors, keep: NULL: none */
    const char *slots_folder;                         /* NULL: slots are not saved */
    const char *store_where;                          /* NULL: no store */
    unsigned store_ttl_s;
    uint64_t store_limit;
    serve_role role;
    char *key_text; /* holds api_key when a file said it */
    int port;       /* asked for, then the one that was given */
    unsigned n_seats, max_waiting;
    uint64_t max_body;
    unsigned timeout_s;
    double sampling[SERVE_SAMPLING];
    int32_t pooling;       /* kvrt_pooling of embeddings */
    int64_t started, seed; /* seed: of requests that name none, -1: random */
    kvrt_engine engine;
    kvrt_engine_info info;
    /* state */
    pthread_mutex_t engine_lock; /* calls that the engine takes one at a time; seats' contents */
    pthread_mutex_t lock;        /* the rest of this block */
    pthread_cond_t freed;        /* seats were given back */
    serve_job *jobs;
    serve_seat *seats; /* (n_seats) */
    unsigned n_free, n_running, n_waiting;
    unsigned n_open; /* requests that have come, whose answers are not sent yet */
    serve_waiter *waiters;
    bool draining, aborting; /* no new requests; those under way end too */
    serve_counts counts;
    uint64_t clock, serial;
    pthread_t pump;
    int wake_fd;
    bool pump_ends;
    bool is_loopback;
    int listen_fd;
    void *daemon;
    struct serve_store *store;
};
/* Serves until a signal ends it. An exit code. */
int serve_run(serve_server *s);

#endif
