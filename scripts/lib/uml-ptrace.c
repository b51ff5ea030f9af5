/*
 * Lets user-mode-linux start on processors with more registers than it knows (AMX).
 *
 * It saves and restores the registers of its processes in a buffer of a fixed size. Linux
 * takes only all of them (xstateregs_set()), so there it stops with "ptrace set fp regs
 * failed, errno = 14". Loaded with LD_PRELOAD, this adds those that user-mode-linux does not
 * know as they are: its processes do not use them.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

/* NT_X86_XSTATE; old headers lack it. */
#define XSTATE ((void *)0x202)

static long (*kernel)(int, pid_t, void *, void *);

static long set_all(pid_t pid, const struct iovec *known)
{
	static _Alignas(64) char registers[64 * 1024];
	struct iovec all = { registers, sizeof(registers) };

	if (kernel(PTRACE_GETREGSET, pid, XSTATE, &all) != 0)
		return -1;
	memcpy(registers, known->iov_base, known->iov_len < all.iov_len ? known->iov_len : all.iov_len);
	return kernel(PTRACE_SETREGSET, pid, XSTATE, &all);
}

long ptrace(enum __ptrace_request request, ...)
{
	va_list arguments;
	pid_t pid;
	void *address, *data;

	va_start(arguments, request);
	pid = va_arg(arguments, pid_t);
	address = va_arg(arguments, void *);
	data = va_arg(arguments, void *);
	va_end(arguments);
	if (!kernel)
		*(void **)&kernel = dlsym(RTLD_NEXT, "ptrace");
	if (request == PTRACE_SETREGSET && address == XSTATE)
		return set_all(pid, data);
	return kernel(request, pid, address, data);
}
