/* The memory of a launch: where its shared arrays lie, and which buffers its arguments are. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core.h"

static void *reserve(size_t bytes, int protection)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void *base = mmap(NULL, bytes, protection, flags, -1, 0);

    return base == MAP_FAILED ? NULL : base;
}

static int map_shared(void)
{
    core.shared = reserve(SHARED_BYTES, PROT_NONE);
    core.shared_shadow = reserve(SHARED_BYTES * sizeof(uint32_t), PROT_READ | PROT_WRITE);
    if (!core.shared || !core.shared_shadow) {
        return 0;
    }
    memset(core.shared_shadow, 0xFF, SHARED_BYTES * sizeof(uint32_t));
    return !mprotect(core.shared + SHARED_STATIC, SHARED_AREA, PROT_READ | PROT_WRITE) &&
        !mprotect(core.shared + SHARED_DYNAMIC, SHARED_AREA, PROT_READ | PROT_WRITE);
}

/* When the image is unloaded. */
static __attribute__((destructor)) void release(void)
{
    for (int i = 0; i < MAX_THREADS; i++) {
        free(core.threads[i].copies);
    }
    if (core.shared) {
        munmap(core.shared, SHARED_BYTES);
        munmap(core.shared_shadow, SHARED_BYTES * sizeof(uint32_t));
    }
}

/* The arrays end at the page that faults, or begin there where threads run backwards. */
static uint32_t place(uint32_t area, uint32_t bytes)
{
    return core.launch->order == 1 ? area : area + SHARED_AREA - (bytes + 127) / 128 * 128;
}

static void mark(uint32_t offset, uint32_t bytes, int value)
{
    memset(core.shared_shadow + offset, value, bytes * sizeof(uint32_t));
}

static void add_range(uintptr_t base, uintptr_t bytes, uint32_t *shadow, int parameter)
{
    if (core.range_count < MAX_RANGES) {
        core.ranges[core.range_count++] = (struct range){base, bytes, shadow, parameter};
    }
}

/* The buffers that the arguments point to: as long as told, else the whole allocation. */
static void find_ranges(void)
{
    const struct emu_launch *launch = core.launch;

    core.range_count = 0;
    for (uint32_t i = 0; i < launch->kernel->parameter_count; i++) {
        const struct emu_parameter *parameter = &launch->kernel->parameters[i];
        uintptr_t pointer;
        if (!parameter->is_pointer) {
            continue;
        }
        memcpy(&pointer, launch->arguments[i], sizeof pointer);
        for (size_t k = 0; k < launch->allocation_count; k++) {
            const struct emu_allocation *a = &launch->allocations[k];
            uintptr_t offset = pointer - (uintptr_t)a->base;
            if (offset >= a->bytes) {
                continue;
            }
            if (parameter->extent && parameter->extent <= a->bytes - offset) {
                uint32_t *shadow = a->shadow ? a->shadow + offset : NULL;
                add_range(pointer, parameter->extent, shadow, (int)i);
            } else {
                add_range((uintptr_t)a->base, a->bytes, a->shadow, (int)i);
            }
        }
    }
}

int memory_prepare(void)
{
    const struct emu_kernel *kernel = core.launch->kernel;
    static uint32_t static_bytes, dynamic_bytes;

    if (!core.shared && !map_shared()) {
        return 0;
    }
    for (int i = 0; i < MAX_THREADS; i++) {
        core.threads[i].copy_count = 0;
    }
    mark(core.static_offset, static_bytes, 0xFF);
    mark(core.dynamic_offset, dynamic_bytes, 0xFF);
    static_bytes = kernel->region_bytes;
    dynamic_bytes = core.launch->dynamic_bytes;
    core.static_offset = place(SHARED_STATIC, static_bytes);
    core.dynamic_offset = place(SHARED_DYNAMIC, dynamic_bytes);
    mark(core.dynamic_offset, dynamic_bytes, 0);
    for (uint32_t i = 0; i < kernel->member_count; i++) {
        mark(core.static_offset + kernel->members[i].offset, kernel->members[i].bytes, 0);
    }
    find_ranges();
    return 1;
}

/* Shared memory begins as NaN, and what is still in flight from the block before is forgotten. */
void memory_begin_block(void)
{
    const struct emu_kernel *kernel = core.launch->kernel;

    memset(core.shared + core.static_offset, 0xFF, kernel->region_bytes);
    memset(core.shared + core.dynamic_offset, 0xFF, core.launch->dynamic_bytes);
    for (uint32_t i = 0; i < core.thread_count; i++) {
        struct thread *thread = &core.threads[i];
        for (uint32_t k = 0; k < thread->copy_count; k++) {
            mark(thread->copies[k].shared, thread->copies[k].bytes, 0);
        }
        thread->copy_count = thread->groups = 0;
    }
    if (core.stamp < 0xF0000000u) {
        return;
    }
    for (size_t k = 0; k < core.launch->allocation_count; k++) { /* the stamps have run out */
        const struct emu_allocation *a = &core.launch->allocations[k];
        if (a->shadow) {
            memset(a->shadow, 0, a->bytes * sizeof(uint32_t));
        }
    }
    mark(core.dynamic_offset, core.launch->dynamic_bytes, 0);
    for (uint32_t i = 0; i < kernel->member_count; i++) {
        mark(core.static_offset + kernel->members[i].offset, kernel->members[i].bytes, 0);
    }
    core.stamp = 0;
    core.launch_stamp = 1;
}
