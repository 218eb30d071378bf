/* Runs the model that it is linked with from several threads, on buffers of exactly the right size.
 *
 * usage: stress THREADS CALLERS RUNS. Each two callers share an instance. Output k must be input k, or, if compiled
 * with AFFINE, 2 x + 1 of it. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "plan.h"
#include "tvmconv.h"

static tvmconv_model *models[8];
static int runs;
static int wrong[16];

static int differs(const unsigned char *x, const unsigned char *y, size_t bytes) {
#ifdef AFFINE
  for (size_t i = 0; i + 4 <= bytes; i += 4) {
    float a, b;
    memcpy(&a, x + i, 4);
    memcpy(&b, y + i, 4);
    if (b != 2 * a + 1) return 1;
  }
  return 0;
#else
  return memcmp(x, y, bytes) != 0;
#endif
}

static void fill(unsigned char *x, size_t bytes, unsigned seed) {
#ifdef AFFINE
  for (size_t i = 0; i + 4 <= bytes; i += 4) memcpy(x + i, &(float){(float)((seed + i) % 1000)}, 4);
#else
  for (size_t i = 0; i < bytes; i++) x[i] = (unsigned char)((seed = seed * 1664525u + 1013904223u) >> 24);
#endif
}

static void *call(void *argument) {
  const tvmconv_plan *plan = &tvmconv_model_plan;
  int caller = (int)(size_t)argument;
  const void *inputs[TVMCONV_MAX_PORTS];
  void *outputs[TVMCONV_MAX_PORTS];
  for (int r = 0; r < runs; r++) {
    for (int k = 0; k < plan->input_count; k++) {
      inputs[k] = malloc(plan->inputs[k].bytes);
      outputs[k] = malloc(plan->outputs[k].bytes);
      fill((unsigned char *)inputs[k], plan->inputs[k].bytes, (unsigned)(r + k + 31 * caller));
    }
    if (tvmconv_run(models[caller / 2], inputs, outputs)) {
      fprintf(stderr, "%s\n", tvmconv_error());
      wrong[caller]++;
    }
    for (int k = 0; k < plan->input_count; k++) {
      wrong[caller] += differs(inputs[k], outputs[k], plan->inputs[k].bytes);
      free((void *)inputs[k]);
      free(outputs[k]);
    }
    if (r % 16 == 0) nanosleep(&(struct timespec){0, 300000}, NULL); /* long enough for the workers to sleep */
  }
  return NULL;
}

int main(int count, char **arguments) {
  if (count != 4) return 2;
  int threads = atoi(arguments[1]), callers = atoi(arguments[2]), bad = 0;
  pthread_t thread[16];
  runs = atoi(arguments[3]);
  for (int i = 0; i < (callers + 1) / 2; i++)
    if (tvmconv_create(&models[i], threads)) return 3;
  for (int i = 1; i < callers; i++)
    if (pthread_create(&thread[i], NULL, call, (void *)(size_t)i)) return 4;
  call((void *)0);
  for (int i = 1; i < callers; i++) pthread_join(thread[i], NULL);
  for (int i = 0; i < callers; i++) bad += wrong[i];
  for (int i = 0; i < (callers + 1) / 2; i++) tvmconv_destroy(models[i]);
  printf("wrong: %d\n", bad);
  return bad != 0;
}
