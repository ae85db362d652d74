#include "core/data/pickle.h"

#include <string.h>

#include "core/base/mem.h"
#include "core/data/pickle_graph.h"

struct machine {
    const unsigned char *p;
    size_t n, at, op_at; /* bytes read; where the opcode being run stands */
    const char *name;
    const struct deq_pickle_global *allowed;
    size_t n_allowed;
    struct deq_err *err;
    struct deq_pickle *out;
    uint32_t *stack; /* value numbers */
    size_t n_stack, cap_stack;
    size_t marks[DEQ_PICKLE_MARKS_MAX]; /* heights of the stack */
    size_t n_marks;
    uint32_t *memo; /* value number + 1; 0 = not set */
    size_t n_memo, cap_memo;
};

/* Every opcode of protocols 0 to 5, for messages. Those the machine knows are the cases of run(). */
static const char *const names[256] = {
    ['('] = "MARK", ['.'] = "STOP", ['0'] = "POP", ['1'] = "POP_MARK", ['2'] = "DUP", ['F'] = "FLOAT", ['I'] = "INT",
    ['J'] = "BININT", ['K'] = "BININT1", ['L'] = "LONG", ['M'] = "BININT2", ['N'] = "NONE", ['P'] = "PERSID",
    ['Q'] = "BINPERSID", ['R'] = "REDUCE", ['S'] = "STRING", ['T'] = "BINSTRING", ['U'] = "SHORT_BINSTRING",
    ['V'] = "UNICODE", ['X'] = "BINUNICODE", ['a'] = "APPEND", ['b'] = "BUILD", ['c'] = "GLOBAL", ['d'] = "DICT",
    ['}'] = "EMPTY_DICT", ['e'] = "APPENDS", ['g'] = "GET", ['h'] = "BINGET", ['i'] = "INST", ['j'] = "LONG_BINGET",
    ['l'] = "LIST", [']'] = "EMPTY_LIST", ['o'] = "OBJ", ['p'] = "PUT", ['q'] = "BINPUT", ['r'] = "LONG_BINPUT",
    ['s'] = "SETITEM", ['t'] = "TUPLE", [')'] = "EMPTY_TUPLE", ['u'] = "SETITEMS", ['G'] = "BINFLOAT",
    ['B'] = "BINBYTES", ['C'] = "SHORT_BINBYTES", [0x80] = "PROTO", [0x81] = "NEWOBJ", [0x82] = "EXT1",
    [0x83] = "EXT2", [0x84] = "EXT4", [0x85] = "TUPLE1", [0x86] = "TUPLE2", [0x87] = "TUPLE3", [0x88] = "NEWTRUE",
    [0x89] = "NEWFALSE", [0x8a] = "LONG1", [0x8b] = "LONG4", [0x8c] = "SHORT_BINUNICODE", [0x8d] = "BINUNICODE8",
    [0x8e] = "BINBYTES8", [0x8f] = "EMPTY_SET", [0x90] = "ADDITEMS", [0x91] = "FROZENSET", [0x92] = "NEWOBJ_EX",
    [0x93] = "STACK_GLOBAL", [0x94] = "MEMOIZE", [0x95] = "FRAME", [0x96] = "BYTEARRAY8", [0x97] = "NEXT_BUFFER",
    [0x98] = "READONLY_BUFFER",
};

#define REFUSE(m, fmt, ...) deq_fail((m)->err, DEQ_EFORMAT, "%s: byte %zu: " fmt, (m)->name, (m)->op_at, ##__VA_ARGS__)

static enum deq_rc no_memory(const struct machine *m)
{
    return deq_fail(m->err, DEQ_ENOMEM, "%s: no memory", m->name);
}

static enum deq_rc push(struct machine *m, uint32_t value)
{
    if (m->n_stack == DEQ_PICKLE_STACK_MAX)
        return REFUSE(m, "more than %d values on the stack", DEQ_PICKLE_STACK_MAX);
    if (!deq_pickle_reserve(&m->stack, m->n_stack, 1, sizeof *m->stack, &m->cap_stack))
        return no_memory(m);
    m->stack[m->n_stack++] = value;
    return DEQ_OK;
}

/* Values on the stack above the last mark: no opcode reaches below it. */
static size_t above_mark(const struct machine *m)
{
    return m->n_stack - (m->n_marks ? m->marks[m->n_marks - 1] : 0);
}

static enum deq_rc need(struct machine *m, size_t n)
{
    return above_mark(m) >= n
               ? DEQ_OK
               : REFUSE(m, "%s finds %zu values on the stack, needs %zu", names[m->p[m->op_at]], above_mark(m), n);
}

/* Makes the values above the last mark *ret_n values that the caller takes off, and forgets the mark. */
static enum deq_rc take_mark(struct machine *m, size_t *ret_n)
{
    if (!m->n_marks)
        return REFUSE(m, "%s without a MARK", names[m->p[m->op_at]]);
    *ret_n = above_mark(m);
    m->n_marks--;
    return DEQ_OK;
}

static struct deq_pickle_value *value_at(struct machine *m, uint32_t value)
{
    return &m->out->values[value];
}

/* The i-th value from the top of the stack, 0 = the top. */
static struct deq_pickle_value *from_top(struct machine *m, size_t i)
{
    return value_at(m, m->stack[m->n_stack - 1 - i]);
}

static enum deq_rc push_new(struct machine *m, struct deq_pickle_value v)
{
    uint32_t made;
    if (m->out->n_values == DEQ_PICKLE_VALUES_MAX)
        return REFUSE(m, "more than %d values", DEQ_PICKLE_VALUES_MAX);
    v.at = (uint32_t)m->op_at;
    return deq_pickle_add(m->out, v, &made) ? push(m, made) : no_memory(m);
}

#define PUSH(m, ...) push_new(m, (struct deq_pickle_value){__VA_ARGS__})

/* n bytes that follow the opcode. */
static enum deq_rc operand(struct machine *m, size_t n, const unsigned char **ret)
{
    if (n > m->n - m->at)
        return REFUSE(m, "%s needs %zu bytes, %zu are left", names[m->p[m->op_at]], n, m->n - m->at);
    *ret = m->p + m->at;
    m->at += n;
    return DEQ_OK;
}

/* A little-endian number of n bytes that follows the opcode. */
static enum deq_rc operand_uint(struct machine *m, size_t n, uint64_t *ret)
{
    const unsigned char *b = NULL;
    enum deq_rc rc = operand(m, n, &b);
    if (rc)
        return rc;
    *ret = 0;
    while (n--)
        *ret = *ret << 8 | b[n];
    return DEQ_OK;
}

/* A length of len_bytes bytes and so many bytes of text. */
static enum deq_rc push_text(struct machine *m, size_t len_bytes, enum deq_pickle_kind kind)
{
    uint64_t len = 0;
    const unsigned char *b = NULL;
    enum deq_rc rc = operand_uint(m, len_bytes, &len);
    if (!rc)
        rc = operand(m, len, &b);
    return rc ? rc : PUSH(m, .kind = kind, .text = {(uint32_t)(b - m->p), (uint32_t)len});
}

/* Two's complement of n bytes. */
static enum deq_rc push_long(struct machine *m)
{
    uint64_t n = 0, u = 0;
    const unsigned char *b = NULL;
    enum deq_rc rc = operand_uint(m, 1, &n);
    if (!rc)
        rc = operand(m, n, &b);
    if (rc)
        return rc;
    if (n > 8)
        return PUSH(m, .kind = DEQ_PICKLE_BIGINT);
    for (size_t i = n; i--;)
        u = u << 8 | b[i];
    if (n && n < 8 && b[n - 1] & 0x80)
        u |= UINT64_MAX << 8 * n;
    return PUSH(m, .kind = DEQ_PICKLE_INT, .integer = (int64_t)u);
}

static enum deq_rc push_float(struct machine *m)
{
    const unsigned char *b = NULL;
    uint64_t u = 0;
    double d;
    enum deq_rc rc = operand(m, 8, &b); /* big-endian */
    if (rc)
        return rc;
    for (int i = 0; i < 8; i++)
        u = u << 8 | b[i];
    memcpy(&d, &u, 8);
    return PUSH(m, .kind = DEQ_PICKLE_FLOAT, .number = d);
}

static bool text_is(const char *s, const void *text, size_t n)
{
    return strlen(s) == n && !memcmp(s, text, n);
}

static enum deq_rc push_global(struct machine *m, const unsigned char *module, size_t n_module,
                               const unsigned char *name, size_t n_name)
{
    for (size_t i = 0; i < m->n_allowed; i++)
        if (text_is(m->allowed[i].name, name, n_name) && text_is(m->allowed[i].module, module, n_module))
            return PUSH(m, .kind = DEQ_PICKLE_GLOBAL, .global = &m->allowed[i]);
    return REFUSE(m,
                  "global %.*s.%.*s is not part of a tensor state dict; if the file is a whole pickled model, save "
                  "model.state_dict() instead",
                  (int)DEQ_MIN(n_module, 80), (const char *)module, (int)DEQ_MIN(n_name, 80), (const char *)name);
}

/* A line that follows the opcode, without its newline. */
static enum deq_rc operand_line(struct machine *m, const unsigned char **ret, size_t *ret_len)
{
    const unsigned char *b = m->p + m->at, *end = memchr(b, '\n', DEQ_MIN(m->n - m->at, DEQ_PICKLE_GLOBAL_MAX + 1));
    if (!end)
        return REFUSE(m, "GLOBAL's name does not end within %d bytes", DEQ_PICKLE_GLOBAL_MAX);
    *ret = b;
    *ret_len = (size_t)(end - b);
    m->at += *ret_len + 1;
    return DEQ_OK;
}

static enum deq_rc global(struct machine *m)
{
    const unsigned char *module = NULL, *name = NULL;
    size_t n_module = 0, n_name = 0;
    enum deq_rc rc = operand_line(m, &module, &n_module);
    if (!rc)
        rc = operand_line(m, &name, &n_name);
    return rc ? rc : push_global(m, module, n_module, name, n_name);
}

static enum deq_rc stack_global(struct machine *m)
{
    enum deq_rc rc = need(m, 2);
    if (rc)
        return rc;
    const struct deq_pickle_value *module = from_top(m, 1), *name = from_top(m, 0);
    if (module->kind != DEQ_PICKLE_STRING || name->kind != DEQ_PICKLE_STRING)
        return REFUSE(m, "STACK_GLOBAL of something that is not two strings");
    m->n_stack -= 2;
    return push_global(m, m->p + module->text.at, module->text.len, m->p + name->text.at, name->text.len);
}

/* Takes n values off the stack and puts them, in order, behind the items of container. */
static enum deq_rc put_items(struct machine *m, uint32_t container, size_t n)
{
    m->n_stack -= n;
    return deq_pickle_put(m->out, container, m->stack + m->n_stack, n) ? DEQ_OK : no_memory(m);
}

/* The top n values become one tuple. */
static enum deq_rc tuple(struct machine *m, size_t n)
{
    enum deq_rc rc = PUSH(m, .kind = DEQ_PICKLE_TUPLE);
    if (rc)
        return rc;
    const uint32_t made = m->stack[--m->n_stack];
    rc = put_items(m, made, n);
    return rc ? rc : push(m, made);
}

/* The top n values go into the list or dictionary below them. */
static enum deq_rc fill(struct machine *m, size_t n, enum deq_pickle_kind kind)
{
    if (above_mark(m) < n + 1)
        return REFUSE(m, "%s finds no container", names[m->p[m->op_at]]);
    if (from_top(m, n)->kind != kind)
        return REFUSE(m, "%s on something that is not a %s", names[m->p[m->op_at]],
                      kind == DEQ_PICKLE_LIST ? "list" : "dictionary");
    if (kind == DEQ_PICKLE_DICT && n % 2)
        return REFUSE(m, "%s finds a key without a value", names[m->p[m->op_at]]);
    return put_items(m, m->stack[m->n_stack - 1 - n], n);
}

static enum deq_rc fill_from_mark(struct machine *m, enum deq_pickle_kind kind)
{
    size_t n = 0;
    enum deq_rc rc = take_mark(m, &n);
    return rc ? rc : fill(m, n, kind);
}

static enum deq_rc reduce(struct machine *m)
{
    enum deq_rc rc = need(m, 2);
    if (rc)
        return rc;
    const struct deq_pickle_value *f = from_top(m, 1), *args = from_top(m, 0);
    if (f->kind != DEQ_PICKLE_GLOBAL || f->global->use == DEQ_PICKLE_CONSTANT)
        return REFUSE(m, "REDUCE calls %s%s%s, which is not a function",
                      f->kind == DEQ_PICKLE_GLOBAL ? f->global->module : "a value",
                      f->kind == DEQ_PICKLE_GLOBAL ? "." : "", f->kind == DEQ_PICKLE_GLOBAL ? f->global->name : "");
    if (args->kind != DEQ_PICKLE_TUPLE)
        return REFUSE(m, "REDUCE with arguments that are not a tuple");
    const uint32_t function = m->stack[m->n_stack - 2], arguments = m->stack[m->n_stack - 1];
    m->n_stack -= 2;
    if (f->global->use == DEQ_PICKLE_FUNCTION)
        return PUSH(m, .kind = DEQ_PICKLE_CALL, .call = {function, arguments});
    if (args->items.n)
        return REFUSE(m, "%s.%s with arguments", f->global->module, f->global->name);
    return PUSH(m, .kind = DEQ_PICKLE_DICT);
}

/* The attributes of a dictionary's subclass (a state dict's _metadata) do not matter. */
static enum deq_rc build(struct machine *m)
{
    enum deq_rc rc = need(m, 2);
    if (rc)
        return rc;
    if (from_top(m, 1)->kind != DEQ_PICKLE_DICT)
        return REFUSE(m, "BUILD on something that is not a dictionary");
    m->n_stack--;
    return DEQ_OK;
}

static enum deq_rc persistent(struct machine *m)
{
    enum deq_rc rc = need(m, 1);
    return rc ? rc : PUSH(m, .kind = DEQ_PICKLE_PERSISTENT, .id = m->stack[--m->n_stack]);
}

static enum deq_rc memo_put(struct machine *m, uint64_t i)
{
    enum deq_rc rc = need(m, 1);
    if (rc)
        return rc;
    if (i >= m->n) /* writers number them from 0, so that there are fewer than bytes */
        return REFUSE(m, "memo entry %llu in a pickle of %zu bytes", (unsigned long long)i, m->n);
    if (i >= m->n_memo) {
        if (!deq_pickle_reserve(&m->memo, m->n_memo, i + 1 - m->n_memo, sizeof *m->memo, &m->cap_memo))
            return no_memory(m);
        memset(m->memo + m->n_memo, 0, (i + 1 - m->n_memo) * sizeof *m->memo);
        m->n_memo = i + 1;
    }
    m->memo[i] = m->stack[m->n_stack - 1] + 1;
    return DEQ_OK;
}

static enum deq_rc put(struct machine *m, size_t index_bytes)
{
    uint64_t i = 0;
    enum deq_rc rc = operand_uint(m, index_bytes, &i);
    return rc ? rc : memo_put(m, i);
}

static enum deq_rc get(struct machine *m, size_t index_bytes)
{
    uint64_t i = 0;
    enum deq_rc rc = operand_uint(m, index_bytes, &i);
    if (rc)
        return rc;
    if (i >= m->n_memo || !m->memo[i])
        return REFUSE(m, "memo entry %llu is not set", (unsigned long long)i);
    return push(m, m->memo[i] - 1);
}

static enum deq_rc push_int(struct machine *m, size_t bytes)
{
    uint64_t u = 0;
    enum deq_rc rc = operand_uint(m, bytes, &u);
    return rc ? rc : PUSH(m, .kind = DEQ_PICKLE_INT, .integer = bytes == 4 ? (int32_t)(uint32_t)u : (int64_t)u);
}

static enum deq_rc run(struct machine *m, unsigned char op)
{
    uint64_t u = 0;
    size_t n = 0;
    enum deq_rc rc;
    switch (op) {
    case 'N': return PUSH(m, .kind = DEQ_PICKLE_NONE);
    case 0x88: return PUSH(m, .kind = DEQ_PICKLE_BOOL, .integer = 1);
    case 0x89: return PUSH(m, .kind = DEQ_PICKLE_BOOL, .integer = 0);
    case 'K': return push_int(m, 1);
    case 'M': return push_int(m, 2);
    case 'J': return push_int(m, 4);
    case 0x8a: return push_long(m);
    case 'G': return push_float(m);
    case 0x8c: return push_text(m, 1, DEQ_PICKLE_STRING);
    case 'X': return push_text(m, 4, DEQ_PICKLE_STRING);
    case 'C': return push_text(m, 1, DEQ_PICKLE_BYTES);
    case 'B': return push_text(m, 4, DEQ_PICKLE_BYTES);
    case 'c': return global(m);
    case 0x93: return stack_global(m);
    case 'R': return reduce(m);
    case 'b': return build(m);
    case 'Q': return persistent(m);
    case ')': return tuple(m, 0);
    case 0x85:
    case 0x86:
    case 0x87:
        n = op - 0x84u;
        rc = need(m, n);
        return rc ? rc : tuple(m, n);
    case 't':
        rc = take_mark(m, &n);
        return rc ? rc : tuple(m, n);
    case ']': return PUSH(m, .kind = DEQ_PICKLE_LIST);
    case 'a':
        rc = need(m, 2);
        return rc ? rc : fill(m, 1, DEQ_PICKLE_LIST);
    case 'e': return fill_from_mark(m, DEQ_PICKLE_LIST);
    case '}': return PUSH(m, .kind = DEQ_PICKLE_DICT);
    case 's':
        rc = need(m, 3);
        return rc ? rc : fill(m, 2, DEQ_PICKLE_DICT);
    case 'u': return fill_from_mark(m, DEQ_PICKLE_DICT);
    case '(':
        if (m->n_marks == DEQ_PICKLE_MARKS_MAX)
            return REFUSE(m, "more than %d containers inside each other", DEQ_PICKLE_MARKS_MAX);
        m->marks[m->n_marks++] = m->n_stack;
        return DEQ_OK;
    case 'q': return put(m, 1);
    case 'r': return put(m, 4);
    case 0x94: return memo_put(m, m->n_memo);
    case 'h': return get(m, 1);
    case 'j': return get(m, 4);
    case 0x95: /* a hint for buffering */
        rc = operand_uint(m, 8, &u);
        if (!rc && u > m->n - m->at)
            rc = REFUSE(m, "FRAME of %llu bytes, %zu are left", (unsigned long long)u, m->n - m->at);
        return rc;
    default:
        return REFUSE(m, "opcode 0x%02x%s%s is not part of a tensor state dict", op, names[op] ? " " : "",
                      names[op] ? names[op] : "");
    }
}

enum deq_rc deq_pickle_parse(const void *bytes, size_t n, const char *name, const struct deq_pickle_global *allowed,
                             size_t n_allowed, struct deq_pickle **ret_pickle, struct deq_err *err)
{
    struct machine m = {.p = bytes, .n = n, .name = name, .allowed = allowed, .n_allowed = n_allowed, .err = err};
    if (n > DEQ_PICKLE_BYTES_MAX)
        return deq_fail(err, DEQ_EFORMAT, "%s: %zu bytes, at most %d are read", name, n, DEQ_PICKLE_BYTES_MAX);
    if (n < 2 || m.p[0] != 0x80 || m.p[1] < 2 || m.p[1] > 5)
        return deq_fail(err, DEQ_EFORMAT, "%s: not a pickle of protocol 2 to 5", name);
    m.out = DEQ_NEW(struct deq_pickle);
    if (!m.out)
        return deq_fail(err, DEQ_ENOMEM, "%s: no memory", name);
    m.out->bytes = m.p;

    enum deq_rc rc = DEQ_OK;
    bool stopped = false;
    for (m.at = 2; !rc && !stopped && m.at < n;) {
        m.op_at = m.at++;
        if (m.p[m.op_at] == '.')
            stopped = true;
        else
            rc = run(&m, m.p[m.op_at]);
    }
    if (!rc && !stopped)
        rc = deq_fail(err, DEQ_EFORMAT, "%s: the pickle ends without STOP", name);
    else if (!rc && (m.n_marks || m.n_stack != 1))
        rc = REFUSE(&m, "STOP with %zu values on the stack and %zu open MARKs, expected 1 and 0", m.n_stack, m.n_marks);
    else if (!rc && m.at != n)
        rc = REFUSE(&m, "%zu bytes follow STOP", n - m.at);
    if (!rc) {
        m.out->root = m.stack[0];
        *ret_pickle = m.out;
        m.out = NULL;
    }
    deq_free(m.stack);
    deq_free(m.memo);
    deq_pickle_free(m.out);
    return rc;
}
