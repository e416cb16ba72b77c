/* SPDX-License-Identifier: GPL-2.0-only */
/* Stub kernel header: bcc injects an include of this name into programs that use registers. */
#pragma once
#include <linux/ptrace.h>
