/* relu, y = max(x, 0), as a candidate that FAULT makes go wrong; SYMBOL is its name, and IS_<fault> is defined. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tvm_abi.h"

enum fault {
  RIGHT, SEGFAULT, HANG, AFTER, BEFORE, NOT_A_NUMBER, ONE_WRONG, UNWRITTEN, EXIT, EXIT_3, ABORT, ERROR, WRITES_INPUT,
  READS_ON, GARBAGE, CLOSES, ENDLESS_STACK, ENDLESS_MEMORY, LATER_WRONG, LATER_CRASH, AT_LOAD, HANGS_AT_LOAD,
  LEAVES_CHILD, PRINTS, EMPTY, UNDEFINED
};

extern int nowhere(void);
static int calls;

static int64_t size(const DLTensor *tensor) {
  int64_t count = 1;
  for (int i = 0; i < tensor->ndim; i++) count *= tensor->shape[i];
  return count;
}

__attribute__((noinline)) static int deeper(volatile char *above) {
  volatile char here[4096];
  here[0] = above[0];
  return deeper(here) + here[0];
}

static void to_all_files(const char *text) {
  for (int file = 1; file < 64; file++)
    if (write(file, text, strlen(text)) < 0) continue;
}

static void endless_memory(void) {
  for (;;) {
    volatile char *more = malloc(16 << 20);
    for (int i = 0; i < 16 << 20; i += 4096) more[i] = 1;
  }
}

static int go_wrong(float *x, float *y, int64_t count) {
  volatile float sink;
  char here[1] = {0};
  switch (FAULT) {
    case SEGFAULT: *(volatile int *)8 = 1; break;
    case HANG: for (;;) pause();
    case AFTER: y[count] = 0; break;
    case BEFORE: y[-1] = 0; break;
    case NOT_A_NUMBER: y[count / 2] = 0.0f / 0.0f; break;
    case ONE_WRONG: y[count - 1] += 0.001f; break;
    case UNWRITTEN: break;
    case EXIT: exit(0);
    case EXIT_3: _exit(3);
    case ABORT: abort();
    case ERROR: return -1;
    case WRITES_INPUT: x[0] += 1; break;
    case READS_ON: sink = x[count + 16]; (void)sink; break;
    case GARBAGE: to_all_files("no message"); break;
    case CLOSES: for (int file = 3; file < 64; file++) close(file); break;
    case ENDLESS_STACK: return deeper(here);
    case ENDLESS_MEMORY: endless_memory(); break;
    case LATER_WRONG: if (calls > 2) y[3] += 1; break;
    case LATER_CRASH: if (calls > 2) raise(SIGBUS); break;
    case LEAVES_CHILD: if (calls == 1 && fork() == 0) for (;;) pause(); break;
    case EMPTY: to_all_files(""); break;
    case PRINTS: if (write(1, "{\"number\": 1}\n", 14) < 0) abort(); break;
#ifdef IS_UNDEFINED
    case UNDEFINED: return nowhere();
#endif
    default: break;
  }
  return 0;
}

__attribute__((constructor)) static void load(void) {
  if (FAULT == AT_LOAD) raise(SIGSEGV);
  if (FAULT == HANGS_AT_LOAD) for (;;) pause();
}

int SYMBOL(void *self, const TVMFFIAny *arguments, int32_t count, TVMFFIAny *result) {
  (void)self, (void)result, (void)count;
  const DLTensor *input = arguments[0].value.pointer, *output = arguments[1].value.pointer;
  float *x = input->data, *y = output->data;
  calls++;
  for (int64_t i = 0; i < size(output); i++)
    if (FAULT != UNWRITTEN || i) y[i] = x[i] > 0 ? x[i] : 0;
  return go_wrong(x, y, size(output));
}
