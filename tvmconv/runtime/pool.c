/* A model's threads. The caller of tvmconv_run is thread 0; the others wait for work.
 *
 * A job is a number of tasks. Each thread begins with an equal, contiguous share of them, which it takes from the
 * front; one that has none left takes the latter half of what another has left. So a core that is slower than the
 * others, by its make or because a neighbour uses it too, does less, while what a thread finds in its own cache from
 * the kernel before stays its own.
 *
 * A launch writes the job, sets OPEN in `state` and adds one to `generation`. A worker that sees the change joins by
 * adding one to `state`, if that is OPEN, and leaves by subtracting one. When no task is left the caller closes the
 * job and waits for those who joined; a worker that still sleeps is not waited for. Waiting spins for some tens of
 * microseconds, because the next kernel of a network comes sooner than a sleeping thread wakes, then sleeps on a
 * futex.
 *
 * Sleeping and waking cannot miss each other: a sleeper announces itself before the kernel compares the word with
 * the old value, the waker changes the word before it looks for sleepers, and all four are sequentially consistent. */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

#define SPIN_NANOSECONDS 50000
#define SPINS_A_ROUND 32
#define ROUNDS_WITHOUT_YIELD 2
#define TASKS_A_THREAD 16 /* enough to share evenly what is left; each costs some nanoseconds */
#define OPEN 0x80000000u
#define STACK_BYTES (2u << 20) /* musl's default of 128 KiB is too little for a kernel's local buffers */

#ifndef SYS_futex /* 32-bit systems born after 2038 was noticed */
#define SYS_futex SYS_futex_time64
#endif

typedef struct {
  _Alignas(64) _Atomic uint64_t tasks; /* not begun: the first in the upper half, the end in the lower */
  _Alignas(64) tvmconv_pool *pool;
  pthread_t thread;
  int index;
  int busy; /* inside a task: a launch from there runs serially */
  uint32_t seen;
  tvmconv_workspace workspace;
} worker;

struct tvmconv_pool {
  _Alignas(64) _Atomic uint32_t generation; /* workers sleep on it */
  _Atomic uint32_t sleepers;
  tvmconv_task task; /* the job; NULL: end */
  void *data;
  int32_t count;
  _Alignas(64) _Atomic uint32_t state; /* OPEN, and how many workers have joined; the caller sleeps on it */
  _Atomic uint32_t caller_sleeps;
  _Atomic int32_t failed; /* the first failing task's code */
  char error[TVMCONV_ERROR_BYTES];
  _Alignas(64) int threads;
  int32_t iterations; /* of the parallel loop that is launched next; 0: unknown */
  int running; /* threads that exist besides the caller */
  int spin;  /* there are CPUs enough */
  int fills; /* there are as many as threads */
  int avoided; /* the CPU that the workers keep off, -1 for none */
  pid_t owner; /* the process whose threads they are */
  worker *workers;
};

static _Thread_local worker *current;

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__) || (defined(__ARM_ARCH) && __ARM_ARCH >= 7)
  __asm__ volatile("yield" ::: "memory");
#else
  __asm__ volatile("" ::: "memory");
#endif
}

static int64_t now_nanoseconds(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static void futex(_Atomic uint32_t *word, int operation, uint32_t value) {
  syscall(SYS_futex, (void *)word, operation | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
}

/* Spin until *word is (equal) or is not (!equal) `value`, for a bounded time; whether that came about.
 * After some microseconds the CPU is offered to others: the thread waited for may have to share it. */
static int spin_until(const tvmconv_pool *pool, _Atomic uint32_t *word, uint32_t value, int equal) {
  int64_t start = 0;
  for (int round = 0;; round++) {
    for (int i = 0; i < SPINS_A_ROUND; i++) {
      if ((atomic_load_explicit(word, memory_order_acquire) == value) == equal) return 1;
      if (!pool->spin) return 0;
      relax();
    }
    if (round >= ROUNDS_WITHOUT_YIELD) sched_yield();
    int64_t time = now_nanoseconds();
    if (!start) start = time;
    if (time - start > SPIN_NANOSECONDS) return 0;
  }
}

static void await_job(tvmconv_pool *pool, worker *self) {
  if (!spin_until(pool, &pool->generation, self->seen, 0)) {
    atomic_fetch_add(&pool->sleepers, 1);
    while (atomic_load(&pool->generation) == self->seen) futex(&pool->generation, FUTEX_WAIT, self->seen);
    atomic_fetch_sub(&pool->sleepers, 1);
  }
  self->seen = atomic_load(&pool->generation);
}

static void await_workers(tvmconv_pool *pool) {
  if (spin_until(pool, &pool->state, 0, 1)) return;
  atomic_store(&pool->caller_sleeps, 1);
  for (uint32_t left; (left = atomic_load(&pool->state)) != 0;) futex(&pool->state, FUTEX_WAIT, left);
  atomic_store(&pool->caller_sleeps, 0);
}

static uint64_t span(uint32_t first, uint32_t end) { return (uint64_t)first << 32 | end; }

/* Take tasks out of those of `from`: its first, or the latter half. [*first, *end), and whether there were any. */
static int take(worker *from, int half, uint32_t *first, uint32_t *end) {
  uint64_t seen = atomic_load_explicit(&from->tasks, memory_order_relaxed), rest;
  do {
    uint32_t start = (uint32_t)(seen >> 32), stop = (uint32_t)seen;
    if (start >= stop) return 0;
    *first = half ? start + (stop - start) / 2 : start;
    *end = half ? stop : start + 1;
    rest = half ? span(start, *first) : span(*end, stop);
  } while (!atomic_compare_exchange_weak_explicit(&from->tasks, &seen, rest, memory_order_relaxed, memory_order_relaxed));
  return 1;
}

static int steal(tvmconv_pool *pool, worker *self) {
  uint32_t first, end;
  for (int k = 1; k < pool->threads; k++) {
    if (!take(&pool->workers[(self->index + k) % pool->threads], 1, &first, &end)) continue;
    atomic_store_explicit(&self->tasks, span(first, end), memory_order_relaxed); /* was empty, so nobody's but ours */
    return 1;
  }
  return 0;
}

static void run_tasks(tvmconv_pool *pool, worker *self) {
  TVMParallelGroupEnv env = {NULL, pool->count};
  uint32_t task, end;
  self->busy = 1;
  do {
    while (take(self, 0, &task, &end)) {
      int code = pool->task((int)task, &env, pool->data);
      int32_t none = 0;
      if (code && atomic_compare_exchange_strong(&pool->failed, &none, code))
        memcpy(pool->error, tvmconv_error_text(), sizeof pool->error); /* read by the caller, after `state` */
    }
  } while (steal(pool, self));
  self->busy = 0;
}

/* Whether there was still a job to join. */
static int join(tvmconv_pool *pool) {
  uint32_t state = atomic_load(&pool->state);
  do
    if (!(state & OPEN)) return 0;
  while (!atomic_compare_exchange_weak(&pool->state, &state, state + 1));
  return 1;
}

static void *worker_main(void *argument) {
  worker *self = argument;
  tvmconv_pool *pool = self->pool;
  current = self;
  for (;;) {
    await_job(pool, self);
    if (!join(pool)) continue;
    int end = !pool->task;
    if (!end) run_tasks(pool, self);
    if (atomic_fetch_sub(&pool->state, 1) == 1 && atomic_load(&pool->caller_sleeps))
      futex(&pool->state, FUTEX_WAKE, 1);
    if (end) return NULL;
  }
}

static void publish(tvmconv_pool *pool, tvmconv_task task, void *data, int32_t count) {
  pool->task = task;
  pool->data = data;
  pool->count = count;
  for (int i = 0; i < pool->threads; i++) {
    uint32_t first = (uint32_t)((int64_t)count * i / pool->threads);
    uint32_t end = (uint32_t)((int64_t)count * (i + 1) / pool->threads);
    atomic_store_explicit(&pool->workers[i].tasks, span(first, end), memory_order_relaxed);
  }
  atomic_fetch_or(&pool->state, OPEN);
  atomic_fetch_add(&pool->generation, 1);
  if (atomic_load(&pool->sleepers)) futex(&pool->generation, FUTEX_WAKE, INT_MAX);
}

static int serial(tvmconv_task task, void *data, int count) {
  TVMParallelGroupEnv env = {NULL, count > 0 ? count : 1};
  for (int32_t i = 0; i < env.num_task; i++) {
    int code = task(i, &env, data);
    if (code) return code;
  }
  return 0;
}

/* Keep the workers off the caller's CPU; where they need all CPUs, give each its own. An operating system that packs
 * threads on few CPUs, or takes longer than a launch to balance them, would otherwise let one wait for the other. */
static void spread(tvmconv_pool *pool) {
  int cpu = sched_getcpu();
  if (cpu < 0 || cpu == pool->avoided) return;
  pool->avoided = cpu;
  for (int i = 1; i <= pool->running; i++) {
    if (pool->fills)
      tvmconv_move_to(pool->workers[i].thread, cpu, i);
    else
      tvmconv_keep_off(pool->workers[i].thread, cpu);
  }
}

static int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* How many tasks the announced loop is cut into. All have as many iterations but the last: at most TASKS_A_THREAD a
 * thread, or more where the threads' shares would differ by over 2%. One a thread if none was announced. */
static int32_t tasks_of_loop(const tvmconv_pool *pool) {
  int64_t iterations = pool->iterations, threads = pool->threads, share = divide_up(iterations, threads);
  if (iterations <= 0) return pool->threads;
  int64_t step = divide_up(share, TASKS_A_THREAD);
  while (step > 1 && divide_up(divide_up(iterations, step), threads) * step * 50 > share * 51) step--;
  return (int32_t)divide_up(iterations, step);
}

int32_t tvmconv_expect_iterations(int32_t iterations) {
  if (current && !current->busy) current->pool->iterations = iterations;
  return 0;
}

int tvmconv_launch(tvmconv_task task, void *data, int count) {
  worker *self = current;
  if (!self || self->busy || self->pool->threads == 1) return serial(task, data, count);
  tvmconv_pool *pool = self->pool;
  int tasks = count > 0 ? count : tasks_of_loop(pool);
  pool->iterations = 0;
  if (tasks == 1) {
    self->busy = 1;
    int code = serial(task, data, 1);
    self->busy = 0;
    return code;
  }
  if (pool->spin) spread(pool);
  publish(pool, task, data, tasks);
  run_tasks(pool, self);
  atomic_fetch_and(&pool->state, ~OPEN);
  await_workers(pool);
  int code = atomic_load_explicit(&pool->failed, memory_order_relaxed);
  if (code) {
    tvmconv_error_set(pool->error);
    atomic_store_explicit(&pool->failed, 0, memory_order_relaxed);
  }
  return code;
}

static void stop(tvmconv_pool *pool) {
  if (!pool->running) return;
  publish(pool, NULL, NULL, 0);
  for (int i = 1; i <= pool->running; i++) pthread_join(pool->workers[i].thread, NULL);
  pool->running = 0;
}

/* Start the workers. 0, or TVMCONV_NO_MEMORY with none running. */
static int start(tvmconv_pool *pool) {
  pthread_attr_t attributes;
  sigset_t all, before;
  int code = pthread_attr_init(&attributes);
  if (code) return tvmconv_fail(TVMCONV_NO_MEMORY, "cannot start threads: %s", strerror(code));
  size_t stack = 0;
  if (!pthread_attr_getstacksize(&attributes, &stack) && stack < STACK_BYTES)
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before); /* signals stay with the program's own threads */
  for (int i = 1; i < pool->threads && !code; i++) {
    worker *self = &pool->workers[i];
    self->seen = atomic_load(&pool->generation);
    code = pthread_create(&self->thread, &attributes, worker_main, self);
    if (!code) pool->running++;
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attributes);
  if (!code) return 0;
  stop(pool);
  return tvmconv_fail(TVMCONV_NO_MEMORY, "cannot start %d threads: %s", pool->threads, strerror(code));
}

tvmconv_pool *tvmconv_pool_new(int threads) {
  void *memory = NULL;
  if (posix_memalign(&memory, TVMCONV_ALIGNMENT, sizeof(tvmconv_pool))) memory = NULL;
  void *workers = NULL;
  if ((size_t)threads > SIZE_MAX / sizeof(worker) || posix_memalign(&workers, TVMCONV_ALIGNMENT, (size_t)threads * sizeof(worker))) workers = NULL;
  if (!memory || !workers) {
    free(memory);
    free(workers);
    tvmconv_fail(TVMCONV_NO_MEMORY, "no memory for %d threads", threads);
    return NULL;
  }
  tvmconv_pool *pool = memory;
  memset(pool, 0, sizeof *pool);
  pool->threads = threads;
  pool->spin = threads > 1 && threads <= tvmconv_cpus_allowed();
  pool->fills = threads == tvmconv_cpus_in_mask();
  pool->avoided = -1;
  pool->owner = getpid();
  pool->workers = workers;
  for (int i = 0; i < threads; i++) pool->workers[i] = (worker){.pool = pool, .index = i};
  if (!start(pool)) return pool;
  free(workers);
  free(pool);
  return NULL;
}

void tvmconv_pool_delete(tvmconv_pool *pool) {
  if (!pool) return;
  if (pool->owner == getpid()) stop(pool); /* a forked child has no threads to stop */
  for (int i = 0; i < pool->threads; i++) tvmconv_workspace_release(&pool->workers[i].workspace);
  free(pool->workers);
  free(pool);
}

int tvmconv_pool_threads(const tvmconv_pool *pool) { return pool->threads; }

int tvmconv_pool_enter(tvmconv_pool *pool, void **previous) {
  if (pool->owner != getpid()) { /* forked since: the child has only the thread that called fork */
    pool->running = 0;
    atomic_store(&pool->state, 0);
    atomic_store(&pool->sleepers, 0);
    atomic_store(&pool->caller_sleeps, 0);
    pool->avoided = -1;
    int code = start(pool);
    if (code) return code;
    pool->owner = getpid();
  }
  pool->iterations = 0;
  *previous = current;
  current = &pool->workers[0];
  return 0;
}

void tvmconv_pool_leave(void *previous) { current = previous; }

tvmconv_workspace *tvmconv_current_workspace(void) { return current ? &current->workspace : NULL; }
