from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from esxprov.model import CatalogueImage
from esxprov.placement.snapshot import Rules
from esxprov.slots.size import HostSize, Shape, largest_shape, most_slots

RULES = Rules(cpu_ratio=4.0, ram_ratio=1.0, reserved_ram_mb=1024)


def host(name: str, ram_mb: int, threads: int) -> HostSize:
    return HostSize(name, name, ram_mb, threads)


def image(ram_mb: int, cpus: int) -> CatalogueImage:
    return CatalogueImage(f"i{ram_mb}-{cpus}", "", ram_mb, cpus, 20_000)


def test_there_are_as_many_slots_as_fit_of_the_image_of_which_most_fit() -> None:
    hosts = [host("a", 17_408, 16), host("b", 9_216, 8)]
    # 64 vCPUs and 16 GB on one, 32 and 8 GB on the other.
    assert most_slots(hosts, [image(1024, 1)], RULES) == 15 + 7
    assert most_slots(hosts, [image(1024, 1), image(8192, 2)], RULES) == 15 + 7
    assert most_slots(hosts, [image(256, 8)], RULES) == 8 + 4


def test_without_an_image_a_gigabyte_is_taken_for_one() -> None:
    hosts = [host("a", 17_408, 16)]
    assert most_slots(hosts, [], RULES) == most_slots(hosts, [image(1024, 1)], RULES)


def test_neither_the_size_of_an_images_disk_nor_the_host_that_may_fail_lowers_how_many_rows_there_are() -> None:
    hosts = [host("a", 17_408, 16), host("b", 17_408, 16)]
    assert most_slots(hosts, [image(1024, 1)], Rules(n_plus_one=True)) == most_slots(hosts, [image(1024, 1)], Rules())


def test_the_shape_is_that_of_one_host_and_not_of_the_largest_of_each() -> None:
    hosts = [host("much-ram", 65_536, 4), host("many-threads", 16_384, 64)]
    assert largest_shape(hosts, [image(32_768, 2), image(2048, 2)], RULES).cpus == 4
    assert largest_shape(hosts, [image(1024, 32), image(2048, 2)], RULES).cpus == 64


def test_no_host_is_no_shape() -> None:
    assert largest_shape([], [], RULES) == Shape(0, 0)
    assert most_slots([], [], RULES) == 0
    assert largest_shape([host("tiny", 512, 4)], [], RULES) == Shape(0, 0)


@given(st.integers(1024, 2**25), st.integers(1, 512), st.floats(0.5, 8), st.floats(0.5, 3))
def test_the_largest_vm_fits_and_one_step_more_does_not(
    ram_mb: int, threads: int, cpu_ratio: float, ram_ratio: float
) -> None:
    rules = Rules(cpu_ratio=cpu_ratio, ram_ratio=ram_ratio, reserved_ram_mb=1024)
    hosts = [host("a", ram_mb, threads)]
    shape = largest_shape(hosts, [], rules)
    if not shape.ram_mb:
        return
    assert most_slots(hosts, [image(shape.ram_mb, shape.cpus)], rules) >= 1
    is_clamped = shape.ram_mb + 4 > 2**24 - 2
    assert is_clamped or most_slots(hosts, [image(shape.ram_mb + 4, shape.cpus)], rules) == 0
