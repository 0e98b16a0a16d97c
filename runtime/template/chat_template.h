/* chat_template.h - a model's chat template: structured messages in, text with provenance out. Owns: finding the
 * template of a model folder, the checks of the messages, the limits of a rendering, the segments. Refuses: parts that
 * are not text (images, audio: UNSUPPORTED) unless the
 * template writes a placeholder for their type, messages without a role, whatever the template language of interpret.h
 * does not have. Nothing is ever rendered by guess. To know: a parsed template is const; any number of threads may
 * render it at once. Rendered bytes are tagged: only those the template itself wrote (and the names of roles, when
 * they are plain words) may become special tokens. A message with "allow_special": true opts in for all of its own
 * text. */
#ifndef KVI_CHAT_TEMPLATE_H
#define KVI_CHAT_TEMPLATE_H
#include "../tokenizer/tokenizer.h"

typedef struct kvi_chat_template kvi_chat_template;

/* `name` appears in messages. The text need not stay. Errors: TEMPLATE with line and column, NOMEM_HOST. */
kvrt_status kvi_chat_template_parse(const char *source, size_t len, const char *name, kvi_chat_template **out,
                                    kvrt_error *error);
/* The template of a folder, as transformers chooses it (chat_template_load.c says where it looks). `which`: a name; NULL
 * for "default", and "tool_use" whenever a chat has tools and the folder has one. Every special token the folder names is
 * a variable (bos_token, pad_token, image_token). A folder without template gives UNSUPPORTED. */
kvrt_status kvi_chat_template_load(const char *dir, const char *which, kvi_chat_template **out, kvrt_error *error);
/* The same from texts. tool_use NULL: none. The tokens become variables. */
typedef struct kvi_chat_token_text {
    const char *name, *text; /* "bos_token"; text (len) */
    size_t len;
} kvi_chat_token_text;
typedef struct kvi_chat_source {
    const char *text, *tool_use;
    size_t len, tool_use_len;
    const kvi_chat_token_text *tokens;
    size_t n_tokens;
} kvi_chat_source;
kvrt_status kvi_chat_template_from(const kvi_chat_source *source, kvi_chat_template **out, kvrt_error *error);
void kvi_chat_template_free(kvi_chat_template *t); /* NULL is fine */
/* Whether the source of the template has this text anywhere. */
bool kvi_chat_template_mentions(const kvi_chat_template *t, const char *text);

typedef struct kvi_chat_input {
    const char *messages; /* JSON: [{"role": "user", "content": "..." or [{"type": "text", "text": "..."}], ...}] */
    size_t messages_len;
    const char *tools; /* JSON array, NULL: none */
    size_t tools_len;
    const char *extra; /* JSON object of further variables (enable_thinking, documents), NULL: none */
    size_t extra_len;
    bool add_generation_prompt;
    bool absent_is_undefined; /* leave tools and documents undefined when not given; the reference sets them to none */
    int64_t now;              /* local wall time, seconds since 1970, for strftime_now */
    uint64_t max_steps;       /* 0: default, which grows with the input */
    uint64_t max_bytes;       /* 0: default, which grows with the input */
} kvi_chat_input;

typedef struct kvi_chat_text {
    kvi_buf text;
    kvi_segment *segments; // (n_segments) pointing into text; parse_special = written by the template
    size_t n_segments, cap_segments;
} kvi_chat_text;

/* *out starts from {0} and is freed by kvi_chat_text_free, also after an error. Errors: TEMPLATE (the template's own
 * raise_exception, limits, type errors: with line and column), ARG (malformed JSON or messages), UNSUPPORTED (parts
 * that are not text), NOMEM_HOST. */
kvrt_status kvi_chat_template_render(const kvi_chat_template *t, const kvi_chat_input *input, kvi_chat_text *out,
                                     kvrt_error *error);
void kvi_chat_text_free(kvi_chat_text *text);
/* Appends the ids of a rendering. No BOS is added: the template writes its own. */
kvrt_status kvi_chat_text_encode(const kvi_chat_text *text, const kvi_tokenizer *tok, kvi_ids *out, kvrt_error *error);

#endif
