/* What the runner calls in a library of candidates: the artifact's thread pool, and calls that are timed one by one. */
#define _GNU_SOURCE
#include <time.h>

#include "internal.h"

TVMCONV_API int tvmconv_measure_open(int threads);
TVMCONV_API void tvmconv_measure_close(void);
TVMCONV_API const char *tvmconv_measure_error(void);
TVMCONV_API int tvmconv_measure_calls(tvmconv_kernel kernel, const TVMFFIAny *const sets[], int set_count,
                                      int argument_count, int first, int calls, double limit_s, double *seconds);

static tvmconv_pool *pool;

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* Start the threads, no more than there are CPUs: as tvmconv_create does. 0, or a code. */
int tvmconv_measure_open(int threads) {
  int allowed = tvmconv_cpus_allowed();
  pool = tvmconv_pool_new(threads < allowed ? threads : allowed);
  return pool ? 0 : TVMCONV_NO_MEMORY;
}

void tvmconv_measure_close(void) {
  tvmconv_pool_delete(pool);
  pool = NULL;
}

const char *tvmconv_measure_error(void) { return tvmconv_error_text(); }

/* Call a kernel up to `calls` times, with one set of arguments after the other, until `limit_s` has passed.
 * Returns how many calls were made, their times in `seconds`; or -1 where the kernel failed. */
int tvmconv_measure_calls(tvmconv_kernel kernel, const TVMFFIAny *const sets[], int set_count, int argument_count,
                          int first, int calls, double limit_s, double *seconds) {
  void *previous;
  tvmconv_error_clear();
  if (tvmconv_pool_enter(pool, &previous)) return -1;
  int done = 0, code = 0;
  const double begin = now();
  for (double start = begin; done < calls && !code && start - begin <= limit_s; done++) {
    TVMFFIAny result = {.type_index = TVMCONV_FFI_NONE};
    code = kernel(NULL, sets[(first + done) % set_count], argument_count, &result);
    double end = now();
    seconds[done] = end - start;
    start = end;
  }
  tvmconv_pool_leave(previous);
  if (!code) return done;
  if (!tvmconv_error_text()[0]) tvmconv_fail(code, "it returned %d", code);
  return -1;
}
