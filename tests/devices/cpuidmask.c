/* Hides CPU features from one process, at native speed.
 *
 *     EDGEPRESS_CPU=avx2 LD_PRELOAD=/path/to/cpuidmask.so python ...
 *
 * Where the kernel offers CPUID faulting (cpuid_fault in /proc/cpuinfo), every CPUID instruction of this process raises
 * SIGSEGV; the handler runs the real instruction, takes bits away and steps over it. Only what a program is told
 * changes: an instruction that is used without asking still works. Child processes inherit it through the environment.
 * Not for processes that install a SIGSEGV handler of their own (Python's faulthandler does).
 *
 * EDGEPRESS_CPU: avx2   no AVX-512, no AVX-VNNI, no AMX (Haswell to Coffee Lake, Zen 1 to 3)
 *                avx512 AVX-512 without VNNI (Skylake-X)
 * Bit positions: Intel SDM volume 2A, CPUID, table 3-8.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_SET_CPUID 0x1012 /* asm/prctl.h */
#define BIT(n) (UINT32_C(1) << (n))

struct registers {
    uint32_t eax, ebx, ecx, edx;
};

struct mask {
    const char *name;
    struct registers leaf7_0, leaf7_1; /* bits to take away */
};

#define AVX512_EBX (BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31))
#define AVX512_ECX (BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14))
#define VNNI_ECX BIT(11)
#define AVX512_EDX (BIT(2) | BIT(3) | BIT(8))
#define FP16_AMX_EDX (BIT(22) | BIT(23) | BIT(24) | BIT(25))
#define AVX_VNNI_EAX (BIT(4) | BIT(5) | BIT(21) | BIT(23)) /* AVX-VNNI, AVX512-BF16, AMX-FP16, AVX-IFMA */
#define AVX_VNNI_EDX (BIT(4) | BIT(5) | BIT(10))           /* AVX-VNNI-INT8, AVX-NE-CONVERT, AVX-VNNI-INT16 */

static const struct mask masks[] = {
    {"avx2", {0, AVX512_EBX, AVX512_ECX, AVX512_EDX | FP16_AMX_EDX}, {AVX_VNNI_EAX, 0, 0, AVX_VNNI_EDX}},
    {"avx512", {0, 0, VNNI_ECX, FP16_AMX_EDX}, {AVX_VNNI_EAX, 0, 0, AVX_VNNI_EDX}},
};

static const struct mask *chosen;

static long set_faulting(int on)
{
    return syscall(SYS_arch_prctl, ARCH_SET_CPUID, on ? 0UL : 1UL);
}

static void on_fault(int number, siginfo_t *info, void *context)
{
    greg_t *machine = ((ucontext_t *)context)->uc_mcontext.gregs;
    const unsigned char *code = (const unsigned char *)machine[REG_RIP];

    (void)number;
    if (info->si_code != SI_KERNEL || code[0] != 0x0f || code[1] != 0xa2) { /* not CPUID: a real fault */
        signal(SIGSEGV, SIG_DFL);
        return;
    }
    const uint32_t leaf = (uint32_t)machine[REG_RAX], subleaf = (uint32_t)machine[REG_RCX];
    struct registers r = {leaf, 0, subleaf, 0};
    set_faulting(0);
    __asm__ volatile("cpuid" : "+a"(r.eax), "=b"(r.ebx), "+c"(r.ecx), "=d"(r.edx));
    set_faulting(1);
    if (leaf == 7 && subleaf <= 1) {
        const struct registers *away = subleaf ? &chosen->leaf7_1 : &chosen->leaf7_0;
        r.eax &= ~away->eax;
        r.ebx &= ~away->ebx;
        r.ecx &= ~away->ecx;
        r.edx &= ~away->edx;
    }
    machine[REG_RAX] = r.eax;
    machine[REG_RBX] = r.ebx;
    machine[REG_RCX] = r.ecx;
    machine[REG_RDX] = r.edx;
    machine[REG_RIP] += 2;
}

__attribute__((constructor)) static void hide(void)
{
    const char *name = getenv("EDGEPRESS_CPU");
    struct sigaction action;

    if (!name)
        return;
    for (size_t i = 0; i < sizeof masks / sizeof masks[0]; i++)
        if (!strcmp(name, masks[i].name))
            chosen = &masks[i];
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    if (!chosen || sigaction(SIGSEGV, &action, NULL) || set_faulting(1)) {
        fprintf(stderr, "cpuidmask: cannot hide what %s lacks\n", name);
        _exit(78); /* never run unmasked in silence */
    }
}
