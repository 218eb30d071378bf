/* The three function pointers through which TVM's kernels reach their surroundings.
 *
 * TVM's objects define them too, as mergeable symbols; these definitions win, and being hidden they bind inside
 * this library, whatever other models or TVM itself have in the same process. */
#include "internal.h"

#define HIDDEN __attribute__((visibility("hidden")))

static int launch(tvmconv_task task, void *data, int count) { return tvmconv_launch(task, data, count); }

static void *take(int device_type, int device_id, uint64_t bytes, int dtype_code, int dtype_bits) {
  (void)device_type, (void)device_id, (void)dtype_code, (void)dtype_bits;
  tvmconv_workspace *space = tvmconv_current_workspace();
  void *memory = space ? tvmconv_workspace_take(space, bytes) : NULL;
  if (!memory) tvmconv_fail(TVMCONV_NO_MEMORY, "no memory for %llu bytes of workspace", (unsigned long long)bytes);
  return memory;
}

static int give(int device_type, int device_id, void *memory) {
  (void)device_type, (void)device_id;
  tvmconv_workspace_give(tvmconv_current_workspace(), memory);
  return 0;
}

extern HIDDEN int (*__TVMBackendParallelLaunch)(tvmconv_task, void *, int);
extern HIDDEN void *(*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int);
extern HIDDEN int (*__TVMBackendFreeWorkspace)(int, int, void *);
int (*__TVMBackendParallelLaunch)(tvmconv_task, void *, int) = launch;
void *(*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int) = take;
int (*__TVMBackendFreeWorkspace)(int, int, void *) = give;
