"""What tells who a person is: each kind, on both sides of its checks."""

import time

import pytest
from cleaned import clean, cleaned

from raymodel.data.cleaning.cleaner import Cleaner
from raymodel.data.spec import CleanSpec
from raymodel.errors import SpecError

KINDS = ("email", "phone", "card", "iban", "ip", "cn_id", "cn_mobile")

FOUND = [
    ("email", "write to ann.lee+x@mail.example.org, please", "write to <EMAIL>, please"),
    ("email", "邮箱a_b@qq.com。<B@X-Y.DE>", "邮箱<EMAIL>。<<EMAIL>>"),
    ("email", f"{'a' * 64}@b.de", "<EMAIL>"),
    ("phone", "call +44 20 7946 0958 now", "call <PHONE> now"),
    ("phone", "+1 (212) 555-2368, +49 30 901820", "<PHONE>, <PHONE>"),
    ("card", "4111 1111 1111 1111", "<CARD>"),
    ("card", "card 5555-5555-5555-4444.", "card <CARD>."),
    ("card", "卡号378282246310005，", "卡号<CARD>，"),
    ("card", "3782 822463 10005", "<CARD>"),
    ("card", "2223003122003222 x", "<CARD> x"),
    ("iban", "IBAN DE89 3704 0044 0532 0130 00 BIC COBADEFF", "IBAN <IBAN> BIC COBADEFF"),
    ("iban", "GB82WEST12345698765432", "<IBAN>"),
    ("ip", "from 8.8.8.8:53 and 93.184.216.34/24.", "from <IP>:53 and <IP>/24."),
    ("ip", "at 2606:2800:220:1:248:1893:25c8:1946, [2a00:1450::1]", "at <IP>, [<IP>]"),
    ("cn_id", "身份证11010519491231002X，", "身份证<CN_ID>，"),
    ("cn_mobile", "8613812345678, 0086 138 1234 5678", "<CN_MOBILE>, <CN_MOBILE>"),
    ("cn_mobile", "电话13812345678。+86 138-1234-5678", "电话<CN_MOBILE>。<CN_MOBILE>"),
]


@pytest.mark.parametrize(("kind", "text", "mended"), FOUND)
def test_each_kind_gives_way_to_its_placeholder_and_is_counted(kind, text, mended) -> None:
    record = clean(text, "pii", kinds=[kind])
    assert record.texts == [mended]
    assert record.changed == {"pii": {kind: mended.count(f"<{kind.upper()}>")}}
    assert cleaned(text, "pii") == mended, "with all kinds too"
    others = [each for each in KINDS if each not in (kind, "phone")]
    assert cleaned(text, "pii", kinds=others) == text


LEFT = [
    "no sign: ann at mail.org, @decorated.name, a@b, a @ b.org",
    # No number that exists: too short, and of a country that there is not.
    "+44 20 794, +999 12 3456 7890, 1+2345678, Decimal('+35236450.6')",
    # A check digit that is wrong, a first digit that no card has, a fraction.
    "2811111111111118, 4111 1111 1111 1112, 1111 1111 1111 1117, 0.4111111111111111",
    "DE88 3704 0044 0532 0130 00, XX82WEST12345698765432",
    # Versions, parts of longer numbers, no bytes, private networks, this machine, documentation.
    "version 4.3.2.1, Version: 8.8.8.8, v8.8.8.8, 1.8.8.8.8, 8.8.8.8.1, 8.8.8.300, 8.8.8.8-beta",
    "HTML spec, section 8.2.4.44",
    "10.0.0.1, 192.168.1.1, 127.0.0.1, 0.0.0.0, 192.0.2.1, 2001:db8::1, ::1, fe80::1",
    "12:30:45, a::b, std::vector, 00:1A:2B:3C:4D:5E",
    "110105194912310021, 11010519491331002X, 911010519491231002X",
    "12812345678, 138123456789, 1381234567, 0.13812345678, x13812345678",
]


@pytest.mark.parametrize("text", LEFT)
def test_what_only_looks_like_one_stays(text: str) -> None:
    assert clean(text, "pii").changed == {}


def test_national_numbers_are_found_for_the_countries_that_are_named() -> None:
    text = "(212) 555-2368 or 030 901820"
    assert cleaned(text, "pii") == text
    assert cleaned(text, "pii", regions=["US"]) == "<PHONE> or 030 901820"
    assert cleaned(text, "pii", regions=["US", "DE"]) == "<PHONE> or <PHONE>"


def test_several_kinds_of_one_text_are_counted_each() -> None:
    record = clean("a@b.org c@d.org 8.8.8.8 +44 20 7946 0958", "pii")
    assert record.texts == ["<EMAIL> <EMAIL> <IP> <PHONE>"]
    assert record.changed == {"pii": {"email": 2, "ip": 1, "phone": 1}}


@pytest.mark.parametrize("run", ["a", "1", "1.", "a.", "@", ":", "+1 ", "A1", "4 ", "(1)"])
def test_no_text_takes_time_beyond_its_length(run: str) -> None:
    cleaner = Cleaner(CleanSpec.model_validate({"steps": [{"name": "pii", "regions": ["US"]}]}))

    def cost(length: int) -> float:
        before = time.process_time()
        cleaner.clean([run * (length // len(run))])
        return time.process_time() - before

    cost(1000)
    assert cost(200_000) < 200 * max(cost(20_000) / 10, 0.005)


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(SpecError, match="'XX' is no country in two letters of ISO 3166"):
        clean("x", "pii", regions=["XX"])
    with pytest.raises(ValueError, match="regions are those of `phone`"):
        clean("x", "pii", regions=["US"], kinds=["email"])
    with pytest.raises(ValueError, match="given twice"):
        clean("x", "pii", kinds=["ip", "ip"])
