/* What the parts of the emulated driver share. */
#ifndef TVMCONV_EMULATOR_DRIVER_H
#define TVMCONV_EMULATOR_DRIVER_H

#include <pthread.h>

#include "cuda_driver.h"
#include "interface.h"

/* Prototypes of all functions, as the runtime has them. */
#define DECLARE(name, parameters) EMU_EXPORT CUresult name parameters;
TVMCONV_CUDA_FUNCTIONS(DECLARE)
#undef DECLARE

enum { INVALID_VALUE = 1, NOT_INITIALIZED = 3, INVALID_CONTEXT = 201, NOT_FOUND = 500 };
enum { STREAM_CAPTURE_INVALIDATED = 901, STREAM_CAPTURE_UNMATCHED = 903 };
enum { STATIC_SHARED = 48 * 1024, REPORT = 512 };

struct CUmod_st {
    void *library;
    int file; /* open as long: the system takes two files of one name for the same library */
    struct CUfunc_st *functions;
    uint32_t count;
    int (*run)(const struct emu_launch *);
};
struct CUfunc_st {
    const struct emu_kernel *kernel;
    CUmodule module;
    uint32_t dynamic_limit;
};

struct driver {
    pthread_mutex_t lock;
    struct emu_allocation *allocations;
    size_t allocation_count;
    uint32_t stamp;
    CUresult failed; /* of a launch: all later calls return it */
    CUresult reported;
    char report[REPORT];
};
extern struct driver emu;

/* driver.c: the device that is emulated, the order of its threads, the context. */
int device_sm(void);
uint32_t shared_limit(void);
uint32_t thread_order(void);
CUresult usable(void);
__attribute__((format(printf, 2, 3))) CUresult refuse(CUresult code, const char *format, ...);

/* driver_memory.c */
CUresult check_bounds(CUdeviceptr address, size_t bytes);

#endif
