/* models/cli/bench/sse.c: server-sent events. */
#include "core/base/mem.h"
#include "models/cli/bench/sse.h"
#include "tests/unit/test.h"

struct events {
    struct deq_buf all;
    size_t n;
};

static void on_event(void *ctx, const char *data, size_t n)
{
    struct events *e = ctx;
    CHECK(data[n] == 0);
    deq_buf_str(&e->all, "<");
    deq_buf_add(&e->all, data, n);
    deq_buf_str(&e->all, ">");
    e->n++;
}

/* every way of cutting it into equal pieces, its end told or not */
static void pushed(const char *stream, size_t len, bool end, const char *want, size_t want_len)
{
    for (size_t cut = 1; cut <= len + 1; cut++) {
        struct sse s;
        struct events e = {.n = 0};
        bool ok = true;
        sse_init(&s);
        deq_buf_init(&e.all, 4096);
        deq_buf_str(&e.all, "");
        for (size_t i = 0; i < len; i += cut)
            ok = ok && sse_push(&s, stream + i, DEQ_MIN(cut, len - i), on_event, &e);
        if (end)
            ok = ok && sse_end(&s, on_event, &e);
        CHECK_MSG(ok && e.all.len == want_len && !memcmp(e.all.data, want, want_len), "pieces of %zu of %s: %s", cut,
                  stream, e.all.data);
        sse_free(&s);
        deq_buf_free(&e.all);
    }
}

TEST(sse_does_not_care_how_the_bytes_are_cut)
{
    static const char stream[] = ": ping\n\ndata: {\"a\": 1}\n\ndata:{}\r\n\r\nevent: x\nid: 7\ndata:  two\n"
                                 "data: lines\n\n\n\ndatabase: no\n\ndata\n\ndata: \n"
                                 "\ndata: [DONE]\n\ndata: unfinished\n";
    static const char want[] = "<{\"a\": 1}><{}>< two\nlines><><><[DONE]>";
    pushed(stream, sizeof stream - 1, false, want, sizeof want - 1);
}

TEST(sse_takes_every_valid_stream)
{
#define S(text) text, sizeof(text) - 1
    static const struct {
        const char *stream;
        size_t len;
        const char *want;
        size_t want_len;
    } t[] = {
        {S("data: a\r\rdata: b\r\r"), S("<a><b>")},
        {S("data: a\r\n\r\ndata: b\r\n\r\n"), S("<a><b>")},
        {S("data: a\rdata: b\n\rdata: c\r\n\n"), S("<a\nb><c>")},
        {S("\xef\xbb\xbf" "data: a\n\n"), S("<a>")},
        {S("\xef\xbb\xbf\n" "data: a\n\n"), S("<a>")},
        {S("data: a\n\n\xef\xbb\xbf" "data: b\n\n"), S("<a>")}, /* elsewhere it is a field's name */
        {S("data:a\n\ndata:  b\n\ndata:\n\n"), S("<a>< b><>")},
        {S(":\n: x\ndata: a\n:y\ndata: b\n\n"), S("<a\nb>")},
        {S("event: e\nid: 1\nretry: 10\nother\nother: x\ndata: a\n\n"), S("<a>")},
        {S("data: a\0b\n\n"), S("<a\0b>")},
        {S("data: \xe2\x82\xac \xf0\x9f\x98\x80\n\n"), S("<\xe2\x82\xac \xf0\x9f\x98\x80>")},
        {S("data: a\n\ndata: [DONE]\n"), S("<a><[DONE]>")}, /* nobody closed it */
        {S("data: a\n\ndata: [DONE]"), S("<a><[DONE]>")},
        {S("data: a\r\rdata: [DONE]\r"), S("<a><[DONE]>")},
        {S("event: x\n"), S("")},
        {S(""), S("")},
    };
    for (size_t i = 0; i < DEQ_COUNT(t); i++)
        pushed(t[i].stream, t[i].len, true, t[i].want, t[i].want_len);
}

TEST(sse_has_a_longest_event)
{
    enum { PIECE = 1 << 20 };
    struct sse s;
    struct events e = {.n = 0};
    char *piece = deq_alloc(PIECE);
    memset(piece, 'x', PIECE);
    sse_init(&s);
    bool ok = true;
    size_t n = 0;
    while ((ok = sse_push(&s, piece, PIECE, on_event, &e)) && n < 100)
        n++;
    CHECK(!ok && n == SSE_EVENT_MAX / PIECE && !e.n);
    sse_free(&s);
    sse_init(&s); /* many data lines that are an event too long */
    memcpy(piece, "data: ", 6);
    piece[PIECE - 1] = '\n';
    for (n = 0; (ok = sse_push(&s, piece, PIECE, on_event, &e)) && n < 100;)
        n++;
    CHECK(!ok && n == SSE_EVENT_MAX / PIECE && !e.n);
    sse_free(&s);
    sse_init(&s); /* a comment is never an event too long */
    memset(piece, 'x', PIECE);
    ok = sse_push(&s, ":", 1, on_event, &e);
    for (n = 0; n < 8 && ok; n++)
        ok = sse_push(&s, piece, PIECE, on_event, &e);
    deq_buf_init(&e.all, 16);
    CHECK(ok && sse_push(&s, "\ndata: a\n\n", 10, on_event, &e) && e.n == 1);
    deq_buf_free(&e.all);
    sse_free(&s);
    deq_free(piece);
}
