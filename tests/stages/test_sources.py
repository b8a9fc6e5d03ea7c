"""Names of videos: as short as tells them apart."""

from __future__ import annotations

import pytest

from cope_cli.stages.sources import short_names


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        ([], []),
        (["/x/a.mp4"], ["a.mp4"]),
        (["/x/a.mp4", "/x/b.mp4"], ["a.mp4", "b.mp4"]),
        (["/x/a.mp4", "/y/a.mp4", "/y/b.mp4"], ["x/a.mp4", "y/a.mp4", "b.mp4"]),
        (["/x/1/a.mp4", "/y/1/a.mp4", "/y/2/a.mp4"], ["x/1/a.mp4", "y/1/a.mp4", "2/a.mp4"]),
        (["/a.mp4", "/x/a.mp4"], ["/a.mp4", "x/a.mp4"]),
        (["a.mp4", "x/a.mp4"], ["a.mp4", "x/a.mp4"]),
    ],
)
def test_a_short_name_is_the_least_that_no_other_path_ends_with(paths: list[str], names: list[str]):
    assert short_names(paths) == dict(zip(paths, names, strict=True))
