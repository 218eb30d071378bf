/* Operations of the threads of one warp together: shuffles, votes, matrix instructions. */
#include <string.h>

#include "core.h"

struct shuffle {
    enum emu_shuffle mode;
    uint64_t value, result;
    int32_t argument, width;
};

struct vote {
    enum emu_vote vote;
    uint32_t predicate, result;
};

struct matrices {
    uint32_t address, count, transposed;
    struct emu_words result;
};

/* One lane's registers of D = A·B + C. */
struct mma {
    enum emu_mma_kind kind;
    const uint32_t *a, *b, *c;
    struct emu_words d;
};

const char *warp_name(enum warp_kind kind)
{
    static const char *const names[] = {
        [WARP_SYNC] = "__syncwarp",
        [WARP_ACTIVE] = "__activemask",
        [WARP_SHUFFLE] = "__shfl_sync",
        [WARP_VOTE] = "warp vote",
        [WARP_LDMATRIX] = "ldmatrix",
        [WARP_MMA] = "mma.sync",
    };
    return names[kind];
}

/* Wait until the lanes of the mask are here and the scheduler has done the operation for all. */
static void meet(enum warp_kind kind, uint32_t mask, void *operand, int line)
{
    struct thread *thread = core.current;

    thread->kind = kind;
    thread->mask = mask;
    thread->operand = operand;
    thread->line = line;
    thread->state = THREAD_AT_WARP;
    fibre_yield();
}

void emu_warp_barrier(uint32_t mask, int line)
{
    meet(WARP_SYNC, mask, NULL, line);
}

uint32_t emu_active_mask(int line)
{
    uint32_t mask = 0;

    meet(WARP_ACTIVE, 0, &mask, line);
    return mask;
}

uint64_t emu_warp_shuffle(
    enum emu_shuffle mode, uint32_t mask, uint64_t value, int32_t argument, int32_t width, int line)
{
    struct shuffle operand = {mode, value, 0, argument, width};

    if (width < 1 || width > WARP || (width & (width - 1))) {
        fail(EMU_LAUNCH_FAILED, "__shfl_sync at line %d: width %d", line, width);
    }
    meet(WARP_SHUFFLE, mask, &operand, line);
    return operand.result;
}

uint32_t emu_warp_vote(enum emu_vote vote, uint32_t mask, uint32_t predicate, int line)
{
    struct vote operand = {vote, predicate, 0};

    meet(WARP_VOTE, mask, &operand, line);
    return operand.result;
}

struct emu_words emu_ldmatrix(uint32_t address, uint32_t count, uint32_t transposed, int line)
{
    struct matrices operand = {address, count, transposed, {{0}}};

    meet(WARP_LDMATRIX, UINT32_MAX, &operand, line);
    return operand.result;
}

struct emu_words emu_mma(
    enum emu_mma_kind kind, const uint32_t *a, const uint32_t *b, const uint32_t *c, int line)
{
    struct mma operand = {kind, a, b, c, {{0}}};

    meet(WARP_MMA, UINT32_MAX, &operand, line);
    return operand.d;
}

static int source_lane(const struct shuffle *s, int lane)
{
    int first = lane & ~(s->width - 1), source = lane;

    switch (s->mode) {
    case EMU_SHUFFLE_INDEX:
        return first + (s->argument & (s->width - 1));
    case EMU_SHUFFLE_UP:
        source = lane - s->argument;
        return source < first ? lane : source;
    case EMU_SHUFFLE_DOWN:
        source = lane + s->argument;
        return source >= first + s->width ? lane : source;
    default:
        source = lane ^ s->argument;
        return source >= first + s->width ? lane : source;
    }
}

/* What comes from a lane that does not take part is undefined: NaN. */
static void shuffle(struct thread *warp, uint32_t lanes)
{
    for (int i = 0; i < WARP; i++) {
        if (lanes >> i & 1) {
            struct shuffle *s = warp[i].operand;
            int source = source_lane(s, i);
            int takes_part = source < WARP && lanes >> source & 1;
            s->result = takes_part ? ((struct shuffle *)warp[source].operand)->value : UINT64_MAX;
        }
    }
}

static void vote(struct thread *warp, uint32_t lanes)
{
    uint32_t ballot = 0;

    for (int i = 0; i < WARP; i++) {
        if (lanes >> i & 1 && ((struct vote *)warp[i].operand)->predicate) {
            ballot |= 1u << i;
        }
    }
    for (int i = 0; i < WARP; i++) {
        if (lanes >> i & 1) {
            struct vote *v = warp[i].operand;
            v->result = v->vote == EMU_VOTE_ANY ? ballot != 0 :
                v->vote == EMU_VOTE_ALL         ? ballot == lanes : ballot;
        }
    }
}

/* Each of 8·count lanes gives the address of a row of 8 halves; see ldmatrix in the PTX ISA. */
static void load_matrices(struct thread *warp)
{
    const struct matrices *first = warp[0].operand;
    uint16_t rows[WARP][8] = {{0}};

    for (uint32_t i = 0; i < 8 * first->count; i++) {
        const struct matrices *m = warp[i].operand;
        core.current = &warp[i];
        const unsigned char *row = shared_pointer(m->address, 16, "ldmatrix");
        check_access((uintptr_t)row, 16, 0);
        memcpy(rows[i], row, 16);
    }
    for (int i = 0; i < WARP; i++) {
        struct matrices *m = warp[i].operand;
        int row = i / 4, column = i % 4 * 2;
        if (m->count != first->count || m->transposed != first->transposed) {
            core.current = &warp[i];
            fail(EMU_LAUNCH_FAILED, "ldmatrix: not the same instruction in all threads of a warp");
        }
        for (uint32_t k = 0; k < m->count; k++) {
            const uint16_t(*matrix)[8] = (const uint16_t(*)[8])(rows + 8 * k);
            uint16_t low = m->transposed ? matrix[column][row] : matrix[row][column];
            uint16_t high = m->transposed ? matrix[column + 1][row] : matrix[row][column + 1];
            m->result.w[k] = low | (uint32_t)high << 16;
        }
    }
}

static float float_of(uint32_t bits)
{
    float value;

    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t bits_of(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float half_of(uint32_t bits)
{
    uint16_t low = (uint16_t)bits;
    _Float16 value;

    memcpy(&value, &low, sizeof value);
    return (float)value;
}

static uint32_t half_bits(float value)
{
    _Float16 rounded = (_Float16)value;
    uint16_t bits;

    memcpy(&bits, &rounded, sizeof bits);
    return bits;
}

enum element { F16, BF16, TF32, S8 };

struct shape {
    enum element element;
    int k, half_result;
};

static const struct shape shapes[] = {
    [EMU_MMA_M16N8K16_F16_F32] = {F16, 16, 0},
    [EMU_MMA_M16N8K16_BF16_F32] = {BF16, 16, 0},
    [EMU_MMA_M16N8K16_F16_F16] = {F16, 16, 1},
    [EMU_MMA_M16N8K8_F16_F32] = {F16, 8, 0},
    [EMU_MMA_M16N8K8_BF16_F32] = {BF16, 8, 0},
    [EMU_MMA_M16N8K8_TF32_F32] = {TF32, 8, 0},
    [EMU_MMA_M16N8K4_TF32_F32] = {TF32, 4, 0},
    [EMU_MMA_M16N8K16_S8_S32] = {S8, 16, 0},
    [EMU_MMA_M16N8K32_S8_S32] = {S8, 32, 0},
};

/* Elements in a register: 2 halves, 4 bytes or 1 float. */
static int packed(enum element element)
{
    return element == S8 ? 4 : element == TF32 ? 1 : 2;
}

static float element_of(enum element element, uint32_t word, int i)
{
    switch (element) {
    case F16:
        return half_of(word >> 16 * i);
    case BF16:
        return float_of((word >> 16 * i) << 16);
    case TF32: /* the low bits are not read */
        return float_of(word & 0xFFFFE000u);
    default:
        return (float)(int8_t)(word >> 8 * i);
    }
}

/* Read A (16 × k) and B (k × 8). A register's elements follow each other along k from
   packed·(lane % 4); the next registers are 8 rows down, then 4·packed further along k. */
static void gather(struct thread *warp, const struct shape *shape, float a[16][32], float b[8][32])
{
    int pack = packed(shape->element), steps = shape->k / (4 * pack);

    for (int lane = 0; lane < WARP; lane++) {
        const struct mma *m = warp[lane].operand;
        int row = lane / 4, column = lane % 4 * pack;
        for (int s = 0; s < steps; s++) {
            for (int i = 0; i < pack; i++) {
                int k = s * 4 * pack + column + i;
                a[row][k] = element_of(shape->element, m->a[2 * s], i);
                a[row + 8][k] = element_of(shape->element, m->a[2 * s + 1], i);
                b[row][k] = element_of(shape->element, m->b[s], i);
            }
        }
    }
}

static uint32_t accumulate(
    const struct shape *shape, uint32_t c, const float *restrict a, const float *restrict b)
{
    if (shape->element == S8) {
        int32_t sum = (int32_t)c;
        for (int k = 0; k < shape->k; k++) {
            sum += (int32_t)a[k] * (int32_t)b[k];
        }
        return (uint32_t)sum;
    }
    float sum = float_of(c);
    for (int k = 0; k < shape->k; k++) {
        sum += a[k] * b[k];
    }
    return bits_of(sum);
}

static void multiply(struct thread *warp)
{
    const struct mma *first = warp[0].operand;
    const struct shape *shape = &shapes[first->kind];
    float a[16][32], b[8][32];

    for (int lane = 0; lane < WARP; lane++) {
        if (((struct mma *)warp[lane].operand)->kind != first->kind) {
            core.current = &warp[lane];
            fail(EMU_LAUNCH_FAILED, "mma.sync: not the same instruction in all threads of a warp");
        }
    }
    gather(warp, shape, a, b);
    for (int lane = 0; lane < WARP; lane++) {
        struct mma *m = warp[lane].operand;
        for (int i = 0; i < 4; i++) {
            const float *row = a[lane / 4 + i / 2 * 8], *column = b[lane % 4 * 2 + i % 2];
            if (shape->half_result) {
                uint32_t c = bits_of(half_of(m->c[i / 2] >> 16 * (i % 2)));
                uint32_t d = half_bits(float_of(accumulate(shape, c, row, column)));
                m->d.w[i / 2] |= d << 16 * (i % 2);
            } else {
                m->d.w[i] = accumulate(shape, m->c[i], row, column);
            }
        }
    }
}

void warp_execute(enum warp_kind kind, struct thread *warp, uint32_t lanes)
{
    uint32_t stamp = core.stamp + 1;

    switch (kind) {
    case WARP_SYNC: /* what these lanes wrote before is seen by them after */
        core.stamp += WARP;
        for (uint32_t i = 0; i < WARP; i++) {
            if (lanes >> i & 1) {
                warp[i].stamp = stamp + i;
                warp[i].sync_stamp = stamp;
            }
        }
        break;
    case WARP_ACTIVE:
        for (uint32_t i = 0; i < WARP; i++) {
            if (lanes >> i & 1) {
                *(uint32_t *)warp[i].operand = lanes;
            }
        }
        break;
    case WARP_SHUFFLE:
        shuffle(warp, lanes);
        break;
    case WARP_VOTE:
        vote(warp, lanes);
        break;
    case WARP_LDMATRIX:
        load_matrices(warp);
        break;
    case WARP_MMA:
        multiply(warp);
        break;
    }
}
