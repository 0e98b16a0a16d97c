/* tier.h - where pages of the cache go when they leave the pool: a store of named objects, of which it knows nothing but name and size. One table
 * of functions per kind: the host's memory (tier_memory.c), a directory (tier_directory.c), and whatever else keeps bytes by name.
 *
 * A name is 128 bits, within a *namespace*, the digest of everything that bytes of the same name must agree in (model, cache, version): so several
 * engines may use one directory. All calls are for several objects at once, as a store that is far away answers many as fast as one.
 * A store may lose objects, and hand out damaged ones: whoever asks checks the checksum, and can do without (engine/spill.h). Not thread-safe. */
#ifndef KVI_KV_TIER_H
#define KVI_KV_TIER_H
#include "../base/status.h"
#include <stdbool.h>
#include <stdint.h>

typedef struct kvi_tier_name {
    uint64_t low, high;
} kvi_tier_name;

typedef struct kvi_tier_object {
    kvi_tier_name name;
    void *bytes; /* (n) */
    uint64_t n;
    bool there; /* said by exists and get */
} kvi_tier_object;

typedef struct kvi_tier kvi_tier;
typedef struct kvi_tier_kind {
    const char *name;
    /* Which of them are there, with n bytes. */
    kvrt_status (*exists)(kvi_tier *tier, kvi_tier_object *objects, uint32_t count, kvrt_error *error);
    /* Fills the bytes of those that are there. */
    kvrt_status (*get)(kvi_tier *tier, kvi_tier_object *objects, uint32_t count, kvrt_error *error);
    /* Keeps all of them or, on an error, none; what is there under a name stays. IO, NOMEM_HOST. */
    kvrt_status (*set)(kvi_tier *tier, const kvi_tier_object *objects, uint32_t count, kvrt_error *error);
    /* They are not needed any more, and may be gone from now on; exists tells, and they are needed again. */
    void (*drop)(kvi_tier *tier, const kvi_tier_object *objects, uint32_t count);
    void (*close)(kvi_tier *tier); /* NULL is fine; what was not dropped stays where it can */
} kvi_tier_kind;
struct kvi_tier {
    const kvi_tier_kind *kind; /* of every tier the first field */
};

kvrt_status kvi_tier_memory(kvi_tier **out, kvrt_error *error);
/* One file in DIRECTORY/NAMESPACE, of a name that nobody else has. Makes the two folders. */
kvrt_status kvi_tier_directory(const char *directory, uint64_t name_space, kvi_tier **out, kvrt_error *error);

#endif
