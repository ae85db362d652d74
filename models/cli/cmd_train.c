/* deq train RECIPE.yaml: the training run, its log and its progress line. */
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/cores.h"
#include "core/base/io.h"
#include "core/base/mem.h"
#include "core/base/stdio.h"
#include "core/train/dataset.h"
#include "core/train/train.h"
#include "models/cli/cli.h"
#include "models/cli/tune/tune.h"

static volatile sig_atomic_t stop_asked;

static void on_signal(int sig)
{
    (void)sig;
    stop_asked = 1;
}

enum { PLAIN_LINE_S = 30 }; /* without a terminal a line now and then instead of one that is overwritten */

struct view {
    char log_path[4096];
    bool json, log_begun, log_failed, told;
    double last_bits;     /* of the last validation; NAN: there was none */
    double began_s, told_s;
    double predictor_s;   /* when the predictor's first steps had been made; 0: not yet */
    uint64_t predictor_step;
};

/* A number of the log: JSON knows neither nan nor inf. */
static const char *number(char ret[32], int digits, double x)
{
    snprintf(ret, 32, "%.*f", digits, x);
    return isfinite(x) ? ret : "null";
}

static const char *bits(const struct view *v, char ret[32])
{
    snprintf(ret, 32, "%.3f", v->last_bits);
    return isfinite(v->last_bits) ? ret : "-";
}

/* "h:mm:ss" */
static const char *duration(double seconds, char ret[32])
{
    const unsigned s = (unsigned)seconds;
    snprintf(ret, 32, "%u:%02u:%02u", s / 3600, s / 60 % 60, s % 60);
    return isfinite(seconds) ? ret : "-";
}

/* By the pace since the first event; nan: that is this one. */
static double predictor_left(struct view *v, const struct deq_train_event *e)
{
    const double now = deq_now_s();
    if (v->predictor_s > 0)
        return (now - v->predictor_s) * (double)(e->steps - e->step) / (double)(e->step - v->predictor_step);
    v->predictor_s = now;
    v->predictor_step = e->step;
    return NAN;
}

/* at_once: also without a terminal, and when the last line was just now. */
__attribute__((format(printf, 3, 4))) static void show(struct view *v, bool at_once, const char *format, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    if (isatty(STDERR_FILENO)) {
        cli_progress("%s", text);
    } else if (at_once || !v->told || deq_now_s() - v->told_s >= PLAIN_LINE_S) {
        fprintf(stderr, "%s\n", text);
        v->told = true;
        v->told_s = deq_now_s();
    }
}

static bool stop(void *ctx)
{
    (void)ctx;
    return stop_asked;
}

static void log_line(struct view *v, const char *line)
{
    struct deq_err err;
    if (v->json) {
        printf("%s\n", line);
        (void)deq_stdio_flush(); /* who reads them may want to stop it */
    }
    /* a run that begins anew has no lines of one that came to nothing before it */
    enum deq_rc rc = v->log_begun || !deq_io_exists(v->log_path) ? DEQ_OK : deq_io_replace(v->log_path, NULL, 0, &err);
    v->log_begun = true;
    if (!rc)
        rc = deq_io_append_line(v->log_path, line, &err);
    if (rc && !v->log_failed) {
        v->log_failed = true; /* a full disk must not end hours of training; checkpoints report it themselves */
        cli_progress_end();
        fprintf(stderr, "deq train: log: %s\n", err.text);
    }
}

static void log_start(struct view *v, const struct deq_train_event *e)
{
    const struct deq_train_size *s = e->size;
    char line[768], depth[32] = "null";
    if (s->depth)
        snprintf(depth, sizeof depth, "%u", s->depth);
    snprintf(line, sizeof line,
             "{\"event\": \"start\", \"step\": %llu, \"grad\": \"%s\", \"depth\": %s, \"recompute_every\": %u, "
             "\"parameters\": %llu, \"non_embedding_parameters\": %llu, \"predictor_parameters\": %llu, "
             "\"activation_bytes\": %llu, \"parameter_bytes\": %llu, \"threads\": %u}",
             (unsigned long long)e->step, s->grad, depth, s->segment, (unsigned long long)s->parameters,
             (unsigned long long)s->non_embedding, (unsigned long long)s->predictor,
             (unsigned long long)s->activation_bytes, (unsigned long long)s->parameter_bytes, s->threads);
    log_line(v, line);
}

static void on_event(void *ctx, const struct deq_train_event *e)
{
    struct view *v = ctx;
    char line[768], n[3][32], residual[32] = "", predictor[48] = "";
    switch (e->kind) {
    case DEQ_TRAIN_START:
        log_start(v, e);
        break;
    case DEQ_TRAIN_NOTE:
        cli_progress_end();
        fprintf(stderr, "%s\n", e->note);
        break;
    case DEQ_TRAIN_SAVED:
        if (isatty(STDERR_FILENO))
            cli_progress("step %llu: saved %s", (unsigned long long)e->step, e->note);
        break;
    case DEQ_TRAIN_STEP:
        if (e->residual > 0) /* of a network of fixed depth there is none */
            snprintf(residual, sizeof residual, "  residual %.1e", e->residual);
        if (e->predictor > 0) /* else it is not trained with the model */
            snprintf(predictor, sizeof predictor, ", \"predictor_error\": %.4f", e->predictor);
        snprintf(line, sizeof line,
                 "{\"event\": \"step\", \"step\": %llu, \"phase\": \"%s\", \"loss\": %.5f, \"lr\": %.3g, "
                 "\"grad_norm\": %.4g, \"evaluations\": %.2f, \"adjoint_evaluations\": %.2f, \"residual\": %.3g, "
                 "\"jacobian\": %.4g, \"tokens\": %llu, \"tokens_per_second\": %.0f, \"seconds\": %.1f, "
                 "\"cpu_seconds\": %.1f, \"peak_bytes\": %llu%s}",
                 (unsigned long long)e->step, e->phase, e->loss, (double)e->lr, (double)e->grad_norm, e->evaluations,
                 e->adjoint_evaluations, e->residual, e->jac, (unsigned long long)e->tokens, e->tokens_per_second,
                 e->seconds, e->cpu_seconds, (unsigned long long)deq_mem_peak(), predictor);
        log_line(v, line);
        show(v, false,
             "step %llu/%llu %s  loss %.3f  %.0f tok/s  %.1f evaluations%s  valid %s bits/byte  ETA %s",
             (unsigned long long)e->step, (unsigned long long)e->steps, e->phase, e->loss, e->tokens_per_second,
             e->evaluations, residual, bits(v, n[0]), duration(e->eta_seconds, n[1]));
        break;
    case DEQ_TRAIN_VALID:
        v->last_bits = e->bits_per_byte;
        snprintf(line, sizeof line,
                 "{\"event\": \"valid\", \"step\": %llu, \"phase\": \"%s\", \"nll_per_token\": %s, \"perplexity\": %s, "
                 "\"bits_per_byte\": %s, \"tokens\": %llu, \"seconds\": %.1f, \"cpu_seconds\": %.1f}",
                 (unsigned long long)e->step, e->phase, number(n[0], 5, e->loss), number(n[1], 3, e->perplexity),
                 number(n[2], 5, e->bits_per_byte), (unsigned long long)e->tokens, e->seconds, e->cpu_seconds);
        log_line(v, line);
        show(v, true, "step %llu: valid %s bits/byte", (unsigned long long)e->step, bits(v, n[0]));
        break;
    case DEQ_TRAIN_PREDICTOR:
        snprintf(line, sizeof line, "{\"event\": \"predictor\", \"step\": %llu, \"relative_error\": %.4f}",
                 (unsigned long long)e->step, e->loss);
        log_line(v, line);
        show(v, false, "predictor %llu/%llu  relative error of the start %.3f  ETA %s", (unsigned long long)e->step,
             (unsigned long long)e->steps, e->loss, duration(predictor_left(v, e), n[0]));
        break;
    }
}

/* --data names one text file: it takes the place of data.train. */
static bool data_is_text(const char *data)
{
    struct stat st;
    return !stat(data, &st) && S_ISREG(st.st_mode);
}

/* Where the recipe names no text, --data is the text: a path that leads nowhere is the cause then. */
static enum deq_rc data_exists(const struct deq_recipe *r, const char *data, struct deq_err *err)
{
    return r->train_files[0] || deq_io_exists(data)
               ? DEQ_OK
               : deq_fail(err, DEQ_EINVAL, "--data: no file or directory \"%s\"", data);
}

/* --- Tuning the model that was made --- */

static void on_tuning(void *ctx, const char *line)
{
    show(ctx, false, "%s", line);
}

static enum deq_rc add_texts(struct tune_subject *s, const struct deq_recipe *r, const char *data_dir,
                             struct deq_err *err)
{
    float tail;
    const char *files = deq_recipe_tune_files(r, &tail);
    char path[4096], *text;
    size_t len;
    enum deq_rc rc = DEQ_OK;
    while (!rc && *files) {
        if ((rc = deq_dataset_path(data_dir, &files, path, err)) ||
            (rc = deq_dataset_read(path, tail, tail > 0, &text, &len, err)))
            return rc;
        rc = tune_add_text(s, text, len, err);
        deq_free(text);
    }
    return rc;
}

static void log_tuning(struct view *v, const struct tuning *t)
{
    char line[512];
    const struct deq_serving *s = &t->set;
    const struct tune_sample *loss = tune_worse(&t->point[t->chosen]);
    snprintf(line, sizeof line,
             "{\"event\": \"tune\", \"solver\": \"%s\", \"tol\": %g, \"numeric_class\": \"%s\", \"window\": %u, "
             "\"prefill_window\": %u, \"loss_percent\": %.4f, \"loss_percent_error\": %.4f, \"tokens\": %zu, "
             "\"seconds\": %.1f}",
             deq_solver_name(s->solver.method), (double)s->solver.tol, deq_class_name(s->numeric), s->row_window,
             s->prefill_window, 100 * loss->mean / t->exact, 100 * tune_error(loss) / t->exact, loss->n * TUNE_BLOCK,
             t->seconds);
    log_line(v, line);
}

/* As deq tune would: the model is whole before and after, so that what cannot be tuned stays as the recipe says. */
static enum deq_rc tune_model(struct view *v, const struct deq_recipe *r, const struct deq_train_opts *o,
                              struct deq_err *err)
{
    const struct tune_opts opts = {.budget = (double)r->tune_budget / 100, .rounds = 2, .seconds = r->tune_seconds,
                                   .progress = on_tuning, .stop = stop, .ctx = v};
    struct tune_subject *s = NULL;
    struct tuning *t = DEQ_NEW(struct tuning);
    enum deq_rc rc = t ? tune_open(o->out_dir, r->tune_tokens, o->threads, &s, err)
                       : deq_fail(err, DEQ_ENOMEM, "no memory to tune");
    if (!rc)
        rc = add_texts(s, r, o->data_dir, err);
    if (!rc)
        rc = tune_prepare(s, err);
    if (!rc) {
        show(v, true, "tuning: by %zu tokens of text", s->n_blocks * TUNE_BLOCK);
        rc = tune_run(s, &opts, t, err);
    }
    if (!rc && t->chosen < t->n && !(rc = tune_save(s, &t->set, err)))
        log_tuning(v, t);
    cli_progress_end();
    if (!rc)
        tune_print_result(stderr, t);
    tune_close(s);
    deq_free(t);
    return rc;
}

/* --- The result --- */

/* A word of a command that is to be typed, as a shell reads it back. */
static void show_word(const char *before, const char *word)
{
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/._-+=:,@%";
    if (*word && !word[strspn(word, plain)]) {
        fprintf(stderr, "%s%s", before, word);
        return;
    }
    fprintf(stderr, "%s'", before);
    for (; *word; word++)
        fprintf(stderr, *word == '\'' ? "'\\%c'" : "%c", *word);
    fprintf(stderr, "'");
}

/* What came of it, and what can be done with it. */
static void show_result(const struct view *v, const char *out)
{
    char n[2][32];
    fprintf(stderr, "%s: %s bits a byte of validation text, after %s. Next:\n", out, bits(v, n[0]),
            duration(deq_now_s() - v->began_s, n[1]));
    show_word("    ", program_invocation_name);
    show_word(" generate ", out);
    fprintf(stderr, " \"The\" --max-tokens 100 --temperature 0.7\n");
    show_word("    ", program_invocation_name);
    show_word("d --model ", out);
    fprintf(stderr, "\n");
}

/* Behind a run that came to its end: the tuning, unless the recipe says otherwise. */
static int finish(struct view *v, const struct deq_recipe *r, const struct deq_train_opts *o)
{
    struct deq_err err;
    enum deq_rc rc = DEQ_OK;
    if (deq_recipe_tunes(r))
        rc = tune_model(v, r, o, &err);
    if (rc == DEQ_EINVAL || rc == DEQ_ENUMERIC || rc == DEQ_ECANCELED) {
        fprintf(stderr, "not tuned, its settings are the recipe's: %s. Later:", err.text);
        show_word(" ", program_invocation_name);
        show_word(" tune ", o->out_dir);
        fprintf(stderr, " TEXT_FILE\n");
        rc = DEQ_OK;
    }
    if (rc)
        return cli_fail("train", err.text);
    show_result(v, o->out_dir);
    return CLI_OK;
}

struct flags {
    const char *data, *out, *init;
    struct deq_args sets;
    uint32_t threads; /* 0: not given */
    bool resume, new_recipe, f32, print_recipe, json;
};

#define AT(field) offsetof(struct flags, field)
static const struct deq_opt flags[] = {
    {"--data", DEQ_OPT_ARG, AT(data), 0, 0, ".", "DIR|FILE",
     "where the recipe's text files are, or the one text file to train on"},
    {"--out", DEQ_OPT_ARG, AT(out), 0, 0, NULL, "MODEL_DIR", "the model directory to write (required)"},
    {"--resume", DEQ_OPT_BOOL, AT(resume), 0, 0, NULL, NULL, "go on from MODEL_DIR/checkpoint.safetensors, exactly"},
    {"--new-recipe", DEQ_OPT_BOOL, AT(new_recipe), 0, 0, NULL, NULL,
     "with --resume: also where keys that make the run what it is differ from those it began with"},
    {"--init", DEQ_OPT_ARG, AT(init), 0, 0, NULL, "MODEL_DIR",
     "start from that model's weights, with a fresh optimiser; what the recipe does not say under model, "
     "data.vocab_size, predictor.hidden_size and serve is that model's"},
    {"--set", DEQ_OPT_ARGS, AT(sets), 0, DEQ_ARGS_MAX, NULL, "KEY=VALUE",
     "override a key of the recipe (repeatable); a list is [a, b]; null is the default of what is no list"},
    {"--threads", DEQ_OPT_U32, AT(threads), 1, 256, NULL, NULL, "worker threads; else all cores"},
    {"--f32", DEQ_OPT_BOOL, AT(f32), 0, 0, NULL, NULL, "write model.safetensors as F32 instead of BF16"},
    {"--print-recipe", DEQ_OPT_BOOL, AT(print_recipe), 0, 0, NULL, NULL,
     "print the whole recipe with every default and stop"},
    {"--json", DEQ_OPT_BOOL, AT(json), 0, 0, NULL, NULL, "print the log's JSON lines on standard output"},
};

static const struct deq_command command = {
    .usage = "deq train RECIPE.yaml --data DIR|FILE --out MODEL_DIR [options]",
    .about = "Trains a deep equilibrium model, or an explicit network of the same cell. The log goes to "
             "MODEL_DIR/train.jsonl; SIGINT and SIGTERM save a checkpoint and stop; --resume goes on as if nothing "
             "had happened.",
    .flags = {flags, DEQ_COUNT(flags)},
    .min_args = 1,
    .max_args = 1,
};

/* The whole command, so that the recipe is the one the run began with. */
static void show_how_to_go_on(const char *recipe_path, const struct flags *f)
{
    show_word("stopped; ", program_invocation_name);
    show_word(" train ", recipe_path);
    show_word(" --data ", f->data);
    show_word(" --out ", f->out);
    if (f->init)
        show_word(" --init ", f->init);
    for (size_t i = 0; i < f->sets.n; i++)
        show_word(" --set ", f->sets.item[i]);
    if (f->threads)
        fprintf(stderr, " --threads %u", f->threads);
    fprintf(stderr, "%s --resume goes on\n", f->f32 ? " --f32" : "");
}

static int train(struct deq_recipe *recipe, const char *recipe_path, const struct flags *f)
{
    struct view v = {.last_bits = NAN, .began_s = deq_now_s()};
    struct deq_err err;
    for (size_t i = 0; i < f->sets.n; i++)
        if (deq_opt_assign(&recipe->table, recipe, f->sets.item[i], &err))
            return cli_usage("train", "--set: %s", err.text);
    const bool one_file = data_is_text(f->data);
    if (one_file && deq_opt_set(deq_opt_find(&recipe->table, "data.train"), recipe, f->data, 0, &err))
        return cli_fail("train", err.text);
    if (f->print_recipe) {
        deq_opt_dump(&recipe->table, recipe, true, stdout);
        return CLI_OK;
    }
    if (!f->out)
        return cli_usage("train", "--out MODEL_DIR is needed");
    if (data_exists(recipe, f->data, &err))
        return cli_fail("train", err.text);
    if (deq_recipe_check(recipe, &err)) {
        (void)deq_fail_prefix(&err, err.code, recipe_path);
        return cli_fail("train", err.text);
    }
    const struct deq_train_opts o = {.data_dir = one_file ? "." : f->data, .out_dir = f->out,
                                     .threads = f->threads ? f->threads : deq_cores(), .init = f->init,
                                     .resume = f->resume, .new_recipe = f->new_recipe, .bf16 = !f->f32};
    v.json = f->json;
    if (!deq_io_join(v.log_path, sizeof v.log_path, f->out, "train.jsonl"))
        return cli_fail("train", "--out: path too long");
    if (!o.resume && deq_io_exists(f->out)) {
        char path[4096];
        if (deq_io_join(path, sizeof path, f->out, "checkpoint.safetensors") && deq_io_exists(path)) {
            fprintf(stderr, "deq train: %s exists: give --resume to go on from it, or another --out\n", path);
            return CLI_FAIL;
        }
    }
    v.log_begun = o.resume;
    struct sigaction sa = {.sa_handler = on_signal, .sa_flags = SA_RESETHAND};
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    const struct deq_train_hooks hooks = {on_event, stop, &v};
    enum deq_rc rc = deq_train_run(recipe, &o, &hooks, &err);
    cli_progress_end();
    if (rc)
        return cli_fail("train", err.text);
    const bool stopped = stop_asked; /* a signal from here on stops the tuning only */
    if (stopped)
        show_how_to_go_on(recipe_path, f);
    const int code = stopped ? CLI_OK : finish(&v, recipe, &o);
    if (code != CLI_OK)
        return code;
    if (v.log_failed)
        return cli_fail("train", "the log lacks lines that could not be written");
    return CLI_OK;
}

int cmd_train(int argc, char **argv)
{
    const char *args[1];
    size_t n;
    struct flags f = {0};
    struct deq_recipe *recipe = NULL;
    struct deq_err err;
    int code = cli_parse("train", &command, argc, argv, &f, args, &n);
    if (code >= 0)
        return code;
    if (deq_recipe_load(args[0], f.init, &recipe, &err))
        return cli_fail("train", err.text);
    code = train(recipe, args[0], &f);
    deq_recipe_free(recipe);
    return code;
}
