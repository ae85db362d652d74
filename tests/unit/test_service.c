/* server/api/service.c: what a body is read against, and secrets that are read again. */
#include "server/api/service.h"

#include "server/log.h"
#include "tests/unit/inside.h"
#include "tests/unit/scratch.h"
#include "tests/unit/test.h"

#define HASH "4813494d137e1631bba301d5acab6e7bb7aa74ce1185d456565ef51d737677b2"

TEST(service_context_is_that_of_the_model)
{
    REQUIRE(inside_begin((const char *const[]){"engine.max_positions=100", "engine.max_rows=70", NULL}));
    struct served *m = store_acquire(inside.service.store);
    const struct request_context c = service_context(&inside.service, m);
    CHECK(c.model == m->model && c.conf == &inside.conf);
    CHECK_EQ(c.model_name, "tiny");
    CHECK_EQ(c.max_positions, 100);
    CHECK_EQ(c.max_rows, 70); /* as configured, not with what the engine has for others */
    store_release(m);
    inside_end();
}

TEST(service_reloads_keys)
{
    struct service s = {0};
    struct deq_err err = {0};
    struct caller caller;
    REQUIRE(scratch_begin());
    scratch_put("keys", "a " HASH "\n");
    REQUIRE(!auth_new(scratch_path("keys"), &s.auth, &err));
    log_init("error");
    CHECK(auth_check(s.auth, "root", 4, &caller) && !caller.admin);
    scratch_put("keys", "a " HASH " admin\n");
    CHECK_EQ(service_reload_secrets(&s, &err), DEQ_OK);
    CHECK(auth_check(s.auth, "root", 4, &caller) && caller.admin);
    auth_free(s.auth);
    log_init("info");
    scratch_end("keys", NULL);
}
