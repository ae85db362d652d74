/* server/api/ep_states.c: from saving to removal, and want of memory at every step. */
#include "core/base/clock.h"
#include "tests/unit/inside.h"
#include "tests/unit/scratch.h"
#include "tests/unit/test.h"

static struct outcome o;

static bool says(const char *method, const char *path, const char *body, int status, const char *text)
{
    inside_ask(method, path, body, &o);
    const bool ok = o.status == status && strstr(o.text, text);
    if (!ok)
        printf("%s %s: %d %s\n", method, path, o.status, o.text);
    return ok;
}

TEST(ep_states_from_saving_to_removal)
{
    char set[600];
    REQUIRE(scratch_begin());
    snprintf(set, sizeof set, "state.dir=%s", scratch_path("d"));
    REQUIRE(inside_begin((const char *const[]){set, "state.max_states=1", NULL}));
    CHECK(says("GET", "/v1/states", "", 200, "\"data\":[]"));
    CHECK(says("POST", "/v1/states", "{\"name\": \"a\", \"prompt\": \"The\"}", 200, "\"id\":\"a\""));
    CHECK(says("POST", "/v1/states", "{\"name\": \"b\", \"prompt\": \"The\"}", 507, "states_full"));
    CHECK(says("POST", "/v1/states", "{\"state\": \"b\", \"prompt\": \"The\"}", 404, "state_not_found"));
    CHECK(says("GET", "/v1/states", "", 200, "\"id\":\"a\""));
    CHECK(says("POST", "/v1/completions", "{\"state\": \"a\", \"max_tokens\": 2}", 200, "\"cache\":\"state\""));
    inside_ask("GET", "/v1/states/a", "", &o);
    CHECK(o.status == 200 && o.n > 1000 && !strcmp(o.type, "application/octet-stream"));
    const size_t n = o.n;
    inside_ask("POST", "/v1/states", "{\"prompt\": \"The\"}", &o);
    CHECK(o.status == 200 && o.n == n && !strcmp(o.type, "application/octet-stream"));
    CHECK(says("PUT", "/v1/states/a", "no state", 400, "state_refused"));
    CHECK(says("PUT", "/v1/states/b", "no state", 507, "states_full"));
    CHECK(says("PUT", "/v1/states/.a", "no state", 400, "\"param\":\"name\""));
    CHECK(says("DELETE", "/v1/states/a", "", 200, "\"deleted\":true"));
    CHECK(says("DELETE", "/v1/states/a", "", 404, "state_not_found") && says("GET", "/v1/states/a", "", 404, ""));
    CHECK(says("PUT", "/v1/states", "", 405, "GET, POST") && says("POST", "/v1/states/a", "", 405, "GET, PUT, DELETE"));
    inside_end();
    scratch_end("d", NULL);
}

/* An allocation that fails gives 503, or nothing of it is told; what was taken is given back (inside_end looks). */
TEST(ep_states_without_memory)
{
    char set[600];
    const char *const body = "{\"name\": \"a\", \"prompt\": \"The\", \"deq\": {\"tol\": 0.5}}";
    const struct exchange head = {.method = "POST", .path = "/v1/states", .request_id = "r", .arrived_ns = deq_now_ns(),
                                  .caller = {.id = 1, .weight = 1}};
    REQUIRE(scratch_begin());
    snprintf(set, sizeof set, "state.dir=%s", scratch_path("d"));
    REQUIRE(inside_begin((const char *const[]){set, NULL}));
    for (uint64_t nth = 1; inside_ask_as(&head, body, nth, &o); nth++)
        CHECK_MSG(o.status == 503 || o.status == 500 || o.status == 507 || o.status == 200 || o.status == 0,
                  "allocation %llu: %d %s", (unsigned long long)nth, o.status, o.text);
    CHECK(says("POST", "/v1/completions", "{\"state\": \"a\", \"max_tokens\": 2}", 200, "\"cache\":\"state\""));
    inside_end();
    scratch_end("d/a.safetensors", "d", NULL);
}
