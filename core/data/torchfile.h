/* Checkpoints written by torch.save: a reader of the tensors of a state dict. No Python, and
 * nothing in the file is executed.
 *
 *   a zip container, entries not compressed, under one folder of any name:
 *     NAME/data.pkl    the pickle: names, shapes, strides, which storage (core/data/torch_state.h, core/data/pickle.h)
 *     NAME/data/0 ...  the storages' bytes
 *     NAME/version, NAME/byteorder   when present
 *
 * The reader trusts nothing: every view lies inside its storage, every storage has the size that the pickle claims,
 * compressed entries, big-endian files, whole pickled models and the format before PyTorch 1.6 are refused with advice.
 * A storage is read, and its checksum compared, when a tensor in it is. Errors name the file and the entry. One thread
 * at a time uses an open file. */
#ifndef DEQ_DATA_TORCHFILE_H
#define DEQ_DATA_TORCHFILE_H

#include "core/data/torch_state.h"

enum { DEQ_TORCHFILE_ZIP_ENTRIES_MAX = 2 * DEQ_TORCH_ENTRIES_MAX };

struct deq_torchfile;

enum deq_rc deq_torchfile_open(const char *path, struct deq_torchfile **ret_file, struct deq_err *err);
/* The same on a block of memory, which must outlive the file. name: for messages. */
enum deq_rc deq_torchfile_open_memory(const void *bytes, size_t n, const char *name, struct deq_torchfile **ret_file,
                                      struct deq_err *err);
void deq_torchfile_close(struct deq_torchfile *file);

/* Tensors of the floating-point types, in the order of the pickle; they and their names are the file's. */
size_t deq_torchfile_count(const struct deq_torchfile *file);
const struct deq_torchfile_tensor *deq_torchfile_at(const struct deq_torchfile *file, size_t i);
/* NULL when absent */
const struct deq_torchfile_tensor *deq_torchfile_find(const struct deq_torchfile *file, const char *name);

/* Everything else that the file holds. */
size_t deq_torchfile_ignored_count(const struct deq_torchfile *file);
const struct deq_torchfile_ignored *deq_torchfile_ignored_at(const struct deq_torchfile *file, size_t i);

/* Elements [first, first + n), row-major whatever the strides are. DEQ_EFORMAT, naming the tensor, for a value that is
 * not finite or, in float64, past float32. A tensor that is all of its storage is read in pieces: from front to back is
 * fastest, and its end is where the checksum is compared. The storage of a view is kept until another one is read. */
enum deq_rc deq_torchfile_read(struct deq_torchfile *file, const struct deq_torchfile_tensor *tensor, uint64_t first,
                               size_t n, float *out, struct deq_err *err);

#endif
