/* Peaks of AVX-512 with AMX-INT8. */
#if defined(__AMX_INT8__) || defined(__AMXINT8__) /* the second: clang 14 */
#include <stdint.h>

#include "core/math/peak_zmm.h"

/* four tiles of sums, as the products have them */
static void run_tiles(uint64_t rounds)
{
    static const struct {
        uint8_t palette, zero[15];
        uint16_t bytes[16];
        uint8_t rows[16];
    } config = {1, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
    _tile_loadconfig(&config);
    for (; rounds; rounds--) {
        _tile_dpbusd(0, 4, 6);
        _tile_dpbusd(1, 4, 7);
        _tile_dpbusd(2, 5, 6);
        _tile_dpbusd(3, 5, 7);
    }
    _tile_release();
}

#define PEAK amx
#define RUN_INTEGERS run_tiles
#define INTEGER_INSTRUCTION "tdpbusd"
#define INTEGER_LANES (16 * 16 * 64)
#define INTEGER_CHAINS 4
#define PER_BYTE 2
#include "core/math/peak_body.h"
#else
typedef int deq_no_amx_peak;
#endif
