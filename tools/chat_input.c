/* chat_input.c - reading messages: libedit on a terminal that can (history, completion, bracketed paste), plain lines
 * otherwise. To know: libedit edits one line. A paste of several lines becomes a placeholder in it, and its text
 * replaces the placeholder when the line is sent; so does nothing that was pasted run as a command or send itself
 * early. */
#define _POSIX_C_SOURCE 200809L
#define _DEFAULT_SOURCE
#include "chat.h"

#include <dirent.h>
#include <errno.h>
#include <locale.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef KVRT_HAVE_LIBEDIT
#include <histedit.h>
#endif

#define MAX_PASTES 32u
struct chat_input {
#ifdef KVRT_HAVE_LIBEDIT
    EditLine *edit;
    History *history;
    HistEvent event;
#endif
    const char *prompt;
    chat_text pastes[MAX_PASTES];
    unsigned n_pastes;
    bool capable;
};

static void placeholder(unsigned i, const chat_text *text, char *dst, size_t cap)
{
    unsigned lines = 1;
    for (size_t k = 0; k < text->len; k++) lines += text->data[k] == '\n';
    snprintf(dst, cap, "[pasted %u lines #%u]", lines, i + 1);
}

#ifdef KVRT_HAVE_LIBEDIT
static char *prompt_of(EditLine *edit)
{
    chat_input *in = NULL;
    el_get(edit, EL_CLIENTDATA, &in);
    return (char *)(uintptr_t)in->prompt;
}

/* Bound to ESC [ 2 0 0 ~: everything up to ESC [ 2 0 1 ~ is text, whatever keys it holds. */
static unsigned char paste(EditLine *edit, int key)
{
    static const char end[] = "\033[201~";
    chat_input *in = NULL;
    chat_text text = {0};
    char c, shown[64];
    (void)key;
    el_get(edit, EL_CLIENTDATA, &in);
    while (el_getc(edit, &c) == 1) {
        if (c == '\r') c = '\n';
        chat_append(&text, &c, 1);
        if (text.len < 6 || memcmp(text.data + text.len - 6, end, 6) != 0) continue;
        text.data[text.len -= 6] = 0;
        break;
    }
    if (!text.len || (text.len < 1000 && !strchr(text.data, '\n')) || in->n_pastes == MAX_PASTES) {
        for (char *p = text.data; p && *p; p++)
            if (*p == '\n') *p = ' ';
        if (text.len) el_insertstr(edit, text.data);
        chat_free(&text);
        return CC_REFRESH;
    }
    placeholder(in->n_pastes, &text, shown, sizeof shown);
    in->pastes[in->n_pastes++] = text;
    el_insertstr(edit, shown);
    return CC_REFRESH;
}

typedef struct matches {
    char common[512], list[2048];
    unsigned n;
} matches;

/* `full` is what the line would hold, `shown` what a list of several shows. */
static void add_match(matches *m, const char *full, const char *shown)
{
    size_t used = strlen(m->list), k = 0;
    if (m->n++ == 0) snprintf(m->common, sizeof m->common, "%s", full);
    while (m->common[k] && m->common[k] == full[k]) k++;
    while (k && ((unsigned char)m->common[k] & 0xc0) == 0x80) k--; /* whole characters only */
    m->common[k] = 0;
    snprintf(m->list + used, sizeof m->list - used, "%s  ", shown);
}

static bool is_folder(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static void match_files(matches *m, const char *prefix)
{
    char typed[512] = ".", folder[1024], full[512], found[2048];
    const char *slash = strrchr(prefix, '/'), *base = slash ? slash + 1 : prefix;
    struct dirent **names = NULL;
    if (slash) snprintf(typed, sizeof typed, "%.*s", (int)(slash - prefix + 1), prefix);
    chat_path(typed, folder, sizeof folder);
    int n = scandir(folder, &names, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        const char *name = names[i]->d_name;
        if (strncmp(name, base, strlen(base)) == 0 && (name[0] != '.' || *base)) {
            snprintf(found, sizeof found, "%s/%s", folder, name);
            int len = snprintf(full, sizeof full, "%.*s%s%s", (int)(base - prefix), prefix, name,
                               is_folder(found) ? "/" : "");
            if (len > 0 && (size_t)len < sizeof full) add_match(m, full, full + (base - prefix));
        }
        free(names[i]);
    }
    free(names);
}

/* Where the file name begins in a command that takes one; it goes on to the end of the line, spaces included. */
static const char *file_argument(const char *line)
{
    static const char *const before[] = {"/read ", "/export md ", "/export json "};
    for (size_t i = 0; i < sizeof before / sizeof before[0]; i++)
        if (strncmp(line, before[i], strlen(before[i])) == 0) return line + strlen(before[i]);
    return NULL;
}

/* Tab: command names at the start, file names behind /read and /export. */
static unsigned char complete(EditLine *edit, int key)
{
    const LineInfo *info = el_line(edit);
    char line[512];
    matches m = {.n = 0};
    size_t len = (size_t)(info->cursor - info->buffer);
    (void)key;
    if (len >= sizeof line || !len || info->buffer[0] != '/') return CC_ERROR;
    memcpy(line, info->buffer, len);
    line[len] = 0;
    const char *word = file_argument(line);
    if (word) match_files(&m, word);
    else
        for (size_t i = 0; chat_command_names[i]; i++)
            if (strncmp(chat_command_names[i], line, len) == 0)
                add_match(&m, chat_command_names[i], chat_command_names[i]);
    size_t have = word ? strlen(word) : len;
    if (!m.n) return CC_ERROR;
    if (strlen(m.common) > have) el_insertstr(edit, m.common + have);
    else if (m.n > 1) {
        fprintf(stderr, "\n%s\n", m.list);
        return CC_REDISPLAY;
    }
    if (m.n == 1 && !word) el_insertstr(edit, " ");
    return CC_REFRESH;
}

/* Reads one character; the library's own reader would sleep through a Ctrl-C that comes just before it. */
static int read_key(EditLine *edit, wchar_t *key)
{
    unsigned char bytes[4];
    size_t have = 0, need = 1;
    while (have < need) {
        chat_wait got = chat_signal_wait(STDIN_FILENO);
        if (got == CHAT_WAIT_INTERRUPT) return -1;
        if (got == CHAT_WAIT_RESIZE) {
            (void)chat_signal_resized();
            el_resize(edit);
            continue;
        }
        ssize_t n = read(STDIN_FILENO, bytes + have, 1);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return (int)n;
        if (have++ == 0)
            need = bytes[0] < 0xc2 ? 1 : bytes[0] < 0xe0 ? 2 : bytes[0] < 0xf0 ? 3 : bytes[0] < 0xf5 ? 4 : 1;
    }
    uint32_t cp = need == 1 ? bytes[0] : bytes[0] & (0x7fu >> need);
    for (size_t i = 1; i < need; i++) cp = cp << 6 | (bytes[i] & 63u);
    *key = (wchar_t)cp;
    return 1;
}

static void open_editor(chat_input *in, const char *program)
{
    in->edit = el_init(program, stdin, stderr, stderr);
    in->history = history_init();
    if (!in->edit || !in->history) return;
    history(in->history, &in->event, H_SETSIZE, 500);
    el_set(in->edit, EL_CLIENTDATA, in);
    el_set(in->edit, EL_EDITOR, "emacs");
    el_set(in->edit, EL_PROMPT, prompt_of);
    el_set(in->edit, EL_HIST, history, in->history);
    el_set(in->edit, EL_SIGNAL, 0); /* chat_signal.c has them */
    el_set(in->edit, EL_GETCFN, read_key);
    el_set(in->edit, EL_ADDFN, "kvrt-paste", "pasted text", paste);
    el_set(in->edit, EL_ADDFN, "kvrt-complete", "complete", complete);
    el_set(in->edit, EL_BIND, "\033[200~", "kvrt-paste", NULL);
    el_set(in->edit, EL_BIND, "\t", "kvrt-complete", NULL);
    el_set(in->edit, EL_BIND, "^R", "em-inc-search-prev", NULL);
}

static chat_read read_edited(chat_input *in, chat_text *out)
{
    int n = 0;
    if (chat_signal_resized()) el_resize(in->edit);
    fputs("\033[?2004h", stderr);
    fflush(stderr);
    errno = 0;
    const char *line = el_gets(in->edit, &n);
    bool interrupted = chat_signal_take();
    fputs("\033[?2004l", stderr);
    fflush(stderr);
    if (interrupted) {
        fputc('\n', stderr);
        el_reset(in->edit);
        return CHAT_INTERRUPT;
    }
    if (!line || n <= 0) return CHAT_END;
    chat_append(out, line, (size_t)n);
    return CHAT_LINE;
}
#endif

chat_input *chat_input_open(const char *program)
{
    chat_input *in = calloc(1, sizeof *in);
    const char *term = getenv("TERM");
    if (!in) return NULL;
    /* libedit keeps wide characters: it needs to know that the terminal speaks UTF-8. */
    if (!setlocale(LC_CTYPE, "") || MB_CUR_MAX == 1) (void)setlocale(LC_CTYPE, "C.UTF-8");
    in->capable = term && *term && strcmp(term, "dumb") != 0;
#ifdef KVRT_HAVE_LIBEDIT
    if (in->capable) open_editor(in, program);
    if (!in->edit || !in->history) in->capable = false;
#else
    (void)program;
    in->capable = false;
#endif
    return in;
}

void chat_input_close(chat_input *in)
{
    if (!in) return;
#ifdef KVRT_HAVE_LIBEDIT
    if (in->history) history_end(in->history);
    if (in->edit) el_end(in->edit);
#endif
    for (unsigned i = 0; i < in->n_pastes; i++) chat_free(&in->pastes[i]);
    free(in);
}

/* Bytes typed before the prompt was there, which nobody has shown yet. */
static int typed_ahead(void)
{
    int n = 0;
    return isatty(STDIN_FILENO) && ioctl(STDIN_FILENO, FIONREAD, &n) == 0 ? n : 0;
}

static chat_read read_plain(chat_input *in, chat_text *out)
{
    int ahead = typed_ahead();
    fputs(in->prompt, stderr);
    fflush(stderr);
    for (;;) {
        char c;
        chat_wait wait = chat_signal_wait(STDIN_FILENO);
        if (wait == CHAT_WAIT_RESIZE) (void)chat_signal_resized();
        if (wait == CHAT_WAIT_RESIZE) continue;
        if (wait == CHAT_WAIT_INTERRUPT) {
            (void)chat_signal_take();
            fputc('\n', stderr);
            return CHAT_INTERRUPT;
        }
        ssize_t n = read(STDIN_FILENO, &c, 1);
        if (n == 1 && ahead > 0 && c == 4 && !out->len) return CHAT_END; /* Ctrl-D */
        if (n == 1) {
            if (ahead-- > 0) fputc(c, stderr);
            chat_append(out, &c, 1);
            if (c == '\n') return CHAT_LINE;
        } else if (n == 0 || errno != EINTR) return out->len ? CHAT_LINE : CHAT_END;
    }
}

static chat_read read_line(chat_input *in, const char *prompt, chat_text *out)
{
    chat_read got;
    in->prompt = prompt;
    chat_clear(out);
#ifdef KVRT_HAVE_LIBEDIT
    got = in->capable ? read_edited(in, out) : read_plain(in, out);
#else
    got = read_plain(in, out);
#endif
    while (out->len && (out->data[out->len - 1] == '\n' || out->data[out->len - 1] == '\r')) out->data[--out->len] = 0;
    return got;
}

static void expand_pastes(chat_input *in, chat_text *text)
{
    for (unsigned i = 0; i < in->n_pastes; i++) {
        char shown[64];
        placeholder(i, &in->pastes[i], shown, sizeof shown);
        char *at = strstr(text->data, shown);
        if (at) {
            chat_text whole = {0};
            chat_append(&whole, text->data, (size_t)(at - text->data));
            chat_append(&whole, in->pastes[i].data, in->pastes[i].len);
            chat_append_str(&whole, at + strlen(shown));
            chat_free(text);
            *text = whole;
        }
        chat_free(&in->pastes[i]);
    }
    in->n_pastes = 0;
}

chat_read chat_input_read(chat_input *in, const char *prompt, chat_text *out)
{
    chat_text line = {0};
    chat_clear(out);
    chat_signal_hold(false);
    chat_read got = read_line(in, prompt, &line);
    if (got == CHAT_LINE && strncmp(line.data, "\"\"\"", 3) == 0) {
        memmove(line.data, line.data + 3, line.len - 2);
        line.len -= 3;
        for (bool first = true; got == CHAT_LINE; first = false) {
            bool last = line.len >= 3 && strcmp(line.data + line.len - 3, "\"\"\"") == 0;
            if (!first && (out->len || !last)) chat_append_str(out, out->len ? "\n" : "");
            chat_append(out, line.data, last ? line.len - 3 : line.len);
            if (last) break;
            got = read_line(in, "... ", &line);
        }
        if (got == CHAT_END) got = CHAT_LINE; /* Ctrl-D ends the block */
    } else chat_append(out, line.data, line.len);
    if (got == CHAT_LINE) {
#ifdef KVRT_HAVE_LIBEDIT
        if (in->capable && out->len && !strchr(out->data, '\n')) history(in->history, &in->event, H_ENTER, out->data);
#endif
        expand_pastes(in, out);
    }
    chat_free(&line);
    return got;
}
