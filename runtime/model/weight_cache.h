/* weight_cache.h - the weights of a model as a backend wants them, kept in a file, so that the next open maps what this one has laid. One file for
 * each model, kernel form and way of rounding, named by what it holds; deleting it is always safe.
 *
 *   header 64   "KVRTLAID", key, stamp, content; the rest zero
 *   forms       one after the other in the order of imports, each at a multiple of 64
 *   table       of each form: offset, bytes, checksum (three numbers of 64 bits, little-endian like all of them)
 *   footer 64   number of forms, offset of the table, checksum of header, table and these two; at its end "KVRTLAID"
 *
 * The key comes from the facts of all weights and a sample of each tensor. The stamp is of the model's files (size, time of change): where it differs
 * the whole content decides. A file is written beside its name and renamed, so that nobody sees half of one. */
#ifndef KVI_WEIGHT_CACHE_H
#define KVI_WEIGHT_CACHE_H
#include "checkpoint.h"
#include "../base/os.h"

typedef struct kvi_weight_cache {
    char path[4096];
    uint64_t key, stamp, content;
    const kvi_checkpoint *checkpoint;
    kvi_map map; /* empty: nothing is kept */
    uint64_t n_forms;
    kvi_os_writer writer; /* while a file is made */
    bool writes, failed;
    uint64_t at;    /* bytes written */
    uint64_t *sums; /* (3 * n) the table so far */
    size_t n_sums, cap_sums;
} kvi_weight_cache;

/* Looks for the file of `key` in a folder. Found and whole: the map is set. `check`: every byte is compared with its checksum by so many threads;
 * 0: only the tables. What is damaged is a warning and counts as absent. Errors: ARG (the path is too long). */
kvrt_status kvi_weight_cache_open(kvi_weight_cache *cache, const char *folder, const char *model, uint64_t key,
                                  const kvi_checkpoint *checkpoint, uint32_t check, kvrt_error *error);
void kvi_weight_cache_close(kvi_weight_cache *cache); /* zeroes are fine */

/* Form number i, if it has so many bytes; NULL: it is not there. */
const void *kvi_weight_cache_form(const kvi_weight_cache *cache, uint64_t i, uint64_t bytes);

/* Writing: each form in order, then the end; without a form no file is made. `form` NULL: the import made none. A failure is a warning, and ends
 * it: a model opens without. */
void kvi_weight_cache_put(kvi_weight_cache *cache, const void *form, uint64_t bytes);
void kvi_weight_cache_end(kvi_weight_cache *cache, bool keep);

#endif
