/* test_channels.c - messages with headers: what of them is reasoning, text, or neither (runtime/text/channels.h). */
#include "../../runtime/text/channels.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

enum { START = 1, CHANNEL, MESSAGE, END, WORD };
static const kvi_channels harmony = {true, START, CHANNEL, MESSAGE, END}, gemma = {true, -1, CHANNEL, -1, END};

/* A script: "<" start, "[" channel, "]" message, ">" end, everything else bytes of a token each; "+" joins the next character to the token. Gives
 * each byte behind a "!" where it is reasoning, a "." where it is text. */
static void run(const kvi_channels *c, const char *script, char *out)
{
    kvi_channel_state state = {0};
    bool reasoning = false;
    for (const char *at = script; *at; at++) {
        const bool mark = strchr("<[]>", *at) != NULL;
        char bytes[16];
        size_t len = 0, used = 0;
        int32_t id = WORD;
        if (*at == '<') id = START;
        if (*at == '[') id = CHANNEL;
        if (*at == ']') id = MESSAGE;
        if (*at == '>') id = END;
        if (!mark) bytes[len++] = *at;
        while (!mark && at[1] == '+') bytes[len++] = at[2], at += 2;
        const bool header = kvi_channels_take(c, &state, id, bytes, len, &used, &reasoning);
        if (!header) used = 0;
        for (size_t i = used; i < len; i++) {
            *out++ = reasoning ? '!' : '.';
            *out++ = bytes[i];
        }
    }
    *out = 0;
}

static void check(const kvi_channels *c, const char *script, const char *want)
{
    char out[200];
    run(c, script, out);
    if (strcmp(out, want) != 0) fail_msg("%s: '%s', need '%s'", script, out, want);
}

static void harmony_messages(void **state)
{
    (void)state;
    check(&harmony, "<a[analysis]bc><a[final]de", "!b!c.d.e");
    check(&harmony, "[a+n+a+l+y+s+i+s]b", "!b");             /* the name in one token, no start */
    check(&harmony, "<assistant]b", ".b");                   /* no channel at all */
    check(&harmony, "<a[commentary to=f.g json]{}", ".{.}"); /* words behind the name are none of it */
    check(&harmony, "<a[final]x[y]z", ".x.z");               /* a header may begin inside a message */
    check(&harmony, "<a[analysisx]b", ".b");                 /* another name */
    check(&harmony, "<a[ analysis]b", "!b");
    check(&harmony, "<a[an_extraordinarily_long_name]b><[analysis]c", ".b!c");
    check(&harmony, "plain ]", ".p.l.a.i.n. ");    /* before any header: text; a lone mark is nothing to see */
    check(&harmony, "<a[analysis]b>role][", "!b"); /* between messages nothing is text */
}

static void gemma_messages(void **state)
{
    (void)state;
    check(&gemma, "x[thought\nbc>de", ".x!b!c.d.e");
    check(&gemma, "[t+h+o+u+g+h+t+\n+b+c>d", "!b!c.d"); /* the header ends inside a token */
    check(&gemma, "[thought\n>d", ".d");
    check(&gemma, "[other\nb>d", ".b.d");
    check(&gemma, "a]b", ".a.b");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(harmony_messages), cmocka_unit_test(gemma_messages)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
