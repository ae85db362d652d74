/* server/api/reply.c: what is written into JSON comes back from it. */
#include "server/api/reply.h"

#include <jansson.h>
#include <math.h>

#include "core/base/buf.h"
#include "core/base/rng.h"
#include "tests/unit/test.h"

TEST(reply_strings_are_json)
{
    static const char text[] = "a\"b\\c\n\t\x01\x7f/é😀";
    struct deq_buf b;
    deq_buf_init(&b, 1 << 20);
    reply_string(&b, text, sizeof text - 1);
    json_t *back = json_loadb(b.data, b.len, JSON_DECODE_ANY, NULL);
    CHECK(back && json_string_length(back) == sizeof text - 1 &&
          !memcmp(json_string_value(back), text, sizeof text - 1));
    json_decref(back);
    for (uint64_t i = 0; i < 2000; i++) { /* every float comes back from 9 digits */
        const union {
            uint32_t bits;
            float f;
        } x = {(uint32_t)deq_rng_u64(1, 2, i)};
        deq_buf_reset(&b);
        reply_number(&b, x.f);
        back = json_loadb(b.data, b.len, JSON_DECODE_ANY, NULL);
        CHECK_MSG(back && (isfinite(x.f) ? (float)json_number_value(back) == x.f : json_number_value(back) == -9999),
                  "%s", b.data);
        json_decref(back);
    }
    deq_buf_free(&b);
}

TEST(reply_errors_are_json)
{
    static const char text[] = "a\"b\\c\n\t\x01/é";
    struct deq_buf b;
    deq_buf_init(&b, 1 << 12);
    reply_length_error(&b, text, text, 201, 200);
    json_t *back = json_loadb(b.data, b.len, 0, NULL), *e = json_object_get(back, "error");
    const char *type = json_string_value(json_object_get(e, "type"));
    CHECK(type && !strcmp(type, "invalid_request_error"));
    CHECK(json_string_value(json_object_get(e, "message")) &&
          !strcmp(json_string_value(json_object_get(e, "message")), text));
    CHECK(json_string_value(json_object_get(e, "param")) &&
          !strcmp(json_string_value(json_object_get(e, "param")), text));
    CHECK_EQ(json_integer_value(json_object_get(e, "n_prompt_tokens")), 201);
    json_decref(back);
    deq_buf_reset(&b);
    reply_error(&b, 500, "internal_error", NULL, "\xff"); /* no answer rather than one that is no JSON */
    CHECK(b.failed);
    deq_buf_free(&b);
}

TEST(reply_bytes_are_base64)
{
    static const char *const expected[] = {"\"\"", "\"AA==\"", "\"AP8=\"", "\"AP8+\"", "\"AP8+vw==\"", "\"AP8+v/s=\""};
    static const unsigned char bytes[] = {0x00, 0xff, 0x3e, 0xbf, 0xfb};
    struct deq_buf b;
    deq_buf_init(&b, 64);
    for (size_t n = 0; n < DEQ_COUNT(expected); n++) {
        deq_buf_reset(&b);
        reply_base64(&b, bytes, n);
        CHECK_EQ(b.data, expected[n]);
    }
    deq_buf_free(&b);
}
