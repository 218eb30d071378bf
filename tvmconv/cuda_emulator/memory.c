/* Bounds and races of every access to memory.

   Every access of a kernel calls one of the functions at the end: the compiler's instrumentation
   for data races inserts the calls, and the checks here are ours. Each byte has the stamp of the
   thread that wrote it last. A thread gets a new stamp after every barrier, so that a byte read by
   another thread was written before the last barrier or is a race. Only writes leave stamps: a
   read that comes before a write becomes one that comes after it where threads run backwards. */
#include <string.h>

#include "core.h"

extern char __ehdr_start[], _end[]; /* the image's own constants */

static inline int within(const struct range *r, uintptr_t address, uint32_t bytes)
{
    uintptr_t offset = address - r->base;

    return offset < r->bytes && r->bytes - offset >= bytes;
}

static const char *verb(int write)
{
    return write ? "write" : "read";
}

/* Whether this thread may see what was written with a stamp, under the rules of its block. */
static int ordered(uint32_t stamp)
{
    const struct thread *thread = core.current;

    return stamp < core.launch_stamp || stamp == thread->stamp ||
        (stamp >= core.block_stamp && stamp < core.interval_stamp) ||
        (stamp >= core.warp_stamp && stamp < thread->sync_stamp);
}

static __attribute__((noinline)) void shared_fault(uint32_t offset, uint32_t bytes, int write)
{
    for (uint32_t i = 0; i < bytes; i++) {
        uint32_t stamp = core.shared_shadow[offset + i];
        if (stamp < core.interval_stamp) {
            continue; /* before the last barrier, or by the block before */
        }
        if (stamp == STAMP_GAP) {
            int dynamic = offset >= SHARED_DYNAMIC - PAGE;
            uint32_t base = dynamic ? core.dynamic_offset : core.static_offset;
            fail(EMU_ILLEGAL_ADDRESS, "out of bounds: %s of %u bytes at byte %d of %s shared memory",
                verb(write), bytes, (int)(offset - base), dynamic ? "dynamic" : "static");
        }
        if (stamp == STAMP_IN_FLIGHT) {
            fail(EMU_LAUNCH_FAILED,
                "%s of shared memory that cp.async still writes: a wait or a barrier is missing",
                verb(write));
        }
        if (!ordered(stamp)) {
            fail(EMU_LAUNCH_FAILED,
                "race: %s of %u bytes of shared memory that another thread wrote since the last "
                "barrier", verb(write), bytes);
        }
    }
}

static __attribute__((noinline)) void outside(uintptr_t address, uint32_t bytes, int write)
{
    const struct range *nearest = NULL;
    uintptr_t least = UINTPTR_MAX, constants = (uintptr_t)__ehdr_start;

    if (on_current_stack(address) || address - constants < (uintptr_t)_end - constants) {
        return;
    }
    for (int i = 0; i < core.range_count; i++) {
        const struct range *r = &core.ranges[i];
        uintptr_t away = address < r->base ? r->base - address : address - r->base - r->bytes;
        if (away < least) {
            least = away;
            nearest = r;
        }
    }
    if (!nearest) {
        fail(EMU_ILLEGAL_ADDRESS, "out of bounds: %s of %u bytes at %#zx, in no buffer",
            verb(write), bytes, (size_t)address);
    }
    fail(EMU_ILLEGAL_ADDRESS, "out of bounds: %s of %u bytes at byte %lld of %s, which has %zu",
        verb(write), bytes, (long long)(address - nearest->base),
        core.launch->kernel->parameters[nearest->parameter].name, (size_t)nearest->bytes);
}

static __attribute__((noinline)) void global_fault(
    const struct range *r, uintptr_t address, uint32_t bytes, int write)
{
    for (uint32_t i = 0; i < bytes; i++) {
        if (!ordered(r->shadow[address - r->base + i])) {
            fail(EMU_LAUNCH_FAILED,
                "race: %s of %u bytes at byte %zu of %s that another thread wrote in this launch",
                verb(write), bytes, (size_t)(address - r->base),
                core.launch->kernel->parameters[r->parameter].name);
        }
    }
}

static inline __attribute__((always_inline)) void check(
    uintptr_t address, uint32_t bytes, int write)
{
    uintptr_t offset = address - (uintptr_t)core.shared;
    uint32_t *cells, bad = 0;
    struct range *r = core.ranges;

    if (offset < SHARED_BYTES - 16) {
        cells = core.shared_shadow + offset;
        for (uint32_t i = 0; i < bytes; i++) {
            bad |= cells[i] >= core.interval_stamp;
        }
        if (bad) {
            shared_fault((uint32_t)offset, bytes, write);
        }
    } else {
        int i = 0;
        while (i < core.range_count && !within(r, address, bytes)) {
            i++, r++;
        }
        if (i == core.range_count) {
            outside(address, bytes, write);
            return;
        }
        if (!r->shadow) {
            return;
        }
        cells = r->shadow + (address - r->base);
        for (uint32_t k = 0; k < bytes; k++) {
            bad |= cells[k] >= core.launch_stamp;
        }
        if (bad) {
            global_fault(r, address, bytes, write);
        }
    }
    if (write) {
        uint32_t stamp = core.current->stamp;
        for (uint32_t i = 0; i < bytes; i++) {
            cells[i] = stamp;
        }
    }
}

void check_access(uintptr_t address, uint32_t bytes, int write)
{
    for (; bytes > 16; bytes -= 16, address += 16) {
        check(address, 16, write);
    }
    check(address, bytes, write);
}

unsigned char *shared_pointer(uint32_t address, uint32_t bytes, const char *what)
{
    if (address > SHARED_BYTES - bytes || address < SHARED_STATIC) {
        fail(EMU_ILLEGAL_ADDRESS, "%s: its address is not in shared memory", what);
    }
    if (address % bytes) {
        fail(EMU_MISALIGNED_ADDRESS, "%s: its address is not a multiple of %u", what, bytes);
    }
    return core.shared + address;
}

void *emu_shared_pointer(uint32_t shared, uint32_t bytes)
{
    return shared_pointer(shared, bytes, "st.shared");
}

uint32_t emu_shared_address(const void *pointer)
{
    uintptr_t offset = (uintptr_t)pointer - (uintptr_t)core.shared;

    return offset < SHARED_BYTES ? (uint32_t)offset : UINT32_MAX;
}

/* Atomic operations race with nothing, but must lie inside a buffer. */
static void check_atomic(const void *address)
{
    uintptr_t a = (uintptr_t)address, offset = a - (uintptr_t)core.shared;

    if (a % 4) {
        fail(EMU_MISALIGNED_ADDRESS, "an atomic operation's address is not a multiple of 4");
    }
    if (offset < SHARED_BYTES - 16) {
        if (core.shared_shadow[offset] >= STAMP_IN_FLIGHT) {
            shared_fault((uint32_t)offset, 4, 1);
        }
        return;
    }
    for (int i = 0; i < core.range_count; i++) {
        if (within(&core.ranges[i], a, 4)) {
            return;
        }
    }
    outside(a, 4, 1);
}

float emu_atomic_add_float(float *address, float value)
{
    check_atomic(address);
    float before = *address;
    *address = before + value;
    return before;
}

uint32_t emu_atomic_add(uint32_t *address, uint32_t value)
{
    check_atomic(address);
    uint32_t before = *address;
    *address = before + value;
    return before;
}

uint32_t emu_atomic_max(int32_t *address, int32_t value)
{
    check_atomic(address);
    int32_t before = *address;
    *address = before > value ? before : value;
    return (uint32_t)before;
}

/* What the compiler calls before every access of a kernel. */
void __tsan_init(void) {}

static __attribute__((noinline)) void misaligned(uint32_t bytes, int write)
{
    fail(EMU_MISALIGNED_ADDRESS, "%s of %u bytes at an address that is not a multiple of it",
        verb(write), bytes);
}

#define ACCESS(bytes)                                   \
    void __tsan_read##bytes(void *address);             \
    void __tsan_read##bytes(void *address)              \
    {                                                   \
        if ((uintptr_t)address % bytes) {               \
            misaligned(bytes, 0);                       \
        }                                               \
        check((uintptr_t)address, bytes, 0);            \
    }                                                   \
    void __tsan_write##bytes(void *address);            \
    void __tsan_write##bytes(void *address)             \
    {                                                   \
        if ((uintptr_t)address % bytes) {               \
            misaligned(bytes, 1);                       \
        }                                               \
        check((uintptr_t)address, bytes, 1);            \
    }                                                   \
    void __tsan_unaligned_read##bytes(void *address);   \
    void __tsan_unaligned_read##bytes(void *address)    \
    {                                                   \
        check((uintptr_t)address, bytes, 0);            \
    }                                                   \
    void __tsan_unaligned_write##bytes(void *address);  \
    void __tsan_unaligned_write##bytes(void *address)   \
    {                                                   \
        check((uintptr_t)address, bytes, 1);            \
    }
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)

void *__tsan_memcpy(void *to, const void *from, size_t bytes);
void *__tsan_memcpy(void *to, const void *from, size_t bytes)
{
    check_access((uintptr_t)from, (uint32_t)bytes, 0);
    check_access((uintptr_t)to, (uint32_t)bytes, 1);
    return memcpy(to, from, bytes);
}

void *__tsan_memmove(void *to, const void *from, size_t bytes);
void *__tsan_memmove(void *to, const void *from, size_t bytes)
{
    check_access((uintptr_t)from, (uint32_t)bytes, 0);
    check_access((uintptr_t)to, (uint32_t)bytes, 1);
    return memmove(to, from, bytes);
}

void *__tsan_memset(void *to, int value, size_t bytes);
void *__tsan_memset(void *to, int value, size_t bytes)
{
    check_access((uintptr_t)to, (uint32_t)bytes, 1);
    return memset(to, value, bytes);
}
