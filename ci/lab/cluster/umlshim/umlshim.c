/*
 * A library that is preloaded into user-mode-linux (kernel 6.1) and corrects
 * two of its habits that make a guest fail on the host of a laboratory.
 *
 * 1. Its buffer for a process' extended registers has a fixed size that is too
 *    small for processors with large ones (AMX): PTRACE_SETREGSET then fails
 *    with EFAULT. The kernel's own size is used here, and the parts that
 *    user-mode-linux does not know are passed as being in their initial state.
 *
 * 2. It can lose the signal of its one-shot clock event. The guest's tick then
 *    stops for good: sleeps never end, while I/O goes on. Every one-shot timer
 *    gets an interval, so that a lost signal comes again.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define REPEAT_NANOSECONDS (50 * 1000 * 1000)

/* Offset of XSTATE_BV in the area (Intel SDM volume 1, 13.4.2), and its bits 17
 * and 18: the tile configuration and the tiles. */
#define STATE_BITS_OFFSET 512
#define TILE_BITS ((uint64_t)3 << 17)

static char state[65536] __attribute__((aligned(64)));
static size_t state_size; /* what the kernel calls the whole size; 0: not known */

static long kernel_ptrace(long request, long pid, void *address, void *data)
{
	return syscall(SYS_ptrace, request, pid, address, data);
}

static long read_state(long pid)
{
	struct iovec whole = { state, sizeof(state) };
	long result = kernel_ptrace(PTRACE_GETREGSET, pid, (void *)NT_X86_XSTATE, &whole);

	if (result >= 0)
		state_size = whole.iov_len;
	return result;
}

static long get_state(long pid, struct iovec *want)
{
	long result = read_state(pid);

	if (result < 0)
		return result;
	if (want->iov_len > state_size)
		want->iov_len = state_size;
	memcpy(want->iov_base, state, want->iov_len);
	return 0;
}

static long set_state(long pid, struct iovec *given)
{
	struct iovec whole;
	uint64_t bits;

	if (state_size == 0 && read_state(pid) < 0)
		return -1;
	if (given->iov_len >= state_size)
		return kernel_ptrace(PTRACE_SETREGSET, pid, (void *)NT_X86_XSTATE, given);
	memset(state, 0, state_size);
	memcpy(state, given->iov_base, given->iov_len);
	memcpy(&bits, state + STATE_BITS_OFFSET, sizeof(bits));
	bits &= ~TILE_BITS;
	memcpy(state + STATE_BITS_OFFSET, &bits, sizeof(bits));
	whole.iov_base = state;
	whole.iov_len = state_size;
	return kernel_ptrace(PTRACE_SETREGSET, pid, (void *)NT_X86_XSTATE, &whole);
}

long ptrace(enum __ptrace_request request, ...)
{
	va_list arguments;
	long pid, word, result;
	void *address, *data;

	va_start(arguments, request);
	pid = va_arg(arguments, int);
	address = va_arg(arguments, void *);
	data = va_arg(arguments, void *);
	va_end(arguments);

	switch ((int)request) {
	case PTRACE_GETREGSET:
		if ((long)address == NT_X86_XSTATE)
			return get_state(pid, data);
		break;
	case PTRACE_SETREGSET:
		if ((long)address == NT_X86_XSTATE)
			return set_state(pid, data);
		break;
	case PTRACE_PEEKUSER:
	case PTRACE_PEEKTEXT:
	case PTRACE_PEEKDATA:
		/* The system call stores the word; the library's function returns it. */
		result = kernel_ptrace(request, pid, address, &word);
		return result < 0 ? result : word;
	}
	return kernel_ptrace(request, pid, address, data);
}

static int (*next_timer_settime)(timer_t, int, const struct itimerspec *, struct itimerspec *);

__attribute__((constructor)) static void find_next(void)
{
	next_timer_settime = dlsym(RTLD_NEXT, "timer_settime");
}

int timer_settime(timer_t timer, int flags, const struct itimerspec *value, struct itimerspec *old)
{
	struct itimerspec repeated = *value;
	int armed = value->it_value.tv_sec != 0 || value->it_value.tv_nsec != 0;
	int once = value->it_interval.tv_sec == 0 && value->it_interval.tv_nsec == 0;

	if (armed && once)
		repeated.it_interval.tv_nsec = REPEAT_NANOSECONDS;
	return next_timer_settime(timer, flags, &repeated, old);
}
