// llama drives llama.cpp for the measurements of internal/peers, with the settings that its users get:
// f16 keys and values, flash attention as it decides itself, repacked weights where it has them.
//
//   llama LIBDIR quantize SRC DST FTYPE THREADS     as llama-quantize does; the process is measured from outside
//   llama LIBDIR first MODEL THREADS PROMPT         load, read the prompt, print one token; likewise
//   llama LIBDIR serve THREADS                      commands on standard input, one line each, one line of answer:
//
//     load SLOT CTX SEQS MODEL    open a model with room for SEQS texts of CTX tokens; slots 0 and 1
//     at N                        bring the text in slot 0 to N tokens, by forgetting or by reading
//     decode N                    read N more, one at a time
//     prefill N                   forget all, then read N tokens together
//     score IDS.i32 CHUNKS        what llama-perplexity does in two runs: perplexity of slot 0, whose
//                                 log-probabilities are kept in 16 bits, then KL divergence of slot 1
//
// Answers are "ok" and numbers: the seconds of every decode, of a prefill, of both passes of score.
// Tokens are (7919 i + 13) mod (vocabulary - 259) + 259 at position i, the same on both sides.
#define _GNU_SOURCE
#include "llama.h"
#include <link.h>
#include <math.h>
#include <pthread.h>
#include <time.h>


enum { most = 8 };
static struct slot { void *model, *ctx; int vocab, n_ctx, seqs, pos; batch b; } slots[2];
static int threads;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static int32_t token(int vocab, int i) { return vocab > 300 ? (int32_t)((7919LL * i + 13) % (vocab - 259)) + 259 : i % vocab; }

static void open_slot(struct slot *s, const char *path, int n_ctx, int seqs) {
    if (s->ctx) {
        FN(void, llama_free, void *)(s->ctx);
        FN(void, llama_model_free, void *)(s->model);
        FN(void, llama_batch_free, batch)(s->b);
    }
    s->model = FN(void *, llama_model_load_from_file, const char *, model_params)(path, FN(model_params, llama_model_default_params, void)());
    if (!s->model) die("llama.cpp refuses", path);
    if (n_ctx <= 0) n_ctx = FN(int32_t, llama_model_n_ctx_train, void *)(s->model);
    context_params p = default_context();
    p.n_ctx = n_ctx * seqs;
    p.n_seq = seqs;
    p.threads = p.threads_batch = threads;
    s->ctx = FN(void *, llama_init_from_model, void *, context_params)(s->model, p);
    if (!s->ctx) die("no context for", path);
    s->vocab = FN(int32_t, llama_vocab_n_tokens, void *)(FN(void *, llama_model_get_vocab, void *)(s->model));
    s->b = FN(batch, llama_batch_init, int32_t, int32_t, int32_t)(p.n_batch, 0, 1);
    s->n_ctx = n_ctx; s->seqs = seqs; s->pos = 0;
}

static void add(batch *b, int32_t id, int pos, int seq, bool logits) {
    int i = b->n_tokens++;
    b->token[i] = id; b->pos[i] = pos; b->n_seq_id[i] = 1; b->seq_id[i][0] = seq; b->logits[i] = logits;
}

static void decode(struct slot *s) {
    if (FN(int32_t, llama_decode, void *, batch)(s->ctx, s->b)) die("llama_decode", "failed");
    FN(void, llama_synchronize, void *)(s->ctx);
}

// read_tokens appends n tokens to the text, in batches as large as the library takes, and waits for the
// logits after the last.
static void read_tokens(struct slot *s, int n) {
    while (n > 0) {
        int k = n < 2048 ? n : 2048;
        s->b.n_tokens = 0;
        for (int i = 0; i < k; i++) add(&s->b, token(s->vocab, s->pos + i), s->pos + i, 0, i == n - 1);
        decode(s);
        s->pos += k; n -= k;
    }
    if (!FN(float *, llama_get_logits_ith, void *, int32_t)(s->ctx, -1)) die("no logits", "");
}

static void at(struct slot *s, int n) {
    void *mem = FN(void *, llama_get_memory, void *)(s->ctx);
    if (n < s->pos) {
        if (!FN(bool, llama_memory_seq_rm, void *, int32_t, int32_t, int32_t)(mem, 0, n, -1)) die("llama_memory_seq_rm", "failed");
        s->pos = n;
    }
    if (n > s->pos) read_tokens(s, n - s->pos);
}

// Rows of logits are worked on by all threads; loops are written so that compilers vectorise them, which
// the original's are not when they call expf: this side is given the benefit.
typedef struct { const float *logits; const int32_t *ids; uint16_t *base; int vocab, from, to; bool kl; double nll, sum, same; } work;

static void *rows(void *arg) {
    work *w = arg;
    int v = w->vocab;
    float *e = malloc(v * sizeof *e);
    for (int r = w->from; r < w->to; r++) {
        const float *x = w->logits + (size_t)r * v;
        uint16_t *kept = w->base + (size_t)r * (v + 4); // scale, smallest log-probability, then codes
        float top = x[0], low = x[0], sum = 0, scale, least;
        for (int i = 0; i < v; i++) { top = x[i] > top ? x[i] : top; low = x[i] < low ? x[i] : low; }
        for (int i = 0; i < v; i++) { e[i] = expf(x[i] - top); sum += e[i]; }
        float log_sum = logf(sum);
        w->nll += top + log_sum - x[w->ids[r + 1]];
        if (!w->kl) {
            low = low > top - 16 ? low : top - 16;
            least = low - top - log_sum;
            scale = (top - low) / 65535;
            memcpy(kept, &scale, 4); memcpy(kept + 2, &least, 4);
            float inverse = scale > 0 ? 1 / scale : 0;
            for (int i = 0; i < v; i++) { float d = x[i] > low ? inverse * (x[i] - low) + 0.5f : 0; kept[4 + i] = (uint16_t)(int)d; }
            continue;
        }
        memcpy(&scale, kept, 4); memcpy(&least, kept + 2, 4);
        float kl = 0; int best = 0, base_best = 0; uint16_t high = 0;
        for (int i = 0; i < v; i++) {
            float p = scale * kept[4 + i] + least;
            kl += expf(p) * (p - (x[i] - top - log_sum));
        }
        for (int i = 0; i < v; i++) high = kept[4 + i] > high ? kept[4 + i] : high;
        while (base_best < v - 1 && kept[4 + base_best] != high) base_best++;
        while (best < v - 1 && x[best] != top) best++;
        w->sum += kl;
        w->same += best == base_best;
    }
    free(e);
    return NULL;
}

static double pass(struct slot *s, const int32_t *ids, int chunks, uint16_t *base, bool kl, work *total) {
    int n = s->n_ctx, half = n / 2, score = n - 1 - half, stride = s->vocab + 4;
    double start = now();
    for (int c = 0; c < chunks; c += s->seqs) {
        int k = chunks - c < s->seqs ? chunks - c : s->seqs;
        FN(void, llama_memory_clear, void *, bool)(FN(void *, llama_get_memory, void *)(s->ctx), true);
        s->b.n_tokens = 0;
        for (int q = 0; q < k; q++)
            for (int i = 0; i < n; i++) add(&s->b, ids[(size_t)(c + q) * n + i], i, q, i >= half);
        decode(s);
        const float *logits = FN(float *, llama_get_logits, void *)(s->ctx);
        for (int q = 0; q < k; q++) {
            pthread_t thread[most];
            work part[most];
            for (int t = 0; t < threads; t++) {
                part[t] = (work){logits + (size_t)q * (n - half) * s->vocab, ids + (size_t)(c + q) * n + half,
                                 base + (size_t)(c + q) * score * stride, s->vocab, score * t / threads, score * (t + 1) / threads, kl, 0, 0, 0};
                if (pthread_create(&thread[t], NULL, rows, &part[t])) die("no thread", "");
            }
            for (int t = 0; t < threads; t++) {
                pthread_join(thread[t], NULL);
                total->nll += part[t].nll; total->sum += part[t].sum; total->same += part[t].same;
            }
        }
    }
    return now() - start;
}

static void score(const char *path, int chunks) {
    struct slot *a = &slots[0], *b = &slots[1];
    if (!a->ctx || !b->ctx || a->vocab != b->vocab || a->n_ctx != b->n_ctx) die("score:", "two models of one vocabulary are needed");
    size_t n = (size_t)chunks * a->n_ctx;
    int32_t *ids = malloc(n * 4);
    FILE *f = fopen(path, "rb");
    if (!f || fread(ids, 4, n, f) != n) die("too few tokens in", path);
    fclose(f);
    double count = (double)chunks * (a->n_ctx - 1 - a->n_ctx / 2);
    uint16_t *base = malloc((size_t)count * (a->vocab + 4) * 2);
    work one = {0}, two = {0};
    double s1 = pass(a, ids, chunks, base, false, &one), s2 = pass(b, ids, chunks, base, true, &two);
    printf("ok %.6f %.6f %.9g %.9g %.9g %.9g\n", s1, s2, exp(one.nll / count), exp(two.nll / count), two.sum / count, two.same / count);
    free(base); free(ids);
    a->pos = b->pos = 0;
}

// variant prints which of the CPU libraries was loaded.
static int variant(struct dl_phdr_info *info, size_t size, void *data) {
    (void)size; (void)data;
    const char *p = strstr(info->dlpi_name, "libggml-cpu-");
    if (p) printf("ok %.*s\n", (int)strcspn(p + 12, "."), p + 12);
    return p != NULL;
}

static int serve(void) {
    char line[8192];
    if (!dl_iterate_phdr(variant, NULL)) die("no CPU library", "was loaded");
    for (fflush(stdout); fgets(line, sizeof line, stdin); fflush(stdout)) {
        struct slot *s = &slots[0];
        int n, slot, n_ctx, seqs, used = 0;
        line[strcspn(line, "\n")] = 0;
        double start = now();
        if (sscanf(line, "load %d %d %d %n", &slot, &n_ctx, &seqs, &used) == 3 && used && slot >= 0 && slot < 2) {
            open_slot(&slots[slot], line + used, n_ctx, seqs);
            printf("ok %.6f\n", now() - start);
        } else if (sscanf(line, "score %d %n", &n, &used) == 1 && used) {
            score(line + used, n);
        } else if (!s->ctx) {
            die("no model for", line);
        } else if (sscanf(line, "at %d", &n) == 1) {
            at(s, n);
            printf("ok %.6f\n", now() - start);
        } else if (sscanf(line, "prefill %d", &n) == 1) {
            at(s, 0);
            start = now();
            read_tokens(s, n);
            printf("ok %.6f\n", now() - start);
        } else if (sscanf(line, "decode %d", &n) == 1) {
            printf("ok");
            for (int i = 0; i < n; i++) {
                start = now();
                read_tokens(s, 1);
                printf(" %.6f", now() - start);
            }
            puts("");
        } else die("unknown command", line);
    }
    return 0;
}

typedef struct {
    int32_t threads, ftype, output_type, embedding_type;
    bool requantize, quantize_output, copy, pure, keep_split, dry_run;
    void *imatrix, *overrides, *types, *prune;
    size_t max_buffer;
} quantize_params;

static int quantize(const char *src, const char *dst, int ftype) {
    quantize_params p = FN(quantize_params, llama_model_quantize_default_params, void)();
    if (p.ftype != 7 || p.output_type != 43) die("unexpected defaults:", "this is not llama.cpp v0.5.0");
    p.ftype = ftype; p.threads = threads;
    return FN(uint32_t, llama_model_quantize, const char *, const char *, quantize_params *)(src, dst, &p) != 0;
}

static int first(const char *model, const char *prompt) {
    struct slot *s = &slots[0];
    open_slot(s, model, 0, 1);
    void *vocab = FN(void *, llama_model_get_vocab, void *)(s->model);
    int n = FN(int32_t, llama_tokenize, void *, const char *, int32_t, int32_t *, int32_t, bool, bool)(vocab, prompt, strlen(prompt), s->b.token, 2048, true, false);
    if (n <= 0) die("llama_tokenize", "failed");
    s->b.n_tokens = 0;
    for (int i = 0; i < n; i++) add(&s->b, s->b.token[i], i, 0, i == n - 1);
    decode(s);
    const float *x = FN(float *, llama_get_logits_ith, void *, int32_t)(s->ctx, -1);
    int best = 0;
    for (int i = 1; i < s->vocab; i++) if (x[i] > x[best]) best = i;
    char text[256];
    n = FN(int32_t, llama_token_to_piece, void *, int32_t, char *, int32_t, int32_t, bool)(vocab, best, text, sizeof text, 0, true);
    return printf("%.*s\n", n > 0 ? n : 0, text) < 0;
}

int main(int argc, char **argv) {
    if (argc < 4) { fprintf(stderr, "usage: see the head of llama.c\n"); return 2; }
    open_library(argv[1]);
    if (!strcmp(argv[2], "serve")) threads = atoi(argv[3]);
    if (!strcmp(argv[2], "quantize") && argc == 7) threads = atoi(argv[6]);
    if (!strcmp(argv[2], "first") && argc == 6) threads = atoi(argv[4]);
    if (threads < 1 || threads > most) die("threads:", "1 to 8");
    if (!strcmp(argv[2], "serve")) return serve();
    if (!strcmp(argv[2], "quantize")) return quantize(argv[3], argv[4], atoi(argv[5]));
    return first(argv[3], argv[5]);
}
