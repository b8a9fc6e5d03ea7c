"""Energies: in pixels and levels, against sums written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cope_cli.inspect.energy import patch_motion_px, slot_energy

int16_fields = hnp.arrays(np.int16, (2, 4, 4), elements=st.integers(-2000, 2000))
residuals = hnp.arrays(np.int16, (4, 4, 3), elements=st.integers(-255, 255))


def test_half_pixels_become_pixels():
    motion = np.zeros((2, 16, 16), np.int16)
    motion[:, 0, 0] = 6, -8  # (3, -4) pixels: length 5
    residual = np.zeros((16, 16, 3), np.int16)
    residual[0, 0, 0] = -48
    energy = slot_energy(motion, residual)
    assert energy.motion_max_px == 5
    assert energy.motion_mean_px == pytest.approx(5 / 256)
    assert energy.moved_share == 1 / 256
    assert energy.residual_mean_levels == pytest.approx(48 / 768)
    assert energy.residual_rms_levels == pytest.approx(math.sqrt(48**2 / 768))


@given(motion=int16_fields, residual=residuals)
def test_energies_are_the_sums_that_their_names_say(motion, residual):
    lengths = [math.hypot(int(x) / 2, int(y) / 2) for x, y in zip(motion[0].flat, motion[1].flat, strict=True)]
    values = [int(value) for value in residual.flat]
    energy = slot_energy(motion, residual)
    assert energy.motion_mean_px == pytest.approx(sum(lengths) / len(lengths))
    assert energy.motion_max_px == pytest.approx(max(lengths))
    assert energy.moved_share == sum(length > 0 for length in lengths) / len(lengths)
    assert energy.residual_mean_levels == pytest.approx(sum(map(abs, values)) / len(values))
    assert energy.residual_rms_levels == pytest.approx(math.sqrt(sum(v * v for v in values) / len(values)))


def test_the_largest_values_do_not_overflow():
    energy = slot_energy(np.full((2, 16, 16), -32768, np.int16), np.full((16, 16, 3), -255, np.int16))
    assert energy.motion_max_px == pytest.approx(math.hypot(16384, 16384))
    assert energy.residual_rms_levels == pytest.approx(255)


def test_a_patchs_vector_is_the_mean_of_its_own_points():
    motion = np.zeros((2, 32, 32), np.int16)
    motion[0, :16, 16:] = 4  # upper right patch: 2 pixels to the right
    motion[1, 16:24, :16] = -4  # upper half of the lower left patch: 2 pixels up
    assert patch_motion_px(motion, 16).tolist() == [[[0, 0], [2, 0]], [[0, -1], [0, 0]]]


def test_patches_that_do_not_divide_the_grid_are_refused():
    with pytest.raises(ValueError, match="do not divide"):
        patch_motion_px(np.zeros((2, 32, 32), np.int16), 15)
