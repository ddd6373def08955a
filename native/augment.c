/* uint8 images to normalised batches: gather, crop, flip and normalise in one pass.
 *
 * No Python.h: plain exported functions that stoker/data/kernel.py loads with ctypes, which releases the GIL around each call.
 *
 * The number: out = float32 of the exact v * scale[c] + bias[c], rounded once; bfloat16 = that float32 rounded to nearest even.
 * Where the processor has a fused multiply-add this is `fmaf`; elsewhere it is read from a table of 256 values a channel.
 *
 * One body is compiled for several instruction sets and chosen at run time by __builtin_cpu_supports. (target_clones would do the same,
 * but needs ifunc, which musl lacks, and can then not be asked for one version by a test.)
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "compiler.h"

#define STOKER_AUGMENT_VERSION 1

#if defined(__FP_FAST_FMAF) || defined(__ARM_FEATURE_FMA) || defined(__aarch64__)
#define BASE_HAS_FMA 1
#else
#define BASE_HAS_FMA 0
#endif

enum { LEVEL_BEST = -1, LEVEL_TABLE = 0, LEVEL_BASE = 1, LEVEL_AVX2 = 2, LEVEL_AVX512 = 3 };
enum { SLACK = 16 }; /* bytes that a vector load or store may pass the end of a row */
enum { DONE = 0, BAD_INDEX = 1, BAD_OFFSET = 2, NO_MEMORY = 3, BAD_ARGUMENT = 4, NO_LEVEL = 5 };

struct batch {
    const uint8_t *pixels; /* [images, height, width, channels] */
    int64_t images, height, width, channels;
    const int64_t *index; /* [count] */
    int64_t count;
    const uint8_t *dy, *dx, *flip; /* [count] each, or NULL; 0 <= dy, dx <= 2 * padding */
    int64_t padding;
    int reflect;
    const float *scale_row, *bias_row; /* [width * channels]: the channel's numbers again and again */
    const float *scale, *bias;         /* [channels] */
    const float *table;                /* [channels, 256] */
    const uint16_t *table_bf16;        /* [channels, 256] */
    void *out;                         /* [count, channels, height, width] or [count, height, width, channels] */
    uint8_t *margin_row;               /* a row with `padding` pixels on either side, zero outside; SLACK behind it */
    const uint8_t *zero_row;           /* [width * channels] */
    uint8_t *flipped_row;              /* [width * channels], with SLACK before it */
};

/* --- a row of pixels ---------------------------------------------------------------------------------------------- */

typedef uint8_t bytes16 __attribute__((vector_size(16)));

INLINE bytes16 reversed_rgb(bytes16 v) {
    /* Five pixels in lanes 0..14 come out in reverse order in lanes 1..15. */
#if defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 12)
    return __builtin_shufflevector(v, v, 15, 12, 13, 14, 9, 10, 11, 6, 7, 8, 3, 4, 5, 0, 1, 2);
#else
    const bytes16 lanes = {15, 12, 13, 14, 9, 10, 11, 6, 7, 8, 3, 4, 5, 0, 1, 2};
    return __builtin_shuffle(v, lanes);
#endif
}

INLINE void reverse_rgb(const uint8_t *row, uint8_t *out, int64_t width) {
    int64_t x = 0;
    /* Reads one byte behind and writes one byte before the five pixels; the latter is overwritten by the pixels that follow. */
    for (; x + 5 <= width; x += 5) {
        bytes16 v;
        memcpy(&v, row + 3 * x, 16);
        v = reversed_rgb(v);
        memcpy(out + 3 * (width - 5 - x) - 1, &v, 16);
    }
    for (; x < width; x++) {
        memcpy(out + 3 * (width - 1 - x), row + 3 * x, 3);
    }
}

INLINE void reverse_grey(const uint8_t *row, uint8_t *out, int64_t width) {
    for (int64_t x = 0; x < width; x++) {
        out[width - 1 - x] = row[x];
    }
}

INLINE void fill_margins(const struct batch *b) {
    /* Reflect without repeating the edge: 3 2 1 | 0 1 2 3 | 2 1 0. */
    const int64_t channels = b->channels;
    uint8_t *row = b->margin_row + b->padding * channels;
    for (int64_t x = 1; x <= b->padding; x++) {
        memcpy(row - x * channels, row + x * channels, (size_t)channels);
        memcpy(row + (b->width - 1 + x) * channels, row + (b->width - 1 - x) * channels, (size_t)channels);
    }
}

INLINE const uint8_t *row_of(const struct batch *b, const uint8_t *image, int64_t y, int64_t dx, int flip) {
    const int64_t bytes = b->width * b->channels;
    if (b->reflect) {
        y = y < 0 ? -y : y >= b->height ? 2 * (b->height - 1) - y : y;
    } else if (y < 0 || y >= b->height) {
        return b->zero_row;
    }
    const uint8_t *row = image + y * bytes;
    if (dx != b->padding || flip) {
        memcpy(b->margin_row + b->padding * b->channels, row, (size_t)bytes);
        if (b->reflect) {
            fill_margins(b);
        }
        row = b->margin_row + dx * b->channels;
    }
    if (flip && b->channels == 3) {
        reverse_rgb(row, b->flipped_row, b->width);
        row = b->flipped_row;
    } else if (flip) {
        reverse_grey(row, b->flipped_row, b->width);
        row = b->flipped_row;
    }
    return row;
}

/* --- numbers ------------------------------------------------------------------------------------------------------ */

INLINE uint16_t bf16_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

INLINE void interleaved(const struct batch *b, const uint8_t *row, int64_t at, int fused, int bf16) {
    const int64_t n = b->width * b->channels;
    float *restrict out = (float *)b->out + (bf16 ? 0 : at);
    uint16_t *restrict out_bf16 = (uint16_t *)b->out + (bf16 ? at : 0);
    const float *restrict scale = b->scale_row, *restrict bias = b->bias_row;
    if (fused && bf16) {
        for (int64_t i = 0; i < n; i++) {
            out_bf16[i] = bf16_of(__builtin_fmaf((float)row[i], scale[i], bias[i]));
        }
    } else if (fused) {
        for (int64_t i = 0; i < n; i++) {
            out[i] = __builtin_fmaf((float)row[i], scale[i], bias[i]);
        }
    } else {
        for (int64_t x = 0, i = 0; x < b->width; x++) {
            for (int64_t c = 0; c < b->channels; c++, i++) {
                if (bf16) {
                    out_bf16[i] = b->table_bf16[256 * c + row[i]];
                } else {
                    out[i] = b->table[256 * c + row[i]];
                }
            }
        }
    }
}

INLINE void planar_rgb(const struct batch *b, const uint8_t *restrict row, int64_t at, int fused, int bf16) {
    const int64_t width = b->width, plane = b->height * b->width;
    if (fused) {
        const float s0 = b->scale[0], s1 = b->scale[1], s2 = b->scale[2], b0 = b->bias[0], b1 = b->bias[1], b2 = b->bias[2];
        if (bf16) {
            uint16_t *restrict o0 = (uint16_t *)b->out + at, *restrict o1 = o0 + plane, *restrict o2 = o1 + plane;
            for (int64_t x = 0; x < width; x++) {
                o0[x] = bf16_of(__builtin_fmaf((float)row[3 * x], s0, b0));
                o1[x] = bf16_of(__builtin_fmaf((float)row[3 * x + 1], s1, b1));
                o2[x] = bf16_of(__builtin_fmaf((float)row[3 * x + 2], s2, b2));
            }
        } else {
            float *restrict o0 = (float *)b->out + at, *restrict o1 = o0 + plane, *restrict o2 = o1 + plane;
            for (int64_t x = 0; x < width; x++) {
                o0[x] = __builtin_fmaf((float)row[3 * x], s0, b0);
                o1[x] = __builtin_fmaf((float)row[3 * x + 1], s1, b1);
                o2[x] = __builtin_fmaf((float)row[3 * x + 2], s2, b2);
            }
        }
    } else {
        for (int64_t c = 0; c < 3; c++) {
            for (int64_t x = 0; x < width; x++) {
                if (bf16) {
                    ((uint16_t *)b->out)[at + c * plane + x] = b->table_bf16[256 * c + row[3 * x + c]];
                } else {
                    ((float *)b->out)[at + c * plane + x] = b->table[256 * c + row[3 * x + c]];
                }
            }
        }
    }
}

INLINE void fill(const struct batch *b, int fused, int bf16, int planar) {
    const int64_t row_bytes = b->width * b->channels, image_bytes = b->height * row_bytes;
    for (int64_t i = 0; i < b->count; i++) {
        const uint8_t *image = b->pixels + b->index[i] * image_bytes;
        const uint8_t *next = b->pixels + b->index[i + 1 < b->count ? i + 1 : i] * image_bytes;
        const int64_t dy = b->dy ? b->dy[i] : b->padding, dx = b->dx ? b->dx[i] : b->padding;
        const int flip = b->flip ? b->flip[i] != 0 : 0;
        for (int64_t y = 0; y < b->height; y++) {
            const uint8_t *row = row_of(b, image, y + dy - b->padding, dx, flip);
            /* The order is random: without this every image starts with cache misses. */
            for (int64_t ahead = 0; ahead < row_bytes; ahead += 64) {
                PREFETCH(next + y * row_bytes + ahead);
            }
            if (planar) {
                planar_rgb(b, row, i * image_bytes + y * b->width, fused, bf16);
            } else {
                interleaved(b, row, i * image_bytes + y * row_bytes, fused, bf16);
            }
        }
    }
}

/* --- one body, several instruction sets --------------------------------------------------------------------------- */

#define VERSION(name, target, fused)                             \
    target static void name(const struct batch *b, int bf16, int planar) { \
        if (bf16 && planar) {                                    \
            fill(b, fused, 1, 1);                                \
        } else if (bf16) {                                       \
            fill(b, fused, 1, 0);                                \
        } else if (planar) {                                     \
            fill(b, fused, 0, 1);                                \
        } else {                                                 \
            fill(b, fused, 0, 0);                                \
        }                                                        \
    }

VERSION(fill_table, , 0)
#if BASE_HAS_FMA
VERSION(fill_base, , 1)
#endif
#if X86_VERSIONS
VERSION(fill_avx2, __attribute__((target("avx2,fma"))), 1)
VERSION(fill_avx512, __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma"))), 1)
#endif

EXPORT int stoker_augment_version(void) { return STOKER_AUGMENT_VERSION; }

/* The fastest level this processor has; levels are numbered as in the enumeration above. */
EXPORT int stoker_augment_level(void) {
#if X86_VERSIONS
    if (has_avx512() && __builtin_cpu_supports("fma")) {
        return LEVEL_AVX512;
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        return LEVEL_AVX2;
    }
#endif
    return BASE_HAS_FMA ? LEVEL_BASE : LEVEL_TABLE;
}

static int filled(const struct batch *b, int level, int bf16, int planar) {
    const int best = stoker_augment_level();
    if (level == LEVEL_BEST) {
        level = best;
    }
    if (level > best) {
        return NO_LEVEL;
    }
    switch (level) {
    case LEVEL_TABLE: fill_table(b, bf16, planar); return DONE;
#if BASE_HAS_FMA
    case LEVEL_BASE: fill_base(b, bf16, planar); return DONE;
#endif
#if X86_VERSIONS
    case LEVEL_AVX2: fill_avx2(b, bf16, planar); return DONE;
    case LEVEL_AVX512: fill_avx512(b, bf16, planar); return DONE;
#endif
    default: return NO_LEVEL;
    }
}

static int check(const struct batch *b) {
    if (b->images < 0 || b->count < 0 || b->height < 1 || b->width < 1 || (b->channels != 1 && b->channels != 3) || b->padding < 0 ||
        b->padding > 127 || (b->reflect && (b->padding >= b->height || b->padding >= b->width))) {
        return BAD_ARGUMENT;
    }
    for (int64_t i = 0; i < b->count; i++) {
        if (b->index[i] < 0 || b->index[i] >= b->images) {
            return BAD_INDEX;
        }
        if ((b->dy && b->dy[i] > 2 * b->padding) || (b->dx && b->dx[i] > 2 * b->padding)) {
            return BAD_OFFSET;
        }
    }
    return DONE;
}

/* Fill `out` with images `index` of `pixels`. The caller answers for the sizes of the arrays; index and offsets are checked here.
 * dy, dx, flip may be NULL (no offset, no flip). Returns 0, or the number of what is wrong as in the enumeration above. */
EXPORT int stoker_augment(const uint8_t *pixels, int64_t images, int64_t height, int64_t width, int64_t channels, const int64_t *index,
                          int64_t count, const uint8_t *dy, const uint8_t *dx, const uint8_t *flip, int64_t padding, int reflect,
                          const float *scale, const float *bias, const float *table, const uint16_t *table_bf16, void *out, int bf16,
                          int channels_last, int level) {
    struct batch b = {.pixels = pixels, .images = images, .height = height, .width = width, .channels = channels, .index = index,
                      .count = count, .dy = dy, .dx = dx, .flip = flip, .padding = padding, .reflect = reflect, .scale = scale,
                      .bias = bias, .table = table, .table_bf16 = table_bf16, .out = out};
    int wrong = check(&b);
    if (wrong != DONE || count == 0) {
        return wrong;
    }
    const size_t n = (size_t)(width * channels), margins = (size_t)(2 * padding * channels);
    float *numbers = malloc(2 * n * sizeof(float));
    uint8_t *rows = calloc(1, 3 * n + margins + 2 * SLACK);
    if (numbers && rows) {
        for (size_t i = 0; i < n; i++) {
            numbers[i] = scale[i % (size_t)channels];
            numbers[n + i] = bias[i % (size_t)channels];
        }
        b.scale_row = numbers;
        b.bias_row = numbers + n;
        b.zero_row = rows;
        b.margin_row = rows + n;
        b.flipped_row = rows + 2 * n + margins + 2 * SLACK;
        wrong = filled(&b, level, bf16, channels == 3 && !channels_last);
    } else {
        wrong = NO_MEMORY;
    }
    free(rows);
    free(numbers);
    return wrong;
}
