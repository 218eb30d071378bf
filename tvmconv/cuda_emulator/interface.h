/* What an image of emulated kernels and the emulated driver tell each other. */
#ifndef TVMCONV_EMULATOR_INTERFACE_H
#define TVMCONV_EMULATOR_INTERFACE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EMU_EXPORT __attribute__((visibility("default")))

/* Codes of CUresult that a launch can end with. */
enum {
    EMU_OK = 0,
    EMU_ILLEGAL_ADDRESS = 700,
    EMU_MISALIGNED_ADDRESS = 716,
    EMU_LAUNCH_FAILED = 719
};

/* A parameter of a kernel; `extent` is the size of the buffer it points to, 0 if not told. */
struct emu_parameter {
    const char *name;
    uint32_t bytes;
    uint32_t is_pointer;
    uint64_t extent;
};

/* An array in a kernel's static shared memory. */
struct emu_member {
    uint32_t offset, bytes;
};

struct emu_kernel {
    const char *name;
    void (*call)(void **arguments);
    const struct emu_parameter *parameters;
    uint32_t parameter_count;
    const struct emu_member *members;
    uint32_t member_count;
    uint32_t static_bytes; /* of the arrays together, as the device would place them */
    uint32_t region_bytes; /* of the region in which they lie here, with gaps between them */
    uint32_t max_threads;  /* of __launch_bounds__, or 0 */
};

/* Device memory. `shadow` has the stamp of the last writer of each byte, or is null. */
struct emu_allocation {
    unsigned char *base;
    size_t bytes;
    uint32_t *shadow;
};

struct emu_launch {
    const struct emu_kernel *kernel;
    uint32_t grid[3], block[3];
    uint32_t dynamic_bytes;
    uint32_t order; /* 0: threads and blocks forwards, 1: backwards, else shuffled by this seed */
    void **arguments;
    struct emu_allocation *allocations;
    size_t allocation_count;
    uint32_t *stamp; /* the last one used in any shadow; goes on from launch to launch */
    char *report;    /* one line about what went wrong */
    size_t report_bytes;
};

/* In every image. */
EMU_EXPORT int tvmconv_emulator_run(const struct emu_launch *launch);
EMU_EXPORT extern const struct emu_kernel tvmconv_emulator_kernels[];
EMU_EXPORT extern const uint32_t tvmconv_emulator_kernel_count;

#ifdef __cplusplus
}
#endif
#endif
