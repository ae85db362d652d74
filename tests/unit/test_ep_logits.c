/* server/api/ep_logits.c: logits at the last position or at all of them, as text or as they are. */
#include <jansson.h>

#include "core/base/clock.h"
#include "tests/unit/inside.h"
#include "tests/unit/test.h"

enum { V = 384 };

TEST(ep_logits_text_and_octets)
{
    static struct outcome o;
    static float all[3 * V];
    struct exchange head = {.method = "POST", .path = "/v1/logits", .request_id = "r", .arrived_ns = deq_now_ns(),
                            .caller = {.id = 1, .weight = 1}, .wants_octets = true};
    REQUIRE(inside_begin(NULL));
    (void)inside_ask_as(&head, "{\"prompt\":[10,20,30],\"positions\":\"all\"}", 0, &o);
    CHECK_EQ(o.status, 200);
    CHECK_EQ(o.type, "application/octet-stream");
    REQUIRE(o.n == sizeof all);
    memcpy(all, o.text, sizeof all);
    head.wants_octets = false;
    (void)inside_ask_as(&head, "{\"prompt\":[10,20,30],\"positions\":\"all\"}", 0, &o);
    json_t *text = json_loads(o.text, 0, NULL), *rows = json_object_get(text, "logits");
    CHECK(o.status == 200 && json_array_size(rows) == 3 &&
          json_integer_value(json_object_get(text, "vocab_size")) == V &&
          json_integer_value(json_object_get(text, "positions")) == 3);
    CHECK(json_is_true(json_object_get(json_object_get(text, "deq"), "converged")));
    unsigned wrong = 0;
    for (size_t t = 0; t < 3; t++)
        for (size_t i = 0; i < V; i++) /* nine digits: a float comes back */
            wrong += (float)json_real_value(json_array_get(json_array_get(rows, t), i)) != all[t * V + i];
    CHECK_EQ(wrong, 0u);
    json_decref(text);
    head.wants_octets = true;
    (void)inside_ask_as(&head, "{\"prompt\":[10,20,30]}", 0, &o);
    CHECK(o.status == 200 && o.n == V * sizeof(float) && !memcmp(o.text, all + 2 * V, o.n));
    (void)inside_ask_as(&head, "{\"prompt\":[10,20,30],\"positions\":\"some\"}", 0, &o);
    CHECK(o.status == 400 && strstr(o.text, "\"param\":\"positions\""));
    head.timeout_ms = 1;
    head.arrived_ns = deq_now_ns() - 1000000000;
    (void)inside_ask_as(&head, "{\"prompt\":[10,20,30]}", 0, &o);
    CHECK(o.status == 504 && strstr(o.text, "\"deadline_exceeded\""));
    inside_end();
}
