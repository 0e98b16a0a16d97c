/* options_table.h - every option of kvrt, one line each. Included by options.c with OPTION defined.
 * OPTION(key, flag, type, scope, default, min, max, range, help); flag NULL: reachable by --set KEY=VALUE only. Keys are only added, never
 * renamed; the group is the part of the key before the dot. I64 with "auto" in its range accepts that word and stores -1.
 * The scope says what an option belongs to: the engine, a session, or one call of kvrt_generate. What is given to a narrower one must have the
 * value it has there. */
OPTION(
    "model.path", NULL, STRING, ENGINE, "", 0, 0, "",
    "Hugging Face model folder (config.json, *.safetensors, tokenizer.json), GGUF file, or folder with one GGUF model")
OPTION("model.shape", "shape", STRING, ENGINE, "", 0, 0, "",
       "synthetic weights of a known shape instead of a folder, for measurements; NAME:N: its first N layers")
#define KVI_OPTION_FORMS                                                                                               \
    "bf16|f16|f32|i8|i4|a2|a3|a4|a5|a6|a8|f8_e4m3|f8_e5m2|mxfp8|mxfp4|nvfp4|nf4|bnb_fp4|bnb_i8|q4_0|q4_1|q5_0|q5_1|"   \
    "q8_0|q2_k|q3_k|q4_k|q5_k|q6_k|iq4_nl|iq4_xs|mxfp4_block|nvfp4_block"
OPTION("model.weights", NULL, CHOICE, ENGINE, "bf16", 0, 0, KVI_OPTION_FORMS,
       "form of synthetic weights; i8, i4: with a scale for 128, 64 or 32 of them")
OPTION("model.io", "io", CHOICE, ENGINE, "map", 0, 0, "map|copy", "map weights from disk, or read them into memory")
OPTION("model.mtp", NULL, BOOL, ENGINE, "false", 0, 0, "",
       "load the layer that predicts the token after the next one (MTP; Qwen3.5 to 3.8), with a place in the KV cache")
OPTION("model.load", NULL, CHOICE, ENGINE, "all", 0, 0, "all|tokenizer",
       "tokenizer: the tokenizer and the chat template alone; such an engine has no sessions")
OPTION(
    "model.cache", "cache", STRING, ENGINE, "", 0, 0, "",
    "folder to keep weights in as the device wants them, made if it is missing, so that the next open maps them; safe "
    "to delete; empty: none")
OPTION(
    "weights.type", "weights", CHOICE, ENGINE, "auto", 0, 0, "auto|" KVI_OPTION_FORMS,
    "i4, i8: round the matrices of all layers to so many bits at open, as `kvrt quantize --method rtn` would; auto: as "
    "they are; of a shape any form")
OPTION("weights.group", "group", I64, ENGINE, "auto", 0, 65536, "auto|0|8..65536",
       "weights of a row that share a scale, 0: the whole row; auto: 128 of i4, the row of i8")
OPTION("weights.head", "head", CHOICE, ENGINE, "auto", 0, 0, "auto|i8", "i8: the head in 8 bits; auto: as it is")
OPTION("weights.embed", "embed", CHOICE, ENGINE, "auto", 0, 0, "auto|i8",
       "i8: the embeddings in 8 bits, and a head that shares them; auto: as they are")
OPTION("device.backend", "backend", CHOICE, ENGINE, "auto", 0, 0, "auto|cpu|cuda",
       "device to run on; auto: CUDA if usable, else CPU")
OPTION("device.index", "device", I64, ENGINE, "0", 0, 63, "0..63", "index of the CUDA device")
OPTION("device.cuda_context", NULL, I64, ENGINE, "0", 0, 9.2e18, "0..",
       "address of the host's CUcontext to work in; 0: the device's primary context")
OPTION("device.cuda_stream", NULL, I64, ENGINE, "0", 0, 9.2e18, "0..",
       "address of the host's CUstream to work on; 0: a stream of kvrt's own")
OPTION("cpu.threads", "threads", I64, ENGINE, "auto", 1, 1024, "auto|1..1024", "CPU worker threads; auto: all cores")
OPTION("cpu.amx", "amx", BOOL, ENGINE, "false", 0, 0, "",
       "use AMX tiles (asks the kernel for a process-wide permission)")
OPTION("cpu.exact", "exact", BOOL, ENGINE, "false", 0, 0, "",
       "multiply by 32-bit activations, not by 8-bit ones (quantized weights) or 16-bit ones (BF16, pages of 4 and 2 "
       "bits): slower, exact")
OPTION("cpu.isa", "isa", CHOICE, ENGINE, "auto", 0, 0, "auto|portable|avx2|avx512",
       "CPU instruction set; auto: the best present")
OPTION("ctx.size", "ctx", I64, SESSION, "auto", 1, 16777216, "auto|1..16777216",
       "context size in tokens; auto: what the plan allows")
OPTION("ctx.chunk", "chunk", I64, ENGINE, "512", 1, 8192, "1..8192", "tokens per prefill step")
OPTION("ctx.sessions", "sessions", I64, ENGINE, "1", 1, 256, "1..256",
       "sessions of ctx.size tokens that the KV pool is planned for")
OPTION("ctx.full", "ctx-full", CHOICE, SESSION, "stop", 0, 0, "stop|shift|demote|h2o|snapkv",
       "when the context is full: end; drop pages behind the first, keep the newest; elastic: lose precision, then "
       "end; studies: drop pages by the "
       "attention that all queries, or the last of a prompt, pay them")
OPTION("ctx.keep", NULL, I64, SESSION, "0", 0, 16777216, "0..16777216",
       "ctx.full=snapkv: positions that stay at the end of a prompt; 0: all that fit")
OPTION("kv.format", "kv", STRING, SESSION, "k4v4", 0, 0, "f32|f16|bf16|f8|i8|k4v4|k4v2|k3v3|k2v2|t3|t2|kXvY|elastic",
       "KV cache format; elastic: f16, old pages less as the pool fills")
OPTION("kv.pool", "kv-pool", BYTES, ENGINE, "0", 0, 0, "",
       "most bytes of an elastic KV pool; 0: up to 16 bits for every position")
OPTION("kv.tail", "tail", I64, SESSION, "128", 0, 65536, "0..65536",
       "newest positions that stay 16-bit beyond the open page")
OPTION("kv.share", NULL, BOOL, SESSION, "true", 0, 0, "",
       "take what other sessions have computed of the same tokens, and let them take it; results are the same")
OPTION("kv.spill", "spill", STRING, ENGINE, "", 0, 0, "memory|DIRECTORY",
       "where pages of idle sessions go when the pool is full: the host's memory, or a directory; empty: nowhere")
OPTION("kv.spill_limit", "spill-limit", BYTES, ENGINE, "0", 0, 0, "",
       "most bytes of them there; 0: what there is room for")
OPTION("kv.rotate", NULL, BOOL, ENGINE, "true", 0, 0, "", "store K and V rotated by a Hadamard matrix")
OPTION("kv.varnorm", NULL, CHOICE, ENGINE, "kvrt", 0, 0, "off|paper|kvrt", "variance normalization of quantized pages")
OPTION("kv.range", NULL, CHOICE, ENGINE, "unbiased", 0, 0, "minmax|search|unbiased",
       "range of quantized rows: extremes, least error, or least error without shrinkage")
OPTION("kv.scales", NULL, CHOICE, ENGINE, "checkpoint", 0, 0, "checkpoint|rows",
       "scales of f8 and i8 pages: those that the model brings for the type, or each row its own")
OPTION("kv.round", NULL, CHOICE, ENGINE, "auto", 0, 0, "auto|plain|queries",
       "codes of 2 to 4 bits: the nearest, or least error for the queries; auto: queries where the device can")
OPTION("mem.limit", "mem-limit", BYTES, ENGINE, "0", 0, 0, "",
       "most bytes kvrt may use, of the card's memory where it runs on one; 0: what is free")
OPTION(
    "mem.most", "mem-most", BYTES, ENGINE, "0", 0, 0, "",
    "to how much mem.limit may be raised while the engine is open; 0: its cache never grows beyond what it was opened "
    "with, and on CUDA keeps its size")
OPTION("mem.shared", NULL, BOOL, ENGINE, "false", 0, 0, "",
       "mem.limit is for all engines of the process that are opened so, together")
OPTION("mem.reserve", "reserve", BYTES, ENGINE, "1GiB", 0, 0, "", "bytes to leave free for others")
OPTION("mem.context", "mem-context", BYTES, ENGINE, "450MiB", 0, 0, "",
       "what a CUDA context takes of a memory limit: driver, local memory of all threads, kernels")
OPTION("sched.priority", "priority", I64, SESSION, "0", -100, 100, "-100..100",
       "of a session among those with submitted requests: one more is served as if it had waited four steps longer")
OPTION("gen.max_tokens", "max-tokens", I64, CALL, "-1", -1, 16777216, "-1..16777216",
       "most new tokens; -1: until end of text or the context is full")
OPTION("gen.stop", "stop", LIST, CALL, "", 0, 0, "", "stop string; may be given several times")
OPTION("gen.ignore_eos", "ignore-eos", BOOL, CALL, "false", 0, 0, "", "go on past end-of-text tokens")
OPTION("gen.reasoning", NULL, BOOL, CALL, "true", 0, 0, "",
       "deliver reasoning sections as REASONING events; false: as text, marks included")
OPTION("gen.token_events", NULL, BOOL, CALL, "false", 0, 0, "", "also deliver TOKEN events")
OPTION("sample.temperature", "temp", F64, CALL, "0.8", 0, 100, "0..100", "sampling temperature; 0: greedy")
OPTION("sample.top_k", "top-k", I64, CALL, "40", 0, 1048576, "0..1048576", "keep the k most likely tokens; 0: all")
OPTION("sample.top_p", "top-p", F64, CALL, "0.95", 0, 1, "0..1", "keep the most likely tokens up to this mass; 1: all")
OPTION("sample.min_p", "min-p", F64, CALL, "0.05", 0, 1, "0..1", "drop tokens below this share of the best; 0: none")
OPTION("sample.repeat_penalty", "repeat-penalty", F64, CALL, "1", 0.01, 100, "0.01..100",
       "divide logits of recent tokens; 1: off")
OPTION("sample.repeat_last", "repeat-last", I64, CALL, "64", 0, 1048576, "0..1048576",
       "recent tokens the penalties look at")
OPTION("sample.frequency_penalty", "frequency-penalty", F64, CALL, "0", -100, 100, "-100..100",
       "subtract per occurrence")
OPTION("sample.presence_penalty", "presence-penalty", F64, CALL, "0", -100, 100, "-100..100",
       "subtract once per present token")
OPTION("sample.logit_bias", "logit-bias", LIST, CALL, "", 0, 0, "",
       "ID=BIAS, added to the logit of a token; may be given several times")
OPTION("sample.seed", "seed", I64, CALL, "auto", 0, 9.2e18, "auto|0..",
       "seed of the random choices; auto: a random one")
OPTION("gen.top_logprobs", NULL, I64, CALL, "0", 0, 20, "0..20",
       "with gen.token_events: tell so many of the likeliest tokens and their log probabilities")
OPTION(
    "draft.type", "draft", CHOICE, CALL, "off", 0, 0, "off|lookup|model|mtp",
    "guess next tokens, compute them together; lookup: by what the text says already; model: by draft.model; mtp: by "
    "the model's own layer for it. The text is the same")
OPTION("draft.model", "draft-model", STRING, ENGINE, "", 0, 0, "",
       "model that guesses for draft.type=model: a folder or GGUF file with the same tokenizer")
OPTION("draft.max", "draft-max", I64, CALL, "7", 1, 7, "1..7", "most tokens that are guessed at once")
OPTION("gen.tools", NULL, STRING, CALL, "", 0, 0, "",
       "JSON array of tools: calls of tools come as events instead of text")
OPTION("gen.tool_choice", "tool-choice", STRING, CALL, "auto", 0, 0, "auto|free|required|name:TOOL",
       "auto: calls satisfy the tools' schemas; free: nothing is held to them; required, name:TOOL: the text is calls")
OPTION("grammar.schema", NULL, STRING, CALL, "", 0, 0, "",
       "JSON Schema that the text must satisfy; runtime/grammar/README.md lists the keywords")
OPTION("grammar.gbnf", NULL, STRING, CALL, "", 0, 0, "", "grammar that the text must satisfy, in llama.cpp's notation")
OPTION("grammar.regex", NULL, STRING, CALL, "", 0, 0, "", "regular expression that the whole text must match")
OPTION("log.level", "log-level", I64, CALL, "2", 0, 5, "0..5",
       "0 silent, 1 errors, 2 warnings, 3 info, 4 debug, 5 kernels")
OPTION("debug.cuda_driver", "cuda-driver", STRING, ENGINE, "", 0, 0, "",
       "CUDA driver library to load instead of the system's")
OPTION("debug.disable", NULL, STRING, ENGINE, "", 0, 0, "rope,mask,qk_norm,bias,window,conv,decay,...",
       "leave parts of the model out, for mutation tests")
#undef KVI_OPTION_FORMS
