/* Adadelta's step in one pass over a parameter, its gradient and its two averages, where torch goes over them eleven times.
 *
 * Operation by operation what torch's own step computes in float32: the numbers differ in the last bit, where a product is rounded before it is added.
 * Built with -fno-math-errno: else sqrtf would set errno, and so be no operation on vectors.
 *
 * No Python.h: plain exported functions that stoker/boost/models/adadelta.py loads with ctypes, which releases the GIL around each call.
 */
#include <math.h>
#include <stdint.h>

#include "compiler.h"

#define STOKER_ADADELTA_VERSION 1

/* What every thread of a team is told; adadelta.py has the same structure. */
struct step {
    float *parameter;
    const float *gradient;
    float *square_avg;
    float *acc_delta;
    int64_t count;
    float rate;
    float rho;
    float rest; /* 1 - rho, of the doubles */
    float eps;
    float weight_decay; /* 0: none */
    int32_t maximize;
    int (*member)(void); /* omp_get_thread_num */
    int (*members)(void); /* omp_get_num_threads */
};

enum { LINE = 64 };

/* Without weight decay the parameter is not multiplied by 0: infinity stays infinity. */
INLINE void some(const struct step *step, int64_t from, int64_t to, int decays) {
    float *restrict parameter = step->parameter;
    const float *restrict gradient = step->gradient;
    float *restrict square_avg = step->square_avg, *restrict acc_delta = step->acc_delta;
    const float sign = step->maximize ? -1.0f : 1.0f, weight_decay = step->weight_decay;
    const float rho = step->rho, rest = step->rest, eps = step->eps, rate = step->rate;
    for (int64_t k = from; k < to; k++) {
        const float slope = sign * gradient[k], g = decays ? slope + weight_decay * parameter[k] : slope;
        const float square = square_avg[k] * rho + rest * g * g;
        const float delta = sqrtf(acc_delta[k] + eps) / sqrtf(square + eps) * g;
        square_avg[k] = square;
        acc_delta[k] = acc_delta[k] * rho + rest * delta * delta;
        parameter[k] -= rate * delta;
    }
}

#define VERSION_OF(SUFFIX, TARGET) \
    TARGET static void some_##SUFFIX(const struct step *step, int64_t from, int64_t to) { \
        if (step->weight_decay != 0.0f) { \
            some(step, from, to, 1); \
        } else { \
            some(step, from, to, 0); \
        } \
    }

VERSION_OF(base, )
#if X86_VERSIONS
VERSION_OF(avx2, __attribute__((target("avx2"))))
VERSION_OF(avx512, __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq"))))
#endif

static void share(const struct step *step, int64_t from, int64_t to) {
#if X86_VERSIONS
    if (has_avx512()) {
        some_avx512(step, from, to);
        return;
    }
    if (__builtin_cpu_supports("avx2")) {
        some_avx2(step, from, to);
        return;
    }
#endif
    some_base(step, from, to);
}

EXPORT int stoker_adadelta_version(void) { return STOKER_ADADELTA_VERSION; }

/* One thread's share; without a team, all of it. */
EXPORT void stoker_adadelta(void *told) {
    const struct step *step = told;
    const int64_t members = step->members ? step->members() : 1, member = step->member ? step->member() : 0;
    const int64_t lines = (step->count + LINE - 1) / LINE, each = (lines + members - 1) / members * LINE;
    const int64_t from = member * each, to = from + each < step->count ? from + each : step->count;
    if (from < to) {
        share(step, from, to);
    }
}
