/* What the tests of the engine ask for, and how they keep what it gave. */
#ifndef DEQ_TEST_ANSWERS_H
#define DEQ_TEST_ANSWERS_H

#include "core/cell/toy.h"
#include "core/engine/engine.h"
#include "tests/unit/test.h"

#define TINY "tests/golden/tiny"
#define TINY_TRELLIS "tests/golden/tiny-trellis"
#define TINY_LOOPED "tests/golden/tiny-looped"
#define LONG_TEXT                                                                                            \
    "What shall I say more than I have inferred? Remember whom you are to cope withal; a sort of vagabonds, " \
    "rascals, and runaways, a scum of Bretons"

enum { MOST = 512, CHOICES = 5 };

/* What a request gave: tokens, log-probability bits, iterations. */
struct answer {
    uint32_t vocab;
    uint32_t token[MOST], evaluations[MOST];
    float logprob[MOST], residual[MOST];
    size_t n, prompt_positions, not_converged;
    enum deq_finish finish;
    float prompt_residual_max, tol_max;
    bool prompt_converged;
    bool ended;
    size_t stop_after; /* 0: never */
    float *all_logits; /* [positions, vocab] of PROMPT events, or NULL */
};

struct choices {
    struct answer a[CHOICES];
};

/* Events into a struct answer, and those of several choices into a struct choices. */
enum deq_verdict record_answer(void *ctx, const struct deq_event *e);
enum deq_verdict record_choice(void *ctx, const struct deq_event *e);

/* To the bit. */
bool same_answer(const struct answer *a, const struct answer *b);
void run_all(struct deq_engine *e);

/* Tiny trained models, of each kind of cell one: the transformer, the trellis network, the looped model. */
struct deq_model *tiny_model(void);
struct deq_model *tiny_trellis(void);
struct deq_model *tiny_looped(void);
struct deq_model *model_in(const char *dir, enum deq_class numeric);

/* TEST_EACH_KIND(name) { ... }: a test of the engine as three, name, name_trellis and name_looped, each given its model
 * to free. */
#define TEST_EACH_KIND(id)                             \
    static void each_##id(struct deq_model *m);        \
    static void given_##id(struct deq_model *m)        \
    {                                                  \
        REQUIRE(m);                                    \
        each_##id(m);                                  \
    }                                                  \
    TEST(id) { given_##id(tiny_model()); }             \
    TEST(id##_trellis) { given_##id(tiny_trellis()); } \
    TEST(id##_looped) { given_##id(tiny_looped()); }   \
    static void each_##id(struct deq_model *m)

/* The same test once more on each, computed in integers. */
#define TEST_IN_INTEGERS(id)                                                             \
    TEST(id##_int8) { given_##id(model_in(TINY, DEQ_CLASS_INT8)); }                      \
    TEST(id##_trellis_int16) { given_##id(model_in(TINY_TRELLIS, DEQ_CLASS_INT16)); }    \
    TEST(id##_looped_int8) { given_##id(model_in(TINY_LOOPED, DEQ_CLASS_INT8)); }

/* An engine for one of them, a greedy request, and ids of a text. */
struct deq_engine *tiny_engine(const struct deq_model *m, unsigned threads, unsigned sequences);
struct deq_request tiny_request(const struct deq_model *m, const struct deq_tokens *p, uint32_t max_tokens,
                                struct answer *a);
struct deq_tokens encode_text(const struct deq_model *m, const char *text);

/* An engine over a toy cell of 24 words (400 positions a text, blocks of 16), and a request to it: greedy, Anderson to
 * 1e-5 within 200 evaluations, window 4. */
struct deq_engine *toy_engine(const struct deq_toy *of, unsigned threads, unsigned sequences,
                              struct deq_cell **ret_cell);
struct deq_request toy_request(const uint32_t *prompt, size_t n, uint32_t max_tokens, struct answer *a);

/* Asked and answered, with nobody else about. */
struct answer ask(struct deq_engine *e, const struct deq_request *q, struct deq_admission *ret);

#endif
