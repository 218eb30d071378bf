/* Runs a launch: blocks in turn, a block's threads as fibres that switch at barriers.

   Between two barriers each warp runs until all of its threads wait or have ended, then the next
   one does. Whatever is wrong ends the launch with one line about the thread that runs. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core.h"

struct core core;

static sigjmp_buf ended;
static uint32_t warp_order[MAX_THREADS / WARP], lane_order[WARP];

__attribute__((noreturn)) void fail(int code, const char *format, ...)
{
    const struct emu_launch *launch = core.launch;
    const struct emu_index b = core.block_index;
    int used = snprintf(launch->report, launch->report_bytes, "kernel %s, block (%u, %u, %u)",
        launch->kernel->name, b.x, b.y, b.z);
    size_t at = (size_t)used;
    va_list arguments;

    if (core.current) {
        struct emu_index t = core.current->index;
        at += (size_t)snprintf(launch->report + at, launch->report_bytes - at,
            ", thread (%u, %u, %u)", t.x, t.y, t.z);
    }
    at += (size_t)snprintf(launch->report + at, launch->report_bytes - at, ": ");
    va_start(arguments, format);
    vsnprintf(launch->report + at, launch->report_bytes - at, format, arguments);
    va_end(arguments);
    siglongjmp(ended, code);
}

/* A fault of the host: an address in no memory at all, or a division by zero. */
static void on_signal(int number, siginfo_t *info, void *context)
{
    (void)context;
    if (!core.current) {
        signal(number, SIG_DFL); /* not a kernel's */
        return;
    }
    if (number == SIGFPE) {
        fail(EMU_LAUNCH_FAILED, "integer division by zero");
    }
    fail(EMU_ILLEGAL_ADDRESS, "illegal address %p", info->si_addr);
}

enum { SIGNALS = 3, SIGNAL_STACK = 64 * 1024 };
static const int signals[SIGNALS] = {SIGSEGV, SIGBUS, SIGFPE};

struct handlers {
    struct sigaction actions[SIGNALS];
    stack_t stack;
};

static void catch_signals(struct handlers *before)
{
    static unsigned char stack[SIGNAL_STACK];
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    stack_t own = {.ss_sp = stack, .ss_size = sizeof stack};

    sigemptyset(&action.sa_mask);
    sigaltstack(&own, &before->stack);
    for (int i = 0; i < SIGNALS; i++) {
        sigaction(signals[i], &action, &before->actions[i]);
    }
}

static void restore_signals(const struct handlers *before)
{
    for (int i = 0; i < SIGNALS; i++) {
        sigaction(signals[i], &before->actions[i], NULL);
    }
    sigaltstack(&before->stack, NULL);
}

struct emu_index emu_index(enum emu_index_kind kind)
{
    const struct emu_launch *launch = core.launch;

    switch (kind) {
    case EMU_THREAD:
        return core.current->index;
    case EMU_BLOCK:
        return core.block_index;
    case EMU_BLOCK_SIZE:
        return (struct emu_index){launch->block[0], launch->block[1], launch->block[2]};
    default:
        return (struct emu_index){launch->grid[0], launch->grid[1], launch->grid[2]};
    }
}

void *emu_shared_static(void)
{
    return core.shared + core.static_offset;
}

void *emu_shared_dynamic(void)
{
    return core.shared + core.dynamic_offset;
}

static void wait_at_barrier(int line)
{
    core.current->state = THREAD_AT_BARRIER;
    core.current->line = line;
    fibre_yield();
}

void emu_barrier(int line)
{
    wait_at_barrier(line);
}

uint32_t emu_barrier_vote(enum emu_vote vote, uint32_t predicate, int line)
{
    uint32_t *count = &core.votes[core.vote & 1];

    *count += predicate != 0;
    wait_at_barrier(line);
    return vote == EMU_VOTE_ANY ? *count > 0 :
        vote == EMU_VOTE_ALL    ? *count == core.thread_count : *count;
}

void emu_trap(const char *what, int line)
{
    fail(EMU_LAUNCH_FAILED, "%s at line %d", what, line);
}

static const char *place_of(const struct thread *thread, char text[64])
{
    if (thread->state == THREAD_ENDED) {
        return "has ended";
    }
    const char *what =
        thread->state == THREAD_AT_BARRIER ? "__syncthreads" : warp_name(thread->kind);
    snprintf(text, 64, "waits at %s of line %d", what, thread->line);
    return text;
}

static __attribute__((noreturn)) void divergent(
    struct thread *thread, const char *what, const struct thread *other)
{
    char text[64];
    struct emu_index o = other->index;

    core.current = thread;
    fail(EMU_LAUNCH_FAILED, "divergent %s at line %d: thread (%u, %u, %u) %s", what, thread->line,
        o.x, o.y, o.z, place_of(other, text));
}

/* The lanes that a waiting one needs, if all of them are there; else 0 and one that is not. */
static uint32_t group(struct thread *warp, uint32_t count, uint32_t lane, struct thread **absent)
{
    const struct thread *first = &warp[lane];
    int whole = first->kind == WARP_MMA || first->kind == WARP_LDMATRIX;
    uint32_t lanes = 0;

    for (uint32_t i = 0; i < count; i++) {
        struct thread *t = &warp[i];
        if (!(first->mask >> i & 1) || (!whole && t->state == THREAD_ENDED)) {
            continue;
        }
        if (t->state != THREAD_AT_WARP || t->kind != first->kind || t->mask != first->mask) {
            *absent = t;
            return 0;
        }
        lanes |= 1u << i;
    }
    return lanes;
}

static void release(struct thread *warp, uint32_t lanes)
{
    for (uint32_t i = 0; i < WARP; i++) {
        if (lanes >> i & 1) {
            warp[i].state = THREAD_RUNS;
        }
    }
}

/* Do the warp operations for which all lanes have come. */
static void resolve(struct thread *warp, uint32_t count)
{
    struct thread *absent = NULL, *waiting = NULL;
    uint32_t active = 0, done = 0;

    for (uint32_t i = 0; i < count; i++) {
        struct thread *t = &warp[i];
        if (t->state != THREAD_AT_WARP) {
            continue;
        }
        if (t->kind == WARP_ACTIVE) {
            active |= 1u << i;
            continue;
        }
        core.current = t;
        if (!(t->mask >> i & 1)) {
            fail(EMU_LAUNCH_FAILED, "%s at line %d: mask %#x leaves out the calling lane %u",
                warp_name(t->kind), t->line, t->mask, i);
        }
        if (count < WARP && (t->kind == WARP_MMA || t->kind == WARP_LDMATRIX)) {
            fail(EMU_LAUNCH_FAILED, "%s at line %d: the warp has only %u threads",
                warp_name(t->kind), t->line, count);
        }
        uint32_t lanes = group(warp, count, i, &absent);
        if (lanes) {
            warp_execute(t->kind, warp, lanes);
            release(warp, lanes);
            done |= lanes;
        } else {
            waiting = t;
        }
    }
    if (!done && active) {
        warp_execute(WARP_ACTIVE, warp, active);
        release(warp, active);
        done = active;
    }
    if (!done && waiting) {
        divergent(waiting, warp_name(waiting->kind), absent);
    }
}

/* Run a warp's threads until all wait at a barrier or have ended. */
static void run_warp(struct thread *warp, uint32_t count)
{
    core.warp_stamp = core.stamp + 1;
    core.stamp += WARP;
    for (uint32_t i = 0; i < count; i++) {
        warp[i].stamp = core.warp_stamp + i;
        warp[i].sync_stamp = core.warp_stamp;
    }
    for (int ran = 1; ran;) {
        ran = 0;
        for (uint32_t k = 0; k < WARP; k++) {
            uint32_t i = lane_order[k];
            if (i >= count) {
                continue;
            }
            if (warp[i].state == THREAD_NEW) {
                fibre_start(&warp[i]);
                ran = 1;
            } else if (warp[i].state == THREAD_RUNS) {
                fibre_resume(&warp[i]);
                ran = 1;
            }
        }
        resolve(warp, count);
    }
}

/* All threads must wait at the same barrier, or all have ended; then they go on. */
static int pass_barrier(void)
{
    struct thread *first = &core.threads[0];

    for (uint32_t i = 1; i < core.thread_count; i++) {
        struct thread *t = &core.threads[i];
        int same = t->state == first->state &&
            (t->state == THREAD_ENDED || t->line == first->line);
        if (!same) {
            int ended = first->state == THREAD_ENDED;
            divergent(ended ? t : first, "__syncthreads", ended ? first : t);
        }
    }
    if (first->state == THREAD_ENDED) {
        return 0;
    }
    core.vote++; /* the next one counts beside what is read now */
    core.votes[core.vote & 1] = 0;
    for (uint32_t i = 0; i < core.thread_count; i++) {
        core.threads[i].state = THREAD_RUNS;
    }
    return 1;
}

static void run_block(void)
{
    memory_begin_block();
    for (uint32_t i = 0; i < core.thread_count; i++) {
        core.threads[i].state = THREAD_NEW;
    }
    core.votes[core.vote & 1] = 0;
    core.block_stamp = core.stamp + 1;
    do {
        core.interval_stamp = core.stamp + 1;
        for (uint32_t k = 0; k < core.warp_count; k++) {
            uint32_t begin = warp_order[k] * WARP, left = core.thread_count - begin;
            run_warp(&core.threads[begin], left < WARP ? left : WARP);
        }
    } while (pass_barrier());
    core.current = NULL;
}

static uint64_t mix(uint64_t x)
{
    x ^= x >> 33;
    x *= 0xFF51AFD7ED558CCDull;
    x ^= x >> 33;
    x *= 0xC4CEB9FE1A85EC53ull;
    return x ^ x >> 33;
}

static void permute(uint32_t *order, uint32_t count, uint32_t seed)
{
    for (uint32_t i = 0; i < count; i++) {
        order[i] = seed == 1 ? count - 1 - i : i;
    }
    for (uint32_t i = count - 1; seed > 1 && i > 0 && i < count; i--) {
        uint32_t other = (uint32_t)(mix(seed * 1000003ull + i) % (i + 1)), kept = order[i];
        order[i] = order[other];
        order[other] = kept;
    }
}

static uint64_t common_divisor(uint64_t a, uint64_t b)
{
    return b ? common_divisor(b, a % b) : a;
}

static void run_grid(void)
{
    const struct emu_launch *launch = core.launch;
    uint64_t columns = launch->grid[0], rows = launch->grid[1];
    uint64_t count = columns * rows * launch->grid[2], step = 1, at = 0;

    if (launch->order == 1) {
        at = count - 1;
        step = count - 1; /* one back, modulo the count */
    } else if (launch->order > 1) {
        at = mix(launch->order) % count;
        step = mix(launch->order + 1) % count;
        while (common_divisor(step, count) != 1) {
            step++;
        }
    }
    for (uint64_t i = 0; i < count; i++, at = (at + step) % count) {
        core.block_index = (struct emu_index){
            (uint32_t)(at % columns), (uint32_t)(at / columns % rows), (uint32_t)(at / columns / rows)};
        run_block();
    }
}

static void prepare_threads(void)
{
    const uint32_t *block = core.launch->block;

    core.thread_count = block[0] * block[1] * block[2];
    core.warp_count = (core.thread_count + WARP - 1) / WARP;
    for (uint32_t i = 0; i < core.thread_count; i++) {
        core.threads[i].index = (struct emu_index){
            i % block[0], i / block[0] % block[1], i / block[0] / block[1]};
    }
    permute(warp_order, core.warp_count, core.launch->order);
    permute(lane_order, WARP, core.launch->order);
}

int tvmconv_emulator_run(const struct emu_launch *launch)
{
    struct handlers handlers;

    core.launch = launch;
    core.current = NULL;
    core.stamp = *launch->stamp;
    core.launch_stamp = core.stamp + 1;
    if (!fibres_ready() || !memory_prepare()) {
        snprintf(launch->report, launch->report_bytes, "kernel %s: no memory for its threads",
            launch->kernel->name);
        return EMU_LAUNCH_FAILED;
    }
    prepare_threads();
    catch_signals(&handlers);
    int code = sigsetjmp(ended, 1);
    if (code == EMU_OK) {
        run_grid();
    } else {
        fibres_abandon();
        core.current = NULL;
    }
    restore_signals(&handlers);
    *launch->stamp = core.stamp;
    return code;
}
