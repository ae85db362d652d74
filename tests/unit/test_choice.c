/* server/api/choice.c: what tokens add up to, fed by hand: text up to a stop string, telemetry, echo. */
#include "server/api/completion.h"
#include "tests/unit/inside.h"
#include "tests/unit/test.h"

static void on_resume(void *conn, struct wakeups *w)
{
    (void)conn;
    (void)w;
}

/* One prompt and one choice of what the body asks for. */
struct talk {
    struct completion c;
    struct prompt prompt;
    struct choice choice;
    struct exchange x;
};

static bool begin(struct talk *t, const char *body)
{
    struct request_error err = {0};
    *t = (struct talk){.c.service = &inside.service, .c.prompts = &t->prompt, .c.choices = &t->choice};
    t->c.served = store_acquire(inside.service.store);
    t->c.channel = channel_new(&t->x, on_resume, 1 << 16, NULL, 1);
    const struct request_context context = service_context(&inside.service, t->c.served);
    bool ok = request_completion(&context, ON_COMPLETIONS, body, strlen(body), &t->c.req, &err);
    CHECK_MSG(ok, "%s", err.message);
    t->prompt.c = &t->c;
    if (ok) {
        t->prompt.job.prompt = t->c.req.prompts[0];
        t->c.req.prompts[0] = (struct deq_tokens){0};
        prompt_init(&t->prompt);
        ok = choice_init(&t->c, 0);
    }
    return ok;
}

static void end(struct talk *t)
{
    choice_free(&t->choice);
    prompt_free(&t->prompt);
    completion_request_free(&t->c.req);
    channel_disconnect(t->c.channel);
    channel_unref(t->c.channel);
    store_release(t->c.served);
}

/* The tokens of a text, one event each, until a stop string is there; the first with 3 evaluations, then 4, ... */
static void add_text(struct talk *t, const char *text)
{
    struct deq_tokens ids = {0};
    CHECK(!deq_encode(t->c.served->model, text, strlen(text), true, &ids, NULL));
    choice_begin(&t->choice);
    for (size_t i = 0; i < ids.n && t->choice.stopped < 0; i++) {
        const struct deq_event e = {.kind = DEQ_EVENT_TOKEN, .token = ids.ids[i], .evaluations = 3 + (uint32_t)i,
                                    .residual = 0.25f, .converged = i != 1, .start = DEQ_WARM_PREVIOUS,
                                    .start_cached = i == 0};
        choice_add(&t->choice, &e);
    }
    deq_tokens_free(&ids);
}

/* What the connection's thread has by now. */
static const char *shown(struct talk *t)
{
    choice_take(&t->choice);
    choice_render(&t->choice);
    return t->choice.shown.len ? t->choice.shown.data : "";
}

TEST(choice_text_ends_before_a_stop_string)
{
    static const struct {
        const char *stops, *text, *shown;
        int stopped;
    } t[] = {
        {"[]", "ab, cd", "ab, cd", -1},
        {"[\", c\"]", "ab, cd", "ab", 0},       /* across tokens */
        {"[\"xy\",\"cd\"]", "ab, cd", "ab, ", 1},
        {"[\"cde\"]", "ab, cd", "ab, cd", -1},  /* its beginning at the end is text */
        {"[\"a\"]", "ab", "", 0},
        {"[\"\\u00e9\"]", "caf\xc3\xa9!", "caf", 0},
        {"[\"!!\"]", "no! no!! no", "no! no", 0},
    };
    REQUIRE(inside_begin(NULL));
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        struct talk talk;
        char body[200];
        snprintf(body, sizeof body, "{\"prompt\":\"x\",\"stop\":%s}", t[i].stops);
        REQUIRE(begin(&talk, body));
        add_text(&talk, t[i].text);
        choice_end(&talk.choice);
        CHECK_EQ(shown(&talk), t[i].shown);
        CHECK_EQ(talk.choice.stopped, t[i].stopped);
        end(&talk);
    }
    inside_end();
}

TEST(choice_shows_no_cut_character)
{
    struct talk t;
    REQUIRE(inside_begin(NULL));
    REQUIRE(begin(&t, "{\"prompt\":\"x\"}"));
    struct deq_tokens ids = {0};
    CHECK(!deq_encode(t.c.served->model, "\xe2\x82\xac", 3, false, &ids, NULL));
    REQUIRE(ids.n == 3);
    choice_begin(&t.choice);
    for (size_t i = 0; i < 3; i++) {
        CHECK_EQ(shown(&t), "");
        choice_add(&t.choice, &(struct deq_event){.kind = DEQ_EVENT_TOKEN, .token = ids.ids[i], .converged = true});
    }
    CHECK_EQ(shown(&t), "\xe2\x82\xac");
    choice_add(&t.choice, &(struct deq_event){.kind = DEQ_EVENT_TOKEN, .token = ids.ids[0], .converged = true});
    CHECK_EQ(shown(&t), "\xe2\x82\xac");
    choice_end(&t.choice); /* it will not be completed: a mark in its place */
    CHECK_EQ(shown(&t), "\xe2\x82\xac\xef\xbf\xbd");
    deq_tokens_free(&ids);
    end(&t);
    inside_end();
}

TEST(choice_telemetry)
{
    struct talk t;
    REQUIRE(inside_begin(NULL));
    REQUIRE(begin(&t, "{\"prompt\":\"x\",\"return_token_ids\":true,\"include\":[\"deq.tokens\"]}"));
    add_text(&t, "q!<|endoftext|>");
    CHECK_EQ(shown(&t), "q!"); /* the end of the text is not part of it */
    CHECK_EQ(t.choice.tokens, 2);
    CHECK_EQ(t.choice.solves.iters.data, "3,4,");
    CHECK_EQ(t.choice.solves.residuals.data, "0.25,0.25,");
    CHECK_EQ(t.choice.solves.starts.data, "\"prefix\",\"previous\",");
    /* it was solved too */
    CHECK(t.choice.iters_sum == 3 + 4 + 5 && t.choice.iters_max == 5 && t.choice.residual_max == 0.25f);
    CHECK(!t.choice.converged);
    unsigned commas = 0;
    for (const char *s = t.choice.ids.data; *s; s++)
        commas += *s == ',';
    CHECK_EQ(commas, 2u);
    end(&t);
    inside_end();
}

TEST(choice_goes_on_with_its_prompt)
{
    struct talk t;
    REQUIRE(inside_begin(NULL));
    REQUIRE(begin(&t, "{\"prompt\":\"caf\\u00e9 \",\"echo\":true,\"stop\":\"f\"}"));
    add_text(&t, "oof");
    choice_end(&t.choice);
    CHECK_EQ(shown(&t), "caf\xc3\xa9 oo"); /* a stop string in the prompt is none */
    CHECK_EQ(t.prompt.n_cut, 0u);
    end(&t);
    inside_end();
}

/* Rows of a trace: those of tokens all, of wrong guesses so many; the end of the text has none. */
TEST(choice_traces_its_rows)
{
    struct talk t;
    const float residual = 0.5f;
    const struct deq_trace dropped = {.fate = DEQ_ROW_MISGUESSED, .entered = 1, .left = 2},
                           committed = {.fate = DEQ_ROW_COMMITTED, .entered = 1, .left = 1, .residual = &residual,
                                        .n = 1};
    REQUIRE(inside_begin(NULL));
    REQUIRE(begin(&t, "{\"prompt\":\"x\",\"include\":[\"deq.trace\"]}"));
    choice_begin(&t.choice);
    struct deq_event e = {.kind = DEQ_EVENT_TOKEN, .token = 70, .trace = &committed};
    choice_add(&t.choice, &e);
    e.token = (uint32_t)t.c.served->info.eos_id;
    choice_add(&t.choice, &e);
    e = (struct deq_event){.kind = DEQ_EVENT_DROPPED, .trace = &dropped};
    for (unsigned i = 0; i < TRACE_DROPPED_MAX + 10; i++)
        choice_dropped(&t.choice, &e);
    (void)shown(&t);
    size_t rows = 0;
    for (const char *s = t.choice.trace.dropped.data; (s = strstr(s, "\"why\":\"guess\"")); s++)
        rows++;
    CHECK_EQ(rows, (size_t)TRACE_DROPPED_MAX);
    CHECK_EQ(t.choice.dropped, TRACE_DROPPED_MAX + 10);
    CHECK_EQ(t.choice.trace.tokens.data, "{\"position\":0,\"start\":\"zero\",\"entered\":1,\"committed\":1,"
                                         "\"guessed\":false,\"residual\":[0.5]},");
    end(&t);
    inside_end();
}
