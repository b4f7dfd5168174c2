/* tiny: the smallest child a spawn can have. It only leaves, with status 0.
 *
 * /bin/true spends most of its life in dynamic linking, which hides the cost of spawning it. This program has no
 * libc, no linker and no stack frame: what is left of "spawn + wait" is the kernel's and the spawner's work.
 *
 *   cc -static -nostdlib -DTINY_START -o tiny tiny.c      x86_64 and aarch64 Linux
 *   cc -O2 -o tiny tiny.c                                 everywhere else (add -static where the libc allows it)
 */
#if !defined(TINY_START)

int main(void)
{
	return 0;
}

#elif defined(__linux__) && defined(__x86_64__)

/* exit_group(0): system call 231 */
__asm__(".globl _start\n"
	"_start:\n"
	"	xor %edi, %edi\n"
	"	mov $231, %eax\n"
	"	syscall\n");

#elif defined(__linux__) && defined(__aarch64__)

/* exit_group(0): system call 94 */
__asm__(".globl _start\n"
	"_start:\n"
	"	mov x0, #0\n"
	"	mov x8, #94\n"
	"	svc #0\n");

#else
#error "no _start is written for this machine: build without -DTINY_START"
#endif
