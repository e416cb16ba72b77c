/* SPDX-License-Identifier: GPL-2.0-only */
/* Stub kernel header: bcc sizes ring buffers in pages of the running kernel, which the loader asks it for. */
#pragma once
#define PAGE_SIZE HOTPAGE_PAGE_BYTES
