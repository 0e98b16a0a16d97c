/* serve_http.c - connections, by libmicrohttpd with a thread for each: who may come in, what is asked for, bodies within limits,
 * answers.
 *
 * On loopback everyone on this machine may ask, and so may every web page in its browser: therefore a request that says it comes
 * from a page of another origin is refused unless --cors names that, and so is one for a foreign host name, which a page could have
 * made point here (without a key; with one such a page has nothing to show). */
#define _GNU_SOURCE
#include "serve.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_CONNECTIONS 256u
#define OTHER_FILES 40u          /* that may be open beside connections: the model's, the store's, sessions' */
#define HEADER_BYTES (64u << 10) /* of a connection: request line, headers, and what is on its way */
#define SEND_BYTES (128 << 10)   /* that the system holds for a client; without a limit these grow to megabytes */
#define BODY_MS 60000u           /* to send a body in */

uint64_t serve_now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* Of the request that this connection's thread is at. */
static _Thread_local unsigned route_now = SERVE_ROUTES - 1;

void serve_count_left(serve_server *s) { serve_count_reply(s, route_now, 499); }

bool serve_client_gone(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    char byte;
    if (!info) return true;
    const ssize_t n = recv(info->connect_fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
}

/* ------------------------------------------------------------------------------------------------------ answers --- */
static int reply(serve_server *s, struct MHD_Connection *connection, int status, const char *type, serve_text *body,
                 const char *header, const char *value)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer(body->len, body->data ? body->data : "", MHD_RESPMEM_MUST_COPY);
    serve_text_free(body);
    if (!response) return MHD_NO;
    serve_count_reply(s, route_now, status);
    if (type) (void)MHD_add_response_header(response, "Content-Type", type);
    if (header) (void)MHD_add_response_header(response, header, value);
    if (s->cors) (void)MHD_add_response_header(response, "Access-Control-Allow-Origin", s->cors);
    const enum MHD_Result result = MHD_queue_response(connection, (unsigned)status, response);
    MHD_destroy_response(response);
    return (int)result;
}

int serve_reply(serve_server *s, struct MHD_Connection *connection, int status, const char *type, serve_text *body)
{
    return reply(s, connection, status, type, body, NULL, NULL);
}

static void openai_error(serve_text *out, int status, const char *type, const char *message, const char *param,
                         const char *code)
{
    (void)status;
    serve_puts(out, "{\"error\":{\"message\":");
    serve_put_json_str(out, message);
    serve_puts(out, ",\"type\":");
    serve_put_json_str(out, type);
    serve_puts(out, ",\"param\":");
    if (*param) serve_put_json_str(out, param);
    else serve_puts(out, "null");
    serve_puts(out, ",\"code\":");
    if (*code) serve_put_json_str(out, code);
    else serve_puts(out, "null");
    serve_puts(out, "}}");
}

int serve_reply_error(serve_server *s, struct MHD_Connection *connection, const serve_shape *shape, int status,
                      const char *param, const char *code, const char *message)
{
    serve_text body = {0};
    const char *type = status == 401   ? "authentication_error"
                       : status == 403 ? "permission_error"
                       : status == 404 ? "not_found_error"
                       : status == 429 ? "rate_limit_error"
                       : status >= 500 ? "server_error"
                                       : "invalid_request_error";
    (shape && shape->error ? shape->error : openai_error)(&body, status, type, message, param ? param : "",
                                                          code ? code : "");
    const bool later = status == 429 || status == 503;
    return reply(s, connection, status, "application/json", &body,
                 later           ? "Retry-After"
                 : status == 401 ? "WWW-Authenticate"
                                 : NULL,
                 later ? "2" : "Bearer");
}

/* ------------------------------------------------------------------------------------------------------- routes --- */
typedef struct serve_route {
    const char *method, *path;
    const serve_shape *shape; /* of answers, and of errors */
    serve_info_fn info;       /* not NULL: no answer is computed */
    bool open;                /* without a key */
} serve_route;
static const serve_route routes[] = {
    {"GET", "/", NULL, serve_page, true},
    {"GET", "/health", NULL, serve_health, true},
    {"GET", "/v1/models", NULL, serve_models, false},
    {"GET", "/slots", NULL, serve_slots, false},
    {"GET", "/metrics", NULL, serve_metrics, false},
    {"GET", "/props", NULL, serve_props, false},
    {"POST", "/tokenize", NULL, serve_tokenize_text, false},
    {"POST", "/detokenize", NULL, serve_detokenize_ids, false},
    {"POST", "/v1/chat/completions", &serve_chat_shape, NULL, false},
    {"POST", "/v1/completions", &serve_completions_shape, NULL, false},
    {"POST", "/v1/embeddings", &serve_embeddings_shape, NULL, false},
    {"POST", "/v1/responses", &serve_responses_shape, NULL, false},
    {"POST", "/v1/responses/compact", &serve_compact_shape, NULL, false},
    {"POST", "/v1/messages", &serve_anthropic_shape, NULL, false},
    {"POST", "/v1/messages/count_tokens", &serve_anthropic_shape, serve_count_tokens, false},
};

_Static_assert(sizeof routes / sizeof routes[0] < SERVE_ROUTES, "a number for each route, and one for none");

const char *serve_route_name(unsigned route)
{
    return route < sizeof routes / sizeof routes[0] ? routes[route].path : "other";
}

/* The row, or NULL; *others: the path is known with this method alone. */
static const serve_route *find_route(const char *method, const char *path, const char **other)
{
    const bool head = strcmp(method, "HEAD") == 0; /* the library leaves the body out */
    *other = NULL;
    for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++) {
        const size_t n = strlen(routes[i].path),
                     extra = strncmp(routes[i].path, "/v1", 3) == 0 && strncmp(path, "/v1/", 4) != 0 ? 3 : 0;
        if (strcmp(routes[i].path + extra, path) != 0 &&
            !(strncmp(path, routes[i].path, n) == 0 && strcmp(path + n, "/") == 0))
            continue;
        if (strcmp(head ? "GET" : method, routes[i].method) == 0) return &routes[i];
        *other = routes[i].method;
    }
    return NULL;
}

/* ---------------------------------------------------------------------------------------------------- who may in --- */
/* Takes as long for a wrong key as for the right one of that length. */
static bool same_key(const char *given, const char *key)
{
    const size_t n = strlen(key), m = strlen(given);
    unsigned char differ = n != m;
    for (size_t i = 0; i < m; i++) differ |= (unsigned char)(given[i] ^ key[n ? i % n : 0]);
    return !differ;
}

static bool has_key(const serve_server *s, struct MHD_Connection *connection)
{
    const char *bearer = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Authorization");
    const char *plain = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "x-api-key");
    if (!s->api_key) return true;
    if (bearer && strncasecmp(bearer, "Bearer ", 7) == 0 && same_key(bearer + 7, s->api_key)) return true;
    return plain && same_key(plain, s->api_key);
}

static bool is_local_name(const serve_server *s, const char *host)
{
    char name[256];
    const char *end = *host == '[' ? strchr(host, ']') : strchr(host, ':');
    const size_t n = end ? (size_t)(end - host) + (*end == ']') : strlen(host);
    if (n >= sizeof name || (*host == '[' && host[n] && host[n] != ':')) return false;
    memcpy(name, host, n);
    name[n] = 0;
    struct in_addr v4; /* an address: "127.example.org" is a name that anyone may have */
    const bool loops = inet_pton(AF_INET, name, &v4) == 1 && ntohl(v4.s_addr) >> 24 == 127;
    return loops || strcasecmp(name, "localhost") == 0 || strcmp(name, "[::1]") == 0 || strcasecmp(name, s->host) == 0;
}

/* NULL, or why not. */
static const char *foreign(const serve_server *s, struct MHD_Connection *connection)
{
    const char *host = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Host");
    const char *origin = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Origin");
    if (s->is_loopback && !s->api_key && host && !is_local_name(s, host))
        return "Host: not a name of this machine (an --api-key lifts this)";
    if (!origin || (s->cors && (strcmp(s->cors, "*") == 0 || strcmp(s->cors, origin) == 0))) return NULL;
    const char *of = strstr(origin, "://");
    if (of && host && strcasecmp(of + 3, host) == 0) return NULL;
    return "Origin: pages of other origins are not allowed (--cors ORIGIN allows one)";
}

void serve_count_stream(serve_server *s) { serve_count_reply(s, route_now, MHD_HTTP_OK); }

static int preflight(serve_server *s, struct MHD_Connection *connection)
{
    struct MHD_Response *response = MHD_create_response_from_buffer(0, (void *)(uintptr_t) "", MHD_RESPMEM_PERSISTENT);
    if (!response) return MHD_NO;
    (void)MHD_add_response_header(response, "Access-Control-Allow-Origin", s->cors);
    (void)MHD_add_response_header(response, "Access-Control-Allow-Methods", "GET, POST, OPTIONS");
    const char *wanted = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Access-Control-Request-Headers");
    if (wanted) (void)MHD_add_response_header(response, "Access-Control-Allow-Headers", wanted);
    (void)MHD_add_response_header(response, "Access-Control-Max-Age", "600");
    serve_count_reply(s, route_now, MHD_HTTP_NO_CONTENT);
    const enum MHD_Result result = MHD_queue_response(connection, MHD_HTTP_NO_CONTENT, response);
    MHD_destroy_response(response);
    return (int)result;
}

/* ----------------------------------------------------------------------------------------------------- requests --- */
/* One request on a connection, while its body comes. */
typedef struct request {
    serve_text body;
    uint64_t since_ms;
    uint64_t received;
    bool too_large, open;
} request;

static uint64_t content_length(struct MHD_Connection *connection)
{
    const char *text = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Content-Length");
    return text ? strtoull(text, NULL, 10) : 0;
}

static int refuse_large(serve_server *s, struct MHD_Connection *connection)
{
    char message[96];
    snprintf(message, sizeof message, "the body is larger than %llu bytes (--max-body)",
             (unsigned long long)s->max_body);
    return serve_reply_error(s, connection, NULL, 413, NULL, NULL, message);
}

/* A part of the body. What is too large is read and thrown away, up to a measure, so that the client gets to read why. */
static enum MHD_Result take_body(serve_server *s, request *r, const char *data, size_t *n)
{
    r->received += *n;
    if (r->received > s->max_body) {
        r->too_large = true;
        serve_text_free(&r->body);
    } else serve_put(&r->body, data, *n);
    *n = 0;
    const bool endless = r->received > s->max_body * 8 + (1u << 20) || serve_now_ms() - r->since_ms > BODY_MS;
    return endless ? MHD_NO : MHD_YES;
}

/* No body is unpacked here, and none is understood packed. */
static bool is_packed(struct MHD_Connection *connection)
{
    const char *how = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Content-Encoding");
    return how && *how && strcasecmp(how, "identity") != 0;
}

static int refuse_method(serve_server *s, struct MHD_Connection *connection, const char *method, const char *path,
                         const char *need)
{
    serve_text body = {0};
    char message[200];
    snprintf(message, sizeof message, "%.16s %.100s: need %s", method, path, need);
    openai_error(&body, 405, "invalid_request_error", message, "", "");
    return reply(s, connection, 405, "application/json", &body, "Allow", need);
}

/* /v1/responses over a WebSocket: clients that try it go on with POST when they read this status. */
static bool wants_socket(struct MHD_Connection *connection)
{
    const char *upgrade = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Upgrade");
    return upgrade && strcasecmp(upgrade, "websocket") == 0;
}

static int run(serve_server *s, struct MHD_Connection *connection, const char *path, const char *method, request *r)
{
    const char *other, *why = foreign(s, connection);
    const serve_route *route = find_route(method, path, &other);
    char message[200];
    route_now = route ? (unsigned)(route - routes) : SERVE_ROUTES - 1;
    if (why) return serve_reply_error(s, connection, NULL, 403, NULL, NULL, why);
    if (strcmp(method, "OPTIONS") == 0 && s->cors) return preflight(s, connection);
    if (!(route && route->open) && !has_key(s, connection))
        return serve_reply_error(s, connection, route ? route->shape : NULL, 401, NULL, "invalid_api_key",
                                 "the API key is missing or wrong");
    const char *model = strncmp(path, "/v1/models/", 11) == 0 ? path + 11
                        : strncmp(path, "/models/", 8) == 0   ? path + 8
                                                              : "";
    const bool is_slot = strncmp(path, "/slots/", 7) == 0,
               reads = strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0;
    if (!route && *model)
        return reads ? serve_model(s, connection, model) : refuse_method(s, connection, method, path, "GET");
    if (is_slot && strcmp(method, "POST") != 0) other = "POST";
    if (!route && other && wants_socket(connection))
        return serve_reply_error(s, connection, NULL, 426, NULL, NULL, "there are no WebSockets here, need a POST");
    if (!route && other) return refuse_method(s, connection, method, path, other);
    if (!route && !is_slot) {
        snprintf(message, sizeof message, "%.16s %.100s: there is nothing here", method, path);
        return serve_reply_error(s, connection, NULL, 404, NULL, NULL, message);
    }
    if (r->too_large) return refuse_large(s, connection);
    const serve_shape *shape = route ? route->shape : NULL;
    if (r->body.failed) return serve_reply_error(s, connection, shape, 500, NULL, NULL, "out of memory");
    if (is_packed(connection))
        return serve_reply_error(s, connection, shape, 415, NULL, NULL, "Content-Encoding: need a body as it is");
    const char *body = r->body.data ? r->body.data : "";
    if (!route) return serve_slot(s, connection, path + 7, body, r->body.len);
    if (route->info) return route->info(s, connection, body, r->body.len);
    pthread_mutex_lock(&s->lock);
    const bool draining = s->draining;
    pthread_mutex_unlock(&s->lock);
    if (draining) return serve_reply_error(s, connection, route->shape, 503, NULL, NULL, "the server is shutting down");
    return serve_call_run(s, connection, route->shape, body, r->body.len);
}

static enum MHD_Result on_request(void *server, struct MHD_Connection *connection, const char *path, const char *method,
                                  const char *version, const char *data, size_t *n, void **state)
{
    serve_server *s = server;
    request *r = *state;
    (void)version;
    if (!r) {
        *state = r = calloc(1, sizeof *r);
        if (!r) return MHD_NO;
        r->since_ms = serve_now_ms();
        route_now = SERVE_ROUTES - 1;
        const bool asks = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Expect") != NULL;
        const uint64_t length = content_length(connection);
        if (length > s->max_body * (asks ? 1u : 8u)) return (enum MHD_Result)refuse_large(s, connection);
        return MHD_YES;
    }
    if (*n) return take_body(s, r, data, n);
    pthread_mutex_lock(&s->lock);
    s->n_open += !r->open;
    r->open = true;
    pthread_mutex_unlock(&s->lock);
    return (enum MHD_Result)run(s, connection, path, method, r);
}

static void on_completed(void *server, struct MHD_Connection *connection, void **state,
                         enum MHD_RequestTerminationCode why)
{
    serve_server *s = server;
    request *r = *state;
    (void)connection, (void)why;
    if (r && r->open) {
        pthread_mutex_lock(&s->lock);
        s->n_open--;
        pthread_mutex_unlock(&s->lock);
    }
    if (r) serve_text_free(&r->body);
    free(r);
    *state = NULL;
}

/* ------------------------------------------------------------------------------------------------------- daemon --- */
static bool is_loopback(const struct sockaddr *address)
{
    if (address->sa_family == AF_INET)
        return ((const unsigned char *)&((const struct sockaddr_in *)(const void *)address)->sin_addr)[0] == 127;
    return address->sa_family == AF_INET6 &&
           IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)address)->sin6_addr);
}

/* A listening socket, or -1 with errno. */
static int listen_at(const struct addrinfo *address)
{
    const int on = 1, unsent = SEND_BYTES, fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &unsent, sizeof unsent) == 0 &&
        bind(fd, address->ai_addr, address->ai_addrlen) == 0 && listen(fd, 128) == 0)
        return fd;
    const int why = errno;
    (void)close(fd);
    errno = why;
    return -1;
}

/* As many as there are files for: beyond them the library would wait for one without rest. */
static unsigned most_connections(void)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) != 0) return MAX_CONNECTIONS;
    if (files.rlim_cur < MAX_CONNECTIONS + OTHER_FILES) {
        const rlim_t want = MAX_CONNECTIONS + OTHER_FILES;
        const struct rlimit more = {files.rlim_max < want ? files.rlim_max : want, files.rlim_max};
        if (setrlimit(RLIMIT_NOFILE, &more) == 0) files = more;
    }
    const rlim_t n = files.rlim_cur > OTHER_FILES ? files.rlim_cur - OTHER_FILES : 1;
    return n < MAX_CONNECTIONS ? (unsigned)n : MAX_CONNECTIONS;
}

/* A listening socket, or -1 with a message. */
static int listen_on(serve_server *s)
{
    char service[16];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *found = NULL;
    snprintf(service, sizeof service, "%d", s->port);
    const int problem = getaddrinfo(s->host, service, &hints, &found);
    if (problem) return fprintf(stderr, "kvrt serve: --host %s: %s\n", s->host, gai_strerror(problem)), -1;
    struct sockaddr_storage bound;
    socklen_t size = sizeof bound;
    int fd = -1;
    for (const struct addrinfo *at = found; at && fd < 0; at = at->ai_next)
        fd = listen_at(at); /* a name may have several */
    const bool ok = fd >= 0 && getsockname(fd, (struct sockaddr *)&bound, &size) == 0;
    if (!ok) fprintf(stderr, "kvrt serve: %s port %d: %s\n", s->host, s->port, strerror(errno));
    freeaddrinfo(found);
    if (!ok) return fd >= 0 ? close(fd), -1 : -1;
    s->is_loopback = is_loopback((const struct sockaddr *)&bound);
    s->port = ntohs(bound.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)(void *)&bound)->sin6_port
                                                : ((struct sockaddr_in *)(void *)&bound)->sin_port);
    return fd;
}

int serve_http_start(serve_server *s)
{
    s->listen_fd = listen_on(s);
    if (s->listen_fd < 0) return -1;
    s->daemon = MHD_start_daemon(
        MHD_USE_THREAD_PER_CONNECTION | MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_POLL | MHD_USE_ITC, 0, NULL, NULL,
        on_request, s, MHD_OPTION_LISTEN_SOCKET, s->listen_fd, MHD_OPTION_CONNECTION_LIMIT, most_connections(),
        MHD_OPTION_CONNECTION_TIMEOUT, s->timeout_s, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HEADER_BYTES,
        MHD_OPTION_THREAD_STACK_SIZE, (size_t)(1u << 20), MHD_OPTION_NOTIFY_COMPLETED, on_completed, s, MHD_OPTION_END);
    if (s->daemon) return 0;
    fprintf(stderr, "kvrt serve: the HTTP library does not start\n");
    (void)close(s->listen_fd);
    return -1;
}

void serve_http_refuse(serve_server *s)
{
    const MHD_socket fd = MHD_quiesce_daemon(s->daemon);
    if (fd == MHD_INVALID_SOCKET) return;
    (void)shutdown(fd, SHUT_RDWR); /* the daemon may still be waiting on it, which would keep it open */
    (void)close(fd);
}

void serve_http_stop(serve_server *s) { MHD_stop_daemon(s->daemon); }
