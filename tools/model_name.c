/* model_name.c - see model_name.h. */
#include "model_name.h"

#include <ctype.h>
#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PATH 4096u

static bool join(char *out, size_t cap, const char *a, const char *b)
{
    const int n = snprintf(out, cap, "%s/%s", a, b);
    return n > 0 && (size_t)n < cap;
}

static bool exists(const char *path) { return access(path, R_OK) == 0; }

/* A folder in the home directory or below an environment variable; false when the variable is not set. */
static bool below(const char *variable, const char *rest, char *out)
{
    const char *value = getenv(variable);
    if (!value || !*value) return false;
    return *rest ? join(out, PATH, value, rest) : (size_t)snprintf(out, PATH, "%s", value) < PATH;
}

/* The first bytes of a small file; false when it cannot be read. */
static bool read_text(const char *path, char *out, size_t cap)
{
    FILE *file = fopen(path, "rb");
    if (!file) return false;
    const size_t n = fread(out, 1, cap - 1, file);
    out[n] = 0;
    return fclose(file) == 0 && n > 0;
}

/* --------------------------------------------------------------------------------------------- the hub's cache --- */
static bool ends_with(const char *text, const char *end)
{
    const size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

static bool has_part(const char *text, const char *part)
{
    for (; *text; text++) {
        size_t i = 0;
        while (part[i] && tolower((unsigned char)text[i]) == tolower((unsigned char)part[i])) i++;
        if (!part[i]) return true;
    }
    return !*part;
}

/* The one GGUF model of a folder whose name has `part`: a file, or the first of a split. Of several the folder stays, whose error names one. */
static bool find_gguf(const char *folder, const char *part, char *out)
{
    DIR *dir = opendir(folder);
    unsigned n = 0;
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        const char *of = strstr(entry->d_name, "-of-");
        const bool later = of && of - entry->d_name > 6 && strncmp(of - 6, "-00001", 6) != 0;
        if (!ends_with(entry->d_name, ".gguf") || strncmp(entry->d_name, "mmproj", 6) == 0 || later ||
            !has_part(entry->d_name, part))
            continue;
        if (join(out, PATH, folder, entry->d_name)) n++;
    }
    if (dir) closedir(dir);
    return n == 1;
}

static bool find_hub(char *out)
{
    return below("HF_HUB_CACHE", "", out) || below("HF_HOME", "hub", out) ||
           below("XDG_CACHE_HOME", "huggingface/hub", out) || below("HOME", ".cache/huggingface/hub", out);
}

/* models--ORG--NAME/refs/main holds the commit, snapshots/COMMIT the files. */
static bool in_hub(const char *org, size_t org_len, const char *rest, char *out)
{
    char hub[PATH], model[PATH], ref[PATH], commit[128], snapshots[PATH], folder[PATH], config[PATH], file[PATH];
    const char *colon = strchr(rest, ':');
    const int name_len = colon ? (int)(colon - rest) : (int)strlen(rest);
    if (!find_hub(hub) ||
        (size_t)snprintf(model, PATH, "%s/models--%.*s--%.*s", hub, (int)org_len, org, name_len, rest) >= PATH ||
        !join(ref, PATH, model, "refs/main") || !read_text(ref, commit, sizeof commit))
        return false;
    commit[strcspn(commit, " \r\n/")] = 0;
    if (!join(snapshots, PATH, model, "snapshots") || !join(folder, PATH, snapshots, commit) ||
        !join(config, PATH, folder, "config.json"))
        return false;
    const char *found = !colon && exists(config)                          ? folder
                        : find_gguf(folder, colon ? colon + 1 : "", file) ? file
                                                                          : folder;
    return exists(found) && (size_t)snprintf(out, PATH, "%s", found) < PATH;
}

/* ------------------------------------------------------------------------------------------------ Ollama's store --- */
/* The manifest of a model is a list of layers with type and digest; the weights are the layer of type ...image.model. */
static bool blob_of(const char *store, const char *manifest, char *out)
{
    char text[32768], blob[128];
    if (!read_text(manifest, text, sizeof text)) return false;
    const char *type = strstr(text, "ollama.image.model\"");
    const char *end = type ? strchr(type, '}') : NULL, *begin = type;
    while (begin && begin > text && *begin != '{') begin--;
    const char *digest = begin ? strstr(begin, "\"sha256:") : NULL;
    if (!digest || !end || digest > end) return false;
    digest += strlen("\"sha256:");
    const size_t len = strspn(digest, "0123456789abcdef");
    return len == 64 && snprintf(blob, sizeof blob, "blobs/sha256-%.64s", digest) > 0 && join(out, PATH, store, blob) &&
           exists(out);
}

/* manifests/REGISTRY/library/NAME/TAG, whatever the registry is called. */
static bool in_store(const char *store, const char *name, const char *tag, char *out)
{
    char manifests[PATH], manifest[PATH];
    bool found = false;
    DIR *dir = join(manifests, PATH, store, "manifests") ? opendir(manifests) : NULL;
    for (struct dirent *entry; dir && !found && (entry = readdir(dir));)
        found = entry->d_name[0] != '.' &&
                (size_t)snprintf(manifest, PATH, "%s/%s/library/%s/%s", manifests, entry->d_name, name, tag) < PATH &&
                blob_of(store, manifest, out);
    if (dir) closedir(dir);
    return found;
}

static bool in_ollama(const char *name, char *out)
{
    char plain[256], store[PATH];
    if ((size_t)snprintf(plain, sizeof plain, "%s", name) >= sizeof plain) return false;
    char *colon = strchr(plain, ':');
    if (colon) *colon = 0;
    const char *tag = colon && colon[1] ? colon + 1 : "latest";
    if (below("OLLAMA_MODELS", "", store)) return in_store(store, plain, tag, out);
    return (below("HOME", ".ollama/models", store) && in_store(store, plain, tag, out)) ||
           in_store("/usr/share/ollama/.ollama/models", plain, tag, out);
}

/* --------------------------------------------------------------------------------------------------------- names --- */
const char *model_name_path(const char *name, char *out, size_t cap)
{
    char found[PATH];
    const char *slash = strchr(name, '/');
    const bool path = *name == '.' || *name == '/' || *name == '~' || !*name || strstr(name, "..") || exists(name);
    const bool named =
        !path && (slash ? !strchr(slash + 1, '/') && slash[1] && in_hub(name, (size_t)(slash - name), slash + 1, found)
                        : in_ollama(name, found));
    (void)snprintf(out, cap, "%s", named ? found : name);
    return out;
}
