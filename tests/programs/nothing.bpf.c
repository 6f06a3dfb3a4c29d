// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * nothing: a program that looks at no packet, to show what the kernel's statistics cost by
 * themselves. Compiled and attached by the benchmark only.
 */
__attribute__((section("cgroup_skb/ingress"), used)) int nothing(void *packet)
{
	return 1;
}

__attribute__((section("license"), used)) char LICENSE[] = "Dual MIT/GPL";
