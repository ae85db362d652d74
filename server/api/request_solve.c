/* The deq object: how far, and by which means, the equilibria of this request are solved. */
#include <math.h>
#include <string.h>

#include "server/api/request_impl.h"

enum { MAX_EVALUATIONS = 1000000000 };

const char *const request_preset_names[PRESETS] = {"fast", "balanced", "exact"};

float request_preset_tol(const struct conf *c, const struct deq_model_info *i, int preset)
{
    const float tol[PRESETS] = {i->tol_fast, i->tol, i->tol_exact};
    if (!(i->tol > 0)) /* a fixed number of steps stays one */
        return 0;
    return fminf(fmaxf(tol[preset], c->tol_min), c->tol_max);
}

struct solve_fields {
    struct deq_solve_params *p;
    int64_t max_iter, min_iter, window, prefill_window, max_evaluations;
    struct depth_request depth;
};

/* A model without an equilibrium to reach is run for a number of steps, from zero and one row at a time; what does not
 * fit that is an error. */
static bool fixed_steps(const struct object *o)
{
    return !(deq_model_info(o->context->model).tol > 0);
}

static bool take_tol(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    const struct conf *c = o->context->conf;
    const enum deq_stop_rule stop = ((struct solve_fields *)request)->p->stop;
    if (stop == DEQ_STOP_AT_ARGMAX)
        return fields_bad_value(o, f->name, "stop argmax has no tolerance");
    if (stop == DEQ_STOP_AT_RESIDUAL && fixed_steps(o))
        return fields_bad_value(o, f->name, "this model takes a fixed number of steps (max_iter)");
    /* the bounds are floats, and so are bounds as somebody writes them once they are read */
    if (!json_is_number(v))
        return fields_bad_type(o, f->name, "a number");
    const float tol = (float)json_number_value(v);
    if (!(tol >= c->tol_min && tol <= c->tol_max))
        return fields_fail(o->err, 400, "invalid_value", "deq.tol", "deq.tol: must be between %g and %g",
                           (double)c->tol_min, (double)c->tol_max);
    ((struct solve_fields *)request)->p->tol = tol;
    ((struct solve_fields *)request)->depth.names_tol = true;
    return true;
}

static bool take_max_iter(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    if (json_is_integer(v) && !json_integer_value(v) && !deq_model_info(o->context->model).has_proposal)
        return fields_bad_value(o, f->name, "0 answers from the model's proposal, and this model makes none");
    return fields_take_int(o, f->name, v, 0, o->context->conf->max_iter_max,
                           &((struct solve_fields *)request)->max_iter);
}

static bool take_min_iter(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct solve_fields *s = request;
    return fields_take_int(o, f->name, v, 0, s->max_iter, &s->min_iter);
}

static int64_t window_max(const struct object *o, const struct solve_fields *s)
{
    return !(s->p->tol > 0) || deq_stop_reads(s->p->stop) ? 1 : o->context->conf->max_window;
}

static bool take_window(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct solve_fields *s = request;
    s->prefill_window = 0; /* a prompt's is as wide, unless it is said too */
    return fields_take_int(o, f->name, v, 1, window_max(o, s), &s->window);
}

static bool take_prefill_window(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct solve_fields *s = request;
    return fields_take_int(o, f->name, v, 1, window_max(o, s), &s->prefill_window);
}

static bool take_depth(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    if (!json_is_string(v))
        return fields_bad_type(o, f->name, "a string");
    const bool fixed = !strcmp(fields_word(v), "fixed");
    if (!fixed && strcmp(fields_word(v), "elastic"))
        return fields_bad_value(o, f->name, "must be fixed or elastic");
    ((struct solve_fields *)request)->depth.mode = fixed ? DEPTH_FIXED : DEPTH_ELASTIC;
    return true;
}

static bool take_max_evaluations(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    return fields_take_int(o, f->name, v, 1, MAX_EVALUATIONS, &((struct solve_fields *)request)->max_evaluations);
}

static bool take_solver(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct solve_fields *s = request;
    if (!json_is_string(v))
        return fields_bad_type(o, f->name, "a string");
    return deq_solver_by_name(fields_word(v), &s->p->solver) ||
           fields_bad_value(o, f->name, "must be picard, anderson or broyden");
}

static bool take_warm(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct solve_fields *s = request;
    if (!json_is_string(v))
        return fields_bad_type(o, f->name, "a string");
    if (!deq_warm_by_name(fields_word(v), &s->p->warm_start))
        return fields_bad_value(o, f->name, "must be zero, previous, predictor or proposal");
    if (s->p->warm_start == DEQ_WARM_PREDICTOR && !deq_model_info(o->context->model).has_predictor)
        return fields_bad_value(o, f->name, "this model has no predictor");
    if (s->p->warm_start == DEQ_WARM_PROPOSAL && !deq_model_info(o->context->model).has_proposal)
        return fields_bad_value(o, f->name, "this model makes no proposal");
    if (!deq_warm_is_fixed(s->p->warm_start) && fixed_steps(o))
        return fields_bad_value(o, f->name, "this model takes a fixed number of steps, from zero or its proposal");
    return true;
}

static bool take_stop(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct solve_fields *s = request;
    const struct deq_model_info info = deq_model_info(o->context->model);
    if (!json_is_string(v))
        return fields_bad_type(o, f->name, "a string");
    if (!deq_stop_rule_by_name(fields_word(v), &s->p->stop))
        return fields_bad_value(o, f->name, "must be residual, latent, kl or argmax");
    if (s->p->stop == info.stop)
        return true;
    /* a model that takes a fixed number of steps goes on doing so by its residual */
    if (s->p->stop != DEQ_STOP_AT_RESIDUAL || info.tol > 0)
        s->p->tol = deq_stop_rule_tol(s->p->stop);
    if (deq_stop_reads(s->p->stop)) {
        s->window = 1;
        s->prefill_window = 0;
    }
    return true;
}

static bool take_preset(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct solve_fields *s = request;
    if (!json_is_string(v))
        return fields_bad_type(o, f->name, "a string");
    const struct deq_model_info info = deq_model_info(o->context->model);
    if (s->p->stop != info.stop)
        return fields_bad_value(o, f->name, "presets are tolerances of the model's own rule, and stop is another");
    for (int i = 0; i < PRESETS; i++)
        if (!strcmp(fields_word(v), request_preset_names[i])) {
            s->p->tol = request_preset_tol(o->context->conf, &info, i);
            s->depth.names_tol = true;
            return true;
        }
    return fields_bad_value(o, f->name, "must be fast, balanced or exact");
}

/* stop before what depends on it; preset before tol, which is then the last word; max_iter before min_iter; window
 * before prefill_window */
static const struct field rows[] = {
    {"stop", OTHER, 0, 0, 0, take_stop, "string: residual, latent, kl, argmax"},
    {"preset", OTHER, 0, 0, 0, take_preset, "string: fast, balanced, exact"},
    {"tol", OTHER, 0, -1, 0, take_tol, "number"},
    {"max_iter", OTHER, 0, -1, 0, take_max_iter, "integer"},
    {"min_iter", OTHER, 0, -1, 0, take_min_iter, "integer"},
    {"solver", OTHER, 0, 0, 0, take_solver, "string: picard, anderson, broyden"},
    {"warm_start", OTHER, 0, 0, 0, take_warm, "string: zero, previous, predictor, proposal"},
    {"window", OTHER, 1, -1, 0, take_window, "integer"},
    {"prefill_window", OTHER, 1, -1, 0, take_prefill_window, "integer"},
    {"max_evaluations", OTHER, 1, MAX_EVALUATIONS, 0, take_max_evaluations, "integer"},
    {"depth", OTHER, 0, 0, 0, take_depth, "string: fixed, elastic"},
};

const struct fields request_solve_fields = {.rows = rows, .n = DEQ_COUNT(rows), .name = "deq"};

/* A text with a budget is solved with window 1, whatever window was asked for: guesses are evaluations that a budget
 * would pay for without a token. Its prompt has a window of its own. So the text is the same whatever the window. */
static void settle_windows(const struct object *o, const struct solve_fields *s, struct deq_solve_params *p)
{
    const int64_t usual = DEQ_MIN((int64_t)deq_prefill_window(p->window, p->prefill_window), window_max(o, s));
    p->max_evaluations = (uint64_t)s->max_evaluations;
    p->window = s->max_evaluations ? 1 : (uint32_t)s->window;
    p->prefill_window = (uint32_t)(s->max_evaluations && !s->prefill_window ? usual : s->prefill_window);
}

bool request_take_solve_object(const struct object *outer, const json_t *v, struct deq_solve_params *p,
                               struct depth_request *depth)
{
    if (!json_is_object(v))
        return fields_bad_type(outer, "deq", "an object");
    const struct object o = {.json = v,
                             .prefix = "deq.",
                             .fields = &request_solve_fields,
                             .context = outer->context,
                             .err = outer->err};
    struct solve_fields s = {.p = p,
                             .max_iter = p->max_iter,
                             .min_iter = DEQ_MIN(p->min_iter, p->max_iter),
                             .window = p->window,
                             .prefill_window = p->prefill_window};
    if (!fields_take(&o, &s))
        return false;
    if (!s.max_iter && p->warm_start != DEQ_WARM_PROPOSAL)
        return fields_bad_value(&o, "max_iter", "0 answers from the model's proposal, and warm_start is another");
    p->max_iter = (uint32_t)s.max_iter;
    p->min_iter = (uint32_t)DEQ_MIN(s.min_iter, s.max_iter);
    settle_windows(&o, &s, p);
    if (depth)
        *depth = s.depth;
    return true;
}

struct deq_solve_params request_solve_defaults(const struct request_context *c)
{
    struct deq_solve_params p = deq_request_defaults(c->model).solve;
    p.window = DEQ_MIN(p.window, c->conf->max_window);
    p.prefill_window = DEQ_MIN(p.prefill_window, c->conf->max_window);
    return p;
}
