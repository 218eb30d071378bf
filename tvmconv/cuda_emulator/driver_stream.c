/* The emulated driver's streams, which do everything at once, and what is recorded from them. */
#include "driver.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

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
        .arguments = arguments, .allocations = emu.allocations, .allocation_count = emu.allocation_count,
        .stamp = &emu.stamp, .report = emu.report, .report_bytes = sizeof emu.report};
    memcpy(run.grid, o->grid, sizeof run.grid);
    memcpy(run.block, o->block, sizeof run.block);
    CUresult code = o->function->module->run(&run);
    if (code) {
        emu.failed = emu.reported = code;
    }
}

static CUresult perform(const struct operation *o)
{
    CUresult code = emu.failed;

    pthread_mutex_lock(&emu.lock);
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
    pthread_mutex_unlock(&emu.lock);
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
    return emu.failed;
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
    for (size_t i = 0; i < graph->count && !code && !emu.failed; i++) {
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
