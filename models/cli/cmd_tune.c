/* deq tune: finds the fastest settings of solving that are known to lose next to nothing, and makes them the model's
 * own. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <unistd.h>

#include "core/base/cores.h"
#include "core/base/mem.h"
#include "core/base/text.h"
#include "core/deq.h"
#include "models/cli/cli.h"
#include "models/cli/tune/tune.h"

enum { TEXT_MAX_BYTES = 1 << 30 };

struct flags {
    float budget; /* percent */
    uint32_t limit, repeat, seconds, threads; /* threads 0: all cores */
    const char *svg;
    bool dry_run, json;
};

#define AT(field) offsetof(struct flags, field)
static const struct deq_opt flags[] = {
    {"--budget", DEQ_OPT_FLOAT, AT(budget), 0, 100, "0.1", NULL, "loss that may be given for speed, in percent"},
    {"--limit", DEQ_OPT_U32, AT(limit), TUNE_TOKENS_MIN, 1 << 24, "65537", NULL,
     "tokens of the text at most; of settings that are clear without it less is read"},
    {"--repeat", DEQ_OPT_U32, AT(repeat), 1, 8, "2", NULL,
     "measurements of each setting's time, taken in turns; of those that are about as fast more"},
    {"--seconds", DEQ_OPT_U32, AT(seconds), 1, 1 << 24, "900", NULL,
     "time to take: after it no setting or text is begun, and what is known decides"},
    {"--threads", DEQ_OPT_U32, AT(threads), 1, 256, NULL, NULL,
     "compute threads; else all cores. With 1 its CPU time counts, which others on the machine do not change"},
    {"--svg", DEQ_OPT_ARG, AT(svg), 0, 0, NULL, "FILE", "draw loss against time into a file too"},
    {"--dry-run", DEQ_OPT_BOOL, AT(dry_run), 0, 0, NULL, NULL, "leave config.json as it is"},
    {"--json", DEQ_OPT_BOOL, AT(json), 0, 0, NULL, NULL, "print one JSON object"},
};

static const struct deq_command command = {
    .usage = "deq tune MODEL_DIR TEXT_FILE [options]",
    .about = "Measures settings of solving on a text that the model was not trained on, and writes the fastest that is "
             "known, with 95 % "
             "confidence, to lose at most the budget into config.json, as the model's own.",
    .flags = {flags, DEQ_COUNT(flags)},
    .min_args = 2,
    .max_args = 2,
};

/* --- What is said --- */

static const char *const verdicts[] = {"within", "beyond", "open"};

static double percent(const struct tuning *t, double nats)
{
    return 100 * nats / t->exact;
}

static size_t tokens_read(const struct tune_point *p)
{
    return p->apart[TUNE_PREFILL].n * TUNE_BLOCK;
}

static void print_table(const struct tuning *t)
{
    printf("%-18s %-9s %7s %2s %4s %-8s %6s %7s  %6s %18s %-6s  %11s  %13s %7s\n", "varied", "solver", "tol", "m",
           "beta", "class", "window", "prefill", "tokens", "loss above exact", "", "evaluations", "tokens/s", "time");
    printf("%-18s %-9s %7s %2s %4s %-8s %6s %7s  %6s %18s %-6s  %5s %5s  %6s %6s\n", "", "", "", "", "", "", "", "",
           "", "", "", "read", "write", "read", "write");
    for (size_t i = 0; i < t->n; i++) {
        const struct tune_point *p = &t->point[i];
        const struct deq_serving *s = &p->set;
        const struct tune_sample *loss = tune_worse(p);
        printf("%-18s %-9s %7g %2u %4g %-8s %6u %7u  %6zu %+8.3f%% +-%.3f%% %-6s  "
               "%5.2f %5.2f  %6.0f %6.0f %+6.1f%% %s\n",
               p->stage, deq_solver_name(s->solver.method), (double)s->solver.tol, s->solver.memory,
               (double)s->solver.beta, deq_class_name(s->numeric), s->row_window, s->prefill_window, tokens_read(p),
               percent(t, loss->mean), percent(t, tune_error(loss)), i == TUNE_EXACT ? "" : verdicts[t->verdict[i]],
               p->evaluations, p->written, 1 / p->read_s, 1 / p->write_s, 100 * expm1(p->slower.mean),
               i == t->chosen ? "<- chosen" : p->front ? "*" : "");
    }
    printf("exact: %.4f nats a token; +-: standard error; within, beyond: the budget, with 95 %% confidence\n"
           "time: against the setting as it is, +-%.1f %%; *: of no other setting are both loss and time less; "
           "prefill 0: as window\n", t->exact, 100 * tune_noise(t->point, t->n).deviation);
}

static json_t *number(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

static json_t *point_json(const struct tuning *t, size_t i)
{
    const struct tune_point *p = &t->point[i];
    const struct deq_serving *s = &p->set;
    const struct tune_sample *loss = tune_worse(p);
    return json_pack("{s:s, s:s, s:f, s:i, s:f, s:s, s:i, s:i, s:I, s:o, s:o, s:s, s:f, s:f, s:f, s:f, s:f, s:b, s:b}",
                     "varied", p->stage, "solver", deq_solver_name(s->solver.method), "tol", (double)s->solver.tol,
                     "memory", (int)s->solver.memory, "beta", (double)s->solver.beta, "numeric_class",
                     deq_class_name(s->numeric), "window", (int)s->row_window, "prefill_window",
                     (int)s->prefill_window, "tokens", (json_int_t)tokens_read(p), "loss_percent",
                     number(percent(t, loss->mean)), "loss_percent_error", number(percent(t, tune_error(loss))),
                     "verdict", i == TUNE_EXACT ? "exact" : verdicts[t->verdict[i]], "evaluations_read",
                     p->evaluations, "evaluations_write", p->written, "tokens_per_second_read", 1 / p->read_s,
                     "tokens_per_second_write", 1 / p->write_s, "time_percent", 100 * expm1(p->slower.mean), "front",
                     p->front, "chosen", i == t->chosen);
}

static int print_json(const struct tuning *t, bool written)
{
    json_t *points = json_array();
    for (size_t i = 0; i < t->n; i++)
        json_array_append_new(points, point_json(t, i));
    return cli_print_json("tune",
                          json_pack("{s:I, s:f, s:f, s:f, s:b, s:o, s:{s:f, s:f}, s:f, s:o}", "tokens",
                                    (json_int_t)(t->subject->n_blocks * TUNE_BLOCK), "exact", t->exact,
                                    "budget_percent", 100 * t->opts.budget, "time_percent_error",
                                    100 * tune_noise(t->point, t->n).deviation, "written", written, "tokens_needed",
                                    t->open < t->n ? number(t->tokens_needed) : json_null(), "presets", "fast",
                                    (double)deq_serving_tol_fast(&t->set), "exact",
                                    (double)deq_serving_tol_exact(&t->set), "seconds", t->seconds, "points", points),
                          JSON_INDENT(2) | JSON_REAL_PRECISION(7));
}

static int report(const struct tuning *t, const struct flags *f, struct deq_err *err)
{
    const bool write = !f->dry_run && t->chosen < t->n;
    if (f->svg && tune_plot_svg(f->svg, t, err))
        return cli_fail("tune", err->text);
    if (write && tune_save(t->subject, &t->set, err))
        return cli_fail("tune", err->text);
    if (f->json)
        return print_json(t, write);
    print_table(t);
    tune_plot_text(stdout, t);
    tune_print_result(stdout, t);
    printf("%s: %s\n", t->subject->config_path, write ? "has the chosen settings now" : "left as it is");
    return CLI_OK;
}

static void progress(void *ctx, const char *line)
{
    (void)ctx;
    cli_progress("%s", line);
}

static enum deq_rc open_with_text(const char *dir, const char *path, const struct flags *f, struct tune_subject **ret,
                                  struct deq_err *err)
{
    struct tune_subject *s = NULL;
    char *text = NULL;
    size_t len = 0;
    enum deq_rc rc = tune_open(dir, f->limit, f->threads ? f->threads : deq_cores(), &s, err);
    if (!rc && !f->dry_run && access(dir, W_OK))
        rc = deq_fail(err, DEQ_EIO, "%s: cannot be written to, and config.json is replaced in it; --dry-run only "
                                    "measures", dir);
    if (!rc)
        rc = deq_text_read(path, TEXT_MAX_BYTES, &text, &len, err);
    if (!rc)
        rc = tune_add_text(s, text, len, err);
    if (!rc && (rc = tune_prepare(s, err)) == DEQ_EINVAL)
        (void)deq_fail_prefix(err, rc, path);
    deq_free(text);
    if (rc)
        tune_close(s);
    else
        *ret = s;
    return rc;
}

int cmd_tune(int argc, char **argv)
{
    const char *args[2];
    size_t n;
    struct flags f = {0};
    struct deq_err err;
    struct tune_subject *s = NULL;
    int code = cli_parse("tune", &command, argc, argv, &f, args, &n);
    if (code >= 0)
        return code;
    const struct tune_opts o = {.budget = (double)f.budget / 100, .rounds = f.repeat, .seconds = f.seconds,
                                .progress = progress};
    struct tuning *t = DEQ_NEW(struct tuning);
    if (!t)
        return cli_fail("tune", "no memory");
    enum deq_rc rc = open_with_text(args[0], args[1], &f, &s, &err);
    if (!rc)
        rc = tune_run(s, &o, t, &err);
    cli_progress_end();
    code = rc ? cli_fail("tune", err.text) : report(t, &f, &err);
    tune_close(s);
    deq_free(t);
    return code;
}
