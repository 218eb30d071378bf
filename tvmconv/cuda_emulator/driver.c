/* The driver's interface to CUDA (libcuda.so.1), as far as a model uses it, for kernels compiled
   for this host: an image is a shared library made by tvmconv/cuda_emulator, device memory is the
   host's, streams do everything at once.

   A launch that fails is reported as a device does: by every later call, until the context is
   released. cuGetErrorName adds what the emulator found. */
#include "driver.h"

#include <stdio.h>
#include <stdlib.h>

enum { CONTEXTS = 16 };

struct CUctx_st {
    int retained;
};

struct driver emu = {.lock = PTHREAD_MUTEX_INITIALIZER};

static struct CUctx_st context;
static __thread CUcontext current[CONTEXTS];
static __thread int depth;

/* Which device this is: 10·major + minor, by name in the environment or by a call. */
static int capability = 0;
static int order = -1;

EMU_EXPORT void tvmconv_emulator_configure(int sm, int thread_order);
EMU_EXPORT void tvmconv_emulator_configure(int sm, int thread_order)
{
    capability = sm;
    order = thread_order;
}

static int setting(int value, const char *name, int otherwise)
{
    const char *text = getenv(name);

    return value >= 0 && value ? value : text && *text ? atoi(text) : otherwise;
}

int device_sm(void)
{
    return setting(capability, "TVMCONV_EMULATOR_SM", 80);
}

uint32_t thread_order(void)
{
    return order >= 0 ? (uint32_t)order : (uint32_t)setting(-1, "TVMCONV_EMULATOR_ORDER", 0);
}

/* The most shared memory of a block: CUDA C++ Programming Guide, table of compute capabilities. */
uint32_t shared_limit(void)
{
    static const struct { int sm; uint32_t kib; } limits[] = {
        {75, 64}, {80, 163}, {86, 99}, {87, 163}, {89, 99}, {90, 227}, {100, 227}, {120, 99}};
    uint32_t kib = 48;

    for (size_t i = 0; i < sizeof limits / sizeof *limits && limits[i].sm <= device_sm(); i++) {
        kib = limits[i].kib;
    }
    return kib * 1024;
}

CUresult refuse(CUresult code, const char *format, ...)
{
    __builtin_va_list arguments;

    __builtin_va_start(arguments, format);
    vsnprintf(emu.report, sizeof emu.report, format, arguments);
    __builtin_va_end(arguments);
    emu.reported = code;
    return code;
}

CUresult cuInit(unsigned flags)
{
    return flags ? INVALID_VALUE : CUDA_SUCCESS;
}

CUresult cuDriverGetVersion(int *version)
{
    *version = 12080;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int *count)
{
    *count = 1;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
    *device = 0;
    return ordinal ? CUDA_ERROR_NO_DEVICE : CUDA_SUCCESS;
}

CUresult cuDeviceGetName(char *name, int length, CUdevice device)
{
    snprintf(name, (size_t)length, "emulated sm_%d", device_sm());
    return device ? CUDA_ERROR_NO_DEVICE : CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice device)
{
    switch (attribute) {
    case 1: /* threads of a block */
    case 2:
    case 3:
        *value = attribute == 3 ? 64 : 1024;
        break;
    case 5: /* blocks of a grid */
    case 6:
    case 7:
        *value = attribute == 5 ? INT32_MAX : 65535;
        break;
    case 8:
        *value = STATIC_SHARED;
        break;
    case 10:
        *value = 32;
        break;
    case 16: /* multiprocessors */
        *value = 1;
        break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
        *value = device_sm() / 10;
        break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
        *value = device_sm() % 10;
        break;
    case 97:
        *value = (int)shared_limit();
        break;
    default:
        return refuse(INVALID_VALUE, "the emulator has no device attribute %d", attribute);
    }
    return device ? CUDA_ERROR_NO_DEVICE : CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *result, CUdevice device)
{
    pthread_mutex_lock(&emu.lock);
    context.retained++;
    pthread_mutex_unlock(&emu.lock);
    *result = &context;
    return device ? CUDA_ERROR_NO_DEVICE : CUDA_SUCCESS;
}

/* The last one to go takes a failure with it. */
CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device)
{
    CUresult result = device ? CUDA_ERROR_NO_DEVICE : CUDA_SUCCESS;

    pthread_mutex_lock(&emu.lock);
    if (!context.retained) {
        result = INVALID_CONTEXT;
    } else if (!--context.retained) {
        emu.failed = CUDA_SUCCESS;
    }
    pthread_mutex_unlock(&emu.lock);
    return result;
}

CUresult cuCtxPushCurrent_v2(CUcontext pushed)
{
    if (!pushed || depth == CONTEXTS) {
        return INVALID_CONTEXT;
    }
    current[depth++] = pushed;
    return CUDA_SUCCESS;
}

CUresult cuCtxPopCurrent_v2(CUcontext *popped)
{
    if (!depth) {
        return INVALID_CONTEXT;
    }
    *popped = current[--depth];
    return CUDA_SUCCESS;
}

/* Most calls need a current context that has not failed. */
CUresult usable(void)
{
    return !depth ? INVALID_CONTEXT : emu.failed;
}

static const char *error_name(CUresult result)
{
    static const struct { CUresult code; const char *name; } names[] = {
        {CUDA_SUCCESS, "CUDA_SUCCESS"},
        {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE"},
        {CUDA_ERROR_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"},
        {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED"},
        {CUDA_ERROR_NO_DEVICE, "CUDA_ERROR_NO_DEVICE"},
        {CUDA_ERROR_INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE"},
        {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT"},
        {CUDA_ERROR_NO_BINARY_FOR_GPU, "CUDA_ERROR_NO_BINARY_FOR_GPU"},
        {NOT_FOUND, "CUDA_ERROR_NOT_FOUND"},
        {EMU_ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS"},
        {EMU_MISALIGNED_ADDRESS, "CUDA_ERROR_MISALIGNED_ADDRESS"},
        {EMU_LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED"},
        {STREAM_CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"},
        {STREAM_CAPTURE_UNMATCHED, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED"},
    };

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (names[i].code == result) {
            return names[i].name;
        }
    }
    return NULL;
}

CUresult cuGetErrorName(CUresult result, const char **name)
{
    static __thread char text[REPORT + 64];

    *name = error_name(result);
    if (*name && result && result == emu.reported && *emu.report) {
        snprintf(text, sizeof text, "%s: %s", *name, emu.report);
        *name = text;
    }
    return *name ? CUDA_SUCCESS : INVALID_VALUE;
}
