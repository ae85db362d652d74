/* core/data/pickle.c: what the pickle machine gives, and what it refuses. */
#include "core/data/pickle.h"

#include <stdlib.h>

#include "core/base/mem.h"
#include "tests/unit/crafted.h"
#include "tests/unit/test.h"

#define P(literal) literal, sizeof(literal) - 1
static const struct {
    const char *p;
    size_t n;
    const char *says; /* NULL: an empty dictionary, read */
} pickles[] = {
    {P("\x80\2}."), NULL},
    {P("\x80\5\x95\2\0\0\0\0\0\0\0}."), NULL},
    {P("\x80\2ccollections\nOrderedDict\n)R."), NULL},
    {P("\x80\4\x8c\13collections\x94\x8c\13OrderedDict\x94\x93)R}b."), NULL},
    {P(""), "not a pickle of protocol 2 to 5"},
    {P("}."), "not a pickle of protocol 2 to 5"},
    {P("\x80\1}."), "not a pickle of protocol 2 to 5"},
    {P("\x80\6}."), "not a pickle of protocol 2 to 5"},
    {P("\x80\2"), "ends without STOP"},
    {P("\x80\2}"), "ends without STOP"},
    {P("\x80\2."), "byte 2: STOP with 0 values"},
    {P("\x80\2}}."), "byte 4: STOP with 2 values"},
    {P("\x80\2}(."), "byte 4: STOP with 1 values on the stack and 1 open MARKs"},
    {P("\x80\2}.}"), "byte 3: 1 bytes follow STOP"},
    {P("\x80\2N."), "holds no dictionary of tensors"},
    {P("\x80\2]."), "holds no dictionary of tensors"},
    {P("\x80\2cos\nsystem\nX\2\0\0\0ls\x85R."), "byte 2: global os.system is not part of a tensor state dict"},
    {P("\x80\2cposix\nsystem\n."), "global posix.system"},
    {P("\x80\2cbuiltins\neval\n."), "global builtins.eval"},
    {P("\x80\2c__builtin__\nset\n."), "global __builtin__.set"},
    {P("\x80\2cmodels.deq_transformer\nDEQTransformerLM\n)\x81."),
     "global models.deq_transformer.DEQTransformerLM is not part of a tensor "
     "state dict; if the file is a whole pickled model"},
    {P("\x80\4\x8c\2os\x8c\6system\x93."), "byte 14: global os.system"},
    {P("\x80\2ctorch._utils\n_rebuild_tensor_v2x\n."), "global torch._utils._rebuild_tensor_v2x"},
    {P("\x80\2ctorch\n_utils._rebuild_tensor_v2\n."),
     "global torch._utils._rebuild_tensor_v2"}, /* not by the dotted sum */
    {P("\x80\2ctorch"), "GLOBAL's name does not end"},
    {P("\x80\2ctorch\nSize"), "GLOBAL's name does not end"},
    {P("\x80\4K\1K\2\x93."), "STACK_GLOBAL of something that is not two strings"},
    {P("\x80\2)\x81."), "byte 3: opcode 0x81 NEWOBJ is not part"},
    {P("\x80\2(ios\nsystem\n."), "opcode 0x69 INST is not part"},
    {P("\x80\2(o."), "opcode 0x6f OBJ"},
    {P("\x80\2\x82\1."), "opcode 0x82 EXT1"},
    {P("\x80\2}0."), "opcode 0x30 POP"},
    {P("\x80\2\xff."), "opcode 0xff is not part"},
    {P("\x80\2}\x80\2."), "opcode 0x80 PROTO"},
    {P("\x80\2X\5\0\0\0abc."), "byte 2: BINUNICODE needs 5 bytes, 4 are left"},
    {P("\x80\2X\377\377\377\377abc."), "BINUNICODE needs 4294967295 bytes"},
    {P("\x80\2K"), "BININT1 needs 1 bytes, 0 are left"},
    {P("\x80\2\x95\377\377\377\377\377\377\377\377."), "FRAME of 18446744073709551615 bytes"},
    {P("\x80\2h\0."), "memo entry 0 is not set"},
    {P("\x80\2}q\1h\0."), "memo entry 0 is not set"},
    {P("\x80\2j\377\377\377\377."), "memo entry 4294967295 is not set"},
    {P("\x80\2}r\377\377\377\377."), "memo entry 4294967295 in a pickle of 9 bytes"},
    {P("\x80\2q\0."), "BINPUT finds 0 values"},
    {P("\x80\2t."), "TUPLE without a MARK"},
    {P("\x80\2N\x86."), "TUPLE2 finds 1 values on the stack, needs 2"},
    {P("\x80\2N(\x85."), "TUPLE1 finds 0 values"}, /* none above the mark */
    {P("\x80\2}NNu."), "SETITEMS without a MARK"},
    {P("\x80\2}(Nu."), "SETITEMS finds a key without a value"},
    {P("\x80\2](NNu."), "SETITEMS on something that is not a dictionary"},
    {P("\x80\2(NNu."), "SETITEMS finds no container"},
    {P("\x80\2}Na."), "APPEND on something that is not a list"},
    {P("\x80\2NN)s."), "SETITEM on something that is not a dictionary"},
    {P("\x80\2]}b."), "BUILD on something that is not a dictionary"},
    {P("\x80\2N)R."), "REDUCE calls a value, which is not a function"},
    {P("\x80\2ctorch\nFloatStorage\n)R."), "REDUCE calls torch.FloatStorage"},
    {P("\x80\2ctorch\nSize\n]R."), "REDUCE with arguments that are not a tuple"},
    {P("\x80\2ccollections\nOrderedDict\n]\x85R."), "collections.OrderedDict with arguments"},
    {P("\x80\2}X\1\0\0\0actorch._utils\n_rebuild_tensor_v2\n)Rs."),
     "entry a: a tensor rebuilt from 0 arguments, expected 6"},
    {P("\x80\2}X\1\0\0\0actorch._utils\n_rebuild_tensor_v2\n(NNNNNNtRs."), "entry a: a tensor without a storage"},
    {P("\x80\2}X\1\0\0\0actorch._utils\n_rebuild_tensor_v2\n(NQNNNNNtRs."),
     "entry a: its persistent id is not a tuple of five"},
    {P("\x80\2}X\1\0\0\0actorch._utils\n_rebuild_tensor_v2\n((NNNNNtQNNNNNtRs."),
     "does not begin with \"storage\""},
    {P("\x80\2}X\1\0\0\0actorch._utils\n_rebuild_parameter\n)Rs."), "entry a: a parameter without a tensor"},
    {P("\x80\2}X\1\0\0\0actorch._utils\n_rebuild_parameter\nq\0(h\0(NNNtRNNtRs."),
     "entry a: a parameter without a tensor"},
    {P("\x80\2}G\0\0\0\0\0\0\0\0Ns."), "a key in it is neither a string nor an integer"},
    {P("\x80\2}X\0\0\0\0Ns."), "a key in it is empty or not text"},
    {P("\x80\2}X\2\0\0\0\xc0\x80Ns."), "a key in it is empty or not text"},
    {P("\x80\2}X\3\0\0\0a\0bNs."), "a key in it is empty or not text"},
    {P("\x80\2}q\0X\1\0\0\0ah\0s."), "entry a: it contains itself"},
    {P("\x80\2}X\1\0\0\0a]q\0h\0as."), "entry a.0: it contains itself"},
};
#undef P

TEST(torchfile_refused_pickles)
{
    for (size_t i = 0; i < DEQ_COUNT(pickles); i++) {
        static struct bytes b;
        struct deq_err err = {0};
        b.n = 0;
        put(&b, pickles[i].p, pickles[i].n);
        enum deq_rc rc = try_pickle(&b, NULL, &err);
        if (pickles[i].says)
            CHECK_MSG(rc == DEQ_EFORMAT && strstr(err.text, "m.pth: data.pkl: ") && strstr(err.text, pickles[i].says),
                      "case %zu: %s", i, err.text);
        else
            CHECK_MSG(!rc, "case %zu: %s", i, err.text);
    }
}

TEST(pickle_values)
{
    static const char text[] = "\x80\5\x95\4\0\0\0\0\0\0\0" "(N\x88\x89K\xffM\xff\xffJ\xff\xff\xff\xff"
                               "\x8a\0\x8a\1\xff\x8a\2\0\x80\x8a\10\0\0\0\0\0\0\0\x80\x8a\11\0\0\0\0\0\0\0\0\1"
                               "G\xbf\xf8\0\0\0\0\0\0" "C\2ab\x8c\3xyz\x94h\0t.";
    static const struct {
        enum deq_pickle_kind kind;
        int64_t integer;
    } want[] = {{DEQ_PICKLE_NONE, 0}, {DEQ_PICKLE_BOOL, 1}, {DEQ_PICKLE_BOOL, 0}, {DEQ_PICKLE_INT, 255},
                {DEQ_PICKLE_INT, 65535}, {DEQ_PICKLE_INT, -1}, {DEQ_PICKLE_INT, 0}, {DEQ_PICKLE_INT, -1},
                {DEQ_PICKLE_INT, -32768}, {DEQ_PICKLE_INT, INT64_MIN}, {DEQ_PICKLE_BIGINT, 0}, {DEQ_PICKLE_FLOAT, 0},
                {DEQ_PICKLE_BYTES, 0}, {DEQ_PICKLE_STRING, 0}, {DEQ_PICKLE_STRING, 0}};
    struct deq_pickle *p = NULL;
    struct deq_err err = {0};
    CHECK_MSG(!deq_pickle_parse(text, sizeof text - 1, "p", NULL, 0, &p, &err), "%s", err.text);
    if (!p)
        return;
    const struct deq_pickle_value *root = deq_pickle_at(p, deq_pickle_root(p));
    CHECK(root->kind == DEQ_PICKLE_TUPLE && root->items.n == DEQ_COUNT(want));
    const uint32_t *item = deq_pickle_tuple(p, root);
    struct deq_pickle_place place = {0};
    uint32_t value;
    size_t i = 0;
    for (; deq_pickle_next(p, root, &place, &value) && i < DEQ_COUNT(want); i++) {
        const struct deq_pickle_value *v = deq_pickle_at(p, value);
        CHECK(value == item[i]);
        CHECK_MSG(v->kind == want[i].kind, "item %zu", i);
        if (v->kind == DEQ_PICKLE_INT || v->kind == DEQ_PICKLE_BOOL)
            CHECK_MSG(v->integer == want[i].integer, "item %zu: %lld", i, (long long)v->integer);
        if (v->kind == DEQ_PICKLE_FLOAT)
            CHECK(v->number == -1.5);
        if (v->kind == DEQ_PICKLE_STRING)
            CHECK(v->text.len == 3 && !memcmp(deq_pickle_text(p, v), "xyz", 3));
    }
    CHECK(i == DEQ_COUNT(want) && item[13] == item[14]); /* the memo gives the same value again */
    deq_pickle_free(p);
}
