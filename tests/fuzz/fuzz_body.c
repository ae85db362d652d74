/* Bodies of requests, of every endpoint that takes one, through the tables of fields into the request's struct.
 *
 * Input: a letter for the endpoint, one for the circumstances, the body. What is accepted keeps every bound that the
 * tables and the configuration name; what is refused says so in printable words; and the same JSON written once more by
 * jansson is the same request. */
#include "core/base/json.h"
#include "core/base/mem.h"
#include "server/api/fields.h"
#include "tests/fuzz/members.h"
#include "tests/fuzz/mutate.h"

enum { COMPLETIONS, CHAT, RESPONSES, LOGITS, EQUILIBRIA, EMBEDDINGS, STATES, TOKENIZE, DETOKENIZE, ENDPOINTS };
enum { IGNORES = 1, TEMPLATE = 2, TIGHT = 4, TRELLIS = 8, CIRCUMSTANCES = 16 };
enum { BODY_FLAGS = JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL }; /* fields.c's */

union any_request {
    struct completion_request completion;
    struct logits_request logits;
    struct equilibria_request equilibria;
    struct state_request state;
    struct tokenize_request tokens;
};

static const struct request_context *context(unsigned as)
{
    static struct conf conf[CIRCUMSTANCES];
    static struct request_context known[CIRCUMSTANCES];
    struct request_context *c = &known[as];
    if (c->model)
        return c;
    struct conf *o = &conf[as];
    FUZZ_HOLDS(!deq_opt_defaults(&conf_table, o, NULL));
    snprintf(o->sampling_seed, sizeof o->sampling_seed, "7"); /* the same request has the same seed */
    if (as & IGNORES)
        snprintf(o->unknown_fields, sizeof o->unknown_fields, "ignore");
    if (as & TEMPLATE) {
        snprintf(o->chat_begin, sizeof o->chat_begin, "<|bos|>");
        snprintf(o->chat_message, sizeof o->chat_message, "{role}: {content_trimmed}{content}<|endoftext|>\n");
        snprintf(o->chat_reply, sizeof o->chat_reply, "assistant:");
        snprintf(o->chat_stop, sizeof o->chat_stop, "<|endoftext|>");
    }
    if (as & TIGHT) {
        o->max_prompts = o->max_n = o->max_stop = 2;
        o->max_stop_bytes = o->max_logprobs = 3;
        o->max_logits_bytes = 4096;
        o->answer_bytes = 100000;
        o->max_window = 4;
    }
    *c = (struct request_context){.model = fuzz_model(as & TRELLIS ? "tiny-trellis" : "tiny"), .conf = o,
                                  .model_name = "tiny", .max_positions = as & TIGHT ? 20 : 200, .max_rows = 64};
    return c;
}

static bool parse(const struct request_context *c, unsigned endpoint, const char *body, size_t n,
                  union any_request *ret, struct request_error *err)
{
    switch (endpoint) {
    case LOGITS: return request_logits(c, body, n, &ret->logits, err);
    case EQUILIBRIA:
    case EMBEDDINGS: return request_equilibria(c, endpoint == EMBEDDINGS, body, n, &ret->equilibria, err);
    case STATES: return request_state(c, body, n, &ret->state, err);
    case TOKENIZE: return request_tokenize(c, body, n, &ret->tokens, err);
    case DETOKENIZE: return request_detokenize(c, body, n, &ret->tokens, err);
    default: return request_completion(c, (enum endpoint)endpoint, body, n, &ret->completion, err);
    }
}

static void request_free(unsigned endpoint, union any_request *r)
{
    switch (endpoint) {
    case LOGITS: deq_tokens_free(&r->logits.prompt); break;
    case EQUILIBRIA:
    case EMBEDDINGS: equilibria_request_free(&r->equilibria); break;
    case STATES: deq_tokens_free(&r->state.prompt); break;
    case TOKENIZE:
    case DETOKENIZE: deq_tokens_free(&r->tokens.tokens); break;
    default: completion_request_free(&r->completion); break;
    }
}

/* --- What is promised of a request --- */

static void check_error(const struct request_error *e)
{
    FUZZ_HOLDS(e->status == 400 || e->status == 404);
    FUZZ_HOLDS(e->code && *e->code && *e->message);
    for (const char *s = e->message; *s; s++)
        FUZZ_HOLDS((unsigned char)*s >= 0x20 && (unsigned char)*s < 0x7f);
    for (const char *s = e->param; *s; s++)
        FUZZ_HOLDS((unsigned char)*s >= 0x20 && (unsigned char)*s < 0x7f);
}

static void check_tokens(const struct request_context *c, const struct deq_tokens *t)
{
    size_t len;
    for (size_t i = 0; i < t->n; i++)
        FUZZ_HOLDS(deq_token_bytes(c->model, t->ids[i], &len));
}

static void check_prompt(const struct request_context *c, const struct deq_tokens *t, bool may_be_empty)
{
    FUZZ_HOLDS((t->n || may_be_empty) && t->n <= c->max_positions);
    check_tokens(c, t);
}

static void check_salt(const struct cache_salt *s)
{
    FUZZ_HOLDS(s->len <= SALT_MAX_BYTES);
}

static void check_name(const char *name)
{
    FUZZ_HOLDS(!*name || states_good_name(name, strlen(name)));
}

static bool within(double x, double lo, double hi)
{
    return x >= lo && x <= hi;
}

static void check_solve(const struct request_context *c, const struct deq_solve_params *p)
{
    const struct conf *o = c->conf;
    const struct deq_model_info info = deq_model_info(c->model);
    FUZZ_HOLDS(p->tol == 0 || p->stop != DEQ_STOP_AT_RESIDUAL || within((double)p->tol, 0, 10));
    FUZZ_HOLDS(p->min_iter <= p->max_iter && p->max_iter <= DEQ_MAX(o->max_iter_max, 100000u));
    FUZZ_HOLDS(p->window >= 1 && p->window <= o->max_window && p->prefill_window <= o->max_window);
    FUZZ_HOLDS(p->max_iter || p->warm_start == DEQ_WARM_PROPOSAL);
    FUZZ_HOLDS(!p->max_evaluations || p->window == 1);
    FUZZ_HOLDS(!deq_stop_reads(p->stop) || (p->window == 1 && p->prefill_window <= 1));
    FUZZ_HOLDS(p->warm_start != DEQ_WARM_PREDICTOR || info.has_predictor);
    FUZZ_HOLDS(p->warm_start != DEQ_WARM_PROPOSAL || info.has_proposal);
    FUZZ_HOLDS((unsigned)p->warm_start < DEQ_WARM_COUNT && (unsigned)p->stop < DEQ_STOP_RULES);
}

/* What an object of /v1/responses repeats is members of an object. */
static void check_told(const struct completion_request *r)
{
    FUZZ_HOLDS(!r->responses == !r->told);
    if (!r->told)
        return;
    json_error_t where;
    json_t *root;
    char *text = malloc(r->told_len + 16);
    const int n = snprintf(text, r->told_len + 16, "{%.*s\"x\":0}", (int)r->told_len, r->told);
    FUZZ_HOLDS((size_t)n == r->told_len + 7);
    FUZZ_HOLDS(!deq_json_parse_clamped(text, (size_t)n, JSON_ALLOW_NUL, &root, &where));
    json_decref(root);
    free(text);
}

static void check_sampling(const struct request_context *c, const struct completion_request *r)
{
    const uint32_t vocab = deq_model_info(c->model).vocab_size;
    FUZZ_HOLDS(within((double)r->temperature, 0, 2) && within((double)r->top_p, 0, 1) &&
               within((double)r->min_p, 0, 1));
    FUZZ_HOLDS(within((double)r->presence_penalty, -2, 2) && within((double)r->frequency_penalty, -2, 2) &&
               within((double)r->repetition_penalty, 0.0099, 100));
    FUZZ_HOLDS(r->top_k >= -1 && r->top_k <= INT32_MAX && r->priority >= -20 && r->priority <= 20);
    FUZZ_HOLDS(r->deadline_ms >= 0 && r->deadline_ms <= 86400000);
    FUZZ_HOLDS(r->logprobs >= -1 && r->logprobs <= (int64_t)c->conf->max_logprobs);
    FUZZ_HOLDS(r->logprob_ids.n <= c->conf->max_logprobs && r->stop_ids.n <= JSON_ARRAY_MAX + 1);
    FUZZ_HOLDS(r->n_bias <= BIAS_MAX);
    for (size_t i = 0; i < r->n_bias; i++)
        FUZZ_HOLDS(r->bias[i].token < vocab && within((double)r->bias[i].bias, -100, 100));
    check_tokens(c, &r->stop_ids);
    check_tokens(c, &r->logprob_ids);
}

static void check_completion(const struct request_context *c, const struct completion_request *r)
{
    const struct conf *o = c->conf;
    const char *own = request_chat_template(c).stop; /* the one that nobody asked for */
    FUZZ_HOLDS(r->n_prompts >= 1 && r->n_prompts <= o->max_prompts && (!r->chat || r->n_prompts == 1));
    for (size_t i = 0; i < r->n_prompts; i++) {
        check_prompt(c, &r->prompts[i], r->state[0]);
        FUZZ_HOLDS(!r->max_given || r->prompts[i].n + (uint64_t)r->max_tokens <= c->max_positions);
    }
    FUZZ_HOLDS(r->max_tokens >= 0 && (r->max_tokens || (r->echo && r->best_of == 1)));
    FUZZ_HOLDS(r->n >= 1 && r->best_of >= r->n && r->best_of <= (int64_t)DEQ_MIN(o->max_n, o->max_sequences));
    FUZZ_HOLDS(deq_window_rows((uint32_t)r->best_of, r->solve.window, r->solve.prefill_window) <= c->max_rows);
    FUZZ_HOLDS(r->min_tokens >= 0 && r->min_tokens <= r->max_tokens);
    FUZZ_HOLDS(!(r->stream && r->best_of > r->n) && !(r->state[0] && r->echo) && !(r->form && r->ignore_eos));
    FUZZ_HOLDS(r->n_stops <= DEQ_MIN((size_t)o->max_stop + 1, (size_t)REQUEST_STOPS_MAX));
    for (size_t i = 0; i < r->n_stops; i++)
        FUZZ_HOLDS(r->stop_len[i] && (r->stop_len[i] <= o->max_stop_bytes || (r->chat && !strcmp(r->stop[i], own))));
    FUZZ_HOLDS((unsigned)r->cache < DEQ_CACHE_COUNT);
    check_sampling(c, r);
    check_solve(c, &r->solve);
    check_salt(&r->salt);
    check_name(r->state);
    check_told(r);
}

static void check(const struct request_context *c, unsigned endpoint, const union any_request *r)
{
    switch (endpoint) {
    case LOGITS:
        check_prompt(c, &r->logits.prompt, false);
        check_solve(c, &r->logits.solve);
        check_salt(&r->logits.salt);
        FUZZ_HOLDS((r->logits.all_positions ? r->logits.prompt.n : 1) * deq_model_info(c->model).vocab_size *
                       sizeof(float) <= c->conf->max_logits_bytes);
        break;
    case EQUILIBRIA:
    case EMBEDDINGS:
        FUZZ_HOLDS(r->equilibria.n_prompts >= 1 && r->equilibria.n_prompts <= c->conf->max_prompts);
        for (size_t i = 0; i < r->equilibria.n_prompts; i++)
            check_prompt(c, &r->equilibria.prompts[i], false);
        check_solve(c, &r->equilibria.solve);
        check_salt(&r->equilibria.salt);
        break;
    case STATES:
        check_prompt(c, &r->state.prompt, false);
        check_solve(c, &r->state.solve);
        check_salt(&r->state.salt);
        check_name(r->state.name);
        check_name(r->state.state);
        break;
    case TOKENIZE:
    case DETOKENIZE: check_tokens(c, &r->tokens.tokens); break;
    default: check_completion(c, &r->completion); break;
    }
}

/* --- The same request twice --- */

static bool same_tokens(const struct deq_tokens *x, const struct deq_tokens *y)
{
    return x->n == y->n && (!x->n || !memcmp(x->ids, y->ids, x->n * sizeof *x->ids));
}

static bool same_prompts(const struct deq_tokens *x, size_t n_x, const struct deq_tokens *y, size_t n_y)
{
    bool same = n_x == n_y;
    for (size_t i = 0; same && i < n_x; i++)
        same = same_tokens(&x[i], &y[i]);
    return same;
}

static bool same_solve(const struct deq_solve_params *x, const struct deq_solve_params *y)
{
    return x->solver == y->solver && x->warm_start == y->warm_start && x->stop == y->stop && x->tol == y->tol &&
           x->max_iter == y->max_iter && x->min_iter == y->min_iter && x->window == y->window &&
           x->prefill_window == y->prefill_window && x->max_evaluations == y->max_evaluations;
}

static bool same_salt(const struct cache_salt *x, const struct cache_salt *y)
{
    return x->len == y->len && !memcmp(x->bytes, y->bytes, x->len);
}

static bool same_numbers(const struct completion_request *x, const struct completion_request *y)
{
    return x->max_tokens == y->max_tokens && x->n == y->n && x->best_of == y->best_of && x->logprobs == y->logprobs &&
           x->min_tokens == y->min_tokens && x->truncate == y->truncate && x->priority == y->priority &&
           x->deadline_ms == y->deadline_ms && x->top_k == y->top_k && x->seed == y->seed &&
           x->temperature == y->temperature && x->top_p == y->top_p && x->min_p == y->min_p &&
           x->presence_penalty == y->presence_penalty && x->frequency_penalty == y->frequency_penalty &&
           x->repetition_penalty == y->repetition_penalty && x->token_bytes == y->token_bytes &&
           x->user_hash == y->user_hash && x->cache == y->cache && x->depth.mode == y->depth.mode &&
           x->depth.names_tol == y->depth.names_tol;
}

static bool same_flags(const struct completion_request *x, const struct completion_request *y)
{
    return x->max_given == y->max_given && x->seed_given == y->seed_given && x->stream == y->stream &&
           x->include_usage == y->include_usage && x->continuous_usage == y->continuous_usage && x->echo == y->echo &&
           x->ignore_eos == y->ignore_eos && x->token_ids == y->token_ids && x->tokens_as_ids == y->tokens_as_ids &&
           x->telemetry == y->telemetry && x->trace == y->trace && x->timings == y->timings &&
           x->add_special == y->add_special;
}

static bool same_completion(const struct completion_request *x, const struct completion_request *y)
{
    bool same = same_numbers(x, y) && same_flags(x, y) && same_solve(&x->solve, &y->solve) &&
                same_salt(&x->salt, &y->salt) && same_prompts(x->prompts, x->n_prompts, y->prompts, y->n_prompts) &&
                same_tokens(&x->stop_ids, &y->stop_ids) && same_tokens(&x->logprob_ids, &y->logprob_ids) &&
                !x->form == !y->form && !strcmp(x->state, y->state) && x->n_bias == y->n_bias &&
                x->n_stops == y->n_stops && x->told_len == y->told_len &&
                (!x->told_len || !memcmp(x->told, y->told, x->told_len));
    for (size_t i = 0; same && i < x->n_bias; i++)
        same = x->bias[i].token == y->bias[i].token && x->bias[i].bias == y->bias[i].bias;
    for (size_t i = 0; same && i < x->n_stops; i++)
        same = x->stop_len[i] == y->stop_len[i] && !memcmp(x->stop[i], y->stop[i], x->stop_len[i]);
    return same;
}

static bool same(unsigned endpoint, const union any_request *x, const union any_request *y)
{
    switch (endpoint) {
    case LOGITS:
        return same_tokens(&x->logits.prompt, &y->logits.prompt) && same_solve(&x->logits.solve, &y->logits.solve) &&
               x->logits.all_positions == y->logits.all_positions && same_salt(&x->logits.salt, &y->logits.salt);
    case EQUILIBRIA:
    case EMBEDDINGS:
        return same_prompts(x->equilibria.prompts, x->equilibria.n_prompts, y->equilibria.prompts,
                            y->equilibria.n_prompts) && same_solve(&x->equilibria.solve, &y->equilibria.solve) &&
               x->equilibria.mean == y->equilibria.mean && x->equilibria.base64 == y->equilibria.base64 &&
               x->equilibria.jacobian == y->equilibria.jacobian &&
               x->equilibria.all_positions == y->equilibria.all_positions;
    case STATES:
        return same_tokens(&x->state.prompt, &y->state.prompt) && same_solve(&x->state.solve, &y->state.solve) &&
               !strcmp(x->state.name, y->state.name) && !strcmp(x->state.state, y->state.state);
    case TOKENIZE:
    case DETOKENIZE: return same_tokens(&x->tokens.tokens, &y->tokens.tokens);
    default: return same_completion(&x->completion, &y->completion);
    }
}

/* Prints the body's JSON and reads that: r, or err, comes of it again. */
static void check_again(const struct request_context *c, unsigned endpoint, const char *body, size_t n,
                        const union any_request *r, const struct request_error *err)
{
    union any_request again;
    struct request_error err_again;
    json_error_t where;
    json_t *root;
    if (deq_json_parse_clamped(body, n, BODY_FLAGS, &root, &where))
        return;
    char *text = json_dumps(root, JSON_COMPACT | JSON_ENCODE_ANY);
    json_decref(root);
    FUZZ_HOLDS(text);
    const bool ok = parse(c, endpoint, text, strlen(text), &again, &err_again);
    FUZZ_HOLDS(ok == !err->status);
    if (ok) {
        FUZZ_HOLDS(same(endpoint, r, &again));
        request_free(endpoint, &again);
    } else {
        FUZZ_HOLDS(err->status == err_again.status && !strcmp(err->code, err_again.code) &&
                   !strcmp(err->param, err_again.param));
    }
    free(text);
}

FUZZ(body)
{
    union any_request r;
    struct request_error err = {0};
    const unsigned endpoint = fuzz_letter(&data, &n, ENDPOINTS);
    const struct request_context *c = context(fuzz_letter(&data, &n, CIRCUMSTANCES));
    char *body = fuzz_copy(data, n);
    const bool ok = parse(c, endpoint, body, n, &r, &err);
    FUZZ_HOLDS(ok == !err.status);
    if (ok)
        check(c, endpoint, &r);
    else
        check_error(&err);
    check_again(c, endpoint, body, n, &r, &err);
    if (ok)
        request_free(endpoint, &r);
    free(body);
}

#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
static const struct fields *const tables[ENDPOINTS] = {&completion_fields, &chat_fields,       &responses_fields,
                                                       &logits_fields,     &equilibria_fields, &embeddings_fields,
                                                       &state_fields,      &tokenize_fields,   &detokenize_fields};

FUZZ_MUTATOR
{
    uint64_t random = seed ^ 0xb0d1;
    if (n < 2 || max < 4 || fuzz_next(&random) % 2)
        return fuzz_mutate_json_in(data, n, max, seed, 2);
    const struct fields *f = tables[(unsigned)(data[0] - 'A') % ENDPOINTS];
    return 2 + fuzz_mutate_members(data + 2, n - 2, max - 2, f, &random);
}
#endif
