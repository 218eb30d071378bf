/* The emulated driver's memory: allocations with pages around them that cannot be touched. */
#define _GNU_SOURCE
#include "driver.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { GUARD = 64 * 1024, ALIGNMENT = 256 };

static struct { unsigned char *base; size_t bytes; } *mappings; /* beside the allocations */

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
    pthread_mutex_lock(&emu.lock);
    void *grown = realloc(emu.allocations, (emu.allocation_count + 1) * sizeof *emu.allocations);
    emu.allocations = grown ? grown : emu.allocations;
    void *mapped = realloc(mappings, (emu.allocation_count + 1) * sizeof *mappings);
    mappings = mapped ? mapped : mappings;
    unsigned char *base = grown && mapped ? map_memory(all) : NULL;
    uint32_t *shadow = base ? map_memory(bytes * sizeof *shadow) : NULL;
    if (!shadow) {
        if (base) {
            munmap(base, all);
        }
        pthread_mutex_unlock(&emu.lock);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    mprotect(base, GUARD, PROT_NONE);
    mprotect(base + GUARD + room, GUARD, PROT_NONE);
    unsigned char *start = base + GUARD + (thread_order() == 1 ? 0 : room - used);
    memset(start, 0xFF, bytes);
    emu.allocations[emu.allocation_count] = (struct emu_allocation){start, bytes, shadow};
    mappings[emu.allocation_count].base = base;
    mappings[emu.allocation_count++].bytes = all;
    pthread_mutex_unlock(&emu.lock);
    *address = (CUdeviceptr)(uintptr_t)start;
    return CUDA_SUCCESS;
}

CUresult cuMemFree_v2(CUdeviceptr address)
{
    CUresult result = INVALID_VALUE;

    pthread_mutex_lock(&emu.lock);
    for (size_t i = 0; i < emu.allocation_count; i++) {
        if ((CUdeviceptr)(uintptr_t)emu.allocations[i].base == address) {
            munmap(mappings[i].base, mappings[i].bytes);
            munmap(emu.allocations[i].shadow, emu.allocations[i].bytes * sizeof(uint32_t));
            emu.allocations[i] = emu.allocations[--emu.allocation_count];
            mappings[i] = mappings[emu.allocation_count];
            result = emu.failed;
            break;
        }
    }
    pthread_mutex_unlock(&emu.lock);
    return result;
}

/* Addresses outside of device memory are the caller's own. */
CUresult check_bounds(CUdeviceptr address, size_t bytes)
{
    for (size_t i = 0; i < emu.allocation_count; i++) {
        CUdeviceptr offset = address - (CUdeviceptr)(uintptr_t)emu.allocations[i].base;
        if (offset < emu.allocations[i].bytes && bytes > emu.allocations[i].bytes - offset) {
            return refuse(INVALID_VALUE, "a copy of %zu bytes over the end of device memory", bytes);
        }
    }
    return CUDA_SUCCESS;
}
