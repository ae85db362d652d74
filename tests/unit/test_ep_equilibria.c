/* server/api/ep_equilibria.c: states of a prompt in every form, and embeddings made of them. */
#include <jansson.h>
#include <math.h>

#include "core/base/clock.h"
#include "tests/unit/inside.h"
#include "tests/unit/test.h"

enum { D = 32, N = 3 };

static struct outcome o;

static json_t *asked(const char *path, const char *body)
{
    inside_ask("POST", path, body, &o);
    CHECK_MSG(o.status == 200, "%s %s: %d %s", path, body, o.status, o.text);
    return json_loads(o.text, 0, NULL);
}

static float number(const json_t *row, size_t i)
{
    return (float)json_real_value(json_array_get(row, i));
}

TEST(ep_equilibria_forms)
{
    static float all[N * D];
    struct exchange head = {.method = "POST", .path = "/v1/equilibria", .request_id = "r", .arrived_ns = deq_now_ns(),
                            .caller = {.id = 1, .weight = 1}, .wants_octets = true};
    REQUIRE(inside_begin(NULL));
    (void)inside_ask_as(&head, "{\"prompt\":[10,20,30],\"positions\":\"all\"}", 0, &o);
    CHECK_EQ(o.type, "application/octet-stream");
    REQUIRE(o.status == 200 && o.n == sizeof all);
    memcpy(all, o.text, sizeof all);
    json_t *text = asked("/v1/equilibria", "{\"prompt\":[10,20,30],\"positions\":\"all\"}");
    const json_t *rows = json_object_get(text, "states");
    CHECK(json_array_size(rows) == N && json_integer_value(json_object_get(text, "state_dim")) == D &&
          json_array_size(json_object_get(text, "residuals")) == N &&
          json_array_size(json_object_get(text, "evaluations")) == N);
    unsigned wrong = 0;
    for (size_t t = 0; t < N; t++)
        for (size_t i = 0; i < D; i++) /* nine digits: a float comes back */
            wrong += number(json_array_get(rows, t), i) != all[t * D + i];
    CHECK_EQ(wrong, 0u);
    json_decref(text);

    text = asked("/v1/equilibria", "{\"prompt\":[10,20,30],\"pooling\":\"mean\"}");
    json_t *unit = asked("/v1/embeddings", "{\"input\":[[10,20,30],[40]]}");
    const json_t *mean = json_array_get(json_object_get(text, "states"), 0), *data = json_object_get(unit, "data");
    const json_t *embedding = json_object_get(json_array_get(data, 0), "embedding");
    CHECK(json_array_size(data) == 2 && json_array_size(json_object_get(text, "residuals")) == N);
    double squares = 0;
    for (size_t i = 0; i < D; i++) {
        const float expected = (float)(((double)all[i] + (double)all[D + i] + (double)all[2 * D + i]) / N);
        wrong += number(mean, i) != expected;
        squares += (double)expected * (double)expected;
    }
    for (size_t i = 0; i < D; i++)
        wrong += number(embedding, i) != (float)((double)number(mean, i) / sqrt(squares));
    CHECK_EQ(wrong, 0u);
    json_decref(text);
    json_decref(unit);

    (void)inside_ask_as(&head, "{\"prompt\":[10,20,30]}", 0, &o);
    CHECK(o.status == 200 && o.n == D * sizeof(float) && !memcmp(o.text, all + 2 * D, o.n));
    head.timeout_ms = 1;
    head.arrived_ns = deq_now_ns() - 1000000000;
    (void)inside_ask_as(&head, "{\"prompt\":[10,20,30]}", 0, &o);
    CHECK(o.status == 504 && strstr(o.text, "\"deadline_exceeded\""));
    inside_end();
}
