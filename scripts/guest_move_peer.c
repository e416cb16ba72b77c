// SPDX-License-Identifier: Apache-2.0
/*
 * What scripts/guest_move.py measures with: a zipf workload that counts its own accesses, and a bare loop over
 * move_pages(2).
 *   zipf MIB NODE SEED COUNTERS   pages start on the node; COUNTERS: accesses to each page so far, 32 bits each;
 *                                 it only runs while nothing else wants its CPU
 *   loop PID ADDRESS PAGES NODE BATCH   move these pages and print the seconds that it took
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define EXPONENT 0.99
#define MPOL_DEFAULT 0
#define MPOL_BIND 2
#define MPOL_MF_MOVE 2

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static uint64_t next_random(uint64_t *state) /* xorshift64* */
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * 0x2545f4914f6cdd1dull;
}

static __attribute__((noreturn)) void zipf(char **words)
{
	uint32_t pages = strtoul(words[0], NULL, 10) << 8;
	unsigned long mask = 1ul << strtoul(words[1], NULL, 10);
	uint64_t state = strtoull(words[2], NULL, 10) * 0x9e3779b97f4a7c15ull + 1;
	uint32_t *order = malloc(pages * sizeof(*order));
	double *sums = malloc(pages * sizeof(*sums));
	int fd = open(words[3], O_RDWR | O_CREAT, 0600);
	volatile uint32_t *counters;
	unsigned char *memory;
	double sum = 0;

	if (!order || !sums || fd < 0 || ftruncate(fd, pages * sizeof(*counters)))
		die(words[3]);
	counters = mmap(NULL, pages * sizeof(*counters), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (syscall(SYS_set_mempolicy, MPOL_BIND, &mask, 64ul))
		die("set_mempolicy");
	memory = mmap(NULL, (size_t)pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (counters == MAP_FAILED || memory == MAP_FAILED)
		die("mmap");
	madvise(memory, (size_t)pages * PAGE, MADV_NOHUGEPAGE);
	for (uint32_t i = 0; i < pages; i++) {
		memory[(size_t)i * PAGE] = 1;
		order[i] = i;
		sum += pow(i + 1, -EXPONENT);
		sums[i] = sum;
	}
	if (syscall(SYS_set_mempolicy, MPOL_DEFAULT, NULL, 0ul))
		die("set_mempolicy");
	for (uint32_t i = pages - 1; i; i--) { /* ranks lie anywhere */
		uint32_t j = next_random(&state) % (i + 1), other = order[i];

		order[i] = order[j];
		order[j] = other;
	}
	if (sched_setscheduler(0, SCHED_IDLE, &(struct sched_param){0}))
		die("sched_setscheduler");
	printf("%llu %u\n", (unsigned long long)(uintptr_t)memory, pages);
	fflush(stdout);
	for (;;) {
		double u = (next_random(&state) >> 11) * 0x1p-53 * sum;
		uint32_t low = 0, high = pages - 1;

		while (low < high) {
			uint32_t middle = (low + high) / 2;

			if (sums[middle] < u)
				low = middle + 1;
			else
				high = middle;
		}
		memory[(size_t)order[low] * PAGE + (next_random(&state) & 63) * 64]++;
		counters[order[low]]++;
	}
}

static int loop(char **words)
{
	long pid = atol(words[0]), count = atol(words[2]), batch = atol(words[4]);
	uintptr_t address = strtoull(words[1], NULL, 10);
	int node = atoi(words[3]);
	void **pages = malloc(count * sizeof(*pages));
	int *nodes = malloc(count * sizeof(*nodes)), *status = malloc(count * sizeof(*status));
	struct timespec begun, ended;

	if (!pages || !nodes || !status)
		die("malloc");
	for (long i = 0; i < count; i++) {
		pages[i] = (void *)(address + i * PAGE);
		nodes[i] = node;
		status[i] = 0;
	}
	clock_gettime(CLOCK_MONOTONIC, &begun);
	for (long i = 0; i < count; i += batch) {
		long some = count - i < batch ? count - i : batch;

		if (syscall(SYS_move_pages, pid, some, pages + i, nodes + i, status + i, MPOL_MF_MOVE))
			die("move_pages");
	}
	clock_gettime(CLOCK_MONOTONIC, &ended);
	printf("%.6f\n", ended.tv_sec - begun.tv_sec + (ended.tv_nsec - begun.tv_nsec) / 1e9);
	return 0;
}

int main(int argc, char **argv)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (argc == 6 && !strcmp(argv[1], "zipf"))
		zipf(argv + 2);
	if (argc == 7 && !strcmp(argv[1], "loop"))
		return loop(argv + 2);
	fprintf(stderr, "usage: see the source\n");
	return 2;
}
