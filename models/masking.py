"""Personal data out of a text before anything is stored: phone numbers, addresses of mail, identity numbers, names.

Recognisers are patterns with a check where the number has one (dates, mod 11, Luhn, mod 97). They read a shadow of the
text, of the same length, in which full-width and other digits, letters and dashes are plain ASCII, so what is not found
stays as it was written, byte for byte. The more specific goes first, and what it has taken is closed to the others.

Not masked, by choice: order and courier numbers, prices, models, dates, versions; 400, 800 and other toll-free numbers,
which belong to firms. Given up: names without a title or a keyword before them, street addresses, 15-digit identity
numbers, numbers broken up by invisible characters (mask clean text).

Found in the real sets (2026-11-22; 29 sets, 389,000 texts): 892 phone numbers, 1,050 names, 40 mail addresses, 40 QQ
and WeChat ids, 16 plates, 5 IP addresses. All 16 mobile numbers of online_shopping_10_cats (a 17th is an order's); 710
numbers in public_complaints_replied (most written 0000-00000000 by that set); 27 pieces in the airline tweets, none in
cfpb. Read by eye: phones 106 of 110 right, names 146 of 155, the rest 97 of 99. A core masks 5,000 texts/s of 430
characters, 10,000 to 40,000 of 60.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Found:
    """One piece of personal data: `text[start:end]` is a `kind`, written `[KIND]` where it is masked."""

    start: int
    end: int
    kind: str


def mask(text: str) -> str:
    """Replace each piece of personal data by its kind in brackets. Masking twice is masking once."""
    pieces: list[str] = []
    position = 0
    for found in find(text):
        pieces += (text[position : found.start], f"[{found.kind}]")
        position = found.end
    return "".join(pieces) + text[position:]


def find(text: str) -> list[Found]:
    """Find personal data, in the text's order, without overlaps."""
    shadow = text.translate(_PLAIN)
    recognisers = [one for one in _RECOGNISERS if one.sign.search(shadow)]
    found: list[Found] = []
    num_found = -1
    while len(found) > num_found:  # what was taken may have freed a neighbour; two rounds settle all but odd texts
        num_found = len(found)
        for recogniser in recognisers:
            new = list(_finds(recogniser, shadow))
            found += new
            shadow = _closed(shadow, new)
    return sorted(found)


def _finds(recogniser: _Recogniser, shadow: str) -> Iterator[Found]:
    read = shadow.translate(_SPELLED) if recogniser.spelled else shadow
    for match in recogniser.pattern.finditer(read):
        if recogniser.check(match):
            yield Found(*match.span("it" if "it" in match.groupdict() else 0), recogniser.kind)


def _closed(shadow: str, found: list[Found]) -> str:
    """Put brackets for what was found, so that the others see what they would see in the masked text."""
    pieces: list[str] = []
    position = 0
    for one in found:
        pieces += (shadow[position : one.start], "[" * (one.end - one.start))
        position = one.end
    return "".join(pieces) + shadow[position:]


class _Plain(dict[int, str]):
    """For `str.translate`: full-width ASCII, any script's digits, dashes and spaces as ASCII; one for one."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        digit = unicodedata.decimal(character, -1)
        if digit >= 0:
            plain = str(digit)
        elif 0xFF01 <= code <= 0xFF5E:
            plain = chr(code - 0xFEE0)
        else:
            category = unicodedata.category(character)
            plain = "-" if category == "Pd" else " " if category == "Zs" else character
        self[code] = plain
        return plain


_PLAIN = _Plain()
_SPELLED = str.maketrans("〇零一二三四五六七八九幺壹贰叁肆伍陆柒捌玖", "001234567891123456789")

Check = Callable[[re.Match[str]], bool]


@dataclass(frozen=True)
class _Recogniser:
    """`pattern` finds what may be a `kind`: its group `it`, or the whole. `check` says whether it is.

    Texts without any character of `sign` are passed over, for speed.
    """

    kind: str
    pattern: re.Pattern[str]
    check: Check
    sign: re.Pattern[str]
    spelled: bool


def _rule(
    kind: str, pattern: str, check: Check = lambda _: True, *, sign: str = "[0-9]", spelled: bool = False
) -> _Recogniser:
    return _Recogniser(kind, re.compile(pattern, re.ASCII), check, re.compile(sign), spelled)


def _digits(match: re.Match[str]) -> list[int]:
    return [int(character) for character in match[0] if character.isdigit()]


def _is_identity_number(match: re.Match[str]) -> bool:
    """GB 11643: the last of 18 characters makes the weighted sum 1 modulo 11; X stands for 10."""
    values = [10 if character in "Xx" else int(character) for character in match[0]]
    return sum(value * pow(2, 17 - place, 11) for place, value in enumerate(values)) % 11 == 1


def _is_card(match: re.Match[str]) -> bool:
    """Luhn's check (ISO/IEC 7812), and no order number."""
    digits = _digits(match)[::-1]
    return (sum(digits[::2]) + sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2])) % 10 == 0 and _is_free(match)


def _is_iban(match: re.Match[str]) -> bool:
    """ISO 13616: moved four places round and with letters as 10 to 35, the number is 1 modulo 97."""
    plain = match[0].replace(" ", "")
    return int("".join(str(int(character, 36)) for character in plain[4:] + plain[:4])) % 97 == 1


_REFERENCE = re.compile(
    r"(?:(?:单号?|编号|流水号?|批号|货号|(?i:orders?|tracking|invoice|ref|id|isbn|v))"
    r"(?i:号码?|no|number|#|[\s:.是为])*|(?:版本|(?i:version|ver))号?[\s:.]*|#)\Z"
)


def _is_free(match: re.Match[str]) -> bool:
    """Whether no word just before says that this is the number of an order, a parcel or a version."""
    return _REFERENCE.search(match.string, max(0, match.start() - 16), match.start()) is None


def _is_address(match: re.Match[str]) -> bool:
    """Four small numbers with dots are a version, a price or a list of days, unless "IP" stands before."""
    announced = re.search(r"(?i:ip)\W{0,3}\w{0,7}\W{0,3}\Z", match.string[max(0, match.start() - 16) : match.start()])
    return _is_free(match) and (announced is not None or any(int(octet) > 99 for octet in match[0].split(".")))


def _is_account(match: re.Match[str]) -> bool:
    """A name of letters alone needs a sign that a name follows: "微信 download" has none."""
    return bool(re.search("[0-9_-]", match["it"])) or bool(re.search("[:号]", match["sign"]))


_SURNAMES = (
    "王李张刘陈杨黄赵吴周徐孙马朱胡郭何林罗高郑梁谢宋唐许邓韩冯曹彭曾肖田董潘袁蔡蒋余于杜叶魏苏吕丁任沈姚卢姜崔钟谭陆"
    "汪范金石廖贾夏韦付方白邹孟熊秦邱江尹薛闫段雷侯龙史陶黎贺顾毛郝龚邵万钱严覃武戴莫孔汤庞樊殷施洪翟倪俞章鲁葛文温易常"
)
_SURNAME = f"(?:欧阳|司马|上官|诸葛|司徒|皇甫|[{_SURNAMES}])"
_GIVEN = r"(?:(?![的是和了位个们一这那有在不很都给让叫对跟与及或等老])[\u4e00-\u9fff])"
_TITLE = "(?:先生|女士|小姐|太太|师傅|经理(?![解想会财论由])|老师|医生|大夫|主任|阿姨|老板|教授|队长|律师)"
# Two characters, of which one is a surname, that aren't a name where a title follows: 基金经理, 许多女士.
_NOT_SURNAMES = frozenset(
    re.findall(
        "..",
        "基金资金现金黄金工程对方店方校方厂方双方卖方买方我方警方官方院方甲方乙方地方东方西方历史分钟羊毛其余业余由于对于关于"
        "至于等于属于过于为何如何任何白白明白一段阶段秘书恐龙树叶茶叶立马人马宝石钻石许多周围周边高贵何况马上于是方便金牌白领"
        "陈列谢谢感谢多谢答谢致谢黄色白色顾客万一江湖石油段位严重严格周末最高很高较高更高提高高级高档高端高中高兴高大主任责任信任前任语文中文"
        "英文作文容易交易贸易经常非常平常日常常常森林园林",
    )
)
_NOT_PEOPLE = frozenset({"Pepper", "Martens", "Marten", "Scholl", "Scholls", "Coffee", "Clean", "Seuss", "Potato"})


def _is_name(match: re.Match[str]) -> bool:
    before = match.string[max(0, match.start() - 1) : match.start() + 1]
    return before not in _NOT_SURNAMES and match["it"][:2] not in _NOT_SURNAMES


def _is_english_name(match: re.Match[str]) -> bool:
    return match["it"].split()[0] not in _NOT_PEOPLE


_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_ON_PLATES = "[A-HJ-NP-Za-hj-np-z0-9]"
_TOLL_FREE = "(?!800|888|877|866|855|844|833|400)"
_NUMBER_END = r"(?!\d|\.\d{1,2}(?!\d))"  # what goes on with cents is an amount

_RECOGNISERS = (
    _rule(
        "EMAIL", r"(?<!\w)\w{1,64}(?:[.%+-]{1,3}\w{1,64}){0,8}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}", sign="@"
    ),
    _rule("IBAN", r"(?<!\w)[A-Z]{2}\d\d(?: ?[A-Z0-9]{4}){2,7}(?:[A-Z0-9]{1,3}| \d{1,3})?(?!\w)", _is_iban),
    _rule(
        "ID",
        r"(?<!\d)[1-9]\d{5}(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}[\dXx](?![\dXx])",
        _is_identity_number,
    ),
    _rule("CARD", r"(?<!\d)(?<!\d[.-])[3-6]\d{3}(?:[ -]?\d{4}){3}(?:[ -]?\d{1,3})?(?![\d-])", _is_card),
    _rule(
        "PASSPORT",
        r"(?:护照|(?i:passport))(?i:号码?|编号|number|no|is|[\s:.#是为]){0,8}(?P<it>[A-Za-z]{1,2}\d{7,8}|\d{9})(?!\w)",
    ),
    _rule("SSN", r"(?<!\d)(?<!\d-)(?!000|666|9)\d{3}-(?!00)\d\d-(?!0000)\d{4}(?![\d-])"),
    _rule("IP", rf"(?<!\d)(?<!\d[.-]){_OCTET}(?:\.{_OCTET}){{3}}(?![\w-]|\.\d)", _is_address),
    # International, then Chinese mobile (also spelled: 一三八…), Chinese landline, British, American, after a keyword.
    _rule("PHONE", rf"(?<![\w+])(?:\+|00)[1-9](?:[ .()-]{{0,2}}\d){{8,14}}{_NUMBER_END}"),
    _rule(
        "PHONE",
        rf"(?<!\d)(?:86[ -]?|0)?1[3-9](?:[ -]?\d){{9}}{_NUMBER_END}",
        _is_free,
        sign="[0-9一幺]",
        spelled=True,
    ),
    _rule(
        "PHONE",
        r"(?<!\d)(?:\(0(?:10|2\d|[3-9]\d\d)\)|0(?:10|2\d|[3-9]\d\d|000))[ -]{0,3}"
        r"(?:[2-9]\d{2,3}[ -]?\d{4}|0{8})(?:-\d{1,5})?" + _NUMBER_END,
        _is_free,
    ),
    _rule(
        "PHONE",
        r"(?<!\d)(?:07\d{3} ?\d{3} ?\d{3}|(?:02\d|\(02\d\)) ?\d{4} ?\d{4}|01\d\d ?\d{3} ?\d{4}"
        r"|(?:01\d{3}|\(01\d{3}\)) ?\d{5,6})" + _NUMBER_END,
        _is_free,
    ),
    _rule(
        "PHONE",
        rf"(?<!\d)(?<!\d[.-])(?:\+?1[-. ]?)?(?:\({_TOLL_FREE}[2-9]\d\d\) ?|{_TOLL_FREE}[2-9]\d\d[-. ])"
        r"[2-9]\d\d[-. ]\d{4}" + _NUMBER_END,
        _is_free,
    ),
    _rule("PHONE", rf"(?:电话|手机|座机|联系方式|传真)(?:号码?|[\s:.是为]){{0,8}}(?P<it>[2-9]\d{{6,7}}){_NUMBER_END}"),
    _rule(
        "ACCOUNT",
        r"(?<![A-Za-z/])(?:微信|薇信|威信|v信|(?i:weixin|wechat|vx|wx))(?P<sign>(?i:号码?|账号|帐号|id|[\s:.#是为]){0,6})"
        r"(?P<it>[A-Za-z][A-Za-z0-9_-]{5,19}|[1-9]\d{5,11})(?!\w)",
        _is_account,
        sign="信|[Cc][Hh][Aa][Tt]|[Xx]",
    ),
    _rule(
        "ACCOUNT",
        r"(?<![A-Za-z])(?:(?i:qq)|扣扣)(?:群|号码?|账号|帐号|[\s:.#是为]){0,6}(?P<it>[1-9]\d{4,11})(?!\d)",
    ),
    _rule(
        "PLATE",
        r"[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼]"
        rf"[A-HJ-NP-Za-hj-np-z][· .]?(?=(?:[A-Za-z]{{0,2}}\d){{3}})"
        rf"(?:{_ON_PLATES}{{5,6}}|{_ON_PLATES}{{4}}[挂学警港澳])(?!\w|\.\d)",
    ),
    _rule(
        "NAME",
        rf"(?P<it>{_SURNAME}(?:{_GIVEN}{{1,2}}(?=先生|女士))?)(?={_TITLE})",
        _is_name,
        sign="[生士姐太傅理师夫任姨板授长]",
    ),
    _rule(
        "NAME",
        r"(?:姓名|联系人|投诉人|举报人|反映人|问政人|收货人|收件人)[\s:]{1,3}"
        rf"(?P<it>{_SURNAME}[\u4e00-\u9fff]{{1,2}})(?![\u4e00-\u9fff])",
        sign="[名人]",
    ),
    _rule(
        "NAME",
        r"(?<!\w)(?:Mr|Mrs|Ms|Mx|Dr|Prof)\.? (?P<it>(?:[DO]['’])?[A-Z][a-z]+(?:-?[A-Z][a-z]+)?(?: [A-Z][a-z]+)?)",
        _is_english_name,
        sign="[MDP]",
    ),
)

PLACEHOLDERS = tuple(sorted({f"[{recogniser.kind}]" for recogniser in _RECOGNISERS}))  # all that `mask` may write
