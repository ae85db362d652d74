/* core/base/utf8.c against RFC 3629 written another way, and the examples of the Unicode standard. */
#include "core/base/utf8.h"

#include "core/base/buf.h"
#include "core/base/rng.h"
#include "tests/unit/test.h"

/* RFC 3629 written another way: decode blindly, then ask whether the value needs that many
 * bytes and is a scalar value. */
static int plain_decode(const unsigned char *p, uint32_t *ret)
{
    int len = p[0] < 0x80 ? 1 : p[0] >> 5 == 6 ? 2 : p[0] >> 4 == 14 ? 3 : p[0] >> 3 == 30 ? 4 : 0;
    if (!len)
        return -1;
    uint32_t cp = len == 1 ? p[0] : p[0] & ((1u << (7 - len)) - 1);
    for (int i = 1; i < len; i++) {
        if (p[i] >> 6 != 2)
            return -1;
        cp = cp * 64 + p[i] % 64;
    }
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    if (cp < least[len] || cp > 0x10ffff || (cp >= 0xd800 && cp < 0xe000))
        return -1;
    *ret = cp;
    return len;
}

/* 0 when some continuation makes p[0..n) a code point. Trying the smallest and the largest continuation byte is enough,
 * because the allowed second bytes always hold one of them. */
static int plain_prefix(const unsigned char *p, size_t n)
{
    for (unsigned fill = 0; fill < 8; fill++) {
        unsigned char s[4];
        uint32_t cp;
        for (size_t i = 0; i < 4; i++)
            s[i] = i < n ? p[i] : fill >> (i - 1) & 1 ? 0xbf : 0x80;
        if (plain_decode(s, &cp) > (int)n)
            return 0;
    }
    return -1;
}

TEST(utf8_every_scalar_value_round_trips)
{
    unsigned bad = 0;
    for (uint32_t cp = 0; cp <= 0x10ffff; cp++) {
        if (cp == 0xd800)
            cp = 0xe000;
        char s[4];
        uint32_t back = 0;
        int n = deq_utf8_encode(cp, s);
        bad += n != (cp < 0x80 ? 1 : cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4);
        bad += deq_utf8_decode(s, (size_t)n, &back) != n || back != cp;
        for (int k = 0; k < n; k++)
            bad += deq_utf8_decode(s, (size_t)k, &back) != 0;
    }
    CHECK_MSG(bad == 0, "%u values", bad);
}

TEST(utf8_decode_agrees_with_the_definition)
{
    static const unsigned char ends[] = {0x00, 0x41, 0x7f, 0x80, 0x8f, 0x90, 0xbf, 0xc0, 0xff};
    unsigned bad = 0;
    for (unsigned a = 0; a < 256; a++)
        for (unsigned b = 0; b < 256; b++)
            for (size_t c = 0; c < sizeof ends; c++)
                for (size_t d = 0; d < sizeof ends; d++) {
                    const unsigned char s[4] = {(unsigned char)a, (unsigned char)b, ends[c], ends[d]};
                    uint32_t want = 0, got = 0;
                    int w = plain_decode(s, &want);
                    bad += deq_utf8_decode((const char *)s, 4, &got) != w || (w > 0 && got != want);
                    for (size_t n = 1; n < 4; n++) { /* the same bytes cut short */
                        int g = deq_utf8_decode((const char *)s, n, &got);
                        bad += g != (w > 0 && (size_t)w <= n ? w : plain_prefix(s, n));
                    }
                }
    CHECK_MSG(bad == 0, "%u sequences", bad);
    uint32_t cp;
    CHECK(deq_utf8_decode("x", 0, &cp) == 0);
}

TEST(utf8_valid_complete)
{
    CHECK(deq_utf8_valid("", 0));
    CHECK(deq_utf8_valid("a\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80", 10));
    CHECK(deq_utf8_valid("a\0b", 3));
    CHECK(!deq_utf8_valid("a\xc3", 2));
    CHECK(!deq_utf8_valid("\xed\xa0\x80", 3));
    CHECK(!deq_utf8_valid("\xc0\x80", 2));

    static const struct {
        const char *s;
        size_t n, want;
    } cut[] = {{"", 0, 0}, {"ab", 2, 2}, {"a\xc3", 2, 1}, {"a\xe2\x82", 3, 1}, {"a\xf0\x9f\x98", 4, 1},
               {"a\xf0\x9f", 3, 1}, {"\xf0\x9f\x98\x80", 4, 4}, {"a\x80", 2, 2}, {"a\xe0\x80", 3, 3}, {"a\xff", 2, 2},
               {"a\xf5\x80", 3, 3}, {"\x80\x80\x80\x80", 4, 4}, {"\xe2\x82\xac\xe2", 4, 3}, {"\xed\xa0", 2, 2}};
    for (size_t i = 0; i < DEQ_COUNT(cut); i++)
        CHECK_MSG(deq_utf8_complete(cut[i].s, cut[i].n) == cut[i].want, "case %zu: %zu", i,
                  deq_utf8_complete(cut[i].s, cut[i].n));
}

TEST(utf8_sanitize_replaces_maximal_subparts)
{
#define R "\xef\xbf\xbd"
    /* the examples of the Unicode standard, tables 3-8 to 3-11, and ends of text */
    static const struct {
        const char *in, *out;
    } t[] = {
        {"\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41", R R R R R R R R "A"},
        {"\xed\xa0\x80\xed\xbf\xbf\xed\xaf\x41", R R R R R R R R "A"},
        {"\xf4\x91\x92\x93\xff\x41\x80\xbf\x42", R R R R R "A" R R "B"},
        {"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41", R R R R "A"},
        {"x\xf0\x9f\x98", "x" R},
        {"\xf0\x9f\x98\xf0\x9f\x98\x80", R "\xf0\x9f\x98\x80"},
        {"\xc3\xa4 ok", "\xc3\xa4 ok"},
        {"", ""},
    };
#undef R
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        struct deq_buf b;
        deq_buf_init(&b, 1000);
        CHECK(deq_utf8_sanitize(&b, t[i].in, strlen(t[i].in)));
        CHECK_MSG(b.len == strlen(t[i].out) && !memcmp(b.len ? b.data : "", t[i].out, b.len), "case %zu", i);
        deq_buf_free(&b);
    }
    struct deq_buf b;
    deq_buf_init(&b, 2);
    CHECK(!deq_utf8_sanitize(&b, "\xff", 1)); /* three bytes do not fit into two */
    deq_buf_free(&b);
}

static size_t shown_characters(const char *s, size_t n)
{
    struct deq_buf b;
    size_t count = 0;
    deq_buf_init(&b, 3 * n);
    CHECK(deq_utf8_sanitize(&b, s, n));
    for (size_t i = 0; i < b.len; i++)
        count += ((unsigned char)b.data[i] & 0xc0) != 0x80;
    deq_buf_free(&b);
    return count;
}

/* Whatever the bytes and however they are cut: a piece begins in the last character that is shown of the
 * bytes up to its first one. */
TEST(utf8_pass_counts_what_is_shown)
{
    static const char bytes[] = "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\xed\xa0\xc0\xff\xf4\x90";
    for (uint64_t round = 0, draw = 0; round < 2000; round++) {
        struct deq_utf8_place place = {0};
        char s[24];
        const size_t n = 1 + deq_rng_below(7, 1, draw++, sizeof s);
        for (size_t i = 0; i < n; i++)
            s[i] = bytes[deq_rng_below(7, 1, draw++, sizeof bytes - 1)];
        for (size_t at = 0; at < n;) {
            const size_t piece = 1 + deq_rng_below(7, 1, draw++, DEQ_MIN(n - at, (size_t)5)),
                         want = shown_characters(s, at + 1) - 1, got = deq_utf8_pass(&place, s + at, piece);
            CHECK_MSG(got == want, "round %d: %zu at byte %zu, expected %zu", (int)round, got, at, want);
            at += piece;
        }
        CHECK(place.chars + (place.n_open > 0) == shown_characters(s, n));
        CHECK(deq_utf8_pass(&place, NULL, 0) == place.chars);
    }
}

/* As Python's str.strip, which templates of chats are written for. */
TEST(utf8_strip)
{
    static const struct {
        const char *text, *want;
    } t[] = {{"", ""},
             {"a", "a"},
             {" \t\r\n\v\f\x1c\x1d\x1e\x1f a b \n", "a b"},
             {"\xc2\xa0\xc2\x85\xe1\x9a\x80\xe2\x80\x83\xe2\x80\xa8\xe2\x80\xa9\xe2\x80\xaf\xe2\x81\x9f\xe3\x80\x80x"
              "\xe3\x80\x80\xc2\xa0", "x"},
             {"\xe2\x80\x8bx\xe2\x80\x8b", "\xe2\x80\x8bx\xe2\x80\x8b"}, /* zero width is no white space there */
             {" \xff ", "\xff"},
             {"\xa0x\x80\x80", "\xa0x\x80\x80"},
             {" \xc2\xa0\n", ""}};
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        size_t begin, end;
        deq_utf8_strip(t[i].text, strlen(t[i].text), &begin, &end);
        CHECK_MSG(begin <= end && end - begin == strlen(t[i].want) &&
                  !memcmp(t[i].text + begin, t[i].want, end - begin), "case %zu: %zu to %zu", i, begin, end);
    }
}
