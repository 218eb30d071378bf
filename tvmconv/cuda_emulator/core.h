/* State of one launch, in the parts of the core: one host thread runs one launch at a time. */
#ifndef TVMCONV_EMULATOR_CORE_H
#define TVMCONV_EMULATOR_CORE_H

#include "device.h"
#include "interface.h"

enum { WARP = 32, MAX_THREADS = 1024, MAX_RANGES = 128 };
enum { SHARED_AREA = 256 * 1024, PAGE = 64 * 1024 };

/* Stamps of bytes that no thread may touch. */
#define STAMP_IN_FLIGHT 0xFFFFFFFEu
#define STAMP_GAP 0xFFFFFFFFu

enum state { THREAD_NEW, THREAD_RUNS, THREAD_AT_WARP, THREAD_AT_BARRIER, THREAD_ENDED };
enum warp_kind { WARP_SYNC, WARP_ACTIVE, WARP_SHUFFLE, WARP_VOTE, WARP_LDMATRIX, WARP_MMA };

/* A copy by cp.async that has not arrived. */
struct copy {
    uint32_t shared, bytes, source_bytes, group;
    const unsigned char *global;
};

struct thread {
    struct emu_index index;
    enum state state;
    int fibre;
    uint32_t stamp;      /* of what it writes now */
    uint32_t sync_stamp; /* its warp's first stamp after the last __syncwarp */
    enum warp_kind kind; /* at a warp operation: which, for whom, with what */
    uint32_t mask;
    int line; /* of the barrier or operation at which it waits */
    void *operand;
    struct copy *copies;
    uint32_t copy_count, copy_capacity, groups;
};

/* Memory that the kernel may touch: an argument's buffer. */
struct range {
    uintptr_t base, bytes;
    uint32_t *shadow; /* of its first byte, or null */
    int parameter;
};

struct core {
    const struct emu_launch *launch;
    struct emu_index block_index;
    struct thread *current;
    uint32_t thread_count, warp_count;
    uint32_t votes[2], vote; /* of __syncthreads_count: what is counted, and which */
    uint32_t stamp;       /* the last one given */
    uint32_t launch_stamp, block_stamp, interval_stamp, warp_stamp; /* the first one of each */
    unsigned char *shared; /* two areas with pages around them that cannot be touched */
    uint32_t *shared_shadow;
    uint32_t static_offset, dynamic_offset;
    struct range ranges[MAX_RANGES];
    int range_count;
    struct thread threads[MAX_THREADS];
};

extern struct core core;

enum { SHARED_STATIC = PAGE, SHARED_DYNAMIC = SHARED_STATIC + SHARED_AREA + PAGE };
enum { SHARED_BYTES = SHARED_DYNAMIC + SHARED_AREA + PAGE };

/* fibres.c */
int fibres_ready(void);
void fibre_start(struct thread *thread);
void fibre_resume(struct thread *thread);
void fibre_yield(void);
void fibres_abandon(void);
int on_current_stack(uintptr_t address);

/* spaces.c */
int memory_prepare(void);
void memory_begin_block(void);

/* memory.c */
void check_access(uintptr_t address, uint32_t bytes, int write);
unsigned char *shared_pointer(uint32_t address, uint32_t bytes, const char *what);

/* warp.c */
void warp_execute(enum warp_kind kind, struct thread *first, uint32_t lanes);
const char *warp_name(enum warp_kind kind);

/* core.c: end the launch with a report; does not return. */
__attribute__((noreturn, format(printf, 2, 3))) void fail(int code, const char *format, ...);

#endif
