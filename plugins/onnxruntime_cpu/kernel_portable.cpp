// 128-bit vectors, which every processor has that the compiler knows: SSE2, Neon, or none.
#define LANES 4
#include "attention_kernel.h"

const AttentionKernel kPortableKernel = {"portable", [] { return true; }, kBlock, run_task};
