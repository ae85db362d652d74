/* server/api/ep_sequences.c: the list when nothing runs, and ids that are none. (What runs: test_sched.c, e2e.) */
#include "tests/unit/inside.h"
#include "tests/unit/test.h"

TEST(ep_sequences_at_rest)
{
    static struct outcome o;
    static const char *const none[] = {"seq_1", "seq_", "seq_0", "1", "seq_1x", "seq_-1", "seq_99999999999999999999999",
                                       "x", "seq_ 1"};
    const struct caller admin = {.id = 1, .weight = 1, .known = true, .admin = true};
    REQUIRE(inside_begin(NULL));
    (void)inside_ask_as(&(struct exchange){.method = "GET", .path = "/v1/sequences", .request_id = "r",
                                           .caller = admin}, "", 0, &o);
    CHECK_EQ(o.status, 200);
    CHECK_EQ((const char *)o.text, "{\"object\":\"list\",\"data\":[],\"has_more\":false}");
    for (size_t i = 0; i < DEQ_COUNT(none); i++) {
        char path[64];
        snprintf(path, sizeof path, "/v1/sequences/%s", none[i]);
        (void)inside_ask_as(&(struct exchange){.method = "DELETE", .path = path, .request_id = "r", .caller = admin},
                            "", 0, &o);
        CHECK_MSG(o.status == 404 && strstr(o.text, "\"sequence_not_found\""), "%s: %d %s", none[i], o.status, o.text);
    }
    inside_end();
}
