/* core/math/half.h: every number of 16 bits, and rounding to it. */
#include "core/math/half.h"

#include "tests/unit/test.h"

TEST(half_conversions)
{
    unsigned bad = 0;
    for (uint32_t h = 0; h < 0x10000; h++) {
        float f = deq_f16_to_f32((uint16_t)h);
        unsigned e = h >> 10 & 31, m = h & 1023;
        double v = e ? ldexp(1024.0 + m, (int)e - 25) : ldexp(m, -24);
        if (e == 31)
            bad += m ? !isnan(f) : !isinf(f);
        else
            bad += (double)f != (h >> 15 ? -v : v);
        bad += (signbit(f) != 0) != (h >> 15);
        float b = deq_bf16_to_f32((uint16_t)h);
        bad += isnan(b) ? !isnan(deq_bf16_to_f32(deq_f32_to_bf16(b))) : deq_f32_to_bf16(b) != h;
        /* between two neighbours: the nearer one, half way to the even one */
        if (isfinite(b) && (h & 0x7fff) < 0x7f7f) {
            uint32_t bits = h << 16;
            static const uint32_t low[] = {1, 0x7fff, 0x8000, 0x8001, 0xffff};
            for (size_t i = 0; i < DEQ_COUNT(low); i++) {
                uint32_t t = bits | low[i];
                float g;
                memcpy(&g, &t, 4);
                bad += deq_f32_to_bf16(g) != h + (low[i] > 0x8000 || (low[i] == 0x8000 && (h & 1)));
            }
        }
    }
    CHECK_MSG(bad == 0, "%u words", bad);
    /* a NaN whose payload lies in the lower half must not become an infinity */
    uint32_t bits = 0x7f800001;
    float f;
    memcpy(&f, &bits, 4);
    CHECK(isnan(deq_bf16_to_f32(deq_f32_to_bf16(f))));
}
