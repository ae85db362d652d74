/* Trellis networks: locuslab/deq at a4f4c9b, DEQModel/models/trellisnets/deq_trellisnet.py, whose layer is solved for
 * its fixed point, and locuslab/trellisnet, TrellisNet/model.py, which runs a number of levels.
 *
 * Rows of their convolutions are the gates i, o, g, f, as ours are; tap j of [4H, in, k] is our matrix j. Both name a
 * kernel by what became of it: weight; weight_g and weight_v under weight norm; with _raw behind it where weights are
 * dropped in training, which at inference scales nothing. */
#include <stdio.h>
#include <string.h>

#include "core/cell/trellis.h"
#include "core/import/source.h"

static bool has_levels(const struct deq_import_job *j)
{
    return j->source == &deq_source_locuslab_trellis;
}

/* --- The constructors' arguments, and the training scripts' that say how it was evaluated --- */

static const char *const others[] = {
    "dropout", "dropouti", "dropouth", "dropoutl", "emb_dropout", "temporalwdrop", "repack", "aux", "aux_frequency",
    "load", "pretrain_steps", "f_thres", "b_thres", "subseq_len", "seq_len", "horizon", "n_layer", "args",
    "torch_version", NULL};

static void read_vocab(struct deq_import_job *j, struct deq_fields *f)
{
    struct deq_vocab *v = &j->arch->vocab;
    uint32_t nhid = 0, nout = 0;
    v->head_bias = true;
    deq_fields_u32(f, has_levels(j) ? "ntoken" : "n_token", true, 2, 1 << 22, &v->size);
    deq_fields_u32(f, "ninp", true, 1, 1 << 14, &v->d_model);
    deq_fields_u32(f, "nhid", true, 0, 1 << 14, &nhid);
    deq_fields_u32(f, "nout", true, 1, 1 << 14, &nout);
    deq_fields_u32s(f, "cutoffs", DEQ_CUTOFFS_MAX, 1, v->size - 1, v->cutoffs, &v->n_cutoffs);
    deq_fields_bool(f, "tie_weights", &j->tie_weights);
    ((struct deq_trellis_arch *)j->arch)->state_size = nhid + nout;
    v->d_out = nout == v->d_model ? 0 : nout;
    v->head_untied = v->d_out;
    if (!f->rc && j->tie_weights && v->d_out)
        f->rc = deq_fail(f->err, DEQ_EFORMAT, "%s: nout: %u is not ninp %u, which tie_weights needs", f->file, nout,
                         v->d_model);
}

/* A list of what the levels have in turn. */
static void read_dilations(struct deq_fields *f)
{
    enum { MAX = 64 };
    uint32_t d[MAX], n = 0;
    deq_fields_u32s(f, "dilation", MAX, 1, 1 << 20, d, &n);
    for (uint32_t i = 0; i < n && !f->rc; i++)
        if (d[i] != 1)
            f->rc = deq_fail(f->err, DEQ_EFORMAT, "%s: dilation[%u]: %u is not supported, only networks whose levels "
                             "all have dilation 1", f->file, i, d[i]);
}

static void arguments(struct deq_import_job *j, struct deq_fields *f)
{
    struct deq_trellis_arch *a = (struct deq_trellis_arch *)j->arch;
    uint32_t levels = 0, experts = 0;
    double wdrop = 0;
    j->tie_weights = j->wnorm = true;
    read_vocab(j, f);
    deq_fields_u32(f, "kernel_size", false, 2, DEQ_TAPS_MAX, &a->kernel_size);
    deq_fields_bool(f, "wnorm", &j->wnorm);
    deq_fields_double(f, "wdrop", 0, 1, &wdrop);
    j->wdrop = has_levels(j) || wdrop > 0; /* the former wraps its weights in any case */
    deq_fields_u32(f, "tgt_len", false, 1, 1 << 16, &a->base.segment_len);
    a->base.segment_memory = a->base.segment_len ? 1 : 0; /* the state that the segment before ended with */
    deq_fields_u32(f, "n_experts", false, 0, 1 << 10, &experts);
    if (!f->rc && experts)
        f->rc = deq_fail(f->err, DEQ_EFORMAT, "%s: n_experts: %u: a mixture of softmaxes is not supported, only 0",
                         f->file, experts);
    if (has_levels(j)) {
        read_dilations(f);
        deq_fields_u32(f, "nlevels", true, 1, 100000, &levels);
        a->levels = true;
        deq_source_serve_steps(&a->base, levels);
    } else {
        deq_fields_u32(f, "dilation", false, 1, 1024, &a->dilation);
        deq_source_serve_equilibrium(&a->base);
    }
}

/* --- The vocabulary's both ends --- */

static enum deq_rc ties(struct deq_import_job *j)
{
    struct deq_vocab *v = &j->arch->vocab;
    if (v->head_untied)
        return DEQ_OK;
    bool equal = true;
    const struct deq_entry_shape shape = DEQ_SHAPE2(v->size, v->d_model);
    const enum deq_rc rc = deq_entries_same(&j->entries, "encoder.weight", "decoder.weight", shape, &equal);
    v->head_untied = !equal;
    if (!rc && !equal && j->tie_weights)
        deq_entries_note(&j->entries, "decoder.weight differs from encoder.weight, though tie_weights says they are "
                         "one: both are kept");
    return rc;
}

static enum deq_rc read_vocabulary(struct deq_import_job *j, struct deq_vocabulary *w)
{
    const struct deq_vocab *v = &j->arch->vocab;
    struct deq_entries *e = &j->entries;
    enum deq_rc rc = deq_source_by_cluster(j, "encoder.weight", v->d_model, w->embed);
    if (!rc && v->head_untied)
        rc = deq_source_by_cluster(j, "decoder.weight", deq_vocab_out(v), w->head);
    if (!rc)
        rc = deq_source_copy(j, &w->head_bias, 0, "decoder.bias", DEQ_SHAPE1(v->size));
    if (rc || !v->n_cutoffs)
        return rc;
    if (!deq_entries_has_any(e, "criterion."))
        return deq_fail(e->err, DEQ_EFORMAT, "%s: entry %scriterion.tail_vectors: missing, and criterion.tail_bias: "
                        "what was trained with cutoffs is read out by them, and the training script does not save "
                        "them; save {**model.state_dict(), **{'criterion.' + k: v for k, v in "
                        "criterion.state_dict().items()}}", e->checkpoint, e->prefix);
    return deq_source_tails(j, "criterion.tail_vectors", "criterion.tail_bias", w);
}

/* --- The cell --- */

/* Convolution `weight` [4H, in, k], in whichever form it is there, cut into its taps [4H, in]. */
static enum deq_rc read_kernel(struct deq_import_job *j, const char *weight, size_t in, float *const *to)
{
    const struct deq_trellis_arch *a = deq_trellis_arch(j->arch);
    struct deq_entries *e = &j->entries;
    const size_t rows = 4 * (size_t)a->state_size, k = a->kernel_size;
    const struct deq_entry_shape shape = DEQ_SHAPE3(rows, in, k);
    float *conv = e->scratch + e->half, *taps = e->scratch;
    char name[DEQ_ENTRY_NAME], g[DEQ_ENTRY_NAME];
    bool normed, found = false;
    /* The form that the constructor tells of is the first, and the one that is missed where there is none. */
    for (unsigned i = 0; i < 5 && !found; i++) {
        const bool raw = j->wdrop ^ (i % 4 >= 2);
        normed = j->wnorm ^ (i % 2);
        snprintf(name, sizeof name, "%s%s%s", weight, normed ? "_v" : "", raw ? "_raw" : "");
        found = deq_entries_has(e, name);
    }
    snprintf(g, sizeof g, "%s_g", weight);
    enum deq_rc rc = normed ? deq_entries_fold(e, name, g, shape, conv) : deq_entries_read(e, name, shape, conv);
    for (size_t tap = 0; tap < k && !rc; tap++) {
        for (size_t r = 0; r < rows * in; r++)
            taps[r] = conv[r * k + tap];
        rc = deq_source_put(j, &to[tap], 0, rows * in, taps);
    }
    return rc;
}

/* What stands before the network's entries: `of`, or `of`module. where weight dropout wraps it. */
static void find_net(const struct deq_import_job *j, const char *of, char *net, size_t cap)
{
    snprintf(net, cap, "%smodule.", of);
    if (!deq_entries_has_any(&j->entries, net) && (!j->wdrop || deq_entries_has_any(&j->entries, of)))
        snprintf(net, cap, "%s", of);
}

enum { NAME = 64 };

static const char *named(char *out, const char *net, const char *name)
{
    snprintf(out, NAME, "%s%s", net, name);
    return out;
}

/* The layer stands there again as part of those who solve it, and twice as a copy for the backward pass, which training
 * writes over. */
static enum deq_rc pass_others(struct deq_entries *e, const char *net, const struct deq_trellis_arch *a)
{
    static const char *const copies[] = {"func_copy.full_conv.", "deqback.func_copy.full_conv."};
    static const char *const repeats[] = {"deq.func.", "deqback.func."};
    const size_t H = a->state_size;
    char again[NAME], first[NAME];
    enum deq_rc rc = DEQ_OK;
    for (size_t i = 0; i < DEQ_COUNT(copies) && !rc; i++) {
        snprintf(again, sizeof again, "%s%sweight", net, copies[i]);
        rc = deq_entries_pass(e, again, DEQ_SHAPE3(4 * H, H, a->kernel_size));
        snprintf(again, sizeof again, "%s%sbias", net, copies[i]);
        if (!rc)
            rc = deq_entries_pass(e, again, DEQ_SHAPE1(4 * H));
    }
    for (size_t i = 0; i < DEQ_COUNT(repeats) && !rc; i++)
        rc = deq_entries_pass_repeats(e, named(again, net, repeats[i]), named(first, net, "func."));
    return rc;
}

static enum deq_rc weights_equilibrium(struct deq_import_job *j)
{
    struct deq_trellis_weights *w = deq_trellis_weights(j->weights);
    struct deq_entries *e = &j->entries;
    const struct deq_entry_shape bias = DEQ_SHAPE1(4 * (size_t)w->arch.state_size);
    char net[NAME / 2], name[NAME];
    find_net(j, "trellisnet.", net, sizeof net);
    enum deq_rc rc = deq_entries_room(e);
    if (!rc)
        rc = read_vocabulary(j, &w->vocabulary);
    if (!rc)
        rc = read_kernel(j, named(name, net, "inject_conv.weight"), w->arch.base.vocab.d_model, w->inject_w);
    if (!rc)
        rc = deq_source_copy(j, &w->inject_b, 0, named(name, net, "inject_conv.bias"), bias);
    if (!rc)
        rc = read_kernel(j, named(name, net, "func.full_conv.weight"), w->arch.state_size, w->state_w);
    if (!rc)
        rc = deq_source_copy(j, &w->state_b, 0, named(name, net, "func.full_conv.bias"), bias);
    return rc ? rc : pass_others(e, net, &w->arch);
}

static enum deq_rc weights_levels(struct deq_import_job *j)
{
    struct deq_trellis_weights *w = deq_trellis_weights(j->weights);
    struct deq_entries *e = &j->entries;
    const struct deq_entry_shape bias = DEQ_SHAPE1(4 * (size_t)w->arch.state_size);
    char net[NAME / 2], name[NAME];
    find_net(j, "tnet.", net, sizeof net);
    enum deq_rc rc = deq_entries_room(e);
    if (!rc)
        rc = read_vocabulary(j, &w->vocabulary);
    if (!rc) /* it has no bias */
        rc = deq_source_put(j, &w->inject_b, 0, bias.d[0], memset(e->scratch, 0, bias.d[0] * sizeof(float)));
    if (!rc)
        rc = read_kernel(j, named(name, net, "full_conv.weight1"), w->arch.base.vocab.d_model, w->inject_w);
    if (!rc)
        rc = read_kernel(j, named(name, net, "full_conv.weight2"), w->arch.state_size, w->state_w);
    if (!rc)
        rc = deq_source_copy(j, &w->state_b, 0, named(name, net, "full_conv.bias2"), bias);
    return rc ? rc : deq_entries_pass_repeats(e, "network.0.", "tnet."); /* the list of the model's parts */
}

/* --- What is told --- */

static const char *variant_equilibrium(const struct deq_import_job *j)
{
    (void)j;
    return "locuslab/deq, DEQ-TrellisNet";
}

static const char *variant_levels(const struct deq_import_job *j)
{
    (void)j;
    return "locuslab/trellisnet";
}

#define TRELLIS \
    .kind = &deq_trellis_kind, .anchor = "encoder.weight", .others = others, .arguments = arguments, .ties = ties
const struct deq_source deq_source_locuslab_deq_trellis = {
    .model_type = "locuslab-deq-trellisnet", .what = "deep equilibrium trellis network", .weights = weights_equilibrium,
    .variant = variant_equilibrium, TRELLIS};
const struct deq_source deq_source_locuslab_trellis = {
    .model_type = "locuslab-trellisnet", .what = "trellis network", .weights = weights_levels,
    .variant = variant_levels, TRELLIS};
