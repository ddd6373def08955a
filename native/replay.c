/* Whole batches for `stoker boost`: gather, pad, crop, flip and look up in one pass; and one image looked up.
 *
 * No Python.h: plain exported functions that stoker/boost/replay/kernel.py loads with ctypes, which releases the GIL around each call.
 *
 * Nothing is computed here. Every number of the output is read from a table of 256 values a channel that the user's own transforms have made,
 * or from the table of fill values: the bits are theirs, whatever the processor. The elements of the tables have 1, 2, 4 or 8 bytes.
 *
 * Where a pixel comes from is said by two maps, the source row of every output row and the source column of every output column: any
 * composition of pads, crops and flips is of that kind. A negative entry -1 - k means fill value k; where the row and the column both say
 * one, the smaller entry counts, which is the padding that came later. All maps that a pipeline can draw lie in two tables; each image has
 * a code for its row map and one for its column map.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "compiler.h"

#define STOKER_REPLAY_VERSION 1

enum { DONE = 0, BAD_INDEX = 1, BAD_MAP = 2, BAD_PLACE = 3, BAD_ARGUMENT = 4 };
enum { MAX_CHANNELS = 8 };

struct batch {
    const uint8_t *pixels;
    int64_t images, height, width, channels;                              /* of the source */
    int64_t image_stride, row_stride, column_stride, channel_stride;      /* bytes */
    int64_t out_height, out_width, out_channels;
    const int64_t *index;                                                 /* [count] */
    const int64_t *place;                                                 /* [count], rows of out; NULL: 0, 1, 2, ... */
    int64_t count, out_count;
    const int16_t *rows, *columns;                                        /* [row_maps, out_height], [column_maps, out_width] */
    int64_t row_maps, column_maps;
    const int64_t *row_code, *column_code;                                /* [count]: which map; NULL: the first for all */
    const int32_t *from;                                                  /* [out_channels]: the source channel of each */
    const void *table;                                                    /* [out_channels, 256] */
    const void *fills;                                                    /* [fill_count, out_channels] */
    int64_t fill_count;
    void *out;                                                            /* [out_count, out_channels, out_height, out_width] */
};

INLINE const int16_t *row_map(const struct batch *b, int64_t i) { return b->rows + (b->row_code ? b->row_code[i] : 0) * b->out_height; }

INLINE const int16_t *column_map(const struct batch *b, int64_t i) { return b->columns + (b->column_code ? b->column_code[i] : 0) * b->out_width; }

/* The columns of one image, as a left margin, a run of neighbouring pixels in either direction, and a right margin. */
struct run {
    int64_t start, stop; /* output columns of the run; start == stop: nothing but fill */
    int64_t first;       /* source column of the first */
    int64_t step;        /* 1 or -1; 0: no such run, every column is looked at by itself */
};

static struct run run_of(const int16_t *columns, int64_t width) {
    struct run r = {0, width, 0, 1};
    while (r.start < width && columns[r.start] < 0) {
        r.start++;
    }
    while (r.stop > r.start && columns[r.stop - 1] < 0) {
        r.stop--;
    }
    if (r.start == r.stop) {
        return r;
    }
    r.first = columns[r.start];
    if (r.stop - r.start > 1 && columns[r.start + 1] == r.first - 1) {
        r.step = -1;
    }
    for (int64_t x = r.start; x < r.stop; x++) {
        if (columns[x] != r.first + r.step * (x - r.start)) {
            r.step = 0;
            return r;
        }
    }
    return r;
}

/* --- rows of pixels, for elements of one size --------------------------------------------------------------------- */

#define ROWS(T, name)                                                                                                                             \
    INLINE void looked_up_##name(T *restrict out, const T *restrict table, const uint8_t *restrict from, int64_t step, int64_t n) {               \
        for (int64_t x = 0; x < n; x++) {                                                                                                         \
            out[x] = table[from[x * step]];                                                                                                       \
        }                                                                                                                                         \
    }                                                                                                                                             \
                                                                                                                                                  \
    INLINE void three_##name(T *restrict out, int64_t plane, const T *restrict table, const uint8_t *restrict from, int64_t step, int64_t n) {    \
        T *restrict o0 = out, *restrict o1 = out + plane, *restrict o2 = out + 2 * plane;                                                         \
        for (int64_t x = 0; x < n; x++) {                                                                                                         \
            o0[x] = table[from[x * step]];                                                                                                        \
            o1[x] = table[256 + from[x * step + 1]];                                                                                              \
            o2[x] = table[512 + from[x * step + 2]];                                                                                              \
        }                                                                                                                                         \
    }                                                                                                                                             \
                                                                                                                                                  \
    static void run_##name(const struct batch *b, T *restrict out, const uint8_t *from, int64_t step, int64_t n) {                                \
        const T *restrict table = b->table;                                                                                                       \
        const int64_t plane = b->out_height * b->out_width;                                                                                       \
        if (b->out_channels == 3 && b->channel_stride == 1 && b->from[0] == 0 && b->from[1] == 1 && b->from[2] == 2) {                            \
            if (step == 3) {                                                                                                                      \
                three_##name(out, plane, table, from, 3, n);                                                                                      \
            } else if (step == -3) {                                                                                                              \
                three_##name(out, plane, table, from, -3, n);                                                                                     \
            } else {                                                                                                                              \
                three_##name(out, plane, table, from, step, n);                                                                                   \
            }                                                                                                                                     \
            return;                                                                                                                               \
        }                                                                                                                                         \
        for (int64_t c = 0; c < b->out_channels; c++) {                                                                                           \
            const uint8_t *start = from + b->from[c] * b->channel_stride;                                                                         \
            if (step == 1) {                                                                                                                      \
                looked_up_##name(out + c * plane, table + 256 * c, start, 1, n);                                                                  \
            } else if (step == -1) {                                                                                                              \
                looked_up_##name(out + c * plane, table + 256 * c, start, -1, n);                                                                 \
            } else {                                                                                                                              \
                looked_up_##name(out + c * plane, table + 256 * c, start, step, n);                                                               \
            }                                                                                                                                     \
        }                                                                                                                                         \
    }                                                                                                                                             \
                                                                                                                                                  \
    INLINE void filled_##name(const struct batch *b, T *restrict out, int64_t start, int64_t stop, const int16_t *columns, int row) {             \
        const T *restrict fills = b->fills;                                                                                                       \
        const int64_t plane = b->out_height * b->out_width;                                                                                       \
        for (int64_t x = start; x < stop; x++) {                                                                                                  \
            const int64_t k = -1 - (int64_t)(columns[x] < row ? columns[x] : row);                                                                \
            for (int64_t c = 0; c < b->out_channels; c++) {                                                                                       \
                out[c * plane + x] = fills[k * b->out_channels + c];                                                                              \
            }                                                                                                                                     \
        }                                                                                                                                         \
    }                                                                                                                                             \
                                                                                                                                                  \
    INLINE void one_by_one_##name(const struct batch *b, T *restrict out, const uint8_t *from, const int16_t *columns) {                          \
        const T *restrict table = b->table;                                                                                                       \
        const int64_t plane = b->out_height * b->out_width;                                                                                       \
        for (int64_t x = 0; x < b->out_width; x++) {                                                                                              \
            if (columns[x] < 0) {                                                                                                                 \
                filled_##name(b, out, x, x + 1, columns, 0);                                                                                      \
                continue;                                                                                                                         \
            }                                                                                                                                     \
            const uint8_t *pixel = from + columns[x] * b->column_stride;                                                                          \
            for (int64_t c = 0; c < b->out_channels; c++) {                                                                                       \
                out[c * plane + x] = table[256 * c + pixel[b->from[c] * b->channel_stride]];                                                      \
            }                                                                                                                                     \
        }                                                                                                                                         \
    }                                                                                                                                             \
                                                                                                                                                  \
    static void images_##name(const struct batch *b) {                                                                                            \
        const int64_t out_image = b->out_channels * b->out_height * b->out_width, share = b->image_stride / b->out_height;                        \
        for (int64_t i = 0; i < b->count; i++) {                                                                                                  \
            const uint8_t *image = b->pixels + b->index[i] * b->image_stride;                                                                     \
            const uint8_t *next = b->pixels + b->index[i + 1 < b->count ? i + 1 : i] * b->image_stride;                                           \
            const int16_t *rows = row_map(b, i), *columns = column_map(b, i);                                    \
            const struct run r = run_of(columns, b->out_width);                                                                                   \
            T *out = (T *)b->out + (b->place ? b->place[i] : i) * out_image;                                                                      \
            for (int64_t y = 0; y < b->out_height; y++, out += b->out_width) {                                                                    \
                /* The order is random: without this every image starts with cache misses. */                                                     \
                for (int64_t ahead = 0; ahead < share; ahead += 64) {                                                                             \
                    PREFETCH(next + y * share + ahead);                                                                                           \
                }                                                                                                                                 \
                const uint8_t *from = image + rows[y] * b->row_stride;                                                                            \
                if (rows[y] < 0) {                                                                                                                \
                    /* A real column is never less than a fill. */                                                                                \
                    filled_##name(b, out, 0, b->out_width, columns, rows[y]);                                                                     \
                } else if (r.step == 0) {                                                                                                         \
                    one_by_one_##name(b, out, from, columns);                                                                                     \
                } else {                                                                                                                          \
                    filled_##name(b, out, 0, r.start, columns, 0);                                                                                \
                    run_##name(b, out + r.start, from + r.first * b->column_stride, r.step * b->column_stride, r.stop - r.start);                 \
                    filled_##name(b, out, r.stop, b->out_width, columns, 0);                                                                      \
                }                                                                                                                                 \
            }                                                                                                                                     \
        }                                                                                                                                         \
    }

ROWS(uint8_t, bytes1)
ROWS(uint16_t, bytes2)
ROWS(uint32_t, bytes4)
ROWS(uint64_t, bytes8)

/* --- what is asked must lie inside what is there ------------------------------------------------------------------ */

static int map_is_good(const int16_t *map, int64_t n, int64_t size, int64_t fill_count) {
    int bad = 0;
    for (int64_t k = 0; k < n; k++) {
        bad |= map[k] >= size || map[k] < -fill_count;
    }
    return !bad;
}

static int check(const struct batch *b) {
    if (b->images < 0 || b->count < 0 || b->height < 1 || b->width < 1 || b->height > INT16_MAX || b->width > INT16_MAX || b->channels < 1 ||
        b->out_height < 1 || b->out_width < 1 || b->out_channels < 1 || b->out_channels > MAX_CHANNELS || b->fill_count < 0 ||
        b->fill_count > INT16_MAX || b->row_maps < 1 || b->column_maps < 1) {
        return BAD_ARGUMENT;
    }
    for (int64_t c = 0; c < b->out_channels; c++) {
        if (b->from[c] < 0 || b->from[c] >= b->channels) {
            return BAD_ARGUMENT;
        }
    }
    for (int64_t i = 0; i < b->count; i++) {
        const int64_t place = b->place ? b->place[i] : i;
        if (b->index[i] < 0 || b->index[i] >= b->images) {
            return BAD_INDEX;
        }
        if (place < 0 || place >= b->out_count) {
            return BAD_PLACE;
        }
        if ((b->row_code && (b->row_code[i] < 0 || b->row_code[i] >= b->row_maps)) ||
            (b->column_code && (b->column_code[i] < 0 || b->column_code[i] >= b->column_maps)) ||
            ((i == 0 || b->row_code) && !map_is_good(row_map(b, i), b->out_height, b->height, b->fill_count)) ||
            ((i == 0 || b->column_code) && !map_is_good(column_map(b, i), b->out_width, b->width, b->fill_count))) {
            return BAD_MAP;
        }
    }
    return DONE;
}

static int done(const struct batch *b, int64_t bytes) {
    const int wrong = check(b);
    if (wrong != DONE) {
        return wrong;
    }
    switch (bytes) {
    case 1: images_bytes1(b); return DONE;
    case 2: images_bytes2(b); return DONE;
    case 4: images_bytes4(b); return DONE;
    case 8: images_bytes8(b); return DONE;
    default: return BAD_ARGUMENT;
    }
}

/* --- doors -------------------------------------------------------------------------------------------------------- */

EXPORT int stoker_replay_version(void) { return STOKER_REPLAY_VERSION; }

/* Fill `out` with images `index`. `sizes`: images, height, width, channels of the source; its strides in bytes from image to image, row to
 * row, column to column, channel to channel; height, width and channels of an output image; row_maps, column_maps. The caller answers for the
 * sizes of the arrays; index, place, codes and the maps they mean are checked here, before anything is written. Returns 0, or the number of
 * what is wrong as in the enumeration above. */
EXPORT int stoker_replay(const uint8_t *pixels, const int64_t *sizes, const int64_t *index, const int64_t *place, int64_t count,
                         int64_t out_count, const int16_t *rows, const int64_t *row_code, const int16_t *columns, const int64_t *column_code,
                         const int32_t *from, const void *table, const void *fills, int64_t fill_count, int64_t bytes, void *out) {
    const struct batch b = {.pixels = pixels, .images = sizes[0], .height = sizes[1], .width = sizes[2], .channels = sizes[3],
                            .image_stride = sizes[4], .row_stride = sizes[5], .column_stride = sizes[6], .channel_stride = sizes[7],
                            .out_height = sizes[8], .out_width = sizes[9], .out_channels = sizes[10], .row_maps = sizes[11],
                            .column_maps = sizes[12], .index = index, .place = place, .count = count, .out_count = out_count, .rows = rows,
                            .row_code = row_code, .columns = columns, .column_code = column_code, .from = from, .table = table, .fills = fills,
                            .fill_count = fill_count, .out = out};
    return done(&b, bytes);
}

/* One image [height, width, channels] of bytes to planes [channels, height, width] of `bytes` wide elements out of `table` [channels, 256]. */
EXPORT int stoker_lookup(const uint8_t *pixels, int64_t height, int64_t width, int64_t channels, const void *table, int64_t bytes, void *out) {
    if (height < 1 || width < 1 || channels < 1 || channels > MAX_CHANNELS || height > INT64_MAX / width) {
        return BAD_ARGUMENT;
    }
    const int32_t from[MAX_CHANNELS] = {0, 1, 2, 3, 4, 5, 6, 7};
    /* The whole image is one long row. */
    const struct batch b = {.out_height = 1, .out_width = height * width, .out_channels = channels, .channel_stride = 1, .from = from,
                            .table = table};
    switch (bytes) {
    case 1: run_bytes1(&b, out, pixels, channels, height * width); return DONE;
    case 2: run_bytes2(&b, out, pixels, channels, height * width); return DONE;
    case 4: run_bytes4(&b, out, pixels, channels, height * width); return DONE;
    case 8: run_bytes8(&b, out, pixels, channels, height * width); return DONE;
    default: return BAD_ARGUMENT;
    }
}
