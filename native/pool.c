/* 2x2 max pool, alone or with ReLU, in one pass over channels_last memory, forward and backward, with torch's numbers.
 *
 * torch keeps an int64 index a value, fills the gradient with zeros and then scatters into it, and goes over everything again for ReLU. Here a
 * byte a value says which of the four was the largest, and every gradient is written once.
 *
 * No Python.h: plain exported functions that stoker/pool.py loads with ctypes, which releases the GIL around each call.
 */
#include <stdint.h>

#include "compiler.h"

#define STOKER_POOL_VERSION 2

enum { NONE = 4 }; /* ReLU let nothing through: no gradient */

INLINE float of_bf16(uint16_t bits) {
    union { uint32_t bits; float value; } number = {(uint32_t)bits << 16};
    return number.value;
}

INLINE float of_f32(float value) { return value; }

/* Backward in blocks of a constant number of channels: gcc vectorises a loop of unknown length for 64 of them, and does 32 one by one. */
enum { BLOCK = 32 };

/* The first of the largest wins, and a NaN wins over everything, as in torch's max_pool2d. A NaN also passes ReLU, as in torch. */
#define FORWARD(NAME, TYPE, FLOAT) \
    INLINE void NAME##_some(const TYPE *restrict a, const TYPE *restrict a1, const TYPE *restrict b, const TYPE *restrict b1, TYPE *restrict out, uint8_t *restrict which, int relu, int count) { \
        for (int c = 0; c < count; c++) { \
            TYPE most = a[c]; \
            float m = FLOAT(most); \
            uint8_t place = 0; \
            const TYPE v1 = a1[c], v2 = b[c], v3 = b1[c]; \
            const float f1 = FLOAT(v1), f2 = FLOAT(v2), f3 = FLOAT(v3); \
            int wins = (f1 > m) | (f1 != f1); \
            most = wins ? v1 : most; m = wins ? f1 : m; place = wins ? 1 : place; \
            wins = (f2 > m) | (f2 != f2); \
            most = wins ? v2 : most; m = wins ? f2 : m; place = wins ? 2 : place; \
            wins = (f3 > m) | (f3 != f3); \
            most = wins ? v3 : most; m = wins ? f3 : m; place = wins ? 3 : place; \
            const int stops = relu & (m <= 0); \
            out[c] = stops ? (TYPE)0 : most; \
            which[c] = stops ? NONE : place; \
        } \
    } \
    INLINE void NAME(const TYPE *a, const TYPE *b, TYPE *out, uint8_t *which, int relu, int64_t channels) { \
        NAME##_some(a, a + channels, b, b + channels, out, which, relu, (int)channels); \
    }

#define BACKWARD(NAME, TYPE) \
    INLINE void NAME##_some(const TYPE *restrict grad, const uint8_t *restrict which, TYPE *restrict a, TYPE *restrict a1, TYPE *restrict b, TYPE *restrict b1, int count) { \
        for (int c = 0; c < count; c++) { \
            const TYPE g = grad[c]; \
            const uint8_t place = which[c]; \
            a[c] = place == 0 ? g : (TYPE)0; \
            a1[c] = place == 1 ? g : (TYPE)0; \
            b[c] = place == 2 ? g : (TYPE)0; \
            b1[c] = place == 3 ? g : (TYPE)0; \
        } \
    } \
    INLINE void NAME(const TYPE *grad, const uint8_t *which, TYPE *a, TYPE *b, int64_t channels) { \
        int64_t c = 0; \
        for (; c + BLOCK <= channels; c += BLOCK) { \
            NAME##_some(grad + c, which + c, a + c, a + channels + c, b + c, b + channels + c, BLOCK); \
        } \
        NAME##_some(grad + c, which + c, a + c, a + channels + c, b + c, b + channels + c, (int)(channels - c)); \
    }

FORWARD(forward_bf16, uint16_t, of_bf16)
FORWARD(forward_f32, float, of_f32)
BACKWARD(backward_bf16, uint16_t)
BACKWARD(backward_f32, float)

/* Rows of windows: [rows = images * height / 2] rows of two input rows each; all sizes were checked by the caller. */
#define WALK(CALL_BF16, CALL_F32) \
    for (int64_t row = 0; row < rows; row++) { \
        const int64_t above = 2 * row * width * channels, below = above + width * channels; \
        for (int64_t x = 0; x < width / 2; x++) { \
            const int64_t left = 2 * x * channels, at = (row * (width / 2) + x) * channels; \
            if (bf16) { \
                CALL_BF16; \
            } else { \
                CALL_F32; \
            } \
        } \
    }

INLINE void forward(const void *in, void *out, uint8_t *which, int64_t rows, int64_t width, int64_t channels, int bf16, int relu) {
    const uint16_t *in16 = in;
    const float *in32 = in;
    WALK(forward_bf16(in16 + above + left, in16 + below + left, (uint16_t *)out + at, which + at, relu, channels),
         forward_f32(in32 + above + left, in32 + below + left, (float *)out + at, which + at, relu, channels))
}

INLINE void backward(const void *grad, const uint8_t *which, void *in, int64_t rows, int64_t width, int64_t channels, int bf16) {
    uint16_t *in16 = in;
    float *in32 = in;
    WALK(backward_bf16((const uint16_t *)grad + at, which + at, in16 + above + left, in16 + below + left, channels),
         backward_f32((const float *)grad + at, which + at, in32 + above + left, in32 + below + left, channels))
}

#define VERSION_OF(SUFFIX, TARGET) \
    TARGET static void forward_##SUFFIX(const void *in, void *out, uint8_t *which, int64_t rows, int64_t width, int64_t channels, int bf16, int relu) { \
        forward(in, out, which, rows, width, channels, bf16, relu); \
    } \
    TARGET static void backward_##SUFFIX(const void *grad, const uint8_t *which, void *in, int64_t rows, int64_t width, int64_t channels, int bf16) { \
        backward(grad, which, in, rows, width, channels, bf16); \
    }

VERSION_OF(base, )
#if X86_VERSIONS
VERSION_OF(avx2, __attribute__((target("avx2"))))
VERSION_OF(avx512, __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq"))))
#endif

EXPORT int stoker_pool_version(void) { return STOKER_POOL_VERSION; }

EXPORT void stoker_pool_forward(const void *in, void *out, uint8_t *which, int64_t rows, int64_t width, int64_t channels, int bf16, int relu) {
#if X86_VERSIONS
    if (has_avx512()) {
        forward_avx512(in, out, which, rows, width, channels, bf16, relu);
        return;
    }
    if (__builtin_cpu_supports("avx2")) {
        forward_avx2(in, out, which, rows, width, channels, bf16, relu);
        return;
    }
#endif
    forward_base(in, out, which, rows, width, channels, bf16, relu);
}

EXPORT void stoker_pool_backward(const void *grad, const uint8_t *which, void *in, int64_t rows, int64_t width, int64_t channels, int bf16) {
#if X86_VERSIONS
    if (has_avx512()) {
        backward_avx512(grad, which, in, rows, width, channels, bf16);
        return;
    }
    if (__builtin_cpu_supports("avx2")) {
        backward_avx2(grad, which, in, rows, width, channels, bf16);
        return;
    }
#endif
    backward_base(grad, which, in, rows, width, channels, bf16);
}
