/* Kinds of cells: what a model_type of config.json stands for. The registry (registry.c) lists them; everything above
 * this floor opens, describes, scores and trains a model through the table here and knows no kind.
 *
 * To add a kind: an architecture that begins with struct deq_arch, weights that begin with struct deq_weights and hold
 * a vocabulary (vocabulary.h) and a predictor (predictor.h), the cell on rows (cell.h) for serving, the same equations
 * on whole sequences (seq.h) for training and scoring, and a line in each of the two lists: registry.c's, and that of
 * registry_seq.c, which is apart because sequences need OpenBLAS and the daemon does not. trellis*.c is the shorter
 * example. */
#ifndef DEQ_CELL_KIND_H
#define DEQ_CELL_KIND_H

#include "core/base/options.h"
#include "core/base/stop.h"
#include "core/cell/cell.h"
#include "core/data/serving.h"
#include "core/data/vocab.h"
#include "core/data/weights.h"

/* A chat as text: its beginning, each message with {role} and {content} filled in ({content_trimmed}: without white
 * space around it), then what stands before the answer, and what ends that: text, or the special token that it begins
 * with the name of ("": none). Without a message the model has no template of its own. */
struct deq_chat {
    char begin[512], message[512], reply[256], stop[64];
};

/* What every model has; a kind's own architecture begins with it. Plain data: it is copied whole, arch_size bytes. */
struct deq_arch {
    const struct deq_kind *kind;
    struct deq_vocab vocab;
    struct deq_serving serving;
    struct deq_chat chat;
    uint32_t predictor_hidden;            /* width of the warm-start predictor's hidden layer; 0: the model has none */
    uint32_t segment_len, segment_memory; /* T and M of the segments its trainer evaluated it by
                                           * (segment.h); 0: it did not */
};

struct deq_predictor; /* predictor.h */

struct deq_kind {
    const char *model_type; /* "deq_transformer" */
    const char *title;      /* "transformer" */
    size_t arch_size;
    /* Keys of config.json, and of "model." in a recipe, with offsets into the kind's architecture. */
    struct deq_opt_table config, recipe;
    /* Ranges and what goes with what, beyond the tables and what every model has; the message names the key. */
    enum deq_rc (*check)(const struct deq_arch *a, const char *where, struct deq_err *err);
    /* Whether its cell has a start of its own (cell.h). NULL: never */
    bool (*proposes)(const struct deq_arch *a);
    /* Its cells' own defaults of serving, once its keys are read. NULL: those of all */
    void (*serving)(const struct deq_arch *a, struct deq_serving *s);
    /* A zeroed struct of the kind's weights with format and walk set, and what the walk asks of the vocabulary
     * (its shape) and the predictor (its widths): deq_weights_build may be called on it. NULL: no memory */
    struct deq_weights *(*weights)(const struct deq_arch *a);
    const struct deq_predictor *(*predictor)(const struct deq_weights *w);
    /* Fills the tensors of plain weights that are never trained (DEQ_ROLE_FIXED). NULL: there are none */
    void (*constants)(struct deq_weights *w);
    /* Dimensions of a cell on rows and what it takes, from the architecture alone. */
    struct deq_cell (*shape)(const struct deq_arch *a, size_t max_rows, uint32_t n_pages, unsigned threads);
    /* A cell over packed weights for one engine: scratch for max_rows rows, n_pages pages. Borrows w and pool. */
    enum deq_rc (*open)(const struct deq_weights *w, size_t max_rows, uint32_t n_pages, struct deq_pool *pool,
                        struct deq_cell **ret, struct deq_err *err);
    /* Positions of a sequence that it is trained on at most; NULL: any number. */
    uint32_t (*seq_max)(const struct deq_arch *a);
    bool drops_weights; /* knows deq_dropout.weights (seq.h) */
};

/* --- The registry --- */

const struct deq_kind *deq_kind_find(const char *model_type); /* NULL: unknown */
/* By the short name that recipes use. */
const struct deq_kind *deq_kind_by_title(const char *title);
/* "deq_transformer, deq_trellis" */
void deq_kind_list(char *out, size_t cap, bool titles);

/* --- Architectures --- */

/* Defaults of a kind; the caller's, deq_free. NULL: no memory */
struct deq_arch *deq_arch_new(const struct deq_kind *kind);
struct deq_arch *deq_arch_copy(const struct deq_arch *a);
/* Whether its layers before the loop propose a state, which DEQ_WARM_PROPOSAL starts from. */
bool deq_arch_proposes(const struct deq_arch *a);
/* Ranges and what goes with what; the message names the key. */
enum deq_rc deq_arch_check(const struct deq_arch *a, const char *where, struct deq_err *err);

/* --- Weights of any kind (core/data/weights.h) --- */

/* Plain and zeroed. */
enum deq_rc deq_weights_new(const struct deq_arch *a, struct deq_weights **ret, struct deq_err *err);
/* The table alone (deq_weights.bare). */
enum deq_rc deq_weights_table(const struct deq_arch *a, struct deq_weights **ret, struct deq_err *err);
/* From a file, plain or packed; every tensor and shape is checked before memory for them is taken. */
enum deq_rc deq_weights_load(const char *path, const struct deq_arch *a, bool packed, struct deq_weights **ret,
                             struct deq_err *err);
/* Packed; stop is asked before each tensor. */
enum deq_rc deq_weights_load_until(const char *path, const struct deq_arch *a, const struct deq_stop *stop,
                                   struct deq_weights **ret, struct deq_err *err);
/* The packed form of plain weights, which stay the caller's. */
enum deq_rc deq_weights_packed(const struct deq_arch *a, const struct deq_weights *plain, bool bf16,
                               struct deq_weights **ret, struct deq_err *err);
/* What loading it packed would check, but for the values, the bytes that would be held, and those needed besides on the
 * way: only headers are read. */
enum deq_rc deq_weights_measure(const char *path, const struct deq_arch *a, uint64_t *ret_bytes,
                                uint64_t *ret_load_bytes, struct deq_err *err);

#endif
