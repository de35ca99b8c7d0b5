"""A campus that runs VCL, on 14 mixed blades: against Nova's default, VCL's slots, and the bound."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmarks.placement import cut, workload
from benchmarks.placement.contest import BOUND, OURS, Case, contest
from benchmarks.placement.parts import Options
from benchmarks.placement.slots import VclSlots
from benchmarks.targets import Figure, at_least
from esxprov.placement.snapshot import Size

IMAGES = [Size(image.ram_mb, image.cpus, round(100 * image.share)) for image in workload.CATALOGUE]


def measure(options: Options) -> Iterator[Figure]:
    """At each load, which is what the peak would be of the tighter resource if nothing were refused."""
    for load in options.loads:
        cuts = {
            "slots, one size": cut.ONE_SIZE,
            "slots, strict four": cut.best_strict(load),
            "slots, over-booked": cut.best_overbooked(load),
        }
        slots = {name: lambda hosts, one=one: VclSlots(hosts, one.slots(hosts)) for name, one in cuts.items()}
        found = contest(f"VCL-like, load {load}", _case(load), range(1, options.seeds + 1), slots)
        print(f"\nVCL-like workload, load {load}, {options.seeds} seeds; sums, and ratios of sums, over the seeds")
        print(found.report())
        yield at_least(f"VCL-like, load {load}: closed between Nova and the bound", 0.9, found.closed)
        for name, one in cuts.items():
            factors = (found.factor(name, OURS), found.factor(name, BOUND))
            print(f"{name}: {one}; refused x ours {_times(factors[0])}, x bound {_times(factors[1])}")
            if one is not cut.ONE_SIZE:
                share = found.factor_share(name)
                yield at_least(f"VCL-like, load {load}: of the bound's factor over {name}", 0.65, share)


def _case(load: float) -> Callable[[int], Case]:
    def case(seed: int) -> Case:
        hosts = workload.farm(seed)
        return hosts, workload.requests(seed, hosts, load), IMAGES

    return case


def _times(factor: float | None) -> str:
    return "infinite" if factor is None else f"{factor:.1f}"
