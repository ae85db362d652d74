/* Products with panels of integers by 16-bit multiply-adds (pmaddwd), compiled for levels that have no unit for bytes.
 * The including file defines, for its vectors vi of int32 sums,
 *     vi_zero()       vi_w(int8_t *p)   the next VI_OUTPUTS outputs x 4 k, widened to 16 bits
 *     vi_x(int16 *p)  four k of a row, to every output
 *     vi_madd(acc, w, x)                adds the products of neighbours: two sums an output
 *     vi_store2(int32_t *out, a, b)     the sums of 2 * VI_OUTPUTS outputs
 * and MMI_ROWS (at most 6) x MMI_VECS, the tile that its registers hold.
 *
 * A block of 512 k keeps every int32 sum in range: a pair is at most 2 * 32513 * 128 = 8.33e6, and 2 * 128 of them meet
 * in one output. */

enum { MMI_BLOCK_K = 512, MMI_SUMS = 1, MMI_OFFSET = 0, MMI_EQUAL = 0 };

/* Sums of rows x (vecs * VI_OUTPUTS) outputs over `quads` * 4 k; out [rows, DEQ_PANEL_UNIT] */
__attribute__((always_inline)) static inline void mmi_tile(const int16_t *x, size_t ldx, size_t quads, const int8_t *w,
                                                           bool ahead, int32_t *out, const int rows, const int vecs)
{
    vi acc[MMI_ROWS][8];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vecs; v++)
            acc[r][v] = vi_zero();
    for (size_t q = 0; q < quads; q++) {
        vi wq[8];
        if (ahead)
            __builtin_prefetch(w + (MMI_BLOCK_K / 4 + q) * 4 * DEQ_PANEL);
        for (int v = 0; v < vecs; v++)
            wq[v] = vi_w(w + q * 4 * DEQ_PANEL + v * 4 * VI_OUTPUTS);
        for (int r = 0; r < rows; r++) {
            const vi xr = vi_x(x + (size_t)r * ldx + q * 4);
            for (int v = 0; v < vecs; v++)
                acc[r][v] = vi_madd(acc[r][v], wq[v], xr);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vecs; v += 2)
            vi_store2(out + r * DEQ_PANEL_UNIT + v * VI_OUTPUTS, acc[r][v], acc[r][v + 1]);
}

/* One plane, one block of K, up to MMI_ROWS rows, DEQ_PANEL_UNIT outputs. */
static void mmi_unit(const void *row, size_t bytes, size_t rows, size_t quads, const int8_t *w, bool ahead,
                     int32_t *out)
{
    const int16_t *const x = row;
    const size_t ldx = bytes / sizeof *x;
#define TILE(r, v)                                                                                          \
    case r:                                                                                                 \
        if (r <= MMI_ROWS)                                                                                  \
            for (int c = 0; c < DEQ_PANEL_UNIT; c += v * VI_OUTPUTS)                                        \
                mmi_tile(x, ldx, quads, w + (size_t)c * 4, ahead, out + c, DEQ_MIN(r, MMI_ROWS), v);        \
        break;
    switch (rows) {
        TILE(1, MMI_VECS_ONE)
        TILE(2, MMI_VECS_FEW)
        TILE(3, MMI_VECS_FEW)
        TILE(4, MMI_VECS)
        TILE(5, MMI_VECS)
        TILE(6, MMI_VECS)
    default: break;
    }
#undef TILE
}

static size_t mmi_begin(size_t m)
{
    (void)m;
    return MMI_ROWS;
}

static void mmi_end(void)
{
}

/* Numbers i .. i+15 of a prepared row. */
static void mmi_put(void *row, size_t i, vf a)
{
    vf_st_i16((int16_t *)row + i, a);
}

#include "core/math/mm_int.h"
