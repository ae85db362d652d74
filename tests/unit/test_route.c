/* server/api/route.c: the table, and that whoever shows no key gets nowhere that the table does not open. */
#include "server/api/route.h"

#include "server/api/service.h"
#include "server/log.h"
#include "tests/unit/scratch.h"
#include "tests/unit/test.h"

/* printf %s user | sha256sum, and of "root" */
#define USER_HASH "04f8996da763b7a969b1028ee3007569eaf3a635486ddab211d512c85b9df8fb"
#define ROOT_HASH "4813494d137e1631bba301d5acab6e7bb7aa74ce1185d456565ef51d737677b2"

struct head {
    const char *method, *path, *key;
    bool admin_listener;
};

/* The status that the headers get: 0 when the endpoint is asked. */
static int check(struct service *s, struct head h, struct exchange *ret)
{
    const struct credential key = {h.key, h.key ? strlen(h.key) : 0};
    *ret = (struct exchange){.method = h.method, .path = h.path, .admin_listener = h.admin_listener,
                             .page = ORIGIN_NONE, .reply.max = 1 << 16};
    route_check(s, ret, &key, h.key ? 1 : 0);
    deq_buf_free(&ret->reply);
    return ret->status;
}

/* Nothing but keys; refusals are not logged. */
static struct service begin(const struct conf *conf, const char *keys)
{
    struct service s = {.conf = conf};
    struct deq_err err = {0};
    if (keys)
        scratch_put("keys", keys);
    CHECK_MSG(!auth_new(keys ? scratch_path("keys") : "", &s.auth, &err), "%s", err.text);
    log_init("error");
    return s;
}

static void end(struct service *s)
{
    log_init("info");
    auth_free(s->auth);
}

/* What is served, and whether it asks for a key, for an admin's, or for none. Whoever adds a path decides here too. */
static const struct {
    const char *method, *path;
    char asks; /* 'k', 'a', '-'; 'm' for a key unless auth.open_metrics */
    bool on_admin;
} served[] = {
    {"POST", "/v1/completions", 'k', false}, {"POST", "/v1/chat/completions", 'k', false},
    {"POST", "/v1/responses", 'k', false},   {"POST", "/v1/logits", 'k', false},
    {"GET", "/v1/models", 'k', false},       {"GET", "/v1/models/x", 'k', false},
    {"POST", "/tokenize", 'k', false},       {"POST", "/detokenize", 'k', false},
    {"GET", "/tokenizer_info", 'k', false},  {"GET", "/version", 'k', true},
    {"GET", "/openapi.json", 'k', false},    {"GET", "/health", '-', true},
    {"GET", "/health/live", '-', true},      {"GET", "/health/ready", '-', true},
    {"GET", "/health/startup", '-', true},   {"GET", "/metrics", 'm', true},
    {"GET", "/v1/sequences", 'a', true},     {"DELETE", "/v1/sequences/seq_1", 'a', true},
    {"POST", "/admin/reload", 'a', true},
    {"GET", "/", '-', false},                {"GET", "/page/main.js", '-', false},
};

TEST(route_denies_by_default)
{
    REQUIRE(scratch_begin());
    struct conf conf = {.page = true};
    struct service s = begin(&conf, "ann " USER_HASH "\nadm " ROOT_HASH " admin\n");
    REQUIRE(s.auth);
    struct exchange x;
    for (size_t i = 0; i < DEQ_COUNT(served); i++) {
        const char *m = served[i].method, *p = served[i].path;
        const char asks = served[i].asks;
        CHECK_MSG(check(&s, (struct head){m, p, NULL, false}, &x) == (asks == '-' ? 0 : 401) &&
                      x.authenticate == (asks != '-'),
                  "%s %s without a key: %d", m, p, x.status);
        CHECK_MSG(check(&s, (struct head){m, p, "wrong", false}, &x) == (asks == '-' ? 0 : 401), "%s %s: %d", m, p,
                  x.status);
        CHECK_MSG(check(&s, (struct head){m, p, "user", false}, &x) == (asks == 'a' ? 403 : 0), "%s %s: %d", m, p,
                  x.status);
        CHECK_MSG(check(&s, (struct head){m, p, "root", false}, &x) == 0, "%s %s with an admin key: %d", m, p,
                  x.status);
        CHECK_MSG(check(&s, (struct head){m, p, "root", true}, &x) == (served[i].on_admin ? 0 : 404), "%s %s: %d", m, p,
                  x.status);
    }
    conf.open_metrics = true;
    CHECK_EQ(check(&s, (struct head){"GET", "/metrics", NULL, false}, &x), 0);
    conf.open_metrics = false;
    CHECK_EQ(check(&s, (struct head){"GET", "/metrics", NULL, true}, &x), 0); /* its own listener is its own door */
    /* also what does not exist asks for a key first */
    CHECK_EQ(check(&s, (struct head){"GET", "/nothing", NULL, false}, &x), 401);
    CHECK_EQ(check(&s, (struct head){"GET", "/nothing", "user", false}, &x), 404);
    CHECK_EQ(check(&s, (struct head){"GET", "/v1/models/", "user", false}, &x), 404); /* no name behind it */
    CHECK_EQ(check(&s, (struct head){"GET", "/metricsx", "user", false}, &x), 404);
    end(&s);
    scratch_end("keys", NULL);
}

TEST(route_without_keys_serves_all_but_admin)
{
    struct conf conf = {.page = true};
    struct service s = begin(&conf, NULL);
    struct exchange x;
    REQUIRE(s.auth);
    for (size_t i = 0; i < DEQ_COUNT(served); i++)
        CHECK_MSG(check(&s, (struct head){.method = served[i].method, .path = served[i].path}, &x) ==
                      (served[i].asks == 'a' ? 403 : 0),
                  "%s %s: %d", served[i].method, served[i].path, x.status);
    end(&s);
}

TEST(route_methods)
{
    struct conf conf = {0};
    struct service s = begin(&conf, NULL);
    struct exchange x;
    REQUIRE(s.auth);
    CHECK_EQ(check(&s, (struct head){"GET", "/v1/completions", NULL, false}, &x), 405);
    CHECK_EQ(x.allow, "POST");
    CHECK_EQ(check(&s, (struct head){"DELETE", "/v1/models/x", NULL, false}, &x), 405);
    CHECK_EQ(x.allow, "GET");
    CHECK_EQ(check(&s, (struct head){"HEAD", "/health", NULL, false}, &x), 0);
    CHECK(x.probe);
    CHECK_EQ(check(&s, (struct head){"HEAD", "/v1/completions", NULL, false}, &x), 405);
    CHECK_EQ(check(&s, (struct head){"GET", "/nothing", NULL, false}, &x), 404);
    CHECK(!x.allow);
    end(&s);
}

/* server.page false: as if it had never been there; with it, no page for names that somebody else may own. */
TEST(route_page_can_be_left_out)
{
    static const char *const paths[] = {"/", "/page/main.js"};
    struct conf conf = {0};
    struct service s = begin(&conf, NULL);
    REQUIRE(s.auth);
    for (size_t i = 0; i < DEQ_COUNT(paths); i++) {
        struct exchange x;
        conf.page = false;
        CHECK_EQ(check(&s, (struct head){"GET", paths[i], NULL, false}, &x), 404);
        CHECK_EQ(check(&s, (struct head){"POST", paths[i], NULL, false}, &x), 404);
        conf.page = true;
        CHECK_EQ(check(&s, (struct head){"HEAD", paths[i], NULL, false}, &x), 0);
        CHECK_EQ(check(&s, (struct head){"POST", paths[i], NULL, false}, &x), 405);
        CHECK_EQ(check(&s, (struct head){"GET", paths[i], NULL, true}, &x), 404);
        x = (struct exchange){.method = "GET", .path = paths[i], .wrong_host = true, .reply.max = 1 << 16};
        route_check(&s, &x, NULL, 0);
        CHECK_EQ(x.status, 421);
        deq_buf_free(&x.reply);
    }
    end(&s);
}

/* What a head says beside method and path, in the order in which it is refused. */
TEST(route_heads)
{
    static const struct {
        struct exchange x;
        int status;
        bool retry;
    } t[] = {
        {{.overfull = true, .wrong_host = true}, 503, true},
        {{.overfull = true, .path = "/health", .method = "GET"}, 0, false},
        {{.wrong_host = true, .page = ORIGIN_FOREIGN}, 421, false},
        {{.wrong_host = true, .path = "/health", .method = "GET"}, 0, false},
        {{.page = ORIGIN_FOREIGN}, 403, false},
        {{.preflight = true, .method = "OPTIONS"}, 204, false},
        {{.content_type = "text/plain"}, 415, false},
        {{.content_type = "application/json; charset=utf-8"}, 0, false},
        {{.content_type = "application/x-www-form-urlencoded"}, 0, false}, /* curl -d */
        {{.content_type = "application/x-www-form-urlencoded", .browser = true}, 415, false},
        {{.is_encoded = true}, 415, false},
        /* what the headers were refused for stays */
        {{.status = 400, .path = "/nothing", .overfull = true}, 400, false},
    };
    struct conf conf = {0};
    struct service s = begin(&conf, NULL);
    REQUIRE(s.auth);
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        struct exchange x = t[i].x;
        x.reply.max = 1 << 16;
        x.method = x.method ? x.method : "POST";
        x.path = x.path ? x.path : "/v1/completions";
        route_check(&s, &x, NULL, 0);
        CHECK_MSG(x.status == t[i].status && !x.retry_after_ms == !t[i].retry, "case %zu: %d", i, x.status);
        deq_buf_free(&x.reply);
    }
    end(&s);
}
