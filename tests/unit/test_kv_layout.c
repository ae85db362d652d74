/* Every place of K and V in a page is another one, and inside the page. */
#include "core/cell/kv_layout.h"

#include "core/base/mem.h"
#include "tests/unit/test.h"

TEST(kv_layout_places_are_apart)
{
    static const size_t widths[] = {1, 5, 16, 17};
    for (size_t i = 0; i < DEQ_COUNT(widths); i++) {
        const size_t H = 3, L = 2, Dh = widths[i], Dv = Dh > 16 ? 32 : 16;
        const struct deq_kv_layout l = deq_kv_layout(H, Dh, L);
        CHECK(l.v_stride == Dv && l.page_floats == L * (H * Dh * 16 + H * 16 * Dv));
        float *page = DEQ_NEW_ARRAY(float, l.page_floats);
        unsigned twice = 0, outside = 0, used = 0;
        for (unsigned b = 0; b < L; b++)
            for (size_t h = 0; h < H; h++)
                for (size_t k = 0; k < Dh * 16 + 16 * Dv; k++) {
                    float *at = k < Dh * 16 ? deq_kv_k(&l, page, b, h) + k : deq_kv_v(&l, page, b, h) + (k - Dh * 16);
                    if (at < page || at >= page + l.page_floats) {
                        outside++;
                        continue;
                    }
                    twice += *at != 0;
                    *at = 1;
                    used++;
                }
        CHECK_MSG(!twice && !outside && used == l.page_floats, "Dh %zu: %u twice, %u outside, %u used", Dh, twice,
                  outside, used);
        deq_free(page);
    }
}
