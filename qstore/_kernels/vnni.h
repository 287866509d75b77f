/* AVX-512 VNNI: four products of unsigned and signed bytes, added up in an int32. Not every AVX-512 has it. */
#ifndef QSTORE_VNNI_H
#define QSTORE_VNNI_H

#include "kernels.h"

#if QSTORE_X86

#define TARGET_VNNI __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")))

static ALWAYS_INLINE int has_vnni(void)
{
    return __builtin_cpu_supports("avx512vnni");
}

#endif
#endif
