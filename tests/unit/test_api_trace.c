/* server/api/trace.c: rows as JSON. */
#include "server/api/trace.h"
#include "tests/unit/test.h"

TEST(trace_as_json)
{
    struct deq_buf buffer;
    struct trace_news n;
    struct trace_lists l;
    deq_buf_init(&buffer, 1 << 16);
    trace_news_init(&n, &buffer);
    trace_lists_init(&l, &buffer);
    const float residual[] = {0.5f, NAN, 0.125f};
    const struct deq_trace traces[] = {
        {.fate = DEQ_ROW_COMMITTED, .entered = 1, .left = 2, .guessed = true, .residual = residual, .n = 2},
        {.fate = DEQ_ROW_MISGUESSED, .entered = 2, .left = 3, .residual = residual, .n = 2},
        {.fate = DEQ_ROW_COMMITTED, .entered = 4, .left = 4, .residual = residual + 2, .n = 1},
        {.fate = DEQ_ROW_COMMITTED, .entered = 5, .left = 5},
        {.fate = DEQ_ROW_NOT_FINITE, .entered = 5, .left = 5},
        {.fate = DEQ_ROW_LEFT_OPEN, .entered = 5, .left = 5}};
    for (uint32_t i = 0; i < DEQ_COUNT(traces); i++) {
        const struct deq_event e = {.position = 10 + i, .token = 70 + i, .start = DEQ_WARM_PREDICTOR,
                                    .start_cached = i == 2, .trace = &traces[i]};
        trace_add(&n, &e);
    }
    trace_render(&l, &n);
    CHECK_EQ(l.tokens.data, "{\"position\":10,\"start\":\"predictor\",\"entered\":1,\"committed\":2,\"guessed\":true,"
                            "\"residual\":[0.5,null]},"
                            "{\"position\":12,\"start\":\"prefix\",\"entered\":4,\"committed\":4,\"guessed\":false,"
                            "\"residual\":[0.125]},"
                            "{\"position\":13,\"start\":\"predictor\",\"entered\":5,\"committed\":5,\"guessed\":false,"
                            "\"residual\":[]},");
    CHECK_EQ(l.dropped.data, "{\"position\":11,\"token\":71,\"entered\":2,\"left\":3,\"why\":\"guess\"},"
                             "{\"position\":14,\"token\":74,\"entered\":5,\"left\":5,\"why\":\"not_finite\"},"
                             "{\"position\":15,\"token\":75,\"entered\":5,\"left\":5,\"why\":\"end\"},");
    trace_news_reset(&n);
    trace_render(&l, &n); /* nothing new */
    CHECK_EQ(l.tokens.data + l.tokens.len - 4, "[]},");
    trace_news_free(&n);
    trace_lists_free(&l);
}

/* Where memory ran out, the lists know. */
TEST(trace_fails_with_its_news)
{
    struct deq_buf buffer;
    struct trace_news n;
    struct trace_lists l;
    deq_buf_init(&buffer, 64);
    trace_news_init(&n, &buffer);
    trace_lists_init(&l, &buffer);
    const struct deq_trace t = {.fate = DEQ_ROW_COMMITTED};
    for (int i = 0; i < 10; i++)
        trace_add(&n, &(struct deq_event){.trace = &t});
    CHECK(n.rows.failed);
    trace_render(&l, &n);
    CHECK(l.tokens.failed);
    trace_news_free(&n);
    trace_lists_free(&l);
}
