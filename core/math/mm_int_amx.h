/* Products with panels of integers by AMX: a tile instruction adds products of bytes [rows, 64] x [64, 16] to int32
 * [rows, 16]. Rows are two planes of bytes, x = 256 x1 + x0, x1 signed and x0 unsigned. A step of 64 k loads four
 * tiles for four products,
 *
 *              w, outputs 0..15   w, outputs 16..31
 *         x1       tile 0              tile 1            tdpbssd
 *         x0       tile 2              tile 3            tdpbusd
 *
 * as many products a load as 32 rows of one plane would have, from one row on: the planes are the second row of tiles.
 * The rows of a call are spread evenly over tiles (17: twice 9), so that one configuration does for all of them.
 *
 * Products are at most 255 * 128 = 32640: a block of 65536 k would still fit int32 (2.14e9). Blocks are of 1024 for the
 * caches' sake: 32 KB of weights, and 16 rows of 2 KB. */
#include "core/math/int_bytes.h"

enum { MMI_ROWS = 16, MMI_BLOCK_K = 1024, MMI_SUMS = 2, MMI_OFFSET = 0, MMI_EQUAL = 1 };

/* Tiles 0..3 add up, 4 and 5 are x1 and x0, 6 and 7 weights; rows are of 64 bytes. Constants, since a compiler may not
 * know that the instruction reads all of one. */
static const struct amx_config {
    uint8_t palette, start_row, zero[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} amx_config[MMI_ROWS + 1] = {
#define CONFIG(r) [r] = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {r, r, r, r, r, r, 16, 16}}
    CONFIG(1),  CONFIG(2),  CONFIG(3),  CONFIG(4),  CONFIG(5),  CONFIG(6),  CONFIG(7),  CONFIG(8),
    CONFIG(9),  CONFIG(10), CONFIG(11), CONFIG(12), CONFIG(13), CONFIG(14), CONFIG(15), CONFIG(16),
#undef CONFIG
};

static void mmi_unit(const void *x, size_t ldx, size_t rows, size_t quads, const int8_t *w, bool ahead, int32_t *out)
{
    const char *at = x;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (size_t q = 0; q < quads; q += 16, at += 2 * INT_GROUP, w += 16 * 4 * DEQ_PANEL) {
        _tile_loadd(4, at, ldx);
        _tile_loadd(6, w, 4 * DEQ_PANEL);
        _tile_dpbssd(0, 4, 6);
        _tile_loadd(7, w + 64, 4 * DEQ_PANEL);
        _tile_dpbssd(1, 4, 7);
        _tile_loadd(5, at + INT_GROUP, ldx);
        _tile_dpbusd(2, 5, 6);
        _tile_dpbusd(3, 5, 7);
        for (size_t i = 0; ahead && i < 16; i++) {
            __builtin_prefetch(w + (MMI_BLOCK_K + i * 4) * DEQ_PANEL);
            __builtin_prefetch(w + (MMI_BLOCK_K + i * 4) * DEQ_PANEL + 64);
        }
    }
    const size_t stride = DEQ_PANEL_UNIT * sizeof *out;
    int32_t *const low = out + rows * DEQ_PANEL_UNIT;
    _tile_stored(0, out, stride);
    _tile_stored(1, out + 16, stride);
    _tile_stored(2, low, stride);
    _tile_stored(3, low + 16, stride);
}

static size_t mmi_begin(size_t m)
{
    const size_t tiles = (DEQ_MAX(m, (size_t)1) + MMI_ROWS - 1) / MMI_ROWS,
                 rows = (DEQ_MAX(m, (size_t)1) + tiles - 1) / tiles;
    _tile_loadconfig(&amx_config[rows]);
    return rows;
}

static void mmi_end(void)
{
    _tile_release();
}

static void mmi_put(void *row, size_t i, vf a)
{
    int_bytes_put(row, i, a, MMI_OFFSET);
}

#include "core/math/mm_int.h"
