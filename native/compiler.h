/* What the kernels ask of the compiler: gcc and clang get their words, any other compiles the same code without. */
#ifndef STOKER_COMPILER_H
#define STOKER_COMPILER_H

#if defined(__GNUC__) || defined(__clang__)
#define INLINE static inline __attribute__((always_inline))
#define EXPORT __attribute__((visibility("default")))
#define PREFETCH(address) __builtin_prefetch(address)
#else
#define INLINE static inline
#define EXPORT
#define PREFETCH(address) ((void)0)
#endif

#if defined(__GNUC__) && !defined(__clang__)
/* Distributions build extensions with -O2, at which gcc hardly vectorises. */
#pragma GCC optimize("O3")
#endif

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define X86_VERSIONS 1
/* Whether the processor runs what is compiled for AVX-512. */
INLINE int has_avx512(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq");
}
#else
#define X86_VERSIONS 0
#endif

#endif
