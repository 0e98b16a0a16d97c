/* chat_signal.c - Ctrl-C, window size, and the terminal's modes, which a signal must be able to put back. The handler cancels a running
 * generation; a second Ctrl-C within a second leaves at once, so it must put the terminal back itself. Everything it calls is
 * async-signal-safe. A pipe wakes the reader of the terminal, whichever thread the signal was delivered to. */
#define _POSIX_C_SOURCE 200809L
#define _DEFAULT_SOURCE
#include "chat.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t interrupted, resized, has_terminal;
static int wake[2] = {-1, -1};
static struct timespec last;
static struct termios saved;
static bool is_held;
static kvrt_session session;

static void wake_reader(void)
{
    const int before = errno;
    ssize_t ignored = write(wake[1], "", 1);
    (void)ignored; /* full: the reader will wake anyway */
    errno = before;
}

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
    wake_reader();
}

/* Ended from outside: the terminal must not stay without echo. */
static void on_end(int number)
{
    if (has_terminal) tcsetattr(STDIN_FILENO, TCSANOW, &saved);
    signal(number, SIG_DFL);
    raise(number);
}

static void at_exit(void) { chat_signal_hold(false); }

void chat_signal_hold(bool hold)
{
    struct termios held = saved;
    if (!has_terminal || hold == is_held) return;
    is_held = hold;
    held.c_lflag &= ~(tcflag_t)(ECHO | ICANON); /* Ctrl-C and Ctrl-Z still are signals */
    tcsetattr(STDIN_FILENO, TCSANOW, hold ? &held : &saved);
}

static void on_resize(int number)
{
    (void)number;
    resized = 1;
    wake_reader();
}

void chat_signal_install(void)
{
    struct sigaction action;
    if (pipe(wake) == 0)
        for (int i = 0; i < 2; i++) {
            (void)fcntl(wake[i], F_SETFD, FD_CLOEXEC);
            (void)fcntl(wake[i], F_SETFL, O_NONBLOCK);
        }
    has_terminal = tcgetattr(STDIN_FILENO, &saved) == 0 && isatty(STDERR_FILENO);
    memset(&action, 0, sizeof action);
    sigemptyset(&action.sa_mask);
    action.sa_handler = on_interrupt; /* no SA_RESTART: reading a line must end */
    sigaction(SIGINT, &action, NULL);
    action.sa_handler = on_end;
    for (size_t i = 0; i < 2; i++) {
        static const int ends[] = {SIGTERM, SIGHUP};
        struct sigaction before;
        if (sigaction(ends[i], NULL, &before) == 0 && before.sa_handler != SIG_IGN)
            sigaction(ends[i], &action, NULL); /* nohup */
    }
    if (has_terminal) atexit(at_exit);
    action.sa_handler = on_resize;
    action.sa_flags = SA_RESTART;
    sigaction(SIGWINCH, &action, NULL);
}

void chat_signal_session(kvrt_session s) { session = s; }

chat_wait chat_signal_wait(int fd)
{
    for (;;) {
        struct pollfd watched[2] = {{.fd = fd, .events = POLLIN}, {.fd = wake[0], .events = POLLIN}};
        if (!interrupted && !resized && poll(watched, 2, -1) < 0 && errno != EINTR) return CHAT_WAIT_READY;
        char drained[16];
        while (read(wake[0], drained, sizeof drained) > 0) continue;
        if (interrupted) return CHAT_WAIT_INTERRUPT;
        if (resized) return CHAT_WAIT_RESIZE;
        if (watched[0].revents) return CHAT_WAIT_READY;
    }
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
