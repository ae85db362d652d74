/* core/data/vocab.c: vocabularies that cannot be, named by the key of config.json; and clusters of those that can. */
#include "core/data/vocab.h"

#include "tests/unit/test.h"

static const struct deq_vocab good = {.size = 37, .d_model = 12, .eos_id = 36, .n_cutoffs = 2, .cutoffs = {10, 30},
                                      .d_embed = 16, .div_val = 4};

TEST(vocab_refuses_by_key)
{
    struct deq_err err;
    CHECK(!deq_vocab_check(&good, "here", &err));
    const struct {
        struct deq_vocab v;
        const char *says;
    } t[] = {
        {{.size = 1, .d_model = 12}, "here: vocab_size: 1 is outside"},
        {{.size = 5, .d_model = 0}, "here: hidden_size: 0 is outside"},
        {{.size = 5, .d_model = (1 << 14) + 1}, "here: hidden_size: 16385 is outside"},
        {{.size = 37, .d_model = 12, .n_cutoffs = 2, .cutoffs = {10, 10}}, "here: cutoffs: 10 is not above"},
        {{.size = 37, .d_model = 12, .n_cutoffs = 1, .cutoffs = {37}}, "here: cutoffs: 37 is not above"},
        {{.size = 37, .d_model = 12, .n_cutoffs = 1, .cutoffs = {0}}, "here: cutoffs: 0 is not above"},
        {{.size = 37, .d_model = 12, .n_cutoffs = 2, .cutoffs = {1, 2}, .d_embed = 16, .div_val = 5},
         "leaves cluster 2 no"},
        {{.size = 37, .d_model = 12, .d_out = 8}, "here: output_size: 8 differs from hidden_size 12"},
        {{.size = 37, .d_model = 12, .eos_id = 37}, "here: eos_token_id: 37 is outside"},
        {{.size = 37, .d_model = 12, .has_bos = true, .bos_id = 37}, "here: bos_token_id: 37 is outside"},
    };
    for (size_t i = 0; i < DEQ_COUNT(t); i++)
        CHECK_MSG(deq_vocab_check(&t[i].v, "here", &err) == DEQ_EFORMAT && strstr(err.text, t[i].says), "case %zu: %s",
                  i,
                  err.text);
    CHECK(!deq_vocab_check(&(struct deq_vocab){.size = 2, .d_model = 1, .eos_id = -1}, "here", &err));
}

TEST(vocab_clusters)
{
    static const uint32_t begin[] = {0, 10, 30, 37}, width[] = {16, 4, 1};
    CHECK_EQ(deq_clusters(&good), 3);
    for (unsigned c = 0; c < 3; c++) {
        CHECK_EQ(deq_cluster_begin(&good, c), begin[c]);
        CHECK_EQ(deq_cluster_size(&good, c), begin[c + 1] - begin[c]);
        CHECK_EQ(deq_cluster_embed(&good, c), width[c]);
        for (uint32_t token = begin[c]; token < begin[c + 1]; token++)
            CHECK_EQ(deq_cluster_of(&good, token), c);
    }
    CHECK(deq_projects(&good) && deq_projects(&(struct deq_vocab){.d_model = 8, .d_embed = 8, .div_val = 2}));
    CHECK(!deq_projects(&(struct deq_vocab){.d_model = 8}) &&
          !deq_projects(&(struct deq_vocab){.d_model = 8, .d_embed = 8}));
    CHECK(deq_vocab_out(&good) == 12 && deq_vocab_out(&(struct deq_vocab){.d_model = 8, .d_out = 4}) == 4);
}
