/* Asynchronous copies to shared memory: cp.async, its groups, and the waits for them. */
#include <stdlib.h>
#include <string.h>

#include "core.h"

static void append(struct thread *thread, struct copy copy)
{
    if (thread->copy_count == thread->copy_capacity) {
        uint32_t capacity = thread->copy_capacity ? 2 * thread->copy_capacity : 16;
        struct copy *grown = realloc(thread->copies, capacity * sizeof copy);
        if (!grown) {
            fail(EMU_LAUNCH_FAILED, "no memory for copies by cp.async");
        }
        thread->copies = grown;
        thread->copy_capacity = capacity;
    }
    thread->copies[thread->copy_count++] = copy;
}

/* Until it is waited for, the destination is NaN and may not be touched. */
void emu_copy_async(
    uint32_t shared, const void *global, uint32_t bytes, uint32_t source_bytes, int line)
{
    struct thread *thread = core.current;
    unsigned char *destination = shared_pointer(shared, bytes, "cp.async");

    thread->line = line;
    if ((uintptr_t)global % bytes) {
        fail(EMU_MISALIGNED_ADDRESS, "cp.async: its source is not a multiple of %u", bytes);
    }
    if (source_bytes > bytes) {
        fail(EMU_LAUNCH_FAILED, "cp.async reads %u bytes of %u", source_bytes, bytes);
    }
    if (source_bytes) {
        check_access((uintptr_t)global, source_bytes, 0);
    }
    check_access((uintptr_t)destination, bytes, 1);
    memset(destination, 0xFF, bytes);
    for (uint32_t i = 0; i < bytes; i++) {
        core.shared_shadow[shared + i] = STAMP_IN_FLIGHT;
    }
    append(thread, (struct copy){shared, bytes, source_bytes, thread->groups, global});
}

/* Let the copies of all groups before one arrive. */
static void copies_finish(struct thread *thread, uint32_t end_group)
{
    uint32_t left = 0;

    for (uint32_t i = 0; i < thread->copy_count; i++) {
        struct copy copy = thread->copies[i];
        if (copy.group >= end_group) {
            thread->copies[left++] = copy;
            continue;
        }
        memcpy(core.shared + copy.shared, copy.global, copy.source_bytes);
        memset(core.shared + copy.shared + copy.source_bytes, 0, copy.bytes - copy.source_bytes);
        for (uint32_t k = 0; k < copy.bytes; k++) {
            core.shared_shadow[copy.shared + k] = thread->stamp;
        }
    }
    thread->copy_count = left;
}

void emu_copy_commit(void)
{
    core.current->groups++;
}

void emu_copy_wait(uint32_t groups_left)
{
    uint32_t groups = core.current->groups;

    copies_finish(core.current, groups > groups_left ? groups - groups_left : 0);
}

void emu_copy_wait_all(void)
{
    copies_finish(core.current, ++core.current->groups);
}
