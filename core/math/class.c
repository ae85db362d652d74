#include "core/math/class.h"

const char *deq_class_name(enum deq_class c)
{
    return c == DEQ_CLASS_INT8 ? "int8" : c == DEQ_CLASS_INT16 ? "int16" : "float32";
}
