/* command_serve.c - `kvrt serve`: flags, and the engine. What it does with them is in serve/, which is there when libmicrohttpd was
 * when kvrt was built. */
#define _POSIX_C_SOURCE 200809L
#include "command.h"
#include "pooling.h"
#ifdef KVRT_HAVE_MICROHTTPD
#include "serve/serve.h"
#endif

#include <stdlib.h>
#include <string.h>

enum {
    X_HOST,
    X_PORT,
    X_KEY,
    X_KEY_FILE,
    X_CORS,
    X_ALIAS,
    X_SESSIONS,
    X_KEEP,
    X_SLOTS,
    X_STORE,
    X_TTL,
    X_LIMIT,
    X_ROLE,
    X_POOLING,
    X_QUEUE,
    X_BODY,
    X_TIMEOUT,
    X_COUNT
};
static const argparse_option extra[X_COUNT] = {
    {"host", 0, 1, 0, "ADDRESS", "address to listen on [127.0.0.1]"},
    {"port", 0, 1, 0, "N", "port to listen on; 0: a free one, which is printed [8080]"},
    {"api-key", 0, 1, 0, "KEY",
     "what clients must send as bearer token or x-api-key; other users of the machine can see it here"},
    {"api-key-file", 0, 1, 0, "FILE", "read the key from the first line of a file"},
    {"cors", 0, 1, 0, "ORIGIN", "let web pages of this origin ask; *: of any"},
    {"alias", 0, 1, 0, "NAME", "the model's name in answers; without it that of its folder"},
    {"sessions", 0, 1, 0, "N", "answers computed at the same time, and conversations kept [4]"},
    {"keep", 0, 1, 0, "DIRECTORY", "write conversations there at the end, and go on with those that are there"},
    {"slot-save-path", 0, 1, 0, "DIRECTORY", "let clients save and restore sessions there (POST /slots/N?action=save)"},
    {"store", 0, 1, 0, "WHERE",
     "share conversations with other servers and later ones: a directory, redis://HOST[:PORT][/DB], or unix:SOCKET"},
    {"store-ttl", 0, 1, 0, "SECONDS", "what nobody has used for so long leaves the store [86400]"},
    {"store-limit", 0, 1, 0, "BYTES", "most that a directory holds, the oldest go; 0: no limit [0]"},
    {"role", 0, 1, 0, "ROLE",
     "both, prefill (computes prompts for the store, an answer is one token) or decode (takes them, writes none) "
     "[both]"},
    {"pooling", 0, 1, 0, "HOW",
     "of /v1/embeddings: mean of all tokens, last token, or auto: as the folder's 1_Pooling says, else last [auto]"},
    {"queue", 0, 1, 0, "N", "requests that may wait for a session, others get 429 [64]"},
    {"max-body", 0, 1, 0, "BYTES", "largest body of a request [8388608]"},
    {"timeout", 0, 1, 0, "SECONDS", "end a connection that does nothing for so long [30]"},
};
const command serve_command = {"serve",
                               "serve MODEL [--host ADDRESS] [--port N] [options]",
                               "Answers over HTTP in the forms of OpenAI's API.",
                               extra,
                               X_COUNT,
                               OPTIONS_OF_A_MODEL " gen. sample. draft."};

#ifdef KVRT_HAVE_MICROHTTPD
static int usage_error(const char *what, const char *found)
{
    fprintf(stderr, "kvrt serve: %s, found '%.60s' (see kvrt serve --help)\n", what, found);
    return EXIT_USAGE;
}

static bool number(const char *text, uint64_t min, uint64_t max, uint64_t *out)
{
    char *end;
    if (!text) return true;
    const unsigned long long value = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || value < min || value > max) return false;
    return *out = value, true;
}

static int read_key(serve_server *s, const char *path)
{
    size_t len;
    s->key_text = command_read_file(path, &len);
    if (!s->key_text) return EXIT_RUN;
    const size_t n = strcspn(s->key_text, "\r\n");
    if (n < len && !s->key_text[n]) return usage_error("--api-key-file: need a line of text", path);
    s->key_text[n] = 0;
    s->api_key = s->key_text;
    return EXIT_OK;
}

static int settings(serve_server *s, command_line *line)
{
    uint64_t port = 8080, sessions = 0, queue = 64, body = 8u << 20, timeout = 30, ttl = 86400, limit = 0;
    bool role = false;
    const char *const *x = line->extra;
    if (!number(x[X_PORT], 0, 65535, &port)) return usage_error("--port: need 0..65535", x[X_PORT]);
    if (!number(x[X_SESSIONS], 1, 256, &sessions)) return usage_error("--sessions: need 1..256", x[X_SESSIONS]);
    if (!number(x[X_QUEUE], 0, 100000, &queue)) return usage_error("--queue: need 0..100000", x[X_QUEUE]);
    if (!number(x[X_BODY], 1024, 1u << 30, &body)) return usage_error("--max-body: need 1024..1073741824", x[X_BODY]);
    if (!number(x[X_TIMEOUT], 1, 3600, &timeout)) return usage_error("--timeout: need 1..3600", x[X_TIMEOUT]);
    if (!number(x[X_TTL], 1, 1u << 30, &ttl)) return usage_error("--store-ttl: need 1..1073741824", x[X_TTL]);
    if (!number(x[X_LIMIT], 0, UINT64_MAX, &limit))
        return usage_error("--store-limit: need a number of bytes", x[X_LIMIT]);
    s->host = x[X_HOST] && *x[X_HOST] ? x[X_HOST] : "127.0.0.1";
    s->port = (int)port;
    s->api_key = x[X_KEY];
    if (x[X_KEY] && x[X_KEY_FILE]) return usage_error("--api-key and --api-key-file: need one", x[X_KEY_FILE]);
    const int key = x[X_KEY_FILE] ? read_key(s, x[X_KEY_FILE]) : EXIT_OK;
    if (key != EXIT_OK) return key;
    if (s->api_key && !*s->api_key) return usage_error("--api-key: need a key", "");
    s->cors = x[X_CORS];
    s->keep = x[X_KEEP];
    s->slots_folder = x[X_SLOTS];
    s->store_where = x[X_STORE];
    s->store_ttl_s = (unsigned)ttl;
    s->store_limit = limit;
    static const char *const roles[] = {"both", "prefill", "decode"};
    for (int i = 0; x[X_ROLE] && i < 3; i++)
        if (strcmp(x[X_ROLE], roles[i]) == 0) s->role = (serve_role)i, role = true;
    if (x[X_ROLE] && !role) return usage_error("--role: need both, prefill or decode", x[X_ROLE]);
    if (s->role != SERVE_BOTH && !s->store_where) return usage_error("--role: need a --store", x[X_ROLE]);
    const int pooling = pooling_of(x[X_POOLING], line->model[0] ? line->model : line->positional[0], &s->pooling);
    if (pooling == EXIT_USAGE || s->pooling == KVRT_POOL_TOKENS)
        return usage_error("--pooling: need auto, mean or last", x[X_POOLING]);
    if (pooling != EXIT_OK) return pooling;
    s->max_waiting = (unsigned)queue;
    s->max_body = body;
    s->timeout_s = (unsigned)timeout;
    if (sessions || !kvrt_options_is_set(line->options, "ctx.sessions"))
        (void)kvrt_options_set_i64(line->options, "ctx.sessions", sessions ? (int64_t)sessions : 4, NULL);
    int64_t n = 4;
    (void)kvrt_options_get_i64(line->options, "ctx.sessions", &n, NULL);
    (void)kvrt_options_get_i64(line->options, "sample.seed", &s->seed, NULL);
    s->n_seats = (unsigned)n;
    return EXIT_OK;
}

/* As the engine will have it: what the command line says, then what the folder does. */
static void read_sampling(serve_server *s, const command_line *line)
{
    kvrt_options *o = NULL;
    if (kvrt_options_clone(line->options, &o, NULL) < 0) return;
    (void)kvrt_inspect_defaults(line->model[0] ? line->model : line->positional[0] ? line->positional[0] : "", o, NULL);
    for (size_t i = 0; i < SERVE_SAMPLING; i++)
        (void)kvrt_options_get_f64(o, serve_sampling[i][1], &s->sampling[i], NULL);
    kvrt_options_destroy(o);
}

/* The last part of the model's path, without slashes at its end. */
static void name_model(serve_server *s, const command_line *line, char *name, size_t cap)
{
    const char *path = line->positional[0];
    if (!path) (void)kvrt_options_get_string(line->options, "model.shape", &path, NULL);
    size_t len = strlen(path);
    while (len > 1 && path[len - 1] == '/') len--;
    size_t from = len;
    while (from && path[from - 1] != '/') from--;
    snprintf(name, cap, "%.*s", (int)(len - from), path + from);
    s->model = line->extra[X_ALIAS] ? line->extra[X_ALIAS] : name;
}

static int serve(command_line *line)
{
    serve_server s = {.seed = -1};
    char name[256];
    int code = settings(&s, line);
    if (code == EXIT_OK) code = command_open(line->options, &s.engine);
    if (code == EXIT_OK) {
        kvrt_error error = command_error();
        s.info.size = sizeof s.info;
        const int32_t status = kvrt_engine_get_info(s.engine, &s.info, &error);
        name_model(&s, line, name, sizeof name);
        read_sampling(&s, line);
        code = status < 0 ? command_fail(status, &error) : serve_run(&s);
        (void)kvrt_engine_close(s.engine, NULL);
    }
    free(s.key_text);
    return code;
}
#else
static int serve(command_line *line)
{
    (void)line;
    fprintf(stderr, "kvrt serve: this kvrt was built without libmicrohttpd; install it (on Debian: apt-get install "
                    "libmicrohttpd-dev) and build again\n");
    return EXIT_RUN;
}
#endif

int serve_main(int argc, char **argv)
{
    command_line line;
    int code = command_parse(&serve_command, argc, argv, true, &line);
    if (code < 0) code = command_check_model(&serve_command, &line);
    if (code < 0) code = serve(&line);
    command_free(&line);
    return code;
}
