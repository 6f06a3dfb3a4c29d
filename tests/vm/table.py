#!/usr/bin/env python3
"""What the machines of the matrix have left, as tables.

In: the folder of results, the table of the verifier's work, the plan, kernels and policies. Out,
for people: kernel x test file, kernel x probe, and whether a program costs the verifier more than
the table says. The exit code is 1 if anything failed, is missing, or has grown. With --update the
table of the verifier's work is written anew, as far as programs were seen.
"""

import json
import re
import sys
from pathlib import Path

# A program may grow this much, in per cent, before somebody has to say so in the table.
MOST_GROWTH = 20

RESULT = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed", re.MULTILINE)
ONE = re.compile(r"^test (\S+) .*?\.\.\. (ok|FAILED|ignored)?", re.MULTILINE)
VERIFIED = re.compile(r"verifier has passed a program program=(\S+) instructions=(\d+).* plugin=\"(\S+)\"")


def text(path):
    return path.read_text(errors="replace") if path.exists() else ""


def failures(log):
    """Names below the last heading "failures:"."""
    names = log.rpartition("\nfailures:\n")[2].partition("\ntest result")[0] if "\nfailures:\n" in log else ""
    return names.split()


def tests_of(plan):
    return [line.split()[0] for line in text(plan).splitlines() if line.strip()]


def cell(folder, test):
    """(shown, whether it is good, names of tests that failed)"""
    if (folder / "plan").exists() and test not in tests_of(folder / "plan"):
        return "left out", True, []
    log, code = text(folder / f"{test}.log"), text(folder / f"{test}.code").strip()
    found = RESULT.findall(log)
    if found and code in ("0", "101"):
        passed, failed = (sum(int(pair[i]) for pair in found) for i in (0, 1))
        return (f"{passed}" if not failed else f"{passed}, {failed} failed"), not failed, failures(log)
    if not code:
        return "not run", False, []
    last = ONE.findall(log)
    why = "too slow" if code in ("124", "137") else f"exit code {code}"
    return why, False, [f"{last[-1][0]} (the last one that ran)"] if last else []


def print_table(heading, rows):
    widths = [max(len(row[i]) for row in [heading, *rows]) for i in range(len(heading))]
    line = lambda row: "| " + " | ".join(word.ljust(width) for word, width in zip(row, widths)) + " |"
    print(line(heading))
    print("| " + " | ".join("---" for _ in heading) + " |")
    for row in rows:
        print(line(row))
    print()


def main():
    arguments = [argument for argument in sys.argv[1:] if argument != "--update"]
    results, budget, plan = (Path(argument) for argument in arguments[:3])
    kernels, policies = (argument.split() for argument in arguments[3:5])
    tests = tests_of(plan)
    machines = [(kernel, policy) for kernel in kernels for policy in policies]
    folder = {machine: results / "-".join(machine) for machine in machines}
    heading = [kernel + ("" if policy == "auto" else f" {policy}") for kernel, policy in machines]
    good, broken = True, []

    for machine, title in zip(machines, heading):
        if not (folder[machine] / "complete").exists():
            good = False
            there = folder[machine].exists()
            broken.append(f"{title}: " + ("the machine did not finish; see its console" if there
                                          else "this kernel cannot be had; see kernel-*.log"))
    rows = []
    for test in tests:
        row = [test]
        for machine, title in zip(machines, heading):
            shown, is_good, names = cell(folder[machine], test)
            row.append(shown)
            good &= is_good
            broken += [f"{title}: {test}: {name}" for name in names]
        rows.append(row)
    print()
    if rows:
        print_table(["tests passed", *heading], rows)

    # Which hook each probe has found.
    probes = {}
    for machine, title in zip(machines, heading):
        status = text(folder[machine] / "status.json")
        for plugin in json.loads(status)["plugins"] if status else []:
            if plugin["state"] == "failed":
                good = False
                broken.append(f"{title}: {plugin['name']} failed: {str(plugin.get('reason'))[:300]}")
            for probe in plugin.get("probes", []):
                if probe["name"].startswith("/"):
                    continue
                shown = probe["hook"] if probe["status"] == "attached" else "-"
                probes.setdefault((plugin["name"], probe["name"]), {})[machine] = shown
    print_table(["plugin", "probe", *heading],
                [[*names, *(hooks.get(machine, "-") for machine in machines)] for names, hooks in probes.items()])

    # What the verifier had to do.
    known = {}
    for line in text(budget).splitlines():
        if line and not line.startswith("#"):
            plugin, program, kernel, instructions = line.split("\t")
            known[plugin, program, kernel] = int(instructions)
    seen = {}
    for kernel, policy in machines:
        for program, instructions, plugin in VERIFIED.findall(text(folder[kernel, policy] / "census.log")):
            key = plugin, program, kernel
            seen[key] = max(seen.get(key, 0), int(instructions))
    if "--update" in sys.argv:
        # What was not seen stays: another policy loads other programs.
        merged = known | seen
        version = lambda kernel: [int(number) for number in kernel.split(".")]
        lines = ["# Instructions that the verifier went through, per program and kernel. Kernels before 5.16",
                 "# do not say. Written by `make vm-test UPDATE=1`; a growth of more than "
                 f"{MOST_GROWTH} % fails without.", "# plugin\tprogram\tkernel\tinstructions"]
        lines += ["\t".join([*key, str(merged[key])])
                  for key in sorted(merged, key=lambda key: (key[0], key[1], version(key[2])))]
        budget.write_text("\n".join(lines) + "\n")
        print(f"{budget} is written")
    else:
        for key, instructions in sorted(seen.items()):
            was = known.get(key)
            if was is None or instructions * 100 > was * (100 + MOST_GROWTH):
                good = False
                broken.append(f"{key[2]}: the verifier goes through {instructions} instructions of {key[1]} "
                              f"({key[0]}), the table says {was}: `make vm-test UPDATE=1` writes it anew")

    for line in broken:
        print(line)
    print("all good" if good else "not good")
    sys.exit(not good)


main()
