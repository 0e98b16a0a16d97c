/* folder.c - see folder.h. */
#include "folder.h"
#include "mem.h"

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
        error, KVRT_FORMAT,
        "%s: is a Git LFS pointer, need the file itself (%llu bytes): run 'git lfs pull' in its folder", path,
        (unsigned long long)bytes);
}

static bool join(kvi_buf *path, const char *dir, const char *name)
{
    kvi_buf_append_str(path, dir);
    kvi_buf_append_byte(path, '/');
    kvi_buf_append_str(path, name);
    return !path->failed;
}

kvrt_status kvi_folder_map(const char *dir, const char *name, bool copy, kvi_map *out, bool *found, kvrt_error *error)
{
    kvi_buf path = {0};
    *out = (kvi_map){0};
    kvrt_status status = KVRT_OK;
    if (!join(&path, dir, name)) status = kvi_error_nomem(error, strlen(dir) + strlen(name), "path");
    else if (found && !(*found = kvi_os_path_kind(path.data) != KVI_OS_ABSENT)) status = KVRT_OK;
    else status = kvi_os_map(path.data, copy, out, error);
    if (status >= KVRT_OK) status = refuse_lfs_pointer(path.data, out, error);
    if (status < KVRT_OK) kvi_os_unmap(out);
    kvi_buf_free(&path);
    return status;
}

bool kvi_folder_has(const char *dir, const char *name)
{
    kvi_buf path = {0};
    bool has = join(&path, dir, name) && kvi_os_path_kind(path.data) != KVI_OS_ABSENT;
    kvi_buf_free(&path);
    return has;
}
