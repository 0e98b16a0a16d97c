/* model_name.h - names of models where people keep them: "org/name" in the hub's cache, "name:tag" in Ollama's store. */
#ifndef KVRT_MODEL_NAME_H
#define KVRT_MODEL_NAME_H
#include <stddef.h>

/* The path that `name` stands for, into out (cap); `name` itself when it is a path or stands for nothing. "org/name" is what refs/main of the
 * cache (HF_HUB_CACHE, HF_HOME/hub, XDG_CACHE_HOME/huggingface/hub, ~/.cache/huggingface/hub) points to: its folder, or its GGUF file where
 * there is no config.json; of several files "org/name:part" takes the one whose name has the part (Q4_K_M). "name" and "name:tag" are
 * looked up in Ollama's store (OLLAMA_MODELS, ~/.ollama/models, /usr/share/ollama/.ollama/models). Returns out. */
const char *model_name_path(const char *name, char *out, size_t cap);

#endif
