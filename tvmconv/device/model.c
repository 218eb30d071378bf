/* Runs one model elsewhere: its outputs for given inputs, the times of blocks of runs, and of its steps.
 *
 * Arguments: DATA LIMIT_S THREADS ROUNDS BLOCK_S PAUSE_S PROFILES STEPS. DATA begins with the numbers of inputs and
 * outputs and the bytes of each, all as 64-bit integers; then come the inputs, aligned. */
#define _GNU_SOURCE
#include "tvmconv.h"
#include "wire.h"

#define MOST_CALLS 65536
#define WARM_UP 2

enum { DATA = 1, LIMIT_S, THREADS, ROUNDS, BLOCK_S, PAUSE_S, PROFILES, STEPS, ARGUMENTS };

static int failed(void) {
  printf("error %s\n", tvmconv_error());
  return wire_end();
}

static void *memory(size_t bytes) {
  void *data = NULL;
  if (!posix_memalign(&data, WIRE_ALIGNMENT, bytes ? bytes : 1)) return data;
  fprintf(stderr, "no memory for %zu bytes\n", bytes);
  exit(3);
}

static void pause_for(double seconds) {
  struct timespec time = {(time_t)seconds, (long)(1e9 * (seconds - (double)(time_t)seconds))};
  nanosleep(&time, NULL);
}

/* The median of the runs that fit into a block; 0 is right. */
static int time_block(tvmconv_model *model, const void *const *inputs, void *const *outputs, double block_s) {
  static double seconds[MOST_CALLS];
  int calls = 0;
  for (int i = 0; i < WARM_UP; i++)
    if (tvmconv_run(model, inputs, outputs)) return -1;
  double begin = wire_now(), start = begin;
  do {
    if (tvmconv_run(model, inputs, outputs)) return -1;
    double end = wire_now();
    seconds[calls++] = end - start;
    start = end;
  } while (start - begin < block_s && calls < MOST_CALLS);
  printf("block %.9g %d\n", wire_median(seconds, calls), calls);
  return 0;
}

static int time_steps(tvmconv_model *model, const void *const *inputs, void *const *outputs, int runs, int steps) {
  double *seconds = memory((size_t)(steps > 0 ? steps : 1) * sizeof *seconds);
  for (int i = 0; i < runs; i++) {
    if (tvmconv_profile(model, inputs, outputs, seconds)) return -1;
    printf("profile");
    for (int s = 0; s < steps; s++) printf(" %.9g", seconds[s]);
    putchar('\n');
  }
  free(seconds);
  return 0;
}

/* The most memory that this process has used, in kB, as Linux counts it. */
static void print_memory(void) {
  char line[256];
  FILE *file = fopen("/proc/self/status", "r");
  while (file && fgets(line, sizeof line, file))
    if (!strncmp(line, "VmHWM:", 6)) printf("memory %ld\n", strtol(line + 6, NULL, 10));
  if (file) fclose(file);
}

int main(int argc, char **argv) {
  if (argc != ARGUMENTS) return 2;
  wire_begin(atof(argv[LIMIT_S]));
  size_t bytes;
  const uint8_t *data = wire_file(argv[DATA], &bytes);
  const uint64_t *header = (const uint64_t *)(const void *)data;
  size_t inputs = (size_t)header[0], outputs = (size_t)header[1];
  size_t at = wire_aligned((2 + inputs + outputs) * sizeof *header);
  const void **from = memory(inputs * sizeof *from);
  void **to = memory(outputs * sizeof *to);
  for (size_t i = 0; i < inputs; at += wire_aligned((size_t)header[2 + i++])) from[i] = data + at;
  for (size_t i = 0; i < outputs; i++) {
    size_t size = (size_t)header[2 + inputs + i];
    to[i] = memset(memory(size), 0xff, size); /* no number: what the model leaves out is seen */
  }

  tvmconv_model *model;
  double start = wire_now();
  if (tvmconv_create(&model, atoi(argv[THREADS]))) return failed();
  printf("start %.9g\n", wire_now() - start);
  if (tvmconv_run(model, from, to)) return failed();
  for (size_t i = 0; i < outputs; i++) {
    size_t size = (size_t)header[2 + inputs + i];
    printf("output %zu %zu\n", i, size);
    wire_data(to[i], size);
  }
  for (int i = 0; i < atoi(argv[ROUNDS]); i++) {
    pause_for(atof(argv[PAUSE_S]));
    if (time_block(model, from, to, atof(argv[BLOCK_S]))) return failed();
  }
  if (time_steps(model, from, to, atoi(argv[PROFILES]), atoi(argv[STEPS]))) return failed();
  tvmconv_destroy(model);
  print_memory();
  return wire_end();
}
