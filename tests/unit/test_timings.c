/* server/api/timings.c: times of jobs that run side by side, as JSON and as a header. */
#include "server/api/timings.h"

#include "tests/unit/test.h"

enum { MS = 1000000 };

static struct job job(size_t prompt, size_t cached, uint64_t admitted_ms, uint64_t first_ms, uint64_t last_ms)
{
    return (struct job){.prompt = {.n = prompt},
                        .admission = {.cached_tokens = cached},
                        .arrived_ns = 10 * MS,
                        .admitted_ns = admitted_ms * MS,
                        .first_token_ns = first_ms * MS,
                        .last_token_ns = last_ms * MS};
}

TEST(timings_of_jobs_side_by_side)
{
    struct timings t = {.predicted_n = 30, .prompt_evaluations = 12, .predicted_evaluations = 75};
    const struct job a = job(10, 8, 12, 20, 50), b = job(4, 0, 11, 25, 45);
    timings_add(&t, &a, 60 * MS);
    timings_add(&t, &b, 60 * MS);
    CHECK(t.queue_ns == 2 * MS && t.prompt_ns == 14 * MS && t.predicted_ns == 30 * MS);
    CHECK(t.cache_n == 8 && t.prompt_n == 6);
    struct deq_buf out;
    deq_buf_init(&out, 1 << 12);
    timings_json(&t, &out);
    CHECK_EQ(out.data, "{\"queue_ms\":2.000,\"cache_n\":8,\"prompt_n\":6,\"prompt_ms\":14.000,\"prompt_per_token_ms\":"
                       "2.33333,\"prompt_per_second\":428.571,\"prompt_evaluations\":12,\"predicted_n\":30,"
                       "\"predicted_ms\":30.000,\"predicted_per_token_ms\":1,\"predicted_per_second\":1000,"
                       "\"predicted_evaluations\":75}");
    deq_buf_free(&out);
}

/* A prompt that was only scored has no token; one that never ran has no time; nothing is divided by zero. */
TEST(timings_of_nothing)
{
    struct timings t = {0}, none = {0};
    const struct job scored = job(5, 0, 12, 0, 0), queued = job(5, 0, 0, 0, 0);
    timings_add(&t, &scored, 40 * MS);
    CHECK(t.prompt_ns == 28 * MS && t.predicted_ns == 0);
    timings_add(&none, &queued, 40 * MS);
    CHECK(none.queue_ns == 0 && none.prompt_ns == 0 && none.predicted_ns == 0);
    struct deq_buf out;
    deq_buf_init(&out, 1 << 12);
    timings_json(&none, &out);
    CHECK(strstr(out.data, "\"prompt_per_second\":0,") && strstr(out.data, "\"predicted_per_second\":0,"));
    deq_buf_free(&out);
}

TEST(timings_as_a_header)
{
    struct timings t = {.queue_ns = 1500000, .prompt_ns = 2 * MS, .predicted_ns = 3 * MS, .prompt_n = 5,
                        .prompt_evaluations = 15, .predicted_n = 4, .predicted_evaluations = 9};
    struct channel *c = channel_new(NULL, NULL, 1 << 16, NULL, 1);
    const struct job j = job(5, 0, 12, 20, 50);
    REQUIRE(c);
    timings_tell(&t, c);
    CHECK_EQ((const char *)c->timing, "queue;dur=1.500, prompt;dur=2.000, decode;dur=3.000, evaluations;desc=\"15 of 5 "
                                      "prompt tokens, 9 of 4 tokens\"");
    t = (struct timings){UINT64_MAX, UINT64_MAX, UINT64_MAX, 0, UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX};
    timings_tell(&t, c); /* the longest fits */
    CHECK_EQ(c->timing[strlen(c->timing) - 1], '"');
    timings_tell_queue(&j, c);
    CHECK_EQ((const char *)c->timing, "queue;dur=2.000");
    channel_unref(c);
}
