/* What gcc -fanalyzer is told, which sees one file at a time: deq_fail returns the code that it is given, never DEQ_OK.
 * Without it every rc after a failure may be DEQ_OK. */
#include "core/base/err.h"

#define deq_fail(err, code, ...) ((void)(deq_fail)(err, code, __VA_ARGS__), (code))
