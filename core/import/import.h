/* A checkpoint of somebody's PyTorch code, made a model directory: config.json, model.safetensors, tokenizer.json,
 * README.md. Where it may come from stands in source.h's table:
 *
 *   locuslab-deq-transformer   locuslab/deq, DEQ-Sequence/models/deq_transformer.py (v2.0)
 *   torchdeq-seq               locuslab/torchdeq, deq-zoo/deq-seq (the same entries; its pre_lnorm keeps the FFN's
 *                              residual as it is)
 *   torchdeq-lm                locuslab/torchdeq, deq-zoo/deq-lm (affine norms, several blocks, q, k, v by head, a
 *                              fixed number of steps)
 *   locuslab-deq-trellisnet    locuslab/deq at a4f4c9b, DEQModel/models/trellisnets/deq_trellisnet.py
 *   locuslab-trellisnet        locuslab/trellisnet, TrellisNet/model.py: levels, no fixed point
 *   attractor                  jacobfa/Attractor, also by its older name EQLM
 *   parcae                     SandyResearch/parcae
 *   huginn_raven               seal-rg/recurrent-pretraining (Huginn)
 *
 * What changes on the way: weight norm is folded (g v / ||v||, by output row), rows of q, k, v are stacked by kind,
 * the adaptive softmax's tail clusters, which stand in its head in reverse order, take the order of the clusters, and
 * what is one matrix in both ends of the model is kept once. Whether it is one is asked of the numbers, not of the
 * configuration: a tied projection that was moved to a GPU parameter by parameter is trained apart ever after.
 * A chat template beside the tokenizer becomes the model's chat (chat_template.h), where it is understood.
 * README.md here has the tables of names. Nothing is trusted: a missing, extra or misshapen entry is refused by name.
 * The directory appears only when complete. */
#ifndef DEQ_IMPORT_IMPORT_H
#define DEQ_IMPORT_IMPORT_H

#include "core/cell/kind.h"

struct deq_import_opts {
    const char *checkpoint; /* as checkpoint_files.h has it: a file or a directory */
    const char *config;     /* JSON: the constructor's arguments and "model_type", one of the above, or the class that
                             * wrote it; NULL: config.json in the checkpoint's directory */
    const char *vocab;      /* the authors' vocabulary, a symbol a line; NULL: tokenizer.json in the checkpoint's
                             * directory, else tokens have no words */
    const char *out_dir;    /* must not exist */
    /* done of total tensors are read; and one line about something the user should know. Either may be NULL. */
    void (*progress)(void *ctx, size_t done, size_t total, const char *name);
    void (*note)(void *ctx, const char *line);
    void *ctx;
};

struct deq_import_report {
    struct deq_vocab vocab;
    const char *variant; /* "locuslab/deq, post-norm" */
    uint64_t parameters; /* after folding and tying */
    size_t tensors, ignored;
    bool no_words;       /* no vocabulary was found: tokens are shown as <0>, <1>, .. */
};

/* "locuslab-deq-transformer, torchdeq-seq, ..." */
void deq_import_list(char *out, size_t cap);

enum deq_rc deq_import(const struct deq_import_opts *o, struct deq_import_report *ret, struct deq_err *err);

#endif
