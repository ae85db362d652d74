/* core/train/checkpoint.c: metadata and tensors that no run can have written are refused by name. */
#include "core/train/checkpoint.h"

#include <stdlib.h>
#include <unistd.h>

#include "core/base/mem.h"
#include "tests/unit/test.h"
#include "tests/unit/training.h"

TEST(train_checkpoint_metadata)
{
    static const char *const good[] = {"format", "deq_checkpoint", "step", "5", "tokens", "640", "seconds", "1.5",
                                       "skipped", "1", NULL};
    static const struct {
        unsigned at;
        const char *value, *says;
    } bad[] = {
        {0, NULL, "format"}, {0, "pt", "format"}, {1, NULL, "step: missing"}, {1, "x", "step: \"x\""}, {1, "", "step"},
            {1, "-1", "step"}, {1, "5x", "step"},
        {1, " 5", "step"}, {1, "5.5", "step: \"5.5\" is not a whole number"}, {1, "5e0", "whole"},
            {1, "4294967296", "step"},
        {1, "18446744073709551615", "step"}, {1, "99999999999999999999999", "step"}, {2, "1e400", "tokens"},
            {2, "9007199254740993000", "tokens"},
        {3, "nan", "seconds"}, {3, "-1", "seconds"}, {3, "inf", "seconds"}, {3, "1e300", "seconds"},
            {3, "0x", "seconds"}, {3, "0x10", "seconds"}, {4, "6", "skipped"}, {4, "nan", "skipped"},
    };
    char dir[] = "/tmp/deq-test-XXXXXX", path[64];
    REQUIRE(mkdtemp(dir) != NULL);
    snprintf(path, sizeof path, "%s/c", dir);
    struct deq_arch *a;
    struct deq_recipe *r = small_recipe(12);
    struct deq_weights *w;
    struct deq_progress p = {0};
    struct deq_err err;
    REQUIRE(!deq_recipe_arch(r, 300, &a, &err) && !deq_weights_new(a, &w, &err));
    float *m = DEQ_NEW_ARRAY(float, w->n), *v = DEQ_NEW_ARRAY(float, w->n);
    CHECK(!deq_checkpoint_save(path, w, m, v, &(struct deq_progress){.step = 7, .tokens = 3, .seconds = 1.25,
                                                                     .skipped = 2}, NULL, &err));
    CHECK(!deq_checkpoint_load(path, w, m, v, &p, &err) && p.step == 7 && p.tokens == 3 && p.seconds == 1.25 &&
          p.skipped == 2);
    const struct deq_progress before = p;
    for (size_t i = 0; i < DEQ_COUNT(bad); i++) {
        const char *meta[DEQ_COUNT(good)] = {NULL};
        size_t n = 0;
        for (unsigned k = 0; k < 5; k++) {
            if (k == bad[i].at && !bad[i].value)
                continue;
            meta[n++] = good[2 * k];
            meta[n++] = k == bad[i].at ? bad[i].value : good[2 * k + 1];
        }
        CHECK(!deq_safetensors_write(path, NULL, 0, meta, &err));
        CHECK_MSG(deq_checkpoint_load(path, w, m, v, &p, &err) == DEQ_EFORMAT && strstr(err.text, "__metadata__.") &&
                  strstr(err.text, bad[i].says) &&
                      strstr(err.text, path), "%u = %s: %s", bad[i].at, bad[i].value ? bad[i].value : "(none)",
                          err.text);
    }
    v[w->params[2].offset + 1] = INFINITY;
    CHECK(deq_checkpoint_save(path, w, m, v, &before, NULL, &err) == DEQ_ENUMERIC &&
          strstr(err.text, "not replaced: after step 7 tensor adam.v.") && strstr(err.text, path));
    v[w->params[2].offset + 1] = -1e-9f;
    CHECK(!deq_checkpoint_save(path, w, m, v, &before, NULL, &err));
    CHECK(deq_checkpoint_load(path, w, m, v, &p, &err) == DEQ_EFORMAT && strstr(err.text, "tensor adam.v.") &&
          strstr(err.text, "element 1 is"));
    CHECK(!memcmp(&p, &before, sizeof p));
    deq_free(m);
    deq_free(v);
    deq_weights_free(w);
    deq_free(a);
    deq_recipe_free(r);
    remove_tree(dir);
}
