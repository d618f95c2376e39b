// probe drives the real llama.cpp through its C API, so that packages are judged by the runtime
// that people use. It is compiled by the interop tests, for x86-64 and for arm64, and links nothing:
// the shared libraries of an npm package are loaded at run time.
//
//   probe LIBDIR tokens MODEL.gguf TEXT OUT.i32             tokenize a text without special tokens
//   probe LIBDIR score  IDS.i32 CTX CHUNKS BASE.gguf A.gguf... perplexity of each model, and of those after
//                                                           the first KL(BASE||A) and agreement of the first token
//   probe LIBDIR embed  MODEL.gguf TEXTS.txt OUT.f32        embeddings of lines, as the file asks for and of length 1
//
// The protocol is llama.cpp's own: chunks without overlap, second half scored. The KV cache is
// float32 and flash attention is off, which makes runs agree across machines.
#include "llama.h"
#include <math.h>

static void *open_model(const char *path, bool vocab_only) {
    model_params p = FN(model_params, llama_model_default_params, void)();
    p.check_tensors = true;
    p.vocab_only = vocab_only;
    void *m = FN(void *, llama_model_load_from_file, const char *, model_params)(path, p);
    if (!m) die("llama.cpp refuses", path);
    return m;
}

static void *open_context(void *model, int n_ctx) {
    context_params p = default_context();
    p.n_ctx = p.n_batch = p.n_ubatch = n_ctx;
    p.threads = p.threads_batch = 1; // its workers spin: two of them starve when the machine is busy
    p.type_k = p.type_v = 0;
    p.flash = 0;
    void *c = FN(void *, llama_init_from_model, void *, context_params)(model, p);
    if (!c) die("no context:", "llama_init_from_model failed");
    return c;
}

// logits runs one chunk and returns the rows of its second half, which is what is scored. They belong
// to the context until its next run.
static float *logits(void *ctx, batch *b, const int32_t *ids, int n) {
    void *mem = FN(void *, llama_get_memory, void *)(ctx);
    FN(void, llama_memory_clear, void *, bool)(mem, true);
    b->n_tokens = n;
    for (int i = 0; i < n; i++) {
        b->token[i] = ids[i]; b->pos[i] = i; b->n_seq_id[i] = 1; b->seq_id[i][0] = 0; b->logits[i] = i >= n / 2;
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

static int tokens(const char *model, const char *text_path, const char *out) {
    void *v = FN(void *, llama_model_get_vocab, void *)(open_model(model, true));
    long size; char *text = read_file(text_path, &size);
    int32_t *ids = malloc(4 * (size + 16));
    int n = FN(int32_t, llama_tokenize, void *, const char *, int32_t, int32_t *, int32_t, bool, bool)(v, text, size, ids, size + 16, false, false);
    if (n < 0) die("llama_tokenize", "failed");
    FILE *f = fopen(out, "wb");
    if (!f || fwrite(ids, 4, n, f) != (size_t)n || fclose(f)) die("cannot write", out);
    printf("{\"tokens\": %d}\n", n);
    return 0;
}

// number prints a value as Python's JSON reads it, also when a damaged model gives none.
static void number(const char *name, double v, const char *after) {
    if (isfinite(v)) printf("\"%s\": %.9f%s", name, v, after);
    else printf("\"%s\": %s%s", name, isnan(v) ? "NaN" : "Infinity", after);
}

// score runs all models on a chunk before it goes to the next, so that the rows of the first, to which
// the others are compared, are computed once and need not be stored.
static int score(const char *ids_path, int n_ctx, int chunks, char **paths, int models) {
    long size; int32_t *ids = read_file(ids_path, &size);
    if ((long)chunks * n_ctx * 4 > size) die("too few tokens in", ids_path);
    struct { void *ctx; double nll, kl; long same; } *m = calloc(models, sizeof *m);
    int vocab = 0;
    for (int i = 0; i < models; i++) {
        void *model = open_model(paths[i], false);
        int n = FN(int32_t, llama_vocab_n_tokens, void *)(FN(void *, llama_model_get_vocab, void *)(model));
        if (i && n != vocab) die("another vocabulary:", paths[i]);
        vocab = n;
        m[i].ctx = open_context(model, n_ctx);
    }
    batch b = FN(batch, llama_batch_init, int32_t, int32_t, int32_t)(n_ctx, 0, 1);
    int half = n_ctx / 2, rows = n_ctx - half - 1; // the last token has no successor
    for (int c = 0; c < chunks; c++) {
        const int32_t *t = ids + (long)c * n_ctx;
        const float *base = NULL;
        for (int i = 0; i < models; i++) {
            const float *l = logits(m[i].ctx, &b, t, n_ctx);
            if (!i) base = l;
            for (int r = 0; r < rows; r++) {
                const float *x = base + (long)r * vocab, *y = l + (long)r * vocab;
                int tx, ty; double zy = logsumexp(y, vocab, &ty);
                m[i].nll += zy - y[t[half + r + 1]];
                if (!i) continue;
                double zx = logsumexp(x, vocab, &tx);
                for (int j = 0; j < vocab; j++) m[i].kl += exp(x[j] - zx) * ((x[j] - zx) - (y[j] - zy));
                m[i].same += tx == ty;
            }
        }
    }
    double n = (double)chunks * rows;
    for (int i = 0; i < models; i++) {
        fputs(i ? ", {" : "[{", stdout);
        number("perplexity", exp(m[i].nll / n), ", ");
        number("kl", m[i].kl / n, ", ");
        number("top1", i ? m[i].same / n : 1, i < models - 1 ? "}" : "}]\n");
    }
    return 0;
}

// embed writes one vector a line of text, pooled as the model says, and the number of tokens of each.
static int embed(const char *path, const char *text_path, const char *out) {
    void *model = open_model(path, false), *vocab = FN(void *, llama_model_get_vocab, void *)(model);
    context_params p = default_context();
    p.threads = p.threads_batch = 1;
    p.embeddings = true;
    p.flash = 0;
    void *ctx = FN(void *, llama_init_from_model, void *, context_params)(model, p);
    if (!ctx) die("no context:", "llama_init_from_model failed");
    int width = FN(int32_t, llama_model_n_embd, void *)(model);
    long size; char *text = read_file(text_path, &size);
    batch b = FN(batch, llama_batch_init, int32_t, int32_t, int32_t)(512, 0, 1);
    FILE *f = fopen(out, "wb");
    if (!f) die("cannot write", out);
    int lines = 0;
    printf("{\"tokens\": [");
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        b.n_tokens = FN(int32_t, llama_tokenize, void *, const char *, int32_t, int32_t *, int32_t, bool, bool)(vocab, line, strlen(line), b.token, 512, true, false);
        if (b.n_tokens <= 0) die("llama_tokenize", "failed");
        for (int i = 0; i < b.n_tokens; i++) { b.pos[i] = i; b.n_seq_id[i] = 1; b.seq_id[i][0] = 0; b.logits[i] = 1; }
        if (FN(int32_t, llama_encode, void *, batch)(ctx, b)) die("llama_encode", "failed");
        const float *v = FN(float *, llama_get_embeddings_seq, void *, int32_t)(ctx, 0);
        if (!v) die("llama.cpp makes no embedding of", path);
        double length = 0;
        for (int i = 0; i < width; i++) length += (double)v[i] * v[i];
        for (int i = 0; i < width; i++) { float x = v[i] / sqrt(length); fwrite(&x, 4, 1, f); }
        printf("%s%d", lines++ ? ", " : "", b.n_tokens);
    }
    printf("], \"width\": %d}\n", width);
    if (fclose(f)) die("cannot write", out);
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 6) { fprintf(stderr, "usage: see the head of probe.c\n"); return 2; }
    open_library(argv[1]);
    if (!strcmp(argv[2], "tokens")) return tokens(argv[3], argv[4], argv[5]);
    if (!strcmp(argv[2], "embed")) return embed(argv[3], argv[4], argv[5]);
    if (!strcmp(argv[2], "score") && argc > 6) return score(argv[3], atoi(argv[4]), atoi(argv[5]), argv + 6, argc - 6);
    die("unknown command", argv[2]);
}
