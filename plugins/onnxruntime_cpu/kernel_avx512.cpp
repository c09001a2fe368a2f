#if defined(__x86_64__)
#define LANES 16
#include "attention_kernel.h"

const AttentionKernel kAvx512Kernel = {
    "avx512", [] { return __builtin_cpu_supports("avx512f") > 0; }, kBlock, run_task};
#endif
