/* folder.c - see folder.h. */
#include "folder.h"
#include "mem.h"

#include <stdio.h>
#include <string.h>

/* A checkout without Git LFS holds, for each large file, a text of three lines: version, oid, size. */
static kvrt_status refuse_lfs_pointer(const char *path, const kvi_map *map, kvrt_error *error)
{
    static const char version[] = "version https://git-lfs.github.com/spec/";
    if (map->len < sizeof version - 1 || map->len > 1024 || memcmp(map->data, version, sizeof version - 1) != 0)
        return KVRT_OK;
    uint64_t bytes = 0;
    for (uint64_t i = sizeof version - 1; i + 6 < map->len; i++)
        if (memcmp(map->data + i, "\nsize ", 6) == 0)
            for (i += 6; i < map->len && map->data[i] >= '0' && map->data[i] <= '9' && bytes < UINT64_MAX / 16; i++)
                bytes = bytes * 10 + (uint64_t)(map->data[i] - '0');
    return kvi_error_set(
        error, KVRT_IO, "%s: is a Git LFS pointer, need the file itself (%llu bytes): run 'git lfs pull' in its folder",
        path, (unsigned long long)bytes);
}

#define MAX_PATH 4096u /* bytes with the NUL; no system call takes more */

static bool join(char path[MAX_PATH], const char *dir, const char *name)
{
    int n = snprintf(path, MAX_PATH, "%s/%s", dir, name);
    return n > 0 && (unsigned)n < MAX_PATH;
}

kvrt_status kvi_folder_map(const char *dir, const char *name, bool copy, kvi_map *out, bool *found, kvrt_error *error)
{
    char path[MAX_PATH];
    *out = (kvi_map){0};
    if (found) *found = false;
    if (!join(path, dir, name))
        return kvi_error_set(error, KVRT_IO, "%.100s.../%.100s: path too long, need at most %u bytes", dir, name,
                             MAX_PATH - 1);
    if (found && kvi_os_path_kind(path) == KVI_OS_ABSENT) return KVRT_OK;
    if (found) *found = true;
    KVI_TRY(kvi_os_map(path, copy ? &kvi_mem_copies : NULL, out, error));
    kvrt_status status = refuse_lfs_pointer(path, out, error);
    if (status < KVRT_OK) kvi_os_unmap(out);
    return status;
}

bool kvi_folder_has(const char *dir, const char *name)
{
    char path[MAX_PATH];
    return join(path, dir, name) && kvi_os_path_kind(path) != KVI_OS_ABSENT;
}
