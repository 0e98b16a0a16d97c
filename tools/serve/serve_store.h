/* serve_store.h - conversations in a store that outlives the server and may be shared by several (--store): a directory, or Redis where kvrt was
 * built with hiredis. THE MODEL IN YOUR HEAD
 *
 *   an answer ends: the session as kvrt_session_save_to writes it, cut where its parts are (a page each) ->  objects by their content
 *                   what the seat knows, the list of the parts, the small ones themselves                ->  one object by the prompt
 *   a prompt comes that no seat knows:  the object of this prompt, or of the conversation before its last answers
 *                   -> its parts, many at a time -> kvrt_session_load_from into a free seat, which then goes on as any other
 *
 * Pages that two sessions have in common, or one at two turns, are there once. Names are within a namespace, the digest of what kvrt writes of an
 * empty session: model, tokenizer, cache settings and their versions; and loading compares them again. Every object is compared with its name or
 * checksum when it comes. A store that is not there, slow, or hands out something else costs the time of asking: it is left alone for
 * a while, and the prompt is computed. Damage is noticed, malice is not: who may write to a store may write answers. */
#ifndef KVRT_SERVE_STORE_H
#define KVRT_SERVE_STORE_H
#include "kvrt.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct store_name {
    uint64_t a, b;
} store_name;
typedef struct store_object {
    store_name name;
    char *bytes; /* (len) get: malloc'ed, the caller's */
    size_t len;
    bool there;
} store_object;

typedef struct store_settings {
    const char *where; /* a directory, or redis://[:PASSWORD@]HOST[:PORT][/DATABASE], or unix:PATH */
    store_name name_space;
    unsigned ttl_s;       /* that an object is kept behind its last use */
    uint64_t limit_bytes; /* of all objects, 0: none; Redis has its own (maxmemory) */
} store_settings;

/* A kind of store. All calls are for several objects; false: it failed, and nothing is known. One thread at a time uses a handle. */
typedef struct store_kind {
    void *(*open)(const store_settings *settings, char *why, size_t cap); /* NULL, with the reason */
    bool (*exists)(void *store, store_object *objects, size_t n);         /* a use */
    bool (*get)(void *store, store_object *objects, size_t n);
    bool (*set)(void *store, const store_object *objects, size_t n);
    void (*close)(void *store);
} store_kind;
extern const store_kind store_directory, store_redis;

store_name store_hash(const void *bytes, size_t n, store_name seed);

#endif
