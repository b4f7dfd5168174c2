/* tiny_out: a child for capture benchmarks. It writes to stdout and to stderr, and leaves with status 0.
 *
 *   tiny_out [OUT_BYTES [ERR_BYTES]]      default: 4 bytes on each
 *
 * Like tiny it has no libc where TINY_START is defined, so that capture is measured and not the child's start.
 *
 *   cc -O2 -static -nostdlib -fno-builtin -fno-stack-protector -DTINY_START -o tiny_out tiny_out.c
 *   cc -O2 -o tiny_out tiny_out.c
 */
static char block[1 << 16]; /* zero pages: only what is written is ever touched */

static long write_block(int fd, const char *bytes, long count);

/* Reads a decimal number; stops at the first byte that is no digit. */
static long number(const char *text)
{
	long value = 0;

	while (*text >= '0' && *text <= '9')
		value = value * 10 + (*text++ - '0');
	return value;
}

/* Writes `count` zero bytes to `fd`, or the four bytes of `word` when count is negative. */
static void emit(int fd, const char *word, long count)
{
	long done;

	if (count < 0) {
		write_block(fd, word, 4);
		return;
	}
	while (count > 0) {
		done = write_block(fd, block, count < (long)sizeof(block) ? count : (long)sizeof(block));
		if (done <= 0)
			return;
		count -= done;
	}
}

static void tiny_main(int argc, char **argv)
{
	emit(1, "out\n", argc > 1 ? number(argv[1]) : -1);
	emit(2, "err\n", argc > 2 ? number(argv[2]) : -1);
}

#if !defined(TINY_START)

#include <unistd.h>

static long write_block(int fd, const char *bytes, long count)
{
	return (long)write(fd, bytes, (unsigned long)count);
}

int main(int argc, char **argv)
{
	tiny_main(argc, argv);
	return 0;
}

#else

static long system_call(long number, long a, long b, long c);
void tiny_start(long *stack);

/* The kernel leaves argc at the stack pointer and argv behind it: hand their address to C. */
#if defined(__linux__) && defined(__x86_64__)
enum { CALL_WRITE = 1, CALL_EXIT_GROUP = 231 };
__asm__(".globl _start\n"
	"_start:\n"
	"	mov %rsp, %rdi\n"
	"	and $-16, %rsp\n"
	"	call tiny_start\n");

static long system_call(long number, long a, long b, long c)
{
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c)
			 : "rcx", "r11", "memory");
	return result;
}
#elif defined(__linux__) && defined(__aarch64__)
enum { CALL_WRITE = 64, CALL_EXIT_GROUP = 94 };
__asm__(".globl _start\n"
	"_start:\n"
	"	mov x0, sp\n"
	"	bl tiny_start\n");

static long system_call(long number, long a, long b, long c)
{
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;

	__asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
	return x0;
}
#else
#error "no _start is written for this machine: build without -DTINY_START"
#endif

static long write_block(int fd, const char *bytes, long count)
{
	return system_call(CALL_WRITE, fd, (long)bytes, count);
}

void tiny_start(long *stack)
{
	tiny_main((int)stack[0], (char **)(stack + 1));
	system_call(CALL_EXIT_GROUP, 0, 0, 0);
	__builtin_unreachable();
}

#endif
