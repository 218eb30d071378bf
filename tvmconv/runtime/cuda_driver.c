/* Find the CUDA driver. It is loaded once for each library of a model, and never unloaded. */
#include "cuda_driver.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#define LIBRARY "libcuda.so.1"

static tvmconv_cuda_driver driver;
static char problem[TVMCONV_ERROR_BYTES]; /* why there is no driver; "" if there is one */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static const char *error_name(CUresult result) {
  const char *name = NULL;
  if (!driver.cuGetErrorName || driver.cuGetErrorName(result, &name) || !name) return "unknown error";
  return name;
}

static void find(void *library, const char *path) {
#define FIND(name, parameters)                                                            \
  *(void **)&driver.name = dlsym(library, #name);                                         \
  if (!driver.name) {                                                                     \
    snprintf(problem, sizeof problem, "the CUDA driver (%s) is too old: it has no %s", path, #name); \
    return;                                                                               \
  }
  TVMCONV_CUDA_FUNCTIONS(FIND)
#undef FIND
}

static void load(void) {
  const char *named = getenv("TVMCONV_CUDA_DRIVER"), *path = named && named[0] ? named : LIBRARY;
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char *reason = dlerror();
    if (path == named)
      snprintf(problem, sizeof problem, "no CUDA driver (TVMCONV_CUDA_DRIVER: %s)", reason ? reason : path);
    else
      snprintf(problem, sizeof problem, "no CUDA driver (" LIBRARY ")");
    return;
  }
  find(library, path);
  CUresult result = problem[0] ? CUDA_SUCCESS : driver.cuInit(0);
  if (result == CUDA_ERROR_NO_DEVICE)
    snprintf(problem, sizeof problem, "no CUDA device");
  else if (result)
    snprintf(problem, sizeof problem, "the CUDA driver cannot be started: %s", error_name(result));
}

const tvmconv_cuda_driver *tvmconv_cuda(void) {
  pthread_once(&once, load);
  if (problem[0]) tvmconv_error_set(problem);
  return problem[0] ? NULL : &driver;
}

int tvmconv_cuda_fail(int code, CUresult result, const char *action) {
  if (result == CUDA_ERROR_OUT_OF_MEMORY) code = TVMCONV_NO_MEMORY;
  return tvmconv_fail(code, "%s: %s", action, error_name(result));
}
