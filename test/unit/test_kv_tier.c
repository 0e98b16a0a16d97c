/* test_kv_tier.c - the stores of objects by name (kv/tier.h) against a list of what was put into them: random calls with objects of many sizes,
 * several at a time; what others do to the file; disks that are full, slow or interrupt. */
#define _DEFAULT_SOURCE
#include "../../runtime/base/lcg.h"
#include "../../runtime/base/mem.h"
#include "../../runtime/base/os.h"
#include "../../runtime/kv/tier.h"

#include <dirent.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

enum { NAMES = 60, CALL = 16, MOST = 70000 };
static char dir[] = "/tmp/kvrt-tier-XXXXXX", file_path[700];
static struct known {
    bool there;
    uint64_t n;
    uint32_t seed;
} known[NAMES];
static uint8_t bytes[CALL][MOST];
static uint64_t state;

static uint32_t below(uint32_t n) { return (uint32_t)(kvi_lcg(&state) >> 33) % n; }
static uint8_t byte_of(uint32_t seed, uint64_t i) { return (uint8_t)((seed + i) * 2654435761u >> 13); }
static kvi_tier_name name_of(uint32_t i) { return (kvi_tier_name){i % 7, i / 7}; }

/* A few different names; those that are or are not there. */
static uint32_t choose(uint32_t which[CALL], bool there)
{
    uint32_t n = 0;
    for (uint32_t tries = 1 + below(CALL); tries-- > 0 && n < CALL;) {
        const uint32_t i = below(NAMES);
        bool again = known[i].there != there;
        for (uint32_t k = 0; k < n; k++) again |= which[k] == i;
        if (!again) which[n++] = i;
    }
    return n;
}

static void fill(uint8_t *to, const struct known *o)
{
    for (uint64_t i = 0; i < o->n; i++) to[i] = byte_of(o->seed, i);
}

static void objects_of(const uint32_t *which, uint32_t n, kvi_tier_object *objects)
{
    for (uint32_t k = 0; k < n && k < CALL; k++)
        objects[k] = (kvi_tier_object){.name = name_of(which[k]), .bytes = bytes[k], .n = known[which[k]].n};
}

static kvrt_status set_some(kvi_tier *tier, kvrt_error *error)
{
    uint32_t which[CALL] = {0};
    const uint32_t n = choose(which, false);
    kvi_tier_object objects[CALL] = {{.n = 0}};
    for (uint32_t k = 0; k < n; k++) {
        struct known *o = &known[which[k]];
        o->n = below(2) ? 256u * (1 + below(40)) : 1 + below(below(3) ? 9 : MOST), o->seed = below(1u << 30);
        fill(bytes[k], o);
    }
    objects_of(which, n, objects);
    const kvrt_status status = tier->kind->set(tier, objects, n, error);
    for (uint32_t k = 0; k < n; k++) known[which[k]].there = status >= KVRT_OK;
    return status;
}

static void check(const uint32_t *which, const kvi_tier_object *objects, uint32_t n)
{
    for (uint32_t k = 0; k < n; k++) {
        assert_true(objects[k].there);
        for (uint64_t i = 0; i < objects[k].n; i++)
            if (bytes[k][i] != byte_of(known[which[k]].seed, i))
                fail_msg("object %u, byte %llu", which[k], (unsigned long long)i);
    }
}

static void get_some(kvi_tier *tier)
{
    uint32_t which[CALL] = {0};
    const uint32_t n = choose(which, true);
    kvi_tier_object objects[CALL] = {{.n = 0}};
    objects_of(which, n, objects);
    assert_int_equal(tier->kind->get(tier, objects, n, NULL), KVRT_OK);
    check(which, objects, n);
}

static void drop_some(kvi_tier *tier)
{
    uint32_t which[CALL] = {0};
    const uint32_t n = choose(which, true);
    kvi_tier_object objects[CALL] = {{.n = 0}};
    objects_of(which, n, objects);
    tier->kind->drop(tier, objects, n);
    for (uint32_t k = 0; k < n; k++) known[which[k]].there = false;
}

static uint64_t bytes_known(void)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < NAMES; i++) n += known[i].there ? known[i].n : 0;
    return n;
}

static void all_are_as_known(kvi_tier *tier)
{
    for (uint32_t i = 0; i < NAMES; i++) {
        kvi_tier_object o = {.name = name_of(i), .bytes = bytes[0], .n = known[i].there ? known[i].n : 256};
        assert_int_equal(tier->kind->exists(tier, &o, 1, NULL), KVRT_OK);
        assert_int_equal(o.there, known[i].there);
        if (!o.there) continue;
        o.n++; /* of another size it is another */
        assert_int_equal(tier->kind->exists(tier, &o, 1, NULL), KVRT_OK);
        assert_false(o.there);
        o.n--;
        assert_int_equal(tier->kind->get(tier, &o, 1, NULL), KVRT_OK);
        check(&i, &o, 1);
    }
}

static kvi_tier *open_tier(bool memory)
{
    kvi_tier *tier = NULL;
    kvrt_error error = {.size = sizeof error};
    memset(known, 0, sizeof known);
    if ((memory ? kvi_tier_memory(&tier, &error) : kvi_tier_directory(dir, 77, &tier, &error)) < KVRT_OK)
        fail_msg("%s", error.message);
    return tier;
}

/* The one file of the directory's namespace. */
static bool find_file(void)
{
    char folder[300];
    bool found = false;
    snprintf(folder, sizeof folder, "%s/%016x", dir, 77);
    DIR *listing = opendir(folder);
    for (struct dirent *e; listing && (e = readdir(listing));) {
        if (e->d_name[0] == '.') continue;
        assert_false(found);
        snprintf(file_path, sizeof file_path, "%s/%.300s", folder, e->d_name);
        found = true;
    }
    if (listing) closedir(listing);
    return found;
}

static uint64_t file_bytes(void)
{
    struct stat st;
    return find_file() && stat(file_path, &st) == 0 ? (uint64_t)st.st_size : 0;
}

/* ------------------------------------------------------------------------------------------------------------- cases --- */
static void random_calls(void **unused)
{
    (void)unused;
    for (int memory = 0; memory < 2; memory++)
        for (uint32_t seed = 1; seed < 4; seed++) {
            kvi_tier *tier = open_tier(memory);
            uint64_t most = 0, most_file = 0;
            state = seed;
            for (uint32_t call = 0; call < 3000; call++) {
                switch (below(4)) {
                case 0: assert_int_equal(set_some(tier, NULL), KVRT_OK); break;
                case 1: drop_some(tier); break;
                default: get_some(tier); break;
                }
                if (bytes_known() > most) most = bytes_known();
                if (!memory && file_bytes() > most_file) most_file = file_bytes();
            }
            all_are_as_known(tier);
            assert_true(most > 400000);
            if (!memory) assert_true(most_file < most * 2); /* gaps are used again */
            tier->kind->close(tier);
            assert_false(find_file());
        }
}

/* Others may do to the file what they like: what is gone is not there, and can be put there again. */
static void files_that_are_cut_or_gone(void **unused)
{
    (void)unused;
    for (int gone = 0; gone < 2; gone++) {
        kvi_tier *tier = open_tier(false);
        kvi_tier_object objects[4];
        for (uint32_t k = 0; k < 4; k++) {
            known[k] = (struct known){true, 3000 + 100 * k, 5 + k};
            fill(bytes[k], &known[k]);
            objects[k] = (kvi_tier_object){.name = name_of(k), .bytes = bytes[k], .n = known[k].n};
        }
        assert_int_equal(tier->kind->set(tier, objects, 4, NULL), KVRT_OK);
        assert_true(find_file());
        assert_int_equal(gone ? unlink(file_path) : truncate(file_path, 3000 + 3100 + 3199), 0);
        assert_int_equal(tier->kind->exists(tier, objects, 4, NULL), KVRT_OK);
        for (uint32_t k = 0; k < 4; k++) assert_int_equal(objects[k].there, !gone && k < 2);
        assert_int_equal(tier->kind->get(tier, objects, 4, NULL), KVRT_OK);
        assert_false(objects[2].there || objects[3].there);
        for (uint32_t k = 0; k < 4; k++) fill(bytes[k], &known[k]);
        assert_int_equal(tier->kind->set(tier, objects, 4, NULL), KVRT_OK);
        memset(bytes, 0, sizeof bytes);
        all_are_as_known(tier);
        tier->kind->close(tier);
    }
}

static uint32_t n_writes, fails_at;
static int64_t bad_disk(int32_t fd, const void *from, uint64_t n)
{
    if (++n_writes == fails_at) {
        errno = ENOSPC;
        return -1;
    }
    if (n_writes % 3 == 0) {
        errno = EINTR;
        return -1;
    }
    return write(fd, from, n < 5000 ? n : 5000);
}

/* Interrupted and short writes are gone on with; a full disk is an error that names the file, and keeps what was there. */
static void disks_that_fail(void **unused)
{
    (void)unused;
    kvi_tier *tier = open_tier(false);
    kvrt_error error = {.size = sizeof error};
    uint32_t n_failed = 0;
    state = 9;
    kvi_os_write_hook = bad_disk;
    for (uint32_t call = 0; call < 400; call++) {
        fails_at = below(3) ? 0 : 1 + below(20), n_writes = 0;
        if (below(3) == 0) drop_some(tier);
        const kvrt_status status = set_some(tier, &error);
        if (status < KVRT_OK) {
            n_failed++;
            assert_int_equal(status, KVRT_IO);
            assert_int_equal(error.system_code, ENOSPC);
            assert_true(find_file() ? strstr(error.message, file_path) != NULL : bytes_known() == 0);
        }
        if (call % 20 == 0) all_are_as_known(tier);
    }
    assert_true(n_failed > 20);
    all_are_as_known(tier);
    /* Behind a failure nothing is kept on the disk in vain. */
    fails_at = 1, n_writes = 0;
    for (int i = 0; i < 100 && n_writes == 0; i++) (void)set_some(tier, &error);
    assert_true(n_writes == 1 && bytes_known() > 0);
    for (uint32_t i = 0; i < NAMES; i++) {
        const kvi_tier_object o = {.name = name_of(i), .n = known[i].n};
        if (known[i].there) tier->kind->drop(tier, &o, 1);
    }
    assert_int_equal(file_bytes(), 0);
    kvi_os_write_hook = NULL;
    tier->kind->close(tier);
}

/* Every allocation fails in turn: what was there stays, and nothing else is there. */
static void memory_that_is_out(void **unused)
{
    (void)unused;
    for (int memory = 0; memory < 2; memory++) {
        kvi_tier *tier = open_tier(memory);
        uint32_t n_failed = 0;
        state = 4;
        for (uint32_t call = 0; call < 200; call++) {
            if (below(2)) drop_some(tier);
            kvi_mem_fail_nth(1 + below(2));
            const kvrt_status status = set_some(tier, NULL);
            kvi_mem_fail_nth(0);
            n_failed += status < KVRT_OK;
            if (status < KVRT_OK) assert_int_equal(status, KVRT_NOMEM_HOST);
        }
        assert_true(n_failed > (memory ? 20 : 0)); /* a list of places grows a few times only */
        all_are_as_known(tier);
        tier->kind->close(tier);
    }
}

/* And nothing is left in memory. */
static int remove_folder(void **unused)
{
    uint64_t n_bytes, blocks, allocations;
    (void)unused;
    kvi_mem_stats(&n_bytes, &blocks, &allocations);
    return rmdir(dir) != 0 || n_bytes != 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_calls),
        cmocka_unit_test(files_that_are_cut_or_gone),
        cmocka_unit_test(disks_that_fail),
        cmocka_unit_test(memory_that_is_out),
    };
    assert_non_null(mkdtemp(dir));
    return cmocka_run_group_tests(tests, NULL, remove_folder);
}
