/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The integer types that records are made of, for both sides: BPF programs
 * have no <linux/types.h> under -target bpf.
 */
#ifndef ABI_TYPES_H
#define ABI_TYPES_H

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed char __s8;
typedef short __s16;
typedef int __s32;
typedef long long __s64;

#endif
