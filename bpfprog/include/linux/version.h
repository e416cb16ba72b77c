/* SPDX-License-Identifier: GPL-2.0-only */
/* Stub kernel header. hotpage probes features and never asks for a version; bcc's headers want the macros. */
#pragma once
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#ifndef LINUX_VERSION_CODE
#define LINUX_VERSION_CODE KERNEL_VERSION(6, 1, 0)
#endif
