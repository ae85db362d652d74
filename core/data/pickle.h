/* The pickle machine, as far as a dictionary of tensors needs it: bytes -> a graph of plain
 * values. Nothing is ever executed.
 *
 * A pickle is a program for a stack machine (protocols 2 to 5, Python's Lib/pickletools.py documents every opcode).
 * This one knows the opcodes that build numbers, strings, tuples, lists, dictionaries and two things it leaves to
 * its caller: a persistent id (PyTorch: a storage) and the call of a function (PyTorch: a tensor rebuilt from a
 * storage), both kept as data. A function or class must be in the caller's allow-list; every other opcode or global
 * is refused by name and byte offset.
 *
 * Time and memory are linear in the length of the pickle, whatever it claims. Lists and dictionaries may contain
 * themselves, as in Python: who walks the graph must mind that. The values point into the bytes, which must outlive
 * them. Immutable after parsing. */
#ifndef DEQ_DATA_PICKLE_H
#define DEQ_DATA_PICKLE_H

#include "core/base/base.h"
#include "core/base/err.h"

enum {
    DEQ_PICKLE_BYTES_MAX = 64 << 20,
    DEQ_PICKLE_VALUES_MAX = 4 << 20,
    DEQ_PICKLE_STACK_MAX = 1 << 20,
    DEQ_PICKLE_MARKS_MAX = 256,     /* containers being built at once */
    DEQ_PICKLE_GLOBAL_MAX = 256,    /* bytes of a module's or a class's name */
};

enum deq_pickle_use {
    DEQ_PICKLE_CONSTANT, /* may only be a value */
    DEQ_PICKLE_FUNCTION, /* may be called: the call becomes a value */
    DEQ_PICKLE_MAPPING,  /* a class whose empty call is an empty dictionary, with attributes that do not matter */
};

struct deq_pickle_global {
    const char *module, *name;
    enum deq_pickle_use use;
    int tag; /* the caller's */
};

enum deq_pickle_kind {
    DEQ_PICKLE_NONE,
    DEQ_PICKLE_BOOL,
    DEQ_PICKLE_INT,
    DEQ_PICKLE_FLOAT,
    DEQ_PICKLE_STRING, /* not checked to be UTF-8 */
    DEQ_PICKLE_BYTES,
    DEQ_PICKLE_BIGINT, /* an integer past 64 bits, its value not kept */
    DEQ_PICKLE_GLOBAL,
    DEQ_PICKLE_TUPLE,
    DEQ_PICKLE_LIST,
    DEQ_PICKLE_DICT, /* its items are key, value, key, value, ..., a key may occur twice */
    DEQ_PICKLE_PERSISTENT,
    DEQ_PICKLE_CALL,
};

struct deq_pickle_value {
    enum deq_pickle_kind kind;
    uint32_t at; /* byte of the pickle where it was made, for messages */
    union {
        int64_t integer; /* also of a bool */
        double number;
        const struct deq_pickle_global *global;
        struct {
            uint32_t at, len; /* bytes of the pickle: deq_pickle_text */
        } text;
        struct {
            uint32_t first, last, n; /* chunks in the pickle's cells: deq_pickle_next, deq_pickle_tuple */
        } items;
        uint32_t id; /* value number of a persistent id */
        struct {
            uint32_t function, args; /* value numbers: a GLOBAL whose use is FUNCTION, and a TUPLE */
        } call;
    };
};

struct deq_pickle;

/* name: of the pickle, for messages. */
enum deq_rc deq_pickle_parse(const void *bytes, size_t n, const char *name, const struct deq_pickle_global *allowed,
                             size_t n_allowed, struct deq_pickle **ret_pickle, struct deq_err *err);
void deq_pickle_free(struct deq_pickle *p);

uint32_t deq_pickle_root(const struct deq_pickle *p);
uint32_t deq_pickle_count(const struct deq_pickle *p); /* values are numbered from 0 */
const struct deq_pickle_value *deq_pickle_at(const struct deq_pickle *p, uint32_t value);
/* text.len bytes, no NUL after them */
const char *deq_pickle_text(const struct deq_pickle *p, const struct deq_pickle_value *string);
/* items.n value numbers */
const uint32_t *deq_pickle_tuple(const struct deq_pickle *p, const struct deq_pickle_value *tuple);

/* The items of a tuple, list or dictionary in order: start with {0}; false after the last. */
struct deq_pickle_place {
    uint32_t chunk, i;
};
bool deq_pickle_next(const struct deq_pickle *p, const struct deq_pickle_value *container,
                     struct deq_pickle_place *place, uint32_t *ret_value);

#endif
