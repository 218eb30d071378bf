/* A plugin of QEMU's user mode: counts instructions, and says how many there were at each mark.
 *
 * A mark is getpriority(0, 0x7c6f76): a system call without an effect that nothing else makes. Each translated block
 * adds its length when it begins; a block has no branch but at its end, so the sum is the number of instructions
 * executed, of all threads. The interface is that of qemu-plugin.h, version 1, which Debian does not package. */
#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define EXPORT __attribute__((visibility("default")))
#define GETPRIORITY 141 /* of AArch64 */
#define MARKED_PROCESS 0x7c6f76
#define ADD_U64 0

typedef uint64_t plugin_id;
typedef struct qemu_plugin_tb block;
typedef void on_block(plugin_id, block *);
typedef void on_call(plugin_id, unsigned cpu, int64_t number, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                     uint64_t, uint64_t, uint64_t);

extern size_t qemu_plugin_tb_n_insns(const block *);
extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, on_block *);
extern void qemu_plugin_register_vcpu_tb_exec_inline(block *, int operation, void *word, uint64_t operand);
extern void qemu_plugin_register_vcpu_syscall_cb(plugin_id, on_call *);

EXPORT int qemu_plugin_version = 1;
static uint64_t instructions;

static void translated(plugin_id id, block *b) {
  (void)id;
  qemu_plugin_register_vcpu_tb_exec_inline(b, ADD_U64, &instructions, qemu_plugin_tb_n_insns(b));
}

static void called(plugin_id id, unsigned cpu, int64_t number, uint64_t which, uint64_t who, uint64_t c, uint64_t d,
                   uint64_t e, uint64_t f, uint64_t g, uint64_t h) {
  (void)id, (void)cpu, (void)which, (void)c, (void)d, (void)e, (void)f, (void)g, (void)h;
  if (number == GETPRIORITY && who == MARKED_PROCESS) fprintf(stderr, "instructions %" PRIu64 "\n", instructions);
}

EXPORT int qemu_plugin_install(plugin_id id, const void *info, int count, char **arguments) {
  (void)info, (void)count, (void)arguments;
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_vcpu_syscall_cb(id, called);
  return 0;
}
