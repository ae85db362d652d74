/* core/train/init.c: a run begins with the weights of a model that fits its recipe, and names what does not. */
#include "core/train/train_impl.h"

#include <stdlib.h>

#include "core/base/io.h"
#include "core/base/mem.h"
#include "tests/unit/training.h"

/* Drawn weights of a recipe's model. */
static struct deq_weights *weights_of(const struct deq_recipe *r, uint64_t seed)
{
    struct deq_arch *a = NULL;
    struct deq_weights *w = NULL;
    CHECK(!deq_recipe_arch(r, 300, &a, NULL) && !deq_weights_new(a, &w, NULL));
    deq_free(a);
    deq_train_init(w, 0, seed);
    return w;
}

TEST(init_from_a_model_names_what_does_not_fit)
{
    static const struct {
        const char *set[2], *says;
    } t[] = {
        {{"model.head_bias=true"}, " does not fit the recipe: it needs head.bias"},
        {{"model.final_norm=false"}, "the recipe's model has no place for final_norm.weight, final_norm.bias"},
        {{"model.inner_size=40"}, "of other shapes are blocks.0.ffn.up.weight [48, 32], not [40, 32], "},
        {{"model.cutoffs=[100]", "model.div_val=2"},
         "no place for embed.weight; it needs embed.0.weight, embed.0.proj.weight, embed.1.weight and 3 more"},
    };
    char dir[] = "/tmp/deq-test-XXXXXX", path[64];
    REQUIRE(mkdtemp(dir) && deq_io_join(path, sizeof path, dir, "model.safetensors"));
    struct deq_recipe *r = plain_recipe(10);
    struct deq_weights *of = weights_of(r, 1);
    struct deq_err err;
    REQUIRE(!deq_weights_save(path, of, false, &err));
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        struct deq_recipe *other = plain_recipe(10);
        for (size_t k = 0; k < 2 && t[i].set[k]; k++)
            assign_recipe(other, t[i].set[k]);
        struct deq_weights *w = weights_of(other, 2);
        CHECK_EQ(deq_train_init_from(dir, w, true, &err), DEQ_EINVAL);
        CHECK_MSG(strstr(err.text, path) && strstr(err.text, t[i].says), "%zu: %s", i, err.text);
        deq_weights_free(w);
        deq_recipe_free(other);
    }
    /* a predictor that is fitted anyway may be lacking, one that is not may not */
    struct deq_recipe *with = small_recipe(10);
    struct deq_weights *w = weights_of(with, 2), *drawn = weights_of(with, 2);
    CHECK_EQ(deq_train_init_from(dir, w, false, &err), DEQ_EINVAL);
    CHECK_MSG(strstr(err.text, "it needs predictor."), "%s", err.text);
    CHECK(!deq_train_init_from(dir, w, true, &err));
    CHECK(w->n_main == of->n_main && !memcmp(w->data, of->data, of->n_main * sizeof(float)));
    CHECK(!memcmp(w->data + w->n_main, drawn->data + w->n_main, (w->n - w->n_main) * sizeof(float)));
    deq_weights_free(w);
    deq_weights_free(drawn);
    deq_weights_free(of);
    deq_recipe_free(with);
    deq_recipe_free(r);
    remove_tree(dir);
}

/* Words keep their size through projections: embeddings of unit variance behind the sqrt(D), logits of a normed state
 * too. */
TEST(init_draws_projections_by_the_models_width)
{
    struct deq_recipe *r = plain_recipe(10);
    static const char *const options[] = {"model.hidden_size=64", "model.embedding_size=32", "model.div_val=4",
                                          "model.cutoffs=[100]", "data.vocab_size=300"};
    for (size_t i = 0; i < DEQ_COUNT(options); i++)
        assign_recipe(r, options[i]);
    struct deq_weights *w = weights_of(r, 3);
    const struct deq_vocabulary *v = &deq_transformer_weights(w)->vocabulary;
    for (unsigned c = 0; c < 2; c++) {
        const size_t n = deq_cluster_size(&v->shape, c), E = deq_cluster_embed(&v->shape, c), D = 64;
        double sum = 0;
        for (size_t i = 0; i < n; i++)
            for (size_t d = 0; d < D; d++) {
                double e = 0;
                for (size_t k = 0; k < E; k++)
                    e += (double)v->embed_proj[c][d * E + k] * (double)v->embed[c][i * E + k];
                sum += e * e;
            }
        /* times D of the squared scale; one matrix of 64 by 8 numbers is off by some 10 % of its variance */
        CHECK_MSG(fabs(sum / (double)n - 1) < 0.3, "cluster %u: variance %g", c, sum / (double)n);
    }
    deq_weights_free(w);
    deq_recipe_free(r);
}
