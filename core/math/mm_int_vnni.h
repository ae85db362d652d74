/* Products with panels of integers by AVX-512 VNNI: vpdpbusd adds four products of unsigned and signed bytes to an
 * int32. Rows are two planes of unsigned bytes, x = 256 (x1 - 128) + x0. A tile is up to 6 rows x 32 outputs, both
 * sums of each: 24 of 32 registers. Few rows go over several chains an output, to hide the instruction's latency.
 *
 * Products are at most 255 * 128 = 32640: a block of 65536 k would still fit int32 (2.14e9). Blocks are of 512 for the
 * caches' sake: a unit's weights, 16 KB a plane, stay in the first one for all rows. */
#include "core/math/int_bytes.h"

enum { MMI_ROWS = 6, MMI_BLOCK_K = 512, MMI_SUMS = 2, MMI_OFFSET = 128, MMI_EQUAL = 0 };

/* one quad of a row to all outputs */
static inline __m512i vnni_x(const uint8_t *p)
{
    int32_t four;
    memcpy(&four, p, sizeof four);
    return _mm512_set1_epi32(four);
}

__attribute__((always_inline)) static inline void vnni_tile(const uint8_t *x, size_t ldx, size_t quads,
                                                            const int8_t *w, bool ahead, int32_t *out,
                                                            const int rows, const int chains)
{
    __m512i acc[MMI_ROWS][16]; /* by row; chain, half of the unit, plane of x */
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 16
        for (int v = 0; v < 4 * chains; v++)
            acc[r][v] = _mm512_setzero_si512();
    for (size_t q = 0; q < quads; q += (size_t)chains) {
        const uint8_t *at = x + INT_BYTES_AT(q * 4);
#pragma GCC unroll 4
        for (int i = 0; i < chains; i++, w += 4 * DEQ_PANEL) {
            const __m512i w0 = _mm512_loadu_si512(w), w1 = _mm512_loadu_si512(w + 64);
            if (ahead) {
                __builtin_prefetch(w + MMI_BLOCK_K * DEQ_PANEL);
                __builtin_prefetch(w + MMI_BLOCK_K * DEQ_PANEL + 64);
            }
#pragma GCC unroll 6
            for (int r = 0; r < rows; r++) {
                const uint8_t *four = at + (size_t)r * ldx + i * 4;
                const __m512i x1 = vnni_x(four), x0 = vnni_x(four + INT_GROUP);
                acc[r][4 * i] = _mm512_dpbusd_epi32(acc[r][4 * i], x1, w0);
                acc[r][4 * i + 1] = _mm512_dpbusd_epi32(acc[r][4 * i + 1], x0, w0);
                acc[r][4 * i + 2] = _mm512_dpbusd_epi32(acc[r][4 * i + 2], x1, w1);
                acc[r][4 * i + 3] = _mm512_dpbusd_epi32(acc[r][4 * i + 3], x0, w1);
            }
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++) {
            __m512i s = acc[r][v];
#pragma GCC unroll 4
            for (int i = 1; i < chains; i++)
                s = _mm512_add_epi32(s, acc[r][4 * i + v]);
            _mm512_storeu_si512(out + (v % 2 * rows + r) * DEQ_PANEL_UNIT + v / 2 * 16, s);
        }
}

static void mmi_unit(const void *x, size_t ldx, size_t rows, size_t quads, const int8_t *w, bool ahead, int32_t *out)
{
    switch (rows) {
    case 1: vnni_tile(x, ldx, quads, w, ahead, out, 1, 4); break;
    case 2: vnni_tile(x, ldx, quads, w, ahead, out, 2, 2); break;
    case 3: vnni_tile(x, ldx, quads, w, ahead, out, 3, 1); break;
    case 4: vnni_tile(x, ldx, quads, w, ahead, out, 4, 1); break;
    case 5: vnni_tile(x, ldx, quads, w, ahead, out, 5, 1); break;
    default: vnni_tile(x, ldx, quads, w, ahead, out, MMI_ROWS, 1); break;
    }
}

static size_t mmi_begin(size_t m)
{
    (void)m;
    return MMI_ROWS;
}

static void mmi_end(void)
{
}

static void mmi_put(void *row, size_t i, vf a)
{
    int_bytes_put(row, i, a, MMI_OFFSET);
}

#include "core/math/mm_int.h"
