/* Memory runs out at every place of a request's way, from its body to its last byte: the answer is the one that it
 * would have been, or an error; never one with a part missing. The requests go through router, parser, scheduler and
 * engine as they do behind HTTP. */
#include "server/api/answer.h"

#include <time.h>

#include "core/base/clock.h"
#include "core/base/mem.h"
#include "server/api/route.h"
#include "server/api/service.h"
#include "server/log.h"
#include "tests/unit/test.h"

static struct conf conf;
static struct metrics metrics;
static struct deq_budget budget;
static struct service service;

static void on_resume(void *conn)
{
    (void)conn;
}

struct outcome {
    int status; /* of a stream too; 0: cut */
    bool streamed;
    char text[8192];
};

static const struct timespec nap = {.tv_nsec = 20000};

static void wait_until_done(struct channel *c)
{
    for (bool done = false; !done;) {
        pthread_mutex_lock(&c->lock);
        done = c->done;
        pthread_mutex_unlock(&c->lock);
        if (!done)
            nanosleep(&nap, NULL);
    }
}

/* Two seconds of the wall clock are one answer. */
static void forget_time(char *text)
{
    for (char *p = text; (p = strstr(p, "\"created")) != NULL;)
        for (p += strcspn(p, "0123456789"); *p >= '0' && *p <= '9'; p++)
            *p = '0';
}

/* A request whose nth allocation fails; 0: none. False: it needs fewer. */
static bool ask(const char *path, const char *body, uint64_t nth, struct outcome *ret)
{
    struct exchange x = {.method = "POST", .path = path, .request_id = "r", .arrived_ns = deq_now_ns(),
                         .caller = {.id = 1, .weight = 1}};
    struct outcome o = {0};
    x.channel = channel_new(&x, on_resume, 1 << 20, &budget, 1);
    x.body = (struct deq_buf){.max = 1 << 20, .allowance = &x.channel->allowance};
    x.reply = x.body;
    deq_buf_str(&x.body, body);
    route_check(&service, &x, NULL, 0);
    const uint64_t before = deq_mem_calls();
    deq_mem_fault(nth, false);
    route_handle(&service, &x);
    struct channel *c = x.channel;
    if (x.status && x.reply.failed) { /* as http.c does */
        x.status = 503;
        channel_last_words(c, answer_no_memory);
    } else if (x.status) {
        channel_give(c, &x.reply);
    } else {
        wait_until_done(c);
    }
    deq_mem_fault(0, false);
    const bool reached = deq_mem_calls() - before >= nth;
    o.status = c->failed ? 0 : x.status ? x.status : c->status;
    o.streamed = c->streaming;
    snprintf(o.text, sizeof o.text, "%s%s", c->bytes.len ? c->bytes.data : "", c->last_words ? c->last_words : "");
    CHECK(c->bytes.len < sizeof o.text - 200);
    forget_time(o.text);
    deq_buf_free(&x.body);
    deq_buf_free(&x.reply);
    channel_hang_up(c);
    channel_unref(c);
    /* the engine's thread lets go after its last word */
    for (int tries = 0; tries < 500000 && deq_budget_used(&budget); tries++)
        nanosleep(&nap, NULL);
    *ret = o;
    return reached;
}

static bool is_error(const struct outcome *o)
{
    if (o->streamed)
        return !o->status || (strstr(o->text, "out_of_memory") && !strstr(o->text, "[DONE]"));
    return o->status == 503 && strstr(o->text, "\"out_of_memory\"");
}

TEST(answer_is_whole_or_an_error)
{
    static const struct {
        const char *path, *body;
    } cases[] = {
        {"/v1/completions", "{\"prompt\":\"The\",\"max_tokens\":3,\"logprobs\":2,\"echo\":true,\"n\":2,"
                            "\"stop\":\"zzz\",\"cache\":\"off\",\"seed\":1,\"include\":[\"deq.tokens\"]}"},
        {"/v1/completions", "{\"prompt\":\"The\",\"max_tokens\":3,\"stream\":true,\"cache\":\"off\",\"seed\":1,"
                            "\"logprobs\":1,\"stream_options\":{\"include_usage\":true}}"},
        {"/v1/chat/completions", "{\"messages\":[{\"role\":\"user\",\"content\":\"The\"}],\"max_tokens\":3,"
                                 "\"cache\":\"off\",\"seed\":1,\"logprobs\":true,\"top_logprobs\":1}"},
        {"/v1/responses", "{\"input\":\"The\",\"max_output_tokens\":3,\"cache\":\"off\",\"seed\":1}"},
        {"/v1/responses", "{\"input\":\"The\",\"max_output_tokens\":3,\"cache\":\"off\",\"seed\":1,\"stream\":true}"},
        {"/v1/logits", "{\"prompt\":\"A\",\"positions\":\"last\"}"},
        {"/tokenize", "{\"prompt\":\"The king\"}"},
        {"/detokenize", "{\"tokens\":[70,71,72]}"},
    };
    struct deq_err err;
    struct outcome good, got;
    CHECK(deq_opt_defaults(&conf_table, &conf, &err) == DEQ_OK);
    snprintf(conf.model_path, sizeof conf.model_path, "tests/golden/tiny");
    conf.threads = 1;
    conf.max_sequences = 2;
    conf.stream_flush_ms = 0;
    log_init("error");
    metrics_init(&metrics);
    deq_budget_init(&budget, conf.answer_bytes);
    service = (struct service){.conf = &conf, .metrics = &metrics, .budget = &budget};
    CHECK_MSG(auth_new("", &service.auth, &err) == DEQ_OK &&
                  store_new(&conf, &metrics, &service.store, &err) == DEQ_OK &&
                  store_load(service.store, &err) == DEQ_OK,
              "%s", err.text);
    atomic_store(&service.state, SERVER_READY);
    deq_mem_count_plain(true);
    for (size_t i = 0; i < DEQ_COUNT(cases); i++) {
        size_t errors = 0;
        (void)ask(cases[i].path, cases[i].body, 0, &good);
        CHECK_MSG(good.status == 200, "%s: %d %s", cases[i].path, good.status, good.text);
        for (uint64_t nth = 1; ask(cases[i].path, cases[i].body, nth, &got); nth++) {
            const bool same = got.status == 200 && !strcmp(got.text, good.text);
            errors += !same;
            CHECK_MSG(same || is_error(&got), "%s, allocation %llu: %d %s", cases[i].body, (unsigned long long)nth,
                      got.status, got.text);
        }
        CHECK_MSG(errors > 5, "%s: %zu errors", cases[i].path, errors);
        CHECK(deq_budget_used(&budget) == 0);
    }
    deq_mem_count_plain(false);
    store_free(service.store);
    auth_free(service.auth);
    pthread_mutex_destroy(&budget.lock);
}
