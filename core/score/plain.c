#include "core/score/plain.h"

#include "core/base/io.h"
#include "core/base/mem.h"
#include "core/cell/config.h"

enum deq_rc deq_plain_open(const char *dir, bool with_tokenizer, struct deq_plain *ret, struct deq_err *err)
{
    char path[4096];
    *ret = (struct deq_plain){0};
    if (!deq_io_join(path, sizeof path, dir, "model.safetensors"))
        return deq_fail(err, DEQ_EINVAL, "%s: path too long", dir);
    deq_io_join(path, sizeof path, dir, "config.json"); /* shorter than the name above */
    enum deq_rc rc = deq_config_load(path, &ret->arch, err);
    if (!rc && with_tokenizer)
        rc = deq_tokenizer_load(dir, &ret->tokenizer, err);
    deq_io_join(path, sizeof path, dir, "model.safetensors");
    return rc ? rc : deq_weights_load(path, ret->arch, false, &ret->weights, err);
}

void deq_plain_close(struct deq_plain *p)
{
    deq_weights_free(p->weights);
    deq_free(p->arch);
    deq_tokenizer_free(p->tokenizer);
    *p = (struct deq_plain){0};
}
