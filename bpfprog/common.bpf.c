// SPDX-License-Identifier: GPL-2.0-only
/*
 * What every program shares: configuration, target filter, rings and counters. The loader puts this file in front of
 * the source files it was asked for and compiles all as one unit; it defines
 *   HOTPAGE_PAGE_BYTES   the kernel's page size
 *   HOTPAGE_RING_PAGES   size of one ring in such pages, a power of two
 *   HOTPAGE_RING_SHARDS  number of rings: 1, 2, 4 or 8
 *   HOTPAGE_<TYPE>_<FIELD>  byte offsets of kernel struct fields, from the running kernel's BTF; absent when unknown
 */
#include <linux/types.h>
#include <linux/ptrace.h>
#include "hotpage.h"

BPF_ARRAY(config, struct hotpage_config, 1);
BPF_HASH(targets, u32, u32, 65536);
BPF_PERCPU_ARRAY(counters, struct hotpage_counters, 1);

BPF_RINGBUF_OUTPUT(ring0, HOTPAGE_RING_PAGES);
#if HOTPAGE_RING_SHARDS > 1
BPF_RINGBUF_OUTPUT(ring1, HOTPAGE_RING_PAGES);
#endif
#if HOTPAGE_RING_SHARDS > 2
BPF_RINGBUF_OUTPUT(ring2, HOTPAGE_RING_PAGES);
BPF_RINGBUF_OUTPUT(ring3, HOTPAGE_RING_PAGES);
#endif
#if HOTPAGE_RING_SHARDS > 4
BPF_RINGBUF_OUTPUT(ring4, HOTPAGE_RING_PAGES);
BPF_RINGBUF_OUTPUT(ring5, HOTPAGE_RING_PAGES);
BPF_RINGBUF_OUTPUT(ring6, HOTPAGE_RING_PAGES);
BPF_RINGBUF_OUTPUT(ring7, HOTPAGE_RING_PAGES);
#endif

/* The context of a raw tracepoint: the tracepoint's arguments, widened to 64 bits. */
struct raw_arguments {
	u64 args[0];
};

/* The context of a perf event: struct bpf_perf_event_data. */
struct perf_context {
	u64 registers[HOTPAGE_PERF_REGISTERS];
	u64 sample_period;
	u64 address;
};

static __always_inline u64 read_kernel(u64 address)
{
	u64 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), (void *)address);
	return value;
}

static __always_inline struct hotpage_config *read_config(void)
{
	int zero = 0;

	return config.lookup(&zero);
}

static __always_inline bool comm_matches(struct hotpage_config *c)
{
	/* Compared as two words: what follows the name's end may be the rest of a former one (before 5.17), and is not read. */
	u64 comm[2] = {};

#ifdef HOTPAGE_TASK_GROUP_LEADER
	/* Threads may carry names of their own: the process is called what its leader is called. */
	u64 leader = read_kernel(bpf_get_current_task() + HOTPAGE_TASK_GROUP_LEADER);

	bpf_probe_read_kernel_str(comm, sizeof(comm), (void *)(leader + HOTPAGE_TASK_COMM));
#else
	bpf_get_current_comm(comm, sizeof(comm));
#endif
	return comm[0] == *(u64 *)&c->comm[0] && comm[1] == *(u64 *)&c->comm[8];
}

static __always_inline bool is_target(struct hotpage_config *c, u32 tgid)
{
	if (tgid == 0)
		return false;
	if (tgid == c->self_tgid)
		return c->self_test;
	if (c->target == HOTPAGE_TARGET_PIDS)
		return targets.lookup(&tgid) != 0;
	if (c->target == HOTPAGE_TARGET_ALL)
		return true;
	if (c->target == HOTPAGE_TARGET_CGROUP)
		return bpf_get_current_ancestor_cgroup_id(c->cgroup_level) == c->cgroup_id;
	if (c->target == HOTPAGE_TARGET_COMM)
		return comm_matches(c);
	return false;
}

static __always_inline struct hotpage_event *reserve_event(void)
{
#if HOTPAGE_RING_SHARDS > 1
	switch (bpf_get_smp_processor_id() % HOTPAGE_RING_SHARDS) {
	case 1:
		return ring1.ringbuf_reserve(sizeof(struct hotpage_event));
#if HOTPAGE_RING_SHARDS > 2
	case 2:
		return ring2.ringbuf_reserve(sizeof(struct hotpage_event));
	case 3:
		return ring3.ringbuf_reserve(sizeof(struct hotpage_event));
#endif
#if HOTPAGE_RING_SHARDS > 4
	case 4:
		return ring4.ringbuf_reserve(sizeof(struct hotpage_event));
	case 5:
		return ring5.ringbuf_reserve(sizeof(struct hotpage_event));
	case 6:
		return ring6.ringbuf_reserve(sizeof(struct hotpage_event));
	case 7:
		return ring7.ringbuf_reserve(sizeof(struct hotpage_event));
#endif
	}
#endif
	return ring0.ringbuf_reserve(sizeof(struct hotpage_event));
}

/* Counted atomically although per CPU: a program may be preempted by, or interrupted into, another on the same CPU,
 * and emitted = received + lost has to be exact. */
static __always_inline void count_event(u64 *of_source)
{
	__sync_fetch_and_add(of_source, 1);
}

static __always_inline struct hotpage_counters *read_counters(void)
{
	int zero = 0;

	return counters.lookup(&zero);
}

/* `id`: bpf_get_current_pid_tgid(). The callers have it already, and each call of a helper shows in what a fault costs. */
static __always_inline void fill_event(struct hotpage_event *event, u64 id, u8 source, u8 flags, u64 address, u32 pages,
				       u16 node)
{
	event->address = address;
	event->time_ns = bpf_ktime_get_ns();
	event->tgid = id >> 32;
	event->tid = id;
	event->pages = pages;
	event->source = source;
	event->flags = flags;
	event->node = node;
}

static __always_inline void emit(u64 id, u8 source, u8 flags, u64 address, u32 pages, u16 node)
{
	struct hotpage_counters *count = read_counters();
	struct hotpage_event *event;

	if (!count)
		return;
	count_event(&count->emitted[source & 7]);
	event = reserve_event();
	if (!event) {
		count_event(&count->lost[source & 7]);
		return;
	}
	fill_event(event, id, source, flags, address, pages, node);
	/* The consumer reads on a timer: waking it for every record would cost more than the record. */
	bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
}

#ifdef HOTPAGE_TASK_TGID
/* sched_process_fork(struct task_struct *parent, struct task_struct *child): children of target processes become
 * targets before they run their first instruction. */
int follow_fork(struct raw_arguments *ctx)
{
	u32 parent = read_kernel(ctx->args[0] + HOTPAGE_TASK_TGID);
	u32 child = read_kernel(ctx->args[1] + HOTPAGE_TASK_TGID);
	u32 *mark;

	if (parent == child)
		return 0; /* a thread */
	mark = targets.lookup(&parent);
	if (mark) {
		u32 value = *mark;

		targets.update(&child, &value);
	}
	return 0;
}
#endif
