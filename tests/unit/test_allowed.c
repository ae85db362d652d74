/* core/engine/allowed.c: answers fit their form, picked as the mask over exact logits says, and are the same at every
 * window, by every way of picking, alone and in company. */
#include "core/engine/engine.h"

#include "core/form/form.h"
#include "tests/unit/answers.h"

static const struct {
    enum deq_form_kind kind;
    const char *text;
    uint32_t max_tokens;
} forms[] = {
    {DEQ_FORM_CHOICE, "[\"First\",\"First Citizen\",\"second\"]", 12},
    {DEQ_FORM_REGEX, "[A-Z][a-z]{2,9}( [a-z]{1,7}){3}\\.", 60},
    {DEQ_FORM_REGEX, "[^e]*", 20}, /* it may end anywhere, and need not */
    {DEQ_FORM_GRAMMAR, "root ::= \"(\" (root | [a-z]{1,4}) (\", \" [a-z]{1,3})? \")\"", 40},
    {DEQ_FORM_SCHEMA, "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\",\"maxLength\":8},\"age\":"
                      "{\"type\":\"integer\",\"minimum\":3,\"maximum\":999}},\"required\":[\"name\",\"age\"]}", 60},
};

/* An answer, and the form that each of its tokens is held against. */
struct guided {
    struct answer a;
    struct deq_form *form;
    struct deq_readings r[2];
    const struct deq_sampling *sampling;
    uint32_t V, wrong;
    char text[512];
    const struct deq_model *m;
};

/* Whether the pick is allowed, and of a greedy one with its logits the best that is. */
static enum deq_verdict follow(void *ctx, const struct deq_event *e)
{
    struct guided *g = ctx;
    static uint32_t allowed[4096];
    if (e->kind != DEQ_EVENT_TOKEN)
        return record_answer(&g->a, e);
    const size_t n = g->a.n;
    deq_form_mask(g->form, &g->r[n % 2], allowed);
    g->wrong += !deq_form_allows(allowed, e->token);
    for (uint32_t i = 0; e->logits && !(g->sampling->temperature > 0) && i < g->V; i++)
        g->wrong += deq_form_allows(allowed, i) &&
                    (e->logits[i] > e->logits[e->token] || (e->logits[i] == e->logits[e->token] && i < e->token));
    deq_form_advance(g->form, &g->r[n % 2], e->token, &g->r[(n + 1) % 2]);
    size_t len;
    const char *bytes = deq_token_text(g->m, -1, e->token, &len);
    if (bytes)
        strncat(g->text, bytes, DEQ_MIN(len, sizeof g->text - strlen(g->text) - 1));
    return record_answer(&g->a, e);
}

static void begin(struct guided *g, const struct deq_model *m, struct deq_form *f, struct deq_request *q)
{
    *g = (struct guided){.form = f, .V = deq_model_info(m).vocab_size, .m = m, .sampling = &q->sampling};
    g->a.vocab = g->V;
    deq_form_begin(f, &g->r[0]);
    q->form = f;
    q->event = follow;
    q->ctx = g;
}

static void check_one(const struct deq_model *m, const struct deq_tokens *p, size_t which, float temperature)
{
    static struct guided base, other;
    static struct answer company[2];
    struct deq_form *f = NULL;
    struct deq_err err;
    const char *const text = forms[which].text;
    CHECK_MSG(!deq_form_new(m, forms[which].kind, text, strlen(text), &f, &err), "%s", err.text);
    for (unsigned round = 0; f && round < 4; round++) {
        struct deq_engine *e = tiny_engine(m, 1 + round % 2, 4);
        struct guided *g = round ? &other : &base;
        struct deq_request q = tiny_request(m, p, forms[which].max_tokens, &g->a);
        q.ignore_eos = false;
        q.sampling.temperature = temperature;
        q.sampling.seed = which + 5;
        q.solve.tol = 1e-5f; /* windows take other ways to states: nearly the same ones, and then the same picks */
        q.solve.max_iter = 200;
        q.solve.window = round ? 8 : 1;
        q.solve.prefill_window = 0;
        q.want_logits = round < 2;
        begin(g, m, f, &q);
        CHECK_EQ(deq_submit(e, &q, NULL, NULL), DEQ_OK);
        for (int i = 0; round == 3 && i < 2; i++) {
            struct deq_request free = tiny_request(m, p, 40, &company[i]);
            company[i] = (struct answer){.vocab = g->V};
            CHECK_EQ(deq_submit(e, &free, NULL, NULL), DEQ_OK);
        }
        run_all(e);
        CHECK_EQ(g->wrong, 0);
        CHECK_EQ(g->text, base.text);
        CHECK_EQ(g->a.n, base.a.n);
        CHECK(g->a.finish == base.a.finish && (g->a.finish == DEQ_FINISH_EOS || g->a.finish == DEQ_FINISH_LENGTH));
        if (g->a.finish == DEQ_FINISH_EOS) {
            const bool said = g->a.token[g->a.n - 1] == deq_model_info(m).eos_id;
            CHECK(deq_form_whole(f, &g->r[(g->a.n + (said ? 1 : 0)) % 2]));
        }
        deq_engine_free(e);
    }
    deq_form_free(f);
}

static void check_all(struct deq_model *m)
{
    struct deq_tokens p = encode_text(m, "First Citizen: We are accounted");
    for (size_t i = 0; i < DEQ_COUNT(forms); i++) {
        check_one(m, &p, i, 0);
        check_one(m, &p, i, 0.8f);
    }
    deq_tokens_free(&p);
    deq_model_free(m);
}

TEST_EACH_KIND(allowed_answers_fit_their_form) { check_all(m); }
static void each_allowed_answers_fit_their_form_in_integers(struct deq_model *m) { check_all(m); }
static void given_allowed_answers_fit_their_form_in_integers(struct deq_model *m)
{
    REQUIRE(m);
    each_allowed_answers_fit_their_form_in_integers(m);
}
TEST_IN_INTEGERS(allowed_answers_fit_their_form_in_integers)

/* What else forbids tokens does not undo a form; a stop token that is no text ends it where it is whole. */
TEST(allowed_before_all_else)
{
    struct deq_model *m = tiny_model();
    struct deq_form *f = NULL;
    struct deq_tokens p, y;
    static struct guided g;
    REQUIRE(m && !deq_form_new(m, DEQ_FORM_CHOICE, "[\"y\"]", 5, &f, NULL));
    p = encode_text(m, "First");
    y = encode_text(m, "y");
    struct deq_engine *e = tiny_engine(m, 1, 4);
    struct deq_request q = tiny_request(m, &p, 5, &g.a);
    q.ignore_eos = false;
    const struct deq_logit_bias never = {y.ids[0], -100};
    q.sampling.bias = &never;
    q.sampling.n_bias = 1;
    q.sampling.min_tokens = 5;
    begin(&g, m, f, &q);
    CHECK_EQ(deq_submit(e, &q, NULL, NULL), DEQ_OK);
    run_all(e);
    CHECK_EQ(g.text, "y");
    CHECK_EQ(g.a.finish, DEQ_FINISH_EOS);
    q.ignore_eos = true;
    CHECK_EQ(deq_submit(e, &q, NULL, NULL), DEQ_EINVAL);
    deq_form_free(f);
    deq_engine_free(e);
    deq_tokens_free(&p);
    deq_tokens_free(&y);
    deq_model_free(m);
}

static const char *spell(const void *ctx, uint32_t id, size_t *ret_len)
{
    static const char letters[] = "abcdefghijklmnopqrstuvw";
    (void)ctx;
    *ret_len = 1;
    return id < 23 ? letters + id : NULL;
}

/* A token that ends the choice and is no text is allowed where the form is whole, one that is text is not. */
TEST(allowed_ends_with_a_stop_token)
{
    enum { SPECIAL = 23, TEXT = 5 };
    static const uint32_t stops[] = {TEXT, SPECIAL};
    static const struct deq_logit_bias wanted[] = {{TEXT, 50}, {SPECIAL, 20}};
    const uint32_t prompt[2] = {3, 4};
    struct deq_spelling *words = NULL;
    struct deq_forms *forms_of = NULL;
    struct deq_form *f = NULL;
    struct answer a = {0};
    struct deq_engine *e = toy_engine(&(struct deq_toy){.dim = 24, .rho = 0.5f, .coupling = 0.3f}, 1, 2, NULL);
    REQUIRE(e && !deq_spelling_new(24, spell, NULL, &words, NULL) && !deq_forms_new(words, -1, &forms_of, NULL) &&
            !deq_forms_get(forms_of, DEQ_FORM_REGEX, "abc(abc)*", 9, &f, NULL));
    struct deq_request q = toy_request(prompt, 2, 20, &a);
    q.form = f;
    q.sampling.bias = wanted;
    q.sampling.n_bias = 2;
    const struct answer without = ask(e, &q, NULL);
    CHECK(without.n == 20 && without.token[3] == 0 && without.finish == DEQ_FINISH_LENGTH);
    q.sampling.stop_ids = stops;
    q.sampling.n_stop_ids = 2;
    const struct answer with = ask(e, &q, NULL);
    CHECK(with.n == 4 && with.token[0] == 0 && with.token[1] == 1 && with.token[2] == 2 && with.token[3] == SPECIAL);
    CHECK_EQ(with.finish, DEQ_FINISH_EOS);
    deq_form_free(f);
    deq_engine_free(e);
    deq_forms_free(forms_of);
    deq_spelling_free(words);
}

/* Each of n choices fits, and none waits for another. */
TEST(allowed_of_several_choices)
{
    struct deq_model *m = tiny_model();
    struct deq_form *f = NULL;
    static struct choices all;
    REQUIRE(m && !deq_form_new(m, DEQ_FORM_REGEX, "[a-c]{4}", 8, &f, NULL));
    struct deq_tokens p = encode_text(m, "First Citizen");
    struct deq_engine *e = tiny_engine(m, 2, 4);
    struct deq_request q = tiny_request(m, &p, 10, &all.a[0]);
    q.ignore_eos = false;
    q.n = 4;
    q.form = f;
    q.sampling.temperature = 1;
    q.event = record_choice;
    q.ctx = &all;
    CHECK_EQ(deq_submit(e, &q, NULL, NULL), DEQ_OK);
    deq_form_free(f); /* the engine shares it */
    run_all(e);
    for (int c = 0; c < 4; c++) {
        char text[32] = "";
        for (size_t i = 0; i < all.a[c].n; i++) {
            size_t len;
            const char *bytes = deq_token_text(m, -1, all.a[c].token[i], &len);
            strncat(text, bytes, len);
        }
        CHECK_MSG(strlen(text) == 4 && strspn(text, "abc") == 4, "%s", text);
        CHECK_EQ(all.a[c].finish, DEQ_FINISH_EOS);
    }
    deq_engine_free(e);
    deq_tokens_free(&p);
    deq_model_free(m);
}
