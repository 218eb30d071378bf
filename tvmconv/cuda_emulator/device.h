/* Functions of the emulator's core that emulated kernels call; see include/tvmconv_emulator.h. */
#ifndef TVMCONV_EMULATOR_DEVICE_H
#define TVMCONV_EMULATOR_DEVICE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A kernel's call is one thread, so that what tells its place may be read once. */
#define EMU_CONST __attribute__((const))

struct emu_index {
    uint32_t x, y, z;
};
struct emu_words {
    uint32_t w[4];
};

enum emu_index_kind { EMU_THREAD, EMU_BLOCK, EMU_BLOCK_SIZE, EMU_GRID_SIZE };
enum emu_shuffle { EMU_SHUFFLE_INDEX, EMU_SHUFFLE_UP, EMU_SHUFFLE_DOWN, EMU_SHUFFLE_XOR };
enum emu_vote { EMU_VOTE_ANY, EMU_VOTE_ALL, EMU_VOTE_BALLOT };
enum emu_mma_kind {
    EMU_MMA_M16N8K16_F16_F32,
    EMU_MMA_M16N8K16_BF16_F32,
    EMU_MMA_M16N8K16_F16_F16,
    EMU_MMA_M16N8K8_F16_F32,
    EMU_MMA_M16N8K8_BF16_F32,
    EMU_MMA_M16N8K8_TF32_F32,
    EMU_MMA_M16N8K4_TF32_F32,
    EMU_MMA_M16N8K16_S8_S32,
    EMU_MMA_M16N8K32_S8_S32
};

EMU_CONST struct emu_index emu_index(enum emu_index_kind kind);
EMU_CONST void *emu_shared_static(void);
EMU_CONST void *emu_shared_dynamic(void);

/* `line` is that of the source, for messages and to tell one barrier from another. */
void emu_barrier(int line);
uint32_t emu_barrier_vote(enum emu_vote vote, uint32_t predicate, int line);
void emu_warp_barrier(uint32_t mask, int line);
uint32_t emu_active_mask(int line);
uint64_t emu_warp_shuffle(
    enum emu_shuffle mode, uint32_t mask, uint64_t value, int32_t argument, int32_t width, int line);
uint32_t emu_warp_vote(enum emu_vote vote, uint32_t mask, uint32_t predicate, int line);
struct emu_words emu_ldmatrix(uint32_t address, uint32_t count, uint32_t transposed, int line);
struct emu_words emu_mma(
    enum emu_mma_kind kind, const uint32_t *a, const uint32_t *b, const uint32_t *c, int line);

uint32_t emu_shared_address(const void *pointer);
void *emu_shared_pointer(uint32_t shared, uint32_t bytes);
void emu_copy_async(
    uint32_t shared, const void *global, uint32_t bytes, uint32_t source_bytes, int line);
void emu_copy_commit(void);
void emu_copy_wait(uint32_t groups_left);
void emu_copy_wait_all(void);

float emu_atomic_add_float(float *address, float value);
uint32_t emu_atomic_add(uint32_t *address, uint32_t value);
uint32_t emu_atomic_max(int32_t *address, int32_t value);
__attribute__((noreturn)) void emu_trap(const char *what, int line);

#ifdef __cplusplus
}
#endif
#endif
