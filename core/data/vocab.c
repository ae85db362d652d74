#include "core/data/vocab.h"

enum deq_rc deq_vocab_check(const struct deq_vocab *v, const char *where, struct deq_err *err)
{
    if (v->size < 2 || v->size > 1 << 22)
        return deq_fail(err, DEQ_EFORMAT, "%s: vocab_size: %u is outside 2..%u", where, v->size, 1 << 22);
    if (v->d_model < 1 || v->d_model > 1 << 14)
        return deq_fail(err, DEQ_EFORMAT, "%s: hidden_size: %u is outside 1..%u", where, v->d_model, 1 << 14);
    for (uint32_t i = 0; i < v->n_cutoffs; i++)
        if (v->cutoffs[i] <= (i ? v->cutoffs[i - 1] : 0) || v->cutoffs[i] >= v->size)
            return deq_fail(err, DEQ_EFORMAT, "%s: cutoffs: %u is not above the one before it and below vocab_size %u",
                            where, v->cutoffs[i], v->size);
    if (v->d_embed > 1 << 14 || v->div_val > 1 << 10 || !deq_cluster_embed(v, v->n_cutoffs))
        return deq_fail(err, DEQ_EFORMAT, "%s: embedding_size: %u with div_val %u leaves cluster %u no embedding",
                        where, v->d_embed, v->div_val, v->n_cutoffs);
    if (v->d_out > 1 << 14)
        return deq_fail(err, DEQ_EFORMAT, "%s: output_size: %u is above %u", where, v->d_out, 1 << 14);
    if (v->d_out && v->d_out != v->d_model && (!v->head_untied || deq_projects(v)))
        return deq_fail(err, DEQ_EFORMAT,
                        "%s: output_size: %u differs from hidden_size %u, which needs a head of its own "
                        "(tie_word_embeddings false) and no projections",
                        where, v->d_out, v->d_model);
    if (v->eos_id >= (int64_t)v->size)
        return deq_fail(err, DEQ_EFORMAT, "%s: eos_token_id: %lld is outside the vocabulary of %u", where,
                        (long long)v->eos_id, v->size);
    if (v->has_bos && v->bos_id >= v->size)
        return deq_fail(err, DEQ_EFORMAT, "%s: bos_token_id: %u is outside the vocabulary of %u", where, v->bos_id,
                        v->size);
    return DEQ_OK;
}
