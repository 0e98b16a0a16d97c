/* kvrt_godot.c - kvrt for Godot 4.1 and later, through the C interface of its extensions (gdextension_interface.h): no C++, no generator.
 *
 *     var guard := Kvrt.new()                             # one per character: each has an engine of its own
 *     func _ready():
 *         guard.text.connect(func(piece): label.text += piece)
 *         guard.done.connect(func(reason): print(reason))
 *         guard.set_option("gen.max_tokens", "60")
 *         if not guard.open(ProjectSettings.globalize_path("res://models/story")): push_error(guard.get_error())
 *         guard.prompt("Once upon a time, a guard at the gate said:")
 *     func _process(_delta):
 *         guard.poll(2000)                                # the model's part of the frame, in microseconds; true while there is more
 *
 * Signals are emitted by poll, on the thread that calls it; no thread is made. A call that fails returns false, and get_error() says why. */
#include <gdextension_interface.h>
#include <kvrt.h>

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Values of Godot, whose content is its own: 64 bits; a Variant is 24 bytes, 40 where Godot has numbers of double precision. */
typedef struct value {
    uint64_t bits[5];
} value;

/* ------------------------------------------------------------------------------------------- what Godot gives us --- */
static struct {
    GDExtensionClassLibraryPtr library;
    GDExtensionInterfaceStringNewWithUtf8CharsAndLen string_new;
    GDExtensionInterfaceStringToUtf8Chars string_to_utf8;
    GDExtensionInterfaceVariantDestroy variant_destroy;
    GDExtensionInterfaceVariantGetType variant_get_type;
    GDExtensionInterfaceClassdbConstructObject construct_object;
    GDExtensionInterfaceObjectSetInstance set_instance;
    GDExtensionInterfaceObjectMethodBindCall call_method;
    GDExtensionInterfaceClassdbRegisterExtensionClass register_class;
    GDExtensionInterfaceClassdbRegisterExtensionClassMethod register_method;
    GDExtensionInterfaceClassdbRegisterExtensionClassSignal register_signal;
    GDExtensionInterfaceClassdbUnregisterExtensionClass unregister_class;
    GDExtensionPtrConstructor name_of_string;
    GDExtensionPtrDestructor string_destroy, name_destroy;
    GDExtensionVariantFromTypeConstructorFunc of_bool, of_string, of_name;
    GDExtensionTypeFromVariantConstructorFunc to_int, to_string;
    GDExtensionMethodBindPtr emit_signal;
} godot;

static value string_of(const char *text, size_t len)
{
    value out = {{0}};
    godot.string_new(&out, text, (GDExtensionInt)len);
    return out;
}

static value name_of(const char *text)
{
    value string = string_of(text, strlen(text)), out = {{0}};
    const GDExtensionConstTypePtr from = &string;
    godot.name_of_string(&out, &from);
    godot.string_destroy(&string);
    return out;
}

/* The caller frees it. NULL: memory is out. */
static char *text_of(const value *string)
{
    const GDExtensionInt len = godot.string_to_utf8(string, NULL, 0);
    char *text = malloc((size_t)len + 1);
    if (text) text[godot.string_to_utf8(string, text, len)] = 0;
    return text;
}

/* ------------------------------------------------------------------------------------------------------- the class --- */
typedef struct speaker {
    GDExtensionObjectPtr object;
    kvrt_options *options;
    kvrt_engine engine; /* NULL: not open */
    kvrt_session session;
    uint64_t request; /* 0: none is under way */
    kvrt_error error; /* of the last call that failed */
} speaker;

static void close_engine(speaker *s)
{
    (void)kvrt_engine_close(s->engine, NULL);
    s->engine = NULL, s->session = NULL, s->request = 0;
}

/* Emits a signal of one text. */
static void emit(speaker *s, const char *signal, const char *text, size_t len)
{
    value name = name_of(signal), string = string_of(text, len), args[2] = {{{0}}}, result = {{0}};
    GDExtensionCallError error;
    godot.of_name(&args[0], &name);
    godot.of_string(&args[1], &string);
    const GDExtensionConstVariantPtr list[2] = {&args[0], &args[1]};
    godot.call_method(godot.emit_signal, s->object, list, 2, &result, &error);
    godot.variant_destroy(&result);
    for (int i = 0; i < 2; i++) godot.variant_destroy(&args[i]);
    godot.name_destroy(&name);
    godot.string_destroy(&string);
}

static bool went_well(const kvrt_status status) { return status >= KVRT_OK; }

static bool fails(speaker *s, const char *message)
{
    s->error.code = KVRT_STATE;
    strncpy(s->error.message, message, sizeof s->error.message - 1);
    return false;
}

static bool set_option(speaker *s, const char *key, const char *text)
{
    if (!s->options && !went_well(kvrt_options_create(&s->options, &s->error))) return false;
    return went_well(kvrt_options_set_text(s->options, key, text, &s->error));
}

/* Opens the model at a path of the system, with the options set so far; what was open is closed. */
static bool open_model(speaker *s, const char *path, const char *unused)
{
    (void)unused;
    close_engine(s);
    if (!set_option(s, "model.path", path)) return false;
    kvrt_status status = kvrt_engine_open(s->options, NULL, NULL, &s->engine, &s->error);
    if (status >= KVRT_OK) status = kvrt_session_create(s->engine, NULL, &s->session, &s->error);
    if (status < KVRT_OK) close_engine(s);
    return went_well(status);
}

/* The session's text is this one from its beginning on: what it has in common with the text of before is not computed again. */
static bool prompt(speaker *s, const char *text, const char *unused)
{
    uint64_t n = 0;
    (void)unused;
    if (!s->engine) return fails(s, "no model is open");
    if (s->request) return fails(s, "an answer is under way: cancel it first");
    kvrt_status status = kvrt_tokenize(s->engine, text, -1, KVRT_TOKENIZE_ADD_SPECIAL, NULL, 0, &n, &s->error);
    if (status < KVRT_OK) return false;
    int32_t *ids = malloc((n + 1) * sizeof *ids);
    if (!ids) return fails(s, "out of memory");
    status = kvrt_tokenize(s->engine, text, -1, KVRT_TOKENIZE_ADD_SPECIAL, ids, n, &n, &s->error);
    if (status >= KVRT_OK) status = kvrt_session_sync(s->session, ids, n, NULL, &s->error);
    if (status >= KVRT_OK) status = kvrt_submit(s->session, s->options, &s->request, &s->error);
    free(ids);
    return went_well(status);
}

static bool cancel(speaker *s, const char *unused, const char *unused_too)
{
    (void)unused, (void)unused_too;
    if (!s->request) return fails(s, "no answer is under way");
    kvrt_cancel_id(s->request);
    return true;
}

static const char *finish_name(int32_t finish)
{
    static const char *const names[] = {"none",      "eos",      "stop",   "length", "context full",
                                        "cancelled", "callback", "paused", "grammar"};
    return finish >= 0 && finish < (int32_t)(sizeof names / sizeof names[0]) ? names[finish] : "unknown";
}

/* The model's part of a frame. Signals may call us again: what is needed of the speaker is read anew behind each. */
static bool poll(speaker *s, int64_t budget_us)
{
    kvrt_event event = {.size = sizeof event};
    if (!s->request) return false;
    const kvrt_status status = kvrt_step(s->engine, budget_us > 0 ? (uint64_t)budget_us : 0, &s->error);
    if (status < KVRT_OK) {
        s->request = 0;
        emit(s, "done", s->error.message, strlen(s->error.message));
        return false;
    }
    while (s->engine && kvrt_poll(s->engine, &event, NULL) == KVRT_OK) {
        if (event.type == KVRT_EVENT_TEXT) emit(s, "text", event.text, event.text_len);
        if (event.type != KVRT_EVENT_DONE && event.type != KVRT_EVENT_ERROR) continue;
        const bool is_error = event.type == KVRT_EVENT_ERROR;
        const char *why = is_error ? event.text : finish_name(event.finish);
        s->request = 0;
        if (is_error) (void)fails(s, "the answer ended by an error");
        emit(s, "done", why, is_error ? event.text_len : strlen(why));
    }
    return s->request != 0;
}

/* --------------------------------------------------------------------------------------------- methods as Godot has them --- */
/* A method takes up to two texts, or a number, and answers with a bool; or it takes nothing and answers with a text. */
typedef struct method {
    const char *name, *args[2];
    bool (*of_texts)(speaker *, const char *, const char *);
    bool (*of_int)(speaker *, int64_t);
} method;
static const method methods[] = {
    {"set_option", {"key", "value"}, set_option, NULL}, {"open", {"path", NULL}, open_model, NULL},
    {"prompt", {"text", NULL}, prompt, NULL},           {"cancel", {NULL, NULL}, cancel, NULL},
    {"poll", {"budget_us", NULL}, NULL, poll},          {"get_error", {NULL, NULL}, NULL, NULL},
};
enum { N_METHODS = sizeof methods / sizeof methods[0] };

static GDExtensionInt n_args(const method *m) { return m->args[1] ? 2 : m->args[0] ? 1 : 0; }
static GDExtensionVariantType arg_type(const method *m)
{
    return m->of_int ? GDEXTENSION_VARIANT_TYPE_INT : GDEXTENSION_VARIANT_TYPE_STRING;
}
static bool answers_text(const method *m) { return !m->of_int && !m->of_texts; }

/* The answer into *string where it is a text, else as the result. */
static bool run(const method *m, speaker *s, const value *texts, int64_t number, value *string)
{
    char *text[2] = {NULL, NULL};
    bool result = true;
    if (answers_text(m)) {
        *string = string_of(s->error.message, strlen(s->error.message));
        return true;
    }
    for (GDExtensionInt i = 0; !m->of_int && i < n_args(m); i++) result &= (text[i] = text_of(&texts[i])) != NULL;
    if (!result) (void)fails(s, "out of memory");
    else result = m->of_int ? m->of_int(s, number) : m->of_texts(s, text[0], text[1]);
    free(text[0]), free(text[1]);
    return result;
}

/* From scripts: Variants, which may be of any type and number. */
static void call(void *userdata, GDExtensionClassInstancePtr instance, const GDExtensionConstVariantPtr *args,
                 GDExtensionInt count, GDExtensionVariantPtr out, GDExtensionCallError *error)
{
    const method *m = userdata;
    value texts[2] = {{{0}}}, string = {{0}};
    int64_t number = 0;
    *error = (GDExtensionCallError){GDEXTENSION_CALL_OK, 0, 0};
    if (count != n_args(m)) {
        error->error =
            count < n_args(m) ? GDEXTENSION_CALL_ERROR_TOO_FEW_ARGUMENTS : GDEXTENSION_CALL_ERROR_TOO_MANY_ARGUMENTS;
        error->argument = error->expected = (int32_t)n_args(m);
        return;
    }
    for (GDExtensionInt i = 0; i < count; i++)
        if (godot.variant_get_type(args[i]) != arg_type(m)) {
            *error = (GDExtensionCallError){GDEXTENSION_CALL_ERROR_INVALID_ARGUMENT, (int32_t)i, (int32_t)arg_type(m)};
            return;
        }
    for (GDExtensionInt i = 0; i < count; i++) {
        const GDExtensionVariantPtr from = (GDExtensionVariantPtr)(uintptr_t)args[i]; /* it is only read */
        if (m->of_int) godot.to_int(&number, from);
        else godot.to_string(&texts[i], from);
    }
    GDExtensionBool result = run(m, instance, texts, number, &string);
    for (GDExtensionInt i = 0; !m->of_int && i < count; i++) godot.string_destroy(&texts[i]);
    if (!answers_text(m)) {
        godot.of_bool(out, &result);
        return;
    }
    godot.of_string(out, &string);
    godot.string_destroy(&string);
}

/* From typed code: values of the types that were registered, and room for the result, which holds one already. */
static void ptrcall(void *userdata, GDExtensionClassInstancePtr instance, const GDExtensionConstTypePtr *args,
                    GDExtensionTypePtr out)
{
    const method *m = userdata;
    value texts[2] = {{{0}}}, string = {{0}};
    int64_t number = 0;
    for (GDExtensionInt i = 0; i < n_args(m); i++)
        memcpy(m->of_int ? (void *)&number : (void *)&texts[i], args[i],
               8); /* a String is a pointer, which is looked at */
    const GDExtensionBool result = run(m, instance, texts, number, &string);
    if (answers_text(m)) {
        godot.string_destroy(out);
        memcpy(out, &string, 8);
    } else memcpy(out, &result, sizeof result);
}

static GDExtensionObjectPtr create(void *userdata)
{
    value parent = name_of("RefCounted"), own = name_of("Kvrt");
    speaker *s = calloc(1, sizeof *s);
    (void)userdata;
    GDExtensionObjectPtr object = s ? godot.construct_object(&parent) : NULL;
    if (object) {
        s->object = object;
        s->error.size = sizeof s->error;
        godot.set_instance(object, &own, s);
    } else free(s);
    godot.name_destroy(&parent), godot.name_destroy(&own);
    return object;
}

static void destroy(void *userdata, GDExtensionClassInstancePtr instance)
{
    speaker *s = instance;
    (void)userdata;
    if (!s) return;
    close_engine(s);
    kvrt_options_destroy(s->options);
    free(s);
}

/* ---------------------------------------------------------------------------------------------------- registration --- */
static void register_method(value *class_name, value *nothing, const method *m)
{
    value name = name_of(m->name), arg_names[2] = {{{0}}};
    GDExtensionPropertyInfo args[2],
        result = {.type = answers_text(m) ? GDEXTENSION_VARIANT_TYPE_STRING : GDEXTENSION_VARIANT_TYPE_BOOL,
                  .name = &nothing[0],
                  .class_name = &nothing[0],
                  .hint_string = &nothing[1],
                  .usage = 6}; /* PROPERTY_USAGE_DEFAULT */
    GDExtensionClassMethodArgumentMetadata metadata[2] = {GDEXTENSION_METHOD_ARGUMENT_METADATA_NONE,
                                                          GDEXTENSION_METHOD_ARGUMENT_METADATA_NONE};
    for (GDExtensionInt i = 0; i < n_args(m); i++) {
        arg_names[i] = name_of(m->args[i]);
        args[i] = result;
        args[i].type = arg_type(m);
        args[i].name = &arg_names[i];
    }
    const GDExtensionClassMethodInfo info = {.name = &name,
                                             .method_userdata = (void *)(uintptr_t)m,
                                             .call_func = call,
                                             .ptrcall_func = ptrcall,
                                             .method_flags = GDEXTENSION_METHOD_FLAGS_DEFAULT,
                                             .has_return_value = 1,
                                             .return_value_info = &result,
                                             .argument_count = (uint32_t)n_args(m),
                                             .arguments_info = args,
                                             .arguments_metadata = metadata};
    godot.register_method(godot.library, class_name, &info);
    for (GDExtensionInt i = 0; i < n_args(m); i++) godot.name_destroy(&arg_names[i]);
    godot.name_destroy(&name);
}

static void register_signal(value *class_name, value *nothing, const char *signal, const char *arg)
{
    value name = name_of(signal), arg_name = name_of(arg);
    const GDExtensionPropertyInfo info = {.type = GDEXTENSION_VARIANT_TYPE_STRING,
                                          .name = &arg_name,
                                          .class_name = &nothing[0],
                                          .hint_string = &nothing[1],
                                          .usage = 6};
    godot.register_signal(godot.library, class_name, &name, &info, 1);
    godot.name_destroy(&name), godot.name_destroy(&arg_name);
}

static void initialize(void *userdata, GDExtensionInitializationLevel level)
{
    (void)userdata;
    if (level != GDEXTENSION_INITIALIZATION_SCENE) return;
    value class_name = name_of("Kvrt"), parent = name_of("RefCounted"), nothing[2] = {name_of(""), string_of("", 0)};
    const GDExtensionClassCreationInfo info = {.create_instance_func = create, .free_instance_func = destroy};
    godot.register_class(godot.library, &class_name, &parent, &info);
    for (int i = 0; i < N_METHODS; i++) register_method(&class_name, nothing, &methods[i]);
    register_signal(&class_name, nothing, "text", "piece");
    register_signal(&class_name, nothing, "done", "reason");
    godot.name_destroy(&class_name), godot.name_destroy(&parent), godot.name_destroy(&nothing[0]);
    godot.string_destroy(&nothing[1]);
}

static void deinitialize(void *userdata, GDExtensionInitializationLevel level)
{
    (void)userdata;
    if (level != GDEXTENSION_INITIALIZATION_SCENE) return;
    value class_name = name_of("Kvrt");
    godot.unregister_class(godot.library, &class_name);
    godot.name_destroy(&class_name);
}

static GDExtensionInterfaceGetProcAddress find;
static bool found_all;
static GDExtensionInterfaceFunctionPtr function(const char *name)
{
    const GDExtensionInterfaceFunctionPtr out = find(name);
    found_all &= out != NULL;
    return out;
}

/* Whoever has no emit_signal of this hash is another Godot than 4: the hash is of its parameters. */
static bool find_functions(void)
{
    found_all = true;
#define GODOT(member, type, name) godot.member = (type)function(name)
    GODOT(string_new, GDExtensionInterfaceStringNewWithUtf8CharsAndLen, "string_new_with_utf8_chars_and_len");
    GODOT(string_to_utf8, GDExtensionInterfaceStringToUtf8Chars, "string_to_utf8_chars");
    GODOT(variant_destroy, GDExtensionInterfaceVariantDestroy, "variant_destroy");
    GODOT(variant_get_type, GDExtensionInterfaceVariantGetType, "variant_get_type");
    GODOT(construct_object, GDExtensionInterfaceClassdbConstructObject, "classdb_construct_object");
    GODOT(set_instance, GDExtensionInterfaceObjectSetInstance, "object_set_instance");
    GODOT(call_method, GDExtensionInterfaceObjectMethodBindCall, "object_method_bind_call");
    GODOT(register_class, GDExtensionInterfaceClassdbRegisterExtensionClass, "classdb_register_extension_class");
    GODOT(register_method, GDExtensionInterfaceClassdbRegisterExtensionClassMethod,
          "classdb_register_extension_class_method");
    GODOT(register_signal, GDExtensionInterfaceClassdbRegisterExtensionClassSignal,
          "classdb_register_extension_class_signal");
    GODOT(unregister_class, GDExtensionInterfaceClassdbUnregisterExtensionClass, "classdb_unregister_extension_class");
    const GDExtensionInterfaceVariantGetPtrConstructor constructor =
        (GDExtensionInterfaceVariantGetPtrConstructor)function("variant_get_ptr_constructor");
    const GDExtensionInterfaceVariantGetPtrDestructor destructor =
        (GDExtensionInterfaceVariantGetPtrDestructor)function("variant_get_ptr_destructor");
    const GDExtensionInterfaceGetVariantFromTypeConstructor from =
        (GDExtensionInterfaceGetVariantFromTypeConstructor)function("get_variant_from_type_constructor");
    const GDExtensionInterfaceGetVariantToTypeConstructor to =
        (GDExtensionInterfaceGetVariantToTypeConstructor)function("get_variant_to_type_constructor");
    const GDExtensionInterfaceClassdbGetMethodBind bind =
        (GDExtensionInterfaceClassdbGetMethodBind)function("classdb_get_method_bind");
    if (!found_all) return false;
    godot.name_of_string = constructor(GDEXTENSION_VARIANT_TYPE_STRING_NAME, 2); /* StringName(from: String) */
    godot.string_destroy = destructor(GDEXTENSION_VARIANT_TYPE_STRING);
    godot.name_destroy = destructor(GDEXTENSION_VARIANT_TYPE_STRING_NAME);
    godot.of_bool = from(GDEXTENSION_VARIANT_TYPE_BOOL);
    godot.of_string = from(GDEXTENSION_VARIANT_TYPE_STRING);
    godot.of_name = from(GDEXTENSION_VARIANT_TYPE_STRING_NAME);
    godot.to_int = to(GDEXTENSION_VARIANT_TYPE_INT);
    godot.to_string = to(GDEXTENSION_VARIANT_TYPE_STRING);
    value object = name_of("Object"), emit_name = name_of("emit_signal");
    godot.emit_signal = bind(&object, &emit_name, 4047867050);
    godot.name_destroy(&object), godot.name_destroy(&emit_name);
    return godot.emit_signal != NULL;
}

/* The entry that kvrt.gdextension names. */
#if defined(_WIN32)
__declspec(dllexport)
#else
__attribute__((visibility("default")))
#endif
    GDExtensionBool kvrt_godot_init(GDExtensionInterfaceGetProcAddress get_proc_address,
                                    GDExtensionClassLibraryPtr library, GDExtensionInitialization *out);

GDExtensionBool kvrt_godot_init(GDExtensionInterfaceGetProcAddress get_proc_address, GDExtensionClassLibraryPtr library,
                                GDExtensionInitialization *out)
{
    find = get_proc_address;
    godot.library = library;
    if (!find_functions()) return 0;
    *out = (GDExtensionInitialization){.minimum_initialization_level = GDEXTENSION_INITIALIZATION_SCENE,
                                       .initialize = initialize,
                                       .deinitialize = deinitialize};
    return 1;
}
