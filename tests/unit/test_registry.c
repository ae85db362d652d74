/* core/cell/registry.c: kinds by their names, and what is done alike for all of them. */
#include "core/base/mem.h"
#include "core/cell/kind.h"
#include "core/cell/transformer.h"
#include "tests/unit/test.h"

TEST(registry_knows_its_kinds)
{
    char types[256], titles[256], cut[8];
    CHECK(deq_kind_find("deq_transformer") == &deq_transformer_kind);
    CHECK(deq_kind_by_title("transformer") == &deq_transformer_kind);
    CHECK(!deq_kind_find("transformer") && !deq_kind_find("gpt2") && !deq_kind_find("") &&
          !deq_kind_by_title("deq_transformer"));
    deq_kind_list(types, sizeof types, false);
    deq_kind_list(titles, sizeof titles, true);
    deq_kind_list(cut, sizeof cut, false);
    CHECK_EQ(cut, "deq_tra");
    size_t n = 0;
    for (char *t = types, *next; t; t = next, n++) { /* each listed one is found, by both names */
        if ((next = strstr(t, ", ")))
            *next = 0, next += 2;
        const struct deq_kind *k = deq_kind_find(t);
        CHECK_MSG(k && deq_kind_by_title(k->title) == k && strstr(titles, k->title), "%s", t);
    }
    CHECK(n >= 2);
}

TEST(registry_architectures)
{
    static const char *const types[] = {"deq_transformer", "deq_trellis", "deq_looped"};
    struct deq_err err;
    for (size_t i = 0; i < DEQ_COUNT(types); i++) {
        const struct deq_kind *kind = deq_kind_find(types[i]);
        REQUIRE(kind);
        struct deq_arch *a = deq_arch_new(kind);
        REQUIRE(a);
        CHECK(a->kind == kind && a->vocab.eos_id == -1 && a->serving.row_window == 8 &&
              a->serving.warm == DEQ_WARM_ZERO);
        a->segment_len = (1 << 16) + 1;
        CHECK(deq_arch_check(a, "here", &err) == DEQ_EFORMAT && !strncmp(err.text, "here: ", 6));
        struct deq_arch *copy = deq_arch_copy(a);
        CHECK(copy && copy != a && !memcmp(copy, a, kind->arch_size));
        deq_free(copy);
        deq_free(a);
        deq_mem_fault(1, false);
        CHECK(!deq_arch_new(kind));
        deq_mem_fault(0, false);
    }
}
