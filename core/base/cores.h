/* Cores: how many threads this process can run at once, and which of them may keep one to themselves.
 *
 * How many: the processors it may be put on (affinity, cpusets), and no more than
 * its cgroups' quota of processor time (v2 cpu.max, v1 cpu.cfs_quota_us) buys. A container of two processors' worth on
 * a machine of sixty-four sees all of them; threads that wait for one another at barriers would spend the quota on
 * waiting and then all stand still.
 *
 * To themselves: two threads that a scheduler puts on one core after a pause stay there for tens of milliseconds, while
 * the other core idles. Bound to a core each they cannot; but a bound thread cannot move away from somebody else's
 * either. So by default threads are bound only where this process seems to own its cores: it runs one thread on every
 * processor it may use, no quota buys less than these, and no other process that binds threads here has claimed one of
 * them. A claim is the name of an abstract Unix socket, "deqd-core-" and the processor's number: seen by all processes
 * of a network namespace, whoever their user is, and gone with the process. Two engines of one process share theirs.
 * Other programs on these cores are not known of: see deq_pool_stage. Any thread. */
#ifndef DEQ_BASE_CORES_H
#define DEQ_BASE_CORES_H

#include "core/base/base.h"
#include "core/base/pin.h"

/* The least whole number of processors that the quotas of this process's cgroup and those above it buy, at least 1;
 * UINT_MAX: no quota. root stands before /proc and /sys: "" but for tests. */
unsigned deq_cores_quota(const char *root);

/* A core for each of n threads, or false: they are better left to the scheduler, or there are too few cores. always:
 * whenever there are enough, claimed by another or not. */
bool deq_cores_take(enum deq_pin pin, unsigned n, uint16_t *ret_core /* [n] */);
void deq_cores_give_back(unsigned n, const uint16_t *core);

#endif
