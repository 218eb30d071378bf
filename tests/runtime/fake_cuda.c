/* A CUDA driver that runs nothing: it counts calls and live objects, copies memory, and fails when it is told to.
 *
 * An image's first byte is what loading it returns, its second one is kept as the image that was loaded. */
#include "cuda_driver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
#define NAMES 64

static struct {
  const char *name;
  int calls;
} counters[NAMES];
static char fail_name[64];
static int fail_at, fail_code, devices = 1, capabilities[4] = {90}, loaded = -1, live, depth;

EXPORT void fake_reset(void) {
  memset(counters, 0, sizeof counters);
  fail_name[0] = 0;
  devices = 1, capabilities[0] = 90, loaded = -1, live = 0, depth = 0;
}
EXPORT void fake_fail(const char *name, int at, int code) {
  snprintf(fail_name, sizeof fail_name, "%s", name);
  fail_at = at, fail_code = code;
}
EXPORT void fake_devices(int count, const int *sms) {
  devices = count;
  for (int i = 0; i < count; i++) capabilities[i] = sms[i];
}
EXPORT int fake_count(const char *name) {
  for (int i = 0; i < NAMES && counters[i].name; i++)
    if (!strcmp(counters[i].name, name)) return counters[i].calls;
  return 0;
}
EXPORT int fake_loaded(void) { return loaded; }
EXPORT int fake_live(void) { return live; }   /* objects that were made and not yet destroyed */
EXPORT int fake_depth(void) { return depth; } /* contexts that were pushed and not popped */

static int enter(const char *name) {
  int i = 0;
  while (counters[i].name && strcmp(counters[i].name, name)) i++;
  counters[i].name = name;
  return counters[i].calls++ == fail_at && !strcmp(name, fail_name) ? fail_code : 0;
}

#define ENTER                     \
  int code_ = enter(__func__);    \
  if (code_) return code_
#define MAKE(result)              \
  *(result) = (void *)&counters;  \
  live++;                         \
  return 0
#define END \
  live--;   \
  return 0

EXPORT CUresult cuInit(unsigned flags) { ENTER; return (int)(flags & 0); }
EXPORT CUresult cuDriverGetVersion(int *version) { ENTER; *version = 12090; return 0; }
EXPORT CUresult cuDeviceGetCount(int *count) { ENTER; *count = devices; return 0; }
EXPORT CUresult cuDeviceGet(CUdevice *device, int ordinal) { ENTER; *device = ordinal; return 0; }
EXPORT CUresult cuDeviceGetName(char *name, int length, CUdevice device) {
  ENTER;
  snprintf(name, (size_t)length, "Fake %d", device);
  return 0;
}
EXPORT CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice device) {
  ENTER;
  *value = attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR ? capabilities[device] / 10
                                                                     : capabilities[device] % 10;
  return 0;
}
EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
  ENTER;
  (void)device;
  MAKE(context);
}
EXPORT CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) { ENTER; (void)device; END; }
EXPORT CUresult cuCtxPushCurrent_v2(CUcontext context) { ENTER; depth += context != NULL; return 0; }
EXPORT CUresult cuCtxPopCurrent_v2(CUcontext *context) { ENTER; *context = NULL; depth--; return 0; }
EXPORT CUresult cuModuleLoadData(CUmodule *module, const void *image) {
  ENTER;
  const unsigned char *bytes = image;
  if (bytes[0]) return bytes[0];
  loaded = bytes[1];
  MAKE(module);
}
EXPORT CUresult cuModuleUnload(CUmodule module) { ENTER; (void)module; END; }
EXPORT CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
  ENTER;
  (void)module, (void)name;
  *function = (void *)&counters;
  return 0;
}
EXPORT CUresult cuFuncSetAttribute(CUfunction function, int attribute, int value) {
  ENTER;
  (void)function, (void)attribute, (void)value;
  return 0;
}
EXPORT CUresult cuMemAlloc_v2(CUdeviceptr *address, size_t bytes) {
  ENTER;
  *address = (CUdeviceptr)(uintptr_t)malloc(bytes);
  memset((void *)(uintptr_t)*address, 255, bytes);
  live++;
  return 0;
}
EXPORT CUresult cuMemFree_v2(CUdeviceptr address) { ENTER; free((void *)(uintptr_t)address); END; }
EXPORT CUresult cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  ENTER;
  (void)stream;
  memcpy((void *)(uintptr_t)to, (void *)(uintptr_t)from, bytes);
  return 0;
}
EXPORT CUresult cuMemsetD8Async(CUdeviceptr address, unsigned char value, size_t bytes, CUstream stream) {
  ENTER;
  (void)stream;
  memset((void *)(uintptr_t)address, value, bytes);
  return 0;
}
EXPORT CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                               unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,
                               CUstream stream, void **parameters, void **extra) {
  ENTER;
  (void)function, (void)grid_x, (void)grid_y, (void)grid_z, (void)block_x, (void)block_y, (void)block_z;
  (void)shared_bytes, (void)stream, (void)parameters, (void)extra;
  return 0;
}
EXPORT CUresult cuStreamCreate(CUstream *stream, unsigned flags) { ENTER; (void)flags; MAKE(stream); }
EXPORT CUresult cuStreamDestroy_v2(CUstream stream) { ENTER; (void)stream; END; }
EXPORT CUresult cuStreamSynchronize(CUstream stream) { ENTER; (void)stream; return 0; }
EXPORT CUresult cuStreamBeginCapture_v2(CUstream stream, int mode) {
  ENTER;
  (void)stream, (void)mode;
  return 0;
}
EXPORT CUresult cuStreamEndCapture(CUstream stream, CUgraph *graph) {
  ENTER;
  (void)stream;
  MAKE(graph);
}
EXPORT CUresult cuGraphInstantiateWithFlags(CUgraphExec *executable, CUgraph graph, unsigned long long flags) {
  ENTER;
  (void)graph, (void)flags;
  MAKE(executable);
}
EXPORT CUresult cuGraphLaunch(CUgraphExec executable, CUstream stream) {
  ENTER;
  (void)executable, (void)stream;
  return 0;
}
EXPORT CUresult cuGraphDestroy(CUgraph graph) { ENTER; (void)graph; END; }
EXPORT CUresult cuGraphExecDestroy(CUgraphExec executable) { ENTER; (void)executable; END; }
EXPORT CUresult cuEventCreate(CUevent *event, unsigned flags) { ENTER; (void)flags; MAKE(event); }
EXPORT CUresult cuEventRecord(CUevent event, CUstream stream) { ENTER; (void)stream; return event ? 0 : 400; }
EXPORT CUresult cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end) {
  ENTER;
  *milliseconds = 2;
  return start && end ? 0 : 400;
}
EXPORT CUresult cuEventDestroy_v2(CUevent event) { ENTER; (void)event; END; }
EXPORT CUresult cuGetErrorName(CUresult result, const char **name) {
  static char text[32];
  snprintf(text, sizeof text, "CUDA_ERROR_%d", result);
  *name = text;
  return 0;
}
