/* desktop.c - a desktop program with a model in it, on plain X11: desktop MODEL [QUESTION]. One window: text as it comes, a line to type a question,
 * a button that cancels, and a bar that says what of the planned memory is used. The engine's own thread computes; its wakeup writes to a pipe,
 * which poll(2) waits for together with the window's connection, so the window answers while the model works. */
#define _POSIX_C_SOURCE 200809L
#include <X11/Xatom.h>
#include <X11/Xlib.h>
#include <X11/Xutil.h>
#include <X11/keysym.h>
#include <fcntl.h>
#include <kvrt.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WIDTH = 720, HEIGHT = 400, MARGIN = 14, ROW = 17, FOOT = 84, BUTTON = 90, MOST = 1 << 16 };

typedef struct app {
    Display *display;
    Window window;
    Pixmap picture; /* drawn first, shown as a whole: nothing flickers */
    GC gc;
    XFontStruct *font;
    Atom closes;
    int width, height, wakeups[2];
    kvrt_engine engine;
    kvrt_session session;
    uint64_t request; /* that runs; 0: none */
    char text[MOST], question[256], status[160];
    size_t n_text, n_question;
} app;

/* ---------------------------------------------------------------------------------------------------------- the model --- */
static void wake(void *user)
{
    if (write(((app *)user)->wakeups[1], "", 1) < 0) return; /* it is full: the loop will wake anyway */
}

static void add(app *a, const char *text, size_t n)
{
    if (a->n_text + n >= MOST) { /* the older half goes, at a line's end */
        const char *half = memchr(a->text + MOST / 2, '\n', a->n_text - MOST / 2);
        const size_t gone = half ? (size_t)(half - a->text) : a->n_text;
        memmove(a->text, a->text + gone, a->n_text - gone);
        a->n_text -= gone;
    }
    if (n >= MOST - a->n_text) return;
    memcpy(a->text + a->n_text, text, n);
    a->n_text += n;
}

static void ask(app *a)
{
    int32_t ids[1024];
    uint64_t n = 0;
    kvrt_error error = {.size = sizeof error};
    if (a->request || a->n_question == 0) return;
    add(a, a->n_text ? "\n\n" : "", a->n_text ? 2 : 0);
    add(a, a->question, a->n_question);
    int32_t status =
        kvrt_tokenize(a->engine, a->question, (int64_t)a->n_question, KVRT_TOKENIZE_ADD_SPECIAL, ids, 1024, &n, &error);
    if (status >= 0) status = kvrt_session_sync(a->session, ids, n < 1024 ? n : 1024, NULL, &error);
    if (status >= 0) status = kvrt_submit(a->session, NULL, &a->request, &error);
    snprintf(a->status, sizeof a->status, "%.150s", status < 0 ? error.message : "writing");
    a->n_question = 0;
}

static void listen(app *a)
{
    kvrt_event event = {.size = sizeof event};
    char bytes[64];
    while (read(a->wakeups[0], bytes, sizeof bytes) > 0) {
    }
    while (kvrt_poll(a->engine, &event, NULL) == KVRT_OK) {
        if (event.type == KVRT_EVENT_TEXT || event.type == KVRT_EVENT_DONE) add(a, event.text, event.text_len);
        if (event.type != KVRT_EVENT_DONE && event.type != KVRT_EVENT_ERROR) continue;
        a->request = 0;
        snprintf(a->status, sizeof a->status, "%.150s",
                 event.finish == KVRT_FINISH_CANCELLED ? "cancelled"
                 : event.type == KVRT_EVENT_ERROR      ? event.text
                                                       : "type a question, Return asks");
    }
}

static int32_t open_model(app *a, const char *path, kvrt_error *error)
{
    kvrt_options *options = NULL;
    int32_t status = kvrt_options_create(&options, error);
    if (status >= 0) status = kvrt_options_set_string(options, "model.path", path, -1, error);
    if (status >= 0) status = kvrt_options_set_i64(options, "ctx.size", 2048, error);
    if (status >= 0)
        status = kvrt_options_set_text(options, "ctx.full", "shift", error); /* a window stays open for long */
    if (status >= 0) status = kvrt_options_set_i64(options, "gen.max_tokens", 400, error);
    if (status >= 0) status = kvrt_engine_open(options, NULL, NULL, &a->engine, error);
    if (status >= 0) status = kvrt_session_create(a->engine, NULL, &a->session, error);
    if (status >= 0) status = kvrt_worker_start(a->engine, wake, a, error);
    kvrt_options_destroy(options);
    return status;
}

/* -------------------------------------------------------------------------------------------------------- the window --- */
static void colour(app *a, unsigned long rgb) { XSetForeground(a->display, a->gc, rgb); } /* of a TrueColor screen */

/* One code point, and how many bytes it takes; what the font's 16 bits cannot name is a question mark. */
static XChar2b next_char(const char *text, size_t left, size_t *taken)
{
    const unsigned char *s = (const unsigned char *)text;
    const unsigned n = s[0] < 0x80 ? 1 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    unsigned c = n == 1 ? s[0] : n == 2 ? s[0] & 0x1fu : s[0] & 0x0fu;
    *taken = n < left ? n : left;
    for (size_t i = 1; i < *taken; i++) c = c << 6 | (s[i] & 0x3fu);
    if (n == 4 || c > 0xffff) c = '?';
    return (XChar2b){(unsigned char)(c >> 8), (unsigned char)c};
}

static void draw_text(app *a, int x, int y, const char *text, size_t n)
{
    XChar2b line[512];
    int len = 0;
    for (size_t i = 0, taken; i < n && len < 512; i += taken) line[len++] = next_char(text + i, n - i, &taken);
    XDrawString16(a->display, a->picture, a->gc, x, y, line, len);
}

/* Where the line that begins at `from` ends: at a newline, or behind the last word that fits. *next: where the next one begins. */
static size_t line_end(const app *a, size_t from, size_t columns, size_t *next)
{
    size_t at = from, word = 0, n = 0, taken;
    for (; at < a->n_text && a->text[at] != '\n' && n < columns; at += taken, n++) {
        if (a->text[at] == ' ') word = at;
        (void)next_char(a->text + at, a->n_text - at, &taken);
    }
    const int broken = at < a->n_text && a->text[at] != '\n' && word > from;
    if (broken) at = word;
    *next = at + (at < a->n_text && (a->text[at] == '\n' || broken) ? 1 : 0);
    return at;
}

/* The newest lines that there is room for. */
static void draw_lines(app *a)
{
    enum { MOST_LINES = 4096 };
    static size_t starts[MOST_LINES], ends[MOST_LINES];
    const size_t columns = (size_t)((a->width - 2 * MARGIN) / a->font->max_bounds.width);
    const int rows = (a->height - FOOT - MARGIN) / ROW;
    int n = 0;
    for (size_t at = 0, next; at < a->n_text && n < MOST_LINES; at = next, n++)
        starts[n] = at, ends[n] = line_end(a, at, columns ? columns : 1, &next);
    colour(a, 0x202428);
    for (int i = n > rows ? n - rows : 0, row = 1; i < n; i++, row++)
        draw_text(a, MARGIN, MARGIN + row * ROW - 4, a->text + starts[i], ends[i] - starts[i]);
}

static void draw_memory(app *a, int x, int y, int width)
{
    kvrt_memory m = {.size = sizeof m};
    char says[320];
    if (kvrt_mem_info(a->engine, &m, NULL) < 0 || m.kv_pool_bytes == 0) return;
    const double used = (double)m.kv_used_bytes / (double)m.kv_pool_bytes;
    colour(a, 0xd9dde2);
    XFillRectangle(a->display, a->picture, a->gc, x, y, (unsigned)width, 10);
    colour(a, used > 0.9 ? 0xc05030 : 0x3f7fbf);
    XFillRectangle(a->display, a->picture, a->gc, x, y, (unsigned)(used * width), 10);
    snprintf(says, sizeof says, "cache %.1f of %.1f MiB, engine %.1f MiB in all   %s",
             (double)m.kv_used_bytes / 1048576, (double)m.kv_pool_bytes / 1048576,
             (double)(m.host_bytes + m.device_bytes) / 1048576, a->status);
    colour(a, 0x5a6068);
    draw_text(a, x, y + 24, says, strlen(says));
}

static void draw(app *a)
{
    const int foot = a->height - FOOT, button = a->height - 40;
    char line[300];
    colour(a, 0xfbfbfa);
    XFillRectangle(a->display, a->picture, a->gc, 0, 0, (unsigned)a->width, (unsigned)a->height);
    draw_lines(a);
    colour(a, 0xeceff2);
    XFillRectangle(a->display, a->picture, a->gc, MARGIN, foot, (unsigned)(a->width - 2 * MARGIN), 26);
    colour(a, 0x202428);
    const int n = snprintf(line, sizeof line, "> %.*s_", (int)a->n_question, a->question);
    draw_text(a, MARGIN + 8, foot + 17, line, (size_t)n);
    colour(a, a->request ? 0xc05030 : 0xb9bfc6);
    XFillRectangle(a->display, a->picture, a->gc, MARGIN, button, BUTTON, 26);
    colour(a, 0xffffff);
    draw_text(a, MARGIN + 24, button + 17, "Cancel", 6);
    draw_memory(a, MARGIN + BUTTON + 16, button + 2, a->width - 2 * MARGIN - BUTTON - 16);
    XCopyArea(a->display, a->picture, a->window, a->gc, 0, 0, (unsigned)a->width, (unsigned)a->height, 0, 0);
    XFlush(a->display);
}

static void resize(app *a, int width, int height)
{
    if (a->picture) XFreePixmap(a->display, a->picture);
    a->width = width, a->height = height;
    a->picture = XCreatePixmap(a->display, a->window, (unsigned)width, (unsigned)height,
                               (unsigned)DefaultDepth(a->display, DefaultScreen(a->display)));
}

static int open_window(app *a)
{
    a->display = XOpenDisplay(NULL);
    if (!a->display) return 0;
    a->font = XLoadQueryFont(a->display, "-misc-fixed-medium-r-normal--14-*-*-*-*-*-iso10646-1");
    if (!a->font) a->font = XLoadQueryFont(a->display, "fixed");
    if (!a->font) return 0;
    a->window = XCreateSimpleWindow(a->display, DefaultRootWindow(a->display), 0, 0, WIDTH, HEIGHT, 0, 0, 0xfbfbfa);
    a->gc = XCreateGC(a->display, a->window, 0, NULL);
    a->closes = XInternAtom(a->display, "WM_DELETE_WINDOW", False);
    XSetFont(a->display, a->gc, a->font->fid);
    XStoreName(a->display, a->window, "kvrt");
    XSetWMProtocols(a->display, a->window, &a->closes, 1);
    XSelectInput(a->display, a->window, ExposureMask | KeyPressMask | ButtonPressMask | StructureNotifyMask);
    XMapWindow(a->display, a->window);
    resize(a, WIDTH, HEIGHT);
    return 1;
}

static void press_key(app *a, XKeyEvent *key)
{
    char bytes[8];
    KeySym symbol;
    const int n = XLookupString(key, bytes, sizeof bytes, &symbol, NULL);
    if (symbol == XK_Return) ask(a);
    else if (symbol == XK_Escape) kvrt_cancel_id(a->request);
    else if (symbol == XK_BackSpace) a->n_question -= a->n_question > 0;
    else if (n == 1 && bytes[0] >= ' ' && bytes[0] < 127 && a->n_question + 1 < sizeof a->question)
        a->question[a->n_question++] = bytes[0];
}

/* False: the window was closed. */
static int handle(app *a, XEvent *event)
{
    if (event->type == ClientMessage && (Atom)event->xclient.data.l[0] == a->closes) return 0;
    if (event->type == ConfigureNotify) resize(a, event->xconfigure.width, event->xconfigure.height);
    if (event->type == KeyPress) press_key(a, &event->xkey);
    if (event->type == ButtonPress && event->xbutton.y >= a->height - 40 && event->xbutton.x >= MARGIN &&
        event->xbutton.x < MARGIN + BUTTON)
        kvrt_cancel_id(a->request);
    return 1;
}

int main(int argc, char **argv)
{
    static app a;
    kvrt_error error = {.size = sizeof error};
    if (argc < 2 || argc > 3) return fprintf(stderr, "usage: desktop MODEL [QUESTION]\n"), 2;
    if (pipe(a.wakeups) != 0 || fcntl(a.wakeups[0], F_SETFL, O_NONBLOCK) < 0 ||
        fcntl(a.wakeups[1], F_SETFL, O_NONBLOCK) < 0)
        return perror("desktop"), 1;
    if (!open_window(&a)) return fprintf(stderr, "desktop: no X display (DISPLAY), or no font\n"), 1;
    const int32_t status = open_model(&a, argv[1], &error);
    snprintf(a.status, sizeof a.status, "type a question, Return asks");
    if (argc == 3) a.n_question = (size_t)snprintf(a.question, sizeof a.question, "%s", argv[2]) % sizeof a.question;
    if (status >= 0) ask(&a);
    for (int runs = status >= 0; runs;) {
        struct pollfd fds[2] = {{.fd = ConnectionNumber(a.display), .events = POLLIN},
                                {.fd = a.wakeups[0], .events = POLLIN}};
        draw(&a);
        if (!XPending(a.display) && poll(fds, 2, -1) < 0) break;
        listen(&a);
        for (XEvent event; runs && XPending(a.display);) {
            XNextEvent(a.display, &event);
            runs = handle(&a, &event);
        }
    }
    if (status < 0) fprintf(stderr, "desktop: %s\n", error.message);
    (void)kvrt_engine_close(a.engine, NULL);
    XCloseDisplay(a.display);
    return status < 0;
}
