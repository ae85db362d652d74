/* The parameters of a model: a table that names every tensor, one block of floats, and pointers into it.
 *
 * A kind of cell embeds struct deq_weights at the beginning of a struct of its own, with a pointer for every tensor,
 * and gives one function, walk, that puts them in order (deq_weights_put). The walk is made twice, to count and to set.
 * Weights, gradients and optimiser moments have one layout, so saving, clearing, clipping and updating are loops over
 * one array, and what a tensor is to a trainer its role says, never its name.
 *
 * Two forms. Plain: every tensor is floats in the block. Packed, as the engine wants them: a matrix that has a
 * packed destination is held there, in the order of the kernels, once; the others stay in the block, and the
 * pointers of packed ones are NULL.
 *
 * models/FORMAT.md has the tables of names and shapes. Owned by whoever made it; read-only use from any thread. */
#ifndef DEQ_DATA_WEIGHTS_H
#define DEQ_DATA_WEIGHTS_H

#include "core/base/stop.h"
#include "core/data/safetensors.h"
#include "core/math/gemm.h"

enum { DEQ_PARAM_NAME = 48 };

enum deq_role {
    DEQ_ROLE_EMBED,        /* tables of tokens and the maps at both ends: initialised by fan-in, decayed, AdamW's */
    DEQ_ROLE_PROJECTION,   /* between a table and the model's width, [width, E]: as EMBED, but initialised by its rows,
                            * so that words keep their size on the way in, states theirs on the way out */
    DEQ_ROLE_MATRIX,       /* a matrix inside the cell: initialised by fan-in, decayed, Muon's where it is used */
    DEQ_ROLE_RESIDUAL_OUT, /* the same, and writes into a residual stream: begins half as large */
    DEQ_ROLE_GUESS,        /* a matrix of the predictor: as EMBED; what it computes need not be exact */
    DEQ_ROLE_GAIN,         /* begins at one */
    DEQ_ROLE_BIAS,         /* begins at zero */
    DEQ_ROLE_FIXED,        /* a table that is never trained, and float32 in any file */
};

static inline bool deq_role_is_matrix(enum deq_role r)
{
    return r < DEQ_ROLE_GAIN;
}

/* Whose a parameter is. Models are compared by the cell's: a vocabulary's size is its own, and a predictor only guesses
 * what is computed without it. */
enum deq_share {
    DEQ_SHARE_CELL,
    DEQ_SHARE_WORDS,    /* tables of words with what leads to and from them: embeddings, head */
    DEQ_SHARE_PREDICTOR,
    DEQ_SHARES
};

struct deq_param {
    char name[DEQ_PARAM_NAME];
    enum deq_role role;
    unsigned parts;    /* matrices of equal size that are stacked in it, by rows */
    size_t rows, cols; /* [rows, cols]; rows 0: a vector [cols] */
    size_t offset;     /* into the block, in floats */
    size_t count;
    float **slot;      /* the pointer that leads to it */
    struct deq_packed *packed, *turned; /* where the packed form holds it, and holds it transposed; NULL: it does not */
    struct deq_packed *rounded;         /* and holds it in bytes, i8, whatever the class is; data NULL: not finite */
};

struct deq_weights {
    const char *format;                    /* what the file calls it: the kind's model_type */
    void (*walk)(struct deq_weights *w);   /* puts every tensor */
    float *data; /* [n] the block */
    size_t n;
    size_t n_main; /* floats before the predictor's, which are fitted apart; set by the walk */
    struct deq_param *params;
    size_t n_params;
    uint64_t parameters; /* numbers in all tensors; n also counts what fills up cache lines */
    uint64_t share[DEQ_SHARES]; /* of these, but for fixed tables */
    enum deq_share putting;     /* whose tensors a walk puts now; it begins with CELL's */
    bool packed;   /* the form */
    bool bare;     /* the table alone, to write a file by: no numbers are held, data and every pointer are NULL */
    bool overflow; /* the walk met shapes beyond reason */
    /* of the packed form */
    enum deq_class numeric; /* what its matrices are packed as */
    bool bf16;            /* its numbers are bf16 */
    uint64_t bytes;       /* all that is held */
    uint64_t fingerprint; /* of the numbers */
};

/* One tensor, in a walk. packed, turned: its destinations in the packed form, or NULL. */
struct deq_put {
    float **slot;
    enum deq_role role;
    size_t rows, cols;
    struct deq_packed *packed, *turned;
    unsigned parts; /* 0: one */
};
void __attribute__((format(printf, 3, 4))) deq_weights_put(struct deq_weights *w, const struct deq_put *p,
                                                           const char *name, ...);
/* The packed form holds the tensor put last in bytes too. */
void deq_weights_put_rounded(struct deq_weights *w, struct deq_packed *rounded);

/* The format of a matrix of that role in a model of that class, whose file has bf16 numbers or not. */
static inline enum deq_format deq_format_of(enum deq_class c, enum deq_role role, bool bf16)
{
    if (c == DEQ_CLASS_FLOAT32)
        return bf16 ? DEQ_FORMAT_BF16 : DEQ_FORMAT_F32;
    const bool words = role == DEQ_ROLE_EMBED || role == DEQ_ROLE_PROJECTION;
    return c == DEQ_CLASS_INT8 && !words ? DEQ_FORMAT_I8 : DEQ_FORMAT_I16;
}

/* Makes the table, and the block with zeros, of a w whose format and walk are set. On failure nothing is held. */
enum deq_rc deq_weights_build(struct deq_weights *w, bool packed, struct deq_err *err);
/* Frees what it holds and w itself, which begins its kind's struct. NULL is fine. */
void deq_weights_free(struct deq_weights *w);

/* Where `other`, of the same layout (gradients, moments), has the tensor that `of` has at x. */
static inline float *deq_weights_at(const struct deq_weights *other, const struct deq_weights *of, const float *x)
{
    return other->data + (x - of->data);
}

/* Every tensor of the file must be here and the other way round, with equal shapes. *ret_bf16: all but fixed tables
 * are bf16. */
enum deq_rc deq_weights_check(const struct deq_weights *w, const struct deq_safetensors *file, const char *path,
                              bool *ret_bf16, struct deq_err *err);
/* Plain form, from a file that was checked. */
enum deq_rc deq_weights_read(struct deq_weights *w, const struct deq_safetensors *file, struct deq_err *err);
/* Packed form: from plain weights of the same kind, or from a file that was checked, tensor by tensor: never more of it
 * in memory than what is packed and the largest tensor. bf16: the matrices hold bf16 numbers, which class float32 packs
 * so. stop is asked before each tensor. */
enum deq_rc deq_weights_pack(struct deq_weights *w, const struct deq_weights *from, bool bf16, struct deq_err *err);
enum deq_rc deq_weights_pack_file(struct deq_weights *w, const struct deq_safetensors *file, bool bf16,
                                  const struct deq_stop *stop, struct deq_err *err);
/* What a packed w will hold, and what packing it from a file needs besides. */
uint64_t deq_weights_held_bytes(const struct deq_weights *w, bool bf16);
uint64_t deq_weights_load_bytes(const struct deq_weights *w);
/* bf16: rounded to nearest even. */
enum deq_rc deq_weights_save(const char *path, const struct deq_weights *w, bool bf16, struct deq_err *err);

/* A new file of a new directory by a bare table, tensor by tensor in any order, in pieces, each number once: never more
 * in memory than a piece. The table must stay until the end. bf16 as above. */
struct deq_weights_file;
enum deq_rc deq_weights_create(const char *path, const struct deq_weights *table, bool bf16,
                               struct deq_weights_file **ret, struct deq_err *err);
/* The tensor that a pointer leads to; NULL: the architecture has none. */
const struct deq_param *deq_weights_param(const struct deq_weights *w, float *const *slot);
/* Numbers [first, first + n) of tensor p of the table. */
enum deq_rc deq_weights_file_put(struct deq_weights_file *f, const struct deq_param *p, size_t first, size_t n,
                                 const float *x, struct deq_err *err);
/* rc DEQ_OK: every number must have been put. Frees it; returns rc, or what went wrong here. */
enum deq_rc deq_weights_file_finish(struct deq_weights_file *f, enum deq_rc rc, struct deq_err *err);

#endif
