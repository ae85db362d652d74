/* core/train/validate.c: a model that knows nothing has a perplexity of its vocabulary's size, however the text is cut
 * and
 * by how many threads it is read. */
#include "core/train/train_impl.h"

#include "core/base/mem.h"
#include "tests/unit/training.h"

enum { T = 5, MICRO = 2, WORDS = 29, MOST_THREADS = 3 };

static void check(unsigned threads, size_t pieces, size_t max_tokens, size_t pieces_seen, uint64_t step)
{
    struct deq_train r = {.recipe = NULL, .n_threads = threads, .valid_bytes = 4 * (pieces * T + 2), .at.step = step};
    struct deq_recipe *recipe = small_recipe(100);
    struct deq_grad_work work[MOST_THREADS];
    struct deq_grad_opts o = {.mode = DEQ_GRAD_UNROLL, .depth = 2, .forward = deq_solver_defaults(),
                              .adjoint = deq_solver_defaults()};
    struct deq_weights *w = zero_weights();
    recipe->seq_len = T;
    recipe->micro_batch = MICRO;
    r.recipe = recipe;
    r.w = w;
    r.work = work;
    REQUIRE(w && !deq_pool_new(threads, &r.pool, NULL));
    for (unsigned i = 0; i < threads; i++)
        REQUIRE(!deq_grad_work_new(&training_arch.base, MICRO, T, &o, 1, &work[i], NULL));
    for (size_t i = 0; i < pieces * T + 3; i++) /* two tokens behind the last whole piece and its target */
        CHECK(deq_tokens_push(&r.valid, (uint32_t)(i * 7 % WORDS)));
    r.tokens = DEQ_NEW_ARRAY(uint32_t, threads * MICRO * T);
    r.targets = DEQ_NEW_ARRAY(uint32_t, threads * MICRO * T);
    r.valid_sums = DEQ_NEW_ARRAY(double, threads);
    const struct deq_train_event e = deq_train_validate(&r, max_tokens);
    CHECK(e.kind == DEQ_TRAIN_VALID && e.step == step && e.steps == 100);
    CHECK_EQ(e.phase, step <= recipe->shallow_steps ? "shallow" : "deq");
    CHECK_EQ(r.valid_chunks, pieces_seen);
    /* a float log-softmax: 1e-7 of 3.4 */
    CHECK_MSG(fabs(e.loss - log(WORDS)) < 1e-5 && fabs(e.perplexity - WORDS) < 1e-3, "%u threads, %zu pieces: %g",
              threads,
              pieces, e.loss);
    /* four bytes a token */
    CHECK_MSG(fabs(e.bits_per_byte - log2(WORDS) / 4) < 1e-5, "%g", e.bits_per_byte);
    for (unsigned i = 0; i < threads; i++)
        deq_grad_work_free(&work[i]);
    deq_tokens_free(&r.valid);
    deq_free(r.tokens);
    deq_free(r.targets);
    deq_free(r.valid_sums);
    deq_weights_free(w);
    deq_pool_free(r.pool);
    deq_recipe_free(recipe);
}

TEST(validate_of_a_model_that_knows_nothing)
{
    for (unsigned threads = 1; threads <= MOST_THREADS; threads++) {
        check(threads, 7, 0, 7, 0); /* the last batch is not full */
        check(threads, 7, 3 * T + 1, 3, 0);
        check(threads, 1, 1, 1, 0);
        check(threads, 4, 0, 4, 50); /* an equilibrium, when the shallow steps are over */
    }
}
