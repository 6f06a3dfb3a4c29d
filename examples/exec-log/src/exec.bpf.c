/*
 * exec-log: every program that starts.
 *
 *   sched_process_exec -> a record: who has started what
 */
#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

/* Only names matter: the loader finds the offsets in the BTF of the running kernel. */
struct task_struct {
	int tgid;
	struct task_struct *real_parent;
	char comm[16];
} __attribute__((preserve_access_index));

/* What lib.rs reads: 36 bytes. */
struct record {
	__u32 pid;
	char parent[16];
	char command[16];
};

/* Records on their way to lib.rs. Full: the record is lost, and counted. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18);
} records SEC(".maps");

/* Records that found the ring full. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 1);
} lost SEC(".maps");

SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_exec, struct task_struct *task)
{
	struct record *record = bpf_ringbuf_reserve(&records, sizeof(*record), 0);
	__u32 only = 0;
	__u64 *count = bpf_map_lookup_elem(&lost, &only);

	if (!record) {
		if (count)
			++*count;
		return 0;
	}
	record->pid = BPF_CORE_READ(task, tgid);
	BPF_CORE_READ_INTO(&record->parent, task, real_parent, comm);
	BPF_CORE_READ_INTO(&record->command, task, comm);
	bpf_ringbuf_submit(record, 0);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
