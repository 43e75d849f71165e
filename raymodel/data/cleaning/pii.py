"""`pii`: what tells who a person is gives way to a placeholder."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import ClassVar, NamedTuple

from raymodel.data.cleaning.base import Mend
from raymodel.data.cleaning.spec import StepSpec
from raymodel.data.cleaning.spec.mend import PIIKind, PIISpec
from raymodel.errors import SpecError
from raymodel.spec.show import show

Span = tuple[int, int]
Find = Callable[[str], Iterator[Span]]
"""A text → where it has something of a kind, from left to right."""

# Boundaries are of ASCII: in Chinese a number stands between letters without any space. That of the
# beginning is asked for behind the first character: a pattern that begins with a set of characters
# is searched for several times as fast as one that begins with a question.
_BEFORE = "(?<![A-Za-z0-9_].)"
_BEFORE_NUMBER = "(?<![A-Za-z0-9_.-].)"
_AFTER = "(?![A-Za-z0-9_])"
_AFTER_NUMBER = _AFTER + "(?![.-][0-9])"


class Found(NamedTuple):
    """What tells who a person is, in a text."""

    kind: PIIKind
    start: int
    stop: int


class PII(Mend[PIISpec]):
    """Looks for one kind after the other, those with the strictest checks first."""

    spec_class: ClassVar[type[StepSpec]] = PIISpec
    mends_pieces = True

    def __init__(self, spec: PIISpec) -> None:
        super().__init__(spec)
        found: dict[PIIKind, Find] = {
            "email": _emails,
            "iban": _checked_ibans(),
            "cn_id": _checked_ids(),
            "card": _checked_cards(),
            "cn_mobile": _mobiles,
            "phone": _phones(spec.regions),
            "ip": _addresses,
        }
        self._finds = [(kind, find) for kind, find in found.items() if kind in spec.kinds]

    def find(self, text: str) -> list[Found]:
        """All that is in a text, from left to right; no two overlap."""
        has_digits = _DIGIT.search(text) is not None
        found: list[Found] = []
        for kind, find in self._finds:
            if has_digits or kind == "email":
                spans = list(find(text))
                found += [Found(kind, *span) for span in spans]
                text = covered(text, spans)
        return sorted(found, key=lambda each: each.start)

    def mend(self, text: str, counts: Counter[str]) -> str:
        """The text with `<EMAIL>` and the like in it."""
        parts, end, found = [], 0, self.find(text)
        for each in found:
            parts += [text[end : each.start], placeholder(each.kind)]
            end = each.stop
        counts.update(Counter(each.kind for each in found))
        return "".join([*parts, text[end:]]) if parts else text


def placeholder(kind: PIIKind) -> str:
    """What stands in the place of something of a kind."""
    return f"<{kind.upper()}>"


def covered(text: str, spans: Iterable[Span]) -> str:
    """The text with a word that nobody writes, in angle brackets as placeholders are, over each of
    the spans, which go from left to right: as long as it was, so that places stay what they are."""
    parts, end = [], 0
    for start, stop in spans:
        parts += [text[end:start], f"<{_NOBODYS * (stop - start - 2)}>"[: stop - start]]
        end = stop
    return "".join([*parts, text[end:]]) if parts else text


_NOBODYS = "\ua66e"  # a letter of a single manuscript: https://www.unicode.org/charts/PDF/UA640.pdf
_DIGIT = re.compile("[0-9]")

# ---- e-mail --------------------------------------------------------------------------------------

# From the sign on and back from it: to look for the name first would read a long run of letters
# again from each of them.
_DOMAIN = re.compile(r"@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,63}(?![A-Za-z0-9_-])")
_NAME = re.compile(r"[A-Za-z0-9_%+-]+(?:\.[A-Za-z0-9_%+-]+)*$")
_MOST_NAME = 64  # RFC 5321, section 4.5.3.1.1


def _emails(text: str) -> Iterator[Span]:
    for match in _DOMAIN.finditer(text) if "@" in text else ():
        sign = match.start()
        name = _NAME.search(text, max(0, sign - _MOST_NAME), sign)
        if name is not None:
            yield name.start(), match.end()


# ---- numbers with a checksum ---------------------------------------------------------------------

# ISO 13616: a country, two digits, up to 30 letters and digits, on paper in groups of four.
_IBAN = re.compile(rf"[A-Z]{_BEFORE}[A-Z][0-9]{{2}}(?: ?[A-Z0-9]){{11,30}}{_AFTER}")
# ISO/IEC 7812: 13 to 19 digits, of which the first tells that it is a card for payments; on paper
# in groups.
_CARD = re.compile(
    rf"[2-6]{_BEFORE_NUMBER}(?:(?<!2)|(?=[2-7]))(?:[0-9]{{12,18}}"
    r"|[0-9]{3}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{4}(?:\1[0-9]{1,3})?"
    rf"|[0-9]{{3}}([ -])[0-9]{{6}}\2[0-9]{{4,5}}){_AFTER_NUMBER}"
)
# GB 11643: place, birthday, order, check digit.
_CN_ID = re.compile(
    rf"[1-8]{_BEFORE}[0-9]{{5}}(?:19|20)[0-9]{{2}}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])"
    rf"[0-9]{{3}}[0-9Xx]{_AFTER}"
)


def _checked_ibans() -> Find:
    from stdnum import iban

    def find(text: str) -> Iterator[Span]:
        for match in _IBAN.finditer(text):
            start, stop = match.span()
            # Words in capitals may follow; the longest number that is right is meant.
            while stop > start and not iban.is_valid(text[start:stop], check_country=False):
                stop = text.rfind(" ", start, stop)
            if stop > start:
                yield start, stop

    return find


def _checked_cards() -> Find:
    from stdnum import luhn

    def find(text: str) -> Iterator[Span]:
        for match in _CARD.finditer(text):
            if luhn.is_valid(re.sub("[ -]", "", match[0])):
                yield match.span()

    return find


def _checked_ids() -> Find:
    from stdnum.cn import ric

    def find(text: str) -> Iterator[Span]:
        for match in _CN_ID.finditer(text):
            number = match[0].upper()
            if ric.calc_check_digit(number) == number[-1]:
                yield match.span()

    return find


# ---- telephones ----------------------------------------------------------------------------------

# The numbering plan of the Ministry of Industry and Information Technology: 11 digits from 13 on.
_CN_MOBILE = re.compile(rf"1[3-9][0-9](?:[ -]?[0-9]{{4}}){{2}}{_AFTER_NUMBER}")
_CN_CODE = re.compile(r"(?<![A-Za-z0-9_.+-])(?:(?:\+|00)?86[ -]?)?$")
_CALL = r"[0-9][0-9 ().\-/\u00a0\u2010-\u2013]{5,22}[0-9]"
_INTERNATIONAL = re.compile(rf"\+(?<![A-Za-z0-9_+].) ?{_CALL}{_AFTER}")
_DECIMAL = re.compile(r"\+? ?[0-9]+\.[0-9]{1,3}(?![0-9])")
_NATIONAL = re.compile(rf"[0-9(+](?<![A-Za-z0-9_+.\-].) ?{_CALL}{_AFTER}")


def _mobiles(text: str) -> Iterator[Span]:
    for match in _CN_MOBILE.finditer(text):
        code = _CN_CODE.search(text, max(0, match.start() - 6), match.start())
        if code is not None:
            yield code.start(), match.end()


def _phones(regions: tuple[str, ...]) -> Find:
    """Whether digits are a number that exists, Google's library knows."""
    import phonenumbers

    for region in regions:
        if region not in phonenumbers.SUPPORTED_REGIONS:
            raise SpecError(
                f"{show(region)} is no country in two letters of ISO 3166, such as US or, of the "
                "United Kingdom, GB"
            )
    candidates = _NATIONAL if regions else _INTERNATIONAL

    def find(text: str) -> Iterator[Span]:
        for match in candidates.finditer(text):
            first = match.start()
            for region in regions or (None,):
                calls = list(phonenumbers.PhoneNumberMatcher(match[0], region))
                spans = [(first + each.start, first + each.end) for each in calls]
                if spans:
                    yield from (span for span in spans if not _DECIMAL.match(text, span[0]))
                    break

    return find


# ---- addresses of computers ----------------------------------------------------------------------

_IPV4 = re.compile(
    rf"[0-9]{_BEFORE_NUMBER}[0-9]{{0,2}}(?:\.[0-9]{{1,3}}){{3}}{_AFTER}(?!\.[0-9]|-)"
)
_IPV6 = re.compile(r":[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){1,6}(?![A-Za-z0-9_:])")
_IPV6_HEAD = re.compile(r"(?<![A-Za-z0-9_:.])(?:[0-9A-Fa-f]{1,4})?$")
# Four numbers behind these are no address.
_NUMBERED = re.compile(
    r"(?:\bv|ver|version|release|build|revision|section|chapter|clause|§|版本?)s?"
    r"[ .:=\"]*(?:is )?$",
    re.IGNORECASE,
)
_UNICAST = ipaddress.ip_network("2000::/3")
"""All addresses of IPv6 that are public lie in it (RFC 4291, section 2.4); `a::b` of C++ does
not."""


def _addresses(text: str) -> Iterator[Span]:
    found = [*_IPV4.finditer(text), *_IPV6.finditer(text)]
    for match in sorted(found, key=re.Match.start):
        start, end = match.span()
        head = _IPV6_HEAD.search(text, max(0, start - 4), start) if text[start] == ":" else match
        if head is None:
            continue
        start = head.start()
        if _is_public(text[start:end]) and not _NUMBERED.search(text, max(0, start - 16), start):
            yield start, end


def _is_public(written: str) -> bool:
    try:
        address = ipaddress.ip_address(written)
    except ValueError:
        return False
    return address.is_global and (address.version == 4 or address in _UNICAST)
