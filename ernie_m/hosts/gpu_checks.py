"""Checks a host's GPUs, and whether its torch can use them."""

from __future__ import annotations

from collections import Counter

from ernie_m.base.gpu_build import parsed, problem_of_build
from ernie_m.hosts.examination import Results
from ernie_m.hosts.findings import Finding, fact, usual

MAX_USED_MIB = 1024
"""GPU memory in use by nobody in particular: an idle driver takes up to some hundred MiB."""


def check_gpus(host: str, results: Results, disk_bytes: int) -> Finding | None:
    """Are there as many GPUs as slots, of one kind, visible to torch and not in use? A job without any GPU is a CPU job."""
    facts = results[host].get("facts")
    if not facts:
        return None
    gpus, slots, devices = facts["gpus"], results[host]["slots"], facts["torch"].get("devices", 0)
    if errors := [gpu["error"] for gpu in gpus if "error" in gpu]:
        return Finding.wrong(errors[0], "repair the driver, or take the host out of the hostfile", "driver")
    count = len(gpus) or devices
    if not any(
        fact(result, "gpus") or result.get("facts", {}).get("torch", {}).get("devices") for result in results.values()
    ):
        return Finding("none")
    kinds = ", ".join(f"{number} x {name}" for name, number in Counter(gpu["name"] for gpu in gpus).items())
    problems = []
    if count < slots:
        problems.append((f"{count} GPUs, the hostfile says slots={slots}", "correct the hostfile"))
    built_for, version = facts["torch"].get("built_for", []), facts["software"]["torch"]
    capabilities = {parsed(gpu.get("capability", "")): gpu["name"] for gpu in gpus}
    for capability, name in capabilities.items():
        if capability and version and (problem := problem_of_build(capability, built_for, version)):
            problems.append((f"{name}: {problem[0]}", problem[1]))
    if devices < len(gpus) and "error" not in facts["torch"]:
        said = f" ({facts['torch']['said']})" if facts["torch"].get("said") else ""
        problems.append((f"torch sees {devices} of its {len(gpus)} GPUs{said}", "install a torch that suits the driver"))
    common = usual(gpu["name"] for result in results.values() for gpu in fact(result, "gpus") or [] if "name" in gpu)
    if odd := sorted({gpu["name"] for gpu in gpus} - {common}):
        problems.append((f"has {', '.join(odd)}, most GPUs are {common}", "the slowest decides: leave it out if you can"))
    used = [(number, gpu["used_mib"]) for number, gpu in enumerate(gpus[:slots]) if gpu["used_mib"] > MAX_USED_MIB]
    if used:
        shown = ", ".join(f"GPU {number} {mib / 1024:.1f} GiB" for number, mib in used)
        problems.append((f"memory in use already: {shown}", "see `nvidia-smi` there who uses it"))
    return Finding(kinds or f"{count}", tuple(problems))
