/* Runs several models of one program at once, as hard as it can, and misuses them meanwhile.
 *
 * usage: load FOLDER THREADS CALLERS RUNS, with FOLDER/<prefix>_<number>.raw as inputs. Each model has CALLERS threads
 * that run it RUNS times, each two on one instance; a thread that makes, runs and ends instances of its own; and one
 * that makes mistakes. The first output of every model is what all others must be, to the bit; it is written to
 * FOLDER/<prefix>_out_<number>.raw. models.h lists the models. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MOST_PORTS = 128, MOST_THREADS = 64, BAD_ARGUMENT = 1, KERNEL_FAILED = 3 };

#define DECLARE(prefix)                                                           \
  int prefix##_create(void **, int);                                              \
  int prefix##_run(void *, const void *const *, void *const *);                   \
  void prefix##_destroy(void *);                                                  \
  const char *prefix##_error(void);
#define FUNCTIONS(prefix) #prefix, prefix##_create, prefix##_run, prefix##_destroy, prefix##_error

typedef struct {
  const char *prefix;
  int (*create)(void **, int);
  int (*run)(void *, const void *const *, void *const *);
  void (*destroy)(void *);
  const char *(*error)(void);
  const char *fails; /* what every run says, for a model that cannot run */
  int inputs, outputs;
  size_t bytes[2 * MOST_PORTS]; /* of the inputs, then of the outputs */
  unsigned char *data[2 * MOST_PORTS];
} model;

#include "models.h" /* static model models[] */

#define MODELS (sizeof models / sizeof *models)

typedef struct {
  model *m;
  void *instance;
  pthread_t thread;
} caller;

static const char *folder;
static int threads, runs;
static atomic_int wrong;

static void expect(int right, const model *m, const char *what) {
  if (right) return;
  atomic_fetch_add(&wrong, 1);
  fprintf(stderr, "%s: %s: '%s'\n", m->prefix, what, m->error());
}

/* One run, from and to buffers that end where the tensors do. */
static void run(model *m, void *instance, int first) {
  void *place[2 * MOST_PORTS];
  int ports = m->inputs + m->outputs;
  for (int k = 0; k < ports; k++) {
    place[k] = malloc(m->bytes[k]);
    if (k < m->inputs) memcpy(place[k], m->data[k], m->bytes[k]);
  }
  int code = m->run(instance, (const void *const *)place, place + m->inputs);
  if (m->fails)
    expect(code == KERNEL_FAILED && strstr(m->error(), m->fails), m, "does not fail");
  else
    expect(!code && !m->error()[0], m, "fails");
  for (int k = m->inputs; k < ports; k++) {
    if (first) memcpy(m->data[k], place[k], m->bytes[k]);
    if (!m->fails) expect(!memcmp(place[k], m->data[k], m->bytes[k]), m, "another result");
  }
  for (int k = 0; k < ports; k++) free(place[k]);
}

static void *call(void *argument) {
  caller *c = argument;
  for (int r = 0; r < runs; r++) {
    run(c->m, c->instance, 0);
    if (r % 16 == 0) nanosleep(&(struct timespec){0, 300000}, NULL); /* long enough for the workers to sleep */
  }
  return NULL;
}

static void *churn(void *argument) {
  caller *c = argument;
  for (int r = 0; r < runs / 8; r++) {
    void *instance;
    int code = c->m->create(&instance, 1 + r % 4);
    expect(!code, c->m, "cannot be created");
    if (code) continue;
    if (r % 3) run(c->m, instance, 0);
    c->m->destroy(instance);
  }
  return NULL;
}

static void *blunder(void *argument) {
  caller *c = argument;
  model *m = c->m;
  const void *inputs[MOST_PORTS] = {NULL};
  void *outputs[MOST_PORTS] = {NULL};
  for (int r = 0; r < runs; r++) {
    expect(m->create(NULL, 1) == BAD_ARGUMENT && m->error()[0], m, "creates nothing");
    expect(m->run(NULL, inputs, outputs) == BAD_ARGUMENT && m->error()[0], m, "runs without a model");
    expect(m->run(c->instance, NULL, outputs) == BAD_ARGUMENT && m->error()[0], m, "runs without inputs");
    expect(m->run(c->instance, inputs, outputs) == BAD_ARGUMENT && m->error()[0], m, "runs on NULL");
    m->destroy(NULL);
  }
  return NULL;
}

static void transfer(const model *m, int port, const char *middle, int number, const char *mode) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s%s_%d.raw", folder, m->prefix, middle, number);
  FILE *file = fopen(path, mode);
  size_t bytes = m->bytes[port], moved = 0;
  if (file) moved = *mode == 'r' ? fread(m->data[port], 1, bytes, file) : fwrite(m->data[port], 1, bytes, file);
  if (moved == bytes && !fclose(file)) return;
  perror(path);
  exit(2);
}

static void first_run(model *m) {
  void *instance;
  for (int k = 0; k < m->inputs + m->outputs; k++) m->data[k] = malloc(m->bytes[k]);
  for (int k = 0; k < m->inputs; k++) transfer(m, k, "", k, "rb");
  expect(!m->create(&instance, 1), m, "cannot be created");
  run(m, instance, 1);
  m->destroy(instance);
  for (int k = 0; k < m->outputs && !m->fails; k++) transfer(m, m->inputs + k, "_out", k, "wb");
}

int main(int count, char **arguments) {
  static caller all[MODELS][MOST_THREADS + 2];
  if (count != 5) return 2;
  folder = arguments[1];
  threads = atoi(arguments[2]), runs = atoi(arguments[4]);
  int callers = atoi(arguments[3]);
  if (callers < 1 || callers > MOST_THREADS) return 2;
  for (size_t i = 0; i < MODELS; i++) first_run(&models[i]);
  for (size_t i = 0; i < MODELS; i++) {
    for (int k = 0; k < callers + 2; k++) {
      caller *c = &all[i][k];
      *c = (caller){&models[i], NULL, 0};
      if (k >= callers || k % 2)
        c->instance = all[i][k >= callers ? 0 : k - 1].instance;
      else if (models[i].create(&c->instance, threads))
        return 3;
      void *(*job)(void *) = k < callers ? call : k == callers ? churn : blunder;
      if (pthread_create(&c->thread, NULL, job, c)) return 4;
    }
  }
  for (size_t i = 0; i < MODELS; i++)
    for (int k = 0; k < callers + 2; k++) pthread_join(all[i][k].thread, NULL);
  for (size_t i = 0; i < MODELS; i++) {
    for (int k = 0; k < callers; k += 2) models[i].destroy(all[i][k].instance);
    for (int k = 0; k < models[i].inputs + models[i].outputs; k++) free(models[i].data[k]);
  }
  printf("wrong: %d\n", wrong);
  return wrong != 0;
}
