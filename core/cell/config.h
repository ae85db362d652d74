/* config.json <-> struct deq_arch: what the model is and how it is best solved. models/FORMAT.md documents every key.
 * Keys that every model has stand in config.c, a kind's own in its table (kind.h). */
#ifndef DEQ_CELL_CONFIG_H
#define DEQ_CELL_CONFIG_H

#include "core/cell/kind.h"

/* The architecture is the caller's, deq_free. An unknown key, value or model_type is an error that names
 * it and what was expected. */
enum deq_rc deq_config_load(const char *path, struct deq_arch **ret, struct deq_err *err);
enum deq_rc deq_config_parse(const char *json, size_t len, const char *name, struct deq_arch **ret,
                             struct deq_err *err);
/* Writes config.json. training_json: an object's text that goes under "training" (provenance), or NULL. */
enum deq_rc deq_config_save(const char *path, const struct deq_arch *a, const char *training_json, struct deq_err *err);

#endif
