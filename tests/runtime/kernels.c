/* Kernels as TVM's code generator would make them: its calling convention, its mergeable globals. */
#define _GNU_SOURCE
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "tvm_abi.h"

__attribute__((weak)) int (*__TVMBackendParallelLaunch)(tvmconv_task, void *, int);
__attribute__((weak)) void *(*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int);
__attribute__((weak)) int (*__TVMBackendFreeWorkspace)(int, int, void *);
extern void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count);

extern int32_t tvmconv_expect_iterations(int32_t iterations);

#define EXPORT __attribute__((visibility("default")))
#define KERNEL(name) \
  EXPORT int __tvm_ffi_##name(void *self, const TVMFFIAny *arguments, int32_t count, TVMFFIAny *result)

static int fail(const char *what, int number) {
  char digits[] = {(char)('0' + number % 10), 0};
  const char *parts[] = {what, "\n number ", digits};
  TVMFFIErrorSetRaisedFromCStrParts("ValueError", parts, 3);
  return -1;
}

static DLTensor *tensor(const TVMFFIAny *arguments, int index) { return arguments[index].value.pointer; }

static int64_t size(const DLTensor *t) {
  int64_t elements = 1;
  for (int i = 0; i < t->ndim; i++) elements *= t->shape[i];
  return elements;
}

typedef struct {
  const float *x;
  float *y;
  int64_t elements;
} span;

static int check(const TVMFFIAny *arguments, int32_t count, span *s) {
  if (count != 2) return fail("arguments", count);
  for (int i = 0; i < count; i++) {
    const DLTensor *t = tensor(arguments, i);
    if (arguments[i].type_index != 7 || t->device.device_type != 1 || t->strides || t->byte_offset)
      return fail("not a compact CPU tensor", i);
    if (t->dtype.code != 2 || t->dtype.bits != 32 || t->dtype.lanes != 1) return fail("dtype", i);
    if ((uintptr_t)t->data % 64) return fail("alignment", i);
  }
  *s = (span){tensor(arguments, 0)->data, tensor(arguments, 1)->data, size(tensor(arguments, 1))};
  return 0;
}

static int twice_task(int32_t task, TVMParallelGroupEnv *env, void *data) {
  const span *s = data;
  int64_t end = s->elements * (task + 1) / env->num_task;
  for (int64_t i = s->elements * task / env->num_task; i < end; i++) s->y[i] = 2 * s->x[i];
  return 0;
}

/* y = 2 x, in parallel. */
KERNEL(twice) {
  (void)self, (void)result;
  span s;
  int code = check(arguments, count, &s);
  return code ? code : __TVMBackendParallelLaunch(twice_task, &s, 0);
}

static int inner_task(int32_t task, TVMParallelGroupEnv *env, void *data) {
  (void)task;
  *(int *)data += env->num_task == 1;
  return 0;
}

static int scratch_task(int32_t task, TVMParallelGroupEnv *env, void *data) {
  const span *s = data;
  int64_t begin = s->elements * task / env->num_task, n = s->elements * (task + 1) / env->num_task - begin;
  uint64_t bytes = 4 * (uint64_t)n;
  float *a = __TVMBackendAllocWorkspace(1, 0, bytes, 2, 32), *b = __TVMBackendAllocWorkspace(1, 0, bytes + 4, 2, 32);
  if (!a || !b || (uintptr_t)a % 64 || (uintptr_t)b % 64) return fail("workspace", task);
  memcpy(a, s->x + begin, bytes);
  memset(b, 0xff, bytes + 4);
  int serial = 0;
  if (__TVMBackendParallelLaunch(inner_task, &serial, 0) || serial != 1) return fail("nested launch", task);
  for (int64_t i = 0; i < n; i++) s->y[begin + i] = a[i] + 1;
  __TVMBackendFreeWorkspace(1, 0, b);
  __TVMBackendFreeWorkspace(1, 0, a);
  return 0;
}

/* y = x + 1 through workspace memory, with a parallel launch inside the parallel body. */
KERNEL(scratch) {
  (void)self, (void)result;
  span s;
  int code = check(arguments, count, &s);
  return code ? code : __TVMBackendParallelLaunch(scratch_task, &s, 0);
}

typedef struct {
  span s;
  _Atomic int64_t done;
  int waits;
} loop;

/* A share of a parallel loop as TVM deals it out. The first iteration can wait for all that are not in its own task. */
static int loop_task(int32_t task, TVMParallelGroupEnv *env, void *data) {
  loop *l = data;
  int64_t n = l->s.elements, step = (n + env->num_task - 1) / env->num_task, begin = step * task, end = begin + step;
  if (end > n) end = n;
  for (int64_t tries = 0; l->waits && task == 0 && l->done < n - end; tries++) {
    if (tries == 10000) return fail("waited in vain", (int)(n - end - l->done));
    usleep(1000);
  }
  for (int64_t i = begin; i < end; i++) l->s.y[i] = l->s.x[i] + 1;
  if (end > begin) l->done += end - begin;
  return 0;
}

static int run_loop(const TVMFFIAny *arguments, int32_t count, int waits) {
  loop l = {.waits = waits};
  int code = check(arguments, count, &l.s);
  if (code) return code;
  tvmconv_expect_iterations((int32_t)l.s.elements);
  code = __TVMBackendParallelLaunch(loop_task, &l, 0);
  return !code && l.done != l.s.elements ? fail("iterations", (int)l.done) : code;
}

/* y = x + 1 in a loop whose length is announced. */
KERNEL(announced) {
  (void)self, (void)result;
  return run_loop(arguments, count, 0);
}

/* As `announced`; the first task ends only after all others. */
KERNEL(held_up) {
  (void)self, (void)result;
  return run_loop(arguments, count, 1);
}

static int count_task(int32_t task, TVMParallelGroupEnv *env, void *data) {
  float *y = data;
  if (task + 1 == env->num_task) y[0] = (float)env->num_task;
  return 0;
}

/* y[0] = the number of tasks of a parallel launch. */
KERNEL(tasks) {
  (void)self, (void)result;
  if (count != 1) return fail("arguments", count);
  return __TVMBackendParallelLaunch(count_task, tensor(arguments, 0)->data, 0);
}

/* y[0] = the number of tasks of a loop that has as many iterations as there are elements. */
KERNEL(cut) {
  (void)self, (void)result;
  span s;
  int code = check(arguments, count, &s);
  if (code) return code;
  tvmconv_expect_iterations((int32_t)s.elements);
  return __TVMBackendParallelLaunch(count_task, s.y, 0);
}

static int failing_task(int32_t task, TVMParallelGroupEnv *env, void *data) {
  (void)data;
  return task + 1 == env->num_task ? fail("this kernel always fails", task) : 0;
}

/* Fails in the last task, so on another thread if there is one. */
KERNEL(fails) {
  (void)self, (void)result, (void)arguments, (void)count;
  return __TVMBackendParallelLaunch(failing_task, NULL, 0);
}

/* Asks for more workspace than there can be. */
KERNEL(greedy) {
  (void)self, (void)result, (void)arguments, (void)count;
  return __TVMBackendAllocWorkspace(1, 0, (uint64_t)1 << 60, 2, 32) ? 0 : -1;
}
