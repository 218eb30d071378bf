/* Threads as fibres: each has its own stack, and a switch saves what a call would. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/mman.h>

#include "core.h"

enum { STACK = 256 * 1024, GUARD = PAGE };

struct fibre {
    unsigned char *stack;
    void *pointer;
    int started;
};

static struct fibre fibres[MAX_THREADS];
static int free_fibres[MAX_THREADS], free_count;
static void *scheduler_pointer;

void emu_switch(void **save, void *restore);

#if defined(__x86_64__)
enum { FRAME_WORDS = 8, FRAME_ENTRY = 6 };
__asm__(".text\n"
        ".hidden emu_switch\n"
        ".globl emu_switch\n"
        ".type emu_switch,@function\n"
        "emu_switch:\n"
        "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
        "  movq %rsp, (%rdi)\n"
        "  movq %rsi, %rsp\n"
        "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
        "  ret\n"
        ".size emu_switch, .-emu_switch\n");
#elif defined(__aarch64__)
enum { FRAME_WORDS = 20, FRAME_ENTRY = 11 };
__asm__(".text\n"
        ".hidden emu_switch\n"
        ".globl emu_switch\n"
        ".type emu_switch,%function\n"
        "emu_switch:\n"
        "  sub sp, sp, #160\n"
        "  stp x19, x20, [sp, #0]\n  stp x21, x22, [sp, #16]\n  stp x23, x24, [sp, #32]\n"
        "  stp x25, x26, [sp, #48]\n  stp x27, x28, [sp, #64]\n  stp x29, x30, [sp, #80]\n"
        "  stp d8, d9, [sp, #96]\n  stp d10, d11, [sp, #112]\n"
        "  stp d12, d13, [sp, #128]\n  stp d14, d15, [sp, #144]\n"
        "  mov x9, sp\n  str x9, [x0]\n  mov sp, x1\n"
        "  ldp x19, x20, [sp, #0]\n  ldp x21, x22, [sp, #16]\n  ldp x23, x24, [sp, #32]\n"
        "  ldp x25, x26, [sp, #48]\n  ldp x27, x28, [sp, #64]\n  ldp x29, x30, [sp, #80]\n"
        "  ldp d8, d9, [sp, #96]\n  ldp d10, d11, [sp, #112]\n"
        "  ldp d12, d13, [sp, #128]\n  ldp d14, d15, [sp, #144]\n"
        "  add sp, sp, #160\n"
        "  ret\n"
        ".size emu_switch, .-emu_switch\n");
#else
#error "the emulator runs on x86-64 and aarch64"
#endif

/* A fibre outlives its thread: it runs one after another, whatever thread it is given. */
static void fibre_main(void)
{
    for (;;) {
        core.launch->kernel->call(core.launch->arguments);
        core.current->state = THREAD_ENDED;
        fibre_yield();
    }
}

int fibres_ready(void)
{
    size_t each = STACK + GUARD;

    if (!fibres[0].stack) {
        unsigned char *base = mmap(NULL, MAX_THREADS * each + GUARD, PROT_NONE,
            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (base == MAP_FAILED) {
            return 0;
        }
        for (int i = 0; i < MAX_THREADS; i++) {
            unsigned char *stack = base + GUARD + i * each;
            if (mprotect(stack, STACK, PROT_READ | PROT_WRITE)) {
                return 0;
            }
            fibres[i].stack = stack;
        }
        fibres_abandon();
    }
    return 1;
}

/* When the image is unloaded. */
static __attribute__((destructor)) void release(void)
{
    if (fibres[0].stack) {
        munmap(fibres[0].stack - GUARD, MAX_THREADS * (size_t)(STACK + GUARD) + GUARD);
    }
}

void fibres_abandon(void)
{
    for (free_count = 0; free_count < MAX_THREADS; free_count++) {
        fibres[free_count].started = 0;
        free_fibres[free_count] = MAX_THREADS - 1 - free_count;
    }
}

void fibre_resume(struct thread *thread)
{
    core.current = thread;
    thread->state = THREAD_RUNS;
    emu_switch(&scheduler_pointer, fibres[thread->fibre].pointer);
    if (thread->state == THREAD_ENDED) {
        free_fibres[free_count++] = thread->fibre;
    }
}

void fibre_start(struct thread *thread)
{
    struct fibre *fibre = &fibres[thread->fibre = free_fibres[--free_count]];

    if (!fibre->started) {
        void **frame = (void **)(void *)(fibre->stack + STACK) - FRAME_WORDS;
        for (int i = 0; i < FRAME_WORDS; i++) {
            frame[i] = NULL;
        }
        frame[FRAME_ENTRY] = (void *)(uintptr_t)fibre_main;
        fibre->pointer = frame;
        fibre->started = 1;
    }
    fibre_resume(thread);
}

void fibre_yield(void)
{
    emu_switch(&fibres[core.current->fibre].pointer, scheduler_pointer);
}

int on_current_stack(uintptr_t address)
{
    return address - (uintptr_t)fibres[core.current->fibre].stack < STACK;
}
