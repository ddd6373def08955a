/* Dropout in one pass with torch's very random numbers: torch.Generator's Mersenne Twister, drawn in blocks instead of word by word.
 *
 * Without MKL (every processor that is not Intel's) torch draws a mask one value after the other, 7 ns each, on one thread; here it is drawn, scaled
 * and multiplied a block at a time. The mask is kept as a byte a value.
 *
 * No Python.h: plain exported functions that stoker/boost/models/dropout.py loads with ctypes, which releases the GIL around each call.
 */
#include <stdint.h>
#include <string.h>

#include "compiler.h"

#define STOKER_DROPOUT_VERSION 1

enum { WORDS = 624, MIDDLE = 397 };

/* The beginning of CPUGeneratorImplState (aten/src/ATen/CPUGeneratorImpl.cpp). */
struct state {
    uint64_t seed;
    int32_t left; /* words to the next turn, and one */
    int32_t seeded;
    uint64_t next;
    uint64_t key[WORDS];
};

INLINE uint32_t twisted(uint32_t a, uint32_t b) {
    const uint32_t y = (a & 0x80000000u) | (b & 0x7fffffffu);
    return (y >> 1) ^ ((b & 1) ? 0x9908b0dfu : 0);
}

/* The next 624 words of the key. In pieces within which no word hangs on another one of the same piece, so that they can be vectors. */
INLINE void turn(uint32_t *restrict key) {
    uint32_t before[WORDS + 1];
    memcpy(before, key, sizeof(uint32_t) * WORDS);
    for (int k = 0; k < WORDS - MIDDLE; k++) {
        key[k] = before[k + MIDDLE] ^ twisted(before[k], before[k + 1]);
    }
    before[WORDS] = key[0];
    uint32_t fresh[WORDS];
    memcpy(fresh, key, sizeof(uint32_t) * (WORDS - MIDDLE));
    for (int k = WORDS - MIDDLE; k < 2 * (WORDS - MIDDLE); k++) {
        key[k] = fresh[k - (WORDS - MIDDLE)] ^ twisted(before[k], before[k + 1]);
    }
    memcpy(fresh, key, sizeof(uint32_t) * 2 * (WORDS - MIDDLE));
    for (int k = 2 * (WORDS - MIDDLE); k < WORDS; k++) {
        key[k] = fresh[k - (WORDS - MIDDLE)] ^ twisted(before[k], before[k + 1]);
    }
}

INLINE void temper(const uint32_t *restrict key, uint32_t *restrict words, int count) {
    for (int k = 0; k < count; k++) {
        uint32_t y = key[k];
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c5680u;
        y ^= (y << 15) & 0xefc60000u;
        words[k] = y ^ (y >> 18);
    }
}

/* A value is kept when 53 bits of two words, as a fraction, are below the probability: limit is that times 2^53, rounded up. */
INLINE void choose(const uint32_t *restrict words, uint8_t *restrict kept, uint64_t limit, int count) {
    for (int k = 0; k < count; k++) {
        const uint64_t drawn = ((uint64_t)(words[2 * k] & 0x1fffffu) << 32) | words[2 * k + 1];
        kept[k] = drawn < limit;
    }
}

INLINE float of_bf16(uint16_t bits) {
    union { uint32_t bits; float value; } number = {(uint32_t)bits << 16};
    return number.value;
}

INLINE uint16_t to_bf16(float value) {
    union { float value; uint32_t bits; } number = {value};
    const uint32_t rounded = (number.bits + 0x7fffu + ((number.bits >> 16) & 1)) >> 16;
    return (uint16_t)(value != value ? 0x7fc0u : rounded);
}

/* A product with 0 and not a choice: infinity and NaN become NaN, and -1 becomes -0, as in torch. */
INLINE void multiply(const void *in, const uint8_t *restrict kept, void *out, float scale, int bf16, int64_t from, int64_t count) {
    const uint8_t *restrict flags = kept + from;
    if (bf16) {
        const uint16_t *restrict values = (const uint16_t *)in + from;
        uint16_t *restrict products = (uint16_t *)out + from;
        for (int64_t k = 0; k < count; k++) {
            products[k] = to_bf16(of_bf16(values[k]) * (flags[k] ? scale : 0.0f));
        }
    } else {
        const float *restrict values = (const float *)in + from;
        float *restrict products = (float *)out + from;
        for (int64_t k = 0; k < count; k++) {
            products[k] = values[k] * (flags[k] ? scale : 0.0f);
        }
    }
}

/* Returns the words of the last turn that are left over. */
INLINE int walk(uint32_t *key, int at, const void *in, uint8_t *kept, void *out, int64_t count, uint64_t limit, float scale, int bf16) {
    uint32_t words[WORDS + 1];
    int have = WORDS - at;
    temper(key + at, words, have);
    for (int64_t done = 0;;) {
        const int take = count - done < have / 2 ? (int)(count - done) : have / 2;
        choose(words, kept + done, limit, take);
        multiply(in, kept, out, scale, bf16, done, take);
        done += take;
        if (done == count) {
            return have - 2 * take;
        }
        const int odd = have & 1; /* a pair may begin in one turn and end in the next */
        words[0] = words[have - odd];
        turn(key);
        temper(key, words + odd, WORDS);
        have = WORDS + odd;
    }
}

#define VERSION_OF(SUFFIX, TARGET) \
    TARGET static int forward_##SUFFIX(uint32_t *key, int at, const void *in, uint8_t *kept, void *out, int64_t count, uint64_t limit, float scale, int bf16) { \
        return walk(key, at, in, kept, out, count, limit, scale, bf16); \
    } \
    TARGET static void backward_##SUFFIX(const void *grad, const uint8_t *kept, void *out, int64_t count, float scale, int bf16) { \
        multiply(grad, kept, out, scale, bf16, 0, count); \
    }

VERSION_OF(base, )
#if X86_VERSIONS
VERSION_OF(avx2, __attribute__((target("avx2"))))
VERSION_OF(avx512, __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq"))))
#endif

static int forward(uint32_t *key, int at, const void *in, uint8_t *kept, void *out, int64_t count, uint64_t limit, float scale, int bf16) {
#if X86_VERSIONS
    if (has_avx512()) {
        return forward_avx512(key, at, in, kept, out, count, limit, scale, bf16);
    }
    if (__builtin_cpu_supports("avx2")) {
        return forward_avx2(key, at, in, kept, out, count, limit, scale, bf16);
    }
#endif
    return forward_base(key, at, in, kept, out, count, limit, scale, bf16);
}

EXPORT int stoker_dropout_version(void) { return STOKER_DROPOUT_VERSION; }

/* Draws from the state as torch's bernoulli_ would, and leaves it where that would. Returns 0; 1 when the state is not laid out as known: then
 * nothing was done. */
EXPORT int stoker_dropout_forward(void *memory, const void *in, uint8_t *kept, void *out, int64_t count, uint64_t limit, float scale, int bf16) {
    struct state *state = memory;
    if (count <= 0 || state->seeded != 1 || state->left < 1 || state->left > WORDS || (state->left > 1 && state->next + (uint64_t)state->left != WORDS + 1)) {
        return 1;
    }
    uint32_t key[WORDS];
    for (int k = 0; k < WORDS; k++) {
        key[k] = (uint32_t)state->key[k];
    }
    const int at = WORDS + 1 - state->left;
    const int over = forward(key, at, in, kept, out, count, limit, scale, bf16);
    for (int k = 0; k < WORDS; k++) {
        state->key[k] = key[k];
    }
    state->left = over + 1;
    state->next = (uint64_t)(WORDS - over);
    return 0;
}

EXPORT void stoker_dropout_backward(const void *grad, const uint8_t *kept, void *out, int64_t count, float scale, int bf16) {
#if X86_VERSIONS
    if (has_avx512()) {
        backward_avx512(grad, kept, out, count, scale, bf16);
        return;
    }
    if (__builtin_cpu_supports("avx2")) {
        backward_avx2(grad, kept, out, count, scale, bf16);
        return;
    }
#endif
    backward_base(grad, kept, out, count, scale, bf16);
}
