/* store_redis.c - objects in Redis, or whatever speaks its protocol (Valkey), by hiredis: keys kvrt:NAMESPACE:NAME. All commands of a call are
 * sent before the first answer is read. A connection that fails is closed, and the next call makes another. */
#define _POSIX_C_SOURCE 200809L
#include "serve_store.h"

#ifdef KVRT_HAVE_HIREDIS
#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#define CONNECT_MS 300
#define ANSWER_MS 2000

typedef struct redis {
    char host[256], password[256];
    int port, database;
    bool local; /* host is the path of a socket */
    char prefix[48];
    char ttl[16];
    redisContext *context;
} redis;

static void forget(redis *r)
{
    if (r->context) redisFree(r->context);
    r->context = NULL;
}

static bool is_ok(redisReply *reply)
{
    const bool ok = reply && reply->type != REDIS_REPLY_ERROR;
    if (reply) freeReplyObject(reply);
    return ok;
}

static bool connect_it(redis *r)
{
    const struct timeval connect = {0, CONNECT_MS * 1000}, answer = {ANSWER_MS / 1000, ANSWER_MS % 1000 * 1000};
    if (r->context && !r->context->err) return true;
    forget(r);
    r->context =
        r->local ? redisConnectUnixWithTimeout(r->host, connect) : redisConnectWithTimeout(r->host, r->port, connect);
    bool ok = r->context && !r->context->err && redisSetTimeout(r->context, answer) == REDIS_OK;
    if (ok && *r->password) ok = is_ok(redisCommand(r->context, "AUTH %s", r->password));
    if (ok && r->database) ok = is_ok(redisCommand(r->context, "SELECT %d", r->database));
    if (!ok) forget(r);
    return ok;
}

/* redis://[:PASSWORD@]HOST[:PORT][/DATABASE] or unix:PATH */
static bool parse(redis *r, const char *where)
{
    r->port = 6379;
    if (strncmp(where, "unix:", 5) == 0) {
        r->local = true;
        return snprintf(r->host, sizeof r->host, "%s", where + 5) < (int)sizeof r->host;
    }
    const char *p = where + strlen("redis://"), *at = strrchr(p, '@');
    if (at) {
        if (*p == ':') p++;
        if ((size_t)(at - p) >= sizeof r->password) return false;
        memcpy(r->password, p, (size_t)(at - p));
        p = at + 1;
    }
    const char *slash = strchr(p, '/'), *end = slash ? slash : p + strlen(p),
               *colon = memchr(p, ':', (size_t)(end - p));
    if (slash) r->database = atoi(slash + 1);
    if (colon) r->port = atoi(colon + 1);
    if (colon) end = colon;
    if (end == p || (size_t)(end - p) >= sizeof r->host) return false;
    memcpy(r->host, p, (size_t)(end - p));
    return r->port > 0 && r->port < 65536;
}

static void *open_it(const store_settings *settings, char *why, size_t cap)
{
    redis *r = calloc(1, sizeof *r);
    if (!r) return NULL;
    snprintf(r->prefix, sizeof r->prefix, "kvrt:%016llx%016llx:", (unsigned long long)settings->name_space.a,
             (unsigned long long)settings->name_space.b);
    snprintf(r->ttl, sizeof r->ttl, "%u", settings->ttl_s);
    if (parse(r, settings->where)) return r; /* who is not there yet may come */
    snprintf(why, cap, "need redis://HOST[:PORT][/DATABASE] or unix:PATH");
    free(r);
    return NULL;
}

static size_t key_of(const redis *r, store_name name, char key[96])
{
    return (size_t)snprintf(key, 96, "%s%016llx%016llx", r->prefix, (unsigned long long)name.a,
                            (unsigned long long)name.b);
}

/* The next answer; NULL: the connection failed. */
static redisReply *next(redis *r)
{
    void *reply = NULL;
    if (!r->context || redisGetReply(r->context, &reply) != REDIS_OK) forget(r);
    return r->context ? reply : NULL;
}

static bool exists(void *store, store_object *objects, size_t n)
{
    redis *r = store;
    char key[96];
    if (!connect_it(r)) return false;
    for (size_t i = 0; i < n; i++)
        (void)redisAppendCommand(r->context, "EXPIRE %b %s", key, key_of(r, objects[i].name, key), r->ttl);
    bool ok = true;
    for (size_t i = 0; i < n; i++) {
        redisReply *reply = next(r);
        objects[i].there = reply && reply->type == REDIS_REPLY_INTEGER && reply->integer == 1;
        ok = ok && reply && reply->type == REDIS_REPLY_INTEGER;
        if (reply) freeReplyObject(reply);
    }
    return ok;
}

static bool get(void *store, store_object *objects, size_t n)
{
    redis *r = store;
    char key[96];
    for (size_t i = 0; i < n; i++) objects[i].there = false;
    if (!connect_it(r)) return false;
    for (size_t i = 0; i < n; i++) (void)redisAppendCommand(r->context, "GET %b", key, key_of(r, objects[i].name, key));
    bool ok = true;
    for (size_t i = 0; i < n; i++) {
        redisReply *reply = next(r);
        ok = ok && reply && reply->type != REDIS_REPLY_ERROR;
        if (reply && reply->type == REDIS_REPLY_STRING) {
            objects[i].len = (size_t)reply->len;
            objects[i].bytes = malloc(objects[i].len + 1);
            objects[i].there = objects[i].bytes != NULL;
            if (objects[i].there) memcpy(objects[i].bytes, reply->str, objects[i].len);
        }
        if (reply) freeReplyObject(reply);
    }
    return ok;
}

static bool set(void *store, const store_object *objects, size_t n)
{
    redis *r = store;
    char key[96];
    if (!connect_it(r)) return false;
    for (size_t i = 0; i < n; i++)
        (void)redisAppendCommand(r->context, "SET %b %b EX %s", key, key_of(r, objects[i].name, key), objects[i].bytes,
                                 objects[i].len, r->ttl);
    bool ok = true;
    for (size_t i = 0; i < n; i++) ok = is_ok(next(r)) && ok;
    return ok;
}

static void close_it(void *store)
{
    forget(store);
    free(store);
}
#else
#include <stdio.h>
static void *open_it(const store_settings *settings, char *why, size_t cap)
{
    (void)settings;
    snprintf(why, cap,
             "this kvrt was built without hiredis (on Debian: apt-get install libhiredis-dev, and build again)");
    return NULL;
}
#define exists NULL
#define get NULL
#define set NULL
#define close_it NULL
#endif

const store_kind store_redis = {open_it, exists, get, set, close_it};
