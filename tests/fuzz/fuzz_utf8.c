/* Bytes on their way into text that others read: made UTF-8, one line, a string of JSON, a message of an error,
 * a text file. */
#include "core/base/buf.h"
#include "core/base/json.h"
#include "core/base/mem.h"
#include "core/base/text.h"
#include "core/base/utf8.h"
#include "server/api/reply.h"
#include "tests/fuzz/fuzz.h"

/* Counted in pieces as in one. */
static void check_places(const char *s, size_t n, size_t chars)
{
    struct deq_utf8_place whole = {0}, cut = {0};
    uint64_t seed = n;
    (void)deq_utf8_pass(&whole, s, n);
    for (size_t at = 0, k; at < n; at += k) {
        k = fuzz_piece(&seed, 3, n - at);
        const size_t before = cut.chars + (cut.n_open > 0);
        const size_t begin = deq_utf8_pass(&cut, s + at, k);
        FUZZ_HOLDS(begin + 1 >= before && begin <= cut.chars);
    }
    FUZZ_HOLDS(whole.chars == cut.chars && whole.n_open == cut.n_open);
    FUZZ_HOLDS(whole.chars + (whole.n_open > 0) == chars);
}

static size_t characters(const char *s, size_t n)
{
    size_t chars = 0;
    for (size_t i = 0; i < n; i++)
        chars += ((unsigned char)s[i] & 0xc0) != 0x80;
    return chars;
}

static void check_sanitized(const char *s, size_t n)
{
    struct deq_buf out, again;
    size_t begin, end;
    deq_buf_init(&out, 1 << 24);
    deq_buf_init(&again, 1 << 24);
    FUZZ_HOLDS(deq_utf8_sanitize(&out, s, n) && deq_utf8_valid(out.data, out.len));
    FUZZ_HOLDS(!deq_utf8_valid(s, n) || (out.len == n && !memcmp(out.data, s, n)));
    FUZZ_HOLDS(deq_utf8_sanitize(&again, out.data, out.len) && again.len == out.len);
    check_places(s, n, characters(out.data, out.len));
    deq_utf8_strip(s, n, &begin, &end);
    FUZZ_HOLDS(begin <= end && end <= n);
    const size_t complete = deq_utf8_complete(s, n);
    FUZZ_HOLDS(complete <= n && n - complete < 4 && (!deq_utf8_valid(s, n) || complete == n));
    deq_buf_free(&out);
    deq_buf_free(&again);
}

/* What is written as a string of JSON is read as that string. */
static void check_string(const char *s, size_t n)
{
    struct deq_buf text, out;
    json_error_t where;
    json_t *root;
    deq_buf_init(&text, 1 << 24);
    deq_buf_init(&out, 1 << 24);
    deq_utf8_sanitize(&text, s, n);
    deq_buf_str(&out, "[");
    reply_buf(&out, &text);
    deq_buf_str(&out, "]");
    for (size_t i = 0; i < out.len; i++)
        FUZZ_HOLDS((unsigned char)out.data[i] >= 0x20);
    FUZZ_HOLDS(!deq_json_parse(out.data, out.len, JSON_ALLOW_NUL, &root, &where));
    const json_t *v = json_array_get(root, 0);
    FUZZ_HOLDS(json_string_length(v) == text.len && !memcmp(json_string_value(v), text.data, text.len));
    json_decref(root);
    deq_buf_free(&text);
    deq_buf_free(&out);
}

static void check_line(const char *s)
{
    char *line = fuzz_text((const uint8_t *)s, strlen(s));
    struct deq_err err;
    deq_utf8_line(line);
    FUZZ_HOLDS(strlen(line) <= strlen(s) && deq_utf8_valid(line, strlen(line)));
    for (const char *c = line; *c; c++)
        FUZZ_HOLDS((unsigned char)*c >= 0x20 && *c != 0x7f);
    fuzz_check_err(deq_fail(&err, DEQ_EFORMAT, "of %s", s), &err);
    fuzz_check_err(deq_fail_prefix(&err, DEQ_EIO, s), &err);
    free(line);
}

static void check_clean(const uint8_t *data, size_t n)
{
    char *text = fuzz_text(data, n);
    size_t len = n;
    struct deq_err err;
    const enum deq_rc rc = deq_text_clean("fuzz", text, &len, &err);
    if (rc)
        fuzz_check_err(rc, &err);
    else
        FUZZ_HOLDS(len <= n && !text[len]);
    free(text);
}

FUZZ(utf8)
{
    char *text = fuzz_text(data, n);
    if (n) {
        check_sanitized((const char *)data, n);
        check_string((const char *)data, n);
    }
    check_line(text);
    check_clean(data, n);
    free(text);
}
