/* Runs candidates of a tuning run elsewhere, each in a process of its own: what it does to that harms no other.
 *
 * Arguments: LIMIT_S CANDIDATE_S THREADS ROUNDS COLD_BYTES BEST_S, then a file for each candidate, or "-" to leave it
 * out. The file has 64-bit integers: checks, arguments, and for each argument, the output last: whether it is a constant, its rank and
 * extents; then, aligned, the arguments of each check. All numbers are float32. */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "internal.h"
#include "wire.h"

#define UNWRITTEN 0x7fc0a5a5u /* a NaN that no arithmetic makes: what an output holds before the kernel runs */
#define TOLD 4 /* how a child ends that has said why */
#define MOST_ARGUMENTS 64
#define MOST_CALLS 65536
#define MOST_COPIES 4096
#define BLOCK_S 0.004
#define LEAST_CALLS 3
#define LONG_S 0.02 /* of calls longer than this, fewer will do */
#define HOPELESS 1.6
#define FIRST_ROUNDS 2
#define SHARE_OF_LIMIT 0.6 /* when so much of the time is over, no other round begins */

enum { LIMIT_S = 1, CANDIDATE_S, THREADS, ROUNDS, COLD_BYTES, BEST_S, FILES };

extern const tvmconv_kernel tvmconv_candidates[];
extern const int tvmconv_candidate_count;

typedef struct {
  int64_t *shape;
  int32_t rank;
  int constant;
  size_t bytes;
} argument;

typedef struct {
  const uint8_t *data;
  size_t first, check_bytes; /* where the arrays begin, and of how many bytes those of a check are */
  int checks, count;         /* the output is argument count - 1 */
  argument arguments[MOST_ARGUMENTS];
} workload;

static char **options;
static double *results; /* shared with the children: seconds of a block; below zero if the output changed */

static workload read_workload(const char *path) {
  workload w = {0};
  size_t bytes;
  w.data = wire_file(path, &bytes);
  int64_t *number = (int64_t *)(void *)(uintptr_t)w.data;
  w.checks = (int)*number++;
  w.count = (int)*number++;
  if (w.count > MOST_ARGUMENTS) exit(2);
  for (int i = 0; i < w.count; i++) {
    argument *a = &w.arguments[i];
    a->constant = (int)*number++;
    a->rank = (int32_t)*number++;
    a->shape = number;
    a->bytes = sizeof(float);
    for (int k = 0; k < a->rank; k++) a->bytes *= (size_t)*number++;
    if (i < w.count - 1) w.check_bytes += wire_aligned(a->bytes);
  }
  w.first = wire_aligned((size_t)((const uint8_t *)number - w.data));
  return w;
}

static void bind(const workload *w, uint8_t *const *places, DLTensor *tensors, TVMFFIAny *values) {
  for (int i = 0; i < w->count; i++) {
    const argument *a = &w->arguments[i];
    tensors[i] = (DLTensor){.data = places[i],
                            .device = {1, 0},
                            .ndim = a->rank,
                            .dtype = {2, 32, 1},
                            .shape = a->shape};
    values[i] = (TVMFFIAny){.type_index = TVMCONV_FFI_DLTENSOR, .value.pointer = &tensors[i]};
  }
}

static void give_up(const char *why) {
  printf("failed %s\n", why);
  fflush(stdout);
  _exit(TOLD);
}

static void call(tvmconv_kernel kernel, const TVMFFIAny *values, int count) {
  TVMFFIAny result = {.type_index = TVMCONV_FFI_NONE};
  tvmconv_error_clear();
  int code = kernel(NULL, values, count, &result);
  if (code && !tvmconv_error_text()[0]) tvmconv_fail(code, "it returned %d", code);
  if (code) give_up(tvmconv_error_text());
}

static void enter_pool(void) {
  int threads = atoi(options[THREADS]), allowed = tvmconv_cpus_allowed();
  void *previous;
  tvmconv_pool *pool = tvmconv_pool_new(threads < allowed ? threads : allowed);
  if (!pool || tvmconv_pool_enter(pool, &previous)) give_up(tvmconv_error_text());
}

static void *map(size_t bytes) {
  void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) give_up("out of memory");
  return memory;
}

/* A buffer whose end, or beginning, borders on memory that must not be touched. */
static uint8_t *guarded(size_t bytes, int at_end, uint8_t **pages, size_t *page_bytes) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE), size = wire_aligned(bytes);
  *page_bytes = (size + page - 1) / page * page;
  uint8_t *memory = map(*page_bytes + 2 * page);
  mprotect(memory, page, PROT_NONE);
  mprotect(memory + page + *page_bytes, page, PROT_NONE);
  *pages = memory + page;
  return memory + page + (at_end ? *page_bytes - size : 0);
}

static void fill(uint8_t *output, size_t bytes) {
  uint32_t *word = (uint32_t *)(void *)output;
  for (size_t i = 0; i < bytes / sizeof *word; i++) word[i] = UNWRITTEN;
}

/* Run a candidate on every check, and send the whole output of each. */
static void verify(tvmconv_kernel kernel, const workload *w) {
  DLTensor tensors[MOST_ARGUMENTS];
  TVMFFIAny values[MOST_ARGUMENTS];
  uint8_t *places[MOST_ARGUMENTS], *pages;
  const int output = w->count - 1;
  const size_t bytes = w->arguments[output].bytes;
  size_t page_bytes;
  enter_pool();
  for (int k = 0; k < w->checks || k < 2; k++) { /* the last one twice: guarded behind, and before */
    int check = k < w->checks ? k : w->checks - 1;
    const uint8_t *from = w->data + w->first + (size_t)check * w->check_bytes;
    for (int i = 0; i < output; i++) {
      places[i] = guarded(w->arguments[i].bytes, k == 0, &pages, &page_bytes);
      memcpy(places[i], from, w->arguments[i].bytes);
      mprotect(pages, page_bytes, PROT_READ);
      from += wire_aligned(w->arguments[i].bytes);
    }
    places[output] = guarded(bytes, k == 0, &pages, &page_bytes);
    fill(places[output], bytes);
    bind(w, places, tensors, values);
    call(kernel, values, w->count);
    printf("check %d %zu\n", check, bytes);
    wire_data(places[output], bytes);
  }
}

static uint8_t *aligned_memory(size_t bytes) {
  void *memory = NULL;
  if (posix_memalign(&memory, WIRE_ALIGNMENT, bytes ? bytes : 1)) give_up("out of memory");
  return memory;
}

/* How many copies of the constants keep each out of the caches until it is used again. */
static size_t copies_of(const workload *w) {
  size_t bytes = 0, cold = (size_t)strtoull(options[COLD_BYTES], NULL, 10);
  for (int i = 0; i < w->count; i++) bytes += w->arguments[i].constant ? w->arguments[i].bytes : 0;
  if (!bytes) return 1;
  size_t copies = (cold + bytes - 1) / bytes;
  return 1 + (copies < MOST_COPIES ? copies : MOST_COPIES);
}

/* The median of a block of calls, on the inputs of the last check. */
static double time_block(tvmconv_kernel kernel, const workload *w) {
  static double seconds[MOST_CALLS];
  const int output = w->count - 1;
  const size_t copies = copies_of(w), bytes = w->arguments[output].bytes;
  DLTensor *tensors = (DLTensor *)(void *)aligned_memory(copies * MOST_ARGUMENTS * sizeof *tensors);
  TVMFFIAny *values = (TVMFFIAny *)(void *)aligned_memory(copies * MOST_ARGUMENTS * sizeof *values);
  uint8_t *places[MOST_ARGUMENTS], *expected = aligned_memory(bytes);
  for (size_t c = 0; c < copies; c++) {
    const uint8_t *from = w->data + w->first + (size_t)(w->checks - 1) * w->check_bytes;
    for (int i = 0; i < w->count; i++) {
      const argument *a = &w->arguments[i];
      if (!c || a->constant) places[i] = aligned_memory(a->bytes);
      if (i == output) break;
      memcpy(places[i], from, a->bytes);
      from += wire_aligned(a->bytes);
    }
    bind(w, places, tensors + c * MOST_ARGUMENTS, values + c * MOST_ARGUMENTS);
  }
  enter_pool();
  fill(places[output], bytes);
  double start = wire_now();
  call(kernel, values, w->count);
  double one = wire_now() - start;
  memcpy(expected, places[output], bytes);
  for (int i = 0; i < 2 && one < LONG_S; i++) {
    start = wire_now();
    call(kernel, values, w->count);
    one = wire_now() - start;
  }
  double wanted = one > 0 ? BLOCK_S / one + 1 : MOST_CALLS;
  int least = one < LONG_S ? LEAST_CALLS : 1;
  int calls = wanted < least ? least : wanted < MOST_CALLS ? (int)wanted : MOST_CALLS;
  start = wire_now();
  for (int i = 0; i < calls; i++) {
    call(kernel, values + ((size_t)i + 1) % copies * MOST_ARGUMENTS, w->count);
    double end = wire_now();
    seconds[i] = end - start;
    start = end;
  }
  double median = wire_median(seconds, calls);
  return memcmp(expected, places[output], bytes) ? -median : median;
}

/* Let a child do its work; whether it has ended well. How else is printed. */
static int in_child(int candidate, int timing) {
  fflush(stdout);
  pid_t child = fork();
  if (child < 0) {
    perror("fork");
    exit(3);
  }
  if (!child) {
    alarm((unsigned)atof(options[CANDIDATE_S]) + 1);
    workload w = read_workload(options[FILES + candidate]);
    if (timing)
      results[candidate] = time_block(tvmconv_candidates[candidate], &w);
    else
      verify(tvmconv_candidates[candidate], &w);
    _exit(fflush(stdout) ? 3 : 0);
  }
  int status;
  if (waitpid(child, &status, 0) == child && WIFEXITED(status) && !WEXITSTATUS(status)) return 1;
  if (WIFSIGNALED(status))
    printf("\ndied %d\n", WTERMSIG(status));
  else if (WEXITSTATUS(status) != TOLD)
    printf("\nfailed it exited with code %d\n", WEXITSTATUS(status));
  return 0;
}

int main(int argc, char **argv) {
  const int count = tvmconv_candidate_count;
  if (argc != FILES + count) return 2;
  options = argv;
  const double begin = wire_now(), limit_s = atof(argv[LIMIT_S]);
  const double hopeless = HOPELESS * atof(argv[BEST_S]);
  const size_t bytes = (size_t)count * sizeof(double);
  wire_begin(limit_s);
  results = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  double *best = calloc((size_t)count, sizeof *best);
  if (results == MAP_FAILED || !best) return 3;
  for (int i = 0; i < count; i++) {
    int mine = strcmp(argv[FILES + i], "-") != 0; /* or another machine's */
    if (mine) printf("candidate %d\n", i);
    if (!mine || !in_child(i, 0)) best[i] = -1;
  }
  for (int round = 0; round < atoi(argv[ROUNDS]); round++) {
    if (round && wire_now() - begin > SHARE_OF_LIMIT * limit_s) break;
    for (int k = 0; k < count; k++) {
      int i = round % 2 ? (count + round - k) % count : (round + k) % count; /* none is always first */
      if (best[i] < 0 || (round >= FIRST_ROUNDS && hopeless > 0 && best[i] > hopeless)) continue;
      printf("timing %d\n", i);
      results[i] = 0;
      if (!in_child(i, 1) || results[i] == 0) {
        best[i] = -1;
        continue;
      }
      double seconds = results[i] < 0 ? -results[i] : results[i];
      if (best[i] == 0 || seconds < best[i]) best[i] = seconds;
      printf("block %.9g %d\n", seconds, results[i] > 0);
    }
  }
  return wire_end();
}
