"""Sets of CPUs: every way of writing one, there and back; what is none says why."""

import random
import sys

import pytest

from corelane import cpu
from corelane.cpu.lists import MOST_CPUS, cpu_list, from_kernel_mask, kernel_mask


@pytest.mark.parametrize(
    ("value", "cpus"),
    [
        (3, {3}),
        ([2, 0, 2], {0, 2}),
        (range(4), {0, 1, 2, 3}),
        ("0-3,8", {0, 1, 2, 3, 8}),
        (" 5 \n", {5}),
        ("1, 3", {1, 3}),
        ("0-6:2", {0, 2, 4, 6}),
        ("0-7:2/4", {0, 1, 4, 5}),
        ("0x10f", {0, 1, 2, 3, 8}),
        ("0X1,00000000", {32}),
        ("1024-1026", {1024, 1025, 1026}),
    ],
)
def test_ways_of_writing(value, cpus):
    assert cpu.parse_cpus(value) == cpus
    assert cpu_list("cpus", value) == tuple(sorted(cpus))


@pytest.mark.parametrize(("text", "cpus"), [("ff,00000000", range(32, 40)), ("3", {0, 1}), ("0x8\n", {3})])
def test_a_mask_without_its_prefix(text, cpus):
    assert cpu.parse_cpus(text, mask=True) == set(cpus)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("3-1", "runs backwards"),
        ("a-b", "'a-b'"),
        ("1,,2", "''"),
        ("-1", "'-1'"),
        ("1-", "'1-'"),
        ("0-7:0", "step"),
        ("0-7:5/4", "than it has"),
        ("²", "'²'"),
        ("", "empty"),
        ([], "empty"),
        ("0x", "mask"),
        ("0xg", "mask"),
        ("0x0", "empty"),
        ([-1], "-1"),
        (MOST_CPUS, str(MOST_CPUS)),
        ("0-99999999999", "beyond"),
        (",".join(["0-65535"] * 100_000), "again and again"),
        ("0x1" + "0" * MOST_CPUS, "beyond"),
    ],
)
def test_what_is_no_set_of_cpus(value, says):
    with pytest.raises(ValueError, match="cpus") as caught:
        cpu.parse_cpus(value)
    assert says in str(caught.value)


@pytest.mark.parametrize("value", [None, 1.5, True, b"0-3", [1.0], ["1"], object()])
def test_what_is_of_another_type(value):
    with pytest.raises(TypeError, match="cpus"):
        cpu.parse_cpus(value)


def test_there_and_back():
    chance = random.Random(4)
    for size in (1, 2, 8, 64, 65, 300, 4096):
        for _ in range(20):
            cpus = frozenset(chance.sample(range(size), chance.randint(1, size)))
            assert cpu.parse_cpus(cpu.format_cpus(cpus)) == cpus
            assert cpu.parse_cpus(cpu.format_mask(cpus)) == cpus
            assert from_kernel_mask(kernel_mask(cpus)) == cpus
            assert from_kernel_mask(kernel_mask(cpus, 1024)) == cpus


def test_how_they_are_printed():
    assert cpu.format_cpus({0, 1, 2, 8, 10, 11}) == "0-2,8,10-11"
    assert cpu.format_cpus(()) == ""
    assert cpu.format_mask({0, 1, 2, 3, 8}) == "0x10f"
    assert cpu.format_mask(()) == "0x0"


def test_the_kernels_mask_is_of_native_words():
    word = (1).to_bytes(8, sys.byteorder)
    assert kernel_mask([64]) == bytes(8) + word
    assert kernel_mask([0], 9) == word + bytes(8)
