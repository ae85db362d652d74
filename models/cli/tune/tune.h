/* The parts of deq tune, which also ends a training run: a model with a text (subject.c); settings of solving as points
 * that are measured (measure.c) in a sweep (sweep.c); what the measurements say (choose.c: pure); a drawing (plot.c).
 *
 * A setting's loss is compared with that of the exact one token by token: d = nats(setting) - nats(exact). Tokens near
 * each other are not independent, so the sample is the means of d over blocks of TUNE_BLOCK tokens, and what is known
 * of the mean of d is an interval by Student's t. The text is read in portions, twice as many at every look, and only
 * as far as the decision needs it; the 5 % of error that are allowed are shared among the looks.
 *
 * A setting's time is compared with that of the model's own setting just before and after it, as log(time / own time),
 * whose noise is estimated from all settings together. */
#ifndef DEQ_MODELS_CLI_TUNE_H
#define DEQ_MODELS_CLI_TUNE_H

#include <stdio.h>

#include "core/base/tokens.h"
#include "core/cell/kind.h"

/* Numbers one after the other (Welford, Technometrics 1962); zeroed: none yet. */
struct tune_sample {
    size_t n;
    double mean, squares; /* sum of squares about the mean */
};

enum tune_reading { TUNE_PREFILL, TUNE_DECODE, TUNE_READINGS }; /* by the prompt's window, by that of generation */

/* A setting, and what it gives. */
struct tune_point {
    const char *stage; /* what was varied: "solver, tolerance" */
    struct deq_serving set;
    size_t portions;                             /* of the text, read so far */
    struct tune_sample apart[TUNE_READINGS];     /* nats a token above the exact setting's, of blocks */
    struct tune_sample slower;                   /* log(time / time of the model's own setting), of rounds */
    double evaluations, written;                 /* a token, reading and writing */
    double read_s, write_s;                      /* a token, seconds: the least of the rounds */
    bool front;                                  /* of no other point are both loss and time less */
};

/* What a setting costs: a token read and one written. */
static inline double tune_seconds(const struct tune_point *p)
{
    return p->read_s + p->write_s;
}

/* choose.c */

void tune_add(struct tune_sample *s, double x);
/* Standard error of the mean; infinite for fewer than two numbers. */
double tune_error(const struct tune_sample *s);
/* Student's t: what a variable of df degrees of freedom exceeds with probability alpha, 0 < alpha <= 0.5. */
double tune_student(double df, double alpha);
/* What a decision may err with, and the share of it that look `look` of `looks` (from 0) takes: twice as much as the
 * look before. */
#define TUNE_LEVEL 0.05
double tune_alpha(size_t look, size_t looks);

enum tune_verdict { TUNE_WITHIN, TUNE_BEYOND, TUNE_UNDECIDED };
/* Whether the mean is at most `limit`: within where the interval's upper end is, beyond where its lower end is not, or
 * is not a number. The same of its distance from 0. Of a point: beyond in one reading, else undecided in one, else
 * within. */
enum tune_verdict tune_judge(const struct tune_sample *s, double limit, double alpha);
enum tune_verdict tune_judge_distance(const struct tune_sample *s, double limit, double alpha);
enum tune_verdict tune_judge_point(const struct tune_point *p, double limit, double alpha);
/* The reading that loses more, by the upper ends. */
const struct tune_sample *tune_worse(const struct tune_point *p);
/* Blocks after which a sample like this one would be judged; infinite where its mean is the limit. */
double tune_blocks_needed(const struct tune_sample *s, double limit, double alpha);

/* Standard deviation of one `slower`, from all points together, and its degrees of freedom. */
struct tune_noise {
    double deviation, df;
};
struct tune_noise tune_noise(const struct tune_point *p, size_t n);
/* a is faster than b, and by more than the noise explains (one-sided 5 %). */
bool tune_faster(const struct tune_point *a, const struct tune_point *b, struct tune_noise noise);

/* The choice among points that verdict says are within the budget; those that are not faster than each other beyond the
 * noise count as equally fast: of the fastest ones the model's own setting (`own`) if it is among them, else the one
 * that loses least. n: none is within. */
size_t tune_choose(const struct tune_point *p, size_t n, const enum tune_verdict *verdict, size_t own);
/* The loosest tolerance at which, and at all tighter ones, the loss is known to be within `limit` of the exact one:
 * above, and where both_sides below as well. 0: there is none. p: points that differ by their tolerance. */
float tune_loosest(const struct tune_point *p, size_t n, double limit, bool both_sides);
/* Sets front of all. */
void tune_mark_front(struct tune_point *p, size_t n);

/* subject.c */

enum {
    TUNE_BLOCK = 128,                    /* tokens whose differences are taken together */
    TUNE_PORTION = 16 * TUNE_BLOCK,      /* read in one piece where the model has no limit of positions below it; the
                                          * text may have less than one */
    TUNE_TIMED = 512,                    /* tokens of the text whose reading is timed */
    TUNE_PIECES = 4, TUNE_PIECE = 64, TUNE_WRITTEN = 32, /* of the text, and what is written behind each */
    TUNE_TOKENS_MIN = 4 * TUNE_BLOCK + 1 /* an interval needs some blocks */
};

struct tune_subject {
    char weights_path[4096], config_path[4096];
    struct deq_arch *arch;                        /* with the settings of its own */
    struct deq_weights *weights[DEQ_CLASS_COUNT]; /* packed, or NULL: not loaded yet */
    struct deq_tokenizer *tokenizer;
    struct deq_tokens tokens;
    size_t limit;                                 /* tokens at most */
    size_t n_blocks, n_portions;                  /* whole ones; the last portion may have fewer blocks */
    double *block, *exact_block;                  /* [n_blocks] nats a token: the last reading's, the exact setting's */
    unsigned threads;
};

/* A model directory; then texts, documents of each as in corpus.h, of which `limit` tokens are taken; then what is
 * needed to measure: DEQ_EINVAL when the text is too short for any decision. */
enum deq_rc tune_open(const char *dir, size_t limit, unsigned threads, struct tune_subject **ret, struct deq_err *err);
enum deq_rc tune_add_text(struct tune_subject *s, const char *text, size_t len, struct deq_err *err);
enum deq_rc tune_prepare(struct tune_subject *s, struct deq_err *err);
void tune_close(struct tune_subject *s);
/* Replaces the solver settings in its config.json. */
enum deq_rc tune_save(const struct tune_subject *s, const struct deq_serving *set, struct deq_err *err);

/* measure.c */

/* Reads portions [p->portions, to) by p->set in each of its windows and adds the blocks' differences from those of the
 * exact setting, which has been read as far; that one's are kept. */
enum deq_rc tune_score(struct tune_subject *s, struct tune_point *p, bool is_exact, size_t to, struct deq_err *err);
/* Reads a part of the text and writes behind pieces of it; *ret_s: seconds of a token read and one written. One
 * thread's time is its CPU time, that of several the clock's. */
enum deq_rc tune_time(struct tune_subject *s, struct tune_point *p, double *ret_s, struct deq_err *err);

/* sweep.c */

enum { TUNE_POINTS_MAX = 96, TUNE_EXACT = 0, TUNE_OWN = 1 }; /* the first two points */

struct tune_opts {
    double budget;   /* the loss that may be given for speed: a share of the exact setting's */
    unsigned rounds; /* of times, of every setting */
    double seconds;  /* after these nothing new is begun, and what is known decides */
    void (*progress)(void *ctx, const char *line); /* may be NULL */
    bool (*stop)(void *ctx);                       /* asked between measurements: DEQ_ECANCELED; may be NULL */
    void *ctx;
};

struct tuning {
    struct tune_subject *subject;
    struct tune_opts opts;
    double began_s;
    /* results */
    struct tune_point point[TUNE_POINTS_MAX];
    enum tune_verdict verdict[TUNE_POINTS_MAX];
    size_t n, chosen;            /* points; n: none is known to be within the budget, and set is the model's own */
    double exact, limit;         /* nats a token of the exact setting; what may be lost */
    struct deq_serving set;      /* the choice with its presets */
    size_t open;                 /* a point that would be chosen but is undecided at the end of the text, or n */
    double tokens_needed;        /* that would decide it, roughly */
    double seconds;
    bool hurried;                /* there was not time for all */
};

/* Measures, decides. t: zeroed. */
enum deq_rc tune_run(struct tune_subject *s, const struct tune_opts *o, struct tuning *t, struct deq_err *err);
/* The choice, or that there is none; what longer texts might give. */
void tune_print_result(FILE *out, const struct tuning *t);

/* plot.c */

/* Loss against time: the points, their front, the choice, the budget. */
void tune_plot_text(FILE *out, const struct tuning *t);
enum deq_rc tune_plot_svg(const char *path, const struct tuning *t, struct deq_err *err);

#endif
