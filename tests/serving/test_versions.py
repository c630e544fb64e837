"""Which version answers."""

import pytest

from serving.errors import RequestError
from serving.settings import BundleSettings
from serving.versions import by_share, choose


def version(number: str, share: float, name: str = "starter") -> BundleSettings:
    return BundleSettings(name=name, version=number, reference="starter", share=share)


CANARY = (version("1", 0.9), version("2", 0.1))


def test_traffic_is_cut_by_share() -> None:
    chosen = [by_share(CANARY, "starter", f"request {n}").version for n in range(10_000)]
    assert chosen.count("2") == pytest.approx(1000, rel=0.1)


def test_the_same_id_goes_to_the_same_version() -> None:
    assert len({by_share(CANARY, "starter", "an id").version for _ in range(100)}) == 1


def test_bundles_cut_their_traffic_at_different_ids() -> None:
    ids = [f"request {n}" for n in range(2000)]
    half = (version("1", 0.5), version("2", 0.5))
    same = sum(by_share(half, "a", i).version == by_share(half, "b", i).version for i in ids)
    assert 900 < same < 1100


def test_a_share_of_nothing_gets_nothing_but_can_be_named() -> None:
    versions = {"starter": (version("1", 0.0), version("2", 1.0), version("3", 0.0))}
    assert {choose(versions, "starter", None, str(n)).version for n in range(1000)} == {"2"}
    assert choose(versions, "starter", "3", "an id").version == "3"


def test_the_name_may_be_left_out_where_there_is_one() -> None:
    assert choose({"starter": CANARY}, None, "2", "an id").version == "2"
    with pytest.raises(RequestError, match="big") as caught:
        choose({"starter": CANARY, "big": CANARY}, None, None, "an id")
    assert (caught.value.status, caught.value.field) == (422, "model")


@pytest.mark.parametrize(("name", "number", "field"), [("none", None, "model"), ("starter", "9", "version")])
def test_what_is_not_served(name: str, number: str | None, field: str) -> None:
    with pytest.raises(RequestError) as caught:
        choose({"starter": CANARY}, name, number, "an id")
    assert (caught.value.status, caught.value.field) == (404, field)
