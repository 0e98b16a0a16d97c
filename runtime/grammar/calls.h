/* calls.h - calls of tools in the text of a model, told while it is written: name, arguments as JSON text piece by piece, end.
 *   Hermes, Qwen      <tool_call>{"name": "f", "arguments": {...}}</tool_call>
 *   Qwen3-Coder       <tool_call><function=f><parameter=k>value</parameter></function></tool_call>
 *   GLM               <tool_call>f<arg_key>k</arg_key><arg_value>value</arg_value></tool_call>
 *   Llama 3.x         {"name": "f", "parameters": {...}} as the whole text, or behind <|python_tag|>
 *   Mistral           [TOOL_CALLS][{"name": "f", "arguments": {...}}, ...] and [TOOL_CALLS]f[ARGS]{...}
 *   Gemma 4           <|tool_call>call:f{k:<|"|>value<|"|>,n:1}<tool_call|>
 *   gpt-oss           a message to functions.f: its header tells (channels.h), its body is the arguments
 * Owns: text that may belong to a call and is not decided yet. Refuses nothing: what turns out to be no call is text.
 * The one thing to know: however the text is cut into pieces, what is told is the same when the pieces of one kind are joined. */
#ifndef KVI_CALLS_H
#define KVI_CALLS_H
#include "json_tree.h"

typedef enum kvi_call_format {
    KVI_CALLS_NONE,
    KVI_CALLS_TAG, /* <tool_call>: the first three */
    KVI_CALLS_LLAMA,
    KVI_CALLS_MISTRAL,
    KVI_CALLS_GEMMA,
    KVI_CALLS_HARMONY
} kvi_call_format;

typedef enum kvi_call_news { KVI_CALL_TEXT, KVI_CALL_BEGINS, KVI_CALL_ARGUMENTS, KVI_CALL_ENDS } kvi_call_news;
/* `call` counts from 0. ENDS has the text "" when the call is complete, "cut" when the text ended within it. */
typedef void (*kvi_call_fn)(void *user, kvi_call_news news, const char *text, size_t len, uint32_t call);

typedef struct kvi_calls {
    kvi_call_format format;
    kvi_call_fn fn;
    void *user;
    const kvi_json_value *tools; /* an array: values without quotes are strings where a tool says so; NULL: none */
    enum { KVI_CALLS_OUTSIDE, KVI_CALLS_INSIDE, KVI_CALLS_BETWEEN, KVI_CALLS_CLOSING } at;
    kvi_buf held;      /* text that is not told yet; inside: the call since its mark */
    kvi_buf arguments; /* of the call, as JSON, as far as they are known */
    kvi_buf name;
    size_t told; /* of the arguments */
    uint32_t n;  /* calls so far */
    bool begun, any_text, list;
    bool told_name;
} kvi_calls;

void kvi_calls_free(kvi_calls *calls); /* zeroes are fine */
/* Forgets what is held; a new text begins. */
void kvi_calls_reset(kvi_calls *calls);
/* More text. False when memory is out. */
bool kvi_calls_push(kvi_calls *calls, const char *text, size_t len);
/* The text ends. */
bool kvi_calls_finish(kvi_calls *calls);
/* Of gpt-oss: a message to this tool begins, and ends. */
bool kvi_calls_open(kvi_calls *calls, const char *name, size_t len);
bool kvi_calls_close(kvi_calls *calls);
/* The schema of the arguments of a tool in a list as OpenAI has it, or without its envelope; NULL: none. */
const kvi_json_value *kvi_tool_parameters(const kvi_json_value *tools, const char *name, size_t len);

#endif
