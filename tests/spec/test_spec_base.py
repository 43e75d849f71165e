from typing import Annotated

from raymodel.spec.base import OPERATIONAL, Many, Spec, fingerprint
from raymodel.spec.quantity import Amount


class Inner(Spec):
    kept: int = 1
    operational: Annotated[int, OPERATIONAL] = 1


class Outer(Spec):
    inner: Inner = Inner()
    inners: Many[Inner] = ()
    free: dict[str, Inner] = {}  # noqa: RUF012 - pydantic copies it
    amount: Amount = Amount(1, "steps")
    all_operational: Annotated[Inner, OPERATIONAL] = Inner()


def test_an_operational_field_does_not_change_the_identity_at_any_depth():
    changed = Inner(operational=2)
    spec = Outer(inner=changed, inners=[changed], free={"a": changed}, all_operational=changed)
    plain = Outer(inners=[Inner()], free={"a": Inner()})
    assert spec.identity() == plain.identity()
    assert spec != plain


def test_any_other_field_changes_the_fingerprint():
    assert fingerprint(Outer().identity()) != fingerprint(Outer(inner=Inner(kept=2)).identity())
    assert fingerprint(Outer().identity()) != fingerprint(
        Outer(amount=Amount(2, "steps")).identity()
    )


def test_a_fingerprint_does_not_depend_on_the_order_of_keys():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert len(fingerprint({})) == 16


def test_a_list_becomes_a_tuple():
    assert Outer(inners=[Inner()]).inners == (Inner(),)
