// The C API of llama.cpp, loaded at run time, for programs that drive the library as its users get it.
// Structures follow release v0.5.0; the defaults that the library fills in are compared with the known
// ones, and a difference ends the program, for it would mean that the layout is another.
#pragma once
#include <dlfcn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    void *devices, *tensor_buft;
    int32_t gpu_layers, split, load, lazy, main_gpu;
    void *split_shares, *progress, *progress_data, *kv_overrides;
    bool vocab_only, check_tensors, extra_bufts, no_host, no_alloc, mtp;
} model_params;

typedef struct {
    uint32_t n_ctx, n_batch, n_ubatch, n_seq, n_rs, n_out, n_outs;
    int32_t threads, threads_batch, ctx_type, rope, pooling, attention, flash;
    float freq_base, freq_scale, yarn_ext, yarn_attn, yarn_fast, yarn_slow;
    uint32_t yarn_ctx;
    float defrag;
    void *eval_cb, *eval_data;
    int32_t type_k, type_v;
    void *abort_cb, *abort_data;
    bool embeddings, offload, no_perf, op_offload, swa_full, unified;
    void *samplers;
    size_t n_samplers;
    void *other;
} context_params;

typedef struct {
    int32_t n_tokens;
    int32_t *token;
    float *embd;
    int32_t *pos, *n_seq_id;
    int32_t **seq_id;
    int8_t *logits;
} batch;

static void *lib_llama;
static void *sym(const char *name) {
    void *p = dlsym(lib_llama, name);
    if (!p) { fprintf(stderr, "probe: %s\n", dlerror()); exit(1); }
    return p;
}
#define FN(ret, name, ...) ((ret(*)(__VA_ARGS__))sym(#name))

static void die(const char *what, const char *which) { fprintf(stderr, "probe: %s %s\n", what, which); exit(1); }

static void silent(int level, const char *text, void *data) {
    (void)data;
    if (level == 4) fputs(text, stderr); // errors; 5 goes on with the line before
}

static void open_library(const char *dir) {
    char path[4096];
    snprintf(path, sizeof path, "%s/libggml.v0.5.0.so", dir);
    void *ggml = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
    if (!ggml) die("cannot load", dlerror());
    snprintf(path, sizeof path, "%s/libllama.v0.5.0.so", dir);
    lib_llama = dlopen(path, RTLD_NOW);
    if (!lib_llama) die("cannot load", dlerror());
    void (*load_all)(const char *) = (void (*)(const char *))dlsym(ggml, "ggml_backend_load_all_from_path");
    FN(void, llama_log_set, void (*)(int, const char *, void *), void *)(silent, NULL);
    load_all(dir); // without this there is no CPU backend
}

static context_params default_context(void) {
    context_params p = FN(context_params, llama_context_default_params, void)();
    if (p.n_ctx != 512 || p.n_batch != 2048 || p.n_ubatch != 512 || p.type_k != 1) die("unexpected defaults:", "this is not llama.cpp v0.5.0");
    return p;
}
