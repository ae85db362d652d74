/* server/api/completion.c: what a request for text is told when it cannot begin. */
#include "core/base/clock.h"
#include "tests/unit/inside.h"
#include "tests/unit/test.h"

static struct outcome o;

TEST(completion_that_does_not_begin)
{
    struct exchange head = {.method = "POST", .path = "/v1/completions", .request_id = "r", .arrived_ns = deq_now_ns(),
                            .caller = {.id = 1, .weight = 1}};
    REQUIRE(inside_begin((const char *const[]){"limits.answer_bytes=4M", NULL}));
    inside_ask("POST", "/v1/completions", "{\"top_p\":7}", &o);
    CHECK(o.status == 400 && strstr(o.text, "\"param\":\"top_p\""));
    inside_ask("POST", "/v1/completions", "nonsense", &o);
    CHECK(o.status == 400 && strstr(o.text, "\"invalid_json\""));
    head.timeout_ms = 1; /* its time was over before anybody looked */
    head.arrived_ns = deq_now_ns() - 1000000000;
    (void)inside_ask_as(&head, "{\"prompt\":\"a\"}", 0, &o);
    CHECK_MSG(o.status == 504 && strstr(o.text, "\"deadline_exceeded\""), "%d %s", o.status, o.text);
    struct served *m = store_acquire(inside.service.store);
    sched_drain(m->sched);
    inside_ask("POST", "/v1/completions", "{\"prompt\":\"a\"}", &o);
    CHECK_MSG(o.status == 503 && o.retry_after_ms && strstr(o.text, "\"draining\""), "%d %s", o.status, o.text);
    store_release(m);
    inside_end();
}

TEST(completion_without_a_model)
{
    REQUIRE(inside_begin(NULL));
    struct store *loaded = inside.service.store;
    struct deq_err err;
    CHECK(!store_new(&inside.conf, &inside.metrics, &inside.service.store, &err)); /* nothing loaded yet */
    inside_ask("POST", "/v1/completions", "{\"prompt\":\"a\"}", &o);
    CHECK(o.status == 503 && o.retry_after_ms == 1000 && strstr(o.text, "\"model_loading\""));
    store_free(inside.service.store);
    inside.service.store = loaded;
    inside_end();
}
