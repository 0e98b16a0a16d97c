/* terminal.c - how the command writes: plain bytes to pipes, colour and a progress line only where a person looks
 * on, JSON strings. */
#define _POSIX_C_SOURCE 200809L
#include "command.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

bool command_is_terminal(FILE *file) { return isatty(fileno(file)) == 1; }

bool command_is_closed(FILE *file)
{
    struct stat info;
    return fstat(fileno(file), &info) != 0 && errno == EBADF;
}

/* A terminal that understands escape sequences. */
static bool is_capable(FILE *file)
{
    const char *term = getenv("TERM");
    return command_is_terminal(file) && term && *term && strcmp(term, "dumb") != 0;
}

bool command_wants_colour(FILE *file)
{
    const char *no = getenv("NO_COLOR");
    return is_capable(file) && !(no && *no);
}

void command_break_line(void)
{
    static bool broken;
    struct stat out, err;
    if (broken) return;
    broken = true;
    if (fstat(STDOUT_FILENO, &out) == 0 && fstat(STDERR_FILENO, &err) == 0 && out.st_dev == err.st_dev &&
        out.st_ino == err.st_ino && !command_is_terminal(stdout))
        fputc('\n', stderr);
}

static int write_errno;

bool command_write(const char *text, size_t len)
{
    errno = 0;
    if (fwrite(text, 1, len, stdout) == len && fflush(stdout) == 0) return true;
    if (!write_errno) write_errno = errno;
    return false;
}

int command_write_errno(void) { return write_errno; }

/* --------------------------------------------------------------------------------------------------- progress --- */
#define PATIENCE_US 300000u
#define REDRAW_US 100000u

static uint64_t now_us(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
}

void command_progress_show(command_progress *p, const char *stage, uint64_t done, uint64_t total, double scale,
                           const char *unit)
{
    uint64_t now = now_us();
    if (!p->start_us) p->start_us = now;
    if (now - p->start_us < PATIENCE_US || now - p->shown_us < REDRAW_US || !total || !is_capable(stderr)) return;
    p->shown_us = now;
    p->visible = true;
    if (total == 1) { /* a stage, not an amount */
        fprintf(stderr, "\r%s ...\033[K", stage);
        fflush(stderr);
        return;
    }
    char bar[25];
    size_t filled = done < total ? (size_t)((double)done / (double)total * 24) : 24;
    for (size_t i = 0; i < 24; i++) bar[i] = i < filled ? '#' : '.';
    bar[24] = 0;
    double rate = (double)done * scale * 1e6 / (double)(now - p->start_us);
    fprintf(stderr, "\r%s [%s] %.0f of %.0f %s, %.0f %s/s\033[K", stage, bar, (double)done * scale,
            (double)total * scale, unit, rate, unit);
    fflush(stderr);
}

void command_progress_clear(command_progress *p)
{
    if (p->visible) fprintf(stderr, "\r\033[K");
    *p = (command_progress){0};
}

/* ------------------------------------------------------------------------------------------------------- JSON --- */
/* Length of the well-formed UTF-8 sequence at text, 0 if there is none. */
static size_t sequence_len(const unsigned char *text, size_t len)
{
    unsigned char c = text[0];
    size_t n = c < 0x80 ? 1 : c >= 0xc2 && c < 0xe0 ? 2 : (c & 0xf0) == 0xe0 ? 3 : c >= 0xf0 && c < 0xf5 ? 4 : 0;
    if (n == 0 || n > len) return 0;
    for (size_t i = 1; i < n; i++)
        if ((text[i] & 0xc0) != 0x80) return 0;
    if ((c == 0xe0 && text[1] < 0xa0) || (c == 0xed && text[1] > 0x9f) || (c == 0xf0 && text[1] < 0x90) ||
        (c == 0xf4 && text[1] > 0x8f))
        return 0;
    return n;
}

void command_json_string(FILE *to, const char *text, size_t len)
{
    fputc('"', to);
    for (size_t i = 0, n; i < len; i += n) {
        unsigned char c = (unsigned char)text[i];
        n = sequence_len((const unsigned char *)text + i, len - i);
        if (n == 0) {
            fputs("\\ufffd", to);
            n = 1;
        } else if (n > 1) fwrite(text + i, 1, n, to);
        else if (c == '"' || c == '\\') fprintf(to, "\\%c", c);
        else if (c == '\n') fputs("\\n", to);
        else if (c == '\t') fputs("\\t", to);
        else if (c == '\r') fputs("\\r", to);
        else if (c < 0x20 || c == 0x7f) fprintf(to, "\\u%04x", c);
        else fputc(c, to);
    }
    fputc('"', to);
}
