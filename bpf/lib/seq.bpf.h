/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Writing records from iterators. When the kernel's buffer is full it throws the
 * element's output away and runs the program again for the same element, so a
 * program must ask for room before it takes note of having reported anything.
 */
#ifndef LIB_SEQ_BPF_H
#define LIB_SEQ_BPF_H

#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

/* False: the element must be left as it is, it will be visited again. */
static __always_inline bool seq_has_room(struct seq_file *seq, void *record, __u32 size)
{
	if (BPF_CORE_READ(seq, count) + size < BPF_CORE_READ(seq, size))
		return true;
	/* Does not fit, which is how the kernel is told to come back. */
	bpf_seq_write(seq, record, size);
	return false;
}

#endif
