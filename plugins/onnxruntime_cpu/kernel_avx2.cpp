#if defined(__x86_64__)
#define LANES 8
#include "attention_kernel.h"

const AttentionKernel kAvx2Kernel = {
    "avx2", [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }, kBlock,
    run_task};
#endif
