// SPDX-License-Identifier: GPL-2.0-only
/*
 * Page faults, and on x86-64 NUMA hint faults told apart from them without any function hook.
 *
 * With HOTPAGE_WALK (4 or 5, the depth of the page table) a fault on a not-present page looks the page table entry up.
 * NUMA balancing arms a page by making its entry PROT_NONE: not present, but with the "protnone" bit, which neither an
 * empty nor a swap entry has. So the entry says which kind of fault this is, exactly, before the kernel handles it.
 * Arming itself shows as the TLB flush that ends it: a flush with change_prot_numa on its kernel stack.
 */

#ifdef HOTPAGE_WALK
#define ENTRY_PRESENT 0x001ULL
#define ENTRY_HUGE 0x080ULL
#define ENTRY_PROTNONE 0x100ULL /* only together with !ENTRY_PRESENT */
#define ENTRY_FRAME 0x000ffffffffff000ULL

static __always_inline u64 next_entry(u64 table, u64 address, u32 shift)
{
	return read_kernel(table + ((address >> shift) & 511) * 8);
}

/* The entry that maps `address`, or the one at which the walk ends; *huge when that is above the last level. */
static __always_inline u64 walk(u64 table, u64 base, u64 address, bool *huge)
{
	u64 entry;

#if HOTPAGE_WALK == 5
	entry = next_entry(table, address, 48);
	if (!(entry & ENTRY_PRESENT))
		return 0;
	table = base + (entry & ENTRY_FRAME);
#endif
	entry = next_entry(table, address, 39);
	if (!(entry & ENTRY_PRESENT))
		return 0;
	entry = next_entry(base + (entry & ENTRY_FRAME), address, 30);
	if (!(entry & ENTRY_PRESENT) || (entry & ENTRY_HUGE)) {
		*huge = true;
		return entry;
	}
	entry = next_entry(base + (entry & ENTRY_FRAME), address, 21);
	if (!(entry & ENTRY_PRESENT) || (entry & ENTRY_HUGE)) {
		*huge = true;
		return entry;
	}
	return next_entry(base + (entry & ENTRY_FRAME), address, 12);
}

static __always_inline u64 current_mm(void)
{
	return read_kernel(bpf_get_current_task() + HOTPAGE_TASK_MM);
}

/* Run by BPF_PROG_TEST_RUN. The direct map of physical memory begins at a random multiple of 1 GiB, and hardly any
 * kernel exports it. The caller names one of its own pages and its frame: the base under which the walk arrives there
 * is the right one. */
int calibrate(struct raw_arguments *ctx)
{
	struct hotpage_config *c = read_config();
	u64 table, base;
	bool huge;
	int i;

	if (!c)
		return 0;
	table = read_kernel(current_mm() + HOTPAGE_MM_PGD);
	base = (table >> 30) - c->calibrate_first;
	for (i = 0; i < 32; i++) {
		u64 entry = walk(table, (base - i) << 30, c->calibrate_address, &huge);

		if ((entry & ENTRY_PRESENT) && (entry & ENTRY_FRAME) >> 12 == c->calibrate_frame)
			c->page_offset_base = (base - i) << 30;
	}
	return 0;
}

/* A process's arming scan, in progress or the last one: where it began, and in which round over the address space. */
struct scan {
	u64 start;
	u32 round;
	u32 open; /* its end has not been seen yet */
};
BPF_TABLE("lru_hash", u32, struct scan, scans, 16384);

/* The kernel stores where the next scan begins into the mm when a scan returns: the end of this one, or 0 and a new
 * round when it has reached the end of the address space. Nothing can be hooked there, so the next hint fault or the
 * next scan's first flush looks. */
static __always_inline void close_scan(u64 id, u64 mm)
{
	u32 tgid = id >> 32;
	struct scan *scan = scans.lookup(&tgid);
	u64 offset;

	if (!scan || !scan->open)
		return;
	offset = read_kernel(mm + HOTPAGE_MM_NUMA_SCAN_OFFSET);
	if (offset == scan->start && (u32)read_kernel(mm + HOTPAGE_MM_NUMA_SCAN_SEQ) == scan->round)
		return;
	scan->open = 0;
	emit(id, HOTPAGE_SCAN_END, 0, offset, 0, HOTPAGE_UNKNOWN_NODE);
}

#define STACK_DEPTH 24
struct stack {
	u64 ip[STACK_DEPTH];
};
BPF_PERCPU_ARRAY(stacks, struct stack, 1);

/* tlb_flush(int reason, unsigned long pages) */
int tlb_flush(struct raw_arguments *ctx)
{
	struct hotpage_config *c = read_config();
	u64 id = bpf_get_current_pid_tgid();
	u32 tgid = id >> 32;
	struct scan next = {};
	struct stack *stack;
	u64 mm;
	int i, zero = 0;

	/* 3: this CPU, 4: other CPUs, both on behalf of this process; a scan in progress flushes with one of them. */
	if (!c || (ctx->args[0] != 3 && ctx->args[0] != 4) || !is_target(c, tgid))
		return 0;
	stack = stacks.lookup(&zero);
	if (!stack || bpf_get_stack(ctx, stack, sizeof(*stack), 0) <= 0)
		return 0;
	for (i = 0; i < STACK_DEPTH; i++) {
		u64 ip = stack->ip[i];

		if ((ip > c->arming_text[0] && ip <= c->arming_text[1]) ||
		    (ip > c->arming_text[2] && ip <= c->arming_text[3]))
			goto arming;
		stack->ip[i] = 0;
	}
	return 0;
arming:
	mm = current_mm();
	close_scan(id, mm);
	next.start = read_kernel(mm + HOTPAGE_MM_NUMA_SCAN_OFFSET);
	next.round = read_kernel(mm + HOTPAGE_MM_NUMA_SCAN_SEQ);
	next.open = 1;
	scans.update(&tgid, &next);
	emit(id, HOTPAGE_SCAN, 0, next.start, 0, HOTPAGE_UNKNOWN_NODE);
	return 0;
}

#ifdef HOTPAGE_VMA_VM_START
/* sched_skip_vma_numa(struct mm_struct *mm, struct vm_area_struct *vma, enum numa_vmaskip_reason reason), 6.7+ */
int scan_skip(struct raw_arguments *ctx)
{
	struct hotpage_config *c = read_config();
	u64 id = bpf_get_current_pid_tgid();
	u64 start, end;

	if (!c || !is_target(c, id >> 32))
		return 0;
	start = read_kernel(ctx->args[1] + HOTPAGE_VMA_VM_START);
	end = read_kernel(ctx->args[1] + HOTPAGE_VMA_VM_END);
	emit(id, HOTPAGE_SCAN_SKIP, ctx->args[2], start, (end - start) >> 12, HOTPAGE_UNKNOWN_NODE);
	return 0;
}
#endif
#endif /* HOTPAGE_WALK */

/* Whether this page fault is one of those that one in `one_in` is kept of; counted if it is not kept. The random numbers
 * are a congruential sequence of our own per CPU (Knuth's MMIX constants): a helper's call would cost as much as the rest.
 * A draw lost to a race between two programs on a CPU is as random as any. */
static __always_inline bool left_out(u64 one_in)
{
	struct hotpage_counters *count = read_counters();

	if (!count)
		return true;
	count->draw = count->draw * 6364136223846793005ULL + 1442695040888963407ULL;
	if (((count->draw >> 32) * one_in) >> 32 == 0)
		return false;
	count_event(&count->sampled_out[HOTPAGE_PAGE_FAULT]);
	return true;
}

/* x86 page fault error code bits */
#define ERROR_PRESENT 1
#define ERROR_WRITE 2

#define ERROR_UNKNOWN (1ULL << 63)

static __always_inline int page_fault(u64 address, u64 error_code, u8 flags)
{
	struct hotpage_config *c = read_config();
	u64 id = bpf_get_current_pid_tgid();

	if (!c || (s64)address < 0 || !is_target(c, id >> 32))
		return 0;
	if (error_code & ERROR_WRITE)
		flags |= HOTPAGE_WRITE;
	if (error_code & ERROR_PRESENT)
		flags |= HOTPAGE_PRESENT;
#ifdef HOTPAGE_WALK
	if (!(error_code & ERROR_PRESENT) && c->page_offset_base) {
		u64 mm = current_mm();
		bool huge = false;
		u64 entry = walk(read_kernel(mm + HOTPAGE_MM_PGD), c->page_offset_base, address, &huge);

		if (!(entry & ENTRY_PRESENT) && (entry & ENTRY_PROTNONE)) {
			close_scan(id, mm);
			/* Large folios below the size of a huge page cannot be told by an entry. */
			emit(id, HOTPAGE_HINT_FAULT, huge ? flags | HOTPAGE_HUGE : flags, address, 0,
			     HOTPAGE_UNKNOWN_NODE);
			return 0;
		}
		if (entry & ENTRY_PRESENT) {
			/* Another thread's fault has been handled meanwhile; its record tells. */
			if (!(error_code & ERROR_UNKNOWN))
				return 0;
			flags |= HOTPAGE_PRESENT;
		}
	}
#endif
	if (!c->page_faults)
		return 0;
	if (c->page_fault_one_in > 1 && left_out(c->page_fault_one_in))
		return 0;
	emit(id, HOTPAGE_PAGE_FAULT, flags, address, 0, HOTPAGE_UNKNOWN_NODE);
	return 0;
}

/* page_fault_user and page_fault_kernel(unsigned long address, struct pt_regs *regs, unsigned long error_code) */
int page_fault_user(struct raw_arguments *ctx)
{
	return page_fault(ctx->args[0], ctx->args[2], 0);
}

int page_fault_kernel(struct raw_arguments *ctx)
{
#ifdef HOTPAGE_TASK_PAGEFAULT_DISABLED
	/* Code that must not sleep: the kernel does not handle its faults, and the code asks again where it may sleep. To
	 * read the count increments it, for that read must not sleep either. */
	if ((u32)read_kernel(bpf_get_current_task() + HOTPAGE_TASK_PAGEFAULT_DISABLED) > 1)
		return 0;
#endif
	return page_fault(ctx->args[0], ctx->args[2], HOTPAGE_KERNEL);
}

/* PERF_COUNT_SW_PAGE_FAULTS, for machines without the tracepoints: neither error code nor access type is known. */
int software_page_fault(struct perf_context *ctx)
{
	return page_fault(ctx->address, ERROR_UNKNOWN, 0);
}
