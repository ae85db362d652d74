/* The kinds of cells there are, and what is done alike for all: architectures and weights of a kind. */
#include <stdio.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/cell/kind.h"
#include "core/cell/looped.h"
#include "core/cell/transformer.h"
#include "core/cell/trellis.h"

static const struct deq_kind *const kinds[] = {&deq_transformer_kind, &deq_trellis_kind, &deq_looped_kind};

const struct deq_kind *deq_kind_find(const char *model_type)
{
    for (size_t i = 0; i < DEQ_COUNT(kinds); i++)
        if (!strcmp(kinds[i]->model_type, model_type))
            return kinds[i];
    return NULL;
}

const struct deq_kind *deq_kind_by_title(const char *title)
{
    for (size_t i = 0; i < DEQ_COUNT(kinds); i++)
        if (!strcmp(kinds[i]->title, title))
            return kinds[i];
    return NULL;
}

void deq_kind_list(char *out, size_t cap, bool titles)
{
    size_t n = 0;
    *out = 0;
    for (size_t i = 0; i < DEQ_COUNT(kinds) && n < cap; i++)
        n += (size_t)snprintf(out + n, cap - n, "%s%s", i ? ", " : "", titles ? kinds[i]->title : kinds[i]->model_type);
}

struct deq_arch *deq_arch_new(const struct deq_kind *kind)
{
    struct deq_arch *a = deq_alloc(kind->arch_size);
    if (!a)
        return NULL;
    *a = (struct deq_arch){.kind = kind, .vocab.eos_id = -1,
                           .serving = {.solver = deq_solver_defaults(), .row_window = DEQ_ROW_WINDOW,
                                       .warm = DEQ_WARM_ZERO}};
    (void)deq_opt_defaults(&kind->config, a, NULL); /* constants of the table, which a test has read */
    return a;
}

struct deq_arch *deq_arch_copy(const struct deq_arch *a)
{
    struct deq_arch *copy = deq_alloc(a->kind->arch_size);
    if (copy)
        memcpy(copy, a, a->kind->arch_size);
    return copy;
}

bool deq_arch_proposes(const struct deq_arch *a)
{
    return a->kind->proposes && a->kind->proposes(a);
}

enum deq_rc deq_arch_check(const struct deq_arch *a, const char *where, struct deq_err *err)
{
    const struct deq_opt_table *t = &a->kind->config;
    for (size_t i = 0; i < t->n; i++) {
        const struct deq_opt *o = &t->opt[i];
        if (o->type != DEQ_OPT_U32)
            continue;
        const uint32_t v = *(const uint32_t *)(const void *)((const char *)a + o->offset);
        if (v < (uint32_t)o->min || v > (uint32_t)o->max)
            return deq_fail(err, DEQ_EFORMAT, "%s: %s: %u is outside %u..%u", where, o->name, v, (uint32_t)o->min,
                            (uint32_t)o->max);
    }
    const struct {
        const char *name;
        uint32_t value;
    } common[] = {{"predictor_hidden_size", a->predictor_hidden}, {"segment_length", a->segment_len},
                  {"segment_memory", a->segment_memory}};
    for (size_t i = 0; i < DEQ_COUNT(common); i++)
        if (common[i].value > 1 << 16)
            return deq_fail(err, DEQ_EFORMAT, "%s: %s: %u is outside 0..%u", where, common[i].name, common[i].value,
                            1 << 16);
    enum deq_rc rc = deq_vocab_check(&a->vocab, where, err);
    if (!rc)
        rc = a->kind->check(a, where, err);
    return rc ? rc : deq_serving_check(&a->serving, a->predictor_hidden, deq_arch_proposes(a), where, err);
}

enum form { PLAIN, PACKED, BARE };

static enum deq_rc build(const struct deq_arch *a, enum form form, struct deq_weights **ret, struct deq_err *err)
{
    struct deq_weights *w = a->kind->weights(a);
    if (!w)
        return deq_fail(err, DEQ_ENOMEM, "no memory for weights");
    w->numeric = a->serving.numeric;
    w->bare = form == BARE;
    const enum deq_rc rc = deq_weights_build(w, form == PACKED, err);
    if (rc)
        deq_weights_free(w);
    else
        *ret = w;
    if (!rc && form == PLAIN && a->kind->constants)
        a->kind->constants(w);
    return rc;
}

enum deq_rc deq_weights_new(const struct deq_arch *a, struct deq_weights **ret, struct deq_err *err)
{
    return build(a, PLAIN, ret, err);
}

enum deq_rc deq_weights_table(const struct deq_arch *a, struct deq_weights **ret, struct deq_err *err)
{
    return build(a, BARE, ret, err);
}

/* The file, and a packed table that it fits: what is not packed is little, so a file that does not hold what the
 * configuration claims costs little. */
static enum deq_rc open_checked(const char *path, const struct deq_arch *a, struct deq_safetensors **ret_file,
                                struct deq_weights **ret_packed, bool *ret_bf16, struct deq_err *err)
{
    enum deq_rc rc = deq_safetensors_open(path, ret_file, err);
    if (!rc)
        rc = build(a, PACKED, ret_packed, err);
    return rc ? rc : deq_weights_check(*ret_packed, *ret_file, path, ret_bf16, err);
}

/* stop NULL: plain. */
static enum deq_rc load(const char *path, const struct deq_arch *a, const struct deq_stop *stop,
                        struct deq_weights **ret, struct deq_err *err)
{
    struct deq_safetensors *file = NULL;
    struct deq_weights *w = NULL;
    bool bf16;
    enum deq_rc rc = open_checked(path, a, &file, &w, &bf16, err);
    if (!rc && stop)
        rc = deq_weights_pack_file(w, file, bf16, stop, err);
    if (!rc && !stop) {
        deq_weights_free(w);
        w = NULL;
        rc = build(a, PLAIN, &w, err);
        if (!rc)
            rc = deq_weights_read(w, file, err);
    }
    deq_safetensors_close(file);
    if (rc)
        deq_weights_free(w);
    else
        *ret = w;
    return rc;
}

enum deq_rc deq_weights_load(const char *path, const struct deq_arch *a, bool packed, struct deq_weights **ret,
                             struct deq_err *err)
{
    const struct deq_stop never = {0};
    return load(path, a, packed ? &never : NULL, ret, err);
}

enum deq_rc deq_weights_load_until(const char *path, const struct deq_arch *a, const struct deq_stop *stop,
                                   struct deq_weights **ret, struct deq_err *err)
{
    return load(path, a, stop, ret, err);
}

enum deq_rc deq_weights_packed(const struct deq_arch *a, const struct deq_weights *plain, bool bf16,
                               struct deq_weights **ret, struct deq_err *err)
{
    struct deq_weights *w = NULL;
    enum deq_rc rc = build(a, PACKED, &w, err);
    if (rc)
        return rc;
    if ((rc = deq_weights_pack(w, plain, bf16, err)))
        deq_weights_free(w);
    else
        *ret = w;
    return rc;
}

enum deq_rc deq_weights_measure(const char *path, const struct deq_arch *a, uint64_t *ret_bytes,
                                uint64_t *ret_load_bytes, struct deq_err *err)
{
    struct deq_safetensors *file = NULL;
    struct deq_weights *w = NULL;
    bool bf16;
    const enum deq_rc rc = open_checked(path, a, &file, &w, &bf16, err);
    if (!rc) {
        *ret_bytes = deq_weights_held_bytes(w, bf16);
        *ret_load_bytes = deq_weights_load_bytes(w);
    }
    deq_safetensors_close(file);
    deq_weights_free(w);
    return rc;
}
