/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The one definition of what the kernel side and the Python side share. hotpage/capture/events.py derives its numpy
 * dtypes from this file; a unit test compiles it with cc and compares every offset.
 *
 * The includer provides the integer types (__u8 ... __u64): <linux/types.h> here and in user space alike.
 */
#ifndef HOTPAGE_H
#define HOTPAGE_H

/* What a record tells. Values are stored in profiles' statistics: append, never renumber. */
enum hotpage_source {
	HOTPAGE_HINT_FAULT = 1,	   /* a page armed by NUMA balancing was accessed */
	HOTPAGE_PAGE_FAULT = 2,	   /* any other page fault: first touch, copy on write, swap-in */
	HOTPAGE_MEMORY_SAMPLE = 3, /* a sampled load or store */
	HOTPAGE_ARM = 4,	   /* `pages` pages from `address` were armed, exactly */
	HOTPAGE_SCAN = 5, /* the arming scan that began at `address` flushed a range: what it armed faults from now */
	HOTPAGE_SCAN_END = 6,  /* that scan ended at `address` (0: at the end of the address space) */
	HOTPAGE_SCAN_SKIP = 7, /* the scan left out the mapping of `pages` pages at `address`; flags say why */
};

enum hotpage_flag {
	HOTPAGE_WRITE = 1,
	HOTPAGE_MIGRATED = 2, /* the kernel moved the page in this fault; node is the new one */
	HOTPAGE_HUGE = 4,     /* the fault hit a huge mapping: address speaks for all of it */
	HOTPAGE_KERNEL = 8,   /* the kernel accessed the page for the process */
	HOTPAGE_PRESENT = 16, /* a protection fault on a present page, e.g. copy on write */
};

#define HOTPAGE_UNKNOWN_NODE 0xffffu

/* The event record, 32 bytes, the payload of every ring buffer entry. */
struct hotpage_event {
	__u64 address; /* byte address, as exact as the source knows it */
	__u64 time_ns; /* CLOCK_MONOTONIC */
	__u32 tgid;    /* process, in the initial pid namespace */
	__u32 tid;
	union {
		__u32 pages;  /* base pages: of a range (ARM, SCAN_SKIP); of the folio of a HINT_FAULT, 0: unknown */
		__u32 period; /* accesses that a MEMORY_SAMPLE stands for, what was lost not included */
	};
	__u8 source; /* enum hotpage_source */
	__u8 flags;  /* enum hotpage_flag; for SCAN_SKIP the kernel's reason number */
	__u16 node;
};

enum hotpage_target {
	HOTPAGE_TARGET_NONE = 0,
	HOTPAGE_TARGET_ALL = 1,
	HOTPAGE_TARGET_PIDS = 2,   /* members of the map `targets` */
	HOTPAGE_TARGET_CGROUP = 3, /* cgroup v2 subtree */
	HOTPAGE_TARGET_COMM = 4,   /* command name of the process */
};

/* Written by user space at any time, read by every program. */
struct hotpage_config {
	__u64 cgroup_id;	 /* HOTPAGE_TARGET_CGROUP: the ancestor's id ... */
	__u32 cgroup_level;	 /* ... and its depth below the root (root: 0) */
	__u32 target;		 /* enum hotpage_target */
	__u32 self_tgid;	 /* hotpage itself: a target only ... */
	__u32 self_test;	 /* ... while this is 1 */
	__u32 page_faults;	 /* 1: emit HOTPAGE_PAGE_FAULT records */
	__u32 page_fault_one_in; /* keep one page fault in this many (>= 1) */
	__u64 page_offset_base;	 /* where the kernel maps physical memory; found by `calibrate` */
	__u64 arming_text[4];	 /* start and end of change_prot_numa, start and end of task_numa_work */
	__u64 calibrate_address; /* calibrate: a user address of the caller ... */
	__u64 calibrate_frame;	 /* ... the page frame behind it ... */
	__u64 calibrate_first;	 /* ... and the first candidate to try, GiB below the page table's own address */
	char comm[16];
};

/* Per CPU, indexed by enum hotpage_source. emitted = received by user space + lost. */
struct hotpage_counters {
	__u64 emitted[8];
	__u64 lost[8];	      /* no room in the ring */
	__u64 sampled_out[8]; /* left out by page_fault_one_in */
	__u64 draw;	      /* the random number that decided the last one */
	/* Memory samples of targets that were no use, and so were not emitted: neither loss nor thinning. */
	__u64 without_address; /* the processor told no user address */
	__u64 cache_hits;      /* served by the core's own caches (L1, L2) */
};

#endif
