/* The tensors of a checkpoint by name, in whichever form its users have it:
 *
 *     FILE             what torch.save wrote, or safetensors: its first bytes tell
 *     FILE.index.json  names and the files beside it that hold them (Hugging Face's shards), of either form
 *     DIRECTORY        with one of those under a usual name
 *
 * Knows no model. Every file is checked as its reader says (core/data/torchfile.h, safetensors.h); a shard that is
 * missing, a tensor that the index places elsewhere or leaves out and a name that two shards have are errors that name
 * them. Links are followed, as caches of downloads need it. One thread. */
#ifndef DEQ_IMPORT_CHECKPOINT_FILES_H
#define DEQ_IMPORT_CHECKPOINT_FILES_H

#include "core/data/torchfile.h"

enum { DEQ_CHECKPOINT_PARTS_MAX = 256 };

struct deq_checkpoint_tensor {
    const char *name;
    const char *file; /* path of the file that it is in */
    enum deq_dtype dtype;
    unsigned n_dims;
    uint64_t shape[DEQ_ST_DIMS_MAX];
    uint64_t count;
    unsigned part;       /* number of its file */
    const void *in_part; /* its reader's tensor */
};

struct deq_checkpoint;

enum deq_rc deq_checkpoint_open(const char *path, struct deq_checkpoint **ret, struct deq_err *err);
void deq_checkpoint_close(struct deq_checkpoint *c);
/* The file that was found: path itself, or that of a directory. */
const char *deq_checkpoint_path(const struct deq_checkpoint *c);

size_t deq_checkpoint_count(const struct deq_checkpoint *c);
const struct deq_checkpoint_tensor *deq_checkpoint_at(const struct deq_checkpoint *c, size_t i);
/* NULL when absent */
const struct deq_checkpoint_tensor *deq_checkpoint_find(const struct deq_checkpoint *c, const char *name);
/* Everything else that the files hold. */
size_t deq_checkpoint_ignored_count(const struct deq_checkpoint *c);
const struct deq_torchfile_ignored *deq_checkpoint_ignored_at(const struct deq_checkpoint *c, size_t i);

/* One storage, seen alike: the same numbers under two names. */
bool deq_checkpoint_shared(const struct deq_checkpoint *c, const struct deq_checkpoint_tensor *x,
                           const struct deq_checkpoint_tensor *y);
/* Elements [first, first + n) as float32; DEQ_EFORMAT, naming the tensor, for one that is not finite. */
enum deq_rc deq_checkpoint_read(struct deq_checkpoint *c, const struct deq_checkpoint_tensor *t, uint64_t first,
                                size_t n, float *out, struct deq_err *err);

#endif
