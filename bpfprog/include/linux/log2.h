/* SPDX-License-Identifier: GPL-2.0-only */
/* Stub kernel header: bcc includes it and, for hotpage's programs, needs nothing of it. */
#pragma once
