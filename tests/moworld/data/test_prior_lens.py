"""Prior lenses: a measured focal length counts by its error, and a typical one beside it."""

import pytest

from moworld.data.prior_lens import PRIOR_ERROR, combined, plausible


def test_the_mean_goes_from_measured_to_typical_with_the_error():
    assert combined(500, 1e-4, 250) == (pytest.approx(500, rel=1e-3), pytest.approx(1e-4, rel=1e-3))
    focal, error = combined(500, 100.0, 250)
    assert (focal, error) == (pytest.approx(250, rel=1e-3), pytest.approx(PRIOR_ERROR, rel=1e-3))
    focal, error = combined(500, PRIOR_ERROR, 250)
    assert (focal, error) == (pytest.approx((500 * 250) ** 0.5), pytest.approx(PRIOR_ERROR / 2**0.5))


def test_a_lens_far_from_typical_ones_is_implausible_unless_its_error_is_large():
    assert plausible(500, 0.02, 500) and plausible(1000, 0.02, 500)
    assert not plausible(1400, 0.04, 500) and not plausible(150, 0.04, 500)
    assert plausible(1400, 1.0, 500)
