/* SPDX-License-Identifier: GPL-2.0-only */
/* Stub kernel header: bcc force-includes it. */
#pragma once
#define CONFIG_BPF_SYSCALL 1
