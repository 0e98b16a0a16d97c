/* grammar_accepts.h - whether a grammar takes a whole text. Behind cmocka.h. */
#ifndef TEST_GRAMMAR_ACCEPTS_H
#define TEST_GRAMMAR_ACCEPTS_H
#include "runtime/grammar/matcher.h"

static bool accepts(kvi_grammar *g, const char *text, size_t len)
{
    kvi_matcher m;
    bool fits;
    assert_int_equal(kvi_matcher_init(&m, g, NULL), KVRT_OK);
    assert_int_equal(kvi_matcher_take(&m, text, len, &fits, NULL), KVRT_OK);
    const bool yes = fits && kvi_matcher_accepts(&m);
    kvi_matcher_free(&m);
    return yes;
}

#endif
