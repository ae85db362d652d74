/* Server-sent events as deq bench serve reads them: cut anywhere they are the events of the whole. Input: a letter for
 * the cuts, the bytes. */
#include "models/cli/bench/sse.h"
#include "tests/fuzz/fuzz.h"

/* Each with its length in front. */
static void on_event(void *ctx, const char *data, size_t n)
{
    FUZZ_HOLDS(!data[n]);
    deq_buf_fmt(ctx, "%zu:", n);
    deq_buf_add(ctx, data, n);
}

static void read_events(const uint8_t *data, size_t n, uint64_t seed, struct deq_buf *out)
{
    struct sse s;
    sse_init(&s);
    deq_buf_init(out, 1 << 24);
    for (size_t at = 0, k; at < n; at += k) {
        k = seed ? fuzz_piece(&seed, 9, n - at) : n;
        char *piece = fuzz_copy(data + at, k);
        FUZZ_HOLDS(sse_push(&s, piece, k, on_event, out));
        free(piece);
    }
    FUZZ_HOLDS(sse_end(&s, on_event, out));
    sse_free(&s);
}

FUZZ(sse)
{
    const uint64_t seed = 1 + fuzz_letter(&data, &n, 256);
    struct deq_buf whole, cut;
    read_events(data, n, 0, &whole);
    read_events(data, n, seed, &cut);
    FUZZ_HOLDS(whole.len == cut.len && (!whole.len || !memcmp(whole.data, cut.data, whole.len)));
    deq_buf_free(&whole);
    deq_buf_free(&cut);
}
