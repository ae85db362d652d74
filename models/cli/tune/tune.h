/* deq tune's parts: a model with a text (subject.c), settings of solving as points that are measured (measure.c),
 * chosen from (choose.c: pure) and drawn (plot.c). */
#ifndef DEQ_MODELS_CLI_TUNE_H
#define DEQ_MODELS_CLI_TUNE_H

#include <stdio.h>

#include "core/base/tokens.h"
#include "core/cell/kind.h"

/* A setting, and what it gives. */
struct tune_point {
    const char *stage; /* what was varied: "tolerance and solver" */
    struct deq_serving set;
    double loss;         /* nats a token of the text */
    double error;        /* standard error of its difference from the exact one, token by token */
    double evaluations;  /* a token, reading */
    double written;      /* evaluations a token, writing */
    double read_s;       /* a token, seconds */
    double write_s;
    bool front;          /* of no other point are both loss and time less */
};

/* What a setting costs: a token read and one written. */
static inline double tune_seconds(const struct tune_point *p)
{
    return p->read_s + p->write_s;
}

/* choose.c */

/* The fastest point whose loss, error added, is at most (1 + budget) times the exact one: a text that is too short to
 * tell allows little. Of equally fast ones the one that loses less; where there is none, the one that loses least.
 * n: at least 1; a loss that is not a number is never chosen before one that is. */
size_t tune_choose(const struct tune_point *p, size_t n, double exact, double budget);
/* The loosest tolerance at which, and at all tighter ones, the loss is the exact one within the budget, up and down,
 * error added; else the tightest. p: points that differ by their tolerance. */
float tune_exact_tol(const struct tune_point *p, size_t n, double exact, double budget);
/* Sets front of all. */
void tune_mark_front(struct tune_point *p, size_t n);

/* subject.c */

enum { TUNE_PIECES = 4, TUNE_PIECE = 96, TUNE_WRITTEN = 64 }; /* of the text, and what is written behind each */

struct tune_subject {
    char weights_path[4096], config_path[4096];
    struct deq_arch *arch;                        /* with the settings of its own */
    struct deq_weights *weights[DEQ_CLASS_COUNT]; /* packed, or NULL: not loaded yet */
    struct deq_tokens tokens;
    float *nats, *exact_nats; /* [tokens.n - 1] of each token in the last reading, and in the first of all */
    bool has_exact;
    unsigned threads;
};

/* A model directory with its text; at most `limit` tokens of it. */
enum deq_rc tune_open(const char *dir, const char *text_path, size_t limit, unsigned threads, struct tune_subject **ret,
                      struct deq_err *err);
void tune_close(struct tune_subject *s);
/* Replaces the solver settings in its config.json. */
enum deq_rc tune_save(const struct tune_subject *s, const struct deq_serving *set, struct deq_err *err);

/* measure.c */

/* Reads the text and writes behind pieces of it, as p->set says. Of several calls the least time stays; loss and counts
 * are found by the first. One thread's time is its CPU time, that of several the clock's. */
enum deq_rc tune_measure(struct tune_subject *s, struct tune_point *p, struct deq_err *err);

/* plot.c */

/* Loss against time: the points, their front, the choice, the budget. */
void tune_plot_text(FILE *out, const struct tune_point *p, size_t n, size_t chosen, double exact, double budget);
enum deq_rc tune_plot_svg(const char *path, const struct tune_point *p, size_t n, size_t chosen, double exact,
                          double budget, struct deq_err *err);

#endif
