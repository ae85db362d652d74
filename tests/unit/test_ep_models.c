/* server/api/ep_models.c: what is served, by its name however that is written in a path. */
#include <jansson.h>

#include "tests/unit/inside.h"
#include "tests/unit/test.h"

TEST(ep_models_by_name)
{
    static const struct {
        const char *path;
        int status;
    } t[] = {
        {"/v1/models/org/tiny", 200}, {"/v1/models/org%2Ftiny", 200}, {"/v1/models/org%2ftin%79", 200},
        {"/v1/models/org", 404},      {"/v1/models/org/tiny2", 404},  {"/v1/models/org%2", 404},
        {"/v1/models/ORG/tiny", 404},
    };
    static struct outcome o;
    REQUIRE(inside_begin((const char *const[]){"model.name=org/tiny", "limits.tol_max=0.05", "depth.mode=elastic",
                                                NULL}));
    inside_ask("GET", "/v1/models", "", &o);
    CHECK_EQ(o.status, 200);
    json_t *list = json_loads(o.text, 0, NULL), *all = json_object_get(list, "data"), *one = json_array_get(all, 0);
    CHECK(json_array_size(all) == 1 && !strcmp(json_string_value(json_object_get(list, "object")), "list"));
    const json_t *deq = json_object_get(one, "deqd"), *presets = json_object_get(deq, "presets");
    CHECK_EQ(json_string_value(json_object_get(one, "id")), "org/tiny");
    CHECK_EQ(json_integer_value(json_object_get(one, "max_model_len")), 2048);
    CHECK_EQ(json_integer_value(json_object_get(deq, "vocab_size")), 384);
    CHECK_EQ(json_real_value(json_object_get(deq, "tol")), 0.01); /* as somebody wrote it */
    CHECK_EQ(json_real_value(json_object_get(json_object_get(presets, "fast"), "tol")), 0.05);
    CHECK_EQ(json_string_value(json_object_get(deq, "depth")), "elastic");
    CHECK_EQ(json_string_value(json_object_get(json_object_get(deq, "chat_template"), "source")), "default");
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        inside_ask("GET", t[i].path, "", &o);
        CHECK_MSG(o.status == t[i].status, "%s: %d", t[i].path, o.status);
        json_t *alone = json_loads(o.text, 0, NULL);
        CHECK(json_equal(alone, one) == (t[i].status == 200));
        json_decref(alone);
    }
    json_decref(list);
    inside_end();
}
