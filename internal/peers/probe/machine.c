// machine measures what the processor and its memory can do, and the linear algebra of others beside it.
//
//   machine [LIBRARY PREFIX]      commands on standard input, one line each, one line of answer:
//
//     read BYTES THREADS          bytes a second of reading as much memory, again and again for 0.3 s
//     peak f32|f64 THREADS        floating point operations a second of independent multiply-adds
//     peak bf16 THREADS           of independent dot products of pairs of bfloat16, 0 without instructions for them
//     about                       what the library says of itself and of the kernels it chose
//     gemm f32|f64 N THREADS      seconds of one product of N x N matrices, the mean over 0.2 s
//
// Every thread takes its own time, so that one that starts late does not make the others look fast.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { most = 8 };
typedef float vf __attribute__((vector_size(64)));
typedef double vd __attribute__((vector_size(64)));
typedef struct { size_t bytes; uint64_t *memory; int kind; double rate; } task;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void die(const char *what) { fprintf(stderr, "machine: %s\n", what); exit(1); }

typedef uint64_t vu __attribute__((vector_size(64), aligned(64)));
static volatile uint64_t sink;
static volatile float one = 0.999999f;

static void *reading(void *arg) {
    task *t = arg;
    enum { ahead = 4096 };
    vu s[4] = {{0}};
    size_t n = t->bytes / 512, passes = 0; // two halves at once: more of what fetches ahead is at work
    double start = now(), end;
    do {
        const vu *p = (const vu *)t->memory, *q = p + n * 4;
        for (size_t i = 0; i < n; i++, p += 4, q += 4) {
            for (int k = 0; k < 4; k++) {
                __builtin_prefetch((const char *)(p + k) + ahead);
                __builtin_prefetch((const char *)(q + k) + ahead);
                s[k] ^= p[k] + q[k];
            }
        }
        passes++;
    } while ((end = now()) < start + 0.3);
    vu all = s[0] ^ s[1] ^ s[2] ^ s[3];
    sink = all[0] ^ all[1] ^ all[2] ^ all[3] ^ all[4] ^ all[5] ^ all[6] ^ all[7];
    t->rate = passes * n * 512.0 / (end - start);
    return NULL;
}

// Twelve sums that do not wait for each other, in registers, keep two units of four or five cycles busy.
// They start with different numbers, for equal ones would be computed once.
#define PEAK(name, V, T)                                                                        \
    static double name(void) {                                                                  \
        V m = {0}, a, b, c, d, e, f, g, h, i, j, k, l;                                          \
        m += (T)one;                                                                            \
        a = m + 1; b = m + 2; c = m + 3; d = m + 4; e = m + 5; f = m + 6;                       \
        g = m + 7; h = m + 8; i = m + 9; j = m + 10; k = m + 11; l = m + 12;                    \
        const long n = 4000000;                                                                 \
        double start = now();                                                                   \
        for (long t = 0; t < n; t++) {                                                          \
            a = a * m + m; b = b * m + m; c = c * m + m; d = d * m + m; e = e * m + m; f = f * m + m; \
            g = g * m + m; h = h * m + m; i = i * m + m; j = j * m + m; k = k * m + m; l = l * m + m; \
        }                                                                                       \
        double seconds = now() - start;                                                         \
        a += b + c + d + e + f + g + h + i + j + k + l;                                         \
        sink = (uint64_t)a[0];                                                                  \
        return 2.0 * n * 12 * (sizeof(V) / sizeof(T)) / seconds;                                \
    }
PEAK(peak32, vf, float)
PEAK(peak64, vd, double)

#ifdef __AVX512BF16__
#include <immintrin.h>
static double peak16(void) {
    __m512 sum[12];
    __m512bh m = (__m512bh)_mm512_set1_ps(one);
    for (int i = 0; i < 12; i++) sum[i] = _mm512_set1_ps(i);
    const long n = 2000000;
    double start = now();
    for (long t = 0; t < n; t++)
        for (int i = 0; i < 12; i++) sum[i] = _mm512_dpbf16_ps(sum[i], m, m);
    double seconds = now() - start;
    for (int i = 1; i < 12; i++) sum[0] += sum[i];
    sink = (uint64_t)sum[0][0];
    return 2.0 * n * 12 * 32 / seconds;
}
#else
static double peak16(void) { return 0; }
#endif

static void *adding(void *arg) {
    task *t = arg;
    t->rate = t->kind == 16 ? peak16() : t->kind == 32 ? peak32() : peak64();
    return NULL;
}

static double together(void *(*fn)(void *), task *tasks, int n) {
    pthread_t thread[most];
    double sum = 0;
    for (int i = 0; i < n; i++) if (pthread_create(&thread[i], NULL, fn, &tasks[i])) die("no thread");
    for (int i = 0; i < n; i++) { pthread_join(thread[i], NULL); sum += tasks[i].rate; }
    return sum;
}

static double read_rate(size_t bytes, int threads) {
    static uint64_t *memory;
    static size_t have;
    if (bytes > have) {
        free(memory);
        if (posix_memalign((void **)&memory, 1 << 21, bytes)) die("no memory");
#ifdef MADV_HUGEPAGE
        madvise(memory, bytes, MADV_HUGEPAGE); // where it is refused, small pages do
#endif
        for (size_t i = 0; i < bytes / 8; i++) memory[i] = i; // pages that were never written are all one page
        have = bytes;
    }
    task t[most];
    size_t part = bytes / threads / 4096 * 4096;
    if (!part) die("too few bytes");
    for (int i = 0; i < threads; i++) t[i] = (task){part, memory + part / 8 * i, 0, 0};
    return together(reading, t, threads);
}

static void *library;
static const char *prefix = "";

static void *find(const char *name) {
    char full[128];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    void *p = library ? dlsym(library, full) : NULL;
    if (!p) die(library ? dlerror() : "no library was named");
    return p;
}

static double gemm(int kind, int n, int threads) {
    static void *m[3];
    static size_t have;
    size_t bytes = (size_t)n * n * kind / 8;
    if (bytes > have) {
        for (int i = 0; i < 3; i++) {
            free(m[i]);
            if (posix_memalign(&m[i], 4096, bytes)) die("no memory");
        }
        have = bytes;
    }
    for (size_t i = 0; i < (size_t)n * n; i++)
        for (int j = 0; j < 2; j++) {
            double v = (double)((i * (j ? 40503 : 30011)) & 1023) / 512 - 1;
            if (kind == 32) ((float *)m[j])[i] = v; else ((double *)m[j])[i] = v;
        }
    ((void (*)(int))find("openblas_set_num_threads"))(threads);
    double start = 0;
    long reps = -1; // the first product warms up
    do {
        if (kind == 32)
            ((void (*)(int, int, int, int, int, int, float, void *, int, void *, int, float, void *, int))find("cblas_sgemm"))(101, 111, 111, n, n, n, 1, m[0], n, m[1], n, 0, m[2], n);
        else
            ((void (*)(int, int, int, int, int, int, double, void *, int, void *, int, double, void *, int))find("cblas_dgemm"))(101, 111, 111, n, n, n, 1, m[0], n, m[1], n, 0, m[2], n);
        if (++reps == 0) start = now();
    } while (reps == 0 || now() < start + 0.2);
    return (now() - start) / reps;
}

int main(int argc, char **argv) {
    char line[256];
    if (argc == 3) {
        prefix = argv[2];
        if (!(library = dlopen(argv[1], RTLD_NOW))) die(dlerror());
    }
    while (fgets(line, sizeof line, stdin)) {
        int bits, n, threads;
        long long bytes;
        task t[most];
        if (sscanf(line, "read %lld %d", &bytes, &threads) == 2 && threads > 0 && threads <= most) {
            printf("ok %.6g\n", read_rate(bytes, threads));
        } else if (sscanf(line, "peak bf16 %d", &threads) == 1 && threads > 0 && threads <= most) {
            for (int i = 0; i < threads; i++) t[i] = (task){0, NULL, 16, 0};
            printf("ok %.6g\n", together(adding, t, threads));
        } else if (sscanf(line, "peak f%d %d", &bits, &threads) == 2 && threads > 0 && threads <= most) {
            for (int i = 0; i < threads; i++) t[i] = (task){0, NULL, bits, 0};
            printf("ok %.6g\n", together(adding, t, threads));
        } else if (sscanf(line, "gemm f%d %d %d", &bits, &n, &threads) == 3 && (bits == 32 || bits == 64) && n > 0) {
            printf("ok %.9g\n", gemm(bits, n, threads));
        } else if (!strncmp(line, "about", 5)) {
            printf("ok %s, kernels for %s\n", ((char *(*)(void))find("openblas_get_config"))(), ((char *(*)(void))find("openblas_get_corename"))());
        } else die("unknown command");
        fflush(stdout);
    }
    return 0;
}
