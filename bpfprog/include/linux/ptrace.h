/* SPDX-License-Identifier: GPL-2.0-only */
/* Stub kernel header: the registers as BPF programs see them (kprobes: struct pt_regs of the kernel; perf events:
 * bpf_user_pt_regs_t, which is the same on x86-64 and struct user_pt_regs on arm64). */
#pragma once
#include <linux/types.h>
#if defined(__TARGET_ARCH_x86) || defined(__x86_64__)
struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8;
	unsigned long ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};
#define HOTPAGE_PERF_REGISTERS 21
#define HOTPAGE_KPROBE_ARG2(ctx) ((ctx)->si)
#define HOTPAGE_KPROBE_ARG3(ctx) ((ctx)->dx)
#define HOTPAGE_KPROBE_ARG4(ctx) ((ctx)->cx)
#elif defined(__TARGET_ARCH_arm64) || defined(__aarch64__)
struct pt_regs {
	__u64 regs[31];
	__u64 sp, pc, pstate;
};
#define HOTPAGE_PERF_REGISTERS 34
#define HOTPAGE_KPROBE_ARG2(ctx) ((ctx)->regs[1])
#define HOTPAGE_KPROBE_ARG3(ctx) ((ctx)->regs[2])
#define HOTPAGE_KPROBE_ARG4(ctx) ((ctx)->regs[3])
#else
#error "hotpage's BPF programs know x86-64 and arm64"
#endif
