/* Measures what the machine can do, as the yardstick of every benchmark:
 *   peak MAX_THREADS ARRAY_BYTES
 * prints {"vector_bytes": …, "threads": [{"threads": n, "gflops": …, "read_gb_s": …, "triad_gb_s": …}, …]}
 * for n = 1, 2, 4 … MAX_THREADS. ARRAY_BYTES is the size of each of three arrays, together far above
 * the last cache. Every figure is the best of several short bursts: a peak is what is possible when
 * nothing else runs. Compiler vectors, not intrinsics, so that the same source measures AVX-512, AVX2,
 * SSE and NEON; the number of accumulators hides the latency of the FMA and still fits the registers. */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#define ACCUMULATORS 24
#define FULL_WIDTH __attribute__((min_vector_width(512)))
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#define ACCUMULATORS 12
#else
#define VECTOR_BYTES 16
#if defined(__aarch64__)
#define ACCUMULATORS 24
#else
#define ACCUMULATORS 12
#endif
#endif
#ifndef FULL_WIDTH
#define FULL_WIDTH
#endif

#define LANES (VECTOR_BYTES / (int)sizeof(float))
#define BURST_S 0.01
#define BURSTS 24
#define SWEEPS 4

typedef float vec __attribute__((vector_size(VECTOR_BYTES), aligned(VECTOR_BYTES)));

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* iterations x ACCUMULATORS x LANES fused multiply-adds; the sum keeps them from being removed. */
FULL_WIDTH static float fma_burst(long iterations, float start) {
  vec acc[ACCUMULATORS];
  const vec zero = {0};
  const vec x = zero + (0.999f + start), y = zero + 1e-6f;
#pragma clang loop unroll(full)
  for (int i = 0; i < ACCUMULATORS; i++) acc[i] = zero + (start + 1e-3f * (float)i);
#pragma clang loop unroll(disable)
  for (long k = 0; k < iterations; k++) {
#pragma clang loop unroll(full)
    for (int i = 0; i < ACCUMULATORS; i++) acc[i] = acc[i] * x + y;
  }
  vec sum = zero;
#pragma clang loop unroll(full)
  for (int i = 0; i < ACCUMULATORS; i++) sum += acc[i];
  float total = 0;
  for (int lane = 0; lane < LANES; lane++) total += sum[lane];
  return total;
}

/* Sum of a[0 .. vectors): eight independent sums, so that loads and not additions are the limit. */
FULL_WIDTH static float read_sweep(const vec *a, size_t vectors) {
  vec s[8] = {{0}};
  for (size_t i = 0; i + 8 <= vectors; i += 8) {
#pragma clang loop unroll(full)
    for (int j = 0; j < 8; j++) s[j] += a[i + (size_t)j];
  }
  vec sum = ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
  return sum[0] + sum[LANES - 1];
}

FULL_WIDTH static void triad_sweep(vec *a, const vec *b, const vec *c, size_t vectors, float q) {
  const vec zero = {0};
  const vec scale = zero + q;
  for (size_t i = 0; i < vectors; i++) a[i] = b[i] + scale * c[i];
}

typedef struct {
  int threads;
  size_t vectors; /* of one thread's share of an array */
  long iterations;
  pthread_barrier_t barrier;
  double gflops, read_gb_s, triad_gb_s;
} team;

typedef struct {
  team *team;
  int index;
  float sink; /* where the results go, so that the work stays */
} worker;

static double faster(double best, double work, double seconds) {
  double rate = work / seconds / 1e9;
  return rate > best ? rate : best;
}

static void *work(void *argument) {
  worker *me = argument;
  team *t = me->team;
  const size_t n = t->vectors;
  vec *arrays = aligned_alloc(64, 3 * n * sizeof(vec));
  if (!arrays) {
    fputs("peak: out of memory\n", stderr);
    exit(3);
  }
  vec *a = arrays, *b = arrays + n, *c = arrays + 2 * n;
  for (size_t i = 0; i < 3 * n; i++) arrays[i] = (vec){0} + 1.0f; /* touched by the thread that uses it */
  const double bytes = (double)t->threads * (double)n * sizeof(vec);
  const double flops = 2.0 * t->threads * (double)t->iterations * ACCUMULATORS * LANES;
  double start = 0;
  for (int r = 0; r < BURSTS + 2 * SWEEPS; r++) {
    pthread_barrier_wait(&t->barrier);
    if (me->index == 0) start = now();
    if (r < BURSTS)
      me->sink += fma_burst(t->iterations, me->sink * 1e-30f);
    else if (r < BURSTS + SWEEPS)
      me->sink += read_sweep(a, n);
    else
      triad_sweep(a, b, c, n, 0.5f);
    pthread_barrier_wait(&t->barrier);
    if (me->index) continue;
    const double seconds = now() - start;
    if (r < BURSTS)
      t->gflops = faster(t->gflops, flops, seconds);
    else if (r < BURSTS + SWEEPS)
      t->read_gb_s = faster(t->read_gb_s, bytes, seconds);
    else
      t->triad_gb_s = faster(t->triad_gb_s, 3 * bytes, seconds);
  }
  me->sink += a[n / 2][0];
  free(arrays);
  return NULL;
}

static int measure(int threads, size_t array_bytes, long iterations, const char *separator) {
  team t = {.threads = threads, .iterations = iterations};
  t.vectors = array_bytes / (size_t)threads / sizeof(vec) / 8 * 8;
  pthread_t *ids = calloc((size_t)threads, sizeof *ids);
  worker *workers = calloc((size_t)threads, sizeof *workers);
  if (!ids || !workers || pthread_barrier_init(&t.barrier, NULL, (unsigned)threads)) return 3;
  for (int i = 0; i < threads; i++) {
    workers[i] = (worker){.team = &t, .index = i};
    if (i && pthread_create(&ids[i], NULL, work, &workers[i])) return 3;
  }
  work(&workers[0]);
  volatile float sink = workers[0].sink;
  for (int i = 1; i < threads; i++) {
    pthread_join(ids[i], NULL);
    sink += workers[i].sink;
  }
  printf("%s{\"threads\": %d, \"gflops\": %.2f, \"read_gb_s\": %.2f, \"triad_gb_s\": %.2f}", separator,
         threads, t.gflops, t.read_gb_s, t.triad_gb_s);
  pthread_barrier_destroy(&t.barrier);
  free(ids);
  free(workers);
  return 0;
}

/* How many iterations of fma_burst take about BURST_S; also wakes the core's clock. */
static long calibrate(void) {
  volatile float sink = 0;
  for (long iterations = 10000;; iterations *= 2) {
    double start = now();
    sink += fma_burst(iterations, 0);
    double seconds = now() - start;
    if (seconds >= BURST_S) return (long)((double)iterations * BURST_S / seconds) + 1;
  }
}

int main(int argc, char **argv) {
  int max_threads = argc > 1 ? atoi(argv[1]) : 0;
  long long array_bytes = argc > 2 ? atoll(argv[2]) : 0;
  if (max_threads < 1 || array_bytes < 1 << 20) {
    fputs("usage: peak MAX_THREADS ARRAY_BYTES (at least 1 MiB)\n", stderr);
    return 2;
  }
  long iterations = calibrate();
  printf("{\"vector_bytes\": %d, \"threads\": [", VECTOR_BYTES);
  for (int n = 1;; n = 2 * n < max_threads ? 2 * n : max_threads) {
    int code = measure(n, (size_t)array_bytes, iterations, n > 1 ? ", " : "");
    if (code) {
      fputs("peak: cannot start the threads\n", stderr);
      return code;
    }
    if (n == max_threads) break;
  }
  puts("]}");
  return 0;
}
