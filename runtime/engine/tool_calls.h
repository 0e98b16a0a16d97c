/* tool_calls.h - what a generation tells of calls of tools: the format of its model, the tools of the request, events.
 * Owns: the format of an engine; a session's text that may belong to a call. The formats themselves are grammar/calls.h. */
#ifndef KVI_TOOL_CALLS_H
#define KVI_TOOL_CALLS_H
#include "../grammar/call_grammar.h"

struct kvi_engine;
struct kvi_session;

/* Of a session's request. */
typedef struct kvi_tool_calls {
    bool on; /* gen.tools is given */
    kvi_calls calls;
    kvi_arena arena; /* of calls.tools */
    kvi_buf out;     /* text of an event, which ends in NUL */
} kvi_tool_calls;

/* How the engine's model writes calls, by its tokens and its chat template. */
kvi_call_format kvi_tool_calls_format(const struct kvi_engine *engine);
/* How the grammar of calls writes them. */
kvi_call_style kvi_tool_calls_style(const struct kvi_engine *engine);

/* The tools of the options; nothing of the session is changed. Errors: ARG (no JSON array of tools with names), NOMEM_HOST. */
kvrt_status kvi_tool_calls_read(const kvrt_options *options, kvi_arena *arena, const kvi_json_value **tools,
                                kvrt_error *error);
/* The request begins with these tools (NULL: none), whose arena is taken; with `goes_on` what was held waits for more. */
void kvi_tool_calls_begin(struct kvi_session *session, kvi_arena *arena, const kvi_json_value *tools, bool goes_on);
void kvi_tool_calls_free(kvi_tool_calls *tools);

/* A token without text that is a mark of calls: its spelling. */
void kvi_tool_calls_mark(const struct kvi_session *session, int32_t id, const char **bytes, size_t *len);
/* A message's header has ended (gpt-oss): who it is to; or a message has. */
bool kvi_tool_calls_header(struct kvi_session *session);

#endif
