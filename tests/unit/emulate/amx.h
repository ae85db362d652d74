/* The AMX tile intrinsics that kernels use, in plain C, by the Intel Architecture Software Developer's Manual (volume
 * 1, chapter 18; LDTILECFG, TILELOADD, TDPBSSD, ... in volume 2): what a configuration leaves out of a tile is not
 * loaded, not computed, not stored, and zero; what the processor would refuse ends the program. */
#ifndef DEQ_TEST_EMULATE_AMX_H
#define DEQ_TEST_EMULATE_AMX_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { AMX_TILES = 8, AMX_ROWS = 16, AMX_BYTES = 64 };

static _Thread_local struct {
    bool configured;
    size_t rows[AMX_TILES], bytes[AMX_TILES];
    uint8_t at[AMX_TILES][AMX_ROWS][AMX_BYTES];
} amx;

static inline void amx_demand(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "AMX: %s\n", what);
    abort();
}

static inline void amx_demand_tile(int t)
{
    amx_demand(amx.configured && t >= 0 && t < AMX_TILES && amx.rows[t], "a tile that is not configured");
}

static inline void emulate_tile_release(void)
{
    memset(&amx, 0, sizeof amx);
}

static inline void emulate_tile_loadconfig(const void *config)
{
    uint8_t c[64], rows[16];
    uint16_t bytes[16];
    memcpy(c, config, sizeof c);
    memcpy(bytes, c + 16, sizeof bytes);
    memcpy(rows, c + 48, sizeof rows);
    emulate_tile_release();
    if (!c[0])
        return; /* palette 0: all tiles are released */
    amx_demand(c[0] == 1 && c[1] == 0, "palette or first row");
    for (int i = 2; i < 16; i++)
        amx_demand(!c[i], "reserved bytes of a configuration");
    for (int i = 0; i < 16; i++)
        amx_demand(i < AMX_TILES ? rows[i] <= AMX_ROWS && bytes[i] <= AMX_BYTES && !rows[i] == !bytes[i]
                                 : !rows[i] && !bytes[i],
                   "the shape of a tile");
    for (int i = 0; i < AMX_TILES; i++) {
        amx.rows[i] = rows[i];
        amx.bytes[i] = bytes[i];
    }
    amx.configured = true;
}

static inline void emulate_tile_zero(int t)
{
    amx_demand_tile(t);
    memset(amx.at[t], 0, sizeof amx.at[t]);
}

static inline void emulate_tile_loadd(int t, const void *base, size_t stride)
{
    emulate_tile_zero(t);
    for (size_t r = 0; r < amx.rows[t]; r++)
        memcpy(amx.at[t][r], (const char *)base + r * stride, amx.bytes[t]);
}

static inline void emulate_tile_stored(int t, void *base, size_t stride)
{
    amx_demand_tile(t);
    for (size_t r = 0; r < amx.rows[t]; r++)
        memcpy((char *)base + r * stride, amx.at[t][r], amx.bytes[t]);
}

/* to [M, N] int32 += a [M, 4 K] b [K, N, 4], bytes; those of b are signed */
static inline void emulate_tile_dp(int to, int a, int b, bool a_signed)
{
    amx_demand_tile(to);
    amx_demand_tile(a);
    amx_demand_tile(b);
    amx_demand(to != a && to != b && a != b, "a tile twice");
    amx_demand(amx.rows[to] == amx.rows[a] && amx.bytes[to] == amx.bytes[b] && amx.bytes[a] == 4 * amx.rows[b] &&
                   amx.bytes[b] % 4 == 0,
               "tiles whose shapes do not fit");
    for (size_t m = 0; m < amx.rows[to]; m++)
        for (size_t n = 0; n < amx.bytes[to] / 4; n++) {
            uint32_t sum; /* it wraps around */
            memcpy(&sum, &amx.at[to][m][4 * n], sizeof sum);
            for (size_t k = 0; k < amx.bytes[a]; k++) {
                const uint8_t x = amx.at[a][m][k];
                sum += (uint32_t)((a_signed ? (int8_t)x : x) * (int8_t)amx.at[b][k / 4][4 * n + k % 4]);
            }
            memcpy(&amx.at[to][m][4 * n], &sum, sizeof sum);
        }
}

#define _tile_loadconfig emulate_tile_loadconfig
#define _tile_release emulate_tile_release
#define _tile_zero emulate_tile_zero
#define _tile_loadd emulate_tile_loadd
#define _tile_stored emulate_tile_stored
#define _tile_dpbssd(to, a, b) emulate_tile_dp(to, a, b, true)
#define _tile_dpbusd(to, a, b) emulate_tile_dp(to, a, b, false)

#endif
