// SPDX-License-Identifier: Apache-2.0
/*
 * A workload with a known hot set; see usage() and hotpage/exerciser/__init__.py, which starts it. exerciser.py is the
 * same in numpy, for machines without a compiler: keep options and output alike.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define PAGE 4096
#define HUGE_PAGE (2ul << 20)
#define MAX_THREADS 64
#define BATCH 1024	 /* accesses between two looks at the clock */
#define COUNTER_STRIDE 8 /* one cache line per thread */

static const char usage_text[] =
	"usage: exerciser access|sweep|storm --counters FILE [options]\n"
	"  access: every thread writes to random pages, --hot-share of the writes to the hot pages, or as --draws "
	"says\n"
	"  sweep:  every thread writes to every --stride'th page in turn, over and over\n"
	"  storm:  every thread maps its part of the pages, touches each once, unmaps, and again: page faults only\n"
	"  --mib N           memory (200)\n"
	"  --threads N       1: really one thread (1)\n"
	"  --seconds S       0: until SIGTERM (0)\n"
	"  --hot-pages FILE  32-bit page numbers that are hot (none)\n"
	"  --hot-share S     share of the accesses that go to hot pages (0.9)\n"
	"  --draws FILE      32-bit page numbers, each as likely as any other to be the next access: repeat the hot "
	"ones\n"
	"  --shift N         SIGUSR1 moves every access N pages up, around the end (0)\n"
	"  --stride N        (1)\n"
	"  --work N          rounds of arithmetic between two accesses (0)\n"
	"  --huge            in huge pages\n"
	"  --interval S      print {\"time_s\", \"accesses\"} each S seconds; 0: never (0)\n"
	"  --counters FILE   each thread's accesses so far, or faults: 64-bit, one every 64 bytes\n"
	"  --parent PID      die with this process\n"
	"Prints {\"pid\", \"base\", \"pages\"} once every page is there.\n";

static uint64_t pages;
static uint64_t hot_pages;
static uint32_t hot_share_32; /* of 2^32 */
static uint32_t *order;	      /* page numbers, the hot ones first */
static uint32_t *draws;	      /* or those to draw from */
static uint64_t draw_count;
static uint64_t stride = 1, work;
static uint64_t shift_step;
static volatile uint64_t shift; /* below pages */
static unsigned char *memory;
static volatile uint64_t *counters;
static int threads = 1, huge;
static double interval_s, end_s;
static volatile sig_atomic_t stop;

static void die(const char *what)
{
	fprintf(stderr, "exerciser: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void on_signal(int signal)
{
	(void)signal;
	stop = 1;
}

static void on_shift(int signal)
{
	(void)signal;
	shift = (shift + shift_step) % pages;
}

static double now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static uint64_t next_random(uint64_t *state) /* xorshift64* */
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * 0x2545f4914f6cdd1dull;
}

static void print_interval(double time_s)
{
	uint64_t sum = 0;

	for (int i = 0; i < threads; i++)
		sum += counters[i * COUNTER_STRIDE];
	printf("{\"time_s\": %.6f, \"accesses\": %llu}\n", time_s, (unsigned long long)sum);
	fflush(stdout);
}

/* The first thread keeps the time for all. */
static void keep_time(int thread, double *next_s)
{
	double time_s;

	if (thread)
		return;
	time_s = now_s();
	if (interval_s && time_s >= *next_s) {
		print_interval(time_s);
		*next_s += interval_s;
	}
	if (end_s && time_s >= end_s)
		stop = 1;
}

/* Time in which nothing but registers is accessed. */
static void compute(uint64_t *state)
{
	for (uint64_t i = 0; i < work; i++)
		next_random(state);
}

static void access_batch(uint64_t *state)
{
	for (int i = 0; i < BATCH; i++) {
		uint64_t r = next_random(state);
		uint64_t page;

		compute(state);
		if (draws)
			page = draws[((r >> 32) * draw_count) >> 32];
		else if (hot_pages == pages || (hot_pages && (uint32_t)r < hot_share_32))
			page = order[((r >> 32) * hot_pages) >> 32];
		else
			page = order[hot_pages + (((r >> 32) * (pages - hot_pages)) >> 32)];
		page += shift;
		if (page >= pages)
			page -= pages;
		/* Another cache line each time: the pages' first lines would share one cache set. */
		memory[page * PAGE + ((r & 63) << 6)]++;
	}
}

static unsigned char *map_pages(uint64_t count)
{
	uint64_t size = count * PAGE + (huge ? HUGE_PAGE : 0);
	unsigned char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		die("mmap");
	if (huge)
		p = (unsigned char *)(((uintptr_t)p + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1));
	/* EINVAL: a kernel without huge pages, as good for base pages */
	if (madvise(p, count * PAGE, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE) && huge)
		die("madvise");
	return p;
}

static void *run_access(void *argument)
{
	int thread = (int)(intptr_t)argument;
	uint64_t state = 0x9e3779b97f4a7c15ull * (thread + 1);
	double next_s = now_s() + interval_s;

	while (!stop) {
		access_batch(&state);
		counters[thread * COUNTER_STRIDE] += BATCH;
		keep_time(thread, &next_s);
	}
	return NULL;
}

static void *run_sweep(void *argument)
{
	int thread = (int)(intptr_t)argument;
	uint64_t state = thread + 1;
	double next_s = now_s() + interval_s;

	while (!stop) {
		for (uint64_t page = 0, i = 0; page < pages && !stop; page += stride, i++) {
			compute(&state);
			memory[page * PAGE + ((i & 63) << 6)]++;
			counters[thread * COUNTER_STRIDE]++;
			if (i % BATCH == 0)
				keep_time(thread, &next_s);
		}
	}
	return NULL;
}

static void *run_storm(void *argument)
{
	int thread = (int)(intptr_t)argument;
	uint64_t share = pages / threads;
	double next_s = now_s() + interval_s;

	while (!stop) {
		unsigned char *p = map_pages(share);

		for (uint64_t i = 0; i < share && !stop; i++) {
			p[i * PAGE] = 1;
			counters[thread * COUNTER_STRIDE]++;
			if (i % BATCH == 0)
				keep_time(thread, &next_s);
		}
		munmap(p, share * PAGE);
	}
	return NULL;
}

static void read_hot_pages(const char *path)
{
	unsigned char *is_hot = calloc(pages, 1);
	FILE *file = fopen(path, "rb");
	uint64_t cold;

	if (!is_hot || !file)
		die(path);
	while (fread(&order[hot_pages], sizeof(*order), 1, file) == 1) {
		if (order[hot_pages] >= pages || is_hot[order[hot_pages]]) {
			fprintf(stderr, "exerciser: %s: page %u twice or out of range\n", path, order[hot_pages]);
			exit(2);
		}
		is_hot[order[hot_pages++]] = 1;
		if (hot_pages == pages)
			break;
	}
	fclose(file);
	cold = hot_pages;
	for (uint32_t i = 0; i < pages; i++)
		if (!is_hot[i])
			order[cold++] = i;
	free(is_hot);
}

static void read_draws(const char *path)
{
	FILE *file = fopen(path, "rb");
	long bytes;

	if (!file || fseek(file, 0, SEEK_END) || (bytes = ftell(file)) < 0)
		die(path);
	draw_count = bytes / sizeof(*draws);
	draws = malloc(bytes);
	rewind(file);
	if (!draw_count || !draws || fread(draws, sizeof(*draws), draw_count, file) != draw_count)
		die(path);
	fclose(file);
	for (uint64_t i = 0; i < draw_count; i++)
		if (draws[i] >= pages) {
			fprintf(stderr, "exerciser: %s: page %u out of range\n", path, draws[i]);
			exit(2);
		}
}

static void map_counters(const char *path)
{
	size_t size = MAX_THREADS * COUNTER_STRIDE * sizeof(uint64_t);
	int fd = path ? open(path, O_RDWR | O_CREAT, 0600) : -1;

	if (fd < 0 || ftruncate(fd, size))
		die(path ? path : "--counters FILE is needed");
	counters = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (counters == MAP_FAILED)
		die(path);
	close(fd);
	memset((void *)counters, 0, size);
}

static __attribute__((noreturn)) void usage(FILE *to, int status)
{
	fputs(usage_text, to);
	exit(status);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"mib", 1, 0, 'm'},	  {"threads", 1, 0, 't'},   {"seconds", 1, 0, 's'},
		{"hot-pages", 1, 0, 'p'}, {"hot-share", 1, 0, 'h'}, {"interval", 1, 0, 'i'},
		{"counters", 1, 0, 'c'},  {"parent", 1, 0, 'd'},    {"draws", 1, 0, 'D'},
		{"shift", 1, 0, 'S'},	  {"stride", 1, 0, 'r'},    {"work", 1, 0, 'w'},
		{"huge", 0, 0, 'u'},	  {"help", 0, 0, 'H'},	    {0, 0, 0, 0},
	};
	const char *hot_path = NULL, *draws_path = NULL, *counter_path = NULL;
	double hot_share = 0.9, seconds = 0;
	pthread_t started[MAX_THREADS];
	void *(*run)(void *);
	uint64_t mib = 200;
	long parent = 0;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 'm':
			mib = strtoull(optarg, NULL, 10);
			break;
		case 't':
			threads = atoi(optarg);
			break;
		case 's':
			seconds = atof(optarg);
			break;
		case 'p':
			hot_path = optarg;
			break;
		case 'h':
			hot_share = atof(optarg);
			break;
		case 'i':
			interval_s = atof(optarg);
			break;
		case 'c':
			counter_path = optarg;
			break;
		case 'd':
			parent = atol(optarg);
			break;
		case 'D':
			draws_path = optarg;
			break;
		case 'S':
			shift_step = strtoull(optarg, NULL, 10);
			break;
		case 'r':
			stride = strtoull(optarg, NULL, 10);
			break;
		case 'w':
			work = strtoull(optarg, NULL, 10);
			break;
		case 'u':
			huge = 1;
			break;
		case 'H':
			usage(stdout, 0);
		default:
			usage(stderr, 2);
		}
	}
	if (optind != argc - 1 || !mib || threads < 1 || threads > MAX_THREADS || hot_share < 0 || hot_share > 1 ||
	    !stride)
		usage(stderr, 2);
	if (!strcmp(argv[optind], "access"))
		run = run_access;
	else if (!strcmp(argv[optind], "sweep"))
		run = run_sweep;
	else if (!strcmp(argv[optind], "storm"))
		run = run_storm;
	else
		usage(stderr, 2);

	if (parent && (prctl(PR_SET_PDEATHSIG, SIGKILL) || getppid() != parent))
		return 1;
	pages = mib << 8;
	signal(SIGTERM, on_signal);
	signal(SIGINT, on_signal);
	signal(SIGUSR1, on_shift);

	hot_share_32 = hot_share >= 1 ? UINT32_MAX : (uint32_t)(hot_share * 4294967296.0);
	map_counters(counter_path);
	if (run != run_storm) {
		order = malloc(pages * sizeof(*order));
		if (!order)
			die("malloc");
		for (uint32_t i = 0; i < pages; i++)
			order[i] = i;
		if (hot_path)
			read_hot_pages(hot_path);
		if (draws_path)
			read_draws(draws_path);
		memory = map_pages(pages);
		/* All at once, where the kernel can (5.14): to fault for each page takes far longer. */
		madvise(memory, pages * PAGE, MADV_POPULATE_WRITE);
		for (uint64_t i = 0; i < pages; i++)
			memory[i * PAGE] = 1;
	}
	printf("{\"pid\": %d, \"base\": %llu, \"pages\": %llu}\n", getpid(), (unsigned long long)(uintptr_t)memory,
	       (unsigned long long)pages);
	fflush(stdout);

	end_s = seconds ? now_s() + seconds : 0;
	for (intptr_t i = 1; i < threads; i++)
		if ((errno = pthread_create(&started[i], NULL, run, (void *)i)))
			die("pthread_create");
	run((void *)0);
	for (int i = 1; i < threads; i++)
		pthread_join(started[i], NULL);
	return 0;
}
