/* run.c - `kvrt run`: the scripting face. stdout carries model text only (or one JSON object, or a JSON event per
 * line); all else goes to stderr. Piped text goes before -p. */
#define _POSIX_C_SOURCE 200809L
#include "chat.h"

#include <stdlib.h>
#include <string.h>

enum {
    X_PROMPT,
    X_FILE,
    X_JSON,
    X_NDJSON,
    X_STATS,
    X_QUIET,
    X_NO_SPECIAL,
    X_MESSAGES,
    X_SYSTEM,
    X_RENDER,
    X_SCHEMA,
    X_GRAMMAR,
    X_REGEX,
    X_TOOLS,
    X_COUNT
};
static const argparse_option extra[X_COUNT] = {
    {"prompt", 'p', 1, 0, "TEXT", "the prompt; piped text goes before it"},
    {"file", 'f', 1, 0, "FILE", "read the prompt from a file (- is stdin)"},
    {"json", 0, 0, 0, NULL, "print one JSON object instead of text"},
    {"ndjson", 0, 0, 0, NULL, "print one JSON event per line"},
    {"stats", 0, 0, 0, NULL, "print speed and cache size to stderr (default on a terminal)"},
    {"quiet", 'q', 0, 0, NULL, "no stats"},
    {"raw", 0, 0, 0, NULL, "do not add the tokenizer's special tokens (BOS)"},
    {"messages", 'm', 1, 0, "FILE", "answer a JSON array of messages through the chat template (- is stdin)"},
    {"system", 's', 1, 0, "TEXT", "a system message; the prompt becomes a user message"},
    {"render", 0, 0, 0, NULL, "print what the chat template makes of the messages, and nothing else"},
    COMMAND_GRAMMAR_FLAGS,
};
const command run_command = {"run",
                             "run MODEL [TEXT | -p TEXT | -f FILE | < text] [options]",
                             "Continues a prompt and streams the text to stdout.",
                             extra,
                             X_COUNT,
                             OPTIONS_OF_A_MODEL " gen. sample. draft."};

typedef struct run_state {
    command_line line;
    kvrt_engine engine;
    kvrt_session session;
    char *prompt;
    size_t prompt_len;
    bool json, ndjson, closed;
    command_progress progress;
    char *text; /* collected for --json */
    size_t text_len, text_cap;
    int32_t *ids; /* generated, for --json: a full context may drop some from the session */
    size_t n_ids, cap_ids;
    chat_text calls;     /* of tools, for --json */
    size_t arguments_at; /* of the one that is open; 0: none is */
} run_state;

/* ----------------------------------------------------------------------------------------------------- prompt --- */
static int usage_error(const char *message)
{
    fprintf(stderr, "kvrt run: %s (see kvrt run --help)\n", message);
    return EXIT_USAGE;
}

static bool append_prompt(run_state *r, const char *text, size_t len)
{
    char *grown = realloc(r->prompt, r->prompt_len + len + 1);
    if (!grown) return false;
    memcpy(grown + r->prompt_len, text, len);
    r->prompt = grown;
    r->prompt_len += len;
    grown[r->prompt_len] = 0;
    return true;
}

static int read_prompt(run_state *r)
{
    const char *file = r->line.extra[X_FILE], *prompt = command_prompt(&r->line, r->line.extra[X_PROMPT]);
    const char *messages = r->line.extra[X_MESSAGES];
    if (r->json && r->ndjson) return usage_error("--json and --ndjson are two forms of output, need one");
    if (r->line.extra[X_RENDER] && !messages && !r->line.extra[X_SYSTEM])
        return usage_error("--render needs --messages or --system: other prompts go to the model as they are");
    if (messages && (file || prompt))
        return usage_error("--messages holds the whole prompt, found another one as well");
    if (messages) file = messages;
    /* With -p a pipe is optional: an inherited stdin that is empty or closed must not fail. */
    const bool piped = !file && !command_is_terminal(stdin) && !command_is_closed(stdin);
    if (file || piped) {
        size_t len = 0;
        char *text = command_read_file(file ? file : "-", &len);
        if (!text && (file || !prompt)) return EXIT_RUN;
        bool ok = !text || append_prompt(r, text, len);
        free(text);
        if (!ok) return EXIT_RUN;
    }
    if (prompt && !append_prompt(r, prompt, strlen(prompt))) return EXIT_RUN;
    if (!file && !piped && !prompt) return usage_error("no prompt, need -p TEXT, -f FILE or text on stdin");
    return append_prompt(r, "", 0) ? EXIT_OK : EXIT_RUN;
}

/* Messages, and a prompt under --system, go through the chat template. */
static int start_chat(run_state *r)
{
    kvrt_error error = command_error();
    chat_conversation c = {.thinking = true, .tools = command_tools(&r->line)};
    chat_text json = {0}, text = {0};
    const char *system = r->line.extra[X_SYSTEM], *rest = r->prompt;
    if (system) chat_add_message(&c, "system", system, strlen(system));
    if (!r->line.extra[X_MESSAGES]) {
        const bool piped = !command_prompt(&r->line, r->line.extra[X_PROMPT]);
        const size_t len = piped ? command_message_length(r->prompt, r->prompt_len) : r->prompt_len;
        chat_add_message(&c, "user", r->prompt, len);
    }
    chat_to_json(&c, &json);
    if (r->line.extra[X_MESSAGES]) {
        while (*rest == ' ' || *rest == '\n' || *rest == '\r' || *rest == '\t') rest++;
        if (system && *rest == '[') { /* "[{system}]" and "[...]" become one array */
            json.data[json.len = strlen(json.data) - 2] = 0;
            for (rest++; *rest == ' ' || *rest == '\n' || *rest == '\r' || *rest == '\t'; rest++) {
            }
            chat_append_str(&json, *rest == ']' ? "" : ",");
        } else chat_clear(&json);
        chat_append_str(&json, rest);
    }
    int32_t status = chat_render(&c, r->engine, json.data, 0, &text, &error);
    int code = status == KVRT_UNSUPPORTED ? EXIT_TEMPLATE : 0;
    const bool render = r->line.extra[X_RENDER] != NULL;
    if (status >= 0 && render && !chat_print_rendering(&text)) code = EXIT_RUN;
    if (status >= 0 && !render) status = kvrt_session_create(r->engine, r->line.options, &r->session, &error);
    if (status >= 0 && !render) status = kvrt_session_sync(r->session, c.ids, c.n_ids, NULL, &error);
    chat_free(&json);
    chat_free(&text);
    chat_conversation_free(&c);
    int failed = status < 0 ? command_fail(status, &error) : EXIT_OK;
    return code ? code : failed;
}

static int start_session(run_state *r)
{
    if (r->line.extra[X_MESSAGES] || r->line.extra[X_SYSTEM]) return start_chat(r);
    kvrt_error error = command_error();
    uint32_t flags = r->line.extra[X_NO_SPECIAL] ? 0 : KVRT_TOKENIZE_ADD_SPECIAL;
    uint64_t n = 0, cap = r->prompt_len + 16;
    int32_t *ids = malloc(cap * sizeof *ids);
    if (!ids) return EXIT_RUN;
    int32_t status = kvrt_tokenize(r->engine, r->prompt, (int64_t)r->prompt_len, flags, ids, cap, &n, &error);
    if (status == KVRT_PARTIAL) {
        int32_t *grown = realloc(ids, (cap = n) * sizeof *ids);
        if (grown) ids = grown;
        status = grown ? kvrt_tokenize(r->engine, r->prompt, (int64_t)r->prompt_len, flags, ids, cap, &n, &error)
                       : KVRT_NOMEM_HOST;
    }
    if (status >= 0 && n == 0) {
        free(ids);
        return usage_error(
            "the prompt has 0 tokens, need at least 1: TEXT behind the model, -p TEXT, -f FILE, or text on stdin");
    }
    if (status >= 0) status = kvrt_session_create(r->engine, r->line.options, &r->session, &error);
    if (status >= 0) status = kvrt_session_sync(r->session, ids, n, NULL, &error);
    free(ids);
    return status < 0 ? command_fail(status, &error) : EXIT_OK;
}

/* ----------------------------------------------------------------------------------------------------- events --- */
static bool collect(run_state *r, const char *text, size_t len)
{
    if (r->text_len + len + 1 > r->text_cap) {
        size_t cap = (r->text_len + len + 1) * 2;
        char *grown = realloc(r->text, cap);
        if (!grown) return false;
        r->text = grown;
        r->text_cap = cap;
    }
    memcpy(r->text + r->text_len, text, len);
    r->text_len += len;
    return true;
}

static void print_event(const kvrt_event *event)
{
    static const char *const names[] = {
        "",     "load",  "prefill",    "text",        "reasoning", "token",          "warning",
        "done", "error", "kv_demoted", "ctx_shifted", "tool_call", "tool_arguments", "tool_end"};
    if (event->type < 1 || event->type > 13) return;
    printf("{\"event\":\"%s\"", names[event->type]);
    if (event->text_len) {
        printf(",\"text\":");
        command_json_string(stdout, event->text, event->text_len);
    }
    if (event->type == KVRT_EVENT_PREFILL_PROGRESS)
        printf(",\"done\":%llu,\"total\":%llu", (unsigned long long)event->done, (unsigned long long)event->total);
    if (event->type == KVRT_EVENT_KV_DEMOTED)
        printf(",\"pages\":%llu,\"freed_bytes\":%llu", (unsigned long long)event->done,
               (unsigned long long)event->total);
    if (event->type == KVRT_EVENT_CTX_SHIFTED)
        printf(",\"dropped\":%llu,\"total\":%llu", (unsigned long long)event->done, (unsigned long long)event->total);
    if (event->type == KVRT_EVENT_TOKEN) printf(",\"id\":%d,\"logprob\":%.6g", event->token, (double)event->logprob);
    printf("}\n");
}

static bool collect_id(run_state *r, int32_t id)
{
    if (r->n_ids == r->cap_ids) {
        const size_t cap = r->cap_ids * 2 + 64;
        int32_t *grown = realloc(r->ids, cap * sizeof *grown);
        if (!grown) return false;
        r->ids = grown;
        r->cap_ids = cap;
    }
    r->ids[r->n_ids++] = id;
    return true;
}

/* The arguments of a call that was cut are no JSON and become a string. */
static void cut_call(run_state *r)
{
    chat_text *calls = &r->calls, begun = {0};
    chat_append(&begun, calls->data + r->arguments_at, calls->len - r->arguments_at);
    calls->len = r->arguments_at;
    chat_append_json(calls, begun.data ? begun.data : "", begun.len);
    chat_append_str(calls, ", \"cut\": true}");
    chat_free(&begun);
    r->arguments_at = 0;
}

/* A list. */
static void collect_call(run_state *r, const kvrt_event *event, const char *text)
{
    const bool begins = event->type == KVRT_EVENT_TOOL_CALL, ends = event->type == KVRT_EVENT_TOOL_END;
    chat_append_str(&r->calls, begins && r->calls.len ? "," : "");
    if (ends && event->text_len) cut_call(r);
    else chat_append_str(&r->calls, ends ? "}" : text);
    if (begins) r->arguments_at = r->calls.len;
    if (ends) r->arguments_at = 0;
}

static int32_t on_event(const kvrt_event *event, void *user)
{
    run_state *r = user;
    if (event->type == KVRT_EVENT_PREFILL_PROGRESS)
        command_progress_show(&r->progress, "prompt", event->done, event->total, 1, "tokens");
    else command_progress_clear(&r->progress);
    kvrt_event last = *event;
    if (event->type ==
        KVRT_EVENT_DONE) { /* the end itself is said with the figures; what waited for more text is text now */
        if (!event->text_len) return KVRT_CONTINUE;
        last.type = KVRT_EVENT_TEXT;
        event = &last;
    }
    if (command_is_call(event) && !r->ndjson) {
        char part[256];
        command_call_text(event, part, sizeof part);
        const char *text = event->type == KVRT_EVENT_TOOL_ARGUMENTS ? event->text : part;
        if (r->json) collect_call(r, event, text);
        else if (!command_write(text, strlen(text))) r->closed = true;
    } else if (r->ndjson) {
        print_event(event);
        if (!command_write("", 0)) r->closed = true;
    } else if (event->type == KVRT_EVENT_TEXT && !r->json && !command_write(event->text, event->text_len))
        r->closed = true;
    if (event->type == KVRT_EVENT_TOKEN && r->json && !collect_id(r, event->token)) r->closed = true;
    if (event->type == KVRT_EVENT_TEXT && r->json && !collect(r, event->text, event->text_len)) r->closed = true;
    return r->closed ? KVRT_STOP : KVRT_CONTINUE;
}

/* ----------------------------------------------------------------------------------------------------- result --- */
static double rate(double n, uint64_t us) { return us ? n * 1e6 / (double)us : 0; }

static void print_figures(const kvrt_result *result)
{
    printf("\"finish_reason\":\"%s\",\"n_prompt\":%u,\"n_generated\":%u,\"prefill_tps\":%.2f,\"decode_tps\":%.2f,\"kv_"
           "bytes\":%llu,\"seed\":%llu,\"n_drafted\":%u,\"n_accepted\":%u}\n",
           command_finish_name(result->finish), result->n_prompt, result->n_generated,
           rate(result->n_prompt - result->n_reused, result->prefill_us),
           rate(result->n_generated > 1 ? result->n_generated - 1.0 : 0, result->decode_us),
           (unsigned long long)result->kv_bytes, (unsigned long long)result->seed, result->n_drafted,
           result->n_accepted);
}

static void print_json(run_state *r, const kvrt_result *result)
{
    printf("{\"text\":");
    command_json_string(stdout, r->text ? r->text : "", r->text_len);
    printf(",\"ids\":[");
    for (size_t i = 0; i < r->n_ids; i++) printf("%s%d", i ? "," : "", r->ids[i]);
    printf("],");
    if (r->arguments_at) cut_call(r);
    if (r->calls.len) printf("\"tool_calls\":[%s],", r->calls.data);
    print_figures(result);
}

static void print_stats(const kvrt_result *result, kvrt_session session)
{
    kvrt_session_info info = {.size = sizeof info};
    bool colour = command_wants_colour(stderr);
    (void)kvrt_session_get_info(session, &info, NULL);
    command_break_line();
    fprintf(
        stderr,
        "%sprompt %u tokens, %.1f tok/s | first token %.0f ms | generated %u, %.1f tok/s%s | context %u/%u | KV %.2f "
        "MiB | seed %llu%s\n",
        colour ? "\033[2m" : "", result->n_prompt, rate(result->n_prompt - result->n_reused, result->prefill_us),
        (double)result->first_token_us / 1e3, result->n_generated,
        rate(result->n_generated > 1 ? result->n_generated - 1.0 : 0, result->decode_us),
        command_guesses(result, (char[64]){""}), info.n_tokens, info.ctx_size, (double)result->kv_bytes / 1048576.0,
        (unsigned long long)result->seed, colour ? "\033[0m" : "");
}

/* Figures where a person looks on, and what cut the answer short, which JSON tells in its own way. */
static void report(const run_state *r, const kvrt_result *result)
{
    const bool watched = command_is_terminal(stderr) && command_is_terminal(stdout);
    if (r->line.extra[X_QUIET]) return;
    if (r->line.extra[X_STATS] || watched) print_stats(result, r->session);
    if (r->json || r->ndjson) return;
    command_say_early_end(result, "-n -1", "--ctx sets its size");
    /* An assistant that is shown a bare question ends the text, because nobody asked it: silence would look like a fault. */
    const bool message = r->line.extra[X_MESSAGES] || r->line.extra[X_SYSTEM];
    if (!message && result->finish == KVRT_FINISH_EOS && result->n_generated <= 1)
        fprintf(stderr,
                "kvrt: the model ended the text at once; a prompt is continued as it is, -s '' makes it a message\n");
}

static int generate(run_state *r)
{
    kvrt_error error = command_error();
    kvrt_result result = {.size = sizeof result};
    if (r->json) (void)kvrt_options_set_bool(r->line.options, "gen.token_events", 1, NULL);
    command_catch_interrupt(r->session);
    int32_t status = kvrt_generate(r->session, r->line.options, on_event, r, &result, &error);
    command_catch_interrupt(NULL);
    command_progress_clear(&r->progress);
    if (status < 0 && status != KVRT_CANCELLED) return command_fail(status, &error);
    if (r->json) print_json(r, &result);
    else if (r->ndjson) {
        printf("{\"event\":\"done\",");
        print_figures(&result);
    } else if (command_is_terminal(stdout)) putchar('\n');
    if (!command_write("", 0) || r->closed) return EXIT_RUN; /* main says what happened to stdout */
    report(r, &result);
    if (result.finish == KVRT_FINISH_CANCELLED) {
        fprintf(stderr, "kvrt run: interrupted\n");
        return EXIT_INTERRUPT;
    }
    return result.finish == KVRT_FINISH_CTX_FULL ? EXIT_CONTEXT : EXIT_OK;
}

int run_main(int argc, char **argv)
{
    run_state r = {0};
    int code = command_parse(&run_command, argc, argv, true, &r.line);
    if (code < 0) code = command_check_prompt(&run_command, &r.line, r.line.extra[X_PROMPT]);
    if (code < 0) {
        r.json = r.line.extra[X_JSON] != NULL;
        r.ndjson = r.line.extra[X_NDJSON] != NULL;
        const bool render = r.line.extra[X_RENDER] != NULL;
        code = command_set_grammar(&r.line, r.line.extra + X_SCHEMA);
        if (code == EXIT_OK) code = read_prompt(&r);
        if (render) (void)kvrt_options_set_text(r.line.options, "model.load", "tokenizer", NULL);
        if (code == EXIT_OK) code = command_open(r.line.options, &r.engine);
        if (code == EXIT_OK) code = start_session(&r);
        if (code == EXIT_OK && !render) code = generate(&r);
        if (r.engine) (void)kvrt_engine_close(r.engine, NULL);
    }
    free(r.prompt);
    free(r.text);
    free(r.ids);
    chat_free(&r.calls);
    command_free(&r.line);
    return code;
}
