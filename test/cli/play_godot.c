/* play_godot.c - Godot's side of the interface, as far as kvrt_godot.c uses it: play_godot EXTENSION MODEL. Strings, names and variants that count what is
 * alive, a class database that keeps what is registered, signals that are printed. Calls the class as a script does, and checks what it answers. */
#include <gdextension_interface.h>

#include <dlfcn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                                               \
    do                                                                                                                 \
        if (!(condition)) fprintf(stderr, "play_godot: line %d: %s\n", __LINE__, #condition), exit(1);                 \
    while (0)

/* ------------------------------------------------------------------------------------------------------- values --- */
/* A String is a pointer to its text, a StringName too; NULL: empty. A Variant is a type and one of them, or a number. */
typedef struct variant {
    GDExtensionVariantType type;
    union {
        char *text;
        int64_t number;
        uint8_t is;
    } of;
} variant;
_Static_assert(sizeof(variant) <= 24, "a Variant of Godot has 24 bytes");
static int64_t n_alive; /* texts */

static char *copy(const char *text, size_t len)
{
    if (len == 0) return NULL;
    char *out = malloc(len + 1);
    CHECK(out);
    memcpy(out, text, len);
    out[len] = 0;
    n_alive++;
    return out;
}
static const char *text_in(const void *value)
{
    const char *text = *(char *const *)value;
    return text ? text : "";
}
static void string_new(void *out, const char *text, GDExtensionInt len) { *(char **)out = copy(text, (size_t)len); }
static GDExtensionInt string_to_utf8(const void *string, char *out, GDExtensionInt most)
{
    const size_t len = strlen(text_in(string)), n = out && (size_t)most < len ? (size_t)most : len;
    if (out) memcpy(out, text_in(string), n);
    return (GDExtensionInt)n;
}
static void text_copy(void *out, const GDExtensionConstTypePtr *from)
{
    *(char **)out = copy(text_in(from[0]), strlen(text_in(from[0])));
}
static void text_destroy(void *value)
{
    n_alive -= *(char **)value != NULL;
    free(*(char **)value);
    *(char **)value = NULL;
}
static bool is_text(const variant *v)
{
    return v->type == GDEXTENSION_VARIANT_TYPE_STRING || v->type == GDEXTENSION_VARIANT_TYPE_STRING_NAME;
}
static void variant_destroy(void *value)
{
    if (is_text(value)) text_destroy(&((variant *)value)->of.text);
    memset(value, 0, sizeof(variant));
}
static GDExtensionVariantType variant_get_type(const void *value) { return ((const variant *)value)->type; }
static void of_bool(void *out, void *from)
{
    *(variant *)out = (variant){GDEXTENSION_VARIANT_TYPE_BOOL, {.is = *(uint8_t *)from}};
}
static void of_string(void *out, void *from)
{
    *(variant *)out = (variant){GDEXTENSION_VARIANT_TYPE_STRING, {.text = copy(text_in(from), strlen(text_in(from)))}};
}
static void of_name(void *out, void *from)
{
    of_string(out, from);
    ((variant *)out)->type = GDEXTENSION_VARIANT_TYPE_STRING_NAME;
}
static void to_int(void *out, void *from)
{
    CHECK(variant_get_type(from) == GDEXTENSION_VARIANT_TYPE_INT);
    *(int64_t *)out = ((variant *)from)->of.number;
}
static void to_string(void *out, void *from)
{
    CHECK(variant_get_type(from) == GDEXTENSION_VARIANT_TYPE_STRING);
    *(char **)out = copy(text_in(&((variant *)from)->of.text), strlen(text_in(&((variant *)from)->of.text)));
}
static GDExtensionPtrConstructor get_constructor(GDExtensionVariantType type, int32_t which)
{
    return type == GDEXTENSION_VARIANT_TYPE_STRING_NAME && which == 2 ? text_copy : NULL;
}
static GDExtensionPtrDestructor get_destructor(GDExtensionVariantType type)
{
    (void)type;
    return text_destroy;
}
static GDExtensionVariantFromTypeConstructorFunc get_from(GDExtensionVariantType type)
{
    return type == GDEXTENSION_VARIANT_TYPE_BOOL     ? of_bool
           : type == GDEXTENSION_VARIANT_TYPE_STRING ? of_string
                                                     : of_name;
}
static GDExtensionTypeFromVariantConstructorFunc get_to(GDExtensionVariantType type)
{
    return type == GDEXTENSION_VARIANT_TYPE_INT ? to_int : to_string;
}

/* --------------------------------------------------------------------------------------------------- class database --- */
enum { MOST = 16 };
static struct {
    bool is_there;
    GDExtensionClassCreationInfo functions;
    struct method {
        char name[32];
        void *userdata;
        GDExtensionClassMethodCall call;
        GDExtensionClassMethodPtrCall ptrcall;
        GDExtensionVariantType result, args[4];
        uint32_t n_args;
    } methods[MOST];
    uint32_t n_methods, n_signals;
    char signals[MOST][32];
} registered;
static struct object {
    void *instance; /* of the extension */
} object;
static char said[1 << 16], reason[1000];
static uint32_t n_done;

static void register_class(void *library, const void *name, const void *parent,
                           const GDExtensionClassCreationInfo *info)
{
    CHECK(library == &registered && strcmp(text_in(name), "Kvrt") == 0 && strcmp(text_in(parent), "RefCounted") == 0);
    CHECK(info->create_instance_func && info->free_instance_func);
    registered.is_there = true;
    registered.functions = *info;
}
static void unregister_class(void *library, const void *name)
{
    CHECK(library == &registered && strcmp(text_in(name), "Kvrt") == 0 && registered.is_there);
    registered.is_there = false;
}
static void register_method(void *library, const void *class_name, const GDExtensionClassMethodInfo *info)
{
    CHECK(library == &registered && registered.is_there && strcmp(text_in(class_name), "Kvrt") == 0 &&
          registered.n_methods < MOST);
    struct method *m = &registered.methods[registered.n_methods++];
    snprintf(m->name, sizeof m->name, "%s", text_in(info->name));
    m->userdata = info->method_userdata, m->call = info->call_func, m->ptrcall = info->ptrcall_func;
    m->n_args = info->argument_count;
    CHECK(info->has_return_value && m->call && m->ptrcall && m->n_args <= 4);
    m->result = info->return_value_info->type;
    for (uint32_t i = 0; i < m->n_args; i++) {
        m->args[i] = info->arguments_info[i].type;
        CHECK(*text_in(info->arguments_info[i].name) &&
              info->arguments_metadata[i] == GDEXTENSION_METHOD_ARGUMENT_METADATA_NONE);
    }
}
static void register_signal(void *library, const void *class_name, const void *name,
                            const GDExtensionPropertyInfo *args, GDExtensionInt count)
{
    CHECK(library == &registered && strcmp(text_in(class_name), "Kvrt") == 0 && count == 1 &&
          registered.n_signals < MOST);
    CHECK(args[0].type == GDEXTENSION_VARIANT_TYPE_STRING);
    snprintf(registered.signals[registered.n_signals++], 32, "%s", text_in(name));
}
static void *construct_object(const void *name)
{
    CHECK(strcmp(text_in(name), "RefCounted") == 0);
    return &object;
}
static void set_instance(void *o, const void *name, void *instance)
{
    CHECK(o == &object && strcmp(text_in(name), "Kvrt") == 0);
    object.instance = instance;
}
static const void *get_method_bind(const void *class_name, const void *method, GDExtensionInt hash)
{
    const bool known = strcmp(text_in(class_name), "Object") == 0 && strcmp(text_in(method), "emit_signal") == 0;
    return known && hash == 4047867050 ? &said : NULL;
}
/* Object.emit_signal(signal: StringName, ...) */
static void call_method(const void *bind, void *o, const GDExtensionConstVariantPtr *args, GDExtensionInt count,
                        void *out, GDExtensionCallError *error)
{
    const variant *name = args[0], *text = args[1];
    bool known = false;
    CHECK(bind == &said && o == &object && count == 2);
    CHECK(name->type == GDEXTENSION_VARIANT_TYPE_STRING_NAME && text->type == GDEXTENSION_VARIANT_TYPE_STRING);
    for (uint32_t i = 0; i < registered.n_signals; i++)
        known |= strcmp(registered.signals[i], text_in(&name->of.text)) == 0;
    CHECK(known);
    if (strcmp(text_in(&name->of.text), "text") == 0) {
        CHECK(strlen(said) + strlen(text_in(&text->of.text)) < sizeof said);
        strcat(said, text_in(&text->of.text));
    } else {
        n_done++;
        snprintf(reason, sizeof reason, "%s", text_in(&text->of.text));
    }
    memset(out, 0, sizeof(variant));
    *error = (GDExtensionCallError){GDEXTENSION_CALL_OK, 0, 0};
}

static const char *missing = ""; /* of this one the host knows nothing */
static GDExtensionInterfaceFunctionPtr get_proc_address(const char *name)
{
#define HAS(symbol, function)                                                                                          \
    {                                                                                                                  \
        symbol, (GDExtensionInterfaceFunctionPtr)function                                                              \
    }
    static const struct {
        const char *name;
        GDExtensionInterfaceFunctionPtr function;
    } all[] = {HAS("string_new_with_utf8_chars_and_len", string_new),
               HAS("string_to_utf8_chars", string_to_utf8),
               HAS("variant_destroy", variant_destroy),
               HAS("variant_get_type", variant_get_type),
               HAS("variant_get_ptr_constructor", get_constructor),
               HAS("variant_get_ptr_destructor", get_destructor),
               HAS("get_variant_from_type_constructor", get_from),
               HAS("get_variant_to_type_constructor", get_to),
               HAS("classdb_construct_object", construct_object),
               HAS("object_set_instance", set_instance),
               HAS("object_method_bind_call", call_method),
               HAS("classdb_get_method_bind", get_method_bind),
               HAS("classdb_register_extension_class", register_class),
               HAS("classdb_register_extension_class_method", register_method),
               HAS("classdb_register_extension_class_signal", register_signal),
               HAS("classdb_unregister_extension_class", unregister_class)};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (strcmp(all[i].name, name) == 0 && strcmp(name, missing) != 0) return all[i].function;
    return NULL;
}

/* -------------------------------------------------------------------------------------------------- as a script does --- */
static const struct method *method(const char *name)
{
    for (uint32_t i = 0; i < registered.n_methods; i++)
        if (strcmp(registered.methods[i].name, name) == 0) return &registered.methods[i];
    fprintf(stderr, "play_godot: there is no method %s\n", name);
    exit(1);
}
static variant text(const char *t) { return (variant){GDEXTENSION_VARIANT_TYPE_STRING, {.text = copy(t, strlen(t))}}; }

static GDExtensionCallErrorType try_call(const char *name, variant *args, uint32_t n, variant *out)
{
    const struct method *m = method(name);
    GDExtensionConstVariantPtr list[4] = {&args[0], &args[1], &args[2], &args[3]};
    GDExtensionCallError error = {GDEXTENSION_CALL_OK, 0, 0};
    memset(out, 0, sizeof *out);
    m->call(m->userdata, object.instance, list, n, out, &error);
    if (error.error == GDEXTENSION_CALL_OK) CHECK(out->type == m->result);
    for (uint32_t i = 0; i < n; i++) variant_destroy(&args[i]);
    return error.error;
}
static bool call(const char *name, const char *a, const char *b)
{
    variant args[4] = {{0}}, out;
    uint32_t n = 0;
    if (a) args[n++] = text(a);
    if (b) args[n++] = text(b);
    CHECK(try_call(name, args, n, &out) == GDEXTENSION_CALL_OK);
    CHECK(out.type == GDEXTENSION_VARIANT_TYPE_BOOL);
    return out.of.is;
}
static bool poll(int64_t budget_us)
{
    variant args[4] = {{GDEXTENSION_VARIANT_TYPE_INT, {.number = budget_us}}}, out;
    CHECK(try_call("poll", args, 1, &out) == GDEXTENSION_CALL_OK);
    return out.of.is;
}
static bool error_has(const char *part)
{
    variant args[4] = {{0}}, out;
    CHECK(try_call("get_error", args, 0, &out) == GDEXTENSION_CALL_OK);
    const bool has = strstr(text_in(&out.of.text), part) != NULL;
    if (!has) fprintf(stderr, "play_godot: %s\n", text_in(&out.of.text));
    variant_destroy(&out);
    return has;
}
static uint32_t frames_until_done(void)
{
    uint32_t n = 1;
    const uint32_t before = n_done;
    while (poll(2000)) CHECK(++n < 1000000);
    CHECK(n_done == before + 1);
    return n;
}

static void answers(const char *model)
{
    static char first[sizeof said];
    CHECK(!poll(1000));
    CHECK(!call("prompt", "x", NULL) && error_has("no model is open"));
    CHECK(!call("open", "/nonexistent", NULL) && error_has("/nonexistent"));
    CHECK(!call("set_option", "gen.no_such_option", "1") && error_has("gen.no_such_option"));
    CHECK(call("set_option", "device.backend", "cpu") && call("set_option", "cpu.threads", "1"));
    CHECK(call("set_option", "sample.temperature", "0") && call("set_option", "gen.max_tokens", "24"));
    if (!call("open", model, NULL)) error_has("?"), exit(1);
    CHECK(call("prompt", "Once upon a time", NULL));
    CHECK(!call("prompt", "x", NULL) && error_has("under way"));
    const uint32_t frames = frames_until_done();
    CHECK(strcmp(reason, "length") == 0 && strlen(said) > 20);
    printf("%s\n%u frames of 2 ms\n", said, frames);
    strcpy(first, said);
    /* Typed code calls otherwise and gets the same. */
    const struct method *m = method("prompt"), *p = method("poll");
    char *prompt = copy("Once upon a time", 16);
    const GDExtensionConstTypePtr args[1] = {&prompt};
    uint8_t result = 0;
    int64_t budget = 2000;
    const GDExtensionConstTypePtr budgets[1] = {&budget};
    said[0] = 0;
    m->ptrcall(m->userdata, object.instance, args, &result);
    CHECK(result && strcmp(prompt, "Once upon a time") == 0);
    while (p->ptrcall(p->userdata, object.instance, budgets, &result), result) {
    }
    text_destroy(&prompt);
    CHECK(strcmp(said, first) == 0);
    char *why = copy("old", 3);
    const struct method *e = method("get_error");
    e->ptrcall(e->userdata, object.instance, NULL, &why);
    CHECK(strstr(text_in(&why), "under way"));
    text_destroy(&why);
    /* Cancelled after two frames. */
    CHECK(call("set_option", "gen.max_tokens", "-1") && call("set_option", "gen.ignore_eos", "true"));
    CHECK(call("prompt", "Once upon a time", NULL) && poll(2000) && poll(2000) && call("cancel", NULL, NULL));
    (void)frames_until_done();
    CHECK(strcmp(reason, "cancelled") == 0);
    CHECK(!call("cancel", NULL, NULL) && error_has("no answer"));
    printf("cancelled\n");
    /* Calls that do not fit. */
    variant wrong[4] = {{GDEXTENSION_VARIANT_TYPE_INT, {.number = 1}}}, out;
    CHECK(try_call("prompt", wrong, 1, &out) == GDEXTENSION_CALL_ERROR_INVALID_ARGUMENT);
    CHECK(try_call("prompt", wrong, 0, &out) == GDEXTENSION_CALL_ERROR_TOO_FEW_ARGUMENTS);
    wrong[0] = text("a"), wrong[1] = text("b");
    CHECK(try_call("prompt", wrong, 2, &out) == GDEXTENSION_CALL_ERROR_TOO_MANY_ARGUMENTS);
    /* Left in the middle of an answer. */
    CHECK(call("prompt", "Once upon a time", NULL) && poll(2000));
}

int main(int argc, char **argv)
{
    if (argc != 3) return fprintf(stderr, "usage: play_godot EXTENSION MODEL\n"), 2;
    void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (!library) return fprintf(stderr, "play_godot: %s\n", dlerror()), 1;
    GDExtensionInitializationFunction init;
    *(void **)&init = dlsym(library, "kvrt_godot_init");
    CHECK(init);
    GDExtensionInitialization steps = {.minimum_initialization_level = GDEXTENSION_INITIALIZATION_EDITOR};
    missing = "object_method_bind_call"; /* a Godot that is too old is refused, not run into */
    CHECK(!init(get_proc_address, &registered, &steps));
    missing = "";
    CHECK(init(get_proc_address, &registered, &steps));
    CHECK(steps.minimum_initialization_level == GDEXTENSION_INITIALIZATION_SCENE);
    for (int level = 0; level <= GDEXTENSION_INITIALIZATION_EDITOR; level++)
        steps.initialize(steps.userdata, (GDExtensionInitializationLevel)level);
    CHECK(registered.is_there && registered.n_methods == 6 && registered.n_signals == 2);
    CHECK(registered.functions.create_instance_func(registered.functions.class_userdata) == &object && object.instance);
    answers(argv[2]);
    registered.functions.free_instance_func(registered.functions.class_userdata, object.instance);
    for (int level = GDEXTENSION_INITIALIZATION_EDITOR; level >= 0; level--)
        steps.deinitialize(steps.userdata, (GDExtensionInitializationLevel)level);
    CHECK(!registered.is_there);
    if (n_alive) return fprintf(stderr, "play_godot: %lld texts are left\n", (long long)n_alive), 1;
    printf("nothing is left\n");
    return 0;
}
