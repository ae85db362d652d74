/* server/api/ep_health.c: what probes hear in each state. */
#include "tests/unit/inside.h"
#include "tests/unit/test.h"

TEST(ep_health_by_state)
{
    static const struct {
        enum server_state state;
        const char *word;
        int live, ready, startup;
    } t[] = {
        {SERVER_STARTING, "starting", 200, 503, 503},
        {SERVER_READY, "ready", 200, 200, 200},
        {SERVER_DRAINING, "draining", 200, 503, 200},
    };
    static struct outcome o;
    REQUIRE(inside_begin(NULL));
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        const struct {
            const char *path;
            int status;
        } probes[] = {{"/health", t[i].ready},
                      {"/health/ready", t[i].ready},
                      {"/health/live", t[i].live},
                      {"/health/startup", t[i].startup}};
        char state[32];
        atomic_store(&inside.service.state, (int)t[i].state);
        snprintf(state, sizeof state, "\"state\":\"%s\"", t[i].word);
        for (size_t k = 0; k < DEQ_COUNT(probes); k++) {
            inside_ask("GET", probes[k].path, "", &o);
            CHECK_MSG(o.status == probes[k].status && strstr(o.text, state), "%s while %s: %d %s", probes[k].path,
                      t[i].word, o.status, o.text);
            CHECK(o.retry_after_ms == (o.status == 503 ? 1000u : 0u));
            CHECK(strstr(o.text, o.status == 200 ? "\"status\":\"ok\"" : "\"status\":\"unavailable\""));
        }
        inside_ask("GET", "/metrics", "", &o);
        CHECK_EQ(o.type, "text/plain; version=0.0.4; charset=utf-8");
        CHECK(o.status == 200 && strstr(o.text, t[i].ready == 200 ? "\ndeqd_ready 1\n" : "\ndeqd_ready 0\n"));
    }
    inside_end();
}
