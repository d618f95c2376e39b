// probe drives the real llama.cpp through its C API, so that packages are judged by the runtime
// that people use. It is compiled by the interop tests, for x86-64 and for arm64, and links nothing:
// the shared libraries of an npm package are loaded at run time.
//
//   probe LIBDIR tokens  MODEL.gguf TEXT OUT.i32          tokenize a text without special tokens
//   probe LIBDIR compare A.gguf B.gguf IDS.i32 CTX CHUNKS perplexity of both, KL(A||B), same first token
//
// The protocol is llama.cpp's own: chunks without overlap, second half scored. The KV cache is
// float32 and flash attention is off, which makes runs agree across machines. Structures follow
// release v0.5.0; the defaults that the library fills in are compared with the known ones, and a
// difference ends the program, for it would mean that the layout is another.
#include <dlfcn.h>
#include <math.h>
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

static void open_library(const char *dir) {
    char path[4096];
    snprintf(path, sizeof path, "%s/libggml.v0.5.0.so", dir);
    void *ggml = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
    if (!ggml) die("cannot load", dlerror());
    snprintf(path, sizeof path, "%s/libllama.v0.5.0.so", dir);
    lib_llama = dlopen(path, RTLD_NOW);
    if (!lib_llama) die("cannot load", dlerror());
    void (*load_all)(const char *) = (void (*)(const char *))dlsym(ggml, "ggml_backend_load_all_from_path");
    load_all(dir); // without this there is no CPU backend
}

static void silent(int level, const char *text, void *data) {
    (void)data;
    if (level >= 4) fputs(text, stderr); // errors only
}

static void *open_model(const char *path, bool vocab_only) {
    model_params p = FN(model_params, llama_model_default_params, void)();
    p.check_tensors = true;
    p.vocab_only = vocab_only;
    void *m = FN(void *, llama_model_load_from_file, const char *, model_params)(path, p);
    if (!m) die("llama.cpp refuses", path);
    return m;
}

static void *open_context(void *model, int n_ctx) {
    context_params p = FN(context_params, llama_context_default_params, void)();
    if (p.n_ctx != 512 || p.n_batch != 2048 || p.n_ubatch != 512 || p.type_k != 1) die("unexpected defaults:", "this is not llama.cpp v0.5.0");
    p.n_ctx = p.n_batch = p.n_ubatch = n_ctx;
    p.threads = p.threads_batch = 1; // its workers spin: two of them starve when the machine is busy
    p.type_k = p.type_v = 0;
    p.flash = 0;
    void *c = FN(void *, llama_init_from_model, void *, context_params)(model, p);
    if (!c) die("no context:", "llama_init_from_model failed");
    return c;
}

// logits runs one chunk; the rows belong to the context until its next run.
static float *logits(void *ctx, batch *b, const int32_t *ids, int n) {
    void *mem = FN(void *, llama_get_memory, void *)(ctx);
    FN(void, llama_memory_clear, void *, bool)(mem, true);
    b->n_tokens = n;
    for (int i = 0; i < n; i++) {
        b->token[i] = ids[i]; b->pos[i] = i; b->n_seq_id[i] = 1; b->seq_id[i][0] = 0; b->logits[i] = 1;
    }
    if (FN(int32_t, llama_decode, void *, batch)(ctx, *b)) die("llama_decode", "failed");
    return FN(float *, llama_get_logits, void *)(ctx);
}

static double logsumexp(const float *x, int n, int *top) {
    float m = x[0]; *top = 0;
    for (int i = 1; i < n; i++) if (x[i] > m) { m = x[i]; *top = i; }
    double s = 0;
    for (int i = 0; i < n; i++) s += exp((double)x[i] - m);
    return m + log(s);
}

static void *read_file(const char *path, long *size) {
    FILE *f = fopen(path, "rb");
    if (!f) die("cannot read", path);
    fseek(f, 0, SEEK_END); *size = ftell(f); rewind(f);
    char *p = malloc(*size + 1);
    if (fread(p, 1, *size, f) != (size_t)*size) die("cannot read", path);
    p[*size] = 0; fclose(f);
    return p;
}

int main(int argc, char **argv) {
    if (argc < 6) { fprintf(stderr, "usage: see the head of probe.c\n"); return 2; }
    open_library(argv[1]);
    FN(void, llama_log_set, void (*)(int, const char *, void *), void *)(silent, NULL);
    if (!strcmp(argv[2], "tokens")) {
        void *v = FN(void *, llama_model_get_vocab, void *)(open_model(argv[3], true));
        long size; char *text = read_file(argv[4], &size);
        int32_t *ids = malloc(4 * (size + 16));
        int n = FN(int32_t, llama_tokenize, void *, const char *, int32_t, int32_t *, int32_t, bool, bool)(v, text, size, ids, size + 16, false, false);
        if (n < 0) die("llama_tokenize", "failed");
        FILE *f = fopen(argv[5], "wb"); fwrite(ids, 4, n, f); fclose(f);
        printf("{\"tokens\": %d}\n", n);
        return 0;
    }
    if (strcmp(argv[2], "compare") || argc < 8) die("unknown command", argv[2]);
    int n_ctx = atoi(argv[6]), chunks = atoi(argv[7]);
    long size; int32_t *ids = read_file(argv[5], &size);
    if ((long)chunks * n_ctx * 4 > size) chunks = size / 4 / n_ctx;
    bool two = strcmp(argv[3], argv[4]) != 0;
    void *ma = open_model(argv[3], false), *mb = two ? open_model(argv[4], false) : ma;
    void *ca = open_context(ma, n_ctx), *cb = two ? open_context(mb, n_ctx) : ca;
    int vocab = FN(int32_t, llama_vocab_n_tokens, void *)(FN(void *, llama_model_get_vocab, void *)(ma));
    batch b = FN(batch, llama_batch_init, int32_t, int32_t, int32_t)(n_ctx, 0, 1);
    double nll_a = 0, nll_b = 0, kl = 0; long n = 0, same = 0;
    for (int c = 0; c < chunks; c++) {
        int32_t *t = ids + (long)c * n_ctx;
        float *la = logits(ca, &b, t, n_ctx), *lb = two ? logits(cb, &b, t, n_ctx) : la;
        for (int i = n_ctx / 2; i < n_ctx - 1; i++) {
            const float *x = la + (long)i * vocab, *y = lb + (long)i * vocab;
            int ta, tb; double za = logsumexp(x, vocab, &ta), zb = logsumexp(y, vocab, &tb), k = 0;
            for (int j = 0; j < vocab; j++) k += exp(x[j] - za) * ((x[j] - za) - (y[j] - zb));
            nll_a += za - x[t[i + 1]]; nll_b += zb - y[t[i + 1]];
            kl += k; same += ta == tb; n++;
        }
    }
    printf("{\"scored\": %ld, \"perplexity_a\": %.6f, \"perplexity_b\": %.6f, \"kl\": %.8f, \"top1\": %.6f}\n",
           n, exp(nll_a / n), exp(nll_b / n), kl / n, (double)same / n);
    return 0;
}
