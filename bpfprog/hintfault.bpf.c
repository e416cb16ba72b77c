// SPDX-License-Identifier: GPL-2.0-only
/*
 * NUMA hint faults by function hooks: mpol_misplaced() knows the address, task_numa_fault() ends every counted fault,
 * change_prot_numa() arms. Two sets of programs with the same body, for fentry and for kprobes.
 *
 * The third argument of mpol_misplaced is the address on every kernel, and the other functions are used for their
 * scalar arguments only, so no kernel struct layout is needed.
 */
#define TNF_MIGRATED 0x01
#define HUGE_PAGES 512 /* base pages in a PMD mapping; on arm64 with 4 KiB pages too */

/* By thread: the migration between the two hooks may sleep and change the CPU. */
BPF_TABLE("lru_hash", u32, u64, hint_addresses, 16384);

static __always_inline int hint_begins(u64 address)
{
	struct hotpage_config *c = read_config();
	u64 id = bpf_get_current_pid_tgid();
	u32 tid = id;

	if (c && is_target(c, id >> 32))
		hint_addresses.update(&tid, &address);
	return 0;
}

static __always_inline int hint_ends(u32 node, u32 pages, u32 fault_flags)
{
	u64 id = bpf_get_current_pid_tgid();
	u32 tid = id;
	u64 *address = hint_addresses.lookup(&tid);
	u8 flags = 0;

	if (!address)
		return 0;
	if (fault_flags & TNF_MIGRATED)
		flags |= HOTPAGE_MIGRATED;
	if (pages >= HUGE_PAGES)
		flags |= HOTPAGE_HUGE;
	/* From 6.10 on one fault makes all of a large folio accessible again, and counts as so many pages. */
	emit(id, HOTPAGE_HINT_FAULT, flags, *address, pages, node);
	hint_addresses.delete(&tid);
	return 0;
}

static __always_inline int armed(u64 start, u64 end)
{
	struct hotpage_config *c = read_config();
	u64 id = bpf_get_current_pid_tgid();

	if (c && is_target(c, id >> 32))
		emit(id, HOTPAGE_ARM, 0, start, (end - start) >> 12, HOTPAGE_UNKNOWN_NODE);
	return 0;
}

#ifdef HOTPAGE_FENTRY
/* bcc's macro, because what it puts before the name has changed: kfunc__, and kfunc__vmlinux__ since 0.28, which aborts
 * on a name in the old form. The context is the function's arguments, widened to 64 bits. */
KFUNC_PROBE(mpol_misplaced, u64 page, u64 vma, u64 address)
{
	return hint_begins(address);
}

KFUNC_PROBE(task_numa_fault, u64 last_cpupid, u64 node, u64 pages, u64 flags)
{
	return hint_ends(node, pages, flags);
}

KFUNC_PROBE(change_prot_numa, u64 vma, u64 start, u64 end)
{
	return armed(start, end);
}
#else
int kprobe_mpol_misplaced(struct pt_regs *ctx)
{
	return hint_begins(HOTPAGE_KPROBE_ARG3(ctx));
}

int kprobe_task_numa_fault(struct pt_regs *ctx)
{
	return hint_ends(HOTPAGE_KPROBE_ARG2(ctx), HOTPAGE_KPROBE_ARG3(ctx), HOTPAGE_KPROBE_ARG4(ctx));
}

int kprobe_change_prot_numa(struct pt_regs *ctx)
{
	return armed(HOTPAGE_KPROBE_ARG2(ctx), HOTPAGE_KPROBE_ARG3(ctx));
}
#endif
