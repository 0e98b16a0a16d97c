/* chat_signal.c - Ctrl-C and window size. The handler cancels a running generation; a second Ctrl-C within a second
 * leaves at once, so it must put the terminal back itself. Everything it calls is async-signal-safe. */
#define _POSIX_C_SOURCE 200809L
#define _DEFAULT_SOURCE
#include "chat.h"

#include <signal.h>
#include <string.h>
#include <sys/select.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t interrupted, resized, has_terminal;
static struct timespec last;
static struct termios saved;
static kvrt_session session;

static void on_interrupt(int number)
{
    struct timespec now;
    (void)number;
    clock_gettime(CLOCK_MONOTONIC, &now);
    double since = (double)(now.tv_sec - last.tv_sec) + (double)(now.tv_nsec - last.tv_nsec) / 1e9;
    if (last.tv_sec && since < 1.0) {
        static const char restore[] = "\033[0m\033[?2004l\n";
        ssize_t ignored = 0;
        if (has_terminal) {
            ignored = write(STDERR_FILENO, restore, sizeof restore - 1);
            tcsetattr(STDIN_FILENO, TCSANOW, &saved);
        }
        (void)ignored;
        _exit(EXIT_INTERRUPT);
    }
    last = now;
    interrupted = 1;
    if (session) kvrt_cancel(session);
}

static void on_resize(int number)
{
    (void)number;
    resized = 1;
}

void chat_signal_install(void)
{
    struct sigaction action;
    has_terminal = tcgetattr(STDIN_FILENO, &saved) == 0 && isatty(STDERR_FILENO);
    memset(&action, 0, sizeof action);
    sigemptyset(&action.sa_mask);
    action.sa_handler = on_interrupt; /* no SA_RESTART: reading a line must end */
    sigaction(SIGINT, &action, NULL);
    action.sa_handler = on_resize;
    action.sa_flags = SA_RESTART;
    sigaction(SIGWINCH, &action, NULL);
}

void chat_signal_session(kvrt_session s) { session = s; }

/* Signals arrive inside pselect or are seen before it: none falls between a check and a read that blocks. */
chat_wait chat_signal_wait(int fd)
{
    sigset_t both, before;
    sigemptyset(&both);
    sigaddset(&both, SIGINT);
    sigaddset(&both, SIGWINCH);
    sigprocmask(SIG_BLOCK, &both, &before);
    chat_wait got = CHAT_WAIT_INTERRUPT;
    if (resized) got = CHAT_WAIT_RESIZE;
    if (!interrupted && !resized) {
        fd_set set;
        FD_ZERO(&set);
        FD_SET(fd, &set);
        int n = pselect(fd + 1, &set, NULL, NULL, NULL, &before);
        if (n >= 0 || !(interrupted || resized)) got = CHAT_WAIT_READY;
        else if (!interrupted) got = CHAT_WAIT_RESIZE;
    }
    sigprocmask(SIG_SETMASK, &before, NULL);
    return got;
}

bool chat_signal_take(void)
{
    bool was = interrupted != 0;
    interrupted = 0;
    return was;
}

bool chat_signal_resized(void)
{
    bool was = resized != 0;
    resized = 0;
    return was;
}
