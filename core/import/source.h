/* Where checkpoints come from. A source is a model class of somebody's code: what its constructor's arguments mean,
 * and which entry of its state dict becomes which tensor. The run (import.c) knows sources by the table here alone;
 * the configuration names one by its model_type, or by the class that wrote it (_class_name, model_class_name).
 *
 * To add one: its functions, a struct deq_source, a line in import.c's list, and its names in core/import/README.md. */
#ifndef DEQ_IMPORT_SOURCE_H
#define DEQ_IMPORT_SOURCE_H

#include "core/base/json_fields.h"
#include "core/cell/kind.h"
#include "core/cell/vocabulary.h"
#include "core/import/entries.h"

/* One import under way. */
struct deq_import_job {
    const struct deq_source *source;
    struct deq_arch *arch;       /* of the source's kind */
    struct deq_weights *weights;   /* the table alone, from `weights` on: its pointers only name its tensors */
    struct deq_weights_file *file; /* what is written */
    struct deq_entries entries;
    bool no_words;               /* neither a word list nor a tokenizer was there */
    /* what the constructor was told beyond the architecture */
    bool tie_weights, tie_projs[DEQ_CUTOFFS_MAX + 1]; /* what is tied, the numbers tell */
    bool wnorm, wdrop;                                /* so entries have other names */
    uint32_t value_tables[3], value_gates[3]; /* layers of prelude, core, coda that have one: bit i for layer i */
};

/* An argument that the import has one meaning for. values: "a|b", as JSON has them, strings without quotes; "": only
 * null. Another value is refused by name, or noted where it has no influence on what is computed. */
struct deq_switch {
    const char *key, *values;
    bool required; /* what its absence means there is not among them */
    bool idle;
};

struct deq_source {
    const char *model_type;
    const char *const *classes; /* what its authors' code calls itself in a configuration; NULL ends them. Or NULL */
    const char *what; /* "deep equilibrium transformer" */
    const struct deq_kind *kind;
    const char *anchor;        /* an entry that every such state dict has */
    const char *const *others; /* arguments that do not change what is computed; NULL ends them */
    bool bf16;                         /* nothing is computed on the way: a checkpoint in bf16 stays so */
    const struct deq_switch *switches; /* a key NULL ends them; or NULL */
    /* The constructor's arguments. A key that is neither asked for nor among the others may be a misspelt one, which
     * would silently be another model. */
    void (*arguments)(struct deq_import_job *j, struct deq_fields *f);
    /* Which matrices the two ends of the model share, by their numbers: completes the architecture. */
    enum deq_rc (*ties)(struct deq_import_job *j);
    enum deq_rc (*weights)(struct deq_import_job *j);
    const char *(*variant)(const struct deq_import_job *j);
    /* What the card says of the cell; NULL: the kind's keys and values. */
    void (*card)(const struct deq_arch *a, struct deq_buf *b);
};

/* import_transformer.c */
extern const struct deq_source deq_source_locuslab_transformer, deq_source_torchdeq_seq, deq_source_torchdeq_lm;
/* import_looped.c */
extern const struct deq_source deq_source_attractor, deq_source_parcae, deq_source_huginn;
/* import_trellis.c */
extern const struct deq_source deq_source_locuslab_deq_trellis, deq_source_locuslab_trellis;

/* --- What sources share (source.c) --- */

/* Of a model with an equilibrium; of one that was trained with a number of steps from zero and is served so, since its
 * state need not have one. */
void deq_source_serve_equilibrium(struct deq_arch *a);
void deq_source_serve_steps(struct deq_arch *a, uint32_t steps);
/* Of one whose loop contracts, trained with a number of loops: as many at most, fewer where the state has settled. */
void deq_source_serve_loops(struct deq_arch *a, uint32_t loops);

/* A value as messages show it, cut where it does not fit; out. */
const char *deq_source_value(const json_t *v, char *out, size_t cap);
void deq_source_switches(struct deq_import_job *j, struct deq_fields *f, const struct deq_switch *s);

/* Whether the architecture has the tensor that this pointer of the weights leads to. */
bool deq_source_wants(const struct deq_import_job *j, float *const *to);
/* Numbers [first, first + n) of it, from memory; all of an entry, behind its first `first` numbers, piece by piece. */
enum deq_rc deq_source_put(struct deq_import_job *j, float *const *to, size_t first, size_t n, const float *x);
enum deq_rc deq_source_copy(struct deq_import_job *j, float *const *to, size_t first, const char *name,
                            struct deq_entry_shape shape);
/* Entry `name` [V, cols], whose rows go to the clusters: to[c] [V_c, cols]. */
enum deq_rc deq_source_by_cluster(struct deq_import_job *j, const char *name, size_t cols, float *const *to);
/* The shortlist's logits of the tail clusters, whose rows count from the rarest cluster (log p of cluster c is read
 * off head[:, -c]). */
enum deq_rc deq_source_tails(struct deq_import_job *j, const char *weight, const char *bias, struct deq_vocabulary *v);

#endif
