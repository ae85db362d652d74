/* Every place of K and V in a page is another one, and inside the page. */
#include "core/cell/kv_layout.h"

#include "core/base/mem.h"
#include "tests/unit/test.h"

/* the words of one head's K and V, and how many of K are before its scales */
static void check_places(enum deq_kv_format format, size_t Dh, size_t k_words, size_t v_words)
{
    const size_t H = 6;
    const struct deq_kv_layout l = deq_kv_layout(format, H, Dh);
    uint32_t *page = DEQ_NEW_ARRAY(uint32_t, l.page_words);
    unsigned twice = 0, outside = 0, used = 0;
    for (size_t h = 0; h < H; h++)
        for (size_t i = 0; i < k_words + v_words; i++) {
            uint32_t *at = i < k_words ? (uint32_t *)deq_kv_k(&l, page, h) + i
                                       : (uint32_t *)deq_kv_v(&l, page, h) + (i - k_words);
            if (at < page || at >= page + l.page_words) {
                outside++;
                continue;
            }
            twice += *at != 0;
            *at = 1;
            used++;
        }
    CHECK_MSG(!twice && !outside && used == l.page_words, "format %d, Dh %zu: %u twice, %u outside, %u used",
              (int)format, Dh, twice, outside, used);
    deq_free(page);
}

TEST(kv_layout_places_are_apart)
{
    static const size_t widths[] = {1, 5, 16, 17, 32, 64, 65};
    for (size_t i = 0; i < DEQ_COUNT(widths); i++) {
        const size_t Dh = widths[i], half = (Dh + 1) / 2;
        check_places(DEQ_KV_F32, Dh, Dh * 16, 16 * DEQ_ROUND_UP(Dh, (size_t)16));
        check_places(DEQ_KV_I16, Dh, half * 16 + 16, 16 + 16 * DEQ_ROUND_UP(half, (size_t)16));
    }
}
