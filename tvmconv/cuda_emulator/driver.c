/* The driver's interface to CUDA (libcuda.so.1), as far as a model uses it, for kernels compiled
   for this host: an image is a shared library made by tvmconv/cuda_emulator, device memory is the
   host's, streams do everything at once.

   A launch that fails is reported as a device does: by every later call, until the context is
   released. cuGetErrorName adds what the emulator found. */
#define _GNU_SOURCE
#include "cuda_driver.h"

#include <dlfcn.h>
#include <elf.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "interface.h"

/* Prototypes of all, as the runtime has them. */
#define DECLARE(name, parameters) EMU_EXPORT CUresult name parameters;
TVMCONV_CUDA_FUNCTIONS(DECLARE)
#undef DECLARE

enum { INVALID_VALUE = 1, NOT_INITIALIZED = 3, INVALID_CONTEXT = 201, NOT_FOUND = 500 };
enum { STREAM_CAPTURE_INVALIDATED = 901, STREAM_CAPTURE_UNMATCHED = 903 };
enum { GUARD = 64 * 1024, ALIGNMENT = 256, STATIC_SHARED = 48 * 1024, REPORT = 512 };

struct CUctx_st {
    int retained;
};
struct CUmod_st {
    void *library;
    struct CUfunc_st *functions;
    uint32_t count;
    int (*run)(const struct emu_launch *);
};
struct CUfunc_st {
    const struct emu_kernel *kernel;
    CUmodule module;
    uint32_t dynamic_limit;
};
struct CUevent_st {
    struct timespec time;
};

/* What a stream was asked to do, kept for a graph. */
struct operation {
    enum { LAUNCH, COPY, FILL } kind;
    CUfunction function;
    uint32_t grid[3], block[3], dynamic_bytes;
    unsigned char *arguments; /* values, one after the other */
    CUdeviceptr to, from;
    size_t bytes;
    unsigned char value;
};
struct CUgraph_st {
    struct operation *operations;
    size_t count, capacity;
    int references;
};
struct CUgraphExec_st {
    CUgraph graph;
};
struct CUstream_st {
    CUgraph capture;
    CUresult capture_failed;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct CUctx_st context;
static __thread CUcontext current[16];
static __thread int depth;
static struct emu_allocation *allocations; /* with `mapped` beside it */
static size_t allocation_count;
static struct { unsigned char *base; size_t bytes; } *mappings;
static uint32_t stamp;
static CUresult failed; /* of a launch: all later calls return it */
static CUresult reported;
static char report[REPORT];

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

static int sm(void)
{
    return setting(capability, "TVMCONV_EMULATOR_SM", 80);
}

static uint32_t thread_order(void)
{
    return order >= 0 ? (uint32_t)order : (uint32_t)setting(-1, "TVMCONV_EMULATOR_ORDER", 0);
}

/* The most shared memory of a block: CUDA C++ Programming Guide, table of compute capabilities. */
static uint32_t shared_limit(void)
{
    static const struct { int sm; uint32_t kib; } limits[] = {
        {75, 64}, {80, 163}, {86, 99}, {87, 163}, {89, 99}, {90, 227}, {100, 227}, {120, 99}};
    uint32_t kib = 48;

    for (size_t i = 0; i < sizeof limits / sizeof *limits && limits[i].sm <= sm(); i++) {
        kib = limits[i].kib;
    }
    return kib * 1024;
}

static __attribute__((format(printf, 2, 3))) CUresult refuse(CUresult code, const char *format, ...)
{
    __builtin_va_list arguments;

    __builtin_va_start(arguments, format);
    vsnprintf(report, sizeof report, format, arguments);
    __builtin_va_end(arguments);
    reported = code;
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
    snprintf(name, (size_t)length, "emulated sm_%d", sm());
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
        *value = sm() / 10;
        break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
        *value = sm() % 10;
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
    pthread_mutex_lock(&lock);
    context.retained++;
    pthread_mutex_unlock(&lock);
    *result = &context;
    return device ? CUDA_ERROR_NO_DEVICE : CUDA_SUCCESS;
}

/* The last one to go takes a failure with it. */
CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device)
{
    CUresult result = device ? CUDA_ERROR_NO_DEVICE : CUDA_SUCCESS;

    pthread_mutex_lock(&lock);
    if (!context.retained) {
        result = INVALID_CONTEXT;
    } else if (!--context.retained) {
        failed = CUDA_SUCCESS;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

CUresult cuCtxPushCurrent_v2(CUcontext pushed)
{
    if (!pushed || depth == 16) {
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
static CUresult usable(void)
{
    return !depth ? INVALID_CONTEXT : failed;
}

/* An image has no length of its own: the table of its sections ends it. */
static size_t image_bytes(const void *image)
{
    Elf64_Ehdr header;

    memcpy(&header, image, sizeof header);
    return header.e_shoff + (size_t)header.e_shnum * header.e_shentsize;
}

static void *open_image(const void *image)
{
    size_t bytes = image_bytes(image), written = 0;
    char path[64];
    int file = (int)syscall(SYS_memfd_create, "kernels", 1u /* closed on exec */);

    if (file < 0) {
        return NULL;
    }
    while (written < bytes) {
        ssize_t done = write(file, (const char *)image + written, bytes - written);
        if (done <= 0) {
            close(file);
            return NULL;
        }
        written += (size_t)done;
    }
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    close(file);
    return library;
}

static CUresult check_kernels(CUmodule module)
{
    for (uint32_t i = 0; i < module->count; i++) {
        const struct emu_kernel *kernel = module->functions[i].kernel;
        if (kernel->static_bytes > STATIC_SHARED) {
            return refuse(CUDA_ERROR_INVALID_IMAGE,
                "kernel %s: %u bytes of static shared memory, over %d", kernel->name,
                kernel->static_bytes, STATIC_SHARED);
        }
    }
    return CUDA_SUCCESS;
}

static CUresult read_module(CUmodule module)
{
    const struct emu_kernel *kernels = dlsym(module->library, "tvmconv_emulator_kernels");
    const uint32_t *count = dlsym(module->library, "tvmconv_emulator_kernel_count");
    void *run = dlsym(module->library, "tvmconv_emulator_run");

    if (!kernels || !count || !run) {
        return refuse(CUDA_ERROR_INVALID_IMAGE, "the image is a library without emulated kernels");
    }
    memcpy(&module->run, &run, sizeof run);
    module->functions = calloc(*count + 1, sizeof *module->functions);
    if (!module->functions) {
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    module->count = *count;
    for (uint32_t i = 0; i < *count; i++) {
        module->functions[i] = (struct CUfunc_st){&kernels[i], module, 0};
    }
    return check_kernels(module);
}

CUresult cuModuleLoadData(CUmodule *result, const void *image)
{
    const unsigned char *bytes = image;
    CUmodule module;

    if (usable()) {
        return usable();
    }
    if (memcmp(bytes, ELFMAG, SELFMAG)) {
        return refuse(CUDA_ERROR_INVALID_IMAGE, "the emulator takes no PTX, only its own images");
    }
    if (((const Elf64_Ehdr *)image)->e_machine == EM_CUDA) {
        return refuse(CUDA_ERROR_NO_BINARY_FOR_GPU, "the emulator takes no cubin, only its own images");
    }
    module = calloc(1, sizeof *module);
    if (!module) {
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    module->library = open_image(image);
    CUresult code = module->library ?
        read_module(module) : refuse(CUDA_ERROR_INVALID_IMAGE, "%s", dlerror());
    if (code) {
        cuModuleUnload(module);
        return code;
    }
    *result = module;
    return CUDA_SUCCESS;
}

CUresult cuModuleUnload(CUmodule module)
{
    if (module->library) {
        dlclose(module->library);
    }
    free(module->functions);
    free(module);
    return CUDA_SUCCESS;
}

CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name)
{
    for (uint32_t i = 0; i < module->count; i++) {
        if (!strcmp(module->functions[i].kernel->name, name)) {
            *function = &module->functions[i];
            return CUDA_SUCCESS;
        }
    }
    return refuse(NOT_FOUND, "no kernel %s", name);
}

CUresult cuFuncSetAttribute(CUfunction function, int attribute, int value)
{
    const struct emu_kernel *kernel = function->kernel;

    if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) {
        return refuse(INVALID_VALUE, "the emulator has no function attribute %d", attribute);
    }
    if (value < 0 || (uint32_t)value + kernel->static_bytes > shared_limit()) {
        return refuse(INVALID_VALUE, "kernel %s: %d bytes of shared memory, sm_%d has %u",
            kernel->name, value + (int)kernel->static_bytes, sm(), shared_limit());
    }
    function->dynamic_limit = (uint32_t)value;
    return CUDA_SUCCESS;
}

static void *map_memory(size_t bytes)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);

    return base == MAP_FAILED ? NULL : base;
}

/* Memory begins as NaN, beside a page that cannot be touched: behind it, or before it where
   threads run backwards. */
CUresult cuMemAlloc_v2(CUdeviceptr *address, size_t bytes)
{
    size_t room = (bytes + GUARD - 1) / GUARD * GUARD, all = room + 2 * GUARD;
    size_t used = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;

    if (usable() || !bytes) {
        return usable() ? usable() : INVALID_VALUE;
    }
    pthread_mutex_lock(&lock);
    void *grown = realloc(allocations, (allocation_count + 1) * sizeof *allocations);
    allocations = grown ? grown : allocations;
    void *mapped = realloc(mappings, (allocation_count + 1) * sizeof *mappings);
    mappings = mapped ? mapped : mappings;
    unsigned char *base = grown && mapped ? map_memory(all) : NULL;
    uint32_t *shadow = base ? map_memory(bytes * sizeof *shadow) : NULL;
    if (!shadow) {
        if (base) {
            munmap(base, all);
        }
        pthread_mutex_unlock(&lock);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    mprotect(base, GUARD, PROT_NONE);
    mprotect(base + GUARD + room, GUARD, PROT_NONE);
    unsigned char *start = base + GUARD + (thread_order() == 1 ? 0 : room - used);
    memset(start, 0xFF, bytes);
    allocations[allocation_count] = (struct emu_allocation){start, bytes, shadow};
    mappings[allocation_count].base = base;
    mappings[allocation_count++].bytes = all;
    pthread_mutex_unlock(&lock);
    *address = (CUdeviceptr)(uintptr_t)start;
    return CUDA_SUCCESS;
}

CUresult cuMemFree_v2(CUdeviceptr address)
{
    CUresult result = INVALID_VALUE;

    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < allocation_count; i++) {
        if ((CUdeviceptr)(uintptr_t)allocations[i].base == address) {
            munmap(mappings[i].base, mappings[i].bytes);
            munmap(allocations[i].shadow, allocations[i].bytes * sizeof(uint32_t));
            allocations[i] = allocations[--allocation_count];
            mappings[i] = mappings[allocation_count];
            result = failed;
            break;
        }
    }
    pthread_mutex_unlock(&lock);
    return result;
}

/* Addresses outside of device memory are the caller's own. */
static CUresult check_bounds(CUdeviceptr address, size_t bytes)
{
    for (size_t i = 0; i < allocation_count; i++) {
        CUdeviceptr offset = address - (CUdeviceptr)(uintptr_t)allocations[i].base;
        if (offset < allocations[i].bytes && bytes > allocations[i].bytes - offset) {
            return refuse(INVALID_VALUE, "a copy of %zu bytes over the end of device memory", bytes);
        }
    }
    return CUDA_SUCCESS;
}

static void launch(const struct operation *o)
{
    const struct emu_kernel *kernel = o->function->kernel;
    void *arguments[kernel->parameter_count + 1];
    unsigned char *value = o->arguments;

    for (uint32_t i = 0; i < kernel->parameter_count; i++) {
        arguments[i] = value;
        value += (kernel->parameters[i].bytes + 15) / 16 * 16;
    }
    struct emu_launch run = {
        .kernel = kernel, .dynamic_bytes = o->dynamic_bytes, .order = thread_order(),
        .arguments = arguments, .allocations = allocations, .allocation_count = allocation_count,
        .stamp = &stamp, .report = report, .report_bytes = sizeof report};
    memcpy(run.grid, o->grid, sizeof run.grid);
    memcpy(run.block, o->block, sizeof run.block);
    CUresult code = o->function->module->run(&run);
    if (code) {
        failed = reported = code;
    }
}

static CUresult perform(const struct operation *o)
{
    CUresult code = failed;

    pthread_mutex_lock(&lock);
    if (!code && o->kind == LAUNCH) {
        launch(o);
    } else if (!code) {
        code = check_bounds(o->to, o->bytes);
        code = code || o->kind == FILL ? code : check_bounds(o->from, o->bytes);
        void *to = (void *)(uintptr_t)o->to;
        if (!code && o->kind == COPY) {
            memcpy(to, (const void *)(uintptr_t)o->from, o->bytes);
        } else if (!code) {
            memset(to, o->value, o->bytes);
        }
    }
    pthread_mutex_unlock(&lock);
    return code;
}

/* Do it, or add it to the graph that is recorded. */
static CUresult submit(CUstream stream, struct operation *o)
{
    CUgraph graph = stream ? stream->capture : NULL;

    if (!graph) {
        CUresult code = perform(o);
        free(o->arguments);
        return code;
    }
    if (graph->count == graph->capacity) {
        size_t capacity = graph->capacity ? 2 * graph->capacity : 64;
        struct operation *grown = realloc(graph->operations, capacity * sizeof *o);
        if (!grown) {
            free(o->arguments);
            return stream->capture_failed = CUDA_ERROR_OUT_OF_MEMORY;
        }
        graph->operations = grown;
        graph->capacity = capacity;
    }
    graph->operations[graph->count++] = *o;
    return CUDA_SUCCESS;
}

CUresult cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream)
{
    struct operation o = {.kind = COPY, .to = to, .from = from, .bytes = bytes};

    return usable() ? usable() : submit(stream, &o);
}

CUresult cuMemsetD8Async(CUdeviceptr address, unsigned char value, size_t bytes, CUstream stream)
{
    struct operation o = {.kind = FILL, .to = address, .bytes = bytes, .value = value};

    return usable() ? usable() : submit(stream, &o);
}

static CUresult check_launch(const struct operation *o)
{
    const struct emu_kernel *kernel = o->function->kernel;
    uint64_t threads = (uint64_t)o->block[0] * o->block[1] * o->block[2];
    uint32_t limit = o->function->dynamic_limit;

    limit = limit ? limit : STATIC_SHARED - kernel->static_bytes;
    if (!o->grid[0] || !o->grid[1] || !o->grid[2] || o->grid[0] > INT32_MAX ||
        o->grid[1] > 65535 || o->grid[2] > 65535) {
        return refuse(INVALID_VALUE, "kernel %s: a grid of %u x %u x %u blocks", kernel->name,
            o->grid[0], o->grid[1], o->grid[2]);
    }
    if (!threads || threads > 1024 || o->block[2] > 64) {
        return refuse(INVALID_VALUE, "kernel %s: a block of %u x %u x %u threads, over 1024",
            kernel->name, o->block[0], o->block[1], o->block[2]);
    }
    if (kernel->max_threads && threads > kernel->max_threads) {
        return refuse(INVALID_VALUE, "kernel %s: %u threads, over its __launch_bounds__(%u)",
            kernel->name, (unsigned)threads, kernel->max_threads);
    }
    if (o->dynamic_bytes > limit) {
        return refuse(INVALID_VALUE, "kernel %s: %u bytes of dynamic shared memory, over %u",
            kernel->name, o->dynamic_bytes, limit);
    }
    return CUDA_SUCCESS;
}

CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
    unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes, CUstream stream,
    void **parameters, void **extra)
{
    struct operation o = {
        .kind = LAUNCH, .function = function, .grid = {grid_x, grid_y, grid_z},
        .block = {block_x, block_y, block_z}, .dynamic_bytes = shared_bytes};
    const struct emu_kernel *kernel = function->kernel;
    size_t bytes = 0;

    if (usable() || extra) {
        return usable() ? usable() : INVALID_VALUE;
    }
    CUresult code = check_launch(&o);
    if (code) {
        return code;
    }
    for (uint32_t i = 0; i < kernel->parameter_count; i++) {
        bytes += (kernel->parameters[i].bytes + 15) / 16 * 16;
    }
    o.arguments = aligned_alloc(16, bytes + 16);
    if (!o.arguments) {
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    unsigned char *value = o.arguments;
    for (uint32_t i = 0; i < kernel->parameter_count; i++) {
        memcpy(value, parameters[i], kernel->parameters[i].bytes);
        value += (kernel->parameters[i].bytes + 15) / 16 * 16;
    }
    return submit(stream, &o);
}

CUresult cuStreamCreate(CUstream *stream, unsigned flags)
{
    (void)flags;
    *stream = calloc(1, sizeof **stream);
    return usable() ? usable() : *stream ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult cuStreamDestroy_v2(CUstream stream)
{
    if (stream->capture) {
        cuGraphDestroy(stream->capture);
    }
    free(stream);
    return failed;
}

CUresult cuStreamSynchronize(CUstream stream)
{
    return stream && stream->capture ? STREAM_CAPTURE_INVALIDATED : usable();
}

CUresult cuStreamBeginCapture_v2(CUstream stream, int mode)
{
    (void)mode;
    if (usable() || stream->capture) {
        return usable() ? usable() : INVALID_VALUE;
    }
    stream->capture = calloc(1, sizeof *stream->capture);
    stream->capture_failed = CUDA_SUCCESS;
    if (!stream->capture) {
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    stream->capture->references = 1;
    return CUDA_SUCCESS;
}

CUresult cuStreamEndCapture(CUstream stream, CUgraph *graph)
{
    if (!stream->capture) {
        return STREAM_CAPTURE_UNMATCHED;
    }
    *graph = stream->capture;
    stream->capture = NULL;
    return stream->capture_failed;
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec *executable, CUgraph graph, unsigned long long flags)
{
    if (usable() || flags) {
        return usable() ? usable() : INVALID_VALUE;
    }
    *executable = calloc(1, sizeof **executable);
    if (!*executable) {
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    (*executable)->graph = graph;
    graph->references++;
    return CUDA_SUCCESS;
}

CUresult cuGraphLaunch(CUgraphExec executable, CUstream stream)
{
    const struct CUgraph_st *graph = executable->graph;
    CUresult code = usable();

    if (stream && stream->capture) {
        return refuse(INVALID_VALUE, "the emulator records no graph in a graph");
    }
    for (size_t i = 0; i < graph->count && !code && !failed; i++) {
        code = perform(&graph->operations[i]);
    }
    return code;
}

CUresult cuGraphDestroy(CUgraph graph)
{
    if (--graph->references == 0) {
        for (size_t i = 0; i < graph->count; i++) {
            free(graph->operations[i].arguments);
        }
        free(graph->operations);
        free(graph);
    }
    return CUDA_SUCCESS;
}

CUresult cuGraphExecDestroy(CUgraphExec executable)
{
    CUresult code = cuGraphDestroy(executable->graph);

    free(executable);
    return code;
}

CUresult cuEventCreate(CUevent *event, unsigned flags)
{
    (void)flags;
    *event = calloc(1, sizeof **event);
    return usable() ? usable() : *event ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult cuEventRecord(CUevent event, CUstream stream)
{
    (void)stream;
    clock_gettime(CLOCK_MONOTONIC, &event->time);
    return usable();
}

CUresult cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end)
{
    *milliseconds = (float)(1e3 * (double)(end->time.tv_sec - start->time.tv_sec) +
        1e-6 * (double)(end->time.tv_nsec - start->time.tv_nsec));
    return usable();
}

CUresult cuEventDestroy_v2(CUevent event)
{
    free(event);
    return CUDA_SUCCESS;
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
    if (*name && result && result == reported && *report) {
        snprintf(text, sizeof text, "%s: %s", *name, report);
        *name = text;
    }
    return *name ? CUDA_SUCCESS : INVALID_VALUE;
}
