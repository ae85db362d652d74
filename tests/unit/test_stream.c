/* core/text/stream.c: bytes of tokens become text, with stop strings, whole characters, and a character that was begun
 * before the text. */
#include "core/text/stream.h"

#include "core/base/buf.h"
#include "core/base/mem.h"
#include "core/base/rng.h"
#include "tests/unit/test.h"

/* However the bytes are cut into two pieces, the same text comes out, and the same stop string was met. given NULL:
 * blanks in front are skipped. */
static void check_text(const char *given, const char *bytes, const char *stop, const char *want, bool stopped)
{
    const size_t n = strlen(bytes), stop_len = stop ? strlen(stop) : 0;
    for (size_t cut = 0; cut <= n; cut++) {
        struct deq_text *t;
        struct deq_buf out;
        deq_buf_init(&out, 1000);
        CHECK(deq_text_new(&stop, &stop_len, stop != NULL, &t, NULL) == DEQ_OK);
        if (given)
            deq_text_begin(t, given, strlen(given));
        else
            deq_text_skip_blanks(t);
        deq_text_push(t, bytes, cut, &out);
        const int met = deq_text_push(t, bytes + cut, n - cut, &out);
        deq_text_end(t, &out);
        CHECK_MSG(met == (stopped ? 0 : -1), "%s | %s, cut at %zu: %d", given ? given : "(skip)", bytes, cut, met);
        CHECK_MSG(out.len == strlen(want) && !memcmp(out.len ? out.data : "", want, out.len),
                  "%s | %s, cut at %zu: \"%.*s\"", given ? given : "(skip)", bytes, cut,
                  (int)out.len, out.data);
        deq_buf_free(&out);
        deq_text_free(t);
    }
}

#define R "\xef\xbf\xbd"

TEST(text_is_whole_characters)
{
    check_text("", "caf\xc3\xa9 \xf0\x9f\x98\x80!", NULL, "caf\xc3\xa9 \xf0\x9f\x98\x80!", false);
    check_text("", "a\xff\xe2\x82" "b\xe2\x82", NULL, "a" R R "b" R, false);
    check_text("", "one. Two", ". T", "one", true);
    check_text("", "one\xc3. Two", ". T", "one" R, true);
    check_text("", "one. ", ". T", "one. ", false);
}

TEST(text_goes_on_with_a_character)
{
    check_text("\xc3", "\xa9t\xc3\xa9", NULL, "\xc3\xa9t\xc3\xa9", false);
    check_text("\xf0\x9f", "\x98\x80", NULL, "\xf0\x9f\x98\x80", false);
    check_text("\xf0\x9f", "\x98", NULL, R, false);
    check_text("\xf0\x9f", "b", NULL, R "b", false);
    check_text("\xc3", "", NULL, R, false);
    /* begun before the text: the text does not hold the stop string */
    check_text("\xc3", "\xa9", "\xc3\xa9", "\xc3\xa9", false);
    check_text("\xc3", "END", "END", R, true);
    check_text("\xc3", "\xa9" "END", "END", "\xc3\xa9", true);
    check_text("\xe2\x82", "\xac\xe2\x82\xac.", "\xe2\x82\xac", "\xe2\x82\xac", true); /* the second one */
    check_text("\xc3", "EN", "END", R "EN", false);
}

/* Nothing is held back but what a stop string or a character may go on with. */
TEST(text_is_shown_at_once)
{
    static const struct {
        const char *stop, *bytes;
        size_t shown;
    } t[] = {{NULL, "abc", 3}, {"xy", "abc", 3}, {"xy", "abx", 2}, {"xyz", "axxy", 2}, {NULL, "ab\xc3", 2}};
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        struct deq_text *text;
        struct deq_buf out;
        const size_t len = t[i].stop ? strlen(t[i].stop) : 0;
        deq_buf_init(&out, 100);
        REQUIRE(!deq_text_new(&t[i].stop, &len, t[i].stop != NULL, &text, NULL));
        CHECK_EQ(deq_text_push(text, t[i].bytes, strlen(t[i].bytes), &out), -1);
        CHECK_EQ(out.len, t[i].shown);
        deq_text_free(text);
        deq_buf_free(&out);
    }
}

TEST(text_begins_behind_blanks)
{
    check_text(NULL, " a b ", NULL, "a b ", false);
    check_text(NULL, "\n\n \t\r\nab\n", "\n", "ab", true);
    check_text(NULL, " \n", "\n", "", false);
    check_text(NULL, " ", NULL, "", false);
    check_text(NULL, "\nuser: x", "\nuser:", "", true); /* the next turn at once */
    check_text(NULL, "\nuse it", "\nuser:", "use it", false);
    check_text(NULL, "\n\xc3\xa9\n\nb", "\n\n", "\xc3\xa9", true);
    check_text(NULL, "\n\n\xc3", "\n\n", R, false);
    check_text("", "\na", "\n", "", true);
}

/* A stop string is as long as it is said to be, whatever its bytes stand in. */
TEST(text_with_parts_of_strings_as_stops)
{
    static const char *const stops[] = {"\n\n", "ENDING"};
    static const size_t lens[] = {1, 3};
    struct deq_text *t;
    struct deq_buf out;
    deq_buf_init(&out, 100);
    REQUIRE(!deq_text_new(stops, lens, 2, &t, NULL));
    deq_text_skip_blanks(t);
    CHECK_EQ(deq_text_push(t, "\n\nEN", 4, &out), -1); /* blanks in front are no stop string */
    CHECK_EQ(out.len, 0u);
    CHECK_EQ(deq_text_push(t, "D", 1, &out), 1);
    CHECK_EQ(out.len, 0u);
    deq_text_free(t);
    deq_buf_free(&out);
}

TEST(text_without_memory)
{
    static const char *const stop[] = {"one", "two"};
    static const size_t len[] = {3, 3};
    struct deq_text *t = NULL;
    struct deq_err err;
    const uint64_t live = deq_mem_live();
    for (uint64_t nth = 1; !t; nth++) {
        deq_mem_fault(nth, false);
        const enum deq_rc rc = deq_text_new(stop, len, 2, &t, &err);
        deq_mem_fault(0, false);
        CHECK(nth <= 6 ? rc == DEQ_ENOMEM && !t && deq_mem_live() == live : rc == DEQ_OK && t);
    }
    deq_text_free(t);
    deq_text_free(NULL);
    CHECK_EQ(deq_mem_live(), live);
}

/* What the rule says, read off the whole text: the first end of a stop string, of several that end there the longest.
 * Returns its index, -1: none; *ret_shown bytes stand before it. */
static int by_definition(const char *text, size_t n, const char *const *stop, const size_t *len, size_t n_stops,
                         size_t *ret_shown)
{
    int which = -1;
    *ret_shown = n;
    for (size_t end = 1; end <= n && which < 0; end++)
        for (size_t i = 0; i < n_stops; i++)
            if (len[i] <= end && end - len[i] < *ret_shown && !memcmp(text + end - len[i], stop[i], len[i])) {
                *ret_shown = end - len[i];
                which = (int)i;
            }
    return which;
}

/* Stop strings that overlap in every way, and pieces of any size: what was shown, and which string was met, does not
 * depend on how the bytes arrived. */
TEST(text_of_overlapping_stop_strings_however_cut)
{
    enum { STOPS = 3, LONGEST = 4, TEXT = 12 };
#define DRAW(n) deq_rng_below(round, 2, draw++, n)
    for (uint64_t round = 0; round < 20000; round++) {
        uint64_t draw = 0;
        char bytes[STOPS][LONGEST], text[TEXT];
        const char *stop[STOPS];
        size_t len[STOPS], shown;
        const size_t n_stops = 1 + DRAW(STOPS), n = DRAW(TEXT + 1);
        struct deq_text *t;
        struct deq_buf out;
        for (size_t i = 0; i < n_stops; i++) {
            stop[i] = bytes[i];
            len[i] = 1 + DRAW(LONGEST);
            for (size_t k = 0; k < len[i]; k++)
                bytes[i][k] = "abc"[DRAW(3)];
        }
        for (size_t i = 0; i < n; i++)
            text[i] = "abc"[DRAW(3)];
        deq_buf_init(&out, 100);
        REQUIRE(!deq_text_new(stop, len, n_stops, &t, NULL));
        deq_text_begin(t, "", 0);
        int met = -1;
        for (size_t at = 0, piece; at < n; at += piece) {
            piece = 1 + DRAW(n - at);
            met = deq_text_push(t, text + at, piece, &out);
        }
        deq_text_end(t, &out);
        const int want = by_definition(text, n, stop, len, n_stops, &shown);
        CHECK_MSG(met == want && out.len == shown && (!shown || !memcmp(out.data, text, shown)),
                  "round %d: \"%.*s\": string %d behind %zu bytes, not %d behind %zu", (int)round, (int)n, text, met,
                  out.len, want, shown);
        deq_buf_free(&out);
        deq_text_free(t);
    }
#undef DRAW
}
