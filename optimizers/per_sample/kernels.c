/* Sums over samples of a convolution and of batch norm, for CPUs with matrix units (Intel AMX).

   A float32 number is taken as the sum of two in bfloat16, high and low, and a product of two numbers as three
   products of these, or all four; sums are kept in float32. So some 2^-16 of a product is lost, and a matrix unit
   makes several times as many products a second as the vector units. It multiplies tiles, (16, 32) times (32, 16);
   in the second the lines 2k and 2k + 1 stand in pairs, number by number.

   A row of a sample is summed over places for one kernel's tap and (16, 16) channels at a time. Rows are kept for
   some taps of all samples, multiplied with each other, and written over. What fills up a block of 16 samples is
   never read. */

#include <immintrin.h>
#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef uint16_t bf16;
enum {
    SIDE = 16,                  /* rows, and columns, of a tile of sums */
    DEPTH = 32,                 /* products that are summed in one go */
    TILE = SIDE * DEPTH,        /* bfloat16 numbers of a tile */
    SUMS = SIDE * SIDE,         /* float32 numbers of a tile */
    TAPS = 5,                   /* taps whose sums stand in registers at a time */
    PAGE = 4096,
    KEPT = 18 * 64,             /* tiles of rows that are kept at a time: they fit into a core's cache */
    PANEL = 32,                 /* tiles deep that products of rows are summed in registers */
    AHEAD = 1024,               /* numbers from here are asked for early: a CPU's own guesses end with a page */
    APART = TILE + 32,          /* distance of tiles of rows: cache lines of neighbours do not displace each other */
    REQUEST = 0x1023, DATA = 18 /* arch_prctl's ARCH_REQ_XCOMP_PERM and XFEATURE_XTILEDATA */
};

typedef struct {
    long samples, inputs, outputs, height, width, out_height, out_width;
    long kernel[2], stride[2], padding[2], dilation[2];
    long threads;
} Convolution;

/* What was written stands in memory; some compilers do not see that a tile is loaded from there. */
#define WRITTEN __asm__ volatile("" ::: "memory")

/* How numbers lie. Images are split into stride x stride phases, in each of which the stride is 1. */
typedef struct {
    Convolution of;
    const float *x, *dy; /* (samples, inputs, height, width), (samples, outputs, out_height, out_width) */
    long line;         /* places from one line of an image to the next, the same in x and dy */
    long places;       /* products per sum: the places of dy, filled up with zeros */
    long plane;        /* places of a phase of x, an odd number of tiles */
    long phases, taps, parts; /* parts are (block of inputs, block of outputs, tap) */
    long blocks;       /* of samples */
    long *starts;      /* the first number that each tap sees, of a thread's tiles of pairs */
    uint8_t *uses;     /* by each phase: 1 of even pairs, 2 of odd ones */
    bf16 *rows[2];     /* (blocks, tiles of columns, SIDE samples, DEPTH), high and low */
} Plan;

static long up(long n, long multiple) { return (n + multiple - 1) / multiple * multiple; }

static void configure(void) {
    struct { uint8_t palette, start, rest[14]; uint16_t bytes[16]; uint8_t rows[16]; } tiles = {.palette = 1};
    for (int t = 0; t < 8; t++) tiles.bytes[t] = 64, tiles.rows[t] = SIDE;
    _tile_loadconfig(&tiles);
}

static inline __m512 widened(__m256i t) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(t), 16));
}

static inline void split(__m512 v, __m256i *high, __m256i *low) {
    *high = (__m256i)_mm512_cvtneps_pbh(v);
    *low = (__m256i)_mm512_cvtneps_pbh(_mm512_sub_ps(v, widened(*high)));
}

static inline void split_both(__m512 a, __m512 b, bf16 *high, bf16 *low) {
    __m512i h = (__m512i)_mm512_cvtne2ps_pbh(b, a);
    __m512 rest_a = _mm512_sub_ps(a, widened(_mm512_castsi512_si256(h)));
    __m512 rest_b = _mm512_sub_ps(b, widened(_mm512_extracti64x4_epi64(h, 1)));
    _mm512_store_si512(high, h);
    _mm512_store_si512(low, (__m512i)_mm512_cvtne2ps_pbh(rest_b, rest_a));
}

/* Split lines of numbers that lie `step` apart. */
static void split_lines(const float *from, long step, long from_line, long lines, long width, bf16 *high, bf16 *low,
                        long line) {
    __m256i h, l;
    if (width == 8 && from_line == 8 && lines % 2 == 0) {
        for (long y = 0; y < lines; y += 2, from += 16, high += 2 * line, low += 2 * line) {
            _mm_prefetch((const char *)(from + AHEAD), _MM_HINT_T0);
            split(_mm512_loadu_ps(from), &h, &l);
            _mm_storeu_si128((void *)high, _mm256_castsi256_si128(h));
            _mm_storeu_si128((void *)(high + line), _mm256_extracti128_si256(h, 1));
            _mm_storeu_si128((void *)low, _mm256_castsi256_si128(l));
            _mm_storeu_si128((void *)(low + line), _mm256_extracti128_si256(l, 1));
        }
        return;
    }
    const __m512i each = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i at = _mm512_mullo_epi32(each, _mm512_set1_epi32(step));
    for (long y = 0; y < lines; y++, from += from_line, high += line, low += line)
        for (long w = 0; w < width; w += SIDE) {
            __mmask16 mask = width - w < SIDE ? (1u << (width - w)) - 1 : 0xffff;
            _mm_prefetch((const char *)(from + w * step + AHEAD), _MM_HINT_T0);
            __m512 v = step == 1 ? _mm512_maskz_loadu_ps(mask, from + w)
                                 : _mm512_mask_i32gather_ps(_mm512_setzero_ps(), mask, at, from + w * step, 4);
            split(v, &h, &l);
            _mm256_mask_storeu_epi16(high + w, mask, h);
            _mm256_mask_storeu_epi16(low + w, mask, l);
        }
}

/* Take (16, 16) pairs, rows `stride` apart, to (16, 16) pairs with rows and columns exchanged. */
static inline void exchange(const bf16 *from, long stride, bf16 *to) {
    __m512i a[SIDE], b[SIDE];
    for (int i = 0; i < 16; i++) a[i] = _mm512_loadu_si512(from + i * stride);
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int k = 0; k < 2; k++) {
            a[i + 2 * k] = _mm512_unpacklo_epi64(b[i + k], b[i + k + 2]);
            a[i + 2 * k + 1] = _mm512_unpackhi_epi64(b[i + k], b[i + k + 2]);
        }
    for (int i = 0; i < 16; i += 8)
        for (int k = 0; k < 4; k++) {
            b[i + k] = _mm512_shuffle_i32x4(a[i + k], a[i + k + 4], 0x88);
            b[i + k + 4] = _mm512_shuffle_i32x4(a[i + k], a[i + k + 4], 0xdd);
        }
    for (int k = 0; k < 8; k++) {
        _mm512_store_si512(to + DEPTH * k, _mm512_shuffle_i32x4(b[k], b[k + 8], 0x88));
        _mm512_store_si512(to + DEPTH * (k + 8), _mm512_shuffle_i32x4(b[k], b[k + 8], 0xdd));
    }
}

/* A thread's numbers: high and low planes of a phase and lines of gradients; then tiles of pairs, (phases, even and
   odd, high and low). */
static long space_of_lines(const Plan *p) { return 2 * SIDE * (p->plane + p->places + DEPTH); }

static void pack_outputs(const Plan *p, long sample, long block, long apart, bf16 *high, bf16 *low) {
    long size = p->of.out_height * p->of.out_width;
    for (long o = 0; o < SIDE; o++, high += apart, low += apart) {
        long channel = block * SIDE + o;
        if (channel < p->of.outputs) {
            const float *from = p->dy + (sample * p->of.outputs + channel) * size;
            split_lines(from, 1, p->of.out_width, p->of.out_height, p->of.out_width, high, low, p->line);
        } else {
            memset(high, 0, apart * sizeof(bf16)), memset(low, 0, apart * sizeof(bf16));
        }
    }
}

static void pack_inputs(const Plan *p, long sample, long block, bf16 *planes, bf16 *packed) {
    const Convolution *c = &p->of;
    long half = SIDE * p->plane, wanted = c->inputs - block * SIDE;
    for (long phase = 0; phase < p->phases; phase++, packed += 4 * half) {
        if (!p->uses[phase]) continue;
        long first[2], begin[2], count[2], sizes[2] = {c->height, c->width};
        long offsets[2] = {phase / c->stride[1], phase % c->stride[1]};
        for (int d = 0; d < 2; d++) { /* places of the phase that are in the image */
            long margin = c->padding[d] - offsets[d], s = c->stride[d];
            begin[d] = margin > 0 ? (margin + s - 1) / s : 0;
            first[d] = begin[d] * s - margin;
            count[d] = sizes[d] > first[d] ? (sizes[d] - first[d] + s - 1) / s : 0;
        }
        if (p->phases > 1 || wanted < SIDE) memset(planes, 0, 2 * half * sizeof(bf16));
        for (long i = 0; i < SIDE && i < wanted; i++) {
            const float *from = p->x + ((sample * c->inputs + block * SIDE + i) * c->height + first[0]) * c->width;
            bf16 *to = planes + i * p->plane + begin[0] * p->line + begin[1];
            split_lines(from + first[1], c->stride[1], c->stride[0] * c->width, count[0], count[1], to, to + half,
                        p->line);
        }
        for (int s = 0; s < 2; s++) {
            bf16 *even = packed + s * half, *odd = even + 2 * half;
            for (long k = 0; k < p->plane / DEPTH; k++)
                exchange(planes + s * half + k * DEPTH, p->plane, even + k * TILE);
            if (p->uses[phase] & 2) /* the second number of a pair and the first of the next */
                for (long k = 0; k < p->plane / 2 - 1; k++, even += DEPTH, odd += DEPTH) {
                    __m512i pairs = _mm512_load_si512(even), next = _mm512_load_si512(even + DEPTH);
                    _mm512_store_si512(odd, _mm512_shrdi_epi32(pairs, next, 16));
                }
        }
    }
}

/* Sum products over places for n taps, of tiles from `from` on, and keep the sums as columns of the sample's row.

   high and low are lines of gradients, `apart` from one channel to the next. */
static void sum_places(const Plan *p, long sample, long column, long columns, const bf16 *high, const bf16 *low,
                       long apart, const bf16 **from, long n) {
    float sums[SUMS] __attribute__((aligned(64)));
    long half = SIDE * p->plane;
    WRITTEN;
    _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3); _tile_zero(4);
    for (long k = 0; k < p->places / DEPTH; k++) {
        _tile_loadd(5, high + k * DEPTH, apart * sizeof(bf16));
        _tile_loadd(6, low + k * DEPTH, apart * sizeof(bf16));
#define WITH_HIGH(t)                             \
    if (t < n) {                                 \
        _tile_loadd(7, from[t] + k * TILE, 64);  \
        _tile_dpbf16ps(t, 5, 7);                 \
        _tile_dpbf16ps(t, 6, 7);                 \
    }
#define WITH_LOW(t)                                     \
    if (t < n) {                                        \
        _tile_loadd(7, from[t] + half + k * TILE, 64);  \
        _tile_dpbf16ps(t, 5, 7);                        \
    }
        WITH_HIGH(0) WITH_HIGH(1) WITH_HIGH(2) WITH_HIGH(3) WITH_HIGH(4)
        WITH_LOW(0) WITH_LOW(1) WITH_LOW(2) WITH_LOW(3) WITH_LOW(4)
    }
    for (long t = 0; t < n; t++) {
        switch (t) { /* the number of a register is part of the instruction */
            case 0: _tile_stored(0, sums, 64); break;
            case 1: _tile_stored(1, sums, 64); break;
            case 2: _tile_stored(2, sums, 64); break;
            case 3: _tile_stored(3, sums, 64); break;
            default: _tile_stored(4, sums, 64);
        }
        long at = (sample / SIDE * columns + (column + t) * SUMS / DEPTH) * APART + sample % SIDE * DEPTH;
        for (int k = 0; k < SUMS; k += DEPTH, at += APART)
            split_both(_mm512_load_ps(sums + k), _mm512_load_ps(sums + k + SIDE), p->rows[0] + at, p->rows[1] + at);
    }
}

/* Compute some columns, as the parts from `first` on, of a sample's row. */
static void make_row(const Plan *p, long sample, long first, long count, bf16 *space) {
    long apart = p->places / DEPTH % 2 ? p->places : p->places + DEPTH, out_blocks = up(p->of.outputs, SIDE) / SIDE;
    bf16 *planes = space, *high = planes + 2 * SIDE * p->plane, *low = high + SIDE * apart;
    bf16 *packed = space + space_of_lines(p);
    long held_in = -1, held_out = -1;
    for (long i = 0, n; i < count; i += n) {
        long tap = (first + i) % p->taps, block = (first + i) / p->taps;
        long out = block % out_blocks, in = block / out_blocks;
        if (held_in != in) pack_inputs(p, sample, held_in = in, planes, packed);
        if (held_out != out) pack_outputs(p, sample, held_out = out, apart, high, low);
        n = p->taps - tap < count - i ? p->taps - tap : count - i;
        if (n > TAPS) n = n < 2 * TAPS ? (n + 1) / 2 : TAPS;
        const bf16 *from[TAPS];
        for (long t = 0; t < n; t++) from[t] = packed + p->starts[tap + t];
        sum_places(p, sample, i, count * SUMS / DEPTH, high, low, apart, from, n);
    }
}

static void add(float *to, long width, const float *sums) {
    for (int r = 0; r < SIDE; r++, to += width, sums += SIDE)
        _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), _mm512_load_ps(sums)));
}

/* Add the products of all rows, of n tiles of columns, on and right of the diagonal. */
static void add_products(const Plan *p, long first, long n, long columns, float *gram, bf16 *space) {
    enum { PACK = PANEL * TILE };
    long line = columns * APART, width = p->blocks * SIDE;
    float sums[SUMS] __attribute__((aligned(64)));
    for (int s = 0; s < 2; s++)
        for (long b = 0; b < p->blocks; b++)
            for (long k = 0; k < n; k++)
                exchange(p->rows[s] + b * line + (first + k) * APART, DEPTH, space + (b * 2 + s) * PACK + k * TILE);
    WRITTEN;
    for (long a = 0; a < p->blocks; a++)
        for (long b = a; b < p->blocks; b += 2) {
            int two = b + 1 < p->blocks;
            const bf16 *high = p->rows[0] + a * line + first * APART, *low = p->rows[1] + a * line + first * APART;
            const bf16 *right = space + b * 2 * PACK;
            _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
            for (long k = 0; k < n; k++, high += APART, low += APART, right += TILE) {
                _tile_loadd(6, high, 64);
                _tile_loadd(5, low, 64);
#define MULTIPLY(by_high, by_low, register, from) \
    {                                             \
        _tile_loadd(register, from, 64);          \
        _tile_dpbf16ps(by_high, 6, register);     \
        _tile_dpbf16ps(by_low, 5, register);      \
    }
                MULTIPLY(0, 1, 7, right)
                if (two) MULTIPLY(2, 3, 4, right + 2 * PACK)
                MULTIPLY(1, 0, 7, right + PACK)
                if (two) MULTIPLY(3, 2, 4, right + 3 * PACK)
            }
            float *to = gram + (a * width + b) * SIDE;
#define ADD(t, to)                  \
    {                               \
        _tile_stored(t, sums, 64);  \
        add(to, width, sums);       \
    }
            ADD(0, to) ADD(1, to)
            if (two) ADD(2, to + SIDE)
            if (two) ADD(3, to + SIDE)
        }
}

static Plan sized(const float *x, const float *dy, const Convolution *c) {
    Plan p = {.of = *c, .x = x, .dy = dy};
    long lines = up(c->height + 2 * c->padding[0], c->stride[0]) / c->stride[0];
    long line = up(c->width + 2 * c->padding[1], c->stride[1]) / c->stride[1];
    p.line = up(line > c->out_width ? line : c->out_width, 2);
    p.places = up(c->out_height * p.line, DEPTH);
    p.taps = c->kernel[0] * c->kernel[1];
    p.phases = c->stride[0] * c->stride[1];
    long down = c->dilation[0] * (c->kernel[0] - 1) / c->stride[0];
    long right = c->dilation[1] * (c->kernel[1] - 1) / c->stride[1];
    long seen = p.places + down * p.line + right + 2, image = lines * p.line;
    p.plane = up(seen > image ? seen : image, DEPTH);
    p.plane += p.plane / DEPTH % 2 ? 0 : DEPTH;
    p.parts = up(c->inputs, SIDE) / SIDE * (up(c->outputs, SIDE) / SIDE) * p.taps;
    p.blocks = up(c->samples, SIDE) / SIDE;
    return p;
}

/* Find where each tap of the kernel sees the image first: in which phase, and at which place of it. */
static void find_starts(Plan *p) {
    const Convolution *c = &p->of;
    memset(p->uses, 0, p->phases);
    for (long tap = 0; tap < p->taps; tap++) {
        long y = tap / c->kernel[1] * c->dilation[0], x = tap % c->kernel[1] * c->dilation[1];
        long phase = y % c->stride[0] * c->stride[1] + x % c->stride[1], odd = x / c->stride[1] % 2;
        long place = y / c->stride[0] * p->line + x / c->stride[1] - odd;
        p->starts[tap] = (phase * 4 + odd * 2) * SIDE * p->plane + place / 2 * DEPTH;
        p->uses[phase] |= 1 << odd;
    }
}

/* Say whether this process may use the matrix units; it asks the system. */
int gram_ready(void) { return syscall(SYS_arch_prctl, REQUEST, DATA) == 0; }

/* Add rows times their transpose, on and right of the diagonal, for the weights of a convolution.

   x, the gradient dy of its outputs, and gram (samples, samples) are contiguous.
   Returns 0, or 1 where memory is lacking. */
int convolution_gram(const float *x, const float *dy, float *gram, const Convolution *c) {
    Plan p = sized(x, dy, c);
    long width = p.blocks * SIDE, kept = KEPT / width;
    kept = kept > p.parts ? p.parts : kept > p.taps ? kept / p.taps * p.taps : kept < 1 ? 1 : kept;
    long for_lines = space_of_lines(&p), for_products = p.blocks * 2 * PANEL * TILE;
    long for_rows = for_lines + p.phases * 4 * SIDE * p.plane;
    size_t rows = up(sizeof(bf16) * p.blocks * kept * (SUMS / DEPTH) * APART, PAGE);
    size_t sums = up(sizeof(float) * width * width, PAGE);
    size_t own = sums + up(sizeof(bf16) * (for_rows > for_products ? for_rows : for_products), PAGE);
    size_t tables = up(p.taps * sizeof(long) + p.phases, PAGE);
    char *memory = aligned_alloc(PAGE, 2 * rows + tables + c->threads * own);
    if (memory == NULL) return 1;
    char *of_threads = memory + 2 * rows + tables;
    p.rows[0] = (bf16 *)memory, p.rows[1] = (bf16 *)(memory + rows);
    p.starts = (long *)(memory + 2 * rows), p.uses = (uint8_t *)(p.starts + p.taps);
    find_starts(&p);
#pragma omp parallel num_threads(c->threads)
    {
        float *total = (float *)(of_threads + omp_get_thread_num() * own);
        bf16 *numbers = (bf16 *)((char *)total + sums);
        memset(total, 0, sums);
        configure();
        for (long first = 0; first < p.parts; first += kept) {
            long count = p.parts - first < kept ? p.parts - first : kept, columns = count * SUMS / DEPTH;
            memset(numbers, 0, sizeof(bf16) * for_lines);
#pragma omp for schedule(static)
            for (long i = 0; i < c->samples; i++) make_row(&p, i, first, count, numbers);
#pragma omp for schedule(static)
            for (long k = 0; k < columns; k += PANEL)
                add_products(&p, k, columns - k < PANEL ? columns - k : PANEL, columns, total, numbers);
        }
        _tile_release();
#pragma omp for schedule(static)
        for (long i = 0; i < c->samples; i++)
            for (long t = 0; t < omp_get_num_threads(); t++) {
                const float *part = (const float *)(of_threads + t * own) + i * width;
                for (long k = i; k < c->samples; k++) gram[i * c->samples + k] += part[k];
            }
    }
    free(memory);
    return 0;
}

/* Write sum_t dy xhat, then sum_t dy, of each sample and channel, (samples, 2 channels); xhat = (x - mean) scale. */
void norm_sums(const float *x, const float *dy, const float *mean, const float *scale, float *sums,
               long samples, long channels, long places, long threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long i = 0; i < samples * channels; i++) {
        const float *from_x = x + i * places, *from_dy = dy + i * places, middle = mean[i % channels];
        float *to = sums + i / channels * 2 * channels + i % channels;
        __m512 all = _mm512_setzero_ps(), products = all;
        for (long t = 0; t < places; t += SIDE) {
            __mmask16 mask = places - t < SIDE ? (1u << (places - t)) - 1 : 0xffff;
            _mm_prefetch((const char *)(from_x + t + AHEAD), _MM_HINT_T0);
            _mm_prefetch((const char *)(from_dy + t + AHEAD), _MM_HINT_T0);
            __m512 g = _mm512_maskz_loadu_ps(mask, from_dy + t), v = _mm512_maskz_loadu_ps(mask, from_x + t);
            all = _mm512_add_ps(all, g);
            products = _mm512_fmadd_ps(g, _mm512_sub_ps(v, _mm512_set1_ps(middle)), products);
        }
        to[0] = _mm512_reduce_add_ps(products) * scale[i % channels];
        to[channels] = _mm512_reduce_add_ps(all);
    }
}
