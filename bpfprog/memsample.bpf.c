// SPDX-License-Identifier: GPL-2.0-only
/*
 * Sampled loads and stores: one program for every perf event that carries a data address. Hardware samples (PEBS, IBS)
 * arrive in NMI, where a ring whose lock is taken refuses a record; so they have rings of their own, many and small,
 * and disturb no other source. The loader defines HOTPAGE_SAMPLE_RING_PAGES.
 */
BPF_RINGBUF_OUTPUT(sample_ring0, HOTPAGE_SAMPLE_RING_PAGES);
BPF_RINGBUF_OUTPUT(sample_ring1, HOTPAGE_SAMPLE_RING_PAGES);
BPF_RINGBUF_OUTPUT(sample_ring2, HOTPAGE_SAMPLE_RING_PAGES);
BPF_RINGBUF_OUTPUT(sample_ring3, HOTPAGE_SAMPLE_RING_PAGES);
BPF_RINGBUF_OUTPUT(sample_ring4, HOTPAGE_SAMPLE_RING_PAGES);
BPF_RINGBUF_OUTPUT(sample_ring5, HOTPAGE_SAMPLE_RING_PAGES);
BPF_RINGBUF_OUTPUT(sample_ring6, HOTPAGE_SAMPLE_RING_PAGES);
BPF_RINGBUF_OUTPUT(sample_ring7, HOTPAGE_SAMPLE_RING_PAGES);

static __always_inline struct hotpage_event *reserve_sample(void)
{
	switch (bpf_get_smp_processor_id() % 8) {
	case 1:
		return sample_ring1.ringbuf_reserve(sizeof(struct hotpage_event));
	case 2:
		return sample_ring2.ringbuf_reserve(sizeof(struct hotpage_event));
	case 3:
		return sample_ring3.ringbuf_reserve(sizeof(struct hotpage_event));
	case 4:
		return sample_ring4.ringbuf_reserve(sizeof(struct hotpage_event));
	case 5:
		return sample_ring5.ringbuf_reserve(sizeof(struct hotpage_event));
	case 6:
		return sample_ring6.ringbuf_reserve(sizeof(struct hotpage_event));
	case 7:
		return sample_ring7.ringbuf_reserve(sizeof(struct hotpage_event));
	}
	return sample_ring0.ringbuf_reserve(sizeof(struct hotpage_event));
}

/* include/uapi/linux/perf_event.h: enum perf_event_sample_format, union perf_mem_data_src */
#define SAMPLE_ADDR (1ULL << 3)
#define SAMPLE_DATA_SRC (1ULL << 15)
#define OPERATION_STORE (1ULL << 2)
#define LEVEL_SHIFT 5
#define LEVEL_HIT (1ULL << (LEVEL_SHIFT + 1))
#define LEVEL_L1_OR_L2 ((1ULL << (LEVEL_SHIFT + 3)) | (1ULL << (LEVEL_SHIFT + 5)))

/* Where the data came from, 0 when nobody knows. The program's context is, in the kernel, struct bpf_perf_event_data_kern:
 * registers, then the pointer to the sample. Which of the sample's fields are set its own flags say; others may be
 * uninitialised (6.1). */
static __always_inline u64 data_source(struct perf_context *ctx, u64 *sample_flags)
{
#if defined(HOTPAGE_SAMPLE_SAMPLE_FLAGS) && defined(HOTPAGE_SAMPLE_DATA_SRC)
	u64 sample = read_kernel((u64)ctx + 8);

	*sample_flags = read_kernel(sample + HOTPAGE_SAMPLE_SAMPLE_FLAGS);
	if (*sample_flags & SAMPLE_DATA_SRC)
		return read_kernel(sample + HOTPAGE_SAMPLE_DATA_SRC);
#endif
	return 0;
}

int memory_sample(struct perf_context *ctx)
{
	struct hotpage_config *c = read_config();
	u64 address = ctx->address, period = ctx->sample_period, id = bpf_get_current_pid_tgid();
	u64 sample_flags = SAMPLE_ADDR; /* kernels without such flags always set the address */
	struct hotpage_counters *count;
	struct hotpage_event *event;
	u64 source;

	if (!c || !is_target(c, id >> 32))
		return 0;
	count = read_counters();
	if (!count)
		return 0;
	source = data_source(ctx, &sample_flags);
	/* 0: the event was asked for an address and had none (later kernels fill that in). Negative: kernel memory. */
	if (!(sample_flags & SAMPLE_ADDR) || (s64)address <= 0) {
		count_event(&count->without_address);
		return 0;
	}
	if ((source & LEVEL_HIT) && (source & LEVEL_L1_OR_L2)) {
		count_event(&count->cache_hits);
		return 0;
	}
	count_event(&count->emitted[HOTPAGE_MEMORY_SAMPLE]);
	event = reserve_sample();
	if (!event) {
		count_event(&count->lost[HOTPAGE_MEMORY_SAMPLE]);
		return 0;
	}
	fill_event(event, id, HOTPAGE_MEMORY_SAMPLE, source & OPERATION_STORE ? HOTPAGE_WRITE : 0, address,
		   period > 0xffffffff ? 0xffffffff : period, HOTPAGE_UNKNOWN_NODE);
	bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
	return 0;
}
